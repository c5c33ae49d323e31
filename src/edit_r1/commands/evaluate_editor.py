"""`edit-r1 evaluate editor`: an editor on a benchmark, judged, tabled, and compared with another one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from edit_r1.commands.editors import NO_EDITOR, Editors, sampled
from edit_r1.commands.shared import PACKAGED, UNPARSED, Json, Models, check_file, check_traces, complain, print_json
from edit_r1.verifier.choice import ModelChoice

if TYPE_CHECKING:  # the rest is imported where it is used, so that other commands start without it
    from edit_r1.evaluate.editor_benchmarks import EditorBenchmark
    from edit_r1.evaluate.editor_judges import EditJudge
    from edit_r1.evaluate.editor_runs import GradedEdit

JudgeKind = Literal["viescore", "imgedit", "verifier", "oracle"]
_DEFAULT_JUDGE: dict[str, JudgeKind] = {
    "gedit": "viescore", "imgedit": "imgedit", "folder": "verifier", "editworld": "oracle",
}  # fmt: skip
MAX_RETRIES = 10
LOCAL_AT_ONCE, SERVED_AT_ONCE = 64, 16
"""Edits judged in one call, and lost at most by a kill: a model here fills its batch, a served one may be paid."""
EDITWORLD_CONTEXTS = 48
"""About four of each kind of edit."""


def evaluate_editor(
    benchmark: Literal["gedit", "imgedit", "editworld", "folder"],
    out: Path,
    models: Models = PACKAGED,
    editor: Editors = NO_EDITOR,
    data: str | None = None,
    judge: JudgeKind | None = None,
    against: str | None = None,
    language: str | None = None,
    most: int = 0,
    samples: int = 1,
    seed: int = 0,
    traces: int = 1,
    retries: int = 2,
    html: Path | None = None,
    allow_outside: bool = False,
    json: Json = False,
) -> int:
    """Run an editor on a benchmark and judge its edits; what a stopped run left is kept.

    Args:
        benchmark: what is edited; docs/evaluate_editor.md says what each reads.
        out: folder of this benchmark's edits and grades; several editors and judges share it.
        data: where the benchmark lies: a folder, a file, or for gedit a hub id; editworld needs none.
        judge: viescore (SC, PQ, O; gedit's default), imgedit (three scores of 1 to 5), verifier, or oracle (editworld).
            The first two ask --model or --endpoint by a holistic prompt.
        against: name of another editor whose edits lie in --out: both are judged and compared.
        language: only tasks whose instruction is in it: en or cn for gedit.
        most: at most so many tasks, at even distances; 0 takes all. editworld: how many contexts (48).
        samples: edits of each task, with the seeds from --seed on.
        seed: of the first edit of a task, of the judge's traces and of editworld's contexts.
        traces: of the verifier; 1 is greedy, and the score is their mean.
        retries: how often an answer that cannot be read is asked for again; then the edit has no score.
        html: file for a page with tables and the pictures side by side.
        allow_outside: read pictures outside the data's folder too.
    """
    from edit_r1.evaluate.editor_runs import begin, grade_edits, read_edits
    from edit_r1.evaluate.editor_tables import comparison, editor_document
    from edit_r1.report.terminal import quiet_libraries
    from edit_r1.report.totals import batch_progress

    kind = judge or _DEFAULT_JUDGE[benchmark]
    editor.check()
    if html is not None:
        check_file(html)
    _check(benchmark, kind, models, samples, retries, traces, most)
    read = _read(benchmark, data, most, seed, allow_outside)
    _check_sources(kind, read)
    begin(out, read)
    tasks, seeds = read.of_language(language).part(most).tasks, list(range(seed, seed + samples))
    quiet_libraries()
    own, made = sampled(editor, models, read, tasks, seeds, out)
    if against == own:
        raise ValueError(f"--against {against}: is the editor itself; --name gives it another name")
    runs = {own: made} if against is None else {own: made, against: read_edits(out, against, tasks, seeds)}
    opened, identity = _open_judge(kind, models, read, traces, seed)
    at_once = LOCAL_AT_ONCE if models.endpoint is None else max(SERVED_AT_ONCE, models.concurrency)
    graded: dict[str, list[GradedEdit]] = {}
    with closing(opened):
        for name, edits in runs.items():
            with batch_progress("judging") as progress:
                graded[name] = grade_edits(out, name, opened, identity, edits, retries, at_once, progress)
    documents = {
        name: editor_document(read.name, read.revision, name, opened, rows, retries) for name, rows in graded.items()
    }
    document = documents[own]
    if not document["scored"] and not document["unparsed"]:
        raise ValueError(f"no edit was judged: {next((one.reason for one in graded[own] if one.reason), 'no answer')}")
    if against is not None:
        document["comparison"] = comparison(graded[own], graded[against], (own, against), opened.scale)
    if html is not None:
        from edit_r1.report.editor_page import write_editor_page

        other = None if against is None else documents[against]
        write_editor_page(html, document, graded[own], other, graded[against] if against is not None else ())
    reason = next((one.reason for one in graded[own] if one.reason), "")
    return _told(document, sum(one["partly_answered"] for one in documents.values()), reason, json)


def _told(document: dict[str, Any], partly: int, reason: str | None, json: bool) -> int:
    """Prints the result and what is missing from it; the exit code. reason: why an edit has no score."""
    if json:
        print_json(document)
    else:
        from edit_r1.report.evaluation import editor_table

        Console().print(editor_table(document))
    if partly:
        complain(f"{partly} edits lack a part of their traces, which never came; the same command asks again")
    if document["scored"]:
        return 0
    complain(f"no answer could be read: {reason}")
    return UNPARSED


def _check(
    benchmark: str, kind: JudgeKind, models: ModelChoice, samples: int, retries: int, traces: int, most: int
) -> None:
    """Raises ValueError for flags that cannot be, before anything is opened."""
    check_traces(traces)
    models.check()
    if samples < 1 or not 0 <= retries <= MAX_RETRIES or most < 0:
        raise ValueError(
            f"--samples {samples} --retries {retries} --most {most}: ask for at least 1 sample, 0 to {MAX_RETRIES} "
            "retries and 0 (all) or more tasks"
        )
    if kind == "oracle" and benchmark != "editworld":
        raise ValueError(f"--judge oracle knows EditWorld only: name another judge for {benchmark}")
    if kind in ("viescore", "imgedit") and models.model is None:
        raise ValueError(
            f"--judge {kind} asks a vision-language model: add --model PATH, or --endpoint URL --model NAME"
        )


def _read(benchmark: str, data: str | None, most: int, seed: int, allow_outside: bool) -> EditorBenchmark:
    """The benchmark's tasks. Raises ValueError where they cannot be read."""
    from edit_r1.evaluate.editor_benchmarks import read_benchmark

    if benchmark == "editworld":
        from edit_r1.zoo.editworld import editworld_benchmark

        if data is not None:
            raise ValueError(f"--data {data}: editworld makes its contexts itself: leave it out")
        return editworld_benchmark(most or EDITWORLD_CONTEXTS, seed=seed)
    if data is None:
        raise ValueError(
            f"{benchmark} needs its data: add --data DIR; docs/evaluate_editor.md tells where it comes from"
        )
    return read_benchmark(benchmark, data, allow_outside)


def _check_sources(kind: JudgeKind, read: EditorBenchmark) -> None:
    """Raises ValueError where a judge that shows one source picture would be asked about an edit of several."""
    several = next((task.sample for task in read.tasks if task.sample.references), None)
    if several is not None and kind == "imgedit":
        raise ValueError(
            f"--judge {kind} shows one source picture, and task {several.id} has {1 + len(several.references)}: "
            "use --judge viescore or verifier"
        )


def _open_judge(
    kind: JudgeKind, models: ModelChoice, read: EditorBenchmark, traces: int, seed: int
) -> tuple[EditJudge, str]:
    """The judge, and the identity of its model. Raises ValueError when it cannot be opened, or knows EditWorld only."""
    from edit_r1.evaluate.editor_judges import HolisticJudge, VerifierEditJudge
    from edit_r1.evaluate.judge_identity import answering_identity, judge_identity
    from edit_r1.verifier.holistic import MAX_NEW_TOKENS
    from edit_r1.zoo.packaged import NEEDS_MODEL, is_editworld, open_chosen, weights

    if kind == "oracle":
        from edit_r1.zoo.editworld import OracleJudge

        return OracleJudge(), "oracle"
    first = read.tasks[0].sample
    if models.model is None and not is_editworld((first.source,), first.instruction):
        raise ValueError(NEEDS_MODEL)
    identity = judge_identity(models.model or weights("verifier-small-rrm"), models.endpoint, models.adapter)
    verifier = open_chosen(models)
    if kind == "verifier":
        return VerifierEditJudge(verifier, traces, seed), answering_identity(models, identity)
    longest = models.max_new_tokens or MAX_NEW_TOKENS
    asked = replace(models, principles_model=None, principles_endpoint=None)  # it has no principles
    return HolisticJudge(kind, verifier.vlm, verifier.max_pixels, seed, longest), answering_identity(asked, identity)
