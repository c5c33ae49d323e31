"""Failures by cause: what differs by one row's own name is one cause."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.failures import Failure, by_cause, causes


def test_reasons_that_differ_by_names_and_numbers_are_one_cause() -> None:
    lost = [
        Failure("samples", f"rows.jsonl:{n}", "source image", f"source 'b-{n}.jpg': no such file") for n in range(3)
    ]
    cut = [
        Failure("samples", "x", "source image", f"damaged image ({n} bytes not processed): save it again")
        for n in (28, 7, 28)
    ]
    limits = [
        Failure("reason", "c", name, "no answer came: 429 Too Many Requests: used 19 of 20") for name in ("j1", "j2")
    ]
    other = Failure("reason", "c", "j1", "no answer came: 400 Bad Request: used 19 of 20")
    assert by_cause(causes([*lost, *cut, *limits, other])) == {
        "source image: damaged image (28 bytes not processed): save it again (and 1 like it)": 3,
        "source image: source 'b-0.jpg': no such file (and 2 like it)": 3,
        "j1: no answer came: 400 Bad Request: used 19 of 20": 1,
        "j1: no answer came: 429 Too Many Requests: used 19 of 20": 1,
        "j2: no answer came: 429 Too Many Requests: used 19 of 20": 1,
    }


def test_an_apostrophe_begins_no_name() -> None:
    told = {"e: the server's words aren't it: big": 1, "e: the server's words aren't it: small": 1}
    assert by_cause(told) == told


@given(st.dictionaries(st.text("ab1'\": ", max_size=12), st.integers(1, 9), max_size=8))
def test_none_is_lost_and_each_is_told_as_it_stands_or_with_others(failed: dict[str, int]) -> None:
    told = by_cause(failed)
    assert sum(told.values()) == sum(failed.values())
    assert len(told) <= len(failed)
    assert all(any(cause.startswith(own) for own in failed) for cause in told)
    assert list(told.values()) == sorted(told.values(), reverse=True)
