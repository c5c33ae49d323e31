"""Edit-R1: a reasoning verifier for image edits, trained by comparison, and editors trained by the verifier.

The names below are imported on first use, so that `import edit_r1` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edit_r1.records import Candidate, Context, Judgment, Preference, Principle, Sample
    from edit_r1.verifier.scoring import ScoreItem, Verifier
    from edit_r1.vlm.openai import OpenAIVLM, Prices, Usage

__version__ = "0.1.0"

_HOMES = {
    "Candidate": "edit_r1.records",
    "Context": "edit_r1.records",
    "Judgment": "edit_r1.records",
    "Preference": "edit_r1.records",
    "Principle": "edit_r1.records",
    "Sample": "edit_r1.records",
    "ScoreItem": "edit_r1.verifier.scoring",
    "Verifier": "edit_r1.verifier.scoring",
    "OpenAIVLM": "edit_r1.vlm.openai",
    "Prices": "edit_r1.vlm.openai",
    "Usage": "edit_r1.vlm.openai",
}

__all__ = [
    "Candidate",
    "Context",
    "Judgment",
    "OpenAIVLM",
    "Preference",
    "Prices",
    "Principle",
    "Sample",
    "ScoreItem",
    "Usage",
    "Verifier",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Imports an exported name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edit_r1' has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
