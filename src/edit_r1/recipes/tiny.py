"""The whole method at the size of a toy world: every setting of the demo, and why.

Sizes were chosen for two cores: `demo` is to fit into 20 minutes (docs/results/demo.md has what it took),
`micro` into about one for tests. Learning rates were chosen on the validation split, never on test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edit_r1.curate.reason import PoolMember
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.protocol import Editor
from edit_r1.records import OutputMode, Sample
from edit_r1.train.editor_stage import EditorRLStage, LossSettings, SDESettings, UpdateSettings
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, ReplaySettings, SamplingSettings
from edit_r1.train.head import HeadStage
from edit_r1.train.rewards import RewardSettings
from edit_r1.train.sft import SFTStage
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.protocol import Sampling
from edit_r1.world.index import WorldIndex
from edit_r1.world.samples import make_samples
from edit_r1.world.simulated_editors import all_editors
from edit_r1.world.simulated_judges import POOL, SimulatedDecomposer, SimulatedJudge, SimulatedVerifier
from edit_r1.zoo.packaged import weights

FINISHED_STEPS = 10
"""Sampling steps of the tiny editor's finished edits: what its users see and what is evaluated."""
MAX_NEW_TOKENS = 240
"""Of a trace; the longest of 1,500 targets has 218. A batch lasts as long as its longest trace."""
RANKED_GROUP = 8
"""Edits of one context that are ranked."""
FEW_STEPS = 4
"""Of its few-step edits, which the judge meets during RL."""


@dataclass(frozen=True)
class TinySizes:
    """How much of everything."""

    cold_contexts: int
    """Contexts curated for SFT."""
    pair_contexts: int
    """Contexts whose candidates annotators compare, for GCPO."""
    test_contexts: int
    """Held-out contexts whose candidates annotators compare."""
    stress_contexts: int
    """Held-out contexts on photographs, compared likewise and reported apart."""
    rl_contexts: int
    """Contexts the editor trains on."""
    edit_contexts: int
    """Held-out contexts on which editors are compared."""
    candidates: int
    """Candidates per context."""
    pairs_per_context: int
    sft_steps: int
    sft_batch: int
    """Traces an update, over all processes."""
    processes: int
    """Of the verifier's trainings and judgments, a core each."""
    threads: int
    """Of everything else. Fixed, because the rounding of a sum depends on how many threads share it, and with it the
    tiny editor's pictures and all that is made from them."""
    gcpo_steps: int
    pairs_per_step: int
    traces: int
    """N of GCPO."""
    rl_steps: int
    rl_contexts_per_step: int
    group_size: int
    """G of Flow-GRPO; the paper's 24 at a fifth of the memory and time."""
    mean_of_4_contexts: int
    """Test contexts on which the mean of four traces is measured too."""
    base_share: float
    """Of the held-out contexts, on which the base is judged: none of its traces parses, and they are the longest."""
    groups_ranked: int
    """Held-out contexts in whose groups of `RANKED_GROUP` edits the rank correlation with the oracle is measured."""


SIZES: dict[str, TinySizes] = {
    "demo": TinySizes(
        cold_contexts=480,
        pair_contexts=320,
        test_contexts=320,
        stress_contexts=32,
        rl_contexts=240,
        edit_contexts=160,
        candidates=4,
        pairs_per_context=3,
        sft_steps=1400,
        sft_batch=8,
        processes=2,
        threads=2,
        gcpo_steps=40,
        pairs_per_step=16,
        traces=8,
        rl_steps=32,
        rl_contexts_per_step=4,
        group_size=12,
        mean_of_4_contexts=64,
        base_share=0.25,
        groups_ranked=32,
    ),
    "micro": TinySizes(
        cold_contexts=8,
        pair_contexts=8,
        test_contexts=6,
        stress_contexts=2,
        rl_contexts=4,
        edit_contexts=3,
        candidates=3,
        pairs_per_context=2,
        sft_steps=3,
        sft_batch=8,
        processes=1,
        threads=1,
        gcpo_steps=1,
        pairs_per_step=2,
        traces=2,
        rl_steps=1,
        rl_contexts_per_step=2,
        group_size=2,
        mean_of_4_contexts=2,
        base_share=1.0,
        groups_ranked=2,
    ),
}

# Each role draws from its own stretch of the world, so that no two stages share a context.
_STRETCH = {"cold": 0, "pairs": 100_000, "rl": 200_000, "test": 0, "edit": 100_000, "stress": 0}


def role_samples(role: str, count: int, seed: int) -> list[Sample]:
    """The contexts of one role: "cold", "pairs", "rl" (split train), "test", "edit" (split test), "stress"."""
    split = {"test": "test", "edit": "test", "stress": "stress"}.get(role, "train")
    return make_samples(count, split, seed, start=_STRETCH[role])


def tiny_judge(model: Path, sizes: TinySizes | None = None, mode: OutputMode = "both") -> Verifier:
    """A tiny verifier as the demo asks it, on as many processes as `sizes` has; None for a few questions, here."""
    device = "cpu" if sizes is None or sizes.processes == 1 else ("cpu",) * sizes.processes
    return Verifier.load(
        model, device=device, batch_size=24, mode=mode, variant="compact", max_new_tokens=MAX_NEW_TOKENS
    )


def tiny_checkpoint(
    path: Path | None = None, steps: int = FINISHED_STEPS, bf16_products: bool = False
) -> EditorCheckpoint:
    """The zoo's FLUX.1-Kontext, or one trained from it, not opened yet."""
    settings = FluxKontextSettings(steps=steps, max_area=64 * 64, batch_size=48, bf16_products=bf16_products)
    name = "tiny-kontext" if steps == FINISHED_STEPS else f"tiny-kontext-{steps}-steps"
    return EditorCheckpoint(str(path or weights("editor")), settings, device="cpu", dtype="float32", name=name)


def tiny_editor(
    path: Path | None = None, steps: int = FINISHED_STEPS, bf16_products: bool = False
) -> FluxKontextEditor:
    """`tiny_checkpoint`, opened."""
    editor = tiny_checkpoint(path, steps, bf16_products)()
    assert isinstance(editor, FluxKontextEditor), "its settings say so"
    return editor


def candidate_editors() -> tuple[Editor, ...]:
    """The imperfect editors, and the tiny editor finished and few-step: the judge must know what it will judge."""
    return (*all_editors(), tiny_editor(), tiny_editor(steps=FEW_STEPS))


def tiny_curation(
    samples: list[Sample], index: WorldIndex, sizes: TinySizes, seed: int, editors: tuple[Editor, ...] = ()
) -> CurateStage:
    """The four steps with simulated models; `index` is what these know. editors: others than `candidate_editors`."""
    sampling = Sampling(512, temperature=1.0, seed=seed)
    pool = tuple(PoolMember(SimulatedJudge(judge, index), 2, sampling, "compact") for judge in POOL)
    return CurateStage(
        samples=GivenSamples(tuple(samples)),
        decomposer=SimulatedDecomposer(index),
        editors=editors or candidate_editors(),
        pool=pool,
        verifier=SimulatedVerifier(index),
        candidates_per_context=sizes.candidates,
        variant="compact",
        decompose_sampling=sampling,
        verify_sampling=sampling,
        tie_break="neutral",
        chunk_size=80,
        seed=seed,
        introduce=index.introduce,
    )


def tiny_sft(
    model: Path | None = None, out: str = "runs/tiny/sft", sizes: TinySizes = SIZES["demo"], seed: int = 0
) -> SFTStage:
    """Cold start, small batches at a high rate: the format's own tokens (average_score, score) are new to the model.

    By Muon. On 548 validation pairs after 8,320 traces: half credit 67.5 %, and scores that follow from the verdicts;
    by AdamW at the same rate 56.4 %, with scores that do not (score error 3.1 against 2.2).
    """
    return SFTStage(
        model=str(model or weights("verifier-small")),
        out=out,
        variant="compact",
        steps=sizes.sft_steps,
        batch_size=sizes.sft_batch,
        learning_rate=2e-3,
        optimizer="muon",
        warmup_steps=20,
        precision="bf16",
        stored="bf16",
        save_every=80,
        cpu=True,
        seed=seed,
    )


def tiny_sft_continued(
    model: Path, out: str, seconds: float, sizes: TinySizes = SIZES["demo"], seed: int = 0
) -> SFTStage:
    """The control: SFT goes on, on the same data, for as long as GCPO takes."""
    stage = tiny_sft(model, out, sizes, seed + 1)
    return replace(stage, steps=100_000, max_seconds=seconds, learning_rate=2e-4, schedule="constant")


def tiny_gcpo(model: Path, out: str = "runs/tiny/gcpo", sizes: TinySizes = SIZES["demo"], seed: int = 0) -> GCPOStage:
    """One update per generation: the ratio is exactly 1 and the clip never acts. The eyes stay as they are.

    The mean of the second half of the weights is the result: on 548 validation pairs, from one SFT model, the last
    weights of a run of 44 generations were 0.1 points below SFT, the mean of its generations 24 to 40 2.4 above; at
    4e-4 it was -1.1 and 0.1. A LoRA of rank 32 at 1e-3, averaged too, gained 1.2 (docs/results/demo.md).

    With SFT's traces replayed: without them one run came to fail whatever is unchanged (TPR 99.6 to 78.9 %). With them
    it stayed where SFT had it in all of eleven runs. On validation, after 1,400 steps of SFT (seeds 0, 0 and 1), a
    weight of 0.1 gained 1.6, 1.4 and 2.4 points, 0.3 2.5, -0.4 and 1.7: its noise, as large as the surrogate's, takes
    from the steps. 60 generations or 4e-4 gained no more.
    """
    return GCPOStage(
        model=str(model),
        out=out,
        variant="compact",
        steps=sizes.gcpo_steps,
        pairs_per_step=sizes.pairs_per_step,
        traces=sizes.traces,
        sampling=SamplingSettings(max_new_tokens=MAX_NEW_TOKENS),
        updates=GCPOUpdates(
            learning_rate=2e-4, average_last=0.5, micro_batch=min(16, 2 * sizes.pairs_per_step * sizes.traces)
        ),
        replay=ReplaySettings(replay_weight=0.1, replay_traces=min(32, 2 * sizes.pairs_per_step * sizes.traces)),
        freeze_vision=True,
        precision="bf16",
        save_every=10,
        cpu=True,
        seed=seed,
    )


def tiny_head(model: Path, out: str = "runs/tiny/head", seed: int = 0) -> HeadStage:
    """The discriminative baseline on the same pairs as GCPO, from the same pretrained model as SFT.

    A start, not a study: settings were tried on no validation set.
    """
    return HeadStage(
        model=str(model),
        out=out,
        epochs=3,
        batch_size=16,
        learning_rate=2e-4,
        head_learning_rate=2e-3,
        precision="bf16",
        save_every=50,
        cpu=True,
        seed=seed,
    )


def tiny_editor_rl(sizes: TinySizes = SIZES["demo"], seed: int = 0) -> EditorRLStage:
    """LoRA, not for memory: with a few thousand edits the gradient is mostly noise, and fewer weights carry it.

    A choice within the noise (docs/results/demo.md, 96 validation contexts): LoRA moved the oracle's score by +0.08
    (95 % -0.21 to 0.39) in 60 iterations at 3e-4, and by +0.09 (-0.28 to 0.47) in 30 and -0.10 (-0.56 to 0.38) in 60 at
    1.5e-3; all weights at 2e-4 by -0.08 (-0.65 to 0.48) in 80. 5e-4 lies between and was not tried there.
    """
    return EditorRLStage(
        steps=sizes.rl_steps,
        contexts_per_step=sizes.rl_contexts_per_step,
        group_size=sizes.group_size,
        sampling_steps=FINISHED_STEPS,
        sde=SDESettings(trained_steps=2, window_share=0.3, same_start=True, eta=0.7),
        loss=LossSettings(kl_beta=0.04),
        updates=UpdateSettings(learning_rate=5e-4),
        lora_rank=16,
        sample_batch=64,
        train_batch=24,
        save_every=10,
        seed=seed,
    )


def tiny_editor_nft(sizes: TinySizes = SIZES["demo"], seed: int = 0) -> EditorRLStage:
    """DiffusionNFT, all weights: its gradient keeps its direction from one iteration to the next, Flow-GRPO's does not.

    Mean cosine between the gradients of 12 iterations of 4 contexts x 12 edits, with the oracle as reward: 0.085
    (standard error 0.046) against 0.003 (0.018). With the demo's reward, on 192 validation contexts: +0.52 of 10 (95 %
    0.23 to 0.85) in 40 iterations at 5e-5; +0.61 (0.27 to 0.97) in 30 and +0.67 (0.30 to 1.07) in 40 at 1e-4; one run
    each (docs/results/demo.md).
    """
    return EditorRLStage(
        steps=sizes.rl_steps,
        contexts_per_step=sizes.rl_contexts_per_step,
        group_size=sizes.group_size,
        sampling_steps=6,
        sde=SDESettings(trained_steps=4, window_share=0.7),
        loss=LossSettings(kl_beta=0.0),
        updates=UpdateSettings(learning_rate=1e-4, ema_decay=0.0),
        lora_rank=0,
        sample_batch=64,
        train_batch=12,
        save_every=10,
        seed=seed,
    )


def tiny_reward() -> RewardSettings:
    """The verifier's verdicts, not the score it ends with: they follow the oracle better.

    Within groups of an editor's edits of one context the rank correlation with the oracle is 0.58 to 0.60 for the mean
    of the verdicts and 0.50 to 0.51 for the score (three verifiers; bench/reward_choice.py). Gated, so that an unedited
    copy cannot profit: on 192 validation contexts 40 iterations gave +0.52 of 10 (95 % 0.23 to 0.85), and +0.59 (0.29
    to 0.92) with the gate open, one run each. Pixels are not asked: the tiny autoencoder's grain is never unseen.
    """
    return RewardSettings(value="verdicts", copies="judged")
