"""What of a run the report shows: chosen by rule, never by hand, from what the stages left on disk."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_r1.curate.select import select
from edit_r1.images import decode_rgb
from edit_r1.recipes.tiny import role_samples, tiny_judge
from edit_r1.records import Candidate, PoolTrace, Preference, Sample
from edit_r1.report.data import ContextView, Curve, EditView, JudgedImage, Line, PairView, ReportData, TraceView
from edit_r1.report.page import write_report
from edit_r1.store import (
    CANDIDATES,
    CONTEXTS,
    GOLD_VERDICTS,
    POOL_TRACES,
    PREFERENCES,
    read_dataset,
    read_json,
)
from edit_r1.verifier.scoring import ScoreItem
from edit_r1.world.checks import holds, parse_question
from edit_r1.world.oracle import judge
from edit_r1.world.perceive import perceive
from edit_r1.world.samples import edit_of, scene_of
from edit_r1.world.scenes import Damage, Scene, from_json
from edit_r1.zoo.editworld import exact_principles

CONTEXTS_SHOWN = 3
PAIRS_SHOWN = 3
EDITS_SHOWN = 6


def judge_examples(out: Path, edit_contexts: int, seed: int) -> dict[str, Any]:
    """Checklists of the GCPO verifier for the edits that the report shows: the largest gains, the median, the worst.

    Returns rows {sample_id, seed} with the verifier's score and lines under "before" and "after".
    """
    before, after = (_edits(out, name) for name in ("before", "after"))
    scores = {name: _oracle_scores(out, name) for name in ("before", "after")}
    order = sorted(before, key=lambda key: scores["after"][key] - scores["before"][key], reverse=True)
    middle = len(order) // 2
    chosen = list(dict.fromkeys([*order[: EDITS_SHOWN - 2], order[middle], order[-1]]))
    samples = {sample.id: sample for sample in role_samples("edit", edit_contexts, seed)}
    verifier = tiny_judge(out / "gcpo/model")
    items = [
        ScoreItem(
            (samples[key[0]].source,),
            pictures[key].image,
            samples[key[0]].instruction,
            exact_principles(samples[key[0]]),
        )
        for key in chosen
        for pictures in (before, after)
    ]
    judged = verifier.score_many(items, traces=1, seed=seed)
    rows = []
    for number, key in enumerate(chosen):
        row: dict[str, Any] = {"sample_id": key[0], "seed": key[1]}
        for offset, name in enumerate(("before", "after")):
            judgment = judged[2 * number + offset]
            row[name] = {
                "score": judgment.score,
                "oracle": scores[name][key],
                "lines": [[result.verdict, result.evidence] for result in judgment.principles],
            }
        rows.append(row)
    return {"edits": rows}


def draw_report(out: Path) -> Path:
    """`report.html` from a finished run.

    Raises:
        ValueError: when the run is not finished, or was made by a version that measured less.
    """
    if not (out / "metrics.json").exists():
        raise ValueError(f"{out}: holds no finished demo; `edit-r1 demo --out {out}` makes or continues one")
    metrics = read_json(out / "metrics.json")
    size, seed = read_json(out / "run.json")["key"].rsplit("-", 1)
    command = " ".join(
        [
            f"edit-r1 demo --seed {seed}",
            *([f"--size {size}"] if size != "demo" else []),
            *(["--controls"] if "sft_continued" in metrics.get("verifier", {}) else []),
        ]
    )
    if missing := _missing(metrics):
        raise ValueError(
            f"{out}: its metrics.json has no {', '.join(missing)}, so an older version made it: "
            f"`{command} --out {out}` measures what is missing, from what the run has on disk"
        )
    data = ReportData(
        title="Edit-R1: a verifier taught to judge edits, an editor taught by the verifier",
        command=command,
        metrics=metrics,
        counts=_counts(out),
        contexts=tuple(_context_views(out, int(seed))),
        pairs=tuple(_pair_views(out)),
        edits=tuple(_edit_views(out, metrics, int(seed))),
        curves=tuple(_curves(out)),
    )
    return write_report(data, out / "report.html")


_MEASURED = {
    "verifier": ("base", "sft", "gcpo", "gcpo_minus_sft"),
    "editor": ("before", "after", "delta", "gsb", "good_same_bad"),
}
"""What the page needs of metrics.json."""


def _missing(metrics: Mapping[str, Any]) -> list[str]:
    found = {part: metrics.get(part, {}) for part in _MEASURED}
    return [f"{part}.{name}" for part, names in _MEASURED.items() for name in names if name not in found[part]]


def _counts(out: Path) -> dict[str, int]:
    rows = read_json(out / "data/cold/summary.json")["rows"]
    counts = {
        "contexts": rows["contexts"],
        "candidates": rows["candidates"],
        "traces": rows["traces"],
        "gold lists": rows["gold"],
        "selected traces": rows["selected"],
    }
    for role, label in (("pairs", "training pairs"), ("test", "held-out pairs"), ("stress", "stress pairs")):
        counts[label] = len(read_dataset(out / "data", role, PREFERENCES))
    return counts


# --- the curation ------------------------------------------------------------------------------------------------


def _context_views(out: Path, seed: int) -> list[ContextView]:
    """The first contexts whose first candidate had a trace with a wrong verdict: something to look at."""
    cold = out / "data/cold"
    by_sample: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in read_dataset(cold, "candidates", CANDIDATES):
        by_sample[candidate.sample_id].append(candidate)
    traces: dict[str, list[PoolTrace]] = defaultdict(list)
    for trace in read_dataset(cold, "traces", POOL_TRACES):
        traces[trace.candidate_id].append(trace)
    gold = {item.candidate_id: item for item in read_dataset(cold, "gold", GOLD_VERDICTS)}
    views: list[ContextView] = []
    for context in read_dataset(cold, "contexts", CONTEXTS):
        if len(views) == CONTEXTS_SHOWN:
            break
        candidates = sorted(by_sample[context.sample.id], key=lambda candidate: _utility(context.sample, candidate))
        if not candidates or candidates[0].id not in gold:
            continue
        choice = select(traces[candidates[0].id], gold[candidates[0].id], "neutral", True, seed)
        if choice.selected is None or min(choice.accuracies.values()) == 1.0:
            continue
        shown = [
            TraceView(
                t.judge,
                t.outcome.text,
                t is choice.selected,
                choice.rejected.get(t.index, "kept: agrees best with gold"),
            )
            for t in sorted(traces[candidates[0].id], key=lambda item: item.index)
        ]
        pictures = tuple(JudgedImage(c.image, c.editor, None, _utility(context.sample, c)) for c in candidates)
        listed = tuple((item.question, item.category) for item in context.principles)
        state = _state(context.sample, candidates[0])
        verified = tuple(
            Line(
                item.question,
                item.category,
                verdict.value,
                verdict.evidence,
                _gold(context.sample, item.question, state),
            )
            for item, verdict in zip(context.principles, gold[candidates[0].id].gold, strict=True)
        )
        views.append(
            ContextView(
                context.sample.source,
                context.sample.instruction,
                context.sample.category,
                listed,
                pictures,
                verified,
                tuple(shown),
            )
        )
    return views


def _state(sample: Sample, candidate: Candidate) -> tuple[Scene, Damage]:
    if candidate.hidden is not None:
        return from_json(candidate.hidden)
    return perceive(decode_rgb(candidate.image), scene_of(sample), edit_of(sample))


def _utility(sample: Sample, candidate: Candidate) -> float:
    return judge(scene_of(sample), edit_of(sample), *_state(sample, candidate)).utility


def _gold(sample: Sample, question: str, state: tuple[Scene, Damage]) -> int | None:
    check = parse_question(question)
    return None if check is None else int(holds(check, scene_of(sample), *state))


# --- pairs ---------------------------------------------------------------------------------------------------------


def _pair_views(out: Path) -> list[PairView]:
    """Pairs that GCPO orders right and SFT did not, by the size of the gain; then the one GCPO gets most wrong."""
    judged = {name: read_json(out / f"verdicts/{name}.json")["greedy"]["judgments"] for name in ("sft", "gcpo")}
    preferences = [p for p in read_dataset(out / "data", "test", PREFERENCES) if p.choice != "same"]

    def gap(preference: Preference, name: str) -> float:
        assert preference.winner is not None
        assert preference.loser is not None
        winner = judged[name][preference.winner.id]["score"]
        loser = judged[name][preference.loser.id]["score"]
        return float("nan") if winner is None or loser is None else winner - loser

    right = [p for p in preferences if gap(p, "gcpo") > 0 >= gap(p, "sft")]
    right.sort(key=lambda p: gap(p, "sft") - gap(p, "gcpo"))
    wrong = sorted((p for p in preferences if gap(p, "gcpo") < 0), key=lambda p: gap(p, "gcpo"))
    return [_pair_view(p, judged) for p in [*right[: PAIRS_SHOWN - 1], *wrong[:1]]]


def _pair_view(preference: Preference, judged: Mapping[str, Any]) -> PairView:
    context = preference.context
    assert preference.winner is not None
    assert preference.loser is not None

    def said(candidate: Candidate, name: str) -> JudgedImage:
        state = _state(context.sample, candidate)
        entry = judged[name][candidate.id]
        lines = tuple(
            Line(
                row["question"],
                row["category"],
                row["verdict"],
                row["evidence"],
                _gold(context.sample, row["question"], state),
            )
            for row in entry["lines"]
        )
        oracle = judge(scene_of(context.sample), edit_of(context.sample), *state).utility
        return JudgedImage(candidate.image, candidate.editor, entry["score"], oracle, lines)

    names = ("sft", "gcpo")
    return PairView(
        context.sample.source,
        context.sample.instruction,
        ("SFT verifier", "SFT + GCPO verifier"),
        tuple(said(preference.winner, name) for name in names),
        tuple(said(preference.loser, name) for name in names),
    )


# --- edits ---------------------------------------------------------------------------------------------------------


def _edits(out: Path, name: str) -> dict[tuple[str, int], Candidate]:
    return {(c.sample_id, c.seed): c for c in read_dataset(out / "data", f"edits_{name}", CANDIDATES)}


def _oracle_scores(out: Path, name: str) -> dict[tuple[str, int], float]:
    rows = read_json(out / "stages" / f"oracle-on-{name}.done.json")["meta"]["result"]["scores"]
    return {(row["sample_id"], row["seed"]): row["score"] for row in rows}


def _edit_views(out: Path, metrics: Mapping[str, Any], seed: int) -> list[EditView]:
    samples = {sample.id: sample for sample in role_samples("edit", metrics["editor"]["before"]["contexts"], seed)}
    rows = read_json(out / "stages/examples.done.json")["meta"]["result"]["edits"]
    pictures = {name: _edits(out, name) for name in ("before", "after")}
    views = []
    for row in rows:
        sample, key = samples[row["sample_id"]], (row["sample_id"], row["seed"])
        said = {}
        for name in ("before", "after"):
            image, entry = pictures[name][key].image, row[name]
            state = perceive(decode_rgb(image), scene_of(sample), edit_of(sample))
            lines = tuple(
                Line(item.question, item.category, verdict, evidence, _gold(sample, item.question, state))
                for item, (verdict, evidence) in zip(exact_principles(sample), entry["lines"], strict=True)
            )
            said[name] = JudgedImage(image, f"{name} RL", entry["score"], entry["oracle"], lines)
        views.append(EditView(sample.source, sample.instruction, sample.category, said["before"], said["after"]))
    return views


# --- curves --------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]


def _series(lines: Sequence[Mapping[str, Any]], field: str) -> list[tuple[float, float]]:
    return [(line["step"], line[field]) for line in lines if isinstance(line.get(field), int | float)]


def _curves(out: Path) -> list[Curve]:
    sft, gcpo = _lines(out / "sft/curves.jsonl"), _lines(out / "gcpo/curves.jsonl")
    editor = [line for line in _lines(out / "editor_after/metrics.jsonl") if line["kind"] == "step"]
    found = [
        Curve("SFT: loss on the trace", "step", {"loss": _series(sft, "loss")}),
        Curve("GCPO: mean win ratio (reward)", "generation", {"mean ratio": _series(gcpo, "mean_ratio")}),
        Curve(
            "GCPO: ties and unparsed",
            "generation",
            {"ties": _series(gcpo, "tie_share"), "unparsed": _series(gcpo, "unparsed")},
        ),
        Curve("GCPO: share of points passed", "generation", {"passed": _series(gcpo, "passed")}),
        Curve("GCPO: loss of SFT's traces, replayed", "generation", {"loss": _series(gcpo, "replay_loss")}),
        Curve(
            "GCPO: mean score",
            "generation",
            {"winner": _series(gcpo, "score_winner"), "loser": _series(gcpo, "score_loser")},
        ),
        Curve("Editor RL: reward (gated verdicts), 0 to 10", "iteration", {"reward": _series(editor, "reward_mean")}),
        Curve("Editor RL: KL to the editor before", "iteration", {"KL": _series(editor, "kl")}),
    ]
    return [
        Curve(curve.title, curve.x_label, {name: points for name, points in curve.series.items() if points})
        for curve in found
        if any(curve.series.values())
    ]
