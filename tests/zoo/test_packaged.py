"""What the packaged verifier may be asked about, and where the weights are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.cli import main
from edit_r1.images import ImageError, encode_png
from edit_r1.records import INSTRUCTION_FOLLOWING, Principle
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.prompts import PROMPT_VERSIONS, decompose_request
from edit_r1.verifier.scoring import MAX_NEW_TOKENS
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Sampling
from edit_r1.vlm.transformers import TransformersVLM
from edit_r1.world.edits import CATEGORIES, MULTI_STEP, sample_edit
from edit_r1.world.phrases import JOINTS
from edit_r1.world.scenes import SPLITS, sample_scene
from edit_r1.zoo import packaged
from edit_r1.zoo.packaged import PACKAGED, is_editworld, open_chosen, packaged_verifier, weights

PICTURE = encode_png(np.full((64, 64, 3), 90, np.uint8))


@pytest.mark.parametrize("category", [*CATEGORIES, MULTI_STEP])
def test_every_instruction_of_the_world_is_recognised(category: str) -> None:
    seen = set()
    for number in range(60):
        rng = np.random.default_rng([number, 7])
        split = SPLITS[number % len(SPLITS)]
        edit = sample_edit(rng, sample_scene(rng, split), category, split)
        if edit is not None:
            seen.add(edit.instruction)
            assert is_editworld([PICTURE], edit.instruction), edit.instruction
    assert len(seen) > 10


@pytest.mark.parametrize("joint", JOINTS)
def test_every_joint_is_recognised(joint: str) -> None:
    asked = joint.format(first="remove the red circle", second="add an orange star")
    assert not is_editworld([PICTURE], asked)  # a new thing has a size and a material
    asked = joint.format(first="remove the red circle", second="add a small solid orange star in the top left")
    assert is_editworld([PICTURE], asked)


def test_case_spaces_and_the_full_stop_do_not_matter() -> None:
    assert is_editworld([PICTURE], "  remove  THE red\ncircle ")


@pytest.mark.parametrize(
    "instruction",
    [
        "",
        "Make the dog look happy.",
        "Make the circle red.",
        "Remove the red circle. Now.",
        "Remove the red hexagon.",
        "Make the red circle pink.",
        "Make the background red.",
        "Replace the background with a beach at sunset.",
        "Remove the red circle and",
        "Remove the red circle, then remove the blue star, then remove the green star.",
        "Removexthe red circle.",
    ],
)
def test_what_only_resembles_it_is_not(instruction: str) -> None:
    assert not is_editworld([PICTURE], instruction)


@given(st.text(max_size=60))
def test_no_other_text_is_taken(text: str) -> None:
    assert not is_editworld([PICTURE], text)


@pytest.mark.parametrize("shape", [(64, 65), (48, 48), (512, 512)])
def test_other_sizes_are_not(shape: tuple[int, int]) -> None:
    picture = encode_png(np.zeros((*shape, 3), np.uint8))
    assert not is_editworld([picture], "Remove the red circle.")


def test_one_source_only() -> None:
    assert not is_editworld([], "Remove the red circle.")
    assert not is_editworld([PICTURE, PICTURE], "Remove the red circle.")


def test_a_broken_source_is_named() -> None:
    with pytest.raises(ImageError):
        is_editworld([b"no picture"], "Remove the red circle.")


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="packaged are verifier-small"):
        weights("../verifier-small")


def test_weights_are_found_or_their_absence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.resources, "files", lambda package: tmp_path)
    for name in PACKAGED:
        with pytest.raises(ValueError, match=f"{name} are not in this installation"):
            weights(name)
    with pytest.raises(ValueError, match="reinstall edit-r1"):
        packaged_verifier()
    folder = tmp_path / "weights" / "editor"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="editor are not in this installation"):
        weights("editor")
    (folder / "model_index.json").write_text("{}")
    assert weights("editor") == folder


def test_flags_hold_for_the_packaged_verifier_too() -> None:
    chosen = ModelChoice(attention="eager", dtype="bfloat16", mode="verify", max_new_tokens=99, max_pixels=5000)
    with open_chosen(chosen, batch_size=3) as verifier:
        assert isinstance(verifier.vlm, TransformersVLM)
        assert (verifier.vlm.attention, str(verifier.vlm.model.dtype), verifier.vlm.batch_size) == (
            "eager", "torch.bfloat16", 3
        )  # fmt: skip
        assert (verifier.mode, verifier.max_new_tokens, verifier.max_pixels) == ("verify", 99, 5000)
        assert (verifier.variant, verifier.domain) == ("compact", "EditWorld")  # as its card says
    with pytest.raises(ModelError, match="no device"):
        open_chosen(ModelChoice(device="gpu"))
    with pytest.raises(ValueError, match="--adapter needs the model"):
        open_chosen(ModelChoice(adapter="somewhere"))


def test_principles_say_that_they_came_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """These are not what the packaged verifier would write, so that they can come from the cache alone."""
    monkeypatch.setenv("EDIT_R1_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source.png").write_bytes(PICTURE)
    asked = ["principles", str(tmp_path / "source.png"), "-i", "Remove the red circle.", "--json"]
    written = (Principle("Is the red circle gone?", INSTRUCTION_FOLLOWING),)
    verifier = packaged_verifier()
    assert verifier.cache is not None
    request = decompose_request([PICTURE], "Remove the red circle.", (), verifier.variant)
    greedy = Sampling(MAX_NEW_TOKENS[verifier.variant], temperature=0.0)
    verifier.cache.put(
        verifier.cache.key(request, PROMPT_VERSIONS[verifier.variant], verifier.vlm.name, greedy), written, {}
    )
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {
        "principles": [{"question": "Is the red circle gone?", "category": INSTRUCTION_FOLLOWING}],
        "cached": True,
        "repeated": 0,
        "model": "verifier-small-rrm",
    }
