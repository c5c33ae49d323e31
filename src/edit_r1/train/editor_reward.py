"""Rewards for editor training: functions from (contexts, images) to numbers, None for a failed judgment."""

from __future__ import annotations

from collections.abc import Sequence

from edit_r1.records import Context
from edit_r1.train.editor_stage import Reward
from edit_r1.verifier.scoring import ScoreItem, Verifier


def verifier_reward(verifier: Verifier, traces: int = 1, temperature: float | None = None, seed: int = 0) -> Reward:
    """The verifier's score (0 to 10), by the call a user makes: `Verifier.score_many`.

    traces: per image; the reward is the mean of the parsed ones, and None when none could be parsed. One
    greedy trace gives coarse scores, hence groups without spread; several at temperature 1 are finer.
    temperature: None takes `score_many`'s choice (greedy for one trace). seed: of the traces.
    """

    def reward(contexts_N: Sequence[Context], images_N: Sequence[bytes]) -> list[float | None]:
        items = [
            ScoreItem(context.sample.sources, image, context.sample.instruction, context.principles)
            for context, image in zip(contexts_N, images_N, strict=True)
        ]
        return [judgment.score for judgment in verifier.score_many(items, traces, temperature, seed)]

    return reward
