"""A team's rows as samples: checked, drawn, filtered; found again, and never paid for twice."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.curate.failures import Failure, OutageError
from edit_r1.curate.intake import facts
from edit_r1.curate.intake.checks import IntakeChecks
from edit_r1.curate.intake.draw import Draw
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.open import open_rows, team_samples
from edit_r1.curate.intake.rows import Columns
from edit_r1.curate.intake.source import TeamSamples
from edit_r1.curate.pick import FILTER_SAMPLING
from edit_r1.curate.retry import TRIES
from edit_r1.curate.shards import unit_key
from edit_r1.curate.stage import Prepared
from edit_r1.curate.tables import PICKS
from edit_r1.images import decode_rgb
from edit_r1.records import Sample
from edit_r1.store import Dataset, read_dataset, read_json, write_json, write_rows
from edit_r1.verifier.hard_filter import FILTER_VERSION
from edit_r1.vlm.budget import Budget, BudgetError, Ledger, read_spent
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.protocol import Completion, Request


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


def all_rows(source: TeamSamples) -> list[Sample | Failure]:
    return list(source.rows(0, len(source)))


def split(source: TeamSamples) -> tuple[list[Sample], list[Failure]]:
    found = all_rows(source)
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Failure)]


def test_every_row_is_a_sample_or_a_failure_with_its_cause(folder: Path, data_kit: Any, tmp_path: Path) -> None:
    pictures = folder / "pictures"
    pixels = decode_rgb((pictures / "0.jpg").read_bytes())
    (pictures / "copy.png").write_bytes(data_kit.encoded(pixels, "PNG"))
    (pictures / "near.jpg").write_bytes(data_kit.encoded(pixels, "JPEG", quality=40))
    (pictures / "small.png").write_bytes(data_kit.photograph(1, (40, 90), "PNG"))
    (pictures / "flat.png").write_bytes(data_kit.encoded(np.zeros((30, 200, 3), np.uint8), "PNG"))
    (pictures / "torn.jpg").write_bytes((pictures / "1.jpg").read_bytes()[:300])
    rows = [
        {"source": "pictures/0.jpg", "instruction": "Make thing 0 blue.", "licence": "MIT"},
        {"source": "pictures/copy.png", "instruction": "make thing 0 blue"},  # the same pixels and words
        {"source": "pictures/near.jpg", "instruction": "Make thing 0 blue!"},  # encoded anew
        {"source": "pictures/near.jpg", "instruction": "Remove it."},
        {"source": "pictures/small.png", "instruction": "Make it red."},
        {"source": "pictures/flat.png", "instruction": "Make it red."},
        {"source": "pictures/torn.jpg", "instruction": "Make it red."},
        {"source": "pictures/2.jpg", "instruction": " "},
        {"source": "pictures/2.jpg", "instruction": "Entferne die Katze."},
        {"source": "../rows.jsonl", "instruction": "Steal."},
        {"source": ["pictures/2.jpg", "pictures/3.jpg"], "instruction": "Swap them.", "id": "swap", "category": "x"},
        {"source": "pictures/4.jpg", "instruction": "Blur it.", "id": "swap"},
    ]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    source = team_samples(folder, "CC0-1.0", checks=IntakeChecks(languages=("en",), min_side=48, max_aspect=3))
    source.prepare(tmp_path / "out")
    samples, failures = split(source)
    assert [sample.instruction for sample in samples] == ["Make thing 0 blue.", "Remove it.", "Swap them."]
    assert [(s.id, s.licence, s.category) for s in samples[2:]] == [("swap", "CC0-1.0", "x")]
    assert samples[0].licence == "MIT" and samples[0].origin == "rows.jsonl:1"
    assert len(samples[2].references) == 1
    assert [(one.row, one.model, one.step) for one in failures] == [
        ("rows.jsonl:2", "copy", "samples"),
        ("rows.jsonl:3", "copy", "samples"),
        ("rows.jsonl:5", "source image", "samples"),
        ("rows.jsonl:6", "source image", "samples"),
        ("rows.jsonl:7", "source image", "samples"),
        ("rows.jsonl:8", "instruction", "samples"),
        ("rows.jsonl:9", "instruction", "samples"),
        ("rows.jsonl:10", "source image", "samples"),
        ("rows.jsonl:12", "copy", "samples"),
    ]
    told = read_json(tmp_path / "out" / "intake.json")
    assert (told["rows"], told["samples"], sum(told["failed"].values())) == (12, 3, 9)
    assert told["licences"] == {"CC0-1.0": 2, "MIT": 1}
    assert told["failed"]["copy: asks what an earlier row asks of the same picture"] == 2


def test_ids_are_of_content_and_stay_when_rows_move(folder: Path, data_kit: Any, tmp_path: Path) -> None:
    first = team_samples(folder)
    first.prepare(tmp_path / "a")
    ids = {one.id for one in split(first)[0]}
    lines = (folder / "rows.jsonl").read_text().split("\n")
    (folder / "rows.jsonl").write_text("\n".join(lines[::-1]))
    second = team_samples(folder)
    second.prepare(tmp_path / "b")
    assert {one.id for one in split(second)[0]} == ids and len(ids) == 7
    assert first.fingerprint != second.fingerprint


def test_what_was_seen_is_kept_and_another_limit_decodes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    real = facts.decode_rgb
    monkeypatch.setattr(facts, "decode_rgb", lambda data: decoded.append(data) or real(data))
    told: list[tuple[int, int]] = []
    first = team_samples(folder)
    first.prepare(tmp_path, tell=lambda done, total: told.append((done, total)))
    assert len(decoded) == 6 and told[-1] == (7, 7)  # the seventh row is of the first one's picture
    for checks in (None, IntakeChecks(most_per_picture=1), IntakeChecks(min_side=70)):
        again = team_samples(folder, checks=checks)
        again.prepare(tmp_path)
        again.prepare(tmp_path)
    assert len(decoded) == 6
    one_each = team_samples(folder, checks=IntakeChecks(most_per_picture=1))
    one_each.prepare(tmp_path)
    assert len(split(one_each)[0]) == 6 and split(one_each)[1][0].reason == "is of a picture that has 1 rows already"
    with pytest.raises(ValueError, match="no row of the data became a sample .the first: source image, smaller"):
        team_samples(folder, checks=IntakeChecks(min_side=80)).prepare(tmp_path)


def test_rows_of_one_picture_that_are_looked_at_together_decode_it_once(
    folder: Path, data_kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"source": "pictures/0.jpg", "instruction": f"Do {n} things."} for n in range(6)]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    decoded = []
    real = facts.decode_rgb

    def slow(data: bytes) -> Any:
        decoded.append(data)
        time.sleep(0.05)
        return real(data)

    monkeypatch.setattr(facts, "decode_rgb", slow)
    monkeypatch.setattr(facts, "cores", lambda: 4)
    team_samples(folder).prepare(tmp_path)
    assert len(decoded) == 1


def test_a_stopped_pass_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "BLOCK", 2)
    decoded = []
    real = facts.decode_rgb
    monkeypatch.setattr(facts, "decode_rgb", lambda data: decoded.append(data) or real(data))

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        team_samples(folder).prepare(tmp_path, tell=kill)
    before = len(decoded)
    assert before == 6
    source = team_samples(folder)
    source.prepare(tmp_path)
    assert len(decoded) == 7 and len(source) == 7


def test_a_picture_that_changed_since_is_told_and_a_retry_looks_at_it_anew(
    folder: Path, data_kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = team_samples(folder)
    source.prepare(tmp_path)
    (folder / "pictures" / "3.jpg").write_bytes(data_kit.photograph(99))
    (folder / "pictures" / "4.jpg").unlink()
    failures = split(source)[1]
    assert [(one.row, one.model) for one in failures] == [
        (next(iter(source.rows(3, 4))).row, "row"),  # type: ignore[union-attr]
        (next(iter(source.rows(4, 5))).row, "source image"),  # type: ignore[union-attr]
    ]
    assert "changed since" in failures[0].reason and "no such file" in failures[1].reason

    decoded: list[bytes] = []
    monkeypatch.setattr(facts, "decode_rgb", lambda data: decoded.append(data) or decode_rgb(data))
    for retry, left in ((False, 2), (True, 1), (False, 1)):
        again = team_samples(folder)
        again.prepare(tmp_path, retry)
        assert len(split(again)[1]) == left
    assert decoded == [(folder / "pictures" / "3.jpg").read_bytes()]
    [row] = again.rows(3, 4)
    assert isinstance(row, Sample) and row.source == decoded[0]


def test_a_mended_row_is_taken_in_by_retry(folder: Path, data_kit: Any, tmp_path: Path) -> None:
    (folder / "pictures" / "3.jpg").unlink()
    source = team_samples(folder)
    source.prepare(tmp_path)
    assert len(split(source)[1]) == 1
    (folder / "pictures" / "3.jpg").write_bytes(data_kit.photograph(3))
    again = team_samples(folder)
    again.prepare(tmp_path)
    assert len(split(again)[1]) == 1
    retried = team_samples(folder)
    retried.prepare(tmp_path, retry=True)
    assert split(retried)[1] == []
    assert retried.fingerprint != again.fingerprint


def test_to_allow_paths_out_of_the_folder_looks_at_refused_rows_anew(
    folder: Path, data_kit: Any, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere.jpg").write_bytes(data_kit.photograph(50))
    rows = [
        {"source": "../elsewhere.jpg", "instruction": "Make it red."},
        {"source": "pictures/0.jpg", "instruction": "Do."},
    ]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    for allowed, expected in ((False, 1), (True, 2), (False, 1)):
        source = team_samples(folder, allow_outside=allowed)
        source.prepare(tmp_path / "out")
        assert len(split(source)[0]) == expected


def test_equal_shares_by_a_column(folder: Path, data_kit: Any, tmp_path: Path) -> None:
    rows = [
        {
            "source": f"pictures/{n % 6}.jpg",
            "instruction": f"Do {n} things.",
            "kind": "rare" if n % 10 == 0 else "often",
        }
        for n in range(40)
    ]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    source = team_samples(folder, columns=Columns(category="kind"), draw=Draw(12, seed=2, equal_shares=True))
    source.prepare(tmp_path)
    assert Counter(sample.category for sample in split(source)[0]) == {"often": 8, "rare": 4}
    told = read_json(tmp_path / "intake.json")
    assert (told["looked_at"], told["not_drawn"], told["wanted"]) == (12, 28, 12)


# --- the Hard subset


def said(hard: bool, category: str) -> str:
    return json.dumps({"reason": f"It is {category}.", "hard": hard, "category": category})


def judge(kit: Any, name: str = "filter", broken: bool = False) -> Any:
    """Even numbers are hard; 4 gets no decision, 6 no answer while broken."""

    def answer(request: Request, draw: int) -> str | Completion:
        number = int(request.text.split("Do ")[1].split(" ")[0])
        if broken and number == 4:
            return "I would rather not say."
        if broken and number == 6:
            return Completion("", 0, "error", "refused")
        return said(number % 2 == 0, "subject addition" if number % 4 == 0 else "text modification")

    return kit.VLM(name, answer)


@pytest.fixture
def many(folder: Path, data_kit: Any) -> Path:
    rows = [{"source": f"pictures/{n % 6}.jpg", "instruction": f"Do {n} things."} for n in range(30)]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    return folder


def test_hard_keeps_what_the_filter_keeps_and_every_reason(many: Path, kit: Any, tmp_path: Path) -> None:
    vlm = judge(kit)
    source = team_samples(many, hard=HardFilter(vlm, at_once=7))
    source.prepare(tmp_path)
    samples, failures = split(source)
    assert [int(sample.instruction.split()[1]) for sample in samples] == list(range(0, 30, 2)) and not failures
    assert {(sample.subset, sample.category) for sample in samples} == {
        ("hard", "subject addition"),
        ("hard", "text modification"),
    }
    picks = read_dataset(tmp_path, "picks", PICKS)
    assert len(picks) == 30 == len(vlm.calls)
    assert {(pick.hard, pick.reason) for pick in picks if pick.instruction in ("Do 4 things.", "Do 5 things.")} == {
        (True, "It is subject addition."),
        (False, "It is text modification."),
    }
    assert all(pick.origin.startswith("rows.jsonl:") and pick.model == "filter" for pick in picks)
    told = read_json(tmp_path / "intake.json")
    assert (told["asked"], told["simple"], told["subsets"]) == (30, 15, {"hard": 15})
    again = team_samples(many, hard=HardFilter(vlm, keep="all"), draw=Draw(most_per_category=4))
    again.prepare(tmp_path)
    assert len(vlm.calls) == 30  # nothing is paid for twice
    samples, _ = split(again)
    assert Counter(sample.category for sample in samples) == {"subject addition": 4, "text modification": 4}
    assert {sample.subset for sample in samples} == {"hard", "random"}


def test_hard_asks_for_no_more_than_it_needs(many: Path, kit: Any, tmp_path: Path) -> None:
    vlm = judge(kit)
    source = team_samples(many, draw=Draw(4, seed=1), hard=HardFilter(vlm))
    source.prepare(tmp_path)
    assert len(split(source)[0]) == 4
    assert 4 <= len(vlm.calls) < 30
    capped = judge(kit, "other")
    bounded = team_samples(many, draw=Draw(15), hard=HardFilter(capped, most_asked=9))
    bounded.prepare(tmp_path)
    assert len(capped.calls) == 9
    assert len(split(bounded)[0]) == read_json(tmp_path / "intake.json")["samples"] < 9


def test_what_a_bounded_filter_is_asked_is_the_beginning_of_the_draw(many: Path, kit: Any, tmp_path: Path) -> None:
    source = team_samples(many, draw=Draw(20, seed=3), hard=HardFilter(judge(kit), keep="all", most_asked=6))
    source.prepare(tmp_path / "asked")
    drawn = team_samples(many, draw=Draw(6, seed=3))
    drawn.prepare(tmp_path / "drawn")
    assert set(source.ids()) == set(drawn.ids())


def test_no_decision_is_a_failure_and_is_asked_again_by_retry_alone(many: Path, kit: Any, tmp_path: Path) -> None:
    source = team_samples(many, hard=HardFilter(judge(kit, broken=True)))
    source.prepare(tmp_path)
    failures = split(source)[1]
    assert [(one.row, one.step, one.failed_call) for one in failures] == [
        ("rows.jsonl:5", "pick", False),
        ("rows.jsonl:7", "pick", True),
    ]
    assert "no JSON object" in failures[0].reason and "refused" in failures[1].reason
    assert len(read_dataset(tmp_path, "picks", PICKS)) == 29  # a call that failed decided nothing
    mended = judge(kit)
    team_samples(many, hard=HardFilter(mended)).prepare(tmp_path)
    assert not mended.calls
    retried = team_samples(many, hard=HardFilter(mended))
    retried.prepare(tmp_path, retry=True)
    assert len(mended.calls) == 2 and split(retried)[1] == [] and len(split(retried)[0]) == 15
    picks = read_dataset(tmp_path, "picks", PICKS)
    assert len(picks) == 30 == len({pick.key for pick in picks}) and all(pick.hard is not None for pick in picks)


def test_each_retry_asks_the_filter_by_other_seeds(many: Path, kit: Any, tmp_path: Path) -> None:
    seeds: set[int] = set()
    for turn in range(4):
        asked = judge(kit, broken=True)
        team_samples(many, hard=HardFilter(asked)).prepare(tmp_path, retry=turn > 0)
        undecided = [sampling.seed for request, sampling in asked.calls if "Do 4 " in request.text]
        assert len(undecided) == TRIES and seeds.isdisjoint(undecided)
        seeds |= set(undecided)


def test_refusals_of_a_filter_that_decided_on_others_are_of_their_rows(many: Path, kit: Any, tmp_path: Path) -> None:
    source = team_samples(many, draw=Draw(5), hard=HardFilter(judge(kit), keep="all"))
    source.prepare(tmp_path)
    for reason in ("http://127.0.0.1:9: ConnectError: refused", "http://127.0.0.1:9: 400 Bad Request: rejected"):
        refusing = kit.VLM("filter", lambda request, draw, reason=reason: Completion("", 0, "error", reason))
        grown = team_samples(many, hard=HardFilter(refusing, keep="all"))
        if "400" not in reason:
            with pytest.raises(OutageError, match="filter: no answer to any of"):
                grown.prepare(tmp_path)
            continue
        grown.prepare(tmp_path)
        taken, failures = split(grown)
        assert len(taken) == 5 and len(failures) == 25 and all(one.failed_call for one in failures)


@pytest.mark.parametrize("again", [True, False])
def test_a_retry_that_was_killed_between_its_writes_leaves_every_decision_once(
    many: Path, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    def source(broken: bool = False, count: int = 0) -> TeamSamples:
        return team_samples(many, draw=Draw(count), hard=HardFilter(judge(kit, broken=broken)))

    def killed(path: Path, rows: Any, features: Any) -> None:
        if path.name == "000000.parquet":  # where the older decisions are taken out
            raise KeyboardInterrupt
        write_rows(path, rows, features)

    source(broken=True).prepare(tmp_path)
    with monkeypatch.context() as kill:
        kill.setattr("edit_r1.curate.intake.hard.write_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            source().prepare(tmp_path, retry=True)
    after = source() if again else source(count=30)  # the same retried once more, or another draw
    after.prepare(tmp_path, retry=again)
    assert isinstance(after.hard, HardFilter) and len(after.hard.judge.calls) == 0  # type: ignore[attr-defined]
    picks = read_dataset(tmp_path, "picks", PICKS)
    assert len(picks) == 30 == len({pick.key for pick in picks}) and all(pick.hard is not None for pick in picks)
    assert Dataset(tmp_path, "picks", PICKS).meta()["failed"] == {} and len(split(after)[0]) == 15


def test_a_filter_of_other_weights_under_its_name_is_another(many: Path, kit: Any, tmp_path: Path) -> None:
    """An output keeps to the weights that it was begun with; those of an earlier version are today's, or the run's."""

    def passed(out: Path, weights: str) -> tuple[int, int]:
        vlm = judge(kit)
        vlm.weights_key = weights
        source = team_samples(many, hard=HardFilter(vlm))
        source.prepare(out)
        return len(vlm.calls), len(split(source)[0])

    assert HardFilter(judge(kit)).key == unit_key("filter", FILTER_VERSION, asdict(FILTER_SAMPLING))  # as it always was
    passed(tmp_path / "old", "")  # an earlier version knew nothing of weights
    for weights, asked in (("one", 0), ("two", 30), ("two", 0), ("one", 0), ("three", 30), ("", 0)):
        assert passed(tmp_path / "old", weights) == (asked, 15)
    passed(tmp_path / "run", "")
    write_json(tmp_path / "run" / ".work" / "run.json", {"weights": {"model filter": "one"}})
    assert [passed(tmp_path / "run", weights)[0] for weights in ("two", "one")] == [30, 0]


def test_an_outage_ends_the_pass_and_keeps_what_was_paid_for(many: Path, kit: Any, tmp_path: Path) -> None:
    calls = []

    def answer(request: Request, draw: int) -> str | Completion:
        calls.append(1)
        return said(True, "other") if len(calls) <= 10 else Completion("", 0, "error", "refused")

    with pytest.raises(OutageError, match="filter: no answer to any of 10 calls"):
        team_samples(many, hard=HardFilter(kit.VLM("filter", answer), at_once=10)).prepare(tmp_path)
    mended = judge(kit)
    source = team_samples(many, hard=HardFilter(mended, at_once=10))
    source.prepare(tmp_path)
    assert len(mended.calls) == 20


def test_a_budget_ends_the_pass_and_nothing_is_paid_for_twice(
    many: Path, fake_openai: Callable[..., Any], tmp_path: Path
) -> None:
    def answer(body: dict[str, Any], number: int) -> str:
        text = body["messages"][-1]["content"][-1]["text"]
        return said(int(text.split("Do ")[1].split(" ")[0]) % 2 == 0, "other")

    server = fake_openai(answer)
    source = team_samples(many, hard=HardFilter(OpenAIVLM(server.url, "filter", concurrency=2)))
    assert isinstance(source, Prepared)
    with pytest.raises(BudgetError, match="budget of 10"):
        source.prepare(tmp_path, ledger=Ledger(tmp_path / ".work" / "spent", Budget(requests=10)))
    assert len(server.bodies) == 10
    again = team_samples(many, hard=HardFilter(OpenAIVLM(server.url, "filter", concurrency=2)))
    again.prepare(tmp_path, ledger=Ledger(tmp_path / ".work" / "spent", Budget(requests=30)))
    assert len(server.bodies) == 30 and len(split(again)[0]) == 15
    assert read_spent(tmp_path / ".work" / "spent")["filter"].usage.requests == 30
    assert not list((tmp_path / ".work" / "kept").glob("*"))


def test_the_reader_is_chosen_by_what_lies_there(folder: Path, tmp_path: Path, data_kit: Any) -> None:
    assert type(open_rows(folder)).__name__ == "JsonlRows"
    data_kit.write_tar(tmp_path / "shards" / "0.tar", {"a.jpg": b"x", "a.txt": b"y"})
    for name in ("._rows.jsonl", "._0.tar", "._a.parquet"):  # what macOS leaves beside files of other names
        (tmp_path / "shards" / name).write_bytes(b"\0\5\x16\7")
        (folder / name).write_bytes(b"\0\5\x16\7")
    reader = open_rows(tmp_path / "shards")
    assert type(reader).__name__ == "WebDatasetRows" and len(reader) == 1
    assert len(open_rows(folder)) == 7
    for name, message in (("none", "no such file or folder"), ("a/b", "nor a dataset on the hub")):
        with pytest.raises(ValueError, match=message):
            open_rows(name)


def test_a_file_of_another_kind_is_never_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("source,instruction\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edit_r1.curate.intake.open.HubRows", lambda *_, **__: pytest.fail("the hub is asked"))
    for name in ("data/rows.csv", str(tmp_path / "data" / "rows.csv")):
        with pytest.raises(ValueError, match=r"rows.csv: is no .jsonl, .parquet or .tar"):
            open_rows(name)


def test_batches_of_a_paid_filter_do_not_wait_for_each_other(many: Path, fake_openai: Any, tmp_path: Path) -> None:
    """Eight requests are answered when all eight are under way, which are two batches."""
    full = threading.Barrier(8)

    def answer(body: dict[str, Any], number: int) -> str:
        full.wait(20)
        return said(True, "other")

    server = fake_openai(answer)
    hard = HardFilter(OpenAIVLM(server.url, "filter", concurrency=8), at_once=4)
    assert (hard.batches, HardFilter(OpenAIVLM(server.url, "filter")).batches) == (8, 2)
    source = team_samples(many, draw=Draw(24, seed=0), hard=hard)
    source.prepare(tmp_path)
    assert len(source) == 24 == len(server.bodies) and server.most_in_flight == 8
    assert len(read_dataset(tmp_path, "picks", PICKS)) == 24
    assert not (tmp_path / ".work" / "kept").exists() or not list((tmp_path / ".work" / "kept").iterdir())


def test_answers_of_a_stopped_pass_are_found_by_other_batches(many: Path, fake_openai: Any, tmp_path: Path) -> None:
    server = fake_openai(lambda body, number: said(True, "other"))

    def source(at_once: int) -> TeamSamples:
        return team_samples(many, hard=HardFilter(OpenAIVLM(server.url, "filter", concurrency=2), at_once=at_once))

    with pytest.raises(BudgetError, match="the budget of 17"):
        source(5).prepare(tmp_path, ledger=Ledger(tmp_path / "spent", Budget(requests=17)))
    assert len(server.bodies) == 17
    whole = source(7)
    whole.prepare(tmp_path)
    assert len(server.bodies) == 30 == len({repr(body["messages"]) for body in server.bodies}) == len(whole)
