"""SFT and GCPO of released vision-language models. What each needs is told by `--plan`; none has run on a GPU yet.

    edit-r1 train sft sft_7b_lora_80gb --data runs/cold/selected --out runs/sft
    edit-r1 train gcpo gcpo_7b_lora_80gb --model runs/sft/model --data data/pairs --out runs/gcpo

Pictures are bounded in SFT (`max_pixels`, which its processor keeps): 768 x 768 are some 730 tokens of Qwen2.5-VL, and
of two pictures and ten principles a prompt has about 2,400. Every field is a flag. GCPO makes one update a generation
in all of them: the ratio is 1, by vLLM up to rounding, and the clip never acts.
"""

from __future__ import annotations

from dataclasses import replace

from edit_r1.recipes.run import GCPORecipe, SFTRecipe
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.machine import MachineSettings
from edit_r1.train.sft import SFTStage

AREA = 768 * 768
QWEN_7B = "Qwen/Qwen2.5-VL-7B-Instruct"
MAX_NEW_TOKENS = 1024
"""Of a trace of full prompts: ten verdicts with their evidence, the mean and the score, with room to spare; `truncated`
in curves.jsonl tells when it is not enough."""


def sft_7b_full_8gpu() -> SFTRecipe:
    """All weights of Qwen2.5-VL-7B in parts on eight 80 GB GPUs (FSDP2).

    torchrun --nproc-per-node 8 -m edit_r1 train sft sft_7b_full_8gpu --data runs/cold/selected --out runs/sft
    """
    stage = SFTStage(
        QWEN_7B, "runs/sft", batch_size=2, accumulate=8,  # 128 traces an update, as SFT of such models usually has
        learning_rate=1e-5, warmup_steps=100, max_pixels=AREA, precision="bf16",  # AdamW's usual for all weights of 7B
        machine=MachineSettings(gradient_checkpointing=True, shard="fsdp2", row_workers=4), save_every=200,
    )  # fmt: skip
    return SFTRecipe("runs/cold/selected", stage)


def sft_7b_lora_80gb() -> SFTRecipe:
    """LoRA on Qwen2.5-VL-7B on one 80 GB GPU; ten times the rate of full training, as LoRA takes."""
    stage = SFTStage(
        QWEN_7B, "runs/sft", batch_size=2, accumulate=32, learning_rate=1e-4, lora_rank=64, warmup_steps=100,
        max_pixels=AREA, precision="bf16", save_every=200,
        machine=MachineSettings(gradient_checkpointing=True, frozen="bf16", row_workers=8),
    )  # fmt: skip
    return SFTRecipe("runs/cold/selected", stage)


def gcpo_7b_lora_80gb() -> GCPORecipe:
    """GCPO by LoRA on one 80 GB GPU with our own sampling: a prompt is read once for its traces, weights are held once.

    N = 8 and 32 pairs are ours: 512 traces a generation. The paper's 10K pairs are seen once in 313 generations. A
    micro-batch is half a candidate's traces behind one reading of the prompt, without recomputation.
    """
    stage = GCPOStage(
        "runs/sft/model", "runs/gcpo", steps=313, pairs_per_step=32, traces=8,
        sampling=SamplingSettings(max_new_tokens=MAX_NEW_TOKENS, decode_batch=64),
        updates=GCPOUpdates(learning_rate=1e-5, warmup_steps=10, average_last=0.25, micro_batch=4),
        machine=MachineSettings(frozen="bf16"), lora_rank=64, precision="bf16",
    )  # fmt: skip
    return GCPORecipe("data/pairs", stage)


def gcpo_3b_lora_24gb() -> GCPORecipe:
    """GCPO by LoRA on a 3B verifier (SFT of Qwen2.5-VL-3B) and one 24 GB GPU: recomputation, one trace at a time."""
    stage = gcpo_7b_lora_80gb().stage
    stage = replace(
        stage, sampling=replace(stage.sampling, decode_batch=32), updates=replace(stage.updates, micro_batch=1),
        machine=MachineSettings(gradient_checkpointing=True, frozen="bf16"), lora_rank=32,
    )  # fmt: skip
    return GCPORecipe("data/pairs", stage)


def gcpo_7b_full_8gpu() -> GCPORecipe:
    """All weights in parts on eight 80 GB GPUs (FSDP2), traces by a vLLM on each of them.

    torchrun --nproc-per-node 8 -m edit_r1 train gcpo gcpo_7b_full_8gpu --data data/pairs --out runs/gcpo
    vLLM, because a sharded model would be gathered for every token. 64 pairs of 8 traces: 128 traces a GPU.
    """
    stage = GCPOStage(
        "runs/sft/model", "runs/gcpo", steps=157, pairs_per_step=64, traces=8,
        sampling=SamplingSettings(
            max_new_tokens=MAX_NEW_TOKENS, engine="vllm-colocated", vllm_memory=0.4, vllm_context=6144
        ),
        updates=GCPOUpdates(learning_rate=1e-6, warmup_steps=5, micro_batch=4),
        machine=MachineSettings(gradient_checkpointing=True, shard="fsdp2"), precision="bf16",
    )  # fmt: skip
    return GCPORecipe("data/pairs", stage)


def gcpo_qwen3vl_8b_lora_80gb() -> GCPORecipe:
    """As `gcpo_7b_lora_80gb` on an SFT of Qwen3-VL-8B, with recomputation: its 36 layers keep more for a token."""
    stage = gcpo_7b_lora_80gb().stage
    stage = replace(
        stage, updates=replace(stage.updates, micro_batch=8),
        machine=MachineSettings(gradient_checkpointing=True, frozen="bf16"),
    )  # fmt: skip
    return GCPORecipe("data/pairs", stage)
