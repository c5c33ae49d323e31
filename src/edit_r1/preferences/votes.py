"""Several annotators on one pair: how often an answer is flipped, soft labels, and one row a pair.

Two answers are about one pair when source, further images, instruction, aspect and both pictures are the same bytes;
which picture stood first does not matter. An annotator who answered a pair more than once has one vote, the mean of the
answers. Answers without an annotator's name are taken as one annotator's: nothing says that they are of several people.

Legend: N pairs; f, s decided votes for the two pictures of a pair, k = f + s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from edit_r1.algo.label_noise import flip_rate as wrong_share
from edit_r1.records import Choice, Preference
from edit_r1.stats import bootstrap_ci
from edit_r1.store import PREFERENCES, Dataset, StoreError, stream_dataset
from edit_r1.verifier.items import context_key

_EVEN = 1e-9
"""A share this near to a half is even: means of thirds are not exact."""
_VALUES: dict[Choice, float] = {"first": 1.0, "same": 0.5, "second": 0.0}


@dataclass(frozen=True)
class FlipRate:
    """How often an annotator's decided answer is the wrong one, estimated from disagreement alone."""

    rate: float
    """epsilon, 0 to 0.5; see `flip_rate`."""
    ci95: list[float] | None
    """Clustered by source; None with a single source."""
    disagreement: float
    """d, the mean share of pairs of decided votes that disagree, 0 to 1."""
    pairs: int
    """Pairs with at least two decided votes."""


def flip_rate(
    votes: Sequence[tuple[int, int]], clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> FlipRate | None:
    """Estimate of the flip rate from N pairs with (f, s) decided votes each; None when no pair has two.

    Model: a pair has a true winner, and every decided vote names the other one with probability epsilon, whoever votes
    and whatever the pair. Then two votes disagree with probability d = 2 epsilon (1 - epsilon), so that

        epsilon = (1 - sqrt(1 - 2 d)) / 2,        d = mean over pairs of f s / (k (k - 1) / 2),

    with epsilon = 1/2 where d exceeds 1/2. The interval is the bootstrap's for d, put through the same monotone
    function. Where pairs differ in difficulty epsilon is concave in d, and the estimate is below the mean flip rate.

    Raises:
        ValueError: for negative counts, or clusters of another length.
    """
    if any(min(pair) < 0 for pair in votes):
        raise ValueError("negative votes: count the decided votes for each picture")
    if clusters is not None and len(clusters) != len(votes):
        raise ValueError(f"{len(clusters)} clusters for {len(votes)} pairs: give one cluster per pair")
    kept = [place for place, (first, second) in enumerate(votes) if first + second >= 2]
    if not kept:
        return None
    split = [disagreement(*votes[place]) for place in kept]
    chosen = None if clusters is None else [clusters[place] for place in kept]
    estimate = bootstrap_ci(split, chosen, seed)
    interval = estimate.ci95
    return FlipRate(
        rate=wrong_share(estimate.mean),
        ci95=None if interval is None else [wrong_share(interval[0]), wrong_share(interval[1])],
        disagreement=estimate.mean,
        pairs=len(kept),
    )


def disagreement(first: int, second: int) -> float:
    """Share of the pairs of votes that disagree, 0 to 1; of at least two votes."""
    total = first + second
    return first * second / (total * (total - 1) / 2)


@dataclass
class PairVotes:
    """The answers about one pair of pictures, as seen from the one whose hash is lower."""

    source: bytes
    """Hash of the source image, for clusters."""
    answers: list[tuple[str, float]] = field(default_factory=list)
    """(annotator, 1 / 0.5 / 0 for the lower picture), in order."""
    pooled: list[tuple[float, int]] = field(default_factory=list)
    """(share for the lower picture, votes) of rows that hold a soft label already."""

    def by_annotator(self) -> dict[str, float]:
        """One vote an annotator: the mean of what they answered."""
        answers: dict[str, list[float]] = {}
        for annotator, value in self.answers:
            answers.setdefault(annotator, []).append(value)
        return {annotator: sum(values) / len(values) for annotator, values in answers.items()}

    def share(self) -> tuple[float, int]:
        """Share of votes for the lower picture, "same" as half, and the number of votes."""
        single = list(self.by_annotator().values())
        votes = len(single) + sum(number for _, number in self.pooled)
        return (sum(single) + sum(share * number for share, number in self.pooled)) / votes, votes

    def decided(self) -> tuple[int, int]:
        """Votes of single annotators for the lower picture and for the other; "same" is neither."""
        single = self.by_annotator().values()
        return sum(value > 0.5 for value in single), sum(value < 0.5 for value in single)


@dataclass(frozen=True)
class PairKey:
    """What a preference is about."""

    digest: bytes
    turned: bool
    """True when its first picture is not the one whose hash is lower."""


def pair_key(preference: Preference) -> PairKey:
    """The same for every answer about one pair of pictures, whichever stood first."""
    sample = preference.context.sample
    pictures = [hashlib.sha256(one.image).digest() for one in (preference.first, preference.second)]
    whole = hashlib.sha256(context_key((sample.source, *sample.references), sample.instruction).encode())
    for part in (preference.aspect.encode(), *sorted(pictures)):
        whole.update(hashlib.sha256(part).digest())
    return PairKey(whole.digest()[:16], pictures[0] > pictures[1])


def gather_votes(preferences: Iterable[Preference]) -> dict[bytes, PairVotes]:
    """All answers by pair; pictures are not kept."""
    found: dict[bytes, PairVotes] = {}
    for preference in preferences:
        key = pair_key(preference)
        source = hashlib.sha256(preference.context.sample.source).digest()[:16]
        pair = found.setdefault(key.digest, PairVotes(source))
        if preference.soft_label is not None and preference.votes is not None:
            soft = 1 - preference.soft_label if key.turned else preference.soft_label
            pair.pooled.append((soft, preference.votes))
        else:
            value = _VALUES[preference.choice]
            pair.answers.append((preference.annotator, 1 - value if key.turned else value))
    return found


@dataclass(frozen=True)
class PoolSummary:
    """What pooling read and wrote."""

    out: str
    rows: int
    """Answers read."""
    pairs: int
    """Pairs written, a row each."""
    several: int
    """Of these, judged by at least two annotators: they have a soft label."""
    same: int
    """Pairs whose votes are even."""
    flip_rate: FlipRate | None
    """None when no pair has two decided votes."""
    hash: str


def pool(
    folders: Sequence[Path], out: Path, progress: Callable[[int, int], None] = lambda done, rows: None
) -> PoolSummary:
    """One row a pair, in the order in which pairs first appear, with the share of votes as its soft label.

    The choice is where the share points: above a half `first`, below `second`, even "same". What else a row holds is
    that of the pair's first answer.

    Args:
        progress: called with (rows read, rows to be read); every row is read twice, to be counted and to be written.

    Raises:
        StoreError: (a ValueError) for a data set that cannot be read, or `out` that exists or cannot be written.
    """
    if out.exists():  # told before everything is read
        raise StoreError(f"{out}: exists already: remove it or choose another folder")
    datasets = [Dataset(folder.parent, folder.name, PREFERENCES) for folder in folders]
    count = sum(int(dataset.meta()["rows"]) for dataset in datasets)

    def rows(before: int) -> Iterator[Preference]:
        for read, preference in enumerate(chain.from_iterable(datasets), start=before + 1):
            progress(read, 2 * count)
            yield preference

    votes = gather_votes(rows(0))
    several = sum(pair.share()[1] > 1 for pair in votes.values())
    same = sum(_choice(pair.share()[0]) == "same" for pair in votes.values())
    order = "drawn" if any(dataset.meta().get("order") == "drawn" for dataset in datasets) else "kept"
    rate = flip_rate([pair.decided() for pair in votes.values()], [pair.source for pair in votes.values()])

    def meta() -> dict[str, Any]:
        return {"kind": "pooled", "order": order, "source_rows": count, "same": same}

    done = stream_dataset(out, _pooled(rows(count), votes), PREFERENCES, meta)
    return PoolSummary(str(out), count, done["rows"], several, same, rate, done["hash"])


def pooled_rows(preferences: Sequence[Preference]) -> list[Preference]:
    """One row a pair, as `pool` writes them."""
    return list(_pooled(preferences, gather_votes(preferences)))


def _pooled(preferences: Iterable[Preference], votes: dict[bytes, PairVotes]) -> Iterator[Preference]:
    written: set[bytes] = set()
    for preference in preferences:
        key = pair_key(preference)
        if key.digest not in written:
            written.add(key.digest)
            yield with_soft_label(preference, votes[key.digest], key.turned)


def with_soft_label(preference: Preference, votes: PairVotes, turned: bool) -> Preference:
    """The preference with what all annotators of its pair said; one with a single vote keeps no soft label."""
    share, number = votes.share()
    share = 1 - share if turned else share
    choice = _choice(share)
    if number < 2:
        return replace(preference, choice=choice)
    people = f"{number} annotators"
    return replace(preference, choice=choice, annotator=people, soft_label=share, votes=number, ratings=())


def _choice(share: float) -> Choice:
    if abs(share - 0.5) < _EVEN:
        return "same"
    return "first" if share > 0.5 else "second"
