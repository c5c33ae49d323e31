"""The whole loop on EditWorld, as one readable function: data, SFT, GCPO, editor RL, evaluation, report.

Every stage leaves its result on disk and a marker; a run that was killed continues from the last
finished shard, step or checkpoint, and ends with the same dataset hashes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from edit_r1.demo.data import make_cold_start, make_preferences
from edit_r1.demo.measuring import (
    RANKS,
    collect_metrics,
    judge_editor,
    judge_pairs,
    print_summary,
    rank_within_groups,
)
from edit_r1.demo.showing import draw_report, judge_examples
from edit_r1.demo.stages import Stages, Tick
from edit_r1.processes import process_context, torch_threads
from edit_r1.recipes.tiny import (
    SIZES,
    TinySizes,
    tiny_editor,
    tiny_editor_nft,
    tiny_gcpo,
    tiny_judge,
    tiny_reward,
    tiny_sft,
    tiny_sft_continued,
)
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import CONTEXTS, PREFERENCES, QUADRUPLES, locked, read_dataset, write_json
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor_run import EditorTraining
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.judges import JudgeSettings, VerifierJudge
from edit_r1.train.nft import train_nft
from edit_r1.train.processes import in_processes
from edit_r1.train.rewards import CombinedReward
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.verifier_run import Progress
from edit_r1.world.frozen import VERSION
from edit_r1.zoo.packaged import weights

PRELOAD = (
    "edit_r1.train.sft", "edit_r1.train.gcpo", "edit_r1.train.nft", "edit_r1.vlm.replicas", "edit_r1.demo.measuring",
    "edit_r1.editors.flux_kontext", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
)  # fmt: skip
"""Imported once for all processes of the demo."""


BEST_OF_G = partial(train_best_of_g, like="diffusion-nft")
CONTROLS = ("sft continued", "editor rl, sft reward", "best of g")
"""Stages that train the controls."""


def run_demo(out: Path, seed: int = 0, size: str = "demo", controls: bool = False) -> Mapping[str, Any]:
    """Run everything into `out`; returns and writes `metrics.json`, and writes `report.html`.

    Controls that were trained there before stay in both, whatever `controls` is.

    Raises:
        ValueError: for an unknown size, a seed below 0, a folder that holds a run with another seed, size or recipe, or
            one in which another demo is at work.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r}: choose one of {', '.join(SIZES)}")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")
    with (
        locked(out / ".lock", "another demo is at work in this folder: wait for it, or choose another --out"),
        torch_threads(SIZES[size].threads),
    ):
        return _run(out, seed, size, controls)


def _run(out: Path, seed: int, size: str, controls: bool) -> Mapping[str, Any]:
    sizes = SIZES[size]
    stages = Stages(out, f"{size}-{seed}", recipe_of(sizes, seed))
    process_context(PRELOAD)
    controls = controls or all(stages.done(name) for name in CONTROLS)

    stages.run("cold-start data", partial(make_cold_start, out, sizes, seed))
    stages.run("preferences", partial(make_preferences, out, sizes, seed))
    stages.run("sft", partial(train_cold_start, out, sizes, seed))
    stages.run("gcpo", partial(align, out, sizes, seed))
    models = {"base": weights("verifier-small"), "sft": out / "sft/model", "gcpo": out / "gcpo/model"}
    if controls:
        budget = stages.seconds("gcpo")
        stages.run("sft continued", partial(continue_sft, out, sizes, seed, budget))
        models["sft_continued"] = out / "sft_continued/model"
    for name, path in models.items():
        stages.run(f"judge with {name}", partial(judge_pairs, out, name, path, sizes, seed))
    stages.run(RANKS, partial(rank_within_groups, {name: models[name] for name in ("sft", "gcpo")}, sizes, seed))
    if controls and "sft_continued" not in stages.result(RANKS):
        control = {"sft_continued": models["sft_continued"]}
        stages.run(f"{RANKS}, control", partial(rank_within_groups, control, sizes, seed))

    editors: dict[str, Path] = {"before": weights("editor"), "after": out / "editor_after/editor"}
    stages.run("editor rl", partial(train_by_reward, out, "after", out / "gcpo/model", sizes, seed))
    if controls:
        stages.run(
            "editor rl, sft reward",
            lambda tick: train_by_reward(out, "sft_reward", out / "sft/model", sizes, seed, tick),
        )
        stages.run(
            "best of g",
            lambda tick: train_by_reward(out, "best_of_g", out / "gcpo/model", sizes, seed, tick, BEST_OF_G),
        )
        editors |= {"sft_reward": out / "editor_sft_reward/editor", "best_of_g": out / "editor_best_of_g/editor"}
    for name, path in editors.items():
        stages.run(f"oracle on {name}", partial(judge_editor, out, name, path, sizes, seed))

    stages.run("examples", lambda _: judge_examples(out, sizes.edit_contexts, seed))

    metrics = collect_metrics(out, stages, list(models), list(editors))
    write_json(out / "metrics.json", metrics)
    report = draw_report(out)
    print_summary(metrics, report)
    return metrics


def recipe_of(sizes: TinySizes, seed: int) -> dict[str, Any]:
    """What shapes a run's result besides the code: settings, the world's version, the weights that it starts from."""
    return {
        "sizes": asdict(sizes),
        "sft": asdict(tiny_sft(Path(), "", sizes, seed)),
        "gcpo": asdict(tiny_gcpo(Path(), "", sizes, seed)),
        "editor": asdict(tiny_editor_nft(sizes, seed)),
        "reward": asdict(tiny_reward()),
        "world": VERSION,
        "weights": {name: _content(weights(name)) for name in ("verifier-small", "editor")},
    }


def _content(model: Path) -> str:
    """SHA-256 of a model's tensors."""
    digest = hashlib.sha256()
    for file in sorted(model.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


# --- trainings ------------------------------------------------------------------------------------------------------


def train_cold_start(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """SFT on the selected traces."""
    quadruples = read_dataset(out / "data/cold", "selected", QUADRUPLES)
    stage = tiny_sft(out=str(out / "sft"), sizes=sizes, seed=seed)
    training = partial(train_sft, _shared(stage, sizes), quadruples, resume=True)
    in_processes(sizes.processes, training, lambda done, total, _: tick(done, total))
    return {}


def continue_sft(out: Path, sizes: TinySizes, seed: int, seconds: float, tick: Tick) -> dict[str, Any]:
    """Control: SFT goes on for the time that GCPO took."""
    quadruples = read_dataset(out / "data/cold", "selected", QUADRUPLES)
    stage = tiny_sft_continued(out / "sft/model", str(out / "sft_continued"), seconds, sizes, seed)
    start = time.monotonic()
    in_processes(
        sizes.processes, partial(train_sft, _shared(stage, sizes), quadruples, resume=True),
        lambda *_: tick(int(time.monotonic() - start), int(seconds) + 1),
    )  # fmt: skip
    return {}


def align(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """GCPO on the annotators' pairs, with SFT's traces beside them."""
    preferences = read_dataset(out / "data", "pairs", PREFERENCES)
    replay = read_dataset(out / "data/cold", "selected", QUADRUPLES)
    stage = tiny_gcpo(out / "sft/model", str(out / "gcpo"), sizes, seed)
    training = partial(train_gcpo, stage, preferences, resume=True, replay=replay)
    in_processes(sizes.processes, training, lambda done, total, _: tick(done, total))
    return {}


def _shared(stage: SFTStage, sizes: TinySizes) -> SFTStage:
    """The same updates, each process with its share of a batch."""
    return replace(stage, batch_size=stage.batch_size // sizes.processes)


def train_by_reward(
    out: Path, name: str, verifier: Path, sizes: TinySizes, seed: int, tick: Tick,
    train: Callable[..., EditorTraining] = train_nft,
) -> dict[str, Any]:  # fmt: skip
    """The editor trained with a verifier's verdicts as the only reward, each process with a judge of its own."""
    training = partial(_train_editor, out, name, verifier, sizes, seed, train)
    in_processes(sizes.processes, training, lambda done, total, _: tick(done, total))
    return {}


def _train_editor(
    out: Path, name: str, verifier: Path, sizes: TinySizes, seed: int, train: Callable[..., EditorTraining],
    *, progress: Progress | None,
) -> Path:  # fmt: skip
    quiet_libraries()
    contexts = read_dataset(out / "data", "rl_contexts", CONTEXTS)
    stage = tiny_editor_nft(sizes, seed)

    def tell(line: Mapping[str, Any]) -> None:
        if progress is not None:
            progress(line["step"] + 1, stage.steps, {})

    with tiny_judge(verifier) as judge:
        reward = CombinedReward(VerifierJudge(judge, JudgeSettings(seed=seed)), tiny_reward())
        editor = tiny_editor(bf16_products=True)
        return train(stage, editor, contexts, reward, out / f"editor_{name}", resume=True, progress=tell).result
