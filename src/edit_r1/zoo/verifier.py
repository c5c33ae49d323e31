"""Pretraining of the tiny verifiers: from nothing to a Qwen2.5-VL that sees EditWorld, and has judged nothing.

    python -m edit_r1.zoo.verifier --size small --minutes 40

continues from the state on disk (`.state/zoo/verifier-small`), then writes the weights and a probe of
what is seen. Batches depend on (seed, step) alone, so pieces of any length give the same model.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from edit_r1.train.optimizers import muon_and_adamw
from edit_r1.zoo.lesson_batch import Course, batch_for
from edit_r1.zoo.loop import Averaged, LoopConfig, Run, check_call, train
from edit_r1.zoo.painted import grow_bank, load_bank
from edit_r1.zoo.probe import probe
from edit_r1.zoo.tokenizer import build_tokenizer
from edit_r1.zoo.verifier_model import FastForward, build_model, export

BATCH = 48
CONFIGS: dict[str, LoopConfig] = {
    "small": LoopConfig(steps=8500, batch_size=BATCH, learning_rate=3e-3, warmup_steps=100, decay_share=0.25),
    "base": LoopConfig(steps=4000, batch_size=BATCH, learning_rate=2.5e-3, warmup_steps=100, decay_share=0.25),
    "micro": LoopConfig(steps=20, batch_size=4, learning_rate=2e-3, warmup_steps=5),
}
"""Per size; micro is for tests. A step takes 1.2 s (small) of one contended core (AMD EPYC, Zen 4), compiled."""
COURSES: dict[str, Course] = {
    "small": Course(),
    "base": Course(painted_from=2400, painted_contexts=4800),
    "micro": Course(fine_from=12, painted_from=16, painted_contexts=4),
}


def tokenizer_of(state_dir: Path, seed: int) -> Qwen2Tokenizer:
    """The tokenizer of a run: the saved one, so that a resumed run keeps its vocabulary, or a new one."""
    folder = state_dir / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        build_tokenizer(seed).save_pretrained(folder)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, Qwen2Tokenizer)
    return tokenizer


def open_run(size: str, state_dir: Path, seed: int, config: LoopConfig) -> tuple[Run, Qwen2Tokenizer]:
    """The run as it stands on disk, or a fresh one."""
    tokenizer = tokenizer_of(state_dir, seed)
    model = build_model(size, tokenizer, seed)
    optimiser = muon_and_adamw(model, config.learning_rate, config.weight_decay, config.betas)
    run = Run(model, optimiser, Averaged(model), seed=seed)
    if (state_dir / "state.pt").exists():
        run.restore(state_dir / "state.pt")
    return run, tokenizer


def averaged_model(run: Run) -> Qwen2_5_VLForConditionalGeneration:
    """The run's model with the averaged weights; the run itself must not be trained on afterwards."""
    assert isinstance(run.module, Qwen2_5_VLForConditionalGeneration)
    if run.step:
        run.average.copy_to(run.module)
    return run.module.eval()


def pretrain_verifier(
    size: str,
    out: Path,
    state_dir: Path,
    minutes: float,
    seed: int = 0,
    threads: int = 1,
    compiled: bool = False,
) -> bool:
    """Train for at most `minutes`, save the state, export to `out` and write `state_dir/probe.json`.

    Args:
        size: "small", "base" or "micro".
        compiled: compile the forward pass (needs a C++ compiler; some two minutes at first, then half the time a step).

    Returns:
        True when all steps of the size's config are done.

    Raises:
        ValueError: for a size that does not exist, a budget, threads or a seed out of range, or as `Run.restore`.
    """
    if size not in CONFIGS:
        raise ValueError(f"size={size!r}: choose one of {', '.join(CONFIGS)}")
    check_call(minutes, threads, seed)
    torch.set_num_threads(threads)
    config = CONFIGS[size]
    deadline = time.monotonic() + 60 * minutes
    folder, course = state_dir.parent / "painted", COURSES[size]
    if not grow_bank(folder, course.painted_contexts, seed, deadline=deadline):
        return False
    bank = load_bank(folder, course.painted_contexts, seed)
    run, tokenizer = open_run(size, state_dir, seed, config)
    forward = FastForward(run.module, compiled)

    def loss_of(step: int) -> Tensor:
        batch = batch_for(tokenizer, seed, step, config.batch_size, course, bank)
        # Weights, gradients and attention stay fp32; the products of matrices are 2.5 times as fast in bf16.
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(batch)
        return F.cross_entropy(logits.float(), batch.targets)

    run.module.train()
    finished = train(run, loss_of, config, state_dir / "state.pt", deadline, f"verifier-{size}")
    finish(run, tokenizer, out, state_dir)
    return finished


def finish(run: Run, tokenizer: Qwen2Tokenizer, out: Path, state_dir: Path) -> None:
    """Export the averaged weights and probe them."""
    model = averaged_model(run)
    export(model, tokenizer, out)
    result = {"step": run.step, "seconds": round(run.seconds), **probe(model, tokenizer)}
    (state_dir / "probe.json").write_text(json.dumps(result, indent=2) + "\n")


def see(size: str, state_dir: Path, seed: int = 0, count: int = 96) -> dict[str, object]:
    """What the run on disk sees in held-out scenes (split validation); also written to `state_dir/probe.json`."""
    run, tokenizer = open_run(size, state_dir, seed, CONFIGS[size])
    result = {"step": run.step, "seconds": round(run.seconds), **probe(averaged_model(run), tokenizer, count)}
    (state_dir / "probe.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def main(
    size: str,
    minutes: float = 40.0,
    seed: int = 0,
    threads: int = 1,
    compiled: bool = False,
    state: Path | None = None,
    out: Path | None = None,
    probe_only: bool = False,
    export_only: bool = False,
) -> None:
    """Pretrain, probe or export a tiny verifier.

    Args:
        size: small or base.
        minutes: of training in this call.
        state: folder of the resumable state; `.state/zoo/verifier-SIZE` when not given.
        out: folder of the weights; the package's own when not given.
        probe_only: measure the state on disk and stop.
        export_only: export the state on disk and stop; safe beside a running training.
    """
    state_dir = state or Path(".state/zoo") / f"verifier-{size}"
    target = out or Path(__file__).parent / "weights" / f"verifier-{size}"
    if probe_only:
        print(json.dumps(see(size, state_dir, seed), indent=2))
    elif export_only:
        run, tokenizer = open_run(size, state_dir, seed, CONFIGS[size])
        export(averaged_model(run), tokenizer, target)
    else:
        done = pretrain_verifier(size, target, state_dir, minutes, seed, threads, compiled)
        print("finished" if done else "paused: call again to continue", file=sys.stderr)


if __name__ == "__main__":
    tyro.cli(main)
