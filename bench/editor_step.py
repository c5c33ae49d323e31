"""Seconds and memory of a Flow-GRPO iteration on the tiny Kontext: sampling, judging and the update, apart.

    python bench/editor_step.py --turns 5 --out runs/editor_step.json

"plain" is the loop of flow_grpo's `train_flux_kontext.py` with its published Kontext settings (6 sampling steps, 5 of
them trained, guidance 2.5, noise 0.9, batches of 3 edits, std over the batch, no KL) at our number of contexts and
group size: every batch of edits encodes its own texts and sources, every trained step of a batch is replayed in a
forward of its own, and products are float32. (On a GPU it takes bf16 products by autocast too: look at the row that
has everything but these.) Of its settings one is changed: one optimiser step per iteration in place of two, which
costs the same. Each "+" row is the plain loop with that one thing switched on. "everything" is this package's own
loop, at equal group size, sampling steps and trained steps, and "fast" the same with a window of K trained steps.

One editor, one adapter, one thread per core that OMP_NUM_THREADS gives. The ways take turns in an order that moves on,
the first turn warms up and does not count, and medians are shown. Memory is the most that the process held in a phase.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from edit_r1.algo.clipped_surrogate import clipped_surrogate
from edit_r1.algo.flow_sde import log_probability
from edit_r1.algo.group_advantage import group_advantage
from edit_r1.curate.decompose import decompose
from edit_r1.editors.flow import Trajectory, generator, replay, sample_trajectory
from edit_r1.editors.flux_kontext import FluxKontextEditor, KontextContexts
from edit_r1.images import decode_rgb, encode_png
from edit_r1.recipes.tiny import role_samples, tiny_editor, tiny_judge
from edit_r1.records import Context
from edit_r1.store import write_json
from edit_r1.train.editor import update
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_reward import verifier_reward
from edit_r1.train.editor_rollout import sample_edits
from edit_r1.train.editor_stage import EditorRLStage, Iteration, LossSettings, Reward, SDESettings, plan_iteration
from edit_r1.train.reward_queue import Judging
from edit_r1.vlm.protocol import Sampling
from edit_r1.world.index import WorldIndex
from edit_r1.world.simulated_judges import SimulatedDecomposer
from edit_r1.zoo.packaged import weights

PHASES = ("sample", "judge", "update")
PUBLISHED_BATCH = 3
"""Edits sampled, and replayed, together in flow_grpo's Kontext settings."""


@dataclass(frozen=True)
class Way:
    """What is done at once; the plain loop does nothing of it."""

    encode_once: bool = False
    """Each context once an iteration, in place of each batch of edits anew."""
    judge_once: bool = False
    """All edits in one call of the judge, in place of a call a batch."""
    batches: int | None = None
    """Edits sampled and replayed together; None: `PUBLISHED_BATCH`."""
    replay_together: bool = False
    """All trained steps of a batch in one forward."""
    bf16: bool = False
    """Products of the transformer."""
    own_loop: bool = False
    """This package's `sample_edits`, `Judging` and `update`, which do the first four anyway."""
    fast: bool = False
    """A window of trained steps."""


WAYS = {
    "plain": Way(),
    "+ encode once": Way(encode_once=True),
    "+ judge once": Way(judge_once=True),
    "+ large batches": Way(batches=24),
    "+ steps replayed together": Way(replay_together=True),
    "+ bf16 products": Way(bf16=True),
    "everything but bf16": Way(own_loop=True),
    "everything": Way(own_loop=True, bf16=True),
    "fast": Way(own_loop=True, bf16=True, fast=True),
}


def main(
    turns: int = 5,
    contexts: int = 4,
    group: int = 12,
    lora_rank: int = 16,
    window: int = 2,
    verifier: Path | None = None,
    brightness: bool = False,
    out: Path | None = None,
) -> None:
    """
    Args:
        turns: of each way, after one that is not counted.
        window: K of "fast".
        verifier: the judge's folder; the packaged tiny verifier when not given.
        brightness: judge by brightness, which takes no time.
        out: where the numbers go, JSON.
    """
    stage = EditorRLStage(
        steps=turns + 1, contexts_per_step=contexts, group_size=group, sampling_steps=6, guidance=2.5,
        sde=SDESettings(eta=0.9, window="all"), loss=LossSettings(kl_beta=0.0, advantage_std="batch"),
        lora_rank=lora_rank, sample_batch=64, train_batch=24,
    )  # fmt: skip
    fast = replace(stage, sde=replace(stage.sde, window="random", trained_steps=window, same_start=True))
    chosen = rl_contexts(contexts)
    reward: Reward = (
        by_brightness if brightness else verifier_reward(tiny_judge(verifier or weights("verifier-small-rrm")))
    )
    editor = tiny_editor()
    policy = EditorPolicy(editor, stage)
    seconds: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in WAYS}
    memory: dict[str, dict[str, list[int]]] = {name: {phase: [] for phase in PHASES} for name in WAYS}
    names = list(WAYS)
    for turn in range(turns + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            way = WAYS[name]
            editor.settings = replace(editor.settings, bf16_products=way.bf16)
            iteration = plan_iteration(fast if way.fast else stage, turn, contexts)
            measured = Measured()
            loop = own_loop if way.own_loop else plain_loop
            loop(way, fast if way.fast else stage, policy, iteration, [chosen[i] for i in iteration.contexts_B],
                 reward, measured)  # fmt: skip
            if turn > 0:
                for phase in PHASES:
                    seconds[name][phase].append(measured.seconds[phase])
                    memory[name][phase].append(measured.memory.get(phase, 0))
    show(seconds, memory)
    if out is not None:
        write_json(out, {
            "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "contexts": contexts, "group": group, "lora_rank": lora_rank,
            "sampling_steps": 6, "trained_steps": 5, "window": window, "judge": "brightness" if brightness else
            "verifier", "turns": turns, "seconds": seconds, "peak_bytes": memory,
        })  # fmt: skip


class Measured:
    """Seconds, and the most memory the process held, by phase of one iteration."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.memory: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        reset_peak()
        start = perf_counter()
        yield
        self.seconds[name] += perf_counter() - start
        self.memory[name] = max(self.memory.get(name, 0), peak())


def reset_peak() -> None:
    """On Linux; elsewhere the peak is not known."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak() -> int:
    """Bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def own_loop(
    way: Way, stage: EditorRLStage, policy: EditorPolicy[Any], iteration: Iteration, contexts_B: Sequence[Context],
    reward: Reward, measured: Measured,
) -> None:  # fmt: skip
    """As `train.editor.train_editor` does it."""
    with measured.phase("sample"):
        rollouts = sample_edits(policy.editor, stage, iteration, contexts_B)
    with measured.phase("judge"):
        judging = Judging(reward, contexts_B, stage.group_size)
        for rollout in rollouts:
            judging.put(rollout.edits_M, rollout.images_M)
        rewards_N = judging.rewards()
    groups_N = [edit // stage.group_size for edit in range(len(rewards_N))]
    advantages = group_advantage(
        rewards_N, groups_N, clip=stage.loss.advantage_clip, std_over=stage.loss.advantage_std, min_spread=-1.0
    )  # also groups without a spread are trained on, so that every way has the same work
    with measured.phase("update"):
        update(stage, policy, iteration, rollouts, advantages)


def plain_loop(
    way: Way, stage: EditorRLStage, policy: EditorPolicy[Any], iteration: Iteration, contexts_B: Sequence[Context],
    reward: Reward, measured: Measured,
) -> None:  # fmt: skip
    """flow_grpo's, with what `way` switches on."""
    editor: FluxKontextEditor = policy.editor  # type: ignore[assignment]
    edits = range(len(contexts_B) * stage.group_size)
    owner = [contexts_B[edit // stage.group_size] for edit in edits]
    size = way.batches or PUBLISHED_BATCH
    batches = [edits[start : start + size] for start in range(0, len(edits), size)]
    sampled: list[tuple[Sequence[int], KontextContexts, Trajectory]] = []
    images: dict[int, bytes] = {}
    with measured.phase("sample"):
        once = editor.encode([context.sample for context in contexts_B])[0][1] if way.encode_once else None
        for batch in batches:
            if once is None:
                [(_, encoded)] = editor.encode([owner[edit].sample for edit in batch])
            else:
                encoded = once.rows(torch.tensor([edit // stage.group_size for edit in batch], device=editor.device))
            schedule = editor.schedule(encoded, stage.sampling_steps)
            sources = [generator(iteration.seeds_N[edit]) for edit in batch]
            run = sample_trajectory(editor, encoded, sources, schedule, stage.guidance, stage.sde.eta, iteration.window)
            sampled.append((batch, encoded, run))
            pictures = editor.decode(run.final_BLC, encoded)
            images.update({edit: encode_png(picture) for edit, picture in zip(batch, pictures, strict=True)})
    with measured.phase("judge"):
        rewards: list[float | None] = []
        for batch in [edits] if way.judge_once else batches:
            rewards += reward([owner[edit] for edit in batch], [images[edit] for edit in batch])
    advantages_N = group_advantage(
        rewards, [edit // stage.group_size for edit in edits], clip=stage.loss.advantage_clip,
        std_over=stage.loss.advantage_std, min_spread=-1.0,
    ).advantages_N  # fmt: skip
    with measured.phase("update"):
        for batch, encoded, run in sampled:
            steps = (
                [range(len(iteration.window))] if way.replay_together else [[k] for k in range(len(iteration.window))]
            )
            for ks in steps:
                loss = -_objective(stage, editor, iteration, encoded, run, list(ks), [advantages_N[e] for e in batch])
                policy.learn(loss / (len(edits) * len(iteration.window)))
        policy.expect_update()
        policy.update()


def _objective(
    stage: EditorRLStage, editor: FluxKontextEditor, iteration: Iteration, encoded: KontextContexts, run: Trajectory,
    ks: list[int], advantages_B: list[float],
) -> torch.Tensor:  # fmt: skip
    """The summed surrogate of a batch at some of its trained steps, in one forward."""
    schedule = editor.schedule(encoded, stage.sampling_steps)
    mean_BKLC, std_K, _ = replay(
        editor, encoded, run.latents_BKLC[:, ks], schedule, stage.guidance, stage.sde.eta,
        [iteration.window[k] for k in ks],
    )  # fmt: skip
    std_F = std_K.repeat(len(advantages_B))
    log_prob_F = log_probability(run.next_BKLC[:, ks].flatten(0, 1), mean_BKLC.flatten(0, 1), std_F)
    advantage_B1 = torch.tensor(advantages_B, device=std_K.device)[:, None]
    old_BK = run.log_prob_BK[:, ks]
    surrogate = clipped_surrogate(log_prob_F.view_as(old_BK), old_BK, advantage_B1, stage.loss.clip_range)
    return surrogate.objective.sum()


def rl_contexts(count: int) -> list[Context]:
    """EditWorld's contexts for RL, with their principles."""
    samples = role_samples("rl", count, 0)
    contexts, _ = decompose(samples, SimulatedDecomposer(WorldIndex(samples)), "compact", Sampling(512, 1.0, seed=0))
    return contexts


def by_brightness(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


def show(seconds: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, list[int]]]) -> None:
    """A row a way: medians of the phases and of the whole, and how many times as fast as the plain loop."""
    wholes = {name: median(map(sum, zip(*phases.values(), strict=True))) for name, phases in seconds.items()}
    table = Table("", *(f"{phase} s" for phase in PHASES), "whole s", "against plain", "peak GB")
    for name, phases in seconds.items():
        held = max(max(values) for values in memory[name].values())
        table.add_row(
            name, *(f"{median(phases[phase]):.2f}" for phase in PHASES), f"{wholes[name]:.2f}",
            f"{wholes['plain'] / wholes[name]:.2f} x", f"{held / 1e9:.2f}" if held else "",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
