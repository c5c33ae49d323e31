"""Principles for contexts whose data has none, written by the judge or another model before an editor is trained.

A model's answers are kept in the verifier's cache (`verifier.principles_cache`), so that a run that was stopped while
they were written, or another run on the same data, does not ask again. What a run trains on is kept in its own folder,
failures included: a resumed run asks nothing, and trains on the same contexts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edit_r1.records import Context, Principle, Unparsed
from edit_r1.store import read_json, write_json
from edit_r1.train.data_parallel import ALONE, Team
from edit_r1.train.judges import Judge, JudgeSettings, VerifierJudge, open_judge
from edit_r1.verifier.items import context_key

CHUNK = 64
"""Contexts that a model is asked about at once; progress is told after each."""


@dataclass(frozen=True)
class Completed:
    """Contexts that all have principles."""

    contexts: list[Context]
    """In order, without those that no principles could be written for."""
    written: int
    """How many of them got theirs from a model."""
    failed: dict[str, str]
    """Sample id to reason, of those left out."""


def complete_principles(
    contexts: Sequence[Context],
    judge: JudgeSettings,
    record: Path,
    team: Team = ALONE,
    resumed: bool = False,
    progress: Callable[[int, int], None] | None = None,
    opener: Callable[[JudgeSettings], Judge] = open_judge,
) -> Completed:
    """The contexts with principles in every one; a model is opened only when some are missing.

    judge: who writes them, a folder or a model server. record: JSON file of what was written, in the run's folder; what
    it holds is not asked again, and its failures neither when the run is `resumed`. Several processes ask for a share
    each, then all have everything.
    Raises ValueError when the model cannot be opened, answers nothing at all, or only judges (`edit-r1 serve`).
    """
    keys = [_key(context) for context in contexts]
    known = {key: entry for key, entry in _read(record).items() if resumed or entry["principles"] is not None}
    team.wait()  # all have read the record before the first writes it
    asked = {
        key: context for key, context in zip(keys, contexts, strict=True) if not context.principles and key not in known
    }
    if asked:
        known |= _write(asked, judge, team, progress, opener)
        if team.first:
            _save(record, known)
        team.wait()
    kept: list[Context] = []
    failed: dict[str, str] = {}
    written = 0
    for key, context in zip(keys, contexts, strict=True):
        if context.principles:
            kept.append(context)
        elif known[key]["principles"] is None:
            failed[context.sample.id] = known[key]["reason"]
        else:
            written += 1
            rows = known[key]["principles"]
            principles = tuple(Principle(row["question"], row["category"]) for row in rows)
            kept.append(replace(context, principles=principles, decomposer=known[key]["model"]))
    return Completed(kept, written, failed)


def reasons(failed: dict[str, str]) -> str:
    """Failures counted by cause, the most frequent first."""
    return "; ".join(f"{count} x {reason}" for reason, count in Counter(failed.values()).most_common())


def _key(context: Context) -> str:
    return context_key(context.sample.sources, context.sample.instruction)


def _write(
    asked: dict[str, Context],
    settings: JudgeSettings,
    team: Team,
    progress: Callable[[int, int], None] | None,
    opener: Callable[[JudgeSettings], Judge],
) -> dict[str, dict[str, Any]]:
    keys = list(asked)
    own = keys[team.rank :: team.size]
    found: dict[int, dict[str, Any]] = {}
    judge = opener(settings)
    try:
        if not isinstance(judge, VerifierJudge):
            raise ValueError(
                f"{len(asked)} contexts have no principles, and {settings.address} only judges: name a folder or a "
                "model server with --principles-model, or give principles in the data"
            )
        model = judge.verifier.principles_vlm.name
        for start in range(0, len(own), CHUNK):
            chunk = own[start : start + CHUNK]
            questions = [(asked[key].sample.sources, asked[key].sample.instruction) for key in chunk]
            answers = judge.verifier.principles_many(questions)
            for place, answer in enumerate(answers, start=start):
                found[team.rank + place * team.size] = _entry(answer, model)
            if progress is not None:
                progress(min(start + CHUNK, len(own)), len(own))
    finally:
        judge.close()
    everyones = team.gathered(found)
    entries = {keys[place]: everyones[place] for place in sorted(everyones)}
    silent = [entry for entry in entries.values() if entry["failed_call"]]
    if len(silent) == len(entries):
        raise ValueError(f"{settings.address}: wrote no principles ({silent[0]['reason']}): check that it is running")
    return entries


def _entry(answer: tuple[Principle, ...] | Unparsed, model: str) -> dict[str, Any]:
    if isinstance(answer, Unparsed):
        return {"principles": None, "reason": answer.reason, "model": model, "failed_call": answer.failed_call}
    rows = [{"question": one.question, "category": one.category} for one in answer]
    return {"principles": rows, "reason": "", "model": model, "failed_call": False}


def _read(record: Path) -> dict[str, dict[str, Any]]:
    if not record.exists():
        return {}
    try:
        return dict(read_json(record)["contexts"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{record}: not a run's record of principles: remove it, and they are written anew") from error


def _save(record: Path, entries: dict[str, dict[str, Any]]) -> None:
    write_json(record, {"contexts": entries})
