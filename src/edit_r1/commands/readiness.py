"""`edit-r1 evaluate readiness`: is a judge fit to train an editor?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from edit_r1.commands.editors import NO_EDITOR, Editors, sampled
from edit_r1.commands.shared import BELOW, PACKAGED, Json, Models, check_file, check_traces, complain, print_json
from edit_r1.evaluate.readiness_verdict import Check, Measured, ReadinessThresholds

if TYPE_CHECKING:  # the rest is imported where it is used, so that other commands start without it
    from edit_r1.evaluate.editor_benchmarks import EditorBenchmark
    from edit_r1.evaluate.editor_runs import MadeEdit
    from edit_r1.evaluate.readiness_run import Probed
    from edit_r1.records import Judgment
    from edit_r1.train.rewards import RewardSettings
    from edit_r1.verifier.head_judge import HeadJudge
    from edit_r1.verifier.scoring import Verifier

Thresholds = Annotated[ReadinessThresholds, tyro.conf.arg(name="")]
DEFAULT = ReadinessThresholds()
EDITWORLD_DATA = "editworld"


def evaluate_readiness(
    data: str,
    models: Models = PACKAGED,
    editor: Editors = NO_EDITOR,
    out: Path = Path("runs/readiness"),
    traces: int = 4,
    value: Literal["score", "verdicts", "categories"] = "score",
    contexts: int = 32,
    group: int = 8,
    seed: int = 0,
    reference: str | None = None,
    thresholds: Thresholds = DEFAULT,
    html: Path | None = None,
    allow_outside: bool = False,
    json: Json = False,
) -> int:
    """Measure what an editor's training would feel of a judge, and say whether it is ready.

    Args:
        data: contexts to edit: "editworld"; a .jsonl or .parquet file, or a folder with one, of source and instruction;
            or a folder of contexts that one of our stages wrote.
        out: folder of edits and judgments, and of the verdict, readiness.json; a run that was stopped goes on.
        traces: per edit, as in training; their mean is the reward. 1 is greedy: its repeats are sampled beside it.
        value: what is rewarded of a judgment, as a recipe's --reward.value.
        contexts: how many, at even distances in the data.
        group: edits of each context.
        seed: of the first edit of a context, of the traces and of the intervals.
        reference: "oracle" (EditWorld's), or a JSON file with a list of {"id", "seed", "score"}, score 0 to 10.
        html: file for the verdict as a page.
        allow_outside: read pictures outside the data's folder too.
    """
    from edit_r1.evaluate.editor_runs import begin
    from edit_r1.evaluate.judge_identity import answering_identity, judge_identity
    from edit_r1.evaluate.judges import judge_kind
    from edit_r1.evaluate.probes import NO_EDIT
    from edit_r1.evaluate.readiness_verdict import verdict
    from edit_r1.report.terminal import quiet_libraries
    from edit_r1.store import write_json
    from edit_r1.train.rewards import RewardSettings
    from edit_r1.zoo.packaged import weights

    check_traces(traces)
    models.check()
    editor.check()
    if html is not None:
        check_file(html)
    head = judge_kind(models) == "head"
    if head and (traces > 1 or value != "score"):
        raise ValueError(
            f"--traces {traces} --value {value}: a discriminative head gives one number and no checklist; use "
            "--traces 1 --value score"
        )
    if contexts < 2 or group < 2:
        raise ValueError(f"--contexts {contexts} --group {group}: at least 2 of each are compared")
    read = _read(data, contexts, allow_outside, models, reference)
    tasks = read.part(contexts).tasks
    begin(out, read)
    settings = RewardSettings(value=value)
    quiet_libraries()
    with ExitStack() as stack:
        name, made = sampled(editor, models, read, tasks, list(range(seed, seed + group)), out)
        identity = judge_identity(models.model or weights("verifier-small-rrm"), models.endpoint, models.adapter)
        judge = _opened(models, head, stack)
        edits = [made[start : start + group] for start in range(0, len(made), group)]
        answering = answering_identity(models, identity)
        measured, probed, lost = _measured(judge, answering, edits, name, out, traces, seed, reference, settings)
    checks = verdict(measured, thresholds, NO_EDIT)
    document = {
        "ready": not any(check.passed is False for check in checks),
        "judge": _judge(judge, identity, traces, settings, models),
        "editor": name,
        "data": Path(data).name,  # the path itself is this machine's
        "revision": read.revision,
        "contexts": len(tasks),
        "group": group,
        "no_picture": sum(one.path is None for one in made),
        "lost": lost,
        **_numbers(measured, checks),
        "thresholds": asdict(thresholds),
    }
    write_json(out / "readiness.json", document)
    return _told(document, probed, html, json)


def _told(document: dict[str, Any], probed: Sequence[Probed], html: Path | None, json: bool) -> int:
    """Shows the verdict in the form asked for; the exit code."""
    if html is not None:
        from edit_r1.report.readiness_page import write_readiness_page

        write_readiness_page(html, document, probed)
    if json:
        print_json(document)
    else:
        from edit_r1.report.evaluation import readiness_list

        Console().print(readiness_list(document))
    if document["ready"]:
        return 0
    complain(f"not ready: {', '.join(check['name'] for check in document['checks'] if check['passed'] is False)}")
    return BELOW


def _opened(models: Models, head: bool, stack: ExitStack) -> Verifier | HeadJudge:
    """The judge, closed with the stack. Raises ModelError (a ValueError)."""
    if head:
        from edit_r1.evaluate.judges import open_head

        return open_head(models)
    from edit_r1.zoo.packaged import open_chosen

    return stack.enter_context(open_chosen(models))


def _measured(
    judge: Verifier | HeadJudge,
    identity: str,
    edits: Sequence[Sequence[MadeEdit]],
    editor: str,
    out: Path,
    traces: int,
    seed: int,
    reference: str | None,
    settings: RewardSettings,
) -> tuple[Measured, list[Probed], int]:
    """Groups, reference and probes, and how many traces of the groups never came. Raises ValueError where judge or
    reference give nothing."""
    from edit_r1.evaluate.readiness_run import JudgeAsked, JudgmentStore, judge_groups, judged_as, measure, probe_edits
    from edit_r1.report.totals import batch_progress
    from edit_r1.train.rewards import grade_of, judgment_reward
    from edit_r1.verifier.head_judge import HeadJudge

    def reward(judgment: Judgment) -> float | None:
        return judgment_reward(grade_of(judgment), settings)

    folder = out / "judgments" / judged_as(judge, identity)
    asked = JudgeAsked(traces, seed, draws=not isinstance(judge, HeadJudge))
    with batch_progress("judging") as progress:
        groups = judge_groups(JudgmentStore(folder, judge, progress), edits, asked, reward)
    if groups.lost:
        complain(f"{groups.lost} traces never came; the same command asks for them again")
    truths = None if reference is None else _reference(reference, groups.edits, out, editor)
    with batch_progress("probing") as progress:
        probed = probe_edits(JudgmentStore(folder, judge, progress), groups, truths, asked, reward)
    return measure(groups, probed, traces, truths, _reference_name(reference), seed=seed), probed, groups.lost


def _judge(
    judge: Verifier | HeadJudge, identity: str, traces: int, settings: RewardSettings, models: Models
) -> dict[str, Any]:
    """What was judged and rewarded, as `require_ready` compares it; a head has neither mode nor variant."""
    from edit_r1.verifier.head_judge import HEAD_VERSION, HeadJudge
    from edit_r1.verifier.prompts import PROMPT_VERSIONS
    from edit_r1.verifier.scoring import trace_temperature

    if isinstance(judge, HeadJudge):
        asked: dict[str, Any] = {"mode": None, "variant": None, "prompts": HEAD_VERSION}
    else:
        asked = {
            "mode": judge.mode, "variant": judge.variant, "prompts": PROMPT_VERSIONS[judge.variant],
            "max_new_tokens": judge.max_new_tokens, "max_pixels": judge.max_pixels,
            "server_sampling": models.server_sampling, "temperature": trace_temperature(traces),
            "dtype": models.dtype if models.endpoint is None else None,
        }  # fmt: skip
    return {
        "model": judge.vlm.name, "identity": identity, **asked, "traces": traces, "value": settings.value,
        "weights": list(settings.weights), "gate": settings.gate, "gate_threshold": settings.gate_threshold,
        "simulated": judge.vlm.simulated,
    }  # fmt: skip


def _numbers(measured: Measured, checks: Sequence[Check]) -> dict[str, Any]:
    from edit_r1.evaluate.readiness_run import numbers, stamp

    return {
        "reference": measured.reference,
        "checks": [asdict(check) for check in checks],
        "numbers": numbers(measured),
        "made": stamp(),
    }


def _read(data: str, contexts: int, allow_outside: bool, models: Models, reference: str | None) -> EditorBenchmark:
    """The contexts. Raises ValueError where the packaged verifier would judge what it never saw, or for a reference
    that does not fit them, before anything is edited."""
    from edit_r1.evaluate.editor_benchmarks import FOLDER, read_benchmark
    from edit_r1.zoo.packaged import NEEDS_MODEL, is_editworld

    if data == EDITWORLD_DATA and not Path(data).exists():
        from edit_r1.zoo.editworld import editworld_benchmark

        read = editworld_benchmark(contexts, "validation")
    else:
        read = read_benchmark(FOLDER, data, allow_outside)
    first = read.part(contexts).tasks[0].sample
    if models.model is None and not is_editworld((first.source,), first.instruction):
        raise ValueError(NEEDS_MODEL)
    _check_reference(reference, read)
    return read


ORACLE = "oracle"


def _reference_name(reference: str | None) -> str | None:
    if reference is None:
        return None
    return "EditWorld's oracle" if reference == ORACLE else Path(reference).name


def _check_reference(reference: str | None, read: EditorBenchmark) -> None:
    """Raises ValueError for a reference that cannot be used."""
    from edit_r1.evaluate.reference import read_reference

    if reference == ORACLE:
        if any(task.sample.hidden is None for task in read.tasks):
            raise ValueError("--reference oracle knows EditWorld's contexts only: give a file, or --data editworld")
    elif reference is not None:
        read_reference(Path(reference))


def _reference(reference: str, edits: Sequence[Sequence[MadeEdit]], out: Path, editor: str) -> list[list[float | None]]:
    """The reference's score of every edit; None where a file has none. The oracle's are kept as `evaluate editor`'s."""
    if reference == ORACLE:
        from edit_r1.evaluate.editor_runs import grade_edits
        from edit_r1.report.totals import batch_progress
        from edit_r1.zoo.editworld import OracleJudge

        flat = [edit for group in edits for edit in group]
        with batch_progress("oracle") as progress:
            graded = iter(grade_edits(out, editor, OracleJudge(), ORACLE, flat, at_once=48, progress=progress))
        grades = [[next(graded).grade for _ in group] for group in edits]
        return [[None if grade is None else grade.score for grade in group] for group in grades]
    from edit_r1.evaluate.reference import read_reference

    known = read_reference(Path(reference))
    found = [[known.get(edit.key) for edit in group] for group in edits]
    if not any(value is not None for group in found for value in group):
        raise ValueError(f"{reference}: scores none of these edits: its ids and seeds must be theirs (benchmark's ids)")
    return found
