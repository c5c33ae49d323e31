"""What people see: complete and aligned at 80 columns, without colour, and whatever a model writes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from edit_r1.records import CATEGORIES, Principle, Trace, Unparsed, Verdict
from edit_r1.report.terminal import checklist, pairs_table, ranking_table, status_table
from edit_r1.verifier.judgments import aggregate, judgment_json

PRINCIPLES = (
    Principle("Is the circle at the top left blue now, and only this one of the three circles in the picture?",
              CATEGORIES[0]),
    Principle("Is the background still plain grey?", CATEGORIES[1]),
    Principle("Is the picture free of noise [and blur]?", CATEGORIES[2]),
)  # fmt: skip


def shown(renderable: RenderableType, width: int = 80, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, record=True, legacy_windows=False)
    console.print(renderable)
    text = console.export_text(styles=colour)
    assert all(len(line) <= width for line in console.export_text().splitlines())
    return text


def trace(values: tuple[int, ...], score: float, evidence: str = "was red, now blue") -> Trace:
    return Trace("", score, tuple(Verdict(1 if value else 0, evidence) for value in values))


def document(*outcomes: Trace | Unparsed) -> dict[str, Any]:
    return judgment_json(aggregate(list(outcomes), PRINCIPLES, "tiny", 1.25))


def test_a_checklist_shows_every_principle_under_its_category_with_mark_and_evidence() -> None:
    text = shown(checklist(document(trace((1, 0, 1), 4.5))))
    places = [text.index(category) for category in CATEGORIES]
    assert places == sorted(places)
    assert text.count("✓") == 2 and text.count("✗") == 1
    assert text.count("was red, now blue") == 3
    assert "[and blur]" in text
    assert "unparsed" not in text and "+/-" not in text
    assert "tiny, 1.2 s" in text


def test_the_score_is_large_and_ends_where_its_spread_stands() -> None:
    lines = shown(checklist(document(trace((1, 0, 1), 10.0), trace((1, 1, 1), 10.0), Unparsed("?", "no score")))).split(
        "\n"
    )
    assert lines[0].startswith(" ╻ ┏━┓ ┏━┓")
    top = "\n".join(lines[:3])
    assert "of 10" in top and "+/- 0.00 over 2 traces" in top and "1 of 3 traces unparsed" in top


def test_traces_that_disagree_are_marked_with_their_mean() -> None:
    text = shown(checklist(document(trace((1, 0, 1), 4.0), trace((1, 1, 1), 6.0))))
    line = next(line for line in text.splitlines() if "plain grey" in line)
    assert "~" in line and line.rstrip().endswith("0.50")


def test_without_a_parsed_trace_there_is_no_number() -> None:
    text = shown(checklist(document(Unparsed("?", "no score"))))
    assert "no score" in text and "1 of 1 trace unparsed" in text
    assert text.count("?") >= 3 + len(PRINCIPLES)  # a mark each, beside the question's own


@pytest.mark.parametrize("width", [40, 80, 120])
def test_long_evidence_wraps_and_loses_nothing(width: int) -> None:
    words = [f"word{number}" for number in range(60)]
    text = shown(checklist(document(trace((1, 0, 1), 4.5, " ".join(words)))), width)
    assert [word for word in text.split() if word.startswith("word")] == words * 3


def test_texts_of_a_model_are_neither_markup_nor_control_sequences() -> None:
    text = shown(checklist(document(trace((1, 0, 1), 4.5, "[red]danger[/red]\x1b[2J\x07 [/nothing]"))))
    assert "[red]danger[/red][2J [/nothing]" in text
    assert "\x1b" not in text and "\x07" not in text


def test_colour_is_used_on_a_terminal() -> None:
    assert "\x1b[" in shown(checklist(document(trace((1, 0, 1), 4.5))), colour=True)


def test_a_terminal_that_knows_ascii_only_gets_ascii() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", write_through=True) as file:
        console = Console(file=file, width=80)
        console.print(checklist(document(trace((1, 0, 1), 4.5))))
        console.print(ranking_table([{"path": "a.png", **document(trace((1, 0, 1), 4.5))}]))
        text = raw.getvalue().decode("ascii")
    assert "4.5 of 10" in text
    assert "y Is the circle" in text and "n Is the background" in text


def test_a_ranking_shows_path_score_and_categories() -> None:
    good, bad = document(trace((1, 0, 1), 4.5)), document(Unparsed("?", "no score"))
    long_path = "/".join(["folder"] * 20) + "/b.png"
    text = shown(ranking_table([{"path": "a.png", **good}, {"path": long_path, **bad}]))
    first, second = (next(line for line in text.splitlines() if start in line) for start in ("a.png", "none"))
    assert first.split() == ["1", "a.png", "4.50", "1.00", "0.00", "1.00", "0", "of", "1"]
    assert second.split()[-3:] == ["1", "of", "1"]
    assert "b.png" in text


def test_a_status_shows_every_step_and_failures_by_cause() -> None:
    failed = {f"judge: cause {number}": 10 - number for number in range(8)}
    rows = [
        {"step": "contexts", "finished": True, "chunks": 3, "of": 3, "rows": 120, "per_second": 7.25, "failed": failed},
        {"step": "candidates", "finished": False, "chunks": 1, "of": 3, "rows": 40, "per_second": 9.0, "failed": {}},
        {"step": "traces", "finished": False, "chunks": 0, "of": 3, "rows": 0, "per_second": None, "failed": {}},
    ]
    status = {"finished": False, "at_work": True, "seconds_left": 7200.0, "steps": rows, "spent": {"models": {}}}
    text = shown(status_table(status))
    states = {words[0]: words[1] for words in map(str.split, text.splitlines()) if len(words) > 4}
    assert states.items() >= {"contexts": "done", "candidates": "under", "traces": "waiting"}.items()
    assert "about 2.0 h left" in text and "7.25" in text and "1 of 3" in text
    assert "contexts: 52 failed" in text
    assert "10 judge: cause 0" in text and "12 of 3 other causes" in text
    text = shown(status_table(status | {"at_work": False}))
    assert "no run is at work here; the same command goes on, with about 2.0 h left" in text
    assert "stopped" in text and "under way" not in text
    text = shown(status_table(status | {"at_work": False, "seconds_left": None}))
    assert "goes on\n" in text and " left" not in text


def test_pairs_show_all_numbers_and_the_weakest_category_first() -> None:
    result = {
        "benchmark": "pairs", "official": 0.5, "half_credit": 0.625, "tie_rate": 0.25, "unparsed": 1, "pairs": 8,
        "ci95": [0.25, 0.9], "tasks": {"style transfer": 1.0, "": 0.25}, "at_margin": {"0.5": 0.375, "1.0": 0.125},
    }  # fmt: skip
    text = shown(pairs_table(result))
    for part in ("0.625", "0.250 to 0.900", "0.500", "25.0%", "won by more than 1.0 points  12.5%"):
        assert part in text
    assert text.index("unknown") < text.index("style transfer")
    assert "interval" not in shown(pairs_table({**result, "ci95": None}))
