"""Each step on its own: what comes out, what is asked again, what is recorded as failed."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from edit_r1.curate.decompose import decompose
from edit_r1.curate.edit import draw_jobs, edit, paint
from edit_r1.curate.failures import OUTAGE, Failure, OutageError, causes, check_outage, told_of_nothing
from edit_r1.curate.pick import HardVerdict, judge_hard, usable
from edit_r1.curate.reason import PoolMember, lost, reason
from edit_r1.curate.retry import TRIES, ask, retry_sampling
from edit_r1.curate.verify import verify
from edit_r1.editors.protocol import EditedImage
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Sample, Trace, Unparsed, Verdict
from edit_r1.verifier.traces import write_gold, write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


def context_of(kit: Any, sample: Sample) -> Context:
    return Context(sample, kit.PRINCIPLES, "decomposer")


# --- pick


def test_hard_keeps_what_the_filter_keeps_with_its_reason(kit: Any, samples: list[Sample]) -> None:
    def said_of(hard: object, reason: str = "Because.", category: str = "style transfer") -> str:
        return json.dumps({"reason": reason, "hard": hard, "category": category})

    said = {
        0: said_of(True, "Two steps are asked for.", "multi-step"),
        1: "```json\n" + said_of("no", "One colour only.", "Color Alteration") + "\n```",
        2: "It is hard to say, hard or simple.",
        3: said_of(True) + said_of(False),
        4: "<think>{'hard': false}</think>" + said_of(True, "Fine detail.", "text_modification"),
        5: Completion(said_of(True), 3, "length"),
        6: Completion("", 0, "error", "refused"),
    }

    def answer(request: Request, draw: int) -> str | Completion:
        return said[next(number for number in said if f"circle {number} " in request.text)]

    found = judge_hard(samples[:7], kit.VLM("filter", answer))
    verdicts = [one for one in found if isinstance(one, HardVerdict)]
    failures = [one for one in found if isinstance(one, Failure)]
    assert [v.sample_id for v in verdicts if v.hard] == ["row-0000", "row-0004"]
    assert [(v.hard, v.reason, v.category) for v in verdicts] == [
        (True, "Two steps are asked for.", "multi-step"),
        (False, "One colour only.", "colour alteration"),
        (True, "Fine detail.", "text modification"),
    ]
    assert [(f.row, f.failed_call) for f in failures] == [
        ("row-0002", False),
        ("row-0003", False),
        ("row-0005", False),
        ("row-0006", True),
    ]
    assert "refused" in failures[-1].reason


def test_unusable_samples_are_recorded(samples: list[Sample]) -> None:
    broken = [
        Sample("cut", samples[0].source[:40], "Make it blue.", ""),
        Sample("silent", samples[0].source, "  ", ""),
        Sample("long", samples[0].source, "x" * 3000, ""),
    ]
    kept, failures = usable([broken[0], samples[1], *broken[1:]])
    assert kept == [samples[1]]
    assert [(f.row, f.model) for f in failures] == [
        ("cut", "source image"),
        ("silent", "instruction"),
        ("long", "instruction"),
    ]


# --- retries and outages


def test_a_retry_has_another_seed_and_is_not_greedy() -> None:
    greedy = Sampling(10, temperature=0.0, seed=5)
    assert retry_sampling(greedy, 0) == greedy
    tries = [retry_sampling(greedy, attempt) for attempt in range(TRIES)]
    assert len({sampling.seed for sampling in tries}) == TRIES
    assert all(sampling.temperature > 0 for sampling in tries[1:])


def test_only_what_failed_is_asked_again(kit: Any) -> None:
    """The answer to request i parses at try i; request 5 never does."""
    tries: Counter[str] = Counter()

    def answer(request: Request, _: int) -> str:
        tries[request.text] += 1
        return "good" if tries[request.text] > int(request.text) else "bad"

    def parse(place: int, answer: Completion) -> str | Unparsed:
        return f"{place} {answer.text}" if answer.text == "good" else Unparsed(answer.text, f"bad {place}")

    requests = [Request((str(number),)) for number in (2, 0, 5, 1)]
    results = ask(kit.VLM("model", answer), requests, parse, WARM)
    assert [r if isinstance(r, str) else r.reason for r in results] == ["0 good", "1 good", "bad 2", "3 good"]
    assert tries == {"2": 3, "0": 1, "5": TRIES, "1": 2}
    with pytest.raises(ValueError, match="tries=0"):
        ask(kit.VLM("model", answer), requests, parse, WARM, tries=0)


def test_an_outage_is_not_a_failure_of_rows() -> None:
    silent = [Failure("verify", f"c{i}", "endpoint", "refused", failed_call=True) for i in range(OUTAGE)]
    with pytest.raises(OutageError, match=r"endpoint: no answer to any of 8 calls \(refused\)"):
        check_outage(silent, set())
    check_outage(silent, {"endpoint"})
    check_outage(silent[1:], set())
    check_outage([*silent, Failure("verify", "c", "endpoint", "two verdicts for three")], set())
    assert causes([*silent, Failure("x", "c", "b", "r")]) == {"endpoint: refused": OUTAGE, "b: r": 1}


@pytest.mark.parametrize(
    ("left", "failed", "told"),
    [
        ((4, 4, 4, 8, 0, 0), {"gold": {"v: none": 4}}, "gold: 4 x v: none"),
        (
            (4, 4, 4, 8, 0, 0),
            {"traces": {"j: no score": 7, "j: cut": 1}, "gold": {"v: none": 4}},
            "traces: 7 x j: no score",
        ),
        ((4, 4, 4, 8, 0, 0), {"traces": {"j: no score": 7}, "gold": {"v: none": 1200}}, "gold: 1,200 x v: none"),
        ((4, 0, 0, 0, 0, 0), {"contexts": {"d: refused": 4}}, "contexts: 4 x d: refused"),
        (
            (4, 4, 0, 0, 0, 0),
            {"contexts": {"d: refused": 1}, "candidates": {"e: time-out": 4}},
            "candidates: 4 x e: time-out",
        ),
    ],
)
def test_a_run_that_selected_nothing_tells_where_everything_was_lost(
    left: tuple[int, ...], failed: dict[str, dict[str, int]], told: str
) -> None:
    """And not of copies among the samples, which do no harm."""
    steps = ("samples", "contexts", "candidates", "traces", "gold", "selected")
    found: dict[str, dict[str, int]] = {step: {} for step in steps}
    found |= {"samples": {"copy: of an earlier row": 12}, "selected": {"selector: no gold": 4}, **failed}
    assert told_of_nothing(dict(zip(steps, left, strict=True)), found) == told


# --- decompose


def test_decompose_retries_then_records(kit: Any, samples: list[Sample]) -> None:
    def answer(request: Request, draw: int) -> str | Completion:
        if "circle 3 " in request.text:
            return Completion("", 0, "error", "time-out")
        if "circle 4 " in request.text:
            return "There is nothing to ask."
        if "circle 5 " in request.text:
            return Completion(write_principles(kit.PRINCIPLES, "full"), 9, "length")
        return write_principles(kit.PRINCIPLES, "full")

    vlm = kit.VLM("decomposer", answer, simulated=True)
    contexts, failures = decompose(samples, vlm, "full", WARM)
    assert [context.sample for context in contexts] == [*samples[:3], *samples[6:]]
    assert all(c.principles == kit.PRINCIPLES and c.decomposer == "decomposer" and c.simulated for c in contexts)
    assert [(f.row, f.failed_call) for f in failures] == [("row-0003", True), ("row-0004", False), ("row-0005", False)]
    assert len(vlm.calls) == len(samples) + 3 * (TRIES - 1)
    assert "time-out" in failures[0].reason and "token limit" in failures[2].reason


def test_examples_differ_between_samples_and_do_not_depend_on_company(kit: Any, samples: list[Sample]) -> None:
    together, alone = kit.decomposer(), kit.decomposer()
    decompose(samples, together, "full", WARM)
    decompose(samples[4:5], alone, "full", WARM)
    assert together.calls[4] == alone.calls[0]
    shown = {request.text.split("Example 1.")[1].split("\n")[0] for request, _ in together.calls}
    assert len(shown) > 3


# --- edit


def test_edit_spreads_editors_and_does_not_depend_on_company(kit: Any, samples: list[Sample]) -> None:
    editors = [kit.Editor("a"), kit.Editor("b"), kit.Editor("c")]
    contexts = [context_of(kit, sample) for sample in samples]
    candidates, failures = edit(contexts, editors, per_context=4, seed=0)
    assert not failures and len(candidates) == 40 and len({c.id for c in candidates}) == 40
    assert [c.sample_id for c in candidates] == [sample.id for sample in samples for _ in range(4)]
    for sample in samples:
        mine = [c for c in candidates if c.sample_id == sample.id]
        assert {c.editor for c in mine[:3]} == {"a", "b", "c"} and len({c.seed for c in mine}) == 4
    assert edit(contexts[6:7], editors, 4, 0)[0] == candidates[24:28]
    assert edit(contexts, editors, 4, 1)[0] != candidates


def test_jobs_of_a_small_budget_use_all_editors_evenly() -> None:
    counts = Counter(number for i in range(300) for number, _ in draw_jobs(f"row {i}", "abcdef", 2, 0))
    assert all(70 < counts[number] < 130 for number in range(6))  # 100 expected


def test_an_editor_that_is_added_changes_only_what_it_takes_over() -> None:
    def named(editors: str, per_context: int) -> list[set[tuple[str, int]]]:
        jobs = [draw_jobs(f"row {i}", editors, per_context, 0) for i in range(200)]
        return [{(editors[number], own) for number, own in one} for one in jobs]

    for before, after in zip(named("abcd", 2), named("dxcba", 2), strict=True):
        kept = before & after
        assert {name for name, _ in after - kept} <= {"x"} and len(kept) >= 1
    # With room for one more, nothing is displaced.
    assert all(before < after for before, after in zip(named("abcd", 4), named("abcdx", 5), strict=True))
    # Used again, an editor has another seed, and the first round stays as it was.
    for once, twice in zip(named("ab", 2), named("ab", 4), strict=True):
        assert once < twice and len(twice) == 4


def test_edit_records_failures_and_broken_pictures(kit: Any, samples: list[Sample]) -> None:
    class Truncating(kit.Editor):  # type: ignore[misc]
        def edit(self, samples: Any, seeds: Any) -> list[EditedImage]:
            return [EditedImage(item.image[:30]) for item in super().edit(samples, seeds)]

    moody = kit.Editor("moody", lambda sample, seed: "too dark" if sample.id == "row-0002" else None)
    contexts = [context_of(kit, sample) for sample in samples[:4]]
    candidates, failures = edit(contexts, [moody, Truncating("torn")], per_context=2, seed=0)
    assert [c.sample_id for c in candidates] == ["row-0000", "row-0001", "row-0003"]
    assert len(candidates) + len(failures) == 8
    assert [(f.row, f.reason) for f in failures if f.model == "moody"] == [("row-0002", "too dark")]
    assert [f.row for f in failures if f.model == "torn"] == [sample.id for sample in samples[:4]]
    with pytest.raises(ValueError, match="name of its own"):
        edit(contexts, [moody, moody], 1, 0)
    with pytest.raises(ValueError, match="0 editors"):
        edit(contexts, [], 1, 0)


# --- reason and verify


def quadruples(kit: Any, samples: list[Sample]) -> tuple[dict[str, Context], list[Candidate]]:
    contexts = {sample.id: context_of(kit, sample) for sample in samples}
    return contexts, [Candidate(f"c{i}", s.id, kit.picture(100 + i), "e", 0) for i, s in enumerate(samples)]


def test_reason_numbers_traces_over_the_pool_and_keeps_unparsed_ones(kit: Any, samples: list[Sample]) -> None:
    contexts, candidates = quadruples(kit, samples[:3])
    failing = kit.VLM("down", lambda request, draw: Completion("", 0, "error", "refused"))
    pool = [
        PoolMember(kit.judge("j"), 2, WARM),
        PoolMember(kit.judge("j"), 1, Sampling(512, 0.3), system="Be strict."),
        PoolMember(failing, 1, WARM),
    ]
    traces = reason(contexts, candidates, pool)
    for candidate in candidates:
        mine = sorted((t for t in traces if t.candidate_id == candidate.id), key=lambda t: t.index)
        assert [(t.index, t.judge) for t in mine] == [(0, "j"), (1, "j"), (2, "j"), (3, "down")]
        assert all(isinstance(t.outcome, Trace) for t in mine[:3])
        assert isinstance(mine[3].outcome, Unparsed) and mine[3].outcome.failed_call
    assert [(f.row, f.failed_call) for f in lost(traces)] == [("c0", True), ("c1", True), ("c2", True)]
    assert {request.system for request, _ in pool[1].vlm.calls} == {"Be strict."}
    with pytest.raises(ValueError, match="no context for sample row-0002"):
        reason({"row-0000": contexts["row-0000"], "row-0001": contexts["row-0001"]}, candidates, pool)


def test_pool_members_that_cannot_differ_are_refused(kit: Any) -> None:
    with pytest.raises(ValueError, match="copies of one"):
        PoolMember(kit.judge("j"), 2, Sampling(512, temperature=0.0))
    with pytest.raises(ValueError, match="at least 1"):
        PoolMember(kit.judge("j"), 0, WARM)


def test_verify_shows_every_parsed_trace_of_its_own_candidate(kit: Any, samples: list[Sample]) -> None:
    contexts, candidates = quadruples(kit, samples[:2])
    text = write_trace(["seen A", "seen B", None], [1, 0, 1], 4.0, "both", "full", kit.QUESTIONS)
    verdicts = (Verdict(1), Verdict(0), Verdict(1))
    traces = [
        PoolTrace("c0", "j", 1, Trace(text.replace("seen A", "second"), 4.0, verdicts)),
        PoolTrace("c0", "j", 0, Trace(text, 4.0, verdicts)),
        PoolTrace("c0", "j", 2, Unparsed("run wild", "no score")),
        PoolTrace("c1", "j", 0, Trace(text.replace("seen A", "of the other"), 4.0, verdicts)),
    ]
    vlm = kit.verifier()
    gold, failures = verify(contexts, candidates, traces, vlm, "full", WARM)
    asked = vlm.calls[0][0]
    assert asked.text.index("seen A") < asked.text.index("second")
    assert "run wild" not in asked.text and "of the other" not in asked.text
    assert asked.images == (samples[0].source, candidates[0].image)
    assert [item.candidate_id for item in gold] == ["c0", "c1"] and not failures


def test_gold_of_a_wrong_length_is_asked_again_then_failed(kit: Any, samples: list[Sample]) -> None:
    contexts, candidates = quadruples(kit, samples[:3])
    full = [Verdict(1, "a"), Verdict(0, "b"), Verdict(1, "c")]
    tries: Counter[bytes] = Counter()

    def answer(request: Request, _: int) -> str:
        tries[request.images[1]] += 1
        if request.images[1] == candidates[0].image:
            order = [2, 0, 1]  # the questions say which is which
            return write_gold([full[i] for i in order], [kit.QUESTIONS[i] for i in order])
        short = request.images[1] == candidates[1].image or tries[request.images[1]] == 1
        count = 2 if short else 3
        return write_gold(full[:count], kit.QUESTIONS[:count])

    vlm = kit.VLM("verifier", answer)
    gold, failures = verify(contexts, candidates, [], vlm, "full", Sampling(512, temperature=0.0))
    assert gold == [GoldVerdicts(name, tuple(full), "verifier") for name in ("c0", "c2")]
    assert [(f.row, f.reason) for f in failures] == [("c1", "2 verdicts for 3 principles")]
    assert [tries[candidate.image] for candidate in candidates] == [1, TRIES, 2]


def test_edits_that_are_not_there_are_no_outage(samples: list[Sample]) -> None:
    """A folder of ready edits that has none for a whole chunk is in order."""

    class Empty:
        name, simulated = "ready", False

        def edit(self, samples: Any, seeds: Any) -> list[EditedImage]:
            return [EditedImage(None, "0 ready edits, number 1 is not there", absent=True) for _ in samples]

    made = paint(Empty(), [(sample, 0) for sample in samples])
    failures = [one for one in made if isinstance(one, Failure)]
    assert len(failures) == len(samples) > OUTAGE and not any(one.failed_call for one in failures)
    check_outage(failures, set())
