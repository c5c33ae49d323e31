"""A recipe for tests that really launch `edit-r1 train editor`: the tiny random Kontext, brightness as its judge.

Its folder is in $EDIT_R1_TEST_FOLDER: `model` holds the editor, `data` the contexts.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb
from edit_r1.recipes.run import EditorRecipe
from edit_r1.records import CATEGORIES, Judgment, PrincipleResult
from edit_r1.train import rewards
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.guards import GuardSettings


class Brightness:
    """Passes every principle with the share of brightness; in a launched process there is no fixture to give one."""

    identity, apart = "brightness", False

    def judge(self, items):
        return [self._one(item, float(decode_rgb(item.edited).mean()) / 255) for item in items]

    def _one(self, item, share):
        results = tuple(PrincipleResult(one.question, one.category, share, None) for one in item.principles)
        return Judgment(10 * share, 1, 0, None, results, dict.fromkeys(CATEGORIES, share), "brightness", 0.0)

    def close(self):
        pass


def tiny() -> EditorRecipe:
    rewards.open_judge = lambda settings: Brightness()
    torch.set_num_threads(1)
    folder = Path(os.environ["EDIT_R1_TEST_FOLDER"])
    stage = changed(
        EditorRLStage(), steps=1, contexts_per_step=2, group_size=2, sampling_steps=3, trained_steps=1, lora_rank=2,
        save_as="adapter", save_every=1, kl_beta=0.0,
    )  # fmt: skip
    return EditorRecipe(
        data=str(folder / "data"), verifier="brightness", stage=stage, guard=GuardSettings(contexts=1),
        load=lambda: FluxKontextEditor.from_pretrained(folder / "model", FluxKontextSettings(steps=2)),
    )  # fmt: skip
