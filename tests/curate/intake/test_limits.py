"""Limits by picture and instruction: rows that were taken count, and no filter is asked about rows without room."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.intake.checks import IntakeChecks
from edit_r1.curate.intake.draw import Draw
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.limits import Limits
from edit_r1.curate.intake.open import team_samples
from edit_r1.curate.intake.source import TeamSamples
from edit_r1.records import Sample
from edit_r1.store import read_json
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.protocol import Request

KINDS = ("subject addition", "text modification")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


def said(hard: bool, category: str = "other") -> str:
    return json.dumps({"reason": f"It is {category}.", "hard": hard, "category": category})


def number_in(text: str) -> int:
    return int(text.split("Do ")[1].split(" ")[0])


def number_of(request: Request) -> int:
    return number_in(request.text)


def numbered(data_kit: Any, folder: Path, pictures: int, each: int) -> Path:
    """Rows "Do N things." of so many pictures, those of one picture after each other; no two of an instruction."""
    for number in range(6, pictures):
        (folder / "pictures" / f"{number}.jpg").write_bytes(data_kit.photograph(number))
    rows = [
        {"source": f"pictures/{n // each}.jpg", "instruction": f"Do {n} things.", "id": f"row-{n}"}
        for n in range(pictures * each)
    ]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    return folder


def samples_of(source: TeamSamples) -> list[Sample]:
    return [one for one in source.rows(0, len(source)) if isinstance(one, Sample)]


def chosen(source: TeamSamples) -> list[int]:
    return [number_in(one.instruction) for one in samples_of(source)]


def adds_up(out: Path) -> bool:
    told = read_json(out / "intake.json")
    whole = ("samples", "simple", "not_asked", "category_full", "more_than_needed")
    return bool(told["looked_at"] == sum(told[name] for name in whole) + sum(told["failed"].values()))


def test_a_row_that_the_filter_calls_simple_uses_no_limit_up(
    folder: Path, data_kit: Any, kit: Any, tmp_path: Path
) -> None:
    """Of three pictures each the first and third row are simple, the second and fourth hard."""
    data = numbered(data_kit, folder, 3, 4)
    vlm = kit.VLM("filter", lambda request, draw: said(number_of(request) % 2 == 1))
    checks = IntakeChecks(most_per_picture=1)
    source = team_samples(data, checks=checks, hard=HardFilter(vlm))
    source.prepare(tmp_path)
    assert chosen(source) == [1, 5, 9]
    assert sorted(number_of(request) for request, _ in vlm.calls) == [0, 1, 4, 5, 8, 9]  # nothing once there is one
    assert read_json(tmp_path / "intake.json")["failed"] == {"copy: is of a picture that has 1 rows already": 6}
    assert adds_up(tmp_path)


@pytest.mark.parametrize("draw", [Draw(), Draw(5, seed=3), Draw(5, seed=3, most_per_category=3)])
def test_batches_under_way_change_nothing_of_what_limits_let_in(
    folder: Path, data_kit: Any, fake_openai: Any, tmp_path: Path, draw: Draw
) -> None:
    data = numbered(data_kit, folder, 6, 8)

    def answer(body: dict[str, Any], number: int) -> str:
        asked = number_in(body["messages"][-1]["content"][-1]["text"])
        return said(asked % 8 in (1, 2, 4, 6), KINDS[asked % 4 // 2])

    found = []
    for name, at_once, concurrency in (("a", 1, 1), ("b", 3, 16), ("c", 64, 4)):
        server = fake_openai(answer)
        hard = HardFilter(OpenAIVLM(server.url, "filter", concurrency=concurrency), at_once=at_once)
        source = team_samples(data, checks=IntakeChecks(most_per_picture=2), draw=draw, hard=hard)
        source.prepare(tmp_path / name)
        found.append((chosen(source), len(server.bodies)))
        assert adds_up(tmp_path / name)
        assert max(Counter(number // 8 for number in chosen(source)).values()) <= 2
    assert found[0] == found[1] == found[2]
    if not draw.count:
        assert found[0][0] == [8 * picture + row for picture in range(6) for row in (1, 2)]


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_taken_as_if_they_were_judged_one_after_the_other(
    folder: Path, data_kit: Any, kit: Any, tmp_path: Path, seed: int
) -> None:
    pairs = random.Random(seed).sample([(picture, words) for picture in range(6) for words in range(8)], 40)
    rows = [{"source": f"pictures/{picture}.jpg", "instruction": f"Do {words} things."} for picture, words in pairs]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)

    def passed(name: str, checks: IntakeChecks) -> tuple[list[int], int]:
        vlm = kit.VLM("filter", lambda request, draw: said(draw % 3 == 0))
        source = team_samples(folder, checks=checks, hard=HardFilter(vlm))
        source.prepare(tmp_path / name)
        return [int(one.origin.split(":")[1]) - 1 for one in samples_of(source)], len(vlm.calls)

    hard, _ = passed("all", IntakeChecks())
    for most in ((1, 2), (2, 1), (3, 2)):
        taken: list[int] = []
        asked = 0
        for number, (picture, words) in enumerate(pairs):
            counts = sum(pairs[one][0] == picture for one in taken), sum(pairs[one][1] == words for one in taken)
            if counts[0] < most[0] and counts[1] < most[1]:
                asked += 1
                taken += [number] * (number in hard)
        found, calls = passed(f"{most}", IntakeChecks(most_per_picture=most[0], most_per_instruction=most[1]))
        assert found == taken and asked <= calls <= asked + 5


def test_many_simple_rows_of_one_picture_are_few_turns(
    folder: Path, data_kit: Any, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"source": f"pictures/{n % 6}.jpg", "instruction": f"Do {n} things."} for n in range(200)]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    turns: list[int] = []
    real = Limits.end_turn
    monkeypatch.setattr(Limits, "end_turn", lambda self, passed: turns.append(1) or real(self, passed))
    vlm = kit.VLM("filter", lambda request, draw: said(number_of(request) >= 190))
    source = team_samples(folder, checks=IntakeChecks(most_per_picture=1), hard=HardFilter(vlm))
    source.prepare(tmp_path)
    assert chosen(source) == list(range(190, 196)) and len(turns) <= 9


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_row_of_a_full_category_uses_no_limit_up(
    folder: Path, data_kit: Any, tmp_path: Path, seed: int | None
) -> None:
    """Six pictures, each with a row of "a" and then one of "b"; three of each category are wanted."""
    rows = [
        {"source": f"pictures/{n // 2}.jpg", "instruction": f"Do {n} things.", "category": "ab"[n % 2]}
        for n in range(12)
    ]
    data_kit.write_jsonl(folder / "rows.jsonl", rows)
    draw = Draw(most_per_category=3) if seed is None else Draw(6, seed, most_per_category=3)
    source = team_samples(folder, checks=IntakeChecks(most_per_picture=1), draw=draw)
    source.prepare(tmp_path)
    samples = samples_of(source)
    assert Counter(one.category for one in samples) == {"a": 3, "b": 3} and adds_up(tmp_path)
    if seed is None:
        assert chosen(source) == [0, 2, 4, 7, 9, 11]
