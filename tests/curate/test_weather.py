"""A whole curation over an endpoint that misbehaves in 30 % of its requests: rows, money, kills and a budget."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.chunk import TABLES
from edit_r1.curate.engine import Local
from edit_r1.curate.retry import turned
from edit_r1.curate.run import curate, read_failures
from edit_r1.curate.status import read_status
from edit_r1.editors.http import HttpEditor, HttpEditorSettings
from edit_r1.records import Unparsed, Verdict
from edit_r1.report.terminal import status_table
from edit_r1.store import read_dataset, read_json
from edit_r1.store.journal import read_journal
from edit_r1.verifier.traces import write_gold, write_principles, write_trace
from edit_r1.vlm.budget import Budget, BudgetError

COUNT = 10
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def modules() -> Any:
    """(weather_server, served), under names that other processes can import too."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    sys.path[:0] = [one for one in folders if one not in sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*folders, os.environ.get("PYTHONPATH"))))
    return importlib.import_module("weather_server"), importlib.import_module("served")


@pytest.fixture
def start(modules: Any) -> Iterator[Start]:
    """A server in the given weather."""
    servers: list[Any] = []

    def begin(**weather: Any) -> Any:
        server, _ = modules
        servers.append(server.WeatherServer(server.Weather(**weather)).start())
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def fair(modules: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fair weather makes."""
    server, served = modules
    running = server.WeatherServer(server.Weather()).start()
    out = tmp_path_factory.mktemp("fair")
    curate(served.build(running.url, COUNT), out, None, Local(chunks_at_once=2))
    running.stop()
    summary = read_json(out / "summary.json")
    assert not any(summary["failed"].values())
    assert len(running.books.billed) == len(set(running.books.billed)) == summary["spent"]["requests"]
    return out


@pytest.fixture
def storm(modules: Any) -> dict[str, Any]:
    return {"faults": modules[0].STORM, "stall_s": 3.5, "retry_after_s": 0.05}


def keyed(out: Path, step: str) -> dict[Any, Any]:
    key = {
        "contexts": lambda row: row.sample.id,
        "candidates": lambda row: row.id,
        "traces": lambda row: (row.candidate_id, row.index),
        "gold": lambda row: row.candidate_id,
    }[step]
    return {key(row): row for row in read_dataset(out, step, TABLES[step])}


def mend(out: Path, fair: Path, retry: Callable[[], object]) -> None:
    """Retries until nothing fails; there is then what fair weather makes, but where an answer came that could not be
    used: that is asked for by another seed."""
    unread: dict[str, set[Any]] = {step: set() for step in ("contexts", "gold", "traces")}
    for _ in range(12):
        failed = {step: read_failures(out, step) for step in TABLES}
        if not any(failed.values()):
            break
        for step in ("contexts", "gold"):
            unread[step] |= {failure.row for failure in failed[step] if not failure.failed_call}
        for key, row in keyed(out, "traces").items():
            if isinstance(row.outcome, Unparsed) and not row.outcome.failed_call:
                unread["traces"].add(key)
        retry()
    assert not any(read_json(out / "summary.json")["failed"].values())
    assert unread["traces"]
    for step, own in unread.items():
        right, made = keyed(fair, step), keyed(out, step)
        assert right.keys() == made.keys()
        assert {key for key in right if made[key] != right[key]} <= own
    assert keyed(fair, "candidates") == keyed(out, "candidates")


def test_every_row_is_right_or_failed_with_its_cause_and_a_retry_mends_it(
    modules: Any, start: Start, storm: dict[str, Any], fair: Path, tmp_path: Path
) -> None:
    _, served = modules
    server = start(**storm)
    stage = served.build(server.url, COUNT, retries=1)
    curate(stage, tmp_path, None, Local(chunks_at_once=2))
    for step in ("contexts", "candidates", "traces", "gold"):
        right, failures = keyed(fair, step), read_failures(tmp_path, step)
        failed = Counter(failure.row for failure in failures)
        assert all(failure.reason for failure in failures)
        rows = keyed(tmp_path, step)
        for key, row in rows.items():
            if step == "traces" and isinstance(row.outcome, Unparsed):
                assert failed[row.candidate_id] > 0
            else:
                assert row == right[key]
        if step in ("contexts", "gold"):
            above = {row.sample.id if step == "contexts" else row.candidate_id for row in rows.values()}
            given = set(keyed(tmp_path, "candidates")) if step == "gold" else {f"row-{n}" for n in range(COUNT)}
            assert above | failed.keys() == given and not above & failed.keys()
    reasons = " ".join(failure.reason for step in TABLES for failure in read_failures(tmp_path, step))
    assert "no answer came" in reasons and "verdicts" in reasons
    # In one run nothing is asked twice that was answered, and nothing is left of what was kept for a killed one.
    assert max(Counter(server.books.billed).values()) == 1
    assert not (tmp_path / ".work" / "kept").exists()
    spent = read_json(tmp_path / "summary.json")["spent"]
    assert spent["retries"] > 5 and spent["cost"] == pytest.approx(0.5 * len(server.books.billed))
    mend(tmp_path, fair, lambda: curate(stage, tmp_path, None, Local(chunks_at_once=2), retry=True))


def test_a_retry_pays_for_no_trace_that_was_read(
    modules: Any, kit: Any, fake_openai: Callable[..., Any], tmp_path: Path
) -> None:
    """Of a judge's two traces the second is prose at first: it alone is asked again, by another seed."""
    _, served = modules
    asked: Counter[tuple[str, int]] = Counter()
    mended, second = False, served.WARM.seed + 1

    def answer(body: dict[str, Any], number: int) -> str:
        asked[body["model"], body["seed"]] += 1
        if body["model"] == "decomposer":
            return str(write_principles(kit.PRINCIPLES, "full"))
        if body["model"] == "verifier":
            return str(write_gold([Verdict(1, "because")] * 3, kit.QUESTIONS))
        if body["seed"] == second and not mended:
            return "no idea"
        return str(write_trace(["seen"] * 3, [1, 0, body["seed"] % 2], 5.0, "both", "full", kit.QUESTIONS))

    stage = served.build(fake_openai(answer).url, 4)
    curate(stage, tmp_path / "retried")
    candidates = read_json(tmp_path / "retried" / "summary.json")["rows"]["candidates"]
    assert read_json(tmp_path / "retried" / "summary.json")["failed"]["traces"] == {
        "judge-1: no <score> tag": candidates
    }
    asked.clear()
    mended = True
    curate(stage, tmp_path / "retried", retry=True)
    assert {model: count for model, count in asked.items() if model[0] != "verifier"} == {
        ("judge-1", turned(served.WARM, 1).seed + 1): candidates
    }
    curate(stage, tmp_path / "whole")
    retried, whole = (read_json(tmp_path / name / "summary.json") for name in ("retried", "whole"))
    assert retried["hashes"] == whole["hashes"] and retried["agreement"] == whole["agreement"]


def kept_marks(out: Path) -> set[int]:
    return {
        line["usage"]["prompt_tokens"]
        for folder in (out / ".work" / "kept").glob("*/*")
        for line in read_journal(folder)
    }


def test_killed_at_random_moments_nothing_is_paid_again_that_was_stored(
    modules: Any, start: Start, storm: dict[str, Any], fair: Path, tmp_path: Path
) -> None:
    """SIGKILL after a seeded number of answers; what is in flight then is lost, and no more."""
    weather, served = modules
    server = start(**(storm | {"stall_s": 0.2}))
    command = [sys.executable, str(Path(served.__file__)), server.url, str(COUNT), str(tmp_path), "2"]
    rng, stored, marks_at_kill = random.Random(5), set(), []
    whole = len(read_dataset(fair, "traces", TABLES["traces"])) * 5 // 3  # about as many answers as there are
    for _ in range(3):
        until = len(server.books.billed) + rng.randint(5, whole // 4)
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and len(server.books.billed) < until:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stored |= kept_marks(tmp_path)
        marks_at_kill.append((len(server.books.billed), set(stored)))
    subprocess.run(command, check=True)
    billed = server.books.billed
    for place, known in marks_at_kill:
        again = [identity for identity in billed[place:] if weather.mark(identity) in known]
        assert not again
    # Paid twice is only what was on its way when a kill came: of at most so many requests.
    models = 4
    assert stored and len(billed) - len(set(billed)) <= len(marks_at_kill) * 2 * models * served.CONCURRENCY
    mend(tmp_path, fair, lambda: curate(served.build(server.url, COUNT), tmp_path, None, Local(), retry=True))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_budget_ends_a_run_and_a_higher_one_goes_on(
    modules: Any, start: Start, fair: Path, tmp_path: Path, processes: int
) -> None:
    _, served = modules
    server = start()
    bounds = [Budget(requests=20), Budget(money=25.0), Budget(requests=80)]

    def engine(build: Any) -> Local:
        return Local(chunks_at_once=2) if processes == 1 else Local(processes, build=build)

    for budget in bounds:
        build = partial(served.build, server.url, COUNT, budget=budget)
        with pytest.raises(BudgetError, match="everything is stored: run again with a higher --budget") as caught:
            curate(build(), tmp_path, None, engine(build))
        assert "\n" not in str(caught.value)
        spent = len(server.books.billed)
        bound = budget.requests or 50  # half a unit of money an answer
        late = 0 if processes == 1 else 3 * 4 * served.CONCURRENCY  # what other processes do not know of yet
        assert bound * 0.5 < spent <= bound + late
        status = read_status(tmp_path)
        assert status["spent"]["requests"] == spent and not status["finished"]
        assert status["spent"]["budget"] == {"money": budget.money, "requests": budget.requests, "tokens": None}
    curate(served.build(server.url, COUNT), tmp_path)
    assert read_json(tmp_path / "summary.json")["hashes"] == read_json(fair / "summary.json")["hashes"]
    assert len(server.books.billed) == len(set(server.books.billed))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_budget_ends_a_run_on_ray_when_every_worker_has_booked_what_it_paid(
    modules: Any, start: Start, fair: Path, tmp_path: Path
) -> None:
    from edit_r1.curate.ray_engine import OnRay

    _, served = modules
    server = start()
    build = partial(served.build, server.url, COUNT, budget=Budget(requests=20))
    with pytest.raises(BudgetError, match=r"the budget of 20 \(requests\) is spent"):
        curate(build(), tmp_path, None, OnRay(build, 2))
    # A chunk is 36 requests: one worker at least was in the middle of one.
    assert read_status(tmp_path)["spent"]["requests"] == len(server.books.billed) >= 20
    curate(served.build(server.url, COUNT), tmp_path, None, Local(chunks_at_once=2))
    assert len(server.books.billed) == len(set(server.books.billed))
    assert read_json(tmp_path / "summary.json")["hashes"] == read_json(fair / "summary.json")["hashes"]


def test_status_tells_money_and_what_the_whole_will_cost(modules: Any, start: Start, tmp_path: Path) -> None:
    from rich.console import Console

    _, served = modules
    server = start()

    class Stop(Exception):
        pass

    now: list[Any] = []

    def stop(step: str, done: int, of: int) -> None:
        if (step, done) == ("selected", 1):
            now.append(read_status(tmp_path))
            raise Stop

    stage = served.build(server.url, 12)
    with pytest.raises(Stop):
        curate(stage, tmp_path, stop)
    status = read_status(tmp_path)
    spent = status["spent"]
    assert set(spent["models"]) == {"decomposer", "judge-1", "judge-2", "verifier"}
    assert spent["models"]["judge-1"]["requests"] == 16 and spent["models"]["judge-1"]["concurrency"] is None
    assert now[0]["at_work"] and now[0]["spent"]["models"]["judge-1"]["concurrency"] >= 1 and not status["at_work"]
    assert spent["cost"] == pytest.approx(0.5 * len(server.books.billed)) == pytest.approx(0.5 * (4 + 8 * 4))
    assert spent["whole_cost"] == pytest.approx(3 * spent["cost"])
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_table(status))
    shown = console.export_text()
    assert "judge-2" in shown and "18.00 spent, about 54.00 for the whole" in shown
    assert json.loads(json.dumps(status)) == status
    curate(stage, tmp_path)
    assert read_status(tmp_path)["spent"]["cost"] == pytest.approx(54.0)
    assert read_json(tmp_path / "summary.json")["spent"]["cost"] == pytest.approx(54.0)


def test_a_budget_in_money_needs_prices(modules: Any, tmp_path: Path) -> None:
    _, served = modules
    stage = served.build("http://127.0.0.1:9/v1", 2, budget=Budget(money=1.0))
    free = served.OpenAIVLM("http://127.0.0.1:9/v1", "verifier")
    with pytest.raises(ValueError, match="verifier tells no price"):
        curate(replace(stage, verifier=free), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_one_line_and_goes_on(
    modules: Any, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edit_r1.cli import main

    server, out = start(), tmp_path / "out"
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"import served\n\ndef small():\n    return served.build({server.url!r}, 2)\n")
    command = ["curate", "run", f"{recipe}:small", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--budget", "3"])
    assert ended.value.code == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the budget of 3 (money) is spent: 6 requests" in told and "3 of money so far" in told
    assert told.endswith("higher --budget to go on")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--budget", "100"])
    assert ended.value.code == 0 and len(server.books.billed) == 18
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["curate", "status", str(out), "--json"])
    told_json = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and told_json["spent"]["cost"] == told_json["spent"]["whole_cost"] == 9.0
    assert told_json["spent"]["budget"] == {"money": 100.0, "requests": None, "tokens": None}


@pytest.mark.parametrize("requests", [30, 35])  # 35: an answer is kept of a sample that the first chunk then lacks
def test_answers_of_a_killed_run_are_found_in_another_cut_into_chunks(
    modules: Any, start: Start, fair: Path, tmp_path: Path, requests: int
) -> None:
    _, served = modules
    server = start()
    with pytest.raises(BudgetError):
        curate(served.build(server.url, COUNT, budget=Budget(requests=requests)), tmp_path)
    assert (tmp_path / ".work" / "kept").exists()
    curate(served.build(server.url, COUNT, chunk_size=3), tmp_path)
    assert len(server.books.billed) == len(set(server.books.billed))
    assert read_json(tmp_path / "summary.json")["hashes"] == read_json(fair / "summary.json")["hashes"]
    assert not (tmp_path / ".work" / "kept").exists()


def test_answers_are_found_again_after_two_other_cuts_into_chunks(
    modules: Any, start: Start, fair: Path, tmp_path: Path
) -> None:
    _, served = modules
    server = start()
    for changes in ({"budget": Budget(requests=35)}, {"budget": Budget(requests=36), "chunk_size": 3}):
        with pytest.raises(BudgetError):
            curate(served.build(server.url, COUNT, **changes), tmp_path)
    curate(served.build(server.url, COUNT, chunk_size=1), tmp_path)
    assert len(server.books.billed) == len(set(server.books.billed))
    assert read_json(tmp_path / "summary.json")["hashes"] == read_json(fair / "summary.json")["hashes"]


def test_a_served_editor_in_bad_weather(modules: Any, start: Start, storm: dict[str, Any], tmp_path: Path) -> None:
    """Its pictures are those of fair weather or failures, each is paid once, and a retry mends what failed."""
    _, served = modules

    def stage(url: str) -> Any:
        settings = HttpEditorSettings(price=0.25, attempts=2, pause_s=0.02, timeout_s=3.0)
        return served.build(url, COUNT, editors=(HttpEditor(url, settings, "painter"),), candidates_per_context=1)

    faults = {name: share for name, share in storm["faults"].items() if name != "length"}  # paid for, and too short
    fair, server = start(), start(**storm | {"faults": faults, "seed": 16})
    curate(stage(fair.url), tmp_path / "fair")
    storming = stage(server.url)
    curate(storming, tmp_path / "storm", None, Local(chunks_at_once=2))
    right = {row.sample_id: row for row in read_dataset(tmp_path / "fair", "candidates", TABLES["candidates"])}
    made = {row.sample_id: row for row in read_dataset(tmp_path / "storm", "candidates", TABLES["candidates"])}
    failures = read_failures(tmp_path / "storm", "candidates")
    assert failures and all(one.model == "painter" and one.reason and one.failed_call for one in failures)
    assert made.items() <= right.items() and made.keys() | {one.row for one in failures} == right.keys()
    told = read_json(tmp_path / "storm" / "summary.json")["spent"]["models"]["painter"]
    assert told["retries"] > 0 and told["cost"] == 0.25 * len(made) == 0.25 * server.books.models["editor"]
    for _ in range(12):
        if not any(read_json(tmp_path / "storm" / "summary.json")["failed"].values()):
            break
        curate(storming, tmp_path / "storm", None, Local(chunks_at_once=2), retry=True)
    hashes = [read_json(tmp_path / name / "summary.json")["hashes"] for name in ("fair", "storm")]
    assert hashes[0] == hashes[1] and max(Counter(server.books.billed).values()) == 1


def test_settings_are_part_of_what_a_row_is_made_from(modules: Any, start: Start, tmp_path: Path) -> None:
    """Changed, they make anew what depends on them; as they were, everything is found."""
    _, served = modules
    server = start()

    def billed(size: str | None = None, **extra: Any) -> dict[str, int]:
        editor = HttpEditor(server.url, HttpEditorSettings(size=size), "painter")
        judge = served.OpenAIVLM(server.url, "judge-1", extra=extra)
        pool = (served.PoolMember(judge, 2, served.WARM),)
        before = Counter(server.books.models)
        curate(served.build(server.url, 4, editors=(editor,), candidates_per_context=1, pool=pool), tmp_path)
        return dict(Counter(server.books.models) - before)

    assert billed() == {"decomposer": 4, "editor": 4, "judge-1": 8, "verifier": 4}
    assert billed() == {}
    assert billed(min_p=0.1) == {"judge-1": 8}  # its traces say the same, so that gold is found
    assert billed("64x64", min_p=0.1) == {"editor": 4, "judge-1": 8, "verifier": 4}
    assert billed() == {}


def test_judges_of_a_chunk_are_asked_at_one_time(modules: Any, start: Start, tmp_path: Path) -> None:
    """Else each would wait for the slowest answer to the one before it."""
    _, served = modules
    server = start(latency_s=0.1)
    curate(served.build(server.url, 4), tmp_path)
    by = [name for name in server.books.by if name.startswith("judge")]
    assert by.count("judge-1") == 16 and by.count("judge-2") == 8
    assert by.index("judge-2") < len(by) - 1 - by[::-1].index("judge-1")


def test_judges_of_one_model_with_other_settings_are_two(modules: Any, start: Start, tmp_path: Path) -> None:
    _, served = modules
    server = start()
    judges = [served.OpenAIVLM(server.url, "judge-1", extra=extra) for extra in ({}, {"min_p": 0.1})]
    pool = tuple(served.PoolMember(judge, 1, served.WARM) for judge in judges)
    curate(served.build(server.url, 2, pool=pool), tmp_path)
    assert server.books.models["judge-1"] == 8
    with pytest.raises(ValueError, match="ask judge-1 in the same way"):
        served.build(server.url, 2, pool=(pool[0], pool[0]))


def test_an_interrupt_ends_the_asking_of_other_threads(modules: Any, start: Start, tmp_path: Path) -> None:
    """Of three chunks the smallest is done first: what the others would still ask for is not paid for."""
    _, served = modules
    server = start(latency_s=0.05)
    stage = served.build(server.url, 36, chunk_size=16)
    before: list[int] = []

    def interrupt(step: str, done: int, of: int) -> None:
        before.append(len(server.books.billed))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(stage, tmp_path, interrupt, Local(chunks_at_once=3))
    assert len(server.books.billed) - before[0] <= 2 * served.CONCURRENCY  # of two chunks, what was in flight
    assert len(server.books.billed) < 36 * 9 - 2 * served.CONCURRENCY
    curate(served.build(server.url, 36, chunk_size=16), tmp_path, None, Local(chunks_at_once=3))
    summary = read_json(tmp_path / "summary.json")
    assert not any(summary["failed"].values()) and summary["rows"]["selected"] == 72
