"""The score a trace would have had on average, had only its score's digits been drawn again.

A parsed score is one draw, and greedy scores fall on few values: two edits often tie. The probabilities that the
model gave to the other digits say more. The expected score is

    E = sum over branches of P(branch) * value(branch) / coverage,   coverage = sum of P(branch),

given everything that the model wrote before the first digit. A branch follows the generated tokens up to some token of
the number and takes one of its reported alternatives there: "8.5" as the tokens "8", ".", "5", "</" has the branches
"7...", "9...", "8</", "8.4...", "8.6...", "8.5</" and so on. Its probability is the product of the probabilities along
it, at temperature 1 and before any truncation; its value is the number it shows. What is not seen after a branch has
left the generated text is taken as follows:

- decimals: as in the generated number ("7..." beside "8.5" is 7.5), so a value is wrong by less than 1 point;
- "1..." beside another digit may be 1 or 10. It is read as 10 where "9..." has at least `CLEARLY` times the probability
  of "0..." and "2..." together, as 1 where it is the other way round, and is not counted elsewhere;
- a branch that shows no number from 0 to 10 is not counted, nor are alternatives that were not reported.

So the truncation is that of the reported alternatives (20 a token). Where coverage is below `MIN_COVERAGE`, or the
tokens do not spell the score that was parsed, there is no expected score. It breaks ties between parsed scores and
replaces none: a model may be sure of a wrong digit, and the mean of two digits is a score that nobody wrote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edit_r1.records import Trace, Unparsed
from edit_r1.verifier.answer_text import BadAnswer, answer_of, find_score
from edit_r1.verifier.loose_json import to_ascii_punctuation
from edit_r1.vlm.protocol import Completion, TokenChoices

MIN_COVERAGE = 0.8
"""Least probability of the counted branches: with less, what was not seen may move the mean by 2 points."""
CLEARLY = 10.0
"""How much likelier the neighbours of 10 must be than those of 1, or the reverse, before "1..." is read as one of them:
the probabilities of whole points seldom have a peak that stands alone."""

_NUMBER = re.compile(r"[0-9]{1,2}(?:\.[0-9]*)?")
_AFTER_NUMBER = re.compile(r"[<\s*_}$\"'/分]")
"""What may follow a score in its tag."""


@dataclass(frozen=True)
class ExpectedScore:
    """The mean of the score's distribution."""

    value: float
    """0 to 10."""
    coverage: float
    """Probability of the branches it was computed from, `MIN_COVERAGE` to 1."""


def expected_score(choices: Sequence[TokenChoices] | None, score: float) -> ExpectedScore | None:
    """E for one trace whose parsed score is `score`; None without alternatives, alignment or coverage."""
    place = _first_token(choices, score) if choices else None
    if choices is None or place is None:
        return None
    first, lead, decimals = place
    total = counted = 0.0
    reached, number = 1.0, ""
    one = _meaning_of_one(choices[first], lead)
    for position in range(first, len(choices)):
        generated = to_ascii_punctuation(choices[position].token)
        followed = 0.0
        for text, logprob in choices[position].alternatives:
            probability = math.exp(logprob)
            if to_ascii_punctuation(text) == generated:
                followed += probability
                continue
            value = _value(_extended(number, lead, to_ascii_punctuation(text)), decimals, one)
            if value is not None:
                total += reached * probability * value
                counted += reached * probability
        reached *= followed
        extended = _extended(number, lead, generated)
        if extended is None or reached == 0:  # below a token that is not among its alternatives nothing is known
            break
        number, closed = extended
        lead = ""
        if closed:
            total += reached * score
            counted += reached
            break
    if counted < MIN_COVERAGE:
        return None
    return ExpectedScore(total / counted, min(counted, 1.0))


def expected_value(completion: Completion, outcome: Trace | Unparsed) -> float | None:
    """E for what was parsed from a completion; None for an unparsed one, and as `expected_score`."""
    found = expected_score(completion.choices, outcome.score) if isinstance(outcome, Trace) else None
    return None if found is None else found.value


def _first_token(choices: Sequence[TokenChoices], score: float) -> tuple[int, str, str] | None:
    """The token in which the score's first digit stands, what stands in it before, and the score's decimals."""
    texts = [choice.token for choice in choices]
    joined = "".join(texts)
    try:
        written = find_score(answer_of(joined))
    except BadAnswer:
        return None
    if written.value != score:
        return None
    ends = list(accumulate(map(len, texts)))
    first = next(index for index, end in enumerate(ends) if end > written.start)
    lead = joined[ends[first] - len(texts[first]) : written.start]
    decimals = to_ascii_punctuation(joined[written.start : written.end]).partition(".")[2]
    return first, to_ascii_punctuation(lead), decimals


def _extended(number: str, lead: str, token: str) -> tuple[str, bool] | None:
    """The number with the token's digits, and whether the token shows its end; None when it is no score.

    lead: what stands before the number in the generated token, and must stand there in its alternatives.
    """
    if not lead.strip():
        rest = token if number else token.lstrip()
    elif token.startswith(lead):
        rest = token[len(lead) :].lstrip()
    else:
        return None
    digits = re.match(r"[0-9.]*", rest)
    assert digits is not None, "it matches nothing too"
    after = rest[digits.end() :]
    longer = number + digits[0]
    if not _NUMBER.fullmatch(longer) or float(longer) > 10 or (after and not _AFTER_NUMBER.match(after)):
        return None
    return longer, bool(after)


def _meaning_of_one(choice: TokenChoices, lead: str) -> str | None:
    """What a first digit "1" stands for beside the other first digits: "1", "10", or None for either."""
    mass = {"0": 0.0, "2": 0.0, "9": 0.0}
    for text, logprob in choice.alternatives:
        shown = _extended("", lead, to_ascii_punctuation(text))
        whole = "" if shown is None else shown[0].partition(".")[0]
        if whole in mass:
            mass[whole] += math.exp(logprob)
    low, high = mass["0"] + mass["2"], mass["9"]
    if high > 0 and high >= CLEARLY * low:
        return "10"
    return "1" if low > 0 and low >= CLEARLY * high else None


def _value(shown: tuple[str, bool] | None, decimals: str, one: str | None) -> float | None:
    """What a branch is worth that shows this number.

    decimals: those of the generated number; one: what "1" stands for while no more is shown.
    """
    if shown is None:
        return None
    number, closed = shown
    whole, point, written = number.partition(".")
    if closed or written:
        return float(number)
    if whole == "1" and not point:
        if one is None:
            return None
        whole = one
    return min(10.0, float(f"{whole}.{decimals or 0}"))
