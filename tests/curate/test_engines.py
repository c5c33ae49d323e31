"""The same data from every engine, and from runs that were killed."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.chunk import STEPS
from edit_r1.curate.engine import Engine, Local
from edit_r1.curate.failures import OutageError
from edit_r1.curate.ray_engine import OnRay
from edit_r1.curate.run import curate
from edit_r1.store import read_json
from edit_r1.vlm.protocol import Completion

COUNT = 22
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scripted() -> Any:
    """The module under a name that other processes can import too."""
    path = str(HERE)
    if path not in sys.path:
        sys.path.insert(0, path)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
    return importlib.import_module("scripted")


@pytest.fixture(scope="module")
def expected(scripted: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("curation")
    curate(scripted.build(COUNT), out)
    summary: dict[str, Any] = read_json(out / "summary.json")
    assert summary["rows"]["selected"] > 20 and summary["failed"]["traces"]
    return summary


def made(scripted: Any, out: Path, engine: Engine) -> dict[str, Any]:
    seen: list[tuple[str, int, int]] = []
    curate(scripted.build(COUNT), out, lambda *call: seen.append(call), engine)
    chunks = -(-COUNT // 4)
    assert sorted(seen) == sorted((step, chunk, chunks) for step in STEPS for chunk in range(1, chunks + 1))
    summary: dict[str, Any] = read_json(out / "summary.json")
    return summary


def test_threads_and_processes_make_the_same_data(scripted: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    assert made(scripted, tmp_path / "threads", Local(chunks_at_once=3)) == expected
    build = partial(scripted.build, COUNT)
    assert made(scripted, tmp_path / "processes", Local(processes=2, build=build)) == expected


def test_a_process_says_why_it_cannot_begin(scripted: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build = partial(scripted.build_in, os.getpid(), COUNT)
    with pytest.raises(ValueError, match="^a process of the curation cannot begin: model: no such folder: check the"):
        curate(build(), tmp_path, None, Local(processes=2, build=build))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_makes_the_same_data_with_one_worker_and_with_two(
    scripted: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    build = partial(scripted.build, COUNT)
    for workers in (1, 2):
        assert made(scripted, tmp_path / f"ray-{workers}", OnRay(build, workers)) == expected


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_rays_workers_go_where_the_run_was_started_and_say_why_they_cannot_begin(
    scripted: Any, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a Ray that was started elsewhere, as on a cluster."""
    import ray

    def build() -> Any:
        if not Path("data").is_dir():
            raise ValueError("data: no such folder: check the path")
        return scripted.build(COUNT)

    def elsewhere() -> Any:
        if os.getpid() != here:
            raise ValueError("data: no such folder: check the path")
        return scripted.build(COUNT)

    here = os.getpid()
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        (tmp_path / "data").mkdir()
        monkeypatch.chdir(tmp_path)
        curate(build(), Path("out"), None, OnRay(build))
        assert read_json(tmp_path / "out" / "summary.json") == expected
        with pytest.raises(ValueError, match=r"a worker on .* cannot begin: data: no such folder: check") as told:
            curate(elsewhere(), Path("other"), None, OnRay(elsewhere))
        assert "\n" not in str(told.value)
    finally:
        ray.shutdown()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_chunks_that_rays_workers_left_without_a_reason_end_the_run(scripted: Any, tmp_path: Path) -> None:
    """A worker that failed may die before its word arrives; the others have seen its mark by then."""
    here = os.getpid()

    def build() -> Any:
        if os.getpid() != here:
            (tmp_path / ".work" / "stop").touch()
        return scripted.build(COUNT)

    with pytest.raises(ValueError, match="6 chunks were left, as a worker failed and died before it said why") as told:
        curate(build(), tmp_path, None, OnRay(build))
    assert "\n" not in str(told.value)


def test_an_outage_ends_the_other_chunks_too(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: Any, requests: Any, sampling: Any, n: int = 1) -> list[list[Completion]]:
        return [[Completion("", 0, "error", "connection refused")] * n for _ in requests]

    monkeypatch.setattr(scripted.Model, "generate", silent)
    with pytest.raises(OutageError, match="decomposer: no answer"):
        curate(replace(scripted.build(40), chunk_size=10), tmp_path, None, Local(1, 3))


def test_a_process_killed_at_random_moments_ends_with_the_same_data_and_pays_little_twice(
    scripted: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    """SIGKILL to two processes at work; what is lost is at most the steps of the chunks that they were at."""
    out, calls = tmp_path / "killed", tmp_path / "calls"
    script = (
        "from functools import partial\nfrom pathlib import Path\nimport sys\nimport scripted\n"
        "from edit_r1.curate.engine import Local\nfrom edit_r1.curate.run import curate\n"
        "if __name__ == '__main__':\n"
        f"    build = partial(scripted.build, {COUNT}, 0.02)\n"
        "    curate(build(), Path(sys.argv[1]), None, Local(2, build=build))\n"
    )
    file = tmp_path / "run.py"
    file.write_text(script)
    environment = {**os.environ, "SCRIPTED_CALLS": str(calls)}
    rng, kills, seen = random.Random(0), 0, 0
    calls.touch()
    for _ in range(8):
        process = subprocess.Popen([sys.executable, str(file), str(out)], env=environment, start_new_session=True)
        seen = len(calls.read_text().splitlines()) + rng.randint(2, 6)
        while process.poll() is None and len(calls.read_text().splitlines()) < seen:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run([sys.executable, str(file), str(out)], env=environment, check=True)
    assert kills >= 3
    assert read_json(out / "summary.json") == expected
    asked = sum(int(line.split()[1]) for line in calls.read_text().splitlines() if line.startswith("j1 "))
    assert asked <= expected["rows"]["candidates"] + kills * 2 * 8  # two chunks of eight candidates


def test_engines_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="processes=0"):
        Local(0)
    with pytest.raises(ValueError, match="needs? `build`"):
        Local(2)
    with pytest.raises(ValueError, match="set one of them"):
        Local(2, 2, build=lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="workers=0"):
        OnRay(lambda: None, 0)  # type: ignore[arg-type, return-value]
