"""verl-omni: the call of its visual reward manager, one image at a time, many at once."""

from __future__ import annotations

import asyncio
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from edit_r1.images import decode_rgb
from edit_r1.verifier.scoring import Verifier


def arguments(kit: SimpleNamespace, url: str, number: int, fault: int = 0) -> dict:
    """What the reward manager passes to a custom reward function, the custom function's own arguments among it."""
    pixels = decode_rgb(kit.picture(number, fault)).transpose(2, 0, 1)
    return {
        "data_source": "edits",
        "solution_image": torch.from_numpy(np.ascontiguousarray(pixels)),
        "ground_truth": f"edit {number}",
        "extra_info": {
            "source_img": {"bytes": kit.picture(number + 100), "path": None},
            "num_turns": None,
            "rollout_reward_scores": {},
        },
        "reward_router_address": "127.0.0.1:1",
        "reward_model_tokenizer": None,
        "model_name": "some/model",
        "sampling_params": {"max_tokens": 64},
        "server_url": url,
    }


def test_many_calls_at_once_are_judged_together(kit: SimpleNamespace, example, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("verl_omni_reward")
    assert asyncio.iscoroutinefunction(module.compute_score)
    model = kit.FakeVLM(0.05)
    monkeypatch.setenv("EDIT_R1_TOKEN", "a-long-enough-token")
    with kit.live(Verifier(model, variant="compact"), ("a-long-enough-token",)) as url:

        async def ask() -> list[dict]:
            return await asyncio.gather(*(module.compute_score(**arguments(kit, url, n)) for n in range(0, 100, 5)))

        results = asyncio.run(ask())
    assert [result["score"] for result in results] == pytest.approx([n / 100 for n in range(0, 100, 5)])
    assert results[0]["Image Quality"] == 1.0
    assert len(model.calls) < 10


def test_other_forms_of_pictures(kit: SimpleNamespace, example) -> None:
    compute_score = example("verl_omni_reward").compute_score
    with kit.live(Verifier(kit.FakeVLM(), variant="compact")) as url:
        call = arguments(kit, url, 40)
        call["solution_image"] = call["solution_image"][None].numpy()  # (1, 3, H, W)
        call["extra_info"] = {
            "source_img": Image.open(io.BytesIO(kit.picture(140))),
            "instruction": "edit 40",
        }
        assert asyncio.run(compute_score(**{**call, "ground_truth": ""}))["score"] == pytest.approx(0.4)


def test_a_failure_is_judged_again_and_then_raised(kit: SimpleNamespace, example) -> None:
    compute_score = example("verl_omni_reward").compute_score
    with kit.live(Verifier(kit.FakeVLM(), variant="compact")) as url:
        result = asyncio.run(compute_score(**arguments(kit, url, 10, kit.UNPARSED_IF_GREEDY)))
        assert result["score"] == pytest.approx(0.1) and math.isfinite(result["score"])
        with pytest.raises(RuntimeError, match="no score for an edit of edits"):
            asyncio.run(compute_score(**arguments(kit, url, 10, kit.UNPARSED)))
        with pytest.raises(ValueError, match="source_img"):
            asyncio.run(compute_score(**{**arguments(kit, url, 10), "extra_info": {}}))


def test_a_server_that_is_away_is_asked_again(kit: SimpleNamespace, example, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("verl_omni_reward")
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    with pytest.raises(RuntimeError, match="did not answer in 8 tries"):
        asyncio.run(module.compute_score(**arguments(kit, "http://127.0.0.1:1", 10)))
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
