"""What reinforcement learning needs of an editor beyond `Editor`, and the sampler that all of them share.

Legend: B contexts or edits of one size, K stochastic steps, L latent tokens of the edit, C channels of a
packed latent, S sampling steps. Latents are float32 outside the transformer, whatever precision it runs
in, so that the tensor whose log-probability was computed is the tensor that is stored and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edit_r1.algo.flow_sde import SDEKind, log_probability, transition
from edit_r1.records import Sample


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one sampling run, as the backbone's own pipeline computes them."""

    sigmas: Tensor
    """[S + 1], decreasing, from at most 1 to exactly 0, float32."""
    timesteps: Tensor
    """[S], in the scheduler's unit (0 to 1000)."""

    @property
    def steps(self) -> int:
        return len(self.timesteps)


class EncodedContexts(Protocol):
    """Sources and instructions of one size, encoded once and used for every step of every edit."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the edits, in pixels."""

    def __len__(self) -> int: ...

    def rows(self, indices: Tensor) -> Self:
        """The contexts at these rows [M] (integers; repeats allowed)."""


E = TypeVar("E", bound=EncodedContexts)


@dataclass(frozen=True)
class FlowRows(Generic[E]):
    """Rows of one size in a forward of several: what `FlowEditor.velocity` takes."""

    latents_BLC: Tensor
    timestep_B: Tensor
    contexts: E


class FlowEditor(Protocol[E]):
    """A flow-matching editor that can be sampled step by step and trained."""

    @property
    def name(self) -> str: ...

    @property
    def transformer(self) -> nn.Module:
        """The part that is trained."""

    @property
    def device(self) -> torch.device: ...

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Name endings of the linear layers that LoRA adapts."""

    @property
    def classifier_free(self) -> bool:
        """Whether its guidance is classifier-free: a second forward, and none with a scale of 1."""

    @property
    def guided_edits(self) -> bool:
        """Whether its own edits are drawn with classifier-free guidance."""

    def with_transformer(self, transformer: nn.Module) -> Self:
        """The same editor with another transformer; everything else is shared."""

    def encode(self, samples: Sequence[Sample]) -> list[tuple[list[int], E]]:
        """Encoded contexts, one entry per size, each with the positions in `samples` of its rows."""

    def schedule(self, contexts: E, steps: int) -> Schedule:
        """Sigmas and timesteps of a run of `steps` steps at this size."""

    def noise(self, contexts: E, generators: Sequence[torch.Generator]) -> Tensor:
        """The first latents [B, L, C], one generator per edit."""

    def velocity(self, latents_BLC: Tensor, timestep_B: Tensor, contexts: E, guidance: float) -> Tensor:
        """v [B, L, C] in float32: the guided one, rescaled where the pipeline rescales it."""

    def velocities(self, parts: Sequence[FlowRows[E]], guidance: float) -> list[Tensor]:
        """`velocity` of each part, all in one forward.

        Rows are padded to a common length inside the transformer and the padding is masked there, so that none is in
        what comes back: each part keeps its own L, its own schedule and its own means. Equal to `velocity` up to
        rounding, and exactly it for one part.
        """

    def decode(self, latents_BLC: Tensor, contexts: E) -> np.ndarray:
        """Pixels [B, H, W, 3], uint8."""

    def save(self, path: Path) -> None:
        """The whole editor in the Hugging Face layout."""

    def save_lora(self, path: Path) -> None:
        """The LoRA adapter alone, in the layout that the pipeline's `load_lora_weights` reads."""


@dataclass(frozen=True)
class Trajectory:
    """A sampling run of B edits and what is needed to replay its K stochastic steps."""

    final_BLC: Tensor
    latents_BKLC: Tensor
    """x at each stochastic step."""
    next_BKLC: Tensor
    """The x' that was drawn."""
    log_prob_BK: Tensor
    """log p(x' | x), averaged over latent dimensions."""


def generator(seed: int) -> torch.Generator:
    """One edit's source of noise: a CPU generator, so that the device does not matter."""
    return torch.Generator("cpu").manual_seed(seed)


@torch.no_grad()
def sample_trajectory(
    editor: FlowEditor[E],
    contexts: E,
    generators: Sequence[torch.Generator],
    schedule: Schedule,
    guidance: float,
    eta: float = 0.0,
    window: Sequence[int] = (),
    starts: Sequence[torch.Generator] | None = None,
    kind: SDEKind = "flow",
) -> Trajectory:
    """Sample one edit per row of `contexts`: stochastic steps of `kind` and `eta` in `window`, Euler steps elsewhere.

    Each edit's first latents and its later noise come from its own generator, or the first latents from `starts`.
    With an empty window this is the pipeline's deterministic sampler. Raises ValueError for a window that
    `check_window` refuses.
    """
    check_window(window, schedule.steps, eta)
    latents_BLC = editor.noise(contexts, starts or generators)
    count = len(latents_BLC)
    stored: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(schedule.steps):
        velocity_BLC = editor.velocity(latents_BLC, schedule.timesteps[step].expand(count), contexts, guidance)
        sigmas = (schedule.sigmas[step].expand(count), schedule.sigmas[step + 1].expand(count))
        cap_B = schedule.sigmas[1].expand(count)
        if step in window:
            mean_BLC, std_B = transition(latents_BLC, velocity_BLC, *sigmas, eta, cap_B, kind)
            next_BLC = mean_BLC + std_B[:, None, None] * _normal_like(mean_BLC, generators)
            stored.append((latents_BLC, next_BLC, log_probability(next_BLC, mean_BLC, std_B)))
        else:
            next_BLC, _ = transition(latents_BLC, velocity_BLC, *sigmas, 0.0, cap_B)
        latents_BLC = next_BLC
    if not stored:
        empty_BKLC = latents_BLC.new_empty(count, 0, *latents_BLC.shape[1:])
        return Trajectory(latents_BLC, empty_BKLC, empty_BKLC, latents_BLC.new_empty(count, 0))
    at, to, log_prob = (torch.stack(parts, dim=1) for parts in zip(*stored, strict=True))
    return Trajectory(latents_BLC, at, to, log_prob)


def replay(
    editor: FlowEditor[E],
    contexts: E,
    latents_BKLC: Tensor,
    schedule: Schedule,
    guidance: float,
    eta: float,
    window: Sequence[int],
    kind: SDEKind = "flow",
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [B, K, L, C], std [K] and dt [K] of the stored steps under the editor's weights of now.

    All K steps of all B edits go through the transformer in one forward. Carries a gradient unless the
    caller turned it off.
    """
    count, steps = latents_BKLC.shape[:2]
    index_K = torch.as_tensor(window, device=latents_BKLC.device)
    flat_BLC = latents_BKLC.flatten(0, 1)
    rows = torch.arange(count, device=latents_BKLC.device).repeat_interleave(steps)
    sigma_K, next_K = schedule.sigmas[index_K], schedule.sigmas[index_K + 1]
    velocity_BLC = editor.velocity(flat_BLC, schedule.timesteps[index_K].repeat(count), contexts.rows(rows), guidance)
    cap_B = schedule.sigmas[1].expand(count * steps)
    mean_BLC, std_B = transition(flat_BLC, velocity_BLC, sigma_K.repeat(count), next_K.repeat(count), eta, cap_B, kind)
    return mean_BLC.unflatten(0, (count, steps)), std_B[:steps], next_K - sigma_K


def check_window(window: Sequence[int], steps: int, eta: float) -> None:
    """Raise ValueError for a stochastic step that is the last one or outside the run, or that has no noise."""
    if window and eta <= 0:
        raise ValueError(f"eta={eta}: stochastic steps need a positive noise level, usually 0.7 to 0.9")
    outside = [step for step in window if not 0 <= step < steps - 1]
    if outside:
        raise ValueError(
            f"window={tuple(window)} with {steps} sampling steps: stochastic steps lie in 0..{steps - 2}; "
            "the last step would leave its noise in the image"
        )


def _normal_like(like_BLC: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    noise = [torch.randn(like_BLC.shape[1:], generator=each, dtype=torch.float32) for each in generators]
    return torch.stack(noise).to(like_BLC.device)
