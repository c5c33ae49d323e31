"""The weights that come with the package, and what the packaged verifier can be asked about."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from edit_r1.images import decode_rgb
from edit_r1.report.terminal import quiet_libraries
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.world.phrases import JOINTS, PHRASES
from edit_r1.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    MATERIALS,
    PLACES,
    SHAPES,
    SIZE,
    SIZES,
    STYLES,
    TONES,
)

PACKAGED = ("verifier-small", "verifier-base", "editor", "verifier-small-rrm")
"""Two verifiers pretrained to see, the pretrained editor, and the small verifier after SFT and GCPO."""
VERIFIER = "verifier-small-rrm"
"""The one that judges where no model is named."""

NEEDS_MODEL = (
    "without --model only the packaged tiny verifier is at hand, and it knows EditWorld's pictures and instructions "
    "alone: name a vision-language model with --model PATH, or a served one with --endpoint URL --model NAME"
)


def weights(name: str) -> Path:
    """The folder of packaged weights, in the Hugging Face layout.

    Raises:
        ValueError: for a name that is not packaged, or when this installation came without its weights.
    """
    if name not in PACKAGED:
        raise ValueError(f"weights {name!r}: packaged are {', '.join(PACKAGED)}")
    folder = Path(str(importlib.resources.files("edit_r1.zoo") / "weights" / name))
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(
            f"the packaged weights {name} are not in this installation ({folder}): reinstall edit-r1, "
            "or make them with `edit-r1 world pretrain` and a training recipe"
        )
    return folder


def packaged_verifier() -> Verifier:
    """The tiny trained verifier, which knows EditWorld only (see `is_editworld`).

    Raises:
        ValueError: when this installation came without its weights, or they cannot be read.
    """
    return Verifier.load(weights(VERIFIER))


def pretrain(name: str, out: Path, state: Path, minutes: float, seed: int, threads: int) -> bool:
    """One call's share of the pretraining of a packaged model; True when it is finished."""
    if name == "editor":
        from edit_r1.zoo.editor import pretrain_editor

        return pretrain_editor(out, state, minutes, seed, threads)
    from edit_r1.zoo.verifier import pretrain_verifier

    return pretrain_verifier(name.removeprefix("verifier-"), out, state, minutes, seed, threads)


def open_chosen(models: ModelChoice, batch_size: int = 64) -> Verifier:
    """The chosen verifier, the packaged one when no model is named. Raises ModelError (a ValueError).

    batch_size: sequences that a local model decodes at once.
    """
    models.check()
    if models.endpoint is None:
        quiet_libraries()
    if models.model is None:
        models = replace(models, model=str(weights(VERIFIER)))
    return models.verifier(batch_size)


def refuse_foreign(item: ScoreItem) -> str | None:
    """Why the packaged verifier must not be asked about an edit; None when it may be.

    A picture that cannot be read is not refused here: judging it says what is wrong with it.
    """
    try:
        return None if is_editworld(item.sources, item.instruction) else NEEDS_MODEL
    except ValueError:
        return None


def is_editworld(sources: Sequence[bytes], instruction: str) -> bool:
    """True for what the packaged models can be asked about.

    That is one source of EditWorld's size, and an instruction in one of its phrasings, two joined steps
    included. Case, spaces and the last full stop do not matter. Whether the picture shows EditWorld's things
    is not looked at: a photograph may be a background there.

    Raises:
        edit_r1.images.ImageError: (a ValueError) when a source cannot be decoded.
    """
    if len(sources) != 1 or decode_rgb(sources[0]).shape != (SIZE, SIZE, 3):
        return False
    return _grammar().fullmatch(" ".join(instruction.split())) is not None


_VALUES: dict[str, tuple[str, ...]] = {
    "background change": (*(f"plain {name}" for name in BACKGROUNDS), *(f"{name} gradient" for name in BACKGROUNDS)),
    "colour alteration": tuple(COLOURS),
    "material modification": MATERIALS,
    "size change": tuple(SIZES),
    "style transfer": STYLES,
    "text modification": LETTERS,
    "tone transformation": TONES,
}
"""What {value} can be; the other categories have none."""


def _any_of(options: Sequence[str]) -> str:
    return f"(?:{'|'.join(options)})"


@cache
def _grammar() -> re.Pattern[str]:
    """Every instruction that `world.phrases.ask` can write."""
    name = f"{_any_of(tuple(COLOURS))} {_any_of(SHAPES)}"
    looks = f"{_any_of(tuple(SIZES))} {_any_of(MATERIALS)} {name}"
    phrasings = []
    for category, phrases in PHRASES.items():
        slots = {"thing": name, "new_name": name, "new": looks, "to": _any_of(PLACES)}
        slots["value"] = _any_of(_VALUES.get(category, ()))
        phrasings += [_filled(phrase.rstrip("."), slots) for phrase in phrases]
    step = _any_of(phrasings)
    joined = [_filled(joint.rstrip("."), {"first": step, "second": step}) for joint in JOINTS]
    return re.compile(rf"{_any_of([step, *joined])}\.?", re.IGNORECASE)


def _filled(template: str, slots: dict[str, str]) -> str:
    """A template as a regular expression: its words as they are, "a" also as "an", its slots as alternatives."""
    parts = re.split(r"\{(\w+)\}", template)  # text, slot, text, slot, ..., text
    words = [re.sub(r"\b([Aa])\\ $", r"\1n?\\ ", re.escape(text)) for text in parts[::2]]
    return "".join(word + (slots[slot] if slot else "") for word, slot in zip(words, [*parts[1::2], ""], strict=True))
