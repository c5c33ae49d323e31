from __future__ import annotations

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edit_r1.algo.gdpo import gdpo_advantage
from edit_r1.algo.group_advantage import group_advantage
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import CATEGORIES, Context, Judgment, Principle, PrincipleResult, Sample, Unparsed
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.reward_cache import GradeCache
from edit_r1.train.rewards import (
    CombinedReward,
    EditReward,
    FurtherReward,
    RewardSettings,
    boxes_in,
    edit_advantages,
    grade_of,
    judgment_reward,
    reward_metrics,
    shares_of,
)
from edit_r1.verifier.scoring import ScoreItem


def flat(value: int) -> bytes:
    return encode_png(np.full((8, 8, 3), value, np.uint8))


def context(number: int = 0) -> Context:
    principles = tuple(Principle(f"{category}?", category) for category in CATEGORIES)
    return Context(Sample(f"s{number}", flat(100 + number), f"edit {number}", ""), principles, "test")


class TableJudge:
    """Answers from a table by the edit's grey level: (score, Follow, Keep, Quality), or None for a failure."""

    identity = "table"
    apart = False

    def __init__(self, table, evidence=None):
        self.table, self.evidence, self.asked = table, evidence, []

    def judge(self, items):
        self.asked.append([int(decode_rgb(item.edited)[0, 0, 0]) for item in items])
        return [self._one(level) for level in self.asked[-1]]

    def _one(self, level):
        row = self.table[level]
        if row is None:
            return Judgment(None, 1, 1, None, (), dict.fromkeys(CATEGORIES), "t", 0.0, outcomes=(Unparsed("", "x"),))
        score, *verdicts = row
        results = tuple(
            PrincipleResult("?", category, verdict, self.evidence)
            for category, verdict in zip(CATEGORIES, verdicts, strict=True)
        )
        return Judgment(score, 1, 0, None, results, dict(zip(CATEGORIES, verdicts, strict=True)), "t", 0.0)

    def close(self): ...


COPY, GOOD, SLOPPY, FAILED, MUTE = 1, 2, 3, 4, 5
TABLE = {
    COPY: (0.0, 0.0, 1.0, 1.0),
    GOOD: (8.0, 1.0, 0.5, 0.5),
    SLOPPY: (5.0, 0.5, 1.0, 0.0),
    FAILED: None,
    MUTE: (6.0, None, None, None),
}


def _rewards(levels, further=(), **changes):
    reward = CombinedReward(TableJudge(TABLE), RewardSettings(**changes), further)
    return reward, reward([context()] * len(levels), [flat(level) for level in levels])


def test_the_score_is_the_paper_s_reward():
    reward, values = _rewards([COPY, GOOD, SLOPPY, FAILED, MUTE])
    assert values == [0.0, 8.0, 5.0, None, 6.0]
    groups = [0] * 5
    assert edit_advantages(reward, values, groups, 5.0) == group_advantage(values, groups, clip=5.0)
    assert reward_metrics(reward, values) == {}


def test_a_score_without_anything_followed_is_nothing():
    """A judge that contradicts itself: it scores an edit in which it finds nothing of the instruction."""
    table = {1: (7.0, 0.0, 1.0, 1.0), 2: (7.0, 0.25, 1.0, 1.0), 3: (7.0, None, None, None)}

    def scores(**changes):
        reward = CombinedReward(TableJudge(table), RewardSettings(**changes))
        return reward([context()] * 3, [flat(level) for level in table])

    assert scores() == [0.0, 7.0, 7.0]
    assert scores(gate="threshold", gate_threshold=0.5) == [0.0, 0.0, 7.0]
    assert scores(gate="none") == [7.0, 7.0, 7.0]


KINDS = [{"value": "score"}, {"value": "verdicts"}, {"value": "categories"}, {"value": "categories", "combine": "sum"}]
SHARE = st.floats(0, 1)
EDITS = st.lists(st.tuples(st.floats(0, 10), SHARE, SHARE, SHARE, st.floats(-1, 1)), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("std_over", ["group", "batch"])
@settings(max_examples=25, deadline=None)
@given(EDITS, st.sampled_from(["product", "threshold"]), st.tuples(st.floats(0, 10), SHARE, SHARE, st.floats(-1, 1)))
def test_trap_15_what_follows_nothing_never_profits(kind, several, std_over, edits, gate, said):
    """By default and with either gate: whatever score, preservation, quality and looks an edit of nothing gets."""
    score, keep, quality, looks = said
    _never_profits([(score, 0.0, keep, quality, looks), *edits], kind | {"gate": gate}, several, std_over, ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("gate", ["product", "threshold", "none"])
@settings(max_examples=25, deadline=None)
@given(EDITS)
def test_trap_15_an_unedited_copy_never_profits_whatever_is_said_of_it(kind, several, gate, edits):
    """A judge that takes the copy for a perfect edit, and a further reward that is not gated."""
    _never_profits([(10.0, 1.0, 1.0, 1.0, 1.0), *edits], kind | {"gate": gate}, several, "group", (0,), gated=False)


def _never_profits(edits, changes, several, std_over, copies, gated=True):
    """Edits of one context; the first must not have an advantage above 0. Row: what the judge says, and the looks."""
    source = context().sample.source
    level = {edit: 100 if edit in copies else 10 + edit for edit in range(len(edits))}
    table = {level[edit]: row[:4] for edit, row in enumerate(edits)}
    looks = {level[edit]: row[4] for edit, row in enumerate(edits)}

    def picture(_, images):
        return [looks[int(decode_rgb(image)[0, 0, 0])] for image in images]

    further = [FurtherReward("looks", picture, 0.7, -1, 1, gated)] if several else []
    reward = CombinedReward(TableJudge(table), RewardSettings(**changes), further)
    images = [flat(level[edit]) for edit in range(len(edits))]
    assert images[0] == source or not copies
    values = reward([context()] * len(edits), images)
    found = edit_advantages(reward, values, [0] * len(edits), 5.0, std_over)
    assert found.advantages_N[0] <= 1e-9
    assert values[0] == 0.0 and all(part == 0.0 for part in values[0].parts)


def test_a_copy_is_found_by_its_pixels_unless_that_is_turned_off():
    table = {100: (9.0, 1.0, 1.0, 1.0), 103: (9.0, 1.0, None, 1.0), 110: (9.0, 1.0, 1.0, 1.0)}
    images = [flat(level) for level in table]
    for kind in KINDS:
        reward = CombinedReward(TableJudge(table), RewardSettings(**kind))
        copied, grain, edited = reward([context()] * 3, images)
        assert (copied, grain) == (0.0, 0.0) and edited > 0
        assert [part is None for part in grain.parts] == [
            kind["value"] == "categories" and k == 1 for k in range(len(reward.parts))
        ]
        judged = CombinedReward(TableJudge(table), RewardSettings(**kind, copies="judged"))
        assert judged([context()] * 3, images)[0] > 0


def test_verdicts_are_weighted_and_gated():
    _, values = _rewards([COPY, GOOD, SLOPPY, FAILED, MUTE], value="verdicts")
    assert values[0] == 0.0  # ungated it would be 5
    assert values[1] == pytest.approx(0.5 * 10 + 0.3 * 5 + 0.2 * 5)
    assert values[2] == pytest.approx(0.5 * 5 + 0.3 * 10 * 0.5)
    assert values[3] is None and values[4] is None
    _, open_gate = _rewards([COPY], value="verdicts", gate="none")
    assert open_gate[0] == pytest.approx(5.0)
    _, threshold = _rewards([COPY, SLOPPY], value="verdicts", gate="threshold", gate_threshold=0.5)
    assert threshold == [0.0, pytest.approx(0.5 * 5 + 0.3 * 10)]


def test_the_judge_sees_every_source_of_an_edit():
    asked = []

    class Watched(TableJudge):
        def judge(self, items):
            asked.extend(items)
            return super().judge(items)

    one = replace(context(), sample=replace(context().sample, references=(flat(7), flat(9))))
    CombinedReward(Watched(TABLE), RewardSettings())([one], [flat(GOOD)])
    assert asked[0].sources == (one.sample.source, flat(7), flat(9))


@pytest.mark.parametrize("value", ["score", "verdicts", "categories"])
@pytest.mark.parametrize("gate", ["product", "none"])
def test_one_judgment_is_worth_what_the_combined_reward_gives_it(value, gate):
    reward, values = _rewards(list(TABLE), value=value, gate=gate)
    judgments = reward.judge.judge(
        [ScoreItem((flat(0),), flat(level), "edit", context().principles) for level in TABLE]
    )
    assert [judgment_reward(grade_of(judgment), reward.settings) for judgment in judgments] == values


def test_categories_are_normalised_apart():
    reward, values = _rewards([COPY, GOOD, SLOPPY, FAILED], value="categories")
    assert values[1].parts == (10.0, 5.0, 5.0) and values[0].parts == (0.0, 0.0, 0.0)
    got = edit_advantages(reward, values, [0] * 4, 5.0)
    want = gdpo_advantage(
        [(0.0,) * 3, (10.0, 5.0, 5.0), (5.0, 5.0, 0.0), None], [0] * 4, (0.5, 0.3, 0.2), 1.0, 0.1, 5.0
    )
    assert got == want and got.failed == 1
    assert got.advantages_N[0] == min(got.advantages_N) < 0  # the copy
    assert reward_metrics(reward, values)["reward_parts"] == {
        CATEGORIES[0]: 5.0, CATEGORIES[1]: pytest.approx(10 / 3), CATEGORIES[2]: pytest.approx(5 / 3)
    }  # fmt: skip
    summed = CombinedReward(TableJudge(TABLE), replace(reward.settings, combine="sum"))
    assert summed.advantages(values, [0] * 4, 5.0) == group_advantage(values, [0] * 4, clip=5.0)
    weightless, values = _rewards([GOOD], value="categories", weights=(1.0, 1.0, 0.0))
    assert [part.name for part in weightless.parts] == list(CATEGORIES[:2]) and values[0].parts == (10.0, 5.0)


def _level(contexts, images):
    return [float(decode_rgb(image)[0, 0, 0]) for image in images]


def test_a_further_reward_is_brought_to_points_and_gated():
    beauty = FurtherReward("beauty", _level, 1.0, 0.0, 5.0)
    reward, values = _rewards([COPY, GOOD, SLOPPY, FAILED, MUTE], (beauty,))
    # 1, 2, 3 of 5 are 2, 4, 6 points; times the share of the instruction: 0, 1, 0.5; without verdicts score / 10
    assert [None if v is None else v.parts for v in values] == [
        (0.0, 0.0), (8.0, 4.0), (5.0, 3.0), None, (6.0, pytest.approx(6.0)),
    ]  # fmt: skip
    assert values[1] == pytest.approx(6.0)
    assert edit_advantages(reward, values, [0] * 5).advantages_N[0] < 0
    _, free = _rewards([COPY], (replace(beauty, gated=False),))
    assert free[0].parts == (0.0, 2.0)
    with pytest.raises(ValueError, match=r"beauty gave 5\.0, not 0\.0 to 4\.0"):
        _rewards([MUTE], (replace(beauty, high=4.0),))
    _, lost = _rewards([GOOD], (FurtherReward("x", lambda c, i: [None], 1.0, 0.0, 1.0),))
    assert lost == [None]
    with pytest.raises(ValueError, match="0 values for 1 images"):
        _rewards([GOOD], (FurtherReward("x", lambda c, i: [], 1.0, 0.0, 1.0),))
    with pytest.raises(ValueError, match="name of its own"):
        _rewards([GOOD], (beauty, beauty))


def test_a_reward_travels_between_processes_whole():
    value = EditReward(7.5, (10.0, None), ((1.0, 2.0, 3.0, 4.0),))
    again = pickle.loads(pickle.dumps(value))
    assert (again, again.parts, again.boxes) == (7.5, (10.0, None), ((1.0, 2.0, 3.0, 4.0),))


def test_equal_edits_are_judged_once_and_found_after_publishing():
    judge = TableJudge(TABLE)
    reward = CombinedReward(judge, RewardSettings(), cache=GradeCache())
    contexts = [context(), context(), context(1)]
    images = [flat(GOOD)] * 3
    assert reward(contexts, images) == [8.0] * 3
    assert judge.asked == [[GOOD, GOOD]]  # two contexts, three edits
    assert reward(contexts, images) == [8.0] * 3 and len(judge.asked) == 2  # not yet published
    reward.publish()
    assert reward(contexts, [*images[:2], flat(SLOPPY)]) == [8.0, 8.0, 5.0]
    assert judge.asked[2:] == [[SLOPPY]]
    reward.publish()
    reward([context()] * 2, [flat(FAILED)] * 2)
    reward.publish()
    reward([context()], [flat(FAILED)])
    assert judge.asked[3:] == [[FAILED], [FAILED]]  # a failure is never kept


def test_boxes_come_from_the_evidence_of_the_instruction_s_principles():
    assert boxes_in("moved from [10, 20, 30.5, 40] to (50,60,70,80), not [9, 9, 1, 1]") == [
        (10, 20, 30.5, 40), (50, 60, 70, 80),
    ]  # fmt: skip
    reward = CombinedReward(TableJudge(TABLE, "at [1, 2, 3, 4]"), RewardSettings())
    assert reward([context()], [flat(GOOD)])[0].boxes == ((1 / 8, 2 / 8, 3 / 8, 4 / 8),)
    thousandths = RewardSettings(judge=JudgeSettings(boxes="thousandths"))
    reward = CombinedReward(TableJudge(TABLE, "at [125, 250, 375, 500]"), thousandths)
    assert reward([context()], [flat(GOOD)])[0].boxes == ((1 / 8, 2 / 8, 3 / 8, 4 / 8),)


def test_a_box_is_of_the_source_as_it_was_shown():
    """2048 x 1024 pixels are shown as 1448 x 724; a turned photograph has the sides that a viewer sees."""
    large = encode_png(np.zeros((1024, 2048, 3), np.uint8))
    ((left, top, right, bottom),) = shares_of([(0, 362, 724, 900)], large, "pixels")
    assert (left, top, right, bottom) == pytest.approx((0, 0.5, 0.5, 1), abs=1e-3)
    assert shares_of([(0.1, 0.2, 0.3, 1.0)], large, "thousandths") == ((0.1, 0.2, 0.3, 1.0),)
    assert shares_of([(1500, 10, 1600, 20)], large, "pixels") == ()
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(turned, "JPEG", exif=exif)
    assert shares_of([(5, 10, 10, 20)], turned.getvalue(), "pixels") == ((0.25, 0.25, 0.5, 0.5),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (-1.0, 1.0, 1.0)}, "0 or more"),
        ({"weights": (0.0, 1.0, 1.0), "value": "categories"}, "nothing is asked"),
        ({"gate_threshold": 0.0}, "always open"),
        ({"workers": 0}, "workers=0"),
        ({"std_floor": 0.0}, r"std_floor=0\.0"),
        ({"batch_floor": float("nan")}, "batch_floor=nan"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        RewardSettings(**changes)
    with pytest.raises(ValueError, match="low=1"):
        FurtherReward("x", _level, 1.0, 1, 1)
