"""The whole loop on EditWorld, as one readable function: data, SFT, GCPO, editor RL, evaluation, report.

Every stage leaves its result on disk and a marker; a run that was killed continues from the last
finished shard, step or checkpoint, and ends with the same dataset hashes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from edit_r1.curate.decompose import decompose
from edit_r1.curate.edit import edit
from edit_r1.curate.run import curate
from edit_r1.demo.showing import draw_report, exact_principles, judge_examples
from edit_r1.demo.stages import Stages
from edit_r1.evaluate.editor import EditScore, compare_editors, edit_and_judge, report_editor
from edit_r1.evaluate.reward import (
    PairScore,
    compare_pairs,
    judge_candidates,
    pair_scores,
    report_checklist,
    report_pairs,
)
from edit_r1.images import decode_rgb
from edit_r1.preferences.pairs import collect
from edit_r1.recipes.tiny import (
    SIZES,
    TinySizes,
    candidate_editors,
    role_samples,
    tiny_curation,
    tiny_editor,
    tiny_editor_rl,
    tiny_gcpo,
    tiny_sft,
    tiny_sft_continued,
)
from edit_r1.records import Candidate, Context, Judgment, Preference, Sample
from edit_r1.stats import mean_within_group_spearman
from edit_r1.store import (
    CANDIDATES,
    CONTEXTS,
    PREFERENCES,
    QUADRUPLES,
    read_dataset,
    read_json,
    write_dataset,
    write_json,
)
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_reward import verifier_reward
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.processes import in_processes
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.protocol import Sampling
from edit_r1.world.annotators import SimulatedAnnotator
from edit_r1.world.checks import holds, parse_question
from edit_r1.world.frozen import ANNOTATOR_WEIGHTS
from edit_r1.world.index import WorldIndex
from edit_r1.world.oracle import judge
from edit_r1.world.perceive import judge_pixels
from edit_r1.world.samples import edit_of, scene_of
from edit_r1.world.simulated_judges import SimulatedDecomposer
from edit_r1.zoo.packaged import weights


def run_demo(out: Path, seed: int = 0, size: str = "demo", controls: bool = False) -> Mapping[str, Any]:
    """Run everything into `out`; returns and writes `metrics.json`, and writes `report.html`.

    Raises:
        ValueError: for an unknown size, or a folder that holds a run with another seed or size.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r}: choose one of {', '.join(SIZES)}")
    sizes = SIZES[size]
    stages = Stages(out, key=f"{size}-{seed}")

    stages.run("cold-start data", partial(make_cold_start, out, sizes, seed))
    stages.run("preferences", partial(make_preferences, out, sizes, seed))
    stages.run("sft", partial(train_cold_start, out, sizes, seed))
    stages.run("gcpo", partial(align, out, sizes, seed))
    models = {"base": weights("verifier-small"), "sft": out / "sft/model", "gcpo": out / "gcpo/model"}
    if controls:
        budget = stages.seconds("gcpo")
        stages.run("sft continued", partial(continue_sft, out, sizes, seed, budget))
        models["sft_continued"] = out / "sft_continued/model"
    for name, path in models.items():
        stages.run(f"judge with {name}", partial(judge_pairs, out, name, path, sizes, seed))
    judges = {name: path for name, path in models.items() if name != "base"}
    stages.run("rank within groups", partial(rank_within_groups, judges, sizes, seed))

    editors: dict[str, Path] = {"before": weights("editor"), "after": out / "editor_after/editor"}
    stages.run("editor rl", partial(train_by_reward, out, "after", out / "gcpo/model", sizes, seed))
    if controls:
        stages.run(
            "editor rl, sft reward",
            lambda tick: train_by_reward(out, "sft_reward", out / "sft/model", sizes, seed, tick),
        )
        stages.run("best of g", partial(train_on_best, out, sizes, seed))
        editors |= {"sft_reward": out / "editor_sft_reward/editor", "best_of_g": out / "editor_best_of_g/editor"}
    for name, path in editors.items():
        stages.run(f"oracle on {name}", partial(judge_editor, out, name, path, sizes, seed))

    stages.run("examples", lambda _: judge_examples(out, sizes.edit_contexts, seed))

    metrics = collect_metrics(out, stages, list(models), list(editors))
    write_json(out / "metrics.json", metrics)
    report = draw_report(out)
    print_summary(metrics, report)
    return metrics


Tick = Callable[[int, int], None]
"""Called with (done, total) as a stage goes on."""


# --- data ----------------------------------------------------------------------------------------------------------


def make_cold_start(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Steps 1 to 4 of the curation, to `out/data/cold`."""
    samples = role_samples("cold", sizes.cold_contexts, seed)
    index = WorldIndex(samples)
    steps = ("samples", "contexts", "candidates", "traces", "gold", "selected")

    def progress(step: str, done: int, total: int) -> None:
        tick(steps.index(step) * total + done, len(steps) * total)

    curation = curate(tiny_curation(samples, index, sizes, seed), out / "data/cold", progress)
    return {"hashes": {name: getattr(curation, name).meta()["hash"] for name in steps}}


EDITED_AT_ONCE = 80
"""Contexts between two reports of progress."""


def make_preferences(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Pairs compared by simulated annotators, for training, test and stress; contexts for RL with their principles."""
    roles = {
        "pairs": sizes.pair_contexts, "test": sizes.test_contexts,
        "stress": sizes.stress_contexts, "rl": sizes.rl_contexts,
    }  # fmt: skip
    editors = candidate_editors()
    hashes, done, total = {}, 0, sum(roles.values()) - sizes.rl_contexts
    for role, count in roles.items():
        samples = role_samples(role, count, seed)
        index = WorldIndex(samples)
        contexts, lost = decompose(samples, SimulatedDecomposer(index), "compact", Sampling(512, 1.0, seed=seed))
        if lost:
            raise ValueError(f"{len(lost)} contexts could not be decomposed: {lost[0].reason}")
        hashes[f"{role}_contexts"] = write_dataset(out / "data", f"{role}_contexts", contexts, CONTEXTS)
        if role == "rl":
            continue
        candidates: list[Candidate] = []
        for start in range(0, len(contexts), EDITED_AT_ONCE):
            chunk = contexts[start : start + EDITED_AT_ONCE]
            made, failed = edit(chunk, editors, sizes.candidates, seed)
            if failed:
                raise ValueError(f"{len(failed)} candidates could not be made: {failed[0].reason}")
            index.look(made)
            candidates += made
            tick(done + len(candidates) // sizes.candidates, total)
        done += count
        annotators = [SimulatedAnnotator(person, index) for person in ANNOTATOR_WEIGHTS]
        preferences = collect(contexts, candidates, annotators, sizes.pairs_per_context, seed)
        hashes[role] = write_dataset(out / "data", role, preferences, PREFERENCES)
        write_dataset(out / "data", f"{role}_candidates", candidates, CANDIDATES)
        if role in ("test", "stress"):
            gold = {name: _gold_of(*pair, index) for name, pair in _candidates(preferences).items()}
            write_json(out / "data" / f"{role}_gold.json", gold)
    return {"hashes": hashes}


# --- verifier --------------------------------------------------------------------------------------------------------


def train_cold_start(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """SFT on the selected traces."""
    quadruples = read_dataset(out / "data/cold", "selected", QUADRUPLES)
    stage = tiny_sft(out=str(out / "sft"), sizes=sizes, seed=seed)
    training = partial(train_sft, _shared(stage, sizes), quadruples, resume=True)
    in_processes(sizes.processes, training, lambda done, total, _: tick(done, total))
    return {}


def continue_sft(out: Path, sizes: TinySizes, seed: int, seconds: float, tick: Tick) -> dict[str, Any]:
    """Control: SFT goes on for the time that GCPO took."""
    quadruples = read_dataset(out / "data/cold", "selected", QUADRUPLES)
    stage = tiny_sft_continued(out / "sft/model", str(out / "sft_continued"), seconds, sizes, seed)
    start = time.monotonic()
    in_processes(
        sizes.processes, partial(train_sft, _shared(stage, sizes), quadruples, resume=True),
        lambda *_: tick(int(time.monotonic() - start), int(seconds) + 1),
    )  # fmt: skip
    return {}


def align(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """GCPO on the annotators' pairs."""
    preferences = read_dataset(out / "data", "pairs", PREFERENCES)
    stage = tiny_gcpo(out / "sft/model", str(out / "gcpo"), sizes, seed)
    train_gcpo(stage, preferences, resume=True, progress=lambda done, total, _: tick(done, total))
    return {}


def _shared(stage: SFTStage, sizes: TinySizes) -> SFTStage:
    """The same updates, each process with its share of a batch."""
    return replace(stage, batch_size=stage.batch_size // sizes.processes)


def judge_pairs(out: Path, name: str, model: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """A verifier on held-out pairs: greedily on all, as the mean of 4 traces on the first contexts; and on stress."""
    verifier = Verifier.load(model, mode="both", variant="compact", max_new_tokens=320)
    preferences, stress = (read_dataset(out / "data", role, PREFERENCES) for role in ("test", "stress"))
    first = {
        context.sample.id
        for context in read_dataset(out / "data", "test_contexts", CONTEXTS)[: sizes.mean_of_4_contexts]
    }
    few = [preference for preference in preferences if preference.context.sample.id in first]
    work = {"greedy": (preferences, 1), "mean_of_4": (few, 4), "stress": (stress, 1)}
    total = sum(traces * len(_candidates(pairs)) for pairs, traces in work.values())
    result: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    done = 0
    for part, (pairs, traces) in work.items():
        judged = judge_candidates(verifier, pairs, traces, seed, partial(_tick_part, tick, done, traces, total))
        done += traces * len(judged)
        scores = pair_scores(pairs, judged)
        stored[part] = {"pairs": [asdict(score) for score in scores], "judgments": _plain(judged)}
        result[part] = asdict(report_pairs("EditWorld stress" if part == "stress" else "EditWorld test", scores))
        if traces == 1:
            gold = read_json(out / "data" / f"{'stress' if part == 'stress' else 'test'}_gold.json")
            result[part]["checklist"] = asdict(_checklist(judged, gold))
    write_json(out / f"verdicts/{name}.json", stored)
    return result


def _tick_part(tick: Tick, before: int, weight: int, total: int, done: int, _: int) -> None:
    """Progress of a part of a stage: `before` units were done, each of the part's items is `weight` units."""
    tick(before + weight * done, total)


def rank_within_groups(models: Mapping[str, Path], sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Rank correlation of score and oracle within groups of one editor's edits of one held-out context.

    This is what editor RL lives on: group normalisation cancels how strict a judge is (peers.md, trap 16).
    """
    samples = role_samples("edit", sizes.groups_ranked, seed)
    work = [sample for sample in samples for _ in range(sizes.group_size)]
    edits = tiny_editor().edit(work, list(range(len(work))))
    images = [edit.image for edit in edits if edit.image is not None]
    truths = [oracle_score(sample, image) for sample, image in zip(work, images, strict=True)]
    result: dict[str, Any] = {}
    for done, (name, path) in enumerate(models.items(), start=1):
        reward = verifier_reward(Verifier.load(path, max_new_tokens=320), traces=1, seed=seed)
        contexts = [Context(sample, exact_principles(sample), "EditWorld", simulated=True) for sample in work]
        scores = reward(contexts, images)
        groups = []
        for first in range(0, len(work), sizes.group_size):
            span = range(first, first + sizes.group_size)
            judged = [place for place in span if scores[place] is not None]
            groups.append(([scores[place] or 0.0 for place in judged], [truths[place] for place in judged]))
        result[name] = asdict(mean_within_group_spearman(groups, seed))
        tick(done, len(models))
    return result


def _gold_of(preference: Preference, candidate: Candidate, index: WorldIndex) -> tuple[list[int], float]:
    """Gold verdicts of a candidate, in the order of its context's principles, and its oracle utility."""
    sample = preference.context.sample
    source, wanted = scene_of(sample), edit_of(sample)
    edited, damage = index.picture(sample.source, sample.instruction, candidate.image)
    values = []
    for principle in preference.context.principles:
        check = parse_question(principle.question)
        assert check is not None, "a simulated decomposer writes EditWorld's own questions"
        values.append(int(holds(check, source, edited, damage)))
    return values, judge(source, wanted, edited, damage).utility


def _candidates(preferences: Sequence[Preference]) -> dict[str, tuple[Preference, Candidate]]:
    """Every candidate once, by its id, with a preference that shows it."""
    return {
        candidate.id: (preference, candidate)
        for preference in preferences
        for candidate in (preference.first, preference.second)
    }


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


# --- editor ----------------------------------------------------------------------------------------------------------


def train_by_reward(out: Path, name: str, verifier: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Flow-GRPO with a verifier's score as the only reward."""
    contexts = read_dataset(out / "data", "rl_contexts", CONTEXTS)
    reward = verifier_reward(Verifier.load(verifier, max_new_tokens=320), traces=1, seed=seed)
    stage = tiny_editor_rl(sizes, seed)
    train_editor(
        stage, tiny_editor(), contexts, reward, out / f"editor_{name}", resume=True,
        progress=lambda line: tick(line["step"] + 1, stage.steps),
    )  # fmt: skip
    return {}


def train_on_best(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Control: fine-tuning on the best of G under the same reward, at equal compute."""
    contexts = read_dataset(out / "data", "rl_contexts", CONTEXTS)
    reward = verifier_reward(Verifier.load(out / "gcpo/model", max_new_tokens=320), traces=1, seed=seed)
    stage = tiny_editor_rl(sizes, seed)
    train_best_of_g(
        stage, tiny_editor(), contexts, reward, out / "editor_best_of_g", resume=True,
        progress=lambda line: tick(line["step"] + 1, stage.steps),
    )  # fmt: skip
    return {}


def oracle_score(sample: Sample, image: bytes) -> float:
    """The oracle's utility of what a neural editor painted, from pixels alone."""
    return judge_pixels(scene_of(sample), edit_of(sample), decode_rgb(image)).utility


EDIT_SEEDS = (11, 12)
"""Every editor paints each held-out context with the same two seeds."""


def judge_editor(out: Path, name: str, path: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """An editor on held-out contexts, judged by the oracle; pictures are kept for the report."""
    samples = role_samples("edit", sizes.edit_contexts, seed)
    scores: list[EditScore] = []
    for start in range(0, len(samples), 24):
        scores += edit_and_judge(tiny_editor(path), oracle_score, samples[start : start + 24], EDIT_SEEDS)
        tick(min(start + 24, len(samples)), len(samples))
    candidates = [
        Candidate(f"{score.sample_id}-{score.seed}", score.sample_id, score.image, name, score.seed) for score in scores
    ]
    write_dataset(out / "data", f"edits_{name}", candidates, CANDIDATES)
    rows = [{"sample_id": s.sample_id, "category": s.category, "seed": s.seed, "score": s.score} for s in scores]
    return {"scores": rows}


# --- numbers ---------------------------------------------------------------------------------------------------------


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
    for name, correlation in stages.result("rank within groups").items():
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
        "gsb": comparison.gsb,
        "good_same_bad": [comparison.good, comparison.same, comparison.bad],
    }
    hashes = {**stages.result("cold-start data")["hashes"], **stages.result("preferences")["hashes"]}
    seconds = {name: round(stages.seconds(name), 1) for name in stages.names()}
    return {"verifier": verifier, "editor": editor, "seconds": seconds, "hashes": hashes}


def print_summary(metrics: Mapping[str, Any], report: Path) -> None:
    """The table at the end."""
    table = RichTable(title="EditWorld, held out", title_justify="left")
    for column in ("", "half credit %", "95 %", "ties %", "TPR %", "TNR %"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in metrics["verifier"].items():
        if "half_credit" in row:
            low, high = row["ci95"] or (float("nan"), float("nan"))
            rates = [f"{100 * row[key]:.1f}" if row[key] is not None else "–" for key in ("tie_rate", "tpr", "tnr")]
            table.add_row(
                f"verifier {name}", f"{100 * row['half_credit']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", *rates
            )
    console = Console()
    console.print(table)
    for label, other in (("gcpo_minus_sft", "SFT"), ("gcpo_minus_control", "SFT continued for as long")):
        if label in metrics["verifier"]:
            delta, ci95 = (metrics["verifier"][label][key] for key in ("delta", "ci95"))
            low, high = ci95 or (float("nan"), float("nan"))
            console.print(f"GCPO - {other}: {100 * delta:+.1f} points (95 % {100 * low:.1f} to {100 * high:.1f})")
    editor = metrics["editor"]
    low, high = editor["delta"]["ci95"] or (float("nan"), float("nan"))
    console.print(
        f"editor, oracle score of 10: {editor['before']['oracle']:.2f} before, {editor['after']['oracle']:.2f} after "
        f"({editor['delta']['mean']:+.2f}, 95 % {low:.2f} to {high:.2f})"
    )
    console.print(f"report: {report}", soft_wrap=True)
