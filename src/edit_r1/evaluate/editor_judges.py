"""Who grades an editor's pictures: our verifier, or a general vision-language model by a holistic prompt.

viescore   VIEScore's definition, which GEdit-Bench uses: two questions an edit. SC (source and edit) gives two scores
           of 0 to 10, how far the instruction was followed and whether nothing else was changed; PQ (the edit alone)
           two more, naturalness and freedom from artefacts. SC and PQ are the smaller of their two,
           O = sqrt(SC * PQ). Asked as `evaluate reward --judge holistic` asks (`verifier.holistic`), so that it can be
           measured there how often this judge is right.
imgedit    ImgEdit-Bench's definition: one question, three scores of 1 to 5, their mean.
verifier   a checklist of principles and a score of 0 to 10 (`verifier.scoring`).

The prompts are ours: a result is comparable with another one of the same judge, prompts and version, and with no
published table. The official judges are GPT-4.1 (GEdit) and GPT-4o (ImgEdit) with their own prompts.

An answer that cannot be read is asked for again, sampled, up to `retries` times; then the edit has no score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.images import MAX_JUDGED_PIXELS, ImageError, judged_pictures
from edit_r1.records import CATEGORIES, Judgment, Unparsed
from edit_r1.verifier.answer_text import BadAnswer, answer_of
from edit_r1.verifier.holistic import (
    HOLISTIC_VERSION,
    MAX_NEW_TOKENS,
    consistency_request,
    overall,
    quality_request,
)
from edit_r1.verifier.holistic import parse_scores as two_scores
from edit_r1.verifier.loose_json import json_values
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.vlm.protocol import VLM, Completion, Request, Sampling

VERSIONS = {"viescore": HOLISTIC_VERSION, "imgedit": "imgedit-1"}
"""Of the prompts: any change of a wording changes its entry."""
RETRY_TEMPERATURE = 0.7
"""A greedy answer that could not be read would come again."""


@dataclass(frozen=True)
class JudgedEdit:
    """What a judge is given."""

    task: Task
    image: bytes
    """The edit, encoded."""


@dataclass(frozen=True)
class Grade:
    """One judge's word on one edit."""

    score: float | None
    """The judge's main number, in its range; None when no answer could be read. Never a stand-in."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """Every number it gives, the main one too, by `Scale.parts`."""
    unparsed: int = 0
    """Answers that could not be read, those asked for again included."""
    failed_call: bool = False
    """An answer never came: the grade is not kept, and the next run asks again. With a score it is of fewer traces."""
    reason: str | None = None
    """Why there is no score."""
    texts: tuple[str, ...] = ()
    """What the model wrote, in the order asked."""


@dataclass(frozen=True)
class Scale:
    """What a judge's numbers are."""

    main: str
    """The name of the score among `parts`."""
    parts: tuple[str, ...]
    low: float
    high: float
    """Range of the main number."""


class EditJudge(Protocol):
    """Grades edits in batches; a bad edit costs no other."""

    @property
    def kind(self) -> str:
        """ "viescore", "imgedit", "verifier" or "oracle"."""

    @property
    def name(self) -> str:
        """The model's."""

    @property
    def scale(self) -> Scale: ...

    @property
    def settings(self) -> dict[str, Any]:
        """What shapes its answers beside the model: versions, traces, limits. Other settings are kept apart."""

    @property
    def note(self) -> str:
        """What a reader of its numbers must know."""

    def grade(self, edits: Sequence[JudgedEdit], retries: int) -> list[Grade]:
        """One grade per edit, in order."""

    def close(self) -> None: ...


NOT_COMPARABLE = "not comparable with published numbers: their judge and prompts are others"

# --- holistic prompts -------------------------------------------------------------------------------------------

_ANSWER = (
    'Think it over in a few sentences, then end with one line of JSON and nothing after it: {{"scores": [{places}]}}, '
    "{count} numbers from {low} to {high}; decimals are allowed."
)

IMGEDIT_PROMPT = (
    "You grade an edited picture. Picture 1 is the source, picture 2 the edit. Kind of edit: {kind}. Instruction: "
    "{instruction}\n"
    "Give three scores from 1 to 5; 1 is a failure, 3 is fair with clear faults, 5 has nothing to mend.\n"
    "First, compliance: the right thing was edited, completely, as asked, and what the instruction leaves alone is as "
    "it was.\n"
    "Second, quality: the edited part is well made and blends in; no seams, smears, distortions or loss of detail.\n"
    "Third, consistency: light, shadows, perspective, size and structure fit the scene, and details of what was kept "
    "are still there.\n"
    "What was not done cannot be well made: neither the second nor the third score may exceed the first.\n"
    + _ANSWER.format(places="compliance, quality, consistency", count="three", low=1, high=5)
)


def parse_scores(
    text: str, count: int, low: float, high: float, truncated: bool = False
) -> tuple[float, ...] | Unparsed:
    """The `count` numbers under "scores" in a JSON object of the text (thoughts left out), each in [low, high].

    Anything else is Unparsed with the reason: a text that was cut, no such object, several that differ, another number
    of scores, what is no number, a value out of range.
    """
    try:
        if truncated:
            raise BadAnswer("cut at the token limit")
        found = [
            value["scores"] for value in json_values(answer_of(text)) if isinstance(value, dict) and "scores" in value
        ]
        if not found:
            raise BadAnswer('no JSON object with "scores" in the answer')
        if any(scores != found[0] for scores in found):
            raise BadAnswer(f"{len(found)} objects with different scores")
        return _numbers(found[0], count, low, high)
    except BadAnswer as bad:
        return Unparsed(text, str(bad))


def _numbers(scores: Any, count: int, low: float, high: float) -> tuple[float, ...]:
    if not isinstance(scores, list) or len(scores) != count:
        raise BadAnswer(f"scores {str(scores)[:60]}: expected a list of {count} numbers")
    for value in scores:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise BadAnswer(f"the score {str(value)[:40]} is no number from {low:g} to {high:g}")
    return tuple(float(value) for value in scores)


@dataclass(frozen=True)
class Question:
    """One thing that is asked of a model."""

    name: str
    request: Callable[[JudgedEdit, int], Request]
    """From an edit and the most pixels of a picture; raises ImageError for one that cannot be read, or ValueError."""
    read: Callable[[str, bool], tuple[float, ...] | Unparsed]
    """From an answer's text, and whether it was cut: the scores."""


def _consistency(edit: JudgedEdit, max_pixels: int) -> Request:
    sample = edit.task.sample
    sources, edited = judged_pictures(sample.sources, edit.image, max_pixels)
    return consistency_request(sources, edited, sample.instruction)


def _quality(edit: JudgedEdit, max_pixels: int) -> Request:
    return quality_request(judged_pictures((edit.task.sample.source,), edit.image, max_pixels)[1])


def _imgedit(edit: JudgedEdit, max_pixels: int) -> Request:
    sample = edit.task.sample
    (source,), edited = judged_pictures((sample.source,), edit.image, max_pixels)
    kind = sample.category.replace("_", " ") or "not named"
    # One pass over the template: an instruction may hold braces.
    text = IMGEDIT_PROMPT.replace("{kind}", kind).replace("{instruction}", sample.instruction.strip())
    return Request(("Picture 1: ", source, "\nPicture 2: ", edited, "\n" + text))


SC = Question("SC", _consistency, two_scores)
PQ = Question("PQ", _quality, two_scores)
THREE = Question("ImgEdit", _imgedit, lambda text, cut: parse_scores(text, 3, 1, 5, cut))


def viescore(scores: dict[str, tuple[float, ...]]) -> dict[str, float | None]:
    """SC, PQ and O of {"SC": (success, restraint), "PQ": (naturalness, cleanness)}."""
    sc, pq = min(scores["SC"]), min(scores["PQ"])
    return {"SC": sc, "PQ": pq, "O": overall(sc, pq)}


def imgedit_score(scores: dict[str, tuple[float, ...]]) -> dict[str, float | None]:
    """The three scores and their mean, 1 to 5."""
    three = scores["ImgEdit"]
    names = ("compliance", "quality", "consistency")
    return {**dict(zip(names, three, strict=True)), "mean": sum(three) / 3}


class HolisticJudge:
    """A vision-language model that is asked `questions` about every edit."""

    def __init__(
        self,
        kind: str,
        vlm: VLM,
        max_pixels: int = MAX_JUDGED_PIXELS,
        seed: int = 0,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        """kind: "viescore" or "imgedit". seed: of answers asked for again. max_new_tokens: longest answer."""
        self.kind, self.vlm, self.max_pixels, self.seed = kind, vlm, max_pixels, seed
        self.max_new_tokens = max_new_tokens
        self.name = vlm.name
        if kind == "viescore":
            self.questions: tuple[Question, ...] = (SC, PQ)
            self.scale, self._combine = Scale("O", ("SC", "PQ", "O"), 0, 10), viescore
        elif kind == "imgedit":
            self.questions = (THREE,)
            self.scale = Scale("mean", ("compliance", "quality", "consistency", "mean"), 1, 5)
            self._combine = imgedit_score
        else:
            raise ValueError(f"judge {kind!r}: holistic ones are {', '.join(VERSIONS)}")

    @property
    def settings(self) -> dict[str, Any]:
        return {"prompts": VERSIONS[self.kind], "max_pixels": self.max_pixels, "max_new_tokens": self.max_new_tokens,
                "seed": self.seed, "simulated": self.vlm.simulated}  # fmt: skip

    @property
    def note(self) -> str:
        official = {
            "viescore": "GEdit-Bench: GPT-4.1 by VIEScore's prompts",
            "imgedit": "ImgEdit-Bench: GPT-4o by its prompts",
        }
        return f"{self.name} by our prompts {VERSIONS[self.kind]} (official: {official[self.kind]}); {NOT_COMPARABLE}"

    def grade(self, edits: Sequence[JudgedEdit], retries: int) -> list[Grade]:
        """One grade per edit; every question is asked on its own until its answer can be read."""
        answers: dict[tuple[int, str], tuple[float, ...] | Unparsed] = {}
        requests: dict[tuple[int, str], Request] = {}
        for place, edit in enumerate(edits):
            for question in self.questions:
                try:
                    requests[place, question.name] = question.request(edit, self.max_pixels)
                except ValueError as error:
                    told = f"edited image: {error}" if isinstance(error, ImageError) else str(error)
                    answers[place, question.name] = Unparsed("", told)
        texts: dict[int, list[str]] = {place: [] for place in range(len(edits))}
        unreadable = [0] * len(edits)
        asked_by = {question.name: question for question in self.questions}
        for attempt in range(retries + 1):
            asked = [key for key in requests if not isinstance(answers.get(key), tuple)]
            if not asked:
                break
            sampling = Sampling(self.max_new_tokens, RETRY_TEMPERATURE if attempt else 0.0, seed=self.seed + attempt)
            for key, row in zip(asked, self.vlm.generate([requests[key] for key in asked], sampling, 1), strict=True):
                place, name = key
                answers[key] = _read(row[0], asked_by[name])
                if row[0].finish != "error":
                    texts[place].append(row[0].text)
                    unreadable[place] += isinstance(answers[key], Unparsed)
        return [
            self._grade({name: answers[place, name] for name in asked_by}, unreadable[place], texts[place])
            for place in range(len(edits))
        ]

    def _grade(self, answers: dict[str, tuple[float, ...] | Unparsed], unparsed: int, texts: Sequence[str]) -> Grade:
        missing = {name: answer for name, answer in answers.items() if isinstance(answer, Unparsed)}
        if missing:
            failed = any(answer.failed_call for answer in missing.values())
            reason = "; ".join(f"{name}: {answer.reason}" for name, answer in missing.items())
            return Grade(None, dict.fromkeys(self.scale.parts), unparsed, failed, reason, tuple(texts))
        parts = self._combine({name: answer for name, answer in answers.items() if isinstance(answer, tuple)})
        return Grade(parts[self.scale.main], parts, unparsed, texts=tuple(texts))

    def close(self) -> None:
        close = getattr(self.vlm, "close", None)
        if close is not None:
            close()


def _read(completion: Completion, question: Question) -> tuple[float, ...] | Unparsed:
    if completion.finish == "error":
        return Unparsed(completion.text, f"no answer came: {completion.error or 'unknown error'}", failed_call=True)
    return question.read(completion.text, completion.finish == "length")


# --- our verifier -----------------------------------------------------------------------------------------------


class VerifierEditJudge:
    """Our verifier: its score, and the share of fulfilled principles of each category as points of 10."""

    kind = "verifier"
    scale = Scale("score", ("score", *CATEGORIES), 0, 10)

    def __init__(self, verifier: Verifier, traces: int = 1, seed: int = 0) -> None:
        self.verifier, self.traces, self.seed = verifier, traces, seed
        self.name = verifier.vlm.name

    @property
    def settings(self) -> dict[str, Any]:
        asked = self.verifier
        return {"prompts": PROMPT_VERSIONS[asked.variant], "mode": asked.mode, "traces": self.traces, "seed": self.seed,
                "max_pixels": asked.max_pixels, "max_new_tokens": asked.max_new_tokens,
                "principles_by": asked.principles_vlm.name, "simulated": asked.vlm.simulated}  # fmt: skip

    @property
    def note(self) -> str:
        return f"{self.name}, score of 10 by a checklist of principles; {NOT_COMPARABLE}"

    def grade(self, edits: Sequence[JudgedEdit], retries: int) -> list[Grade]:
        if not edits:
            return []
        # Calls differ in their seed, by what is in them, or all would draw the same random numbers.
        seed = (self.seed + int(hashlib.sha256(edits[0].image).hexdigest()[:7], 16)) % 2**31
        grades: dict[int, Grade] = {}
        unreadable = [0] * len(edits)
        open_places = list(range(len(edits)))
        for attempt in range(retries + 1):
            items = [_item(edits[place]) for place in open_places]
            temperature = None if not attempt else 1.0
            judged = self.verifier.score_many(items, self.traces, temperature, (seed + 1000 * attempt) % 2**31)
            for place, judgment in zip(open_places, judged, strict=True):
                unreadable[place] += sum(isinstance(one, Unparsed) and not one.failed_call for one in judgment.outcomes)
                grades[place] = replace(_graded(judgment), unparsed=unreadable[place])
            open_places = [
                place for place in open_places if grades[place].score is None and not grades[place].failed_call
            ]
            if not open_places:
                break
        return [grades[place] for place in range(len(edits))]

    def close(self) -> None:
        self.verifier.close()


def _item(edit: JudgedEdit) -> ScoreItem:
    sample = edit.task.sample
    return ScoreItem(sample.sources, edit.image, sample.instruction, edit.task.principles)


def _graded(judgment: Judgment) -> Grade:
    shares = {name: None if mean is None else 10 * mean for name, mean in judgment.categories.items()}
    texts = tuple(outcome.text for outcome in judgment.outcomes)
    lost = [outcome for outcome in judgment.outcomes if isinstance(outcome, Unparsed)]
    gone = [outcome.reason for outcome in lost if outcome.failed_call and "no answer came" in outcome.reason]
    reason = next(iter([*gone, *(outcome.reason for outcome in lost)]), "no trace")
    if judgment.score is None:
        return Grade(None, {"score": None, **shares}, 0, bool(gone), reason, texts)
    parts = {"score": judgment.score, **shares}
    return Grade(judgment.score, parts, 0, bool(gone), reason if gone else None, texts)
