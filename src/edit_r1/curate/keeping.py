"""Answers that were paid for, kept until the shard that is made of them is written.

A shard is written when all its units are made, which may be hundreds of paid calls. Until then each answer lies in

    .work/kept/CHUNK/STEP-ACTOR/

(`vlm.kept`, `editors.kept`): a run that was killed asks for none of them again. What was spent is kept for good, in
`.work/spent` (`vlm.budget`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edit_r1.curate.ensemble import Ensemble
from edit_r1.curate.stage import CurateStage, Prepared
from edit_r1.editors.kept import KeptEditor
from edit_r1.editors.protocol import Editor, PaidEditor
from edit_r1.vlm.budget import Budget, BudgetError, Ledger, read_spent
from edit_r1.vlm.kept import KeptVLM
from edit_r1.vlm.paid import PaidVLM
from edit_r1.vlm.protocol import VLM
from edit_r1.vlm.usage import Usage


def open_ledger(out: Path, stage: CurateStage) -> Ledger:
    """Where a curation books what it spends.

    Raises:
        ValueError: for a budget in money, and a paid model that tells no price.
    """
    if stage.budget.money is not None:
        for model in paid_models(stage):
            if not model.priced:
                raise ValueError(
                    f"budget: money={stage.budget.money:g}, but {model.name} tells no price: give its `prices` (an "
                    "editor's `price`; 0 for what costs nothing), or bound requests or tokens"
                )
    return Ledger(_spent(out), stage.budget)


def paid_models(stage: CurateStage) -> list[PaidVLM | PaidEditor]:
    """The models of a stage that are paid by the call, the filter of its samples among them."""
    models: list[VLM | Editor] = [stage.decomposer, *stage.verifiers, *stage.editors, *(m.vlm for m in stage.pool)]
    if isinstance(stage.samples, Prepared):
        models += [one.judge for one in stage.samples.filters]
    return [model for model in models if isinstance(model, PaidVLM | PaidEditor)]


class Keeping:
    """The models of a stage, as one chunk asks them."""

    def __init__(
        self,
        stage: CurateStage,
        out: Path,
        number: int,
        ledger: Ledger,
        older: Iterable[int] = (),
        shared: bool = False,
    ) -> None:
        """older: chunks that held samples of this one in an earlier run. shared: in one, this chunk held samples that
        others hold now: what is kept in its folder is theirs too."""
        folders = [out / ".work" / "kept" / f"{one:06d}" for one in (number, *sorted(older))]
        self.folder, self.older = folders[0], folders[1:]
        self.ledger, self.all, self.shared = ledger, stage.keep_all, shared
        self._kept: dict[tuple[str, str], KeptVLM | KeptEditor] = {}
        actors = {step: iter(keys) for step, keys in stage.actors().items()}
        self.stage = replace(
            stage,
            decomposer=self._vlm(stage.decomposer, "contexts", actors["contexts"]),
            editors=tuple(self._editor(editor, "candidates", actors["candidates"]) for editor in stage.editors),
            pool=tuple(replace(one, vlm=self._vlm(one.vlm, "traces", actors["traces"])) for one in stage.pool),
            verifier=self._vlm(stage.verifier, "gold", actors["gold"]),
            ensemble=None if stage.ensemble is None else self._ensemble(stage.ensemble, actors["gold"]),
        )

    def _ensemble(self, ensemble: Ensemble, actors: Iterator[str]) -> Ensemble:
        return replace(ensemble, others=tuple(self._vlm(vlm, "gold", actors) for vlm in ensemble.others))

    def _vlm(self, vlm: VLM, step: str, actors: Iterator[str]) -> VLM:
        actor = next(actors)
        if not (self.all or isinstance(vlm, PaidVLM)):
            return vlm
        kept = self._kept[step, actor] = KeptVLM(vlm, *self._of(step, actor))
        return kept

    def _editor(self, editor: Editor, step: str, actors: Iterator[str]) -> Editor:
        actor = next(actors)
        if not (self.all or isinstance(editor, PaidEditor)):
            return editor
        kept = self._kept[step, actor] = KeptEditor(editor, *self._of(step, actor))
        return kept

    def _of(self, step: str, actor: str) -> tuple[Path, Ledger, list[Path]]:
        name = f"{step}-{actor[:12]}"
        return self.folder / name, self.ledger, [folder / name for folder in self.older]

    def forget(self, step: str, actor: str) -> None:
        """The answers of an actor whose shard is written."""
        if kept := self._kept.get((step, actor)):
            kept.close()
            if not self.shared:
                shutil.rmtree(kept.folder, ignore_errors=True)

    def finish(self, step: str, settled: bool) -> dict[str, Any] | None:
        """A step is done. Returns what it took, None when nothing was paid.

        settled: False when it was only found again, with failures: what a retry that was killed had kept of it stays.
        """
        used = Usage()
        for (name, actor), kept in self._kept.items():
            if name == step:
                used, kept.used = used + kept.used, Usage()
                if settled:
                    self.forget(name, actor)
        return asdict(used) if used != Usage() else None

    def close(self) -> None:
        """Whatever happened: what is kept is on the disk, and what is empty is gone."""
        for kept in self._kept.values():
            kept.close()
        with suppress(OSError):
            self.folder.rmdir()  # the one above stays: another chunk may be making its own in it


def drop_leftovers(out: Path, moved: Iterable[int] | None = None) -> None:
    """Of a curation that is done: what these chunks kept for others, whose shards are now written; None is all, where
    nothing is going to be asked again. An empty folder goes too."""
    folder = out / ".work" / "kept"
    for path in [folder] if moved is None else [folder / f"{number:06d}" for number in moved]:
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _spent(out: Path) -> Path:
    return out / ".work" / "spent"


@contextmanager
def budget_told(out: Path) -> Iterator[None]:
    """A budget that is spent inside is told with all that was spent: what was in flight has ended and is booked."""
    try:
        yield
    except BudgetError as error:
        raise BudgetError(error.name, error.bound, spent_whole(out)) from None


def spent_whole(out: Path) -> Usage:
    """What all models took over all runs in `out`. Raises StoreError."""
    return sum((one.usage for one in read_spent(_spent(out)).values()), Usage())


def spent_table(out: Path) -> dict[str, Any]:
    """{"models": {name: {...usage, "concurrency"}}, "requests", "retries", "tokens", "cost"}, over all runs in `out`.

    cost is None where no model tells prices; concurrency is None when the model is not asked at present. Raises
    StoreError.
    """
    found, whole = read_spent(_spent(out)), spent_whole(out)
    return {
        "models": {name: asdict(one.usage) | {"concurrency": one.limit} for name, one in found.items()},
        "requests": whole.requests,
        "retries": whole.retries,
        "tokens": whole.tokens,
        "cost": whole.cost,
    }


def budget_row(budget: Budget) -> dict[str, Any] | None:
    """None for one without bounds."""
    return asdict(budget) if budget.bounded else None
