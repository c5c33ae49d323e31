"""SFT's traces beside GCPO's surrogate, so that the checklist stays true while the order improves.

A comparison has no word on what its two candidates share. A verifier that begins to fail "is the circle unchanged?" in
both orders them as before, and nothing in the ratios takes that back: a run of the demo lost a fifth of its true points
this way (docs/results/demo.md). A share of every update therefore goes on with the likelihood of the traces that SFT
learned, as InstructGPT mixes pretraining into PPO (arXiv 2203.02155, equation 2). Ours; a weight of 0 is the paper's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from edit_r1.records import OutputMode, Quadruple
from edit_r1.train.sft import targets_checked, trace_text
from edit_r1.train.verifier_run import IdentityHash, judge_messages
from edit_r1.verifier.prompts import Variant


class Replay:
    """What is replayed, and which of it when: a function of seed and update, so that nothing is remembered to resume.

    Args:
        quadruples: with targets, as SFT takes them.
        traces: of an update, over all processes.

    Raises:
        ValueError: as `train_sft` for its quadruples, or for fewer of them than `traces`.
    """

    def __init__(
        self, quadruples: Sequence[Quadruple], traces: int, mode: OutputMode, variant: Variant, seed: int
    ) -> None:
        if quadruples and len(quadruples) < traces:
            raise ValueError(f"{len(quadruples)} quadruples, replay_traces={traces}: give more, or lower replay_traces")
        self.quadruples = quadruples
        self.traces, self.mode, self.variant, self.seed = traces, mode, variant, seed
        digest = IdentityHash()
        for quadruple in targets_checked(quadruples):
            digest.update((quadruple.candidate.id, trace_text(quadruple, mode, variant)))
        self.identity = digest.hexdigest()
        """Of what may be replayed."""

    def rows(self, update: int, process: int, processes: int) -> list[int]:
        """Places in `quadruples` that a process replays in an update; `processes` divides `traces`."""
        chosen = random.Random(f"replay {self.seed} {update}").sample(range(len(self.quadruples)), self.traces)
        share = self.traces // processes
        return chosen[process * share : (process + 1) * share]

    def batch(self, rows: Sequence[int], processor: Any) -> dict[str, Any]:
        """Tensors of some traces after their prompts, as SFT has them; `labels` is -100 where nothing is learned."""
        examples, pictures = [], []
        for row in rows:
            quadruple = self.quadruples[row]
            messages, images = judge_messages(quadruple.context, quadruple.candidate, self.mode, self.variant)
            answer = [{"role": "assistant", "content": trace_text(quadruple, self.mode, self.variant)}]
            pictures.append(len(images))
            examples.append({"prompt": messages, "images": images, "completion": answer})
        collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
        return {**collate(examples), "num_images": pictures}


def learned_tokens(labels_BT: Tensor) -> tuple[int, Tensor]:
    """(K, (B, K) mask): the last K tokens hold every learned one."""
    learned_BT = labels_BT != -100
    length = labels_BT.size(1) - int(learned_BT.any(0).nonzero()[0])
    return length, learned_BT[:, -length:]


def trace_loss(log_prob_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """() sum over traces of the mean negative log-likelihood of their tokens, in nats."""
    mean_B = -(log_prob_BK * mask_BK).sum(1) / mask_BK.sum(1)
    return mean_B.sum()
