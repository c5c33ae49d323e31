"""What requests to a provider take: counts, tokens and money."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """What a provider asks, in any currency, per million tokens; discounts for cached prompts are not known here."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.completion >= 0):
            raise ValueError(
                f"prices {self.prompt} and {self.completion}: give amounts of 0 or more per million tokens"
            )


@dataclass(frozen=True)
class Usage:
    """What requests have taken; of one request, or the sum of many."""

    requests: int = 0
    """Requests, answered or given up; what was sent again is not counted anew."""
    retries: int = 0
    """How often a request was sent again."""
    failures: int = 0
    """Requests of which at least one answer is an error."""
    unmetered: int = 0
    """Answers for which the server told no token counts: they are missing in the sums below."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Generated tokens, those of reasoning included where the server counts them."""
    cost: float | None = None
    """In the currency of `Prices`, of the counted tokens; None without prices."""

    def __add__(self, other: Usage) -> Usage:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            self.requests + other.requests,
            self.retries + other.retries,
            self.failures + other.failures,
            self.unmetered + other.unmetered,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(known) if known else None,
        )

    @property
    def tokens(self) -> int:
        """Those of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def told(self) -> str:
        """For a person."""
        cost = "" if self.cost is None else f", {self.cost:,.4g} of money"
        return f"{self.requests:,} requests, {self.tokens:,} tokens{cost}"
