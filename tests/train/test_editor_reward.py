from __future__ import annotations

import numpy as np

from edit_r1.algo.group_advantage import group_advantage
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Context, Principle, Sample
from edit_r1.train.editor_reward import verifier_reward
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.vlm.protocol import Completion


class BrightnessVLM:
    """Scores the last image by its brightness; what is black it answers without a score."""

    name = "brightness"
    simulated = True

    def generate(self, requests, sampling, n=1):
        return [[self._answer(decode_rgb(request.images[-1]).mean())] * n for request in requests]

    @staticmethod
    def _answer(brightness: float) -> Completion:
        text = f'1 yes\n{{"average_score": 1.00}}\n<score>{brightness / 25.5:.1f}</score>'
        return Completion(text if brightness > 0 else "I cannot tell.", 9, "stop")


def test_the_reward_is_the_verifiers_score_and_a_failure_stays_none():
    def flat(value: int) -> bytes:
        return encode_png(np.full((16, 16, 3), value, dtype=np.uint8))

    principle = Principle("Is it bright?", "Instruction Following")
    contexts = [
        Context(Sample(f"s{i}", flat(100 + i), "make it bright", ""), (principle,), "test") for i in (0, 0, 0, 1)
    ]
    images = [flat(51), flat(0), flat(255), flat(102)]
    verifier = Verifier(BrightnessVLM(), mode="verify", variant="compact")
    rewards = verifier_reward(verifier, traces=2)(contexts, images)
    assert rewards == [2.0, None, 10.0, 4.0]
    items = [
        ScoreItem((c.sample.source,), image, c.sample.instruction, c.principles)
        for c, image in zip(contexts, images, strict=True)
    ]
    assert rewards == [judgment.score for judgment in verifier.score_many(items, traces=2)]
    advantages = group_advantage(rewards, [0, 0, 0, 1])
    assert (advantages.failed, advantages.too_few, advantages.trained) == (1, 1, 2)
