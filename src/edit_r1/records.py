"""Every type that crosses a stage. One page; nothing here does work.

The vocabulary is the paper's (Edit-R1, arXiv 2604.27505): a *context* is a source image with an
instruction and its *principles*; a *candidate* is one editor's output for a context; a *trace* is
the verifier's text, from which a score is parsed; a *judgment* is what a caller gets.

Images are carried as encoded bytes (PNG unless a source was given in another format): immutable,
hashable, and written to Parquet as they are. Only `edit_r1.images` decodes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

INSTRUCTION_FOLLOWING = "Instruction Following"
FEATURE_PRESERVATION = "Feature Preservation"
IMAGE_QUALITY = "Image Quality"
CATEGORIES: tuple[str, ...] = (INSTRUCTION_FOLLOWING, FEATURE_PRESERVATION, IMAGE_QUALITY)

OutputMode = Literal["think", "verify", "both"]
"""What a trace holds: reasoning and score, verdicts and score, or reasoning, verdicts and score."""

Choice = Literal["first", "second", "same"]
"""An annotator's answer to "which edit is better?"."""


@dataclass(frozen=True)
class Sample:
    """A source image and an edit request, before anything was made of it."""

    id: str
    """Unique and stable: the same inputs give the same id."""
    source: bytes
    """x_ref, the image before the edit, encoded."""
    instruction: str
    """q, the edit request in natural language."""
    category: str
    """Kind of edit, one of the paper's eleven, or "multi-step"; "" when unknown."""
    subset: Literal["random", "hard"] = "random"
    """Random: drawn uniformly; hard: kept by the filter for difficult instructions."""
    split: str = "train"
    """"train", "validation", "test" or "stress"."""
    hidden: str | None = None
    """What only a simulated world knows about the sample (JSON); None for real data. No model reads it."""
    references: tuple[bytes, ...] = ()
    """Further images that the instruction speaks of ("the hat of picture 2"), encoded; the source is picture 1. Editors
    that take one image refuse a sample that has any."""
    origin: str = ""
    """Where it lies in the data it was read from: file, and line, row or member; "" when unknown. No model reads it."""
    licence: str = ""
    """Under which its picture and text may be used, as its owner names it ("CC-BY-4.0"); "" when unknown."""

    @property
    def sources(self) -> tuple[bytes, ...]:
        """All images before the edit, in the order in which the instruction counts them: what a verifier is shown."""
        return (self.source, *self.references)


@dataclass(frozen=True)
class Principle:
    """One yes/no question about the edited image; 1 means yes, and yes is good."""

    question: str
    category: str
    """One of `CATEGORIES`."""


@dataclass(frozen=True)
class Context:
    """A sample with its principles: what a candidate is judged against."""

    sample: Sample
    principles: tuple[Principle, ...]
    decomposer: str
    """Name of the model that wrote the principles."""
    simulated: bool = False
    """True when the decomposer was a simulation."""


@dataclass(frozen=True)
class Candidate:
    """One editor's output for one context."""

    id: str
    sample_id: str
    image: bytes
    """x_edit, encoded."""
    editor: str
    seed: int
    hidden: str | None = None
    """What only a simulated world knows about the image (JSON); None for an image known by pixels alone."""


@dataclass(frozen=True)
class Verdict:
    """The answer to one principle."""

    value: Literal[0, 1]
    """0: not fulfilled or uncertain; 1: fulfilled."""
    evidence: str | None = None
    """One short sentence on what was seen; None when the trace gives none."""


@dataclass(frozen=True)
class Trace:
    """A verifier's text that could be parsed."""

    text: str
    score: float
    """tau, the final score, 0 to 10."""
    verdicts: tuple[Verdict, ...] | None
    """One per principle, in their order; None in output mode "think"."""
    average_score: float | None = None
    """The mean of the verdicts as the model wrote it, 0 to 1; None when it wrote none."""
    tokens: int = 0
    """Length of the text in the model's tokens; 0 when unknown."""


@dataclass(frozen=True)
class Unparsed:
    """A verifier's text that could not be parsed. It is never turned into a number."""

    text: str
    reason: str
    """What is wrong, for a person."""
    tokens: int = 0
    failed_call: bool = False
    """True when no answer came at all (time-out, refused): not a rollout, and dropped by GCPO."""


@dataclass(frozen=True)
class PrincipleResult:
    """One line of a judgment's checklist."""

    question: str
    category: str
    verdict: float | None
    """Mean verdict over the parsed traces, 0 to 1; None when no trace gave verdicts."""
    evidence: str | None
    """From the trace whose score is nearest to the mean score."""


@dataclass(frozen=True)
class Judgment:
    """What a caller gets for one edited image."""

    score: float | None
    """Mean score over the parsed traces, 0 to 10; None when no trace could be parsed."""
    traces: int
    """Number of traces asked for."""
    unparsed: int
    """How many of them could not be parsed."""
    score_std: float | None
    """Population standard deviation of the scores; None with fewer than two parsed traces."""
    principles: tuple[PrincipleResult, ...]
    categories: dict[str, float | None]
    """Mean verdict per category, 0 to 1; None for a category without a verdict."""
    model: str
    seconds: float
    simulated: bool = False
    expected_score: float | None = None
    """Mean over the parsed traces of the expected score under the token probabilities (`verifier.expected_score`),
    0 to 10; None when it was not asked for, or one of the traces has none. It breaks ties of `score`, no more."""
    prompts: str = ""
    """Version of the prompts that asked (`verifier.prompts.PROMPT_VERSIONS`); "" when unknown."""
    outcomes: tuple[Trace | Unparsed, ...] = field(default=(), compare=False)
    """The traces themselves, in the order in which they were sampled."""


@dataclass(frozen=True)
class GoldVerdicts:
    """A verifier VLM's gold list for one quadruple, against which its traces are scored."""

    candidate_id: str
    gold: tuple[Verdict, ...]
    """Same length and order as the principles."""
    verifier: str
    simulated: bool = False


@dataclass(frozen=True)
class PoolTrace:
    """One judge's trace for one quadruple, as step 3 of the curation writes it."""

    candidate_id: str
    judge: str
    index: int
    """Position in the order of generation, over all judges of the pool; unique per candidate."""
    outcome: Trace | Unparsed
    simulated: bool = False


@dataclass(frozen=True)
class Quadruple:
    """(x_edit, x_ref, q, P): what the verifier reads, and the unit of SFT when it carries a target."""

    context: Context
    candidate: Candidate
    target: Trace | None = None
    """The selected trace; None when the quadruple was not (yet) selected."""


@dataclass(frozen=True)
class Rating:
    """What an annotator gave both candidates of a pair on one scale; higher is better, the range is the data's own."""

    name: str
    """What was rated, such as "overall"."""
    first: float
    second: float


@dataclass(frozen=True)
class Preference:
    """A human (or simulated) comparison of two candidates of one context."""

    context: Context
    first: Candidate
    second: Candidate
    choice: Choice
    annotator: str
    simulated: bool = False
    aspect: str = ""
    """What was compared, where that is not the edit as a whole: "consistency", "VQ"; "" for the whole."""
    soft_label: float | None = None
    """Share of the annotators' votes for `first`, "same" as half, 0 to 1; None for a single answer."""
    votes: int | None = None
    """Number of votes in `soft_label`; None where there is none."""
    ratings: tuple[Rating, ...] = ()
    """Scores given beside the choice, which they need not agree with."""
    origin: str = ""
    """Its id in the data it was imported from; "" when unknown."""

    def swap(self) -> Preference:
        """The same comparison with the two candidates shown the other way round."""
        flipped: dict[str, Choice] = {"first": "second", "second": "first", "same": "same"}
        return replace(
            self,
            first=self.second,
            second=self.first,
            choice=flipped[self.choice],
            soft_label=None if self.soft_label is None else 1 - self.soft_label,
            ratings=tuple(Rating(one.name, one.second, one.first) for one in self.ratings),
        )

    @property
    def winner(self) -> Candidate | None:
        """x_w, or None for "same"."""
        return {"first": self.first, "second": self.second, "same": None}[self.choice]

    @property
    def loser(self) -> Candidate | None:
        """x_l, or None for "same"."""
        return {"first": self.second, "second": self.first, "same": None}[self.choice]
