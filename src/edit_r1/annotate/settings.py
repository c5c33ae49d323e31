"""Every setting of the annotation app; importing this file needs no server library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Broken = Literal["stop", "skip"]


@dataclass(frozen=True)
class Begun:
    """What a task keeps from one start to the next."""

    annotators_per_pair: int = 2
    gold_every: int = 10
    pairs_per_context: int = 2
    seed: int = 0


@dataclass(frozen=True)
class AnnotateSettings:
    """What is compared, by how many, and where the server listens."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines can reach needs a token file."""
    port: int = 8400
    """0 takes any free port."""
    token_file: Path | None = None
    """File with a token a line; every request then needs one (in a browser: as the password)."""
    pairs: Path | None = None
    """What to compare: a .jsonl or .parquet file, or a data set of preferences; by default what DIR holds."""
    study: tuple[Path, Path] | None = None
    """A GSB study: folders of the new editor's and of the other editor's edits of DIR/samples.jsonl."""
    annotators_per_pair: int | None = None
    """Answers wanted for each pair, all by different people: 2, or as the task was begun."""
    gold_every: int | None = None
    """One of so many pairs is a gold pair, as long as there are any; 0 shows none: 10, or as the task was begun."""
    pairs_per_context: int | None = None
    """Pairs drawn of each context where DIR holds contexts and candidates: 2, or as the task was begun."""
    seed: int | None = None
    """Of the order of the pairs, of which edit stands left, and of the places of gold pairs: 0, or as it was begun."""
    lease_minutes: float = 10.0
    """How long a pair that was handed out is kept for its annotator."""
    broken: Broken = "stop"
    """What a row that cannot be used does: end the start, or be left out and counted."""
    allow_outside: bool = False
    """Read pictures outside the data's folder too."""

    def __post_init__(self) -> None:
        """ValueError for a value out of range."""
        ranges: dict[str, tuple[float, float]] = {
            "port": (0, 65535), "annotators_per_pair": (1, 1000), "gold_every": (0, 1000),
            "pairs_per_context": (1, 1000), "seed": (0, 2**31 - 1), "lease_minutes": (0.01, 1440),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = self.__dict__[name]
            if value is not None and not low <= value <= high:
                raise ValueError(f"--{name.replace('_', '-')} {value}: use {low:g} to {high:g}")
        if self.gold_every == 1:
            raise ValueError("--gold-every 1: every pair would be a gold pair; use 0 for none, or 2 and more")
        if self.pairs is not None and self.study is not None:
            raise ValueError("--pairs and --study: a folder holds one task; give one of them")

    def begun(self, before: Begun) -> Begun:
        """What these settings name, and what was so `before` where they name nothing."""
        named = {name: self.__dict__[name] for name in before.__dict__ if self.__dict__[name] is not None}
        return replace(before, **named)
