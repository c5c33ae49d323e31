from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import CATEGORIES, Context, Judgment, Principle, Sample
from edit_r1.train.reward_cache import GradeCache
from edit_r1.train.reward_queue import Judging
from edit_r1.train.rewards import CombinedReward, RewardSettings


def _image(level: int) -> bytes:
    return encode_png(np.full((8, 8, 3), level, np.uint8))


def _contexts(count: int) -> list[Context]:
    principle = (Principle("?", CATEGORIES[0]),)
    return [Context(Sample(f"s{i}", _image(200 + i), f"edit {i}", ""), principle, "test") for i in range(count)]


class SlowJudge:
    """Scores the grey level; batches named in `late` take until `release` is set."""

    identity = "slow"
    apart = True

    def __init__(self, seconds: float = 0.0, late: tuple[int, ...] = (), fails: int | None = None):
        self.seconds, self.late, self.fails = seconds, late, fails
        self.release, self.batches = threading.Event(), []

    def judge(self, items):
        levels = [int(decode_rgb(item.edited)[0, 0, 0]) for item in items]
        if levels[0] in self.late:
            assert self.release.wait(10)
        time.sleep(self.seconds)
        if self.fails in levels:
            raise ValueError("the judge is gone")
        self.batches.append(levels)
        return [Judgment(level / 10, 1, 0, None, (), dict.fromkeys(CATEGORIES), "s", 0.0) for level in levels]

    def close(self): ...


def _judging(judge, contexts=4, group=2, **settings):
    reward = CombinedReward(judge, RewardSettings(**settings), cache=GradeCache())
    return Judging(reward, _contexts(contexts), group)


def test_a_plain_reward_is_called_once_in_the_order_of_edits():
    calls = []

    def reward(contexts, images):
        calls.append([context.sample.id for context in contexts])
        return [1.0, float("nan"), None, 4.0]

    judging = Judging(reward, _contexts(2), 2)
    judging.put([2, 3], [_image(2), _image(3)])
    judging.put([0, 1], [_image(0), _image(1)])
    assert judging.rewards() == [1.0, None, None, 4.0]
    assert calls == [["s0", "s0", "s1", "s1"]] and judging.seconds() == {}


def test_the_result_does_not_depend_on_which_batch_is_answered_first():
    results = []
    for late in ((), (0,), (2, 4)):
        judge = SlowJudge(late=late)
        judging = _judging(judge, workers=3, pending=4)
        for start in (0, 2, 4, 6):
            judging.put([start, start + 1], [_image(start), _image(start + 1)])
        threading.Timer(0.05, judge.release.set).start()
        results.append(judging.rewards())
        assert sorted(judge.batches) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert results[0] == results[1] == results[2] == [edit / 10 for edit in range(8)]


def test_what_a_neighbour_was_told_is_not_found_before_the_iteration_is_over():
    """Two equal micro-batches of one context: both are judged, whichever comes first; afterwards neither is."""
    judge = SlowJudge()
    judging = _judging(judge, contexts=1, group=4, workers=2)
    judging.put([0, 1], [_image(5)] * 2)
    time.sleep(0.05)
    judging.put([2, 3], [_image(5)] * 2)
    assert judging.rewards() == [0.5] * 4 and judge.batches == [[5], [5]]
    again = Judging(judging.reward, judging.contexts_B, 4)
    again.put([0, 1, 2, 3], [_image(5)] * 4)
    assert again.rewards() == [0.5] * 4 and len(judge.batches) == 2


def test_judging_overlaps_sampling_and_the_waiting_is_measured():
    judging = _judging(SlowJudge(seconds=0.1))
    start = time.perf_counter()
    for edit in range(0, 8, 2):
        time.sleep(0.1)  # sampling
        judging.put([edit, edit + 1], [_image(edit), _image(edit + 1)])
    judging.rewards()
    wall, seconds = time.perf_counter() - start, judging.seconds()
    assert seconds["judging"] >= 0.4 and seconds["waiting"] < 0.3
    assert wall < 0.75  # one after the other it would be 0.8


def test_sampling_waits_when_the_queue_is_full():
    judge = SlowJudge(late=(0,))
    judging = _judging(judge, pending=1)
    judging.put([0, 1], [_image(0), _image(1)])
    judging.put([2, 3], [_image(2), _image(3)])
    threading.Timer(0.2, judge.release.set).start()
    start = time.perf_counter()
    judging.put([4, 5], [_image(4), _image(5)])  # one is judged, one waits
    assert time.perf_counter() - start > 0.1 and judging.waited > 0.1
    judging.put([6, 7], [_image(6), _image(7)])
    assert judging.rewards() == [edit / 10 for edit in range(8)]


def test_the_first_error_in_the_order_of_batches_is_raised():
    judging = _judging(SlowJudge(fails=2))
    for edit in range(0, 8, 2):
        judging.put([edit, edit + 1], [_image(edit), _image(edit + 1)])
    with pytest.raises(ValueError, match="the judge is gone"):
        judging.rewards()


def test_overlap_follows_where_the_judge_is():
    for overlap, apart, expected in [
        ("auto", True, True),
        ("auto", False, False),
        ("on", False, True),
        ("off", True, False),
    ]:
        judge = SlowJudge()
        judge.apart = apart
        judging = _judging(judge, overlap=overlap)
        assert judging.overlaps is expected
        judging.put(range(8), [_image(edit) for edit in range(8)])
        assert judging.rewards() == [edit / 10 for edit in range(8)]
        assert set(judging.seconds()) == ({"judging", "waiting"} if expected else set())
