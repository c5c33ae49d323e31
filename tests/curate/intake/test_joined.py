"""Parts joined, and a team's data through the engines."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.chunk import STEPS
from edit_r1.curate.engine import Local
from edit_r1.curate.failures import Failure
from edit_r1.curate.intake.checks import IntakeChecks
from edit_r1.curate.intake.draw import Draw
from edit_r1.curate.intake.joined import JoinedSamples
from edit_r1.curate.intake.open import team_samples
from edit_r1.curate.intake.rows import Columns
from edit_r1.curate.run import curate
from edit_r1.curate.status import read_status
from edit_r1.records import Sample
from edit_r1.store import StoreError, read_json

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def scripted() -> Any:
    """The module under a name that other processes can import too."""
    path = str(HERE)
    if path not in sys.path:
        sys.path.insert(0, path)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
    return importlib.import_module("scripted")


def test_parts_follow_each_other_and_copies_are_told(folder: Path, data_kit: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    rows = [{"source": "x.jpg", "instruction": "Blur it.", "edits": ["x.jpg", "y.jpg"]}]
    data_kit.write_jsonl(other / "rows.jsonl", rows)
    for number, name in enumerate("xy"):
        (other / f"{name}.jpg").write_bytes(data_kit.photograph(70 + number))
    everything, some = team_samples(folder), team_samples(folder, draw=Draw(3, seed=0))
    joined = JoinedSamples([some, team_samples(other, columns=Columns(edits="edits")), everything])
    with pytest.raises(ValueError, match="not prepared"):
        next(joined.rows(0, 1))
    joined.prepare(tmp_path / "out")
    assert len(joined) == 3 + 1 + 7
    found = list(joined.rows(0, 99))
    samples = [one for one in found if isinstance(one, Sample)]
    failures = [one for one in found if isinstance(one, Failure)]
    assert len({sample.id for sample in samples}) == len(samples) == 8
    assert [one.reason for one in failures] == ["has the id of a row of an earlier part of the data"] * 3
    assert all(one.row.endswith(" (part 3)") for one in failures)
    assert [row for start in range(0, 11, 2) for row in joined.rows(start, start + 2)] == found
    told = read_json(tmp_path / "out" / "intake.json")
    assert [part["samples"] for part in told["parts"]] == [3, 1, 4]
    assert joined.ready_edits(samples[3]) == [data_kit.photograph(70), data_kit.photograph(71)]
    with pytest.raises(ValueError, match="none of this data"):
        joined.ready_edits(Sample("?", b"", "", ""))
    with pytest.raises(ValueError, match="at least one"):
        JoinedSamples([])


def test_a_later_part_draws_what_an_earlier_one_left(folder: Path, tmp_path: Path) -> None:
    def parts(first: int) -> JoinedSamples:
        return JoinedSamples(
            [team_samples(folder, draw=Draw(first, seed=0)), team_samples(folder, draw=Draw(3, seed=0))]
        )

    for first in (2, 3):
        joined = parts(first)
        joined.prepare(tmp_path)
        samples = [one.id for one in joined.rows(0, 99) if isinstance(one, Sample)]
        assert len(samples) == first + 3 == len(set(samples))
    again = parts(3)
    again.prepare(tmp_path)
    assert again.fingerprint == joined.fingerprint != parts(2).fingerprint


@pytest.mark.parametrize("seed", range(4))
def test_copies_under_other_ids_are_in_the_data_once(folder: Path, data_kit: Any, tmp_path: Path, seed: int) -> None:
    """Each of six requests stands there twice, under ids of its own; in whatever order a part looks at them."""
    rows = [
        {"source": f"pictures/{n % 6}.jpg", "instruction": "Make it red.", "id": f"{n % 6}{'ab'[n // 6]}"}
        for n in range(12)
    ]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    other = tmp_path / "other"  # a team's own copy of them
    for number in range(6):
        (other / "pictures").mkdir(parents=True, exist_ok=True)
        (other / "pictures" / f"{number}.jpg").write_bytes((folder / "pictures" / f"{number}.jpg").read_bytes())
    data_kit.write_jsonl(other / "rows.jsonl", [row | {"id": f"other-{row['id']}"} for row in rows])
    joined = JoinedSamples(
        [team_samples(folder, draw=Draw(2, seed)), team_samples(folder, draw=Draw(3, seed + 1)), team_samples(other)]
    )
    joined.prepare(tmp_path / "out")
    found = [one for one in joined.rows(0, 99) if isinstance(one, Sample)]
    assert len(found) == 6 == len({one.source for one in found})
    assert [part["samples"] for part in joined_counts(tmp_path / "out")] == [2, 3, 1]


def joined_counts(out: Path) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = read_json(out / "intake.json")["parts"]
    return parts


def test_limits_hold_over_all_parts_and_count_each_row_once(folder: Path, data_kit: Any, tmp_path: Path) -> None:
    rows = [{"source": f"pictures/{n % 6}.jpg", "instruction": f"Do {n} things."} for n in range(24)]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    checks = IntakeChecks(most_per_picture=2)
    joined = JoinedSamples(
        [team_samples(folder, checks=checks, draw=Draw(5, seed=1)), team_samples(folder, checks=checks)]
    )
    joined.prepare(tmp_path)
    found = [one for one in joined.rows(0, 99) if isinstance(one, Sample)]
    assert Counter(one.source for one in found) == dict.fromkeys((one.source for one in found), 2) and len(found) == 12


def test_threads_and_processes_curate_a_teams_data(scripted: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "pictures" / "2.jpg").unlink()
    seen: Counter[str] = Counter()
    curate(scripted.build_team(str(folder)), tmp_path / "one", lambda step, done, total: seen.update([step]))
    assert seen == {"intake": 7, **dict.fromkeys(STEPS, 2)}
    expected = read_json(tmp_path / "one" / "summary.json")
    assert (expected["given"], expected["rows"]["samples"]) == (7, 6)
    assert sum(expected["failed"]["samples"].values()) == 1
    build = partial(scripted.build_team, str(folder))
    for name, engine in (("threads", Local(chunks_at_once=2)), ("processes", Local(processes=2, build=build))):
        curate(build(), tmp_path / name, engine=engine)
        assert read_json(tmp_path / name / "summary.json") == expected


def test_nothing_is_written_into_a_folder_of_others(scripted: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    with pytest.raises(StoreError, match="was not made by this curation"):
        curate(scripted.build_team(str(folder)), tmp_path)
    assert not (tmp_path / ".work").exists()


def test_status_while_the_data_are_looked_at(folder: Path, tmp_path: Path) -> None:
    team_samples(folder).prepare(tmp_path)
    with pytest.raises(ValueError, match=f"its data were looked at .* `edit-r1 curate run RECIPE --out {tmp_path}`"):
        read_status(tmp_path)
    (tmp_path / "intake.json").unlink()
    with pytest.raises(ValueError, match="its data are being looked at"):
        read_status(tmp_path)
