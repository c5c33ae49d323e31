from __future__ import annotations

import pytest

from edit_r1.editors.architecture import KNOWN, architecture_of

PUBLISHED = [
    ("black-forest-labs/FLUX.1-Kontext-dev", "transformer", 11_901_408_320),
    ("black-forest-labs/FLUX.1-Kontext-dev", "text_encoder", 123_060_480),
    ("black-forest-labs/FLUX.1-Kontext-dev", "text_encoder_2", 4_762_310_656),
    ("Qwen/Qwen-Image-Edit", "transformer", 20_430_401_088),
    ("Qwen/Qwen-Image-Edit", "text_encoder", 8_292_166_656),
    ("black-forest-labs/FLUX.2-klein-4B", "transformer", 3_875_544_576),
    ("black-forest-labs/FLUX.2-klein-4B", "text_encoder", 4_022_468_096),
]
"""Weights of the released parts, as those who loaded them report."""


@pytest.mark.parametrize(("path", "part", "weights"), PUBLISHED)
def test_a_known_model_has_as_many_weights_as_the_released_one(path: str, part: str, weights: int) -> None:
    assert architecture_of(path).parts[part].parameters() == weights


def test_the_transformer_takes_what_the_encoders_give() -> None:
    """FLUX.2-klein reads three hidden layers of its text encoder, side by side."""
    klein = KNOWN["black-forest-labs/FLUX.2-klein-4B"].parts
    assert klein["transformer"].config["joint_attention_dim"] == 3 * klein["text_encoder"].config["hidden_size"]


def test_an_unknown_model_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="neither a folder nor one of"):
        architecture_of("somebody/else")
