from __future__ import annotations

from pathlib import Path

import pytest

from edit_r1.verifier.cards import CARD_NAME, ModelCard, read_card, write_card
from edit_r1.vlm.errors import ModelError


def test_round_trip_and_default(tmp_path: Path) -> None:
    assert read_card(tmp_path) == ModelCard("full", "both", None)
    assert read_card("owner/model") == ModelCard()
    card = ModelCard("compact", "verify", "EditWorld")
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"variant": "tiny"}', '{"mode": ["both"]}', '{"domain": 3}', '{"prompt": "x"}', '{"variant": null}'],
)
def test_a_bad_card_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD_NAME).write_text(text)
    with pytest.raises(ModelError, match=CARD_NAME) as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)
