"""`edit_r1.json`, the card beside a checkpoint's weights: how the model wants to be asked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from edit_r1.records import OutputMode
from edit_r1.verifier.prompts import Variant
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.scalar_head import has_head

CARD_NAME = "edit_r1.json"


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint was trained for; the defaults are those of a general vision-language model."""

    variant: Variant = "full"
    """Prompts in full, or compact."""
    mode: OutputMode = "both"
    """What its traces hold."""
    domain: str | None = None
    """The only kind of pictures it knows ("EditWorld"); None for no such limit."""


def read_card(folder: str | Path) -> ModelCard:
    """The card in `folder`, or the default one when there is none (also for a hub id).

    Raises `ModelError` for a card that cannot be read or holds an unknown value, and for a folder whose model has a
    scalar head in the place of a language model's.
    """
    path = Path(folder) / CARD_NAME
    if has_head(folder):
        raise ModelError(
            f"{folder}: a discriminative head, which gives a score and no checklist: `evaluate reward` and `evaluate "
            "readiness` open it, nothing else does"
        )
    if not path.is_file():
        return ModelCard()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}); write it anew or delete it") from error
    if not isinstance(values, dict) or set(values) - {"variant", "mode", "domain"}:
        raise ModelError(f"{path}: a card is an object with the keys variant, mode and domain")
    card = ModelCard(**values)
    if card.variant not in ("full", "compact"):
        raise ModelError(f"{path}: variant={card.variant!r}: use full or compact")
    if card.mode not in ("think", "verify", "both"):
        raise ModelError(f"{path}: mode={card.mode!r}: use think, verify or both")
    if card.domain is not None and not isinstance(card.domain, str):
        raise ModelError(f"{path}: domain={card.domain!r}: use a text or null")
    return card


def write_card(folder: str | Path, card: ModelCard) -> None:
    """Writes the card beside the weights in `folder`."""
    (Path(folder) / CARD_NAME).write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")
