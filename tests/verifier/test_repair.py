"""The repaired instruction: keeps the original whole, names what was missed and what must stay, and is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edit_r1.records import (
    CATEGORIES,
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Judgment,
    PrincipleResult,
)
from edit_r1.verifier.repair import clearer_instruction, failed_principles


def judgment(*results: PrincipleResult) -> Judgment:
    return Judgment(5.0, 1, 0, None, results, dict.fromkeys(CATEGORIES), "m", 0.0)


CUP = PrincipleResult("Is the cup green?", INSTRUCTION_FOLLOWING, 0.0, "the cup is still red")
SAUCER = PrincipleResult("Is the saucer green?", INSTRUCTION_FOLLOWING, 1.0, None)
SPOON = PrincipleResult("Is the spoon unchanged?", FEATURE_PRESERVATION, 0.25, "the spoon is gone")
TABLE = PrincipleResult("Is the table still of wood?", FEATURE_PRESERVATION, 1.0, None)
SHARP = PrincipleResult("Is the picture sharp?", IMAGE_QUALITY, 0.0, None)
UNKNOWN = PrincipleResult("Is it bright?", IMAGE_QUALITY, None, None)


def test_everything_has_its_place() -> None:
    text = clearer_instruction("Make the cup\nand saucer green.", judgment(CUP, SAUCER, SPOON, TABLE, SHARP, UNKNOWN))
    assert text == (
        "Make the cup and saucer green. Missed before, make it so: Is the cup green? "
        "Keep as it was: Is the spoon unchanged? Is the table still of wood? Mind the quality: Is the picture sharp?"
    )


def test_what_was_done_or_never_judged_is_not_asked_again_and_evidence_stays_out() -> None:
    text = clearer_instruction("Make it green", judgment(CUP, SAUCER, SPOON, UNKNOWN))
    assert text is not None
    assert "saucer" not in text and "bright" not in text
    assert "still red" not in text and "gone" not in text


def test_nothing_failed_is_nothing_to_repair() -> None:
    assert clearer_instruction("Make it green", judgment(SAUCER, TABLE, UNKNOWN)) is None
    assert clearer_instruction("Make it green", judgment()) is None


def test_fulfilled_points_give_way_first() -> None:
    whole = clearer_instruction("Make it green", judgment(CUP, SPOON, TABLE))
    assert whole is not None
    shorter = clearer_instruction("Make it green", judgment(CUP, SPOON, TABLE), max_chars=len(whole) - 1)
    assert shorter is not None
    assert "table" not in shorter and "cup" in shorter and "spoon" in shorter
    assert clearer_instruction("Make it green", judgment(CUP, SPOON), max_chars=20) is None


results = st.builds(
    PrincipleResult,
    st.text(min_size=1, max_size=60).filter(str.strip),
    st.sampled_from(CATEGORIES),
    st.one_of(st.none(), st.floats(0, 1)),
    st.none(),
)


@given(st.text(min_size=1, max_size=300).filter(str.strip), st.lists(results, max_size=12), st.integers(0, 600))
def test_bounded_whole_and_one_line(instruction: str, given_results: list[PrincipleResult], limit: int) -> None:
    judged = judgment(*given_results)
    text = clearer_instruction(instruction, judged, limit)
    if text is None:
        assert all(clearer_instruction(instruction, judgment(one), limit) is None for one in given_results)
        return
    assert len(text) <= limit
    assert text.startswith(" ".join(instruction.split()))
    assert "\n" not in text
    assert any(" ".join(one.question.split()) in text for one in failed_principles(judged))
