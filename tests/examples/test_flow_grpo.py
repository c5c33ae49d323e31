"""flow_grpo: the factory that its multi_score calls, and the function it gets."""

from __future__ import annotations

import io
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from edit_r1.images import decode_rgb


@pytest.fixture
def module(example, loaded, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("EDIT_R1_MODEL", "some/model")
    return example("flow_grpo_reward")


def pictures(kit: SimpleNamespace, rows: list[tuple[int, int]]) -> np.ndarray:
    """uint8 (N, H, W, 3)."""
    return np.stack([decode_rgb(kit.picture(number, fault)) for number, fault in rows])


def multi_score(fn, images, prompts, metadata, ref_images, weight: float = 2.0) -> list[float]:
    """As flow_grpo combines its rewards."""
    scores, _ = fn(images, prompts, metadata, ref_images)
    return [weight * score for score in scores]


def test_tensors_and_arrays_give_the_same_scores(kit: SimpleNamespace, module: ModuleType, loaded: list) -> None:
    assert "device" in module.edit_rrm.__code__.co_varnames  # multi_score asks so whether to pass it
    fn = module.edit_rrm(torch.device("cpu"))
    assert loaded == [("some/model", {"device": "cpu", "dtype": "float32"})]
    module.edit_rrm(torch.device("cuda:1"))
    assert loaded[1:] == [("some/model", {"device": "cuda:1", "dtype": "bfloat16"})]
    numbers = [70, 10, 100]
    images = pictures(kit, [(number, 0) for number in numbers])
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    sources = [Image.open(io.BytesIO(kit.picture(number + 100))) for number in numbers]
    prompts = [f"edit {number}" for number in numbers]
    for given in (tensor, tensor.to(torch.bfloat16), images):
        combined = multi_score(fn, given, prompts, [{}] * 3, sources)
        assert combined == pytest.approx([1.4, 0.2, 2.0])
        assert torch.as_tensor(combined).float().shape == (3,)
    source_tensor = torch.from_numpy(pictures(kit, [(n + 100, 0) for n in numbers]).transpose(0, 3, 1, 2)).float() / 255
    assert fn(tensor, prompts, [{}] * 3, source_tensor)[0] == pytest.approx([0.7, 0.1, 1.0])


def test_a_failure_is_judged_again_and_then_raised(kit: SimpleNamespace, module: ModuleType) -> None:
    fn = module.edit_rrm("cpu")
    sources = pictures(kit, [(101, 0), (102, 0)])
    prompts = ["edit 1", "edit 2"]
    scores, _ = fn(pictures(kit, [(1, 0), (2, kit.UNPARSED_IF_GREEDY)]), prompts, [{}, {}], sources)
    assert scores == pytest.approx([0.01, 0.02])
    with pytest.raises(RuntimeError, match="1 of 2 edits have no score"):
        fn(pictures(kit, [(1, 0), (2, kit.UNPARSED)]), prompts, [{}, {}], sources)
    with pytest.raises(ValueError, match="multi_score"):
        fn(pictures(kit, [(1, 0)]), ["edit 1"], [{}])
