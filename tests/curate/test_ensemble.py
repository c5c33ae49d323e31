"""Votes of several verifiers: the rule against brute force, the engine's bookkeeping, and weights of a gold set."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.ensemble import Ensemble, combine, pool_votes
from edit_r1.curate.inputs import RUN
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import Curation, curate, read_failures
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.curate.status import read_status
from edit_r1.curate.weigh import judges_left_out, read_gold_set, read_weights, reliabilities, votes_of, weights_of
from edit_r1.records import GoldVerdicts, PoolTrace, Sample, Trace, Unparsed, Verdict
from edit_r1.store import GOLD_VERDICTS, StoreError, read_dataset, read_json, write_dataset, write_json
from edit_r1.verifier.traces import write_gold
from edit_r1.vlm.protocol import Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


def vote(member: str, values: list[int], candidate: str = "c") -> GoldVerdicts:
    return GoldVerdicts(candidate, tuple(Verdict(1 if value else 0, f"{member} saw") for value in values), member)


def values_of(gold: GoldVerdicts) -> list[int]:
    return [verdict.value for verdict in gold.gold]


MEMBERS = st.dictionaries(
    st.sampled_from("abcde"),
    st.tuples(st.lists(st.integers(0, 1), min_size=2, max_size=2), st.integers(0, 8), st.integers(0, 8)),
    min_size=1,
)


@given(MEMBERS)
def test_more_than_half_of_the_weight_decides(members: dict[str, tuple[list[int], int, int]]) -> None:
    votes = [vote(name, values) for name, (values, _, _) in members.items()]
    weights = {name: (yes / 8, no / 8) for name, (_, yes, no) in members.items()}
    for place in range(2):
        plain = sum(Fraction(1 if values[place] else -1) for values, _, _ in members.values())
        weighted = sum(Fraction(yes, 8) if values[place] else -Fraction(no, 8) for values, yes, no in members.values())
        assert values_of(combine(votes))[place] == (plain > 0)
        assert values_of(combine(votes, weights))[place] == (weighted > 0)
    assert combine(votes) == replace(combine(votes[::-1]), gold=combine(votes).gold)
    assert values_of(combine(votes[::-1])) == values_of(combine(votes))


def test_a_reason_says_how_the_vote_went() -> None:
    gold = combine([vote("a", [1, 0]), vote("b", [1, 1]), vote("c", [0, 1])])
    assert gold.gold[0] == Verdict(1, "2 of 3 say yes, c says no: a saw")
    assert gold.gold[1] == Verdict(1, "2 of 3 say yes, a says no: b saw")
    assert gold.verifier == "ensemble of a, b, c"
    tied = combine([vote("a", [1]), vote("b", [0])]).gold[0]
    assert tied == Verdict(0, "1 of 2 say yes, a says yes: b saw")
    heavy = combine(
        [vote("a", [1]), vote("b", [0]), vote("c", [0])], {"a": (2.0, 0.1), "b": (0.1, 0.5), "c": (0.1, 0.5)}
    ).gold[0]
    assert heavy == Verdict(1, "1 of 3 say yes, with 2.00 of 3.00 of the weight, b, c say no: a saw")


def test_sums_of_weights_tie_in_spite_of_rounding() -> None:
    votes = [vote("a", [1]), vote("b", [1]), vote("c", [0])]
    assert values_of(combine(votes, {"a": (0.1, 0), "b": (0.2, 0), "c": (0, 0.3)})) == [0]


def test_a_judge_votes_once_by_the_majority_of_its_traces() -> None:
    def trace(judge: str, index: int, values: list[int]) -> PoolTrace:
        verdicts = tuple(Verdict(1 if value else 0) for value in values)
        return PoolTrace("c", judge, index, Trace("t", 5.0, verdicts), judge == "b")

    traces = [trace("b", 4, [1, 0]), trace("a", 0, [1, 1]), trace("a", 2, [1, 0]), trace("a", 1, [0, 0])]
    lost = PoolTrace("c", "z", 5, Unparsed("?", "no score"))
    votes = pool_votes([*traces, lost])
    assert [(one.verifier, values_of(one), one.simulated) for one in votes] == [
        ("a", [1, 0], False),
        ("b", [1, 0], True),
    ]
    assert votes[0].gold[1].evidence == "1 of 3 traces say yes"
    assert values_of(pool_votes(traces[1:3])[0]) == [1, 0]  # one of two is a tie
    assert pool_votes([lost]) == []


def test_bad_votes_and_ensembles_are_refused(kit: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        combine([])
    with pytest.raises(ValueError, match="one of each member"):
        combine([vote("a", [1]), vote("a", [0])])
    with pytest.raises(ValueError, match="different lengths"):
        combine([vote("a", [1]), vote("b", [0, 1])])
    with pytest.raises(ValueError, match="a number of 0 or more"):
        Ensemble(weights=(("a", 1.0, -1.0),))
    with pytest.raises(ValueError, match="a number of 0 or more"):
        Ensemble(weights=(("a", math.nan, 1.0),))
    with pytest.raises(ValueError, match="all weights are 0"):
        Ensemble(weights=(("a", 0.0, 0.0),))
    with pytest.raises(ValueError, match="add verifiers"):
        Ensemble().check("v", ["j"])
    with pytest.raises(ValueError, match="weights of b, who is no member: verifiers and judges are v, j"):
        Ensemble(pool=True, weights=(("v", 1.0, 1.0), ("b", 1.0, 1.0), ("j", 1.0, 1.0))).check("v", ["j", "j"])
    idle = (("v", 0.0, 0.0), ("w", 0.0, 0.0), ("j", 1.0, 1.0))
    with pytest.raises(ValueError, match="all weights are 0: nobody would decide; give one of v, w"):
        Ensemble((kit.VLM("w", lambda *_: "?"),), weights=idle).check("v", ["j"])
    with pytest.raises(ValueError, match="no weights of v: give"):
        Ensemble(pool=True, weights=(("j", 1.0, 1.0),)).check("v", ["j", "j"])


# --- in the engine


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


def verifier(kit: Any, name: str, lost_share: int = 0) -> Any:
    def answer(_: Any, draw: int) -> str:
        gold = [Verdict(1 if draw >> bit & 1 else 0, "because") for bit in range(3)]
        return "?" if lost_share and draw % lost_share == 0 else write_gold(gold, kit.QUESTIONS)

    return kit.VLM(name, answer)


def stage_of(kit: Any, samples: list[Sample], ensemble: Ensemble | None) -> CurateStage:
    """Models that have not been asked yet."""
    return CurateStage(
        samples=GivenSamples(tuple(samples[:6])), decomposer=kit.decomposer(), editors=(kit.Editor("a"),),
        pool=(PoolMember(kit.judge("j1", lost_share=3), 2, WARM), PoolMember(kit.judge("j2", lost_share=3), 1, WARM)),
        verifier=verifier(kit, "v0", 2), candidates_per_context=2, decompose_sampling=WARM, verify_sampling=WARM,
        chunk_size=4, ensemble=ensemble,
    )  # fmt: skip


def calls(stage: CurateStage) -> dict[str, int]:
    models: list[Any] = [stage.decomposer, *stage.verifiers, *(one.vlm for one in stage.pool)]
    return {model.name: len(model.calls) for model in models}


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(out / "summary.json")
    return summary


def test_members_are_added_and_paid_one_by_one(kit: Any, samples: list[Sample], tmp_path: Path) -> None:
    single = stage_of(kit, samples, None)
    before = summary_of(curate(single, tmp_path / "out").out)
    two = stage_of(kit, samples, Ensemble((verifier(kit, "v1"),)))
    curate(two, tmp_path / "out")
    assert calls(two) == {"decomposer": 0, "v0": 0, "v1": before["rows"]["candidates"], "j1": 0, "j2": 0}
    three = stage_of(kit, samples, Ensemble((verifier(kit, "v1"), verifier(kit, "v2", 3)), pool=True))
    curate(three, tmp_path / "out")
    assert {name for name, count in calls(three).items() if count} == {"v2"}
    weights = tuple((name, 1.5, 1.0) for name in ("v0", "v1", "v2", "j1", "j2"))
    weighted = stage_of(kit, samples, Ensemble((verifier(kit, "v1"), verifier(kit, "v2", 3)), True, weights))
    assert summary_of(curate(weighted, tmp_path / "out").out)["hashes"]["gold"] != before["hashes"]["gold"]
    assert set(calls(weighted).values()) == {0}
    whole = stage_of(kit, samples, Ensemble((verifier(kit, "v1"), verifier(kit, "v2", 3)), True, weights))
    assert summary_of(curate(whole, tmp_path / "whole").out) == summary_of(tmp_path / "out")
    back = stage_of(kit, samples, None)
    assert summary_of(curate(back, tmp_path / "out").out) == before
    assert set(calls(back).values()) == {0} and not (tmp_path / "out/votes").exists()


def test_gold_is_what_the_votes_on_disk_say(kit: Any, samples: list[Sample], tmp_path: Path) -> None:
    stage = stage_of(kit, samples, Ensemble((verifier(kit, "v1", 2), verifier(kit, "v2", 3)), pool=True))
    curate(stage, tmp_path)
    votes: dict[str, list[GoldVerdicts]] = {}
    for one in read_dataset(tmp_path, "votes", GOLD_VERDICTS):
        votes.setdefault(one.candidate_id, []).append(one)
    gold = {one.candidate_id: one for one in Curation(tmp_path).gold}
    assert gold == {candidate: combine(own) for candidate, own in votes.items()}
    assert len({len(own) for own in votes.values()}) > 1  # some members gave none, and gold was made of the others
    summary = summary_of(tmp_path)
    assert summary["beside"]["votes"]["rows"] == sum(map(len, votes.values()))
    assert set(summary["verifiers"]["gold"]) == {"v0", "v1", "v2", "j1", "j2"}
    assert "v0 | v1" in summary["verifiers"]["between"]
    steps = {row["step"]: row for row in read_status(tmp_path)["steps"]}
    assert steps["votes"]["rows"] == summary["beside"]["votes"]["rows"]
    assert sum(steps["votes"]["failed"].values()) == len(read_failures(tmp_path, "votes")) > 0


def test_nobody_voted_is_a_failure_and_no_gold(kit: Any, samples: list[Sample], tmp_path: Path) -> None:
    mute = [kit.VLM(name, lambda *_: "?") for name in ("v1", "v2")]
    stage = replace(stage_of(kit, samples, None), verifier=mute[0], ensemble=Ensemble((mute[1],)))
    summary = summary_of(curate(stage, tmp_path).out)
    assert summary["rows"]["gold"] == 0 and summary["failed"]["gold"] == {"ensemble: no member's vote": 12}
    assert summary["rows"]["selected"] == 0


# --- weights


def test_weights_are_log_odds_of_shrunk_balanced_accuracy() -> None:
    gold = {"c": (1, 1, 1, 0), "d": (1, 0, 1, 1)}
    votes = [vote("good", [1, 1, 1, 0]), vote("good", [1, 0, 1, 1], "d"), vote("yes", [1, 1, 1, 1]),
             vote("wrong", [0, 0, 0, 1]), vote("good", [0, 0, 0, 0], "elsewhere")]  # fmt: skip
    found = {one.member: one for one in reliabilities(votes, gold, shrinkage=4)}
    assert (found["good"].yes_right, found["good"].no_right, found["good"].verdicts) == (1, 1, 8)
    balanced = ((6 + 2) / (6 + 4) + (2 + 2) / (2 + 4)) / 2
    assert found["good"].balanced == pytest.approx(balanced)
    assert found["good"].weight == pytest.approx(math.log(balanced / (1 - balanced)))
    assert found["good"].yes_weight == pytest.approx(math.log(0.8 / (1 - 4 / 6)))
    assert found["good"].no_weight == pytest.approx(math.log((4 / 6) / 0.2))
    # One that always says yes is right in 3 of 4, and is worth little: half of what it says is chance.
    assert found["yes"].yes_right == 1 and found["yes"].no_right == 0
    assert found["yes"].balanced == pytest.approx(((3 + 2) / 7 + 2 / 5) / 2)
    assert found["yes"].no_weight > found["yes"].yes_weight
    assert found["wrong"].weight == found["wrong"].yes_weight == found["wrong"].no_weight == 0
    assert reliabilities(votes[:1], gold, shrinkage=0)[0].weight > 10
    with pytest.raises(ValueError, match="on any of the 1 candidates"):
        reliabilities(votes, {"other": (1,)})
    with pytest.raises(ValueError, match="2 gold verdicts, good voted on 4"):
        reliabilities(votes, {"c": (1, 1)})


def test_a_gold_set_of_lines_or_of_a_data_set(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text('{"candidate_id": "c", "gold": [1, 0], "who": "me"}\n\n{"candidate_id": "d", "gold": [0]}\n')
    assert read_gold_set(path) == {"c": (1, 0), "d": (0,)}
    write_dataset(tmp_path, "set", [vote("me", [1, 0])], GOLD_VERDICTS)
    assert read_gold_set(tmp_path / "set") == {"c": (1, 0)}
    for line, told in (
        ("{", "line 1"), ("[1]", "candidate_id"), ('{"candidate_id": "c", "gold": [2]}', "no list of 0 and 1"),
        ('{"candidate_id": "c", "gold": [true]}', "no list of 0 and 1"), ("", "holds no gold"),
        ('{"candidate_id": "c", "gold": [1]}\n{"candidate_id": "c", "gold": [1]}', "twice"),
    ):  # fmt: skip
        path.write_text(line)
        with pytest.raises(ValueError, match=told):
            read_gold_set(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_gold_set(tmp_path / "absent.jsonl")


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"any\.jsonl"):
        read_gold_set(path)


def test_weights_that_were_made_of_a_curation_are_taken_with_and_without_its_judges(
    kit: Any, samples: list[Sample], tmp_path: Path
) -> None:
    """As docs/curate.md does it: the file has the judges in it, whether they are going to vote or not."""
    out = curate(stage_of(kit, samples, Ensemble((verifier(kit, "v1"),))), tmp_path / "out").out
    gold = {one.candidate_id: tuple(v.value for v in one.gold) for one in Curation(out).gold}
    weights = weights_of(reliabilities(votes_of(out), gold))
    assert {name for name, _, _ in weights} == {"v0", "v1", "j1", "j2"}
    for pool in (False, True):
        stage = stage_of(kit, samples, Ensemble((verifier(kit, "v1"),), pool, weights))
        summary = summary_of(curate(stage, tmp_path / "out").out)
        assert set(summary["verifiers"]["gold"]) == {"v0", "v1", *(("j1", "j2") if pool else ())}
        assert set(calls(stage).values()) == {0}


def test_only_a_finished_curation_is_weighed(kit: Any, samples: list[Sample], tmp_path: Path) -> None:
    """Of one that was changed and stopped, gold is of before, and the traces are partly new."""
    out = curate(stage_of(kit, samples, None), tmp_path / "out").out
    write_json(out / RUN, read_json(out / RUN) | {"done": False})
    for folder in (out, tmp_path):
        with pytest.raises(StoreError, match="holds no finished curation"):
            list(votes_of(folder))


def test_a_judge_with_a_verifiers_name_is_told_as_left_out(kit: Any, samples: list[Sample], tmp_path: Path) -> None:
    """One model for everything, as `cold_start` does by default: its row must not be taken for its traces'."""
    alone = replace(stage_of(kit, samples, None), verifier=verifier(kit, "j1", 2))
    out = curate(alone, tmp_path / "alone").out
    assert judges_left_out(out) == ["j1"] and {one.verifier for one in votes_of(out)} == {"j1", "j2"}
    said = {one.candidate_id: one for one in Curation(out).gold}
    assert all(one == said[one.candidate_id] for one in votes_of(out) if one.verifier == "j1")
    two = curate(replace(alone, ensemble=Ensemble((verifier(kit, "v1"),))), tmp_path / "two").out
    assert judges_left_out(two) == ["j1"]
    for pool in (False, True):
        several = curate(stage_of(kit, samples, Ensemble((verifier(kit, "v1"),), pool)), tmp_path / f"pool-{pool}").out
        assert judges_left_out(several) == []


def test_weights_of_a_finished_curation(kit: Any, samples: list[Sample], tmp_path: Path) -> None:
    """Of an ensemble its members; of a single verifier it and the judges, so that one can be made of them."""
    out = curate(stage_of(kit, samples, None), tmp_path / "single").out
    gold = {one.candidate_id: tuple(v.value for v in one.gold) for one in Curation(out).gold}
    found = {one.member: one for one in reliabilities(votes_of(out), gold)}
    assert found.keys() == {"v0", "j1", "j2"} and found["v0"].yes_right == found["v0"].no_right == 1
    larger = replace(stage_of(kit, samples, None), chunk_size=10)  # the chunks of before are left aside
    assert {one.member: one for one in reliabilities(votes_of(curate(larger, out).out), gold)} == found
    several = curate(stage_of(kit, samples, Ensemble((verifier(kit, "v1"),))), tmp_path / "several").out
    assert {one.member for one in reliabilities(votes_of(several), gold)} == {"v0", "v1", "j1", "j2"}
    path = tmp_path / "weights.json"
    write_json(path, {"members": [asdict(one) for one in found.values()]})
    weights = {name: (yes, no) for name, yes, no in read_weights(path)}
    assert min(weights["v0"]) > max(weights["j1"]) and min(weights["j1"]) >= 0
    assert read_weights(path, "one") == tuple((one.member, one.weight, one.weight) for one in found.values())
    path.write_text(json.dumps({"members": [{"weight": 1}]}))
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(path)
