"""The expected score against exhaustive enumeration, by hand, and where it must stay silent."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.verifier.expected_score import MIN_COVERAGE, ExpectedScore, expected_score
from edit_r1.vlm.protocol import TokenChoices

Table = Mapping[str, float]


def choices_of(*steps: tuple[str, Table]) -> list[TokenChoices]:
    """Each step: the token that came, and the probabilities at its place."""
    return [
        TokenChoices(token, tuple((text, math.log(p)) for text, p in sorted(table.items(), key=lambda item: -item[1])))
        for token, table in steps
    ]


def sure(*tokens: str) -> list[tuple[str, Table]]:
    return [(token, {token: 1.0}) for token in tokens]


BEFORE, AFTER = sure("1 yes", "\n", "<score>"), sure("</", "score", ">")


def test_a_score_of_one_token() -> None:
    found = expected_score(choices_of(*BEFORE, ("8", {"8": 0.5, "7": 0.3, "9": 0.2}), *AFTER), 8.0)
    assert found == ExpectedScore(pytest.approx(0.5 * 8 + 0.3 * 7 + 0.2 * 9), pytest.approx(1.0))
    ten = expected_score(choices_of(*BEFORE, ("9.5", {"9.5": 0.6, "10.0": 0.4}), *AFTER), 9.5)
    assert ten is not None and ten.value == pytest.approx(0.6 * 9.5 + 0.4 * 10)


def test_a_score_of_several_tokens_by_hand() -> None:
    steps = [
        *BEFORE,
        ("8", {"8": 0.7, "7": 0.2, "N": 0.1}),
        (".", {".": 0.9, "</": 0.1}),
        ("5", {"5": 0.6, "0": 0.4}),
        ("</", {"</": 0.75, "5": 0.25}),
        *AFTER[1:],
    ]
    branches = {7.5: 0.2, 8.0: 0.7 * 0.1 + 0.7 * 0.9 * 0.4, 8.5: 0.7 * 0.9 * 0.6 * 0.75, 8.55: 0.7 * 0.9 * 0.6 * 0.25}
    found = expected_score(choices_of(*steps), 8.5)
    assert found is not None
    assert found.coverage == pytest.approx(0.9)
    assert found.value == pytest.approx(sum(value * p for value, p in branches.items()) / 0.9)


@pytest.mark.parametrize(
    ("steps", "score", "wanted"),
    [
        ([("10", {"10": 0.5, "9": 0.5})], 10.0, 9.5),
        ([("1", {"1": 0.9, "9": 0.1}), ("0", {"0": 1.0})], 10.0, 0.9 * 10 + 0.1 * 9),
        ([("9", {"9": 0.6, "1": 0.3, "8": 0.1}), *sure(".", "5")], 9.5, 0.6 * 9.5 + 0.3 * 10 + 0.1 * 8.5),
        ([("0", {"0": 0.6, "1": 0.3, "2": 0.1}), *sure(".", "5")], 0.5, 0.6 * 0.5 + 0.3 * 1.5 + 0.1 * 2.5),
        ([("9", {"9": 0.75, "1": 0.15, "2": 0.06, "0": 0.04})], 9.0, (6.75 + 0.12) / 0.85),
        ([("1", {"1": 1.0}), ("0", {"0": 0.5, ".": 0.5})], 10.0, 0.5 * 10 + 0.5 * 1),
        ([("1", {"1": 1.0}), (".", {".": 0.5, "0": 0.5}), ("5", {"5": 1.0})], 1.5, 0.5 * 1.5 + 0.5 * 10),
        ([("10.0", {"10.0": 0.5, "10.5": 0.05, "9.0": 0.45})], 10.0, (0.5 * 10 + 0.45 * 9) / 0.95),
        ([(" 8", {" 8": 0.5, "7": 0.5})], 8.0, 7.5),
        ([("8/", {"8/": 0.5, "7/": 0.5}), *sure("10")], 8.0, 7.5),
        ([("8.", {"8.": 0.5, "6.": 0.5}), ("5", {"5": 1.0})], 8.5, 7.5),
        ([("８", {"８": 0.5, "６": 0.5})], 8.0, 7.0),
        ([*sure("**"), ("8", {"8": 0.5, "4": 0.5}), *sure("**")], 8.0, 6.0),
    ],
)
def test_however_the_tokenizer_splits_it(steps: list, score: float, wanted: float) -> None:
    found = expected_score(choices_of(*BEFORE, *steps, *AFTER), score)
    assert found is not None
    assert found.value == pytest.approx(wanted)


def test_the_digit_may_share_its_token_with_the_tag() -> None:
    steps = [*sure("<score"), (">8", {">8": 0.5, ">6": 0.3, "> 4": 0.1, "8": 0.1}), *AFTER]
    found = expected_score(choices_of(*steps), 8.0)
    assert found == ExpectedScore(pytest.approx((4 + 1.8 + 0.4) / 0.9), pytest.approx(0.9))


@pytest.mark.parametrize(
    ("steps", "score"),
    [
        ([*BEFORE, ("8", {"8": 0.5, "7": 0.2}), *AFTER], 8.0),  # 0.3 was not reported
        ([*BEFORE, ("9", {"9": 0.6, "1": 0.3, "2": 0.1}), *AFTER], 9.0),  # "1" may be 1 or 10
        ([*BEFORE, ("5", {"5": 0.7, "1": 0.3}), *AFTER], 5.0),
        ([*BEFORE, ("8", {"7": 0.5, "6": 0.2}), *AFTER], 8.0),  # the token that came is not among them
        ([*BEFORE, ("8", {"8": 1.0}), *AFTER], 7.0),  # the tokens spell another score
        ([*BEFORE, ("8", {"8": 1.0})], 8.0),  # and no tag's end
        ([*sure("<think>")], 8.0),
        ([], 8.0),
    ],
)
def test_silence(steps: list, score: float) -> None:
    assert expected_score(choices_of(*steps), score) is None


def test_nothing_without_alternatives() -> None:
    assert expected_score(None, 8.0) is None
    assert expected_score([TokenChoices(token, ()) for token, _ in [*BEFORE, *sure("8"), *AFTER]], 8.0) is None


def test_the_score_that_counts_is_the_last_and_outside_of_thoughts() -> None:
    draft = sure("<think>", "<score>", "3", "</score>", "</think>", "<score>", "4", "</score>")
    found = expected_score(choices_of(*draft, *BEFORE, ("8", {"8": 0.5, "6": 0.5}), *AFTER), 8.0)
    assert found is not None and found.value == pytest.approx(7.0)


# --- a language of scores, enumerated whole -----------------------------------------------------------------------

VOCABULARY = [*"0123456789", ".", "</"]


def distribution(prefix: str, seed: int) -> dict[str, float]:
    """A random model: the probabilities of what may follow `prefix` in a score of one decimal or none."""
    rng = random.Random(f"{seed} {prefix}")
    if prefix == "":
        allowed = [*"023456789"]  # never 1: whether it begins 10 is not shown
    elif "." in prefix:
        allowed = ["</"] if prefix[-1] != "." else [*"0123456789"]
    else:
        allowed = [".", "</"]
    weights = [rng.random() ** 3 + 1e-3 for _ in allowed]
    return {token: weight / sum(weights) for token, weight in zip(allowed, weights, strict=True)}


def exact_mean(seed: int, prefix: str = "", p: float = 1.0) -> float:
    """The mean of the score over every text that the model can write."""
    total = 0.0
    for token, q in distribution(prefix, seed).items():
        total += p * q * float(prefix) if token == "</" else exact_mean(seed, prefix + token, p * q)
    return total


def twin(steps: Sequence[tuple[str, Table]], decimals: str) -> float:
    """The definition read literally: every branch, its probability, and its value."""
    total = 0.0
    for place, (token, table) in enumerate(steps):
        before = "".join(text for text, _ in steps[:place])
        p = math.prod(earlier[text] for text, earlier in steps[:place])
        for other, q in table.items():
            if other == token and place < len(steps) - 1:
                continue
            shown = (before + other).replace("</", "")
            ended = other == "</"
            value = float(shown) if ended or "." in shown[:-1] else float(shown.rstrip(".") + "." + (decimals or "0"))
            total += p * q * value
    return total


@given(seed=st.integers(0, 10**6))
def test_against_every_text_the_model_can_write(seed: int) -> None:
    rng = random.Random(seed)
    text, steps = "", []
    while not steps or steps[-1][0] != "</":
        table = distribution(text, seed)
        token = rng.choices(list(table), list(table.values()))[0]
        steps.append((token, table))
        text += token
    number = text.removesuffix("</")
    found = expected_score(choices_of(*BEFORE, *steps, *AFTER[1:]), float(number))
    assert found is not None
    assert found.coverage == pytest.approx(1.0)
    assert found.value == pytest.approx(twin(steps, number.partition(".")[2]))
    assert abs(found.value - exact_mean(seed)) < 1  # what is not seen is less than a point


@given(
    p=st.lists(st.floats(0.001, 1), min_size=9, max_size=9),
    first=st.integers(0, 8),
    lost=st.floats(0, 0.5),
)
def test_whole_numbers_of_one_token_are_exact(p: list[float], first: int, lost: float) -> None:
    values = [0, 2, 3, 4, 5, 6, 7, 8, 9]
    shares = [share / sum(p) * (1 - lost) for share in p]
    table = {str(value): share for value, share in zip(values, shares, strict=True)}
    found = expected_score(choices_of(*BEFORE, (str(values[first]), table), *AFTER), float(values[first]))
    if 1 - lost < MIN_COVERAGE - 1e-9:
        assert found is None
    elif found is not None:
        assert found.coverage == pytest.approx(1 - lost)
        assert found.value == pytest.approx(sum(v * s for v, s in zip(values, shares, strict=True)) / (1 - lost))


texts = st.one_of(
    st.sampled_from([*VOCABULARY, "<score>", "</score>", ">8", "10", " ", "．", "score"]), st.text(max_size=3)
)


@given(
    rows=st.lists(st.tuples(texts, st.lists(st.tuples(texts, st.floats(-30, 0)), max_size=5)), max_size=8),
    score=st.sampled_from([0.0, 1.0, 8.0, 10.0]),
)
def test_anything_at_all_gives_a_score_in_range_or_none(rows: list, score: float) -> None:
    choices = [TokenChoices(token, tuple(alternatives)) for token, alternatives in rows]
    wrapped = [*choices_of(*BEFORE), *choices, *choices_of(*AFTER)]
    for given_choices in (choices, wrapped):
        found = expected_score(given_choices, score)
        assert found is None or (0 <= found.value <= 10 and MIN_COVERAGE <= found.coverage <= 1)
