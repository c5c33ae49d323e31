"""Each check by itself, and what was seen before against a brute-force twin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.picture_hash import distance
from edit_r1.curate.intake.checks import IntakeChecks, Seen, check_size, check_text, normalised
from edit_r1.curate.intake.language import LANGUAGES, language_of

SAID = {
    "en": [
        "Let her cry.",
        "Replace 'TRAIN' with 'PLANE'",
        "Change image to anime style.",
        "Make it night",
        "remove the cat",
    ],
    "de": ["Entferne die Katze links im Bild", "Mache den Himmel blau", "Ändere die Farbe des Autos zu Rot"],
    "fr": ["Remplacez le chien par un chat", "Supprimer la voiture rouge", "Rends le ciel plus bleu"],
    "es": ["Cambia el color del coche a rojo", "Elimina la persona de la derecha", "Añade un sombrero"],
    "it": ["Rimuovi il gatto dalla foto", "Aggiungi un cappello alla donna", "Cambia il colore della macchina"],
    "pt": ["Remova o gato da imagem", "Adicione um chapéu à mulher", "Mude a cor do carro para vermelho"],
    "nl": ["Verwijder de kat van het bed", "Maak de lucht blauw", "Voeg een hoed toe aan de vrouw"],
    "zh": ["把天空变成蓝色", "将'TRAIN'替换为'PLANE'", "删除左边的猫"],
    "ja": ["空を青くしてください", "猫を削除する"],
    "ko": ["하늘을 파란색으로 바꿔 주세요"],
    "cyrillic": ["Удали кота с кровати"],
    "arabic": ["احذف القطة"],
    "he": ["הסר את החתול"],
    "el": ["Αφαίρεσε τη γάτα"],
    "th": ["ลบแมวออก"],
    "devanagari": ["बिल्ली को हटाओ"],
}


@pytest.mark.parametrize(("language", "text"), [(name, text) for name, texts in SAID.items() for text in texts])
def test_the_language_of_real_requests(language: str, text: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", "!!!", "Vignette", "HDR", "12 + 3", "🙂🙂"])
def test_what_cannot_be_told_is_not_guessed(text: str) -> None:
    assert language_of(text) is None


@given(st.text(max_size=60))
def test_every_text_has_a_known_language_or_none(text: str) -> None:
    assert language_of(text) in (*LANGUAGES, None)


def test_sizes() -> None:
    checks = IntakeChecks(min_side=64, max_side=1000, max_aspect=2.5)
    told = {
        (64, 64): None,
        (63, 64): "smaller",
        (400, 1000): None,
        (399, 1000): "longer than 2.5",
        (1001, 900): "larger",
    }
    for size, words in told.items():
        for width, height in (size, size[::-1]):
            found = check_size(width, height, checks)
            assert found is None if words is None else found is not None and words in found
    assert check_size(8, 8000, IntakeChecks(min_side=8, max_aspect=0)) is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Add a hat.", None),
        ("   ", "empty"),
        ("...!", "no word"),
        ("ab", "shorter than 3"),
        ("Make it \x00 red.", "holds a null byte"),
        ("x" * 501, "longer than 500"),
        ("Entferne die Katze", "another language (de)"),
        ("Vignette", None),
    ],
)
def test_instructions(text: str, cause: str | None) -> None:
    found = check_text(text, IntakeChecks(languages=("en",)))
    assert found is None if cause is None else found is not None and cause in found
    strict = IntakeChecks(languages=("en",), unknown_language=False)
    assert check_text("Vignette", strict) == "in a language that cannot be told"
    assert check_text("Entferne die Katze", IntakeChecks()) is None


@pytest.mark.parametrize(
    "wrong",
    [{"min_side": 4}, {"max_side": 10}, {"max_aspect": 0.5}, {"min_characters": 0}, {"max_characters": 3000},
     {"languages": ("xx",)}, {"near_bits": 200}, {"most_per_picture": -1}],
)  # fmt: skip
def test_limits_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IntakeChecks(**wrong)


def test_normal_forms() -> None:
    same = ["Make it blue.", "make  it BLUE", " Make it, blue!!", "ＭＡＫＥ it blue"]
    assert {normalised(text) for text in same} == {"make it blue"}
    assert normalised("by -10") != normalised("by 10") != normalised("by +10")
    assert normalised("TRAIN -> PLANE") == "train plane"


@given(st.text(max_size=40))
def test_a_normal_form_is_its_own(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


words = st.sampled_from(["Blue.", "blue", "red", "red!", "Add a hat"])
hashes = st.binary(min_size=32, max_size=32)
# Few hashes and small changes of them, so that near copies and copies of copies occur.
near = st.builds(
    lambda base, flips: bytes(b ^ (1 << flips[i] if i in flips else 0) for i, b in enumerate([base] * 32)),
    st.sampled_from([0, 255, 0b10101010]),
    st.dictionaries(st.integers(0, 31), st.integers(0, 7), max_size=6),
)
rows = st.lists(
    st.tuples(st.integers(0, 12), st.none() | near | hashes, words, st.sampled_from(["a", "b", "c", "d", "e", "f"])),
    max_size=25,
)


@given(rows, st.integers(0, 2), st.integers(0, 2), st.sampled_from([-1, 0, 3, 30]))
def test_what_was_seen_against_a_twin(found: list[Any], per_picture: int, per_words: int, bits: int) -> None:
    checks = IntakeChecks(most_per_picture=per_picture, most_per_instruction=per_words, near_bits=bits)
    seen = Seen(checks)
    taken: list[tuple[int, str, str]] = []
    pictures: list[tuple[int, bytes | None, int]] = []  # exact, near, number of the picture
    for exact, hashed, text, name in found:
        known = [number for other, _, number in pictures if other == exact]
        if known:
            number = known[0]
        else:
            number = len(pictures)
            # Compared with first pictures alone: a copy of a copy need not be a copy.
            firsts = [
                (distance(hashed, other), n)
                for place, (_, other, n) in enumerate(pictures)
                if place == n and hashed is not None and other is not None
            ]
            if bits >= 0 and firsts and min(firsts)[0] <= bits:
                number = min(firsts)[1]
            pictures.append((exact, hashed, number))
        text_form = normalised(text)
        expected = (
            "asks" if (number, text_form) in {(p, t) for p, t, _ in taken}
            else "has the id" if name in {n for *_, n in taken}
            else "is of a picture" if per_picture and sum(p == number for p, *_ in taken) >= per_picture
            else "has an instruction" if per_words and sum(t == text_form for _, t, _ in taken) >= per_words
            else None
        )  # fmt: skip
        got = seen.refuse(name, [(bytes([exact]), hashed)], text)
        assert isinstance(got, str) == (expected is not None) and (expected is None or got.startswith(expected))  # type: ignore[arg-type]
        if not isinstance(got, str):
            assert seen.limits.take(got)
            taken.append((number, text_form, name))


def test_many_pictures_are_indexed(data_kit: Any) -> None:
    """More than there is room for at first: every near copy is found at its first picture."""
    import numpy as np

    rng = np.random.default_rng(0)
    seen = Seen(IntakeChecks())
    firsts = [rng.bytes(32) for _ in range(1500)]
    numbers = [seen.picture(bytes([0]) + one, one) for one in firsts]
    assert numbers == list(range(1500))
    for place, one in enumerate(firsts):
        copy = bytes([one[0] ^ 0b1011]) + one[1:]
        assert seen.picture(bytes([1]) + copy, copy) == place
