"""Who can be evaluated: our verifier, a holistic baseline, a discriminative head; one interface, one identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, Protocol

from edit_r1.records import Judgment
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.head_judge import HEAD_VERSION, HeadJudge
from edit_r1.verifier.holistic import HOLISTIC_VERSION, MAX_NEW_TOKENS, HolisticJudge
from edit_r1.verifier.items import ScoreItem
from edit_r1.verifier.principles_cache import checkpoint_identity
from edit_r1.verifier.scoring import Progress
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.scalar_head import has_head

JudgeKind = Literal["checklist", "holistic", "head"]


class EditJudge(Protocol):
    """Judges one edit at a time: what it says of an edit cannot depend on what that is compared with."""

    def score_many(
        self,
        items: Sequence[ScoreItem],
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        expected: bool = False,
    ) -> list[Judgment]:
        """As `Verifier.score_many`."""

    def close(self) -> None: ...


def judge_kind(models: ModelChoice, asked: Literal["checklist", "holistic"] = "checklist") -> JudgeKind:
    """How the chosen model is asked: a folder with a head is always a head. ValueError for a holistic head."""
    if models.endpoint is not None or models.model is None or not has_head(models.model):
        return asked
    if asked == "holistic":
        raise ValueError(f"{models.model}: a discriminative head writes no text: leave --judge holistic out")
    return "head"


def open_judge(models: ModelChoice, kind: JudgeKind) -> EditJudge:
    """The chosen model as a judge; its `model` is not None. Raises ModelError (a ValueError)."""
    assert models.model is not None, "checked by the command"
    models.check()
    if kind == "head":
        return open_head(models)
    verifier = models.verifier()
    if kind == "checklist":
        return verifier
    return HolisticJudge(verifier.vlm, models.max_pixels, models.max_new_tokens or MAX_NEW_TOKENS)


def open_head(models: ModelChoice) -> HeadJudge:
    """The chosen folder's discriminative head. Raises ValueError for several devices, ModelError (one too)."""
    from edit_r1.vlm.scalar_head import ScalarVLM

    assert models.model is not None, "has_head was asked"
    if "," in models.device or models.backend != "transformers":
        raise ValueError("a discriminative head runs by transformers on one device: name one with --device")
    head = ScalarVLM.load(models.model, models.device, models.dtype, adapter=models.adapter, attention=models.attention)
    return HeadJudge(head, models.max_pixels)


def cache_identity(models: ModelChoice, kind: JudgeKind) -> str:
    """Hash of all that tells this judge's answers from another's, hexadecimal; nothing is opened.

    A served model is told by its address and name: what stands behind them may change unseen.
    """
    told = {**models.settings(), "kind": kind}
    if kind != "checklist":
        left_out = ("variant", "mode", "principles_model", "principles_endpoint")
        told = {name: value for name, value in told.items() if name not in left_out}
        told["prompts"] = HEAD_VERSION if kind == "head" else HOLISTIC_VERSION
    # A folder is told by what it is, not by how it was spelled.
    if models.model is not None and models.endpoint is None:
        told |= {"model": checkpoint_identity(models.model, models.adapter), "adapter": None}
    if models.principles_model is not None and models.principles_endpoint is None and kind == "checklist":
        told["principles_model"] = checkpoint_identity(models.principles_model)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def check_endpoints(judge: EditJudge) -> None:
    """Asks every server behind the judge a question. Raises ModelError when one does not answer."""
    models = {id(model): model for name in ("vlm", "principles_vlm") if (model := getattr(judge, name, None))}
    for model in models.values():
        if isinstance(model, OpenAIVLM):
            model.check()
