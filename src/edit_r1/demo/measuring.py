"""What the demo measures: verifiers on held-out pairs and in groups, editors by the oracle, and metrics.json.

Verifiers answer from a replica a process, and the oracle looks from every core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from edit_r1.demo.stages import Stages, Tick
from edit_r1.evaluate.editor import EditScore, compare_by_category, compare_editors, edit_and_judge, report_editor
from edit_r1.evaluate.reward import (
    PairScore,
    compare_pairs,
    judge_candidates,
    pair_scores,
    report_checklist,
    report_pairs,
    task_intervals,
)
from edit_r1.preferences.pairs import distinct_candidates
from edit_r1.processes import spread
from edit_r1.recipes.tiny import RANKED_GROUP, TinySizes, role_samples, tiny_editor, tiny_judge
from edit_r1.records import Candidate, Context, Judgment, Preference, Sample
from edit_r1.stats import mean_within_group_spearman
from edit_r1.store import CANDIDATES, CONTEXTS, PREFERENCES, read_dataset, read_json, write_dataset, write_json
from edit_r1.train.editor_reward import verifier_reward
from edit_r1.zoo.editworld import exact_principles, oracle_score


def judge_pairs(out: Path, name: str, model: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """A verifier on held-out pairs: greedily on all, as the mean of 4 traces on the first contexts; and on stress.

    The base, which was never taught to judge, has the first quarter of each (`TinySizes.base_share`).
    """
    share = sizes.base_share if name == "base" else 1.0
    preferences = _of_first_contexts(out, "test", sizes.test_contexts * share)
    stress = _of_first_contexts(out, "stress", sizes.stress_contexts * share)
    few = _of_first_contexts(out, "test", sizes.mean_of_4_contexts * share)
    work = {"greedy": (preferences, 1), "mean_of_4": (few, 4), "stress": (stress, 1)}
    total = sum(traces * len(distinct_candidates(pairs)) for pairs, traces in work.values())
    result: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    done = 0
    with tiny_judge(model, sizes) as verifier:
        for part, (pairs, traces) in work.items():
            judged = judge_candidates(verifier, pairs, traces, seed, partial(_tick_part, tick, done, traces, total))
            done += traces * len(judged)
            scores = pair_scores(pairs, judged)
            stored[part] = {"pairs": [asdict(score) for score in scores], "judgments": _plain(judged)}
            result[part] = asdict(report_pairs("EditWorld stress" if part == "stress" else "EditWorld test", scores))
            if traces == 1:
                gold = read_json(out / "data" / f"{'stress' if part == 'stress' else 'test'}_gold.json")
                gold = {candidate: known for candidate, known in gold.items() if candidate in judged}
                result[part]["checklist"] = asdict(_checklist(judged, gold))
    write_json(out / f"verdicts/{name}.json", stored)
    return result


def _of_first_contexts(out: Path, role: str, count: float) -> list[Preference]:
    """The pairs of a role's first `count` contexts."""
    contexts = read_dataset(out / "data", f"{role}_contexts", CONTEXTS)[: round(count)]
    first = {context.sample.id for context in contexts}
    pairs = read_dataset(out / "data", role, PREFERENCES)
    return [preference for preference in pairs if preference.context.sample.id in first]


def _tick_part(tick: Tick, before: int, weight: int, total: int, done: int, _: int) -> None:
    """Progress of a part of a stage: `before` units were done, each of the part's items is `weight` units."""
    tick(before + weight * done, total)


RANKS = "rank within groups"
"""Beginning of the names of the stages of `rank_within_groups`."""


def rank_within_groups(models: Mapping[str, Path], sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Rank correlation of score and oracle within groups of one editor's edits of one held-out context.

    This is what editor RL lives on: group normalisation cancels how strict a judge is (peers.md, trap 16).
    """
    samples = role_samples("edit", sizes.groups_ranked, seed)
    work = [sample for sample in samples for _ in range(RANKED_GROUP)]
    edits = tiny_editor().edit(work, list(range(len(work))))
    images = [edit.image for edit in edits if edit.image is not None]
    truths = oracle_scores(work, images)
    result: dict[str, Any] = {}
    for done, (name, path) in enumerate(models.items(), start=1):
        contexts = [Context(sample, exact_principles(sample), "EditWorld", simulated=True) for sample in work]
        with tiny_judge(path, sizes) as verifier:
            scores = verifier_reward(verifier, traces=1, seed=seed)(contexts, images)
        groups = []
        for first in range(0, len(work), RANKED_GROUP):
            span = range(first, first + RANKED_GROUP)
            judged = [place for place in span if scores[place] is not None]
            groups.append(([scores[place] or 0.0 for place in judged], [truths[place] for place in judged]))
        result[name] = asdict(mean_within_group_spearman(groups, seed))
        tick(done, len(models))
    return result


def _checklist(judgments: Mapping[str, Judgment], gold: Mapping[str, tuple[list[int], float]]) -> Any:
    return report_checklist(
        [judgments[name] for name in gold],
        [verdicts for verdicts, _ in gold.values()],
        [utility for _, utility in gold.values()],
    )


def _plain(judgments: Mapping[str, Judgment]) -> dict[str, Any]:
    """Scores and first traces by candidate, for the report and for reuse."""
    return {
        name: {"score": judgment.score, "lines": [asdict(result) for result in judgment.principles],
               "text": judgment.outcomes[0].text if judgment.outcomes else ""}
        for name, judgment in judgments.items()
    }  # fmt: skip


def oracle_scores(samples: Sequence[Sample], images: Sequence[bytes]) -> list[float]:
    """The oracle's utility of what a neural editor painted, from pixels alone."""
    return spread(_oracle_score, list(zip(samples, images, strict=True)))


def _oracle_score(work: tuple[Sample, bytes]) -> float:
    return oracle_score(*work)


EDIT_SEEDS = (11, 12)
"""Every editor paints each held-out context with the same two seeds."""


def judge_editor(out: Path, name: str, path: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """An editor on held-out contexts, judged by the oracle; pictures are kept for the report."""
    samples = role_samples("edit", sizes.edit_contexts, seed)
    editor = tiny_editor(path)
    scores: list[EditScore] = []
    for start in range(0, len(samples), 24):
        scores += edit_and_judge(editor, oracle_scores, samples[start : start + 24], EDIT_SEEDS)
        tick(min(start + 24, len(samples)), len(samples))
    candidates = [
        Candidate(f"{score.sample_id}-{score.seed}", score.sample_id, score.image, name, score.seed) for score in scores
    ]
    write_dataset(out / "data", f"edits_{name}", candidates, CANDIDATES)
    rows = [{"sample_id": s.sample_id, "category": s.category, "seed": s.seed, "score": s.score} for s in scores]
    return {"scores": rows}


PAIR_FIELDS = ("half_credit", "tie_rate", "ci95", "pairs", "unparsed")
CHECKLIST_FIELDS = ("tpr", "tnr", "agreement", "mean_score", "score_error", "mean_tokens")


def collect_metrics(out: Path, stages: Stages, models: Sequence[str], editors: Sequence[str]) -> dict[str, Any]:
    """metrics.json: every number of the run, from what the stages left on disk."""
    verifier: dict[str, Any] = {}
    pairs: dict[str, list[PairScore]] = {}
    for name in models:
        result = stages.result(f"judge with {name}")
        greedy, stress, mean = result["greedy"], result["stress"], result["mean_of_4"]
        verifier[name] = {
            "accuracy": greedy["official"],
            **{key: greedy[key] for key in (*PAIR_FIELDS, "tasks", "at_margin")},
            **{key: greedy["checklist"][key] for key in CHECKLIST_FIELDS},
            "mean_of_4": {"accuracy": mean["official"], **{key: mean[key] for key in PAIR_FIELDS}},
            "stress": {
                "accuracy": stress["official"], **{key: stress[key] for key in PAIR_FIELDS},
                **{key: stress["checklist"][key] for key in ("tpr", "tnr")},
            },
        }  # fmt: skip
        stored = json.loads((out / f"verdicts/{name}.json").read_text())["greedy"]["pairs"]
        pairs[name] = [PairScore(**row) for row in stored]
        verifier[name]["tasks_ci95"] = task_intervals(pairs[name])
    for stage in (name for name in stages.names() if name.startswith(RANKS)):
        for name, correlation in stages.result(stage).items():
            if name in verifier:
                verifier[name]["within_group"] = correlation
    for label, other in (("gcpo_minus_sft", "sft"), ("gcpo_minus_control", "sft_continued")):
        if other in pairs:
            difference = compare_pairs(pairs["gcpo"], pairs[other])
            verifier[label] = {"delta": difference.mean, "ci95": difference.ci95}
    scores = {
        name: [EditScore(row["sample_id"], row["category"], row["seed"], b"", row["score"])
               for row in stages.result(f"oracle on {name}")["scores"]]
        for name in editors
    }  # fmt: skip
    editor: dict[str, Any] = {name: asdict(report_editor(values)) for name, values in scores.items()}
    comparison = compare_editors(scores["after"], scores["before"])
    editor |= {
        "delta": {"mean": comparison.mean, "ci95": comparison.ci95},
        "delta_by_category": {
            category: {"mean": one.mean, "ci95": one.ci95, "edits": one.good + one.same + one.bad}
            for category, one in compare_by_category(scores["after"], scores["before"]).items()
        },
        "gsb": comparison.gsb,
        "gsb_ci95": comparison.gsb_ci95,
        "good_same_bad": [comparison.good, comparison.same, comparison.bad],
    }
    for name in (name for name in editors if name not in ("before", "after")):
        against = compare_editors(scores["after"], scores[name])
        editor[f"after_minus_{name}"] = {"mean": against.mean, "ci95": against.ci95}
    hashes = {**stages.result("cold-start data")["hashes"], **stages.result("preferences")["hashes"]}
    seconds = {name: round(stages.seconds(name), 1) for name in stages.names()}
    return {"verifier": verifier, "editor": editor, "seconds": seconds, "hashes": hashes}


def print_summary(metrics: Mapping[str, Any], report: Path) -> None:
    """The table at the end."""
    table = RichTable(title="EditWorld, held out", title_justify="left")
    for column in ("verifier", "half credit % (95 %)", "ties %", "unparsed", "TPR %", "TNR %"):
        table.add_column(column, justify="left" if column == "verifier" else "right")
    for name, row in metrics["verifier"].items():
        if "half_credit" in row:
            read = row["unparsed"] < row["pairs"]  # without an answer that could be read there is nothing to tell
            credit = _with_interval(row["half_credit"], row["ci95"]) if read else "–"
            ties, tpr, tnr = (
                f"{100 * value:.1f}" if value is not None and read else "–"
                for value in (row["tie_rate"], row["tpr"], row["tnr"])
            )
            table.add_row(name, credit, ties, f"{row['unparsed']} of {row['pairs']}", tpr, tnr)
    console = Console()
    console.print(table)
    for label, other in (("gcpo_minus_sft", "SFT"), ("gcpo_minus_control", "SFT continued for as long")):
        if label in metrics["verifier"]:
            row = metrics["verifier"][label]
            console.print(
                f"GCPO - {other}, points: {_with_interval(row['delta'], row['ci95'], sign='+')}", soft_wrap=True
            )
    editor = metrics["editor"]
    console.print(
        f"editor, oracle score of 10: {editor['before']['oracle']:.2f} before, {editor['after']['oracle']:.2f} after; "
        f"difference {_with_interval(editor['delta']['mean'], editor['delta']['ci95'], 1, 2, '+')}",
        soft_wrap=True,
    )
    for name, told in (("sft_reward", "rewarded by the SFT verifier"), ("best_of_g", "fine-tuned on the best of G")):
        if name in editor:
            against = editor[f"after_minus_{name}"]
            difference = _with_interval(against["mean"], against["ci95"], 1, 2, "+")
            console.print(f"{told}: {editor[name]['oracle']:.2f}; after less this {difference}", soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True)


def _with_interval(
    value: float, ci95: Sequence[float] | None, scale: float = 100, digits: int = 1, sign: str = ""
) -> str:
    """ "65.9 (63.0 to 68.7)"; without an interval the value alone."""
    shown = f"{scale * value:{sign}.{digits}f}"
    return shown if ci95 is None else f"{shown} ({scale * ci95[0]:.{digits}f} to {scale * ci95[1]:.{digits}f})"
