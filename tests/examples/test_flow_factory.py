"""Flow-Factory, in process and over HTTP; its base classes are stand-ins with the interface its sources give."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from edit_r1.verifier.scoring import Verifier


@dataclass
class RewardModelOutput:
    rewards: Any
    extra_info: dict[str, Any] | None = None


class PointwiseRewardModel:
    required_fields: tuple[str, ...] = ("image", "prompt")
    use_tensor_inputs = False

    def __init__(self, config: Any, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.config = config
        self.device = accelerator.device if config.device == torch.device("cuda") else config.device
        self.dtype = config.dtype


@dataclass
class RewardArguments:
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    batch_size: int = 16
    extra_kwargs: dict[str, Any] = field(default_factory=dict)


ACCELERATOR = SimpleNamespace(device=torch.device("cpu"))


def pil(kit: SimpleNamespace, *numbers: int) -> Image.Image:
    return Image.open(io.BytesIO(kit.picture(*numbers)))


def batch(kit: SimpleNamespace, rows: list[tuple[int, int]]) -> dict[str, Any]:
    """What the reward processor passes: one list per field, pictures as PIL."""
    return {
        "prompt": [f"edit {number}" for number, _ in rows],
        "image": [pil(kit, number, fault) for number, fault in rows],
        "condition_images": [[pil(kit, number + 100)] for number, _ in rows],
    }


@pytest.fixture
def local(stand_in, example, loaded) -> ModuleType:
    names = {"PointwiseRewardModel": PointwiseRewardModel, "RewardModelOutput": RewardModelOutput}
    stand_in("flow_factory.rewards", **names)
    return example("flow_factory_local")


def test_in_process_gives_one_reward_per_image(kit: SimpleNamespace, local: ModuleType, loaded: list) -> None:
    config = RewardArguments(dtype=torch.bfloat16, extra_kwargs={"model_path": "some/model", "traces": "2"})
    reward = local.EditRRMReward(config, ACCELERATOR)
    assert loaded == [("some/model", {"device": "cpu", "dtype": "bfloat16"})]
    assert set(reward.required_fields) == {"prompt", "image", "condition_images"}
    output = reward(**batch(kit, [(70, 0), (10, kit.UNPARSED_IF_GREEDY), (100, 0)]))
    assert output.rewards.dtype == torch.float32 and output.rewards.shape == (3,)
    assert output.rewards.tolist() == pytest.approx([0.7, 0.1, 1.0])
    assert reward.verifier.vlm.calls[0][1] == 2


def test_in_process_judges_again_and_then_raises(kit: SimpleNamespace, local: ModuleType) -> None:
    reward = local.EditRRMReward(RewardArguments(extra_kwargs={"model_path": "m"}), ACCELERATOR)
    assert reward(**batch(kit, [(1, 0), (2, kit.UNPARSED_IF_GREEDY)])).extra_info == {"judged_again": 1}
    with pytest.raises(RuntimeError, match="1 of 2 edits have no score"):
        reward(**batch(kit, [(1, 0), (2, kit.UNPARSED)]))
    with pytest.raises(ValueError, match="condition_images"):
        reward(prompt=["edit 1"], image=[pil(kit, 1)])


class RemotePointwiseRewardModel(PointwiseRewardModel):
    """Sends what Flow-Factory's client sends, and reads what it reads."""

    required_fields = ("prompt", "image")

    def __init__(self, config: Any, accelerator: Any) -> None:
        super().__init__(config, accelerator)
        self.url = config.extra_kwargs["server_url"]

    def __call__(self, kit: SimpleNamespace, **fields: Any) -> list[float]:
        def encoded(image: Image.Image) -> str:
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            return kit.b64(buffer.getvalue())

        sent = {name: value for name, value in fields.items() if name in self.required_fields}
        payload = {
            "prompt": sent["prompt"],
            "image": [encoded(image) for image in sent["image"]],
            "video": None,
            "condition_images": [[encoded(image) for image in images] for images in sent["condition_images"]]
            if "condition_images" in sent
            else None,
            "condition_videos": None,
            "kwargs": None,
        }
        document = httpx.post(f"{self.url}/compute", json=payload, timeout=60).raise_for_status().json()
        if document.get("error"):
            raise RuntimeError(f"Server error: {document['error']}")
        rewards: list[float] = document["rewards"]
        return rewards


def test_over_http_the_source_is_sent_too(kit: SimpleNamespace, stand_in, example) -> None:
    stand_in("flow_factory.rewards.my_reward_remote", RemotePointwiseRewardModel=RemotePointwiseRewardModel)
    remote = example("flow_factory_http").EditRRMRemote
    fields = batch(kit, [(70, 0), (10, 0)])
    with kit.live(Verifier(kit.FakeVLM(), variant="compact"), ("a-long-enough-token",)) as url:
        address = url.replace("http://", "http://any:a-long-enough-token@")
        config = RewardArguments(extra_kwargs={"server_url": address})
        assert remote(config, ACCELERATOR)(kit, **fields) == pytest.approx([0.7, 0.1])
        with pytest.raises(RuntimeError, match="Server error: 1 of 1 images have no score"):
            remote(config, ACCELERATOR)(kit, **batch(kit, [(1, kit.UNPARSED)]))
        with pytest.raises(RuntimeError, match="required_fields"):  # as it is without the subclass
            RemotePointwiseRewardModel(config, ACCELERATOR)(kit, **fields)
