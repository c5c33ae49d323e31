"""What a curation is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edit_r1.curate.ensemble import Ensemble
from edit_r1.curate.failures import Failure
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.select import TieBreak
from edit_r1.curate.shards import unit_key
from edit_r1.editors.protocol import Editor, shaping_of
from edit_r1.records import Candidate, Sample
from edit_r1.verifier.prompts import PROMPT_VERSIONS, Variant
from edit_r1.vlm.budget import UNBOUNDED, Budget, Ledger
from edit_r1.vlm.paid import named
from edit_r1.vlm.protocol import VLM, Sampling
from edit_r1.vlm.weights import weights_of

DECOMPOSE_SAMPLING = Sampling(1024, temperature=0.7, top_p=0.95)
VERIFY_SAMPLING = Sampling(4096, temperature=0.0)


class Samples(Protocol):
    """Samples by number, never all in memory."""

    @property
    def fingerprint(self) -> str:
        """Changes when what is read changes."""

    def __len__(self) -> int:
        """Rows, those that prove unusable included."""

    def rows(self, start: int, stop: int) -> Iterator[Sample | Failure]:
        """Rows `start` to `stop` - 1, each a sample or why it is none."""


@runtime_checkable
class Prepared(Protocol):
    """Samples that have to be looked at as a whole before the first is asked for, once for an output."""

    @property
    def filters(self) -> Sequence[HardFilter]:
        """Those that are asked meanwhile."""

    def prepare(
        self,
        out: Path,
        retry: bool = False,
        tell: Callable[[int, int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Looks at them, or finds under `out` what was seen; returns at once when called again.

        Args:
            retry: look again at what failed.
            tell: called with (rows looked at, rows to look at as far as known).
            ledger: where it is booked what models are paid for meanwhile.

        Raises ValueError when there are none, BudgetError when the budget is spent.
        """


@dataclass(frozen=True)
class GivenSamples:
    """Samples that are in memory anyway."""

    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        twice = [sample_id for sample_id, count in Counter(s.id for s in self.samples).items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} samples are given twice, the first {twice[0]}: give each sample once")

    @property
    def fingerprint(self) -> str:
        return unit_key([sample.id for sample in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def rows(self, start: int, stop: int) -> Iterator[Sample | Failure]:
        yield from self.samples[start:stop]


@dataclass(frozen=True)
class CurateStage:
    """What a curation is made of; models are objects, so that a recipe can mix local, served and simulated ones."""

    samples: Samples
    decomposer: VLM
    editors: tuple[Editor, ...]
    pool: tuple[PoolMember, ...]
    verifier: VLM
    candidates_per_context: int = 4
    """The paper's 2M quadruples from 200K contexts are about 10."""
    variant: Variant = "full"
    """Of the decomposer's and the verifier's prompts; members of the pool have their own."""
    decompose_sampling: Sampling = DECOMPOSE_SAMPLING
    verify_sampling: Sampling = VERIFY_SAMPLING
    tie_break: TieBreak = "neutral"
    """Neutral by default: among equally accurate traces the draft's rule prefers the lenient one."""
    filter_on: bool = True
    """False draws the target among the parsed traces, whatever gold says."""
    ensemble: Ensemble | None = None
    """Further verifiers, and how their votes and the verifier's make gold; None takes the verifier's word."""
    redecompose: bool = False
    """Ask the decomposer once more where the checks find faults (`curate.findings.FAULTS`); what has fewer is kept."""
    chunk_size: int = 64
    """Samples that go through all steps together: what is in memory at once."""
    seed: int = 0
    budget: Budget = UNBOUNDED
    """What the run may spend on paid models, all that was spent in its folder before included."""
    keep_all: bool = False
    """Keep the single answers of local and simulated models too until their shard is written, not of paid ones alone
    (`curate.keeping`): worth it where a chunk takes long. They are then asked in pieces of a fixed size."""
    weights_before: Mapping[str, str] = field(default_factory=dict)
    """What `weights` was when the output was begun; a run sets it. Models of these weights, or of unknown ones, are
    known by their name, others by their weights too."""
    introduce: Callable[[Sequence[Sample], Sequence[Candidate]], None] | None = None
    """Shown a chunk's samples before anything is asked, and its candidates (with no samples) before its judges are: how
    simulated models come to know a rendered world."""

    def __post_init__(self) -> None:
        samples = 1 if isinstance(self.samples, Prepared) else len(self.samples)  # those are counted when prepared
        given = {"samples": samples, "editors": self.editors, "judges": self.pool}
        if lacking := [name for name, there in given.items() if not there]:
            raise ValueError(
                f"no {' and no '.join(lacking)}: a curation needs at least one of each of {', '.join(given)}"
            )
        if self.chunk_size < 1 or self.candidates_per_context < 1:
            raise ValueError(
                f"chunk_size={self.chunk_size}, candidates_per_context={self.candidates_per_context}: "
                "both must be at least 1"
            )
        if self.ensemble is not None:
            self.ensemble.check(self.verifier.name, [member.vlm.name for member in self.pool])
        ways = [(named(m.vlm), m.sampling, m.variant, m.system) for m in self.pool]
        same = [way for way in ways if ways.count(way) > 1]
        if same:
            raise ValueError(
                f"two judges of the pool ask {same[0][0][0]} in the same way and would write the same traces: "
                "change a seed, temperature or system text, or raise `traces` of one"
            )

    def prepare(
        self,
        out: Path,
        retry: bool = False,
        tell: Callable[[int, int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Prepares the samples where they need it, as `Prepared.prepare`, and raises as it does."""
        if isinstance(self.samples, Prepared):
            self.samples.prepare(out, retry, tell, ledger)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-len(self.samples) // self.chunk_size)

    @property
    def verifiers(self) -> tuple[VLM, ...]:
        """Whoever is asked for gold."""
        return (self.verifier, *(self.ensemble.others if self.ensemble is not None else ()))

    def actors(self) -> dict[str, list[str]]:
        """By step, a hash of everything about each of its models that shapes its rows."""
        prompts = [self.variant, PROMPT_VERSIONS[self.variant]]
        firsts = [sum(member.traces for member in self.pool[:place]) for place in range(len(self.pool))]
        return {
            "contexts": [unit_key(*self._told(self.decomposer), *prompts, asdict(self.decompose_sampling))],
            "candidates": [unit_key(one.name, *shaping_of(one), *self._other("editor", one)) for one in self.editors],
            "traces": [
                _member_key(one, self._told(one.vlm), first) for one, first in zip(self.pool, firsts, strict=True)
            ],
            "gold": [unit_key(*self._told(vlm), *prompts, asdict(self.verify_sampling)) for vlm in self.verifiers],
        }

    def weights(self) -> dict[str, str]:
        """By kind and name, the fingerprint of the files that a model was loaded from; of several the first one's."""
        models: list[VLM] = [self.decomposer, *(one.vlm for one in self.pool), *self.verifiers]
        named_so = [(f"model {one.name}", weights_of(one)) for one in models]
        named_so += [(f"editor {one.name}", weights_of(one)) for one in self.editors]
        return {name: key for name, key in reversed(named_so) if key}

    def _told(self, vlm: VLM) -> tuple[str, ...]:
        return (*named(vlm), *self._other("model", vlm))

    def _other(self, kind: str, model: VLM | Editor) -> tuple[str, ...]:
        """What tells a model of other weights than before apart."""
        key = weights_of(model)
        return (f"weights {key}",) if key and self.weights_before.get(f"{kind} {model.name}", key) != key else ()

    def key(self) -> str:
        """Hash of everything but the samples that shapes the data sets."""
        rules = [self.candidates_per_context, self.tie_break, self.filter_on, self.seed, self.chunk_size]
        # What is off leaves the key as it was.
        chosen: list[object] = ["redecompose"] if self.redecompose else []
        chosen += [self.ensemble.rule()] if self.ensemble is not None else []
        return unit_key(self.actors(), rules, *chosen)

    def run_key(self) -> str:
        """Hash of everything, the samples included."""
        return unit_key(self.key(), self.samples.fingerprint)


def _member_key(member: PoolMember, told: tuple[str, ...], first: int) -> str:
    name, *settings = told
    asked: list[Any] = [name, member.traces, asdict(member.sampling), member.variant, member.system, *settings]
    return unit_key(asked, PROMPT_VERSIONS[member.variant], first)
