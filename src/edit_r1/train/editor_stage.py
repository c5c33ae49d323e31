"""The configuration of editor training, and which contexts, seeds and steps an iteration takes.

Everything random is a function of (seed, iteration): nothing has to be remembered to resume exactly
(on a GPU: as exactly as its kernels repeat themselves).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from edit_r1.algo.diffusion_nft import PUBLISHED_DECAY, DecaySchedule
from edit_r1.algo.flow_sde import KLScale, SDEKind, check_eta
from edit_r1.algo.group_advantage import Spread
from edit_r1.editors.flow import FlowEditor
from edit_r1.records import Context
from edit_r1.train.settings import Unprefixed, flat

if TYPE_CHECKING:  # its module loads every backbone's
    from edit_r1.editors.checkpoint import EditorCheckpoint

Algorithm = Literal["flow-grpo", "diffusion-nft"]
OWN: Mapping[Algorithm, Mapping[str, Any]] = {
    "flow-grpo": {
        "kl_beta": 0.04, "window_share": 0.5, "ema_decay": 0.0, "ema_schedule": "constant", "guided": True,
    },
    "diffusion-nft": {
        "kl_beta": 1e-4, "window_share": 1.0, "ema_decay": 0.5, "ema_schedule": "rising", "guided": False,
    },
}  # fmt: skip
"""What an algorithm takes where a field is None. Flow-GRPO: the paper's beta; published windows lie in the first half.
DiffusionNFT, by its published code: beta 1e-4 on |v - v_ref|^2, levels of the whole path, an old policy whose decay
rises by 0.001 an update to 0.5, no classifier-free guidance."""
UNUSED: Mapping[Algorithm, tuple[str, ...]] = {
    "flow-grpo": (),
    "diffusion-nft": (
        "kind", "eta", "window", "same_start", "ratio", "clip_range", "kl_scale",
    ),
}  # fmt: skip
"""Fields that have no counterpart in an algorithm."""
_NAMES: Mapping[Algorithm, str] = {"flow-grpo": "Flow-GRPO", "diffusion-nft": "DiffusionNFT"}

Reward = Callable[[Sequence[Context], Sequence[bytes]], Sequence[float | None]]
"""Rates edited images (encoded), one per context, in order. None is a failed judgment, never a score."""


@dataclass(frozen=True)
class SDESettings:
    """Which steps of a rollout are stochastic, and how; `algo.flow_sde` has the equations."""

    kind: SDEKind = "flow"
    eta: float = 0.7
    """Noise level of the stochastic steps, above 0; at most 1 for "cps"."""
    trained_steps: int = 2
    """K, stochastic steps of a rollout, all trained on; ignored with window "all"."""
    window: Literal["random", "sliding", "all"] = "random"
    """Which steps are stochastic, the same for every edit of an iteration: a random run of K, a run of K that
    moves on by one each iteration (MixGRPO), or every step but the last."""
    window_share: float | None = None
    """The window lies in this first share of the steps, (0, 1]; ignored with window "all". DiffusionNFT: of the path
    that noise levels are drawn from. None: the algorithm's own (`OWN`), 0.5 or 1."""
    same_start: bool = False
    """The edits of a group start from one noise and part in the stochastic steps, so that what is rewarded is what is
    trained (Flow-GRPO's "fast" variants do so). False: every edit has a start of its own, as in the paper."""

    def __post_init__(self) -> None:
        _above_0(self, "eta", "trained_steps")
        check_eta(self.eta, self.kind)


@dataclass(frozen=True)
class LossSettings:
    """What is maximised: the clipped surrogate of normalised advantages, less the KL to the reference.

    Log-probability and KL are means over latent dimensions; the loss is a mean over trained edits and steps.
    """

    ratio: Literal["plain", "guard"] = "plain"
    """"guard" takes GRPO-Guard's ratio and divides a step's surrogate by its |dt| (arXiv 2510.22319); its clip_range
    is another (2e-6), and it is published for the kinds "flow" and "dance"."""
    clip_range: float = 1e-4
    """eps of the clipped surrogate. With one inner update the ratio is 1 up to rounding and the clip hardly acts."""
    advantage_std: Spread = "group"
    """Population std that a reward's distance from its group's mean is divided by: its group's, or the batch's (as in
    the published settings of DiffusionNFT)."""
    advantage_clip: float = 5.0
    kl_beta: float | None = None
    """Weight of the KL to the reference model; 0 computes none. None: the algorithm's own (`OWN`), 0.04 with Flow-GRPO
    as in the paper, 1e-4 with DiffusionNFT, whose KL is of velocities."""
    kl_scale: KLScale = "with_dt"
    """Which published scale `kl_beta` belongs to."""

    def __post_init__(self) -> None:
        _above_0(self, "advantage_clip")
        if self.kl_beta is not None:
            _not_below_0(self, "kl_beta")
        if not 0 < self.clip_range < 1:
            raise ValueError(f"clip_range={self.clip_range}: must lie in (0, 1), usually 1e-4")


@dataclass(frozen=True)
class UpdateSettings:
    """How the weights move: AdamW without weight decay on float32 weights."""

    learning_rate: float = 3e-4
    """3e-4 suits LoRA; full training wants less (2e-4 at 5 M parameters)."""
    inner_updates: int = 1
    """Optimiser steps per iteration, each over all its trained edits. 1: the ratio is 1, up to the rounding of kernels
    that are chosen by shape, and the clip hardly acts."""
    accumulate: int = 1
    """Iterations of sampling per optimiser step, each with a window, contexts and a mean of its own, which count
    alike; needs inner_updates=1. (Micro-batches of `train_batch` edits are summed within an iteration in any case.)"""
    ahead: Literal[0, 1] = 0
    """1 draws the next iteration's edits before this one's rewards are waited for, so that a judge elsewhere works
    while the optimiser does. The edits are then one update older than the weights that learn from them."""
    max_grad_norm: float = 1.0
    """The norm over all weights, on all processes, is cut to this."""
    ema_decay: float | None = None
    """Of the averaged weights that are evaluated and saved, and which draw DiffusionNFT's edits; 0 averages nothing.
    None: what a schedule other than "constant" rises to as published, else the algorithm's own (`OWN`), 0."""
    ema_schedule: DecaySchedule | None = None
    """How the decay goes with the optimiser's steps (`algo.diffusion_nft.decay_after`): "constant", or one of
    DiffusionNFT's, "rising" or "late", up to `ema_decay`. None: constant where `ema_decay` is given, else the
    algorithm's own (`OWN`), "rising" with DiffusionNFT."""

    def __post_init__(self) -> None:
        _above_0(self, "learning_rate", "inner_updates", "accumulate", "max_grad_norm")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: must lie in [0, 1); 0 averages nothing")
        if self.accumulate > 1 and self.inner_updates > 1:
            raise ValueError(
                f"accumulate={self.accumulate} with inner_updates={self.inner_updates}: an optimiser step either waits "
                "for several iterations or is one of several in an iteration; set one of them to 1"
            )


@dataclass(frozen=True)
class EditorRLStage:
    """Flow-GRPO on an editor; `train.best_of_g` reads the same fields, so that both cost the same."""

    steps: int = 90
    """Iterations of sample, judge, advantage, update."""
    contexts_per_step: int = 4
    group_size: int = 12
    """G, edits per context; the paper: 24."""
    sampling_steps: int = 10
    """Steps of a rollout; evaluation uses the editor's own number."""
    guidance: float = 2.5
    """Scale of the rollouts' guidance and of its training: the embedded one of FLUX.1-Kontext, without effect when the
    transformer has no guidance embedding, or the classifier-free one of Qwen-Image-Edit and FLUX.2 (see `guided`)."""
    guided: bool | None = None
    """Whether classifier-free guidance is in the policy: edits are drawn with it and the velocity that is learned is
    the guided one, of two forwards; or neither, and `guidance` is left aside. Without effect on embedded guidance.
    None: the algorithm's own (`OWN`): True with Flow-GRPO, whose log-probability is of what was drawn, False with
    DiffusionNFT, whose regression is of a velocity that a distribution has; a guided one is no distribution's."""
    sde: Annotated[SDESettings, Unprefixed] = field(default_factory=SDESettings)
    loss: Annotated[LossSettings, Unprefixed] = field(default_factory=LossSettings)
    updates: Annotated[UpdateSettings, Unprefixed] = field(default_factory=UpdateSettings)
    lora_rank: int = 64
    """0 trains every weight of the transformer. alpha is twice the rank, as everywhere for these editors."""
    shard: bool = False
    """Several processes hold a part each of the transformer (FSDP2) in place of a copy each."""
    checkpointing: bool = False
    """Recompute activations in the backward pass in place of keeping them: less memory, a third more work."""
    sample_batch: int = 64
    """Most edits sampled in one forward."""
    train_batch: int = 24
    """Most edits replayed in one forward; the forward holds K times as many rows."""
    seed: int = 0
    eval_every: int = 0
    """Iterations between evaluations; 0 evaluates only before the first and after the last."""
    save_every: int = 10
    """Iterations between saved states; 0 saves only the last."""
    save_as: Literal["merged", "adapter"] = "merged"
    """The result: a full pipeline with LoRA merged in, or the adapter alone (needs lora_rank > 0)."""

    def __post_init__(self) -> None:
        _above_0(self, "steps", "contexts_per_step", "sample_batch", "train_batch")
        _not_below_0(self, "lora_rank", "eval_every", "save_every", "seed")
        if self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group needs at least 2 edits to have an advantage")
        if self.sampling_steps < 2:
            raise ValueError(f"sampling_steps={self.sampling_steps}: the last step is never trained on; use at least 2")
        if self.save_as == "adapter" and self.lora_rank == 0:
            raise ValueError("save_as='adapter' with lora_rank=0: there is no adapter; use save_as='merged'")
        if self.updates.ahead and self.loss.ratio == "guard":
            raise ValueError(
                "ahead=1 with ratio='guard': the means of the policy that drew the edits are gone by then; use 'plain'"
            )
        if self.sde.kind == "cps" and self.loss.ratio == "guard":
            raise ValueError("ratio='guard' with kind='cps': its weighing by |dt| belongs to 'flow' and 'dance'")
        if self.sde.kind == "cps" and self.loss.kl_scale == "without_dt":
            raise ValueError("kl_scale='without_dt' with kind='cps': its std has no time step in it; use 'with_dt'")
        for name in ("steps", "eval_every", "save_every"):
            if getattr(self, name) % self.updates.accumulate:
                raise ValueError(
                    f"{name}={getattr(self, name)}: not a multiple of accumulate={self.updates.accumulate}, so that it "
                    "would fall between two optimiser steps; make it one"
                )
        _window_positions(self)

    # Other algorithms than Flow-GRPO settle their stage before anything reads these (`settled`).

    @property
    def kl_beta(self) -> float:
        """Of the loss, Flow-GRPO's own where it is unset."""
        return OWN["flow-grpo"]["kl_beta"] if self.loss.kl_beta is None else self.loss.kl_beta

    @property
    def window_share(self) -> float:
        """Of the SDE, Flow-GRPO's own where it is unset."""
        return OWN["flow-grpo"]["window_share"] if self.sde.window_share is None else self.sde.window_share

    @property
    def ema_decay(self) -> float:
        """Of the updates, Flow-GRPO's own where it is unset; what `ema_schedule` rises to."""
        return _average(self, "flow-grpo")[0]

    @property
    def ema_schedule(self) -> DecaySchedule:
        """Of the updates, Flow-GRPO's own where it is unset."""
        return _average(self, "flow-grpo")[1]


def settled(stage: EditorRLStage, algorithm: Algorithm) -> EditorRLStage:
    """The stage with the algorithm's own values where fields are None."""
    own = OWN[algorithm]
    decay, schedule = _average(stage, algorithm)
    return changed(
        stage,
        kl_beta=own["kl_beta"] if stage.loss.kl_beta is None else stage.loss.kl_beta,
        window_share=own["window_share"] if stage.sde.window_share is None else stage.sde.window_share,
        guided=own["guided"] if stage.guided is None else stage.guided,
        ema_decay=decay,
        ema_schedule=schedule,
    )


def _average(stage: EditorRLStage, algorithm: Algorithm) -> tuple[float, DecaySchedule]:
    """Decay and schedule; a decay that is given alone is a constant one."""
    decay, schedule, own = stage.updates.ema_decay, stage.updates.ema_schedule, OWN[algorithm]
    if schedule is None:
        schedule = own["ema_schedule"] if decay is None else "constant"
    return PUBLISHED_DECAY.get(schedule, own["ema_decay"]) if decay is None else decay, schedule


def policy_of(stage: EditorRLStage, editor: FlowEditor[Any]) -> EditorRLStage:
    """A settled stage whose `guidance` is what this editor's velocity is computed with: 1 where classifier-free
    guidance is not in the policy.

    Raises ValueError when the editor's own edits would have what the trained ones have not.
    """
    if stage.guided or not editor.classifier_free:
        return stage
    if editor.guided_edits:
        raise ValueError(
            "guided=False, DiffusionNFT's own choice, trains without classifier-free guidance, and the editor's "
            "settings draw edits with it: set guidance=1 there, so that what is validated and used is what was "
            "trained, or guided=True in the stage"
        )
    return replace(stage, guidance=1.0)


def check_checkpoint(stage: EditorRLStage, source: EditorCheckpoint, processes: int) -> None:
    """Raise ValueError for a stage and a checkpoint that do not go together, before it is opened."""
    if source.quantise != "none" and (stage.lora_rank == 0 or stage.shard or stage.save_as != "adapter"):
        raise ValueError(
            f"quantise={source.quantise!r}: 4-bit weights train as LoRA, unsharded, saved as save_as='adapter'; "
            "set lora_rank, shard and save_as so, or quantise='none'"
        )
    if stage.lora_rank == 0 and source.dtype != "float32":
        raise ValueError(f"dtype={source.dtype!r} with lora_rank=0: full training needs dtype='float32'")
    if source.waits and not stage.shard:
        raise ValueError(
            "waits=True without shard=True: the transformer would stay on the CPU; set shard, or waits off"
        )
    if source.waits and processes == 1:
        raise ValueError(
            "waits=True in one process, where nothing is sharded: the transformer would stay on the CPU; start several "
            "(torchrun; --plan has --processes), or set waits off"
        )


def left_aside(stage: EditorRLStage, algorithm: Algorithm) -> str | None:
    """One line on the fields that differ from their defaults and that the algorithm does not have; None without any."""
    now, usual = flat(asdict(stage)), flat(asdict(EditorRLStage()))
    odd = [f"{name}={now[name]!r}" for name in UNUSED[algorithm] if now[name] != usual[name]]
    return f"{_NAMES[algorithm]} has no use for {', '.join(odd)}" if odd else None


def _above_0(settings: Any, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:  # nan is none
            raise ValueError(f"{name}={getattr(settings, name)}: must be above 0")


def _not_below_0(settings: Any, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) >= 0:
            raise ValueError(f"{name}={getattr(settings, name)}: must be 0 or more")


def changed(stage: EditorRLStage, **changes: Any) -> EditorRLStage:
    """The stage with other values of fields, those of its groups by their own names, as on the command line.

    Raises TypeError for a field that there is not, ValueError as the stage does.
    """
    for group in ("sde", "loss", "updates"):
        settings = getattr(stage, group)
        names = {one.name for one in fields(settings)}
        own = {name: changes.pop(name) for name in list(changes) if name in names}
        if own:
            changes[group] = replace(settings, **own)
    return replace(stage, **changes)


@dataclass(frozen=True)
class Iteration:
    """What one iteration works on: B contexts, G edits each, edit n belonging to context n // G."""

    contexts_B: tuple[int, ...]
    """Positions in the list of training contexts."""
    seeds_N: tuple[int, ...]
    """One per edit."""
    window: tuple[int, ...]
    """Stochastic steps, ascending, shared by all edits."""
    starts_N: tuple[int, ...] | None = None
    """Seed of each edit's first latents where its group shares them; None when `seeds_N` gives those too."""
    closes: bool = True
    """Whether the optimiser steps at its end; see `UpdateSettings.accumulate`."""


def plan_iteration(stage: EditorRLStage, step: int, contexts: int) -> Iteration:
    """The work of iteration `step` (from 0) on a list of `contexts` contexts.

    Contexts come in a new order every time round, so that none is seen twice before all are seen once.
    """
    if contexts < stage.contexts_per_step:
        raise ValueError(
            f"{contexts} training contexts and contexts_per_step={stage.contexts_per_step}: give more "
            "contexts or lower contexts_per_step"
        )
    first = step * stage.contexts_per_step
    order: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(first, first + stage.contexts_per_step):
        epoch = position // contexts
        if epoch not in order:
            order[epoch] = np.random.default_rng((stage.seed, 1, epoch)).permutation(contexts)
        chosen.append(int(order[epoch][position % contexts]))
    edits = stage.contexts_per_step * stage.group_size
    seeds = np.random.default_rng((stage.seed, 2, step)).integers(0, 2**63 - 1, size=edits)
    starts = None
    if stage.sde.same_start:
        drawn = np.random.default_rng((stage.seed, 4, step)).integers(0, 2**63 - 1, size=stage.contexts_per_step)
        starts = tuple(int(drawn[edit // stage.group_size]) for edit in range(edits))
    closes = (step + 1) % stage.updates.accumulate == 0
    return Iteration(tuple(chosen), tuple(int(seed) for seed in seeds), choose_window(stage, step), starts, closes)


def choose_window(stage: EditorRLStage, step: int) -> tuple[int, ...]:
    """The stochastic steps of iteration `step`; never the last step of the sampler."""
    positions = _window_positions(stage)
    length = stage.sampling_steps - 1 if stage.sde.window == "all" else stage.sde.trained_steps
    start = step % positions
    if stage.sde.window == "random":
        start = int(np.random.default_rng((stage.seed, 3, step)).integers(positions))
    return tuple(range(start, start + length))


def _window_positions(stage: EditorRLStage) -> int:
    """How many places the window can start at; 1 for "all"."""
    if stage.sde.window == "all":
        return 1
    if not 0 < stage.window_share <= 1:
        raise ValueError(f"window_share={stage.window_share}: must lie in (0, 1]")
    room = min(round(stage.window_share * stage.sampling_steps), stage.sampling_steps - 1)
    if stage.sde.trained_steps > room:
        raise ValueError(
            f"trained_steps={stage.sde.trained_steps}: only {room} of {stage.sampling_steps} sampling steps "
            "may be trained on (window_share, and never the last); lower it or raise sampling_steps"
        )
    return room - stage.sde.trained_steps + 1
