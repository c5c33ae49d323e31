"""Flow-Factory, in the trainer's process: the verifier as a pointwise reward that also sees the source images.

Put this file where the trainer can import it and name the class in its config:

    rewards:
      - name: edit_rrm
        reward_model: flow_factory_local.EditRRMReward
        batch_size: 16
        model_path: path/to/verifier      # passed on as config.extra_kwargs
        traces: 4                         # optional, 1 when left out

Rewards are 0 to 1, a tenth of the score. Flow-Factory turns them into one tensor and has no way to leave an image
out: a NaN would spoil its group's mean, and any number would be made up. So an image without a score is judged again,
and if that fails too, this raises and the step stops.
"""

from __future__ import annotations

from typing import Any

import torch
from flow_factory.rewards import PointwiseRewardModel, RewardModelOutput
from PIL import Image

from edit_r1 import Verifier
from edit_r1.images import encode_png
from edit_r1.verifier.scoring import ScoreItem


class EditRRMReward(PointwiseRewardModel):
    """One reward per edited image."""

    required_fields = ("prompt", "image", "condition_images")
    use_tensor_inputs = False

    def __init__(self, config: Any, accelerator: Any) -> None:
        super().__init__(config, accelerator)
        dtype = str(config.dtype).removeprefix("torch.")
        self.verifier = Verifier.load(config.extra_kwargs["model_path"], device=str(self.device), dtype=dtype)
        self.traces = int(config.extra_kwargs.get("traces", 1))

    @torch.no_grad()
    def __call__(
        self,
        prompt: list[str],
        image: list[Image.Image] | None = None,
        video: Any = None,
        condition_images: list[list[Image.Image]] | None = None,
        condition_videos: Any = None,
        **unused: Any,
    ) -> RewardModelOutput:
        if image is None or condition_images is None:
            raise ValueError("EditRRMReward needs image and condition_images: it judges an edit against its source")
        rows = zip(prompt, image, condition_images, strict=True)
        items = [ScoreItem(tuple(map(encode_png, sources)), encode_png(edit), text) for text, edit, sources in rows]
        judgments = self.verifier.score_many(items, self.traces)
        missing = [place for place, one in enumerate(judgments) if one.score is None]
        if missing:  # sampled this time: a greedy answer would be the same
            retried = self.verifier.score_many([items[place] for place in missing], self.traces, 1.0, seed=1)
            for place, one in zip(missing, retried, strict=True):
                judgments[place] = one
        scores = [one.score for one in judgments]
        if None in scores:
            first = judgments[scores.index(None)]
            raise RuntimeError(f"{scores.count(None)} of {len(scores)} edits have no score: {first.outcomes[0]}")
        rewards = torch.tensor([score / 10 for score in scores], dtype=torch.float32, device=self.device)
        return RewardModelOutput(rewards=rewards, extra_info={"judged_again": len(missing)})
