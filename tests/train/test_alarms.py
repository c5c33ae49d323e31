"""Alarms of GCPO: when they are told, and that a resumed run knows what the stopped one knew."""

from __future__ import annotations

import pytest

from edit_r1.train.alarms import Alarms, AlarmSettings

GOOD = {"unparsed": 0.1, "tie_share": 0.3, "pairs_silent": 0.2, "entropy": 1.0, "passed": 0.8, "trace_tokens": 100.0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unparsed": 0.6}, "60% of the traces have no score"),
        ({"tie_share": 0.9}, "90% of the comparisons are ties"),
        ({"pairs_silent": 0.95}, "95% of the pairs teach nothing"),
        ({"entropy": 0.1}, "entropy is 10% of the first generation's"),
        ({"passed": 0.6}, "points are passed 75% as often"),
        ({"trace_tokens": 250.0}, "2.50 times as long"),
        ({"trace_tokens": 40.0}, "0.40 times as long"),
    ],
)
def test_what_exceeds_a_limit_is_told(change: dict[str, float], told: str) -> None:
    alarms = Alarms(AlarmSettings())
    assert alarms.check(GOOD) == []
    (text,) = alarms.check({**GOOD, **change})
    assert told in text
    assert alarms.check(GOOD) == []


def test_limits_can_be_taken_away_and_missing_numbers_tell_nothing() -> None:
    settings = AlarmSettings(
        alarm_unparsed=1, alarm_ties=1, alarm_silent=1, alarm_entropy=0, alarm_passed=0, alarm_length=0
    )
    mute, worst = Alarms(settings), {"unparsed": 1.0, "tie_share": 1.0, "pairs_silent": 1.0}
    mute.check(GOOD)
    assert mute.check({**worst, "entropy": 0.0, "passed": 0.0, "trace_tokens": 1.0}) == []
    assert Alarms(AlarmSettings()).check({"loss": 1.0}) == []
    assert Alarms(AlarmSettings()).check({"entropy": 0.0, "trace_tokens": 0.0}) == []


def test_so_many_in_a_row_end_the_run_and_a_resumed_one_goes_on_counting() -> None:
    bad = {**GOOD, "unparsed": 0.9}
    alarms = Alarms(AlarmSettings(alarm_stop=2))
    stops = []
    for line in (GOOD, bad, GOOD, bad, bad):
        alarms.check(line)
        stops.append(alarms.stops)
    assert stops == [False, False, False, False, True]
    resumed = Alarms(AlarmSettings(alarm_stop=2))
    resumed.start([GOOD, bad, GOOD, bad])
    assert not resumed.stops
    (told,) = resumed.check({**GOOD, "trace_tokens": 300.0})
    assert "3.00 times" in told
    assert resumed.stops
    forever = Alarms(AlarmSettings())
    for _ in range(9):
        forever.check(bad)
    assert not forever.stops


@pytest.mark.parametrize(
    "settings",
    [
        {"alarm_length": float("nan")},
        {"alarm_silent": 1.5},
        {"alarm_ties": 1.2},
        {"alarm_passed": -0.1},
        {"alarm_length": 1.0},
        {"alarm_stop": -1},
    ],
)
def test_limits_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        AlarmSettings(**settings)
