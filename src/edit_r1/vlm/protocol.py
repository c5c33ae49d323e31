"""How every vision-language model is spoken to, local, served or simulated.

A request is a conversation of one turn: an optional system text and a user message of texts and
images in order. Sampling parameters are always explicit, because checkpoints ship generation
configs (top_k = 1, repetition_penalty = 1.05) that would make N sampled traces identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

MAX_TOP_LOGPROBS = 20
"""Most alternatives that OpenAI-compatible servers report for a token."""


@dataclass(frozen=True)
class Sampling:
    """Every parameter that shapes a sampled text; nothing is left to a model's generation config."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 means greedy decoding."""
    top_p: float = 1.0
    """Nucleus mass, (0, 1]; 1 keeps every token."""
    top_k: int = 0
    """Number of tokens kept; 0 keeps every token."""
    repetition_penalty: float = 1.0
    """1 means none."""
    seed: int = 0
    top_logprobs: int = 0
    """Alternatives reported for every generated token, 0 to `MAX_TOP_LOGPROBS`; 0 reports none."""


@dataclass(frozen=True)
class TokenChoices:
    """One generated position: what came, and what could have come."""

    token: str
    """The text of the generated token."""
    alternatives: tuple[tuple[str, float], ...]
    """(text, natural logarithm of its probability), most likely first, under the distribution the model gives at
    temperature 1, before any truncation."""


@dataclass(frozen=True)
class Request:
    """One user message: texts (str) and encoded images (bytes) in the order the model reads them."""

    parts: tuple[str | bytes, ...]
    system: str | None = None

    @property
    def images(self) -> tuple[bytes, ...]:
        return tuple(part for part in self.parts if isinstance(part, bytes))

    @property
    def text(self) -> str:
        """The texts alone, images marked as `<image>`."""
        return "".join(part if isinstance(part, str) else "<image>" for part in self.parts)


@dataclass(frozen=True)
class Completion:
    """One sampled answer."""

    text: str
    tokens: int
    """Generated tokens; 0 when the backend does not say."""
    finish: Literal["stop", "length", "error"]
    """stop: ended by itself; length: cut at max_new_tokens; error: no answer came."""
    error: str | None = None
    """Why no answer came; None unless finish is "error"."""
    choices: tuple[TokenChoices, ...] | None = None
    """One entry per generated token; None when none were asked for or the backend gives none."""


class VLM(Protocol):
    """A vision-language model."""

    @property
    def name(self) -> str:
        """What judgments and datasets record as the model."""

    @property
    def simulated(self) -> bool:
        """True for a simulation; every record made from its answers says so."""

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """n completions per request, in the order of the requests.

        A failure of one request never raises: it comes back as a completion with finish "error".
        """


def check_sampling(sampling: Sampling, n: int) -> None:
    """Raises ValueError for a parameter out of its range, or fewer than one answer."""
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one answer")
    if sampling.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={sampling.max_new_tokens}: allow at least one token")
    if sampling.temperature < 0:
        raise ValueError(f"temperature={sampling.temperature}: use 0 (greedy) or more")
    if not 0 < sampling.top_p <= 1:
        raise ValueError(f"top_p={sampling.top_p}: use a share in (0, 1]")
    if sampling.top_k < 0:
        raise ValueError(f"top_k={sampling.top_k}: use 0 (all tokens) or more")
    if sampling.repetition_penalty <= 0:
        raise ValueError(f"repetition_penalty={sampling.repetition_penalty}: use a factor above 0; 1 means none")
    if not 0 <= sampling.top_logprobs <= MAX_TOP_LOGPROBS:
        raise ValueError(f"top_logprobs={sampling.top_logprobs}: use 0 (none) to {MAX_TOP_LOGPROBS}")
