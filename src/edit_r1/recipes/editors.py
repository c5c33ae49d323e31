"""Flow-GRPO on released editors. Memory is what `--plan` counts for a process; none has run on a GPU yet.

The verifier is served beside the training: `vllm serve runs/gcpo/model --served-model-name edit-rrm --port 8000` on
another GPU, or on another machine with `--verifier http://HOST:8000/v1#edit-rrm`. Every field is a flag.
"""

from __future__ import annotations

from dataclasses import replace

from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.editors.flux_kontext import FluxKontextSettings
from edit_r1.editors.qwen_image_edit import QwenImageEditSettings
from edit_r1.recipes.run import EditorRecipe
from edit_r1.train.editor_stage import EditorRLStage, LossSettings, SDESettings, UpdateSettings
from edit_r1.train.rewards import RewardSettings

KONTEXT = "black-forest-labs/FLUX.1-Kontext-dev"
QWEN = "Qwen/Qwen-Image-Edit"
JUDGE = "http://127.0.0.1:8000/v1#edit-rrm"
AREA = 512 * 512
"""Pixels of an edit while training, and most of a source."""
PAPER = EditorRLStage(
    steps=300, contexts_per_step=8, group_size=24, sampling_steps=6, guidance=2.5,
    sde=SDESettings(eta=0.9, window="all"), lora_rank=64, checkpointing=True,
    sample_batch=8, train_batch=2, save_as="adapter",
)  # fmt: skip
"""Group size of the paper, and its beta, which is Flow-GRPO's own where none is set; steps, eta and LoRA of Flow-GRPO's
published Kontext settings."""
FAST = replace(PAPER, sde=SDESettings(eta=0.9, trained_steps=2, same_start=True), loss=LossSettings(kl_beta=0.0))
"""Two stochastic steps in the first half, all of a group from one start, and no reference forward."""


def kontext_lora_80gb() -> EditorRecipe:
    """The paper's settings on one 80 GB GPU: LoRA on a bf16 FLUX.1-Kontext at 512 px.

    edit-r1 train editor kontext_lora_80gb --data data/contexts --out runs/kontext
    Peak by --plan: 38 GiB.
    """
    settings = FluxKontextSettings(max_area=AREA, source_area=AREA, offload_encoders=True)
    return EditorRecipe(
        data="data/contexts", verifier=JUDGE, stage=PAPER, load=EditorCheckpoint(KONTEXT, settings),
        reward=RewardSettings(workers=4), out="runs/kontext",
    )  # fmt: skip


def kontext_lora_80gb_fast() -> EditorRecipe:
    """As `kontext_lora_80gb` with two trained steps of six and no KL.

    edit-r1 train editor kontext_lora_80gb_fast --data data/contexts --out runs/kontext
    Peak: `--plan`.
    """
    return replace(kontext_lora_80gb(), stage=FAST)


def kontext_lora_24gb() -> EditorRecipe:
    """The fast settings on one 24 to 40 GB GPU: a transformer in 4 bits, one trained edit at a time, judge elsewhere.

    pip install 'edit-r1[quantised]'
    edit-r1 train editor kontext_lora_24gb --data data/contexts --verifier http://HOST:8000/v1#edit-rrm
    Peak: `--plan`.
    """
    recipe = kontext_lora_80gb()
    settings = FluxKontextSettings(max_area=AREA, source_area=AREA, offload_encoders=True, batch_size=2)
    stage = replace(FAST, contexts_per_step=4, sample_batch=2, train_batch=1)
    return replace(recipe, stage=stage, load=EditorCheckpoint(KONTEXT, settings, quantise="nf4"))


def kontext_lora_8gpu() -> EditorRecipe:
    """The paper's settings on eight 80 GB GPUs, a copy of the transformer each (DDP), 32 contexts a step.

    accelerate launch --multi_gpu --num_processes 8 -m edit_r1 train editor kontext_lora_8gpu
    Peak: `--plan --processes 8`.
    """
    return replace(kontext_lora_80gb(), stage=replace(PAPER, contexts_per_step=32))


def qwen_image_edit_lora_8gpu() -> EditorRecipe:
    """LoRA on Qwen-Image-Edit on eight 80 GB GPUs, the transformer in parts (FSDP2); guidance by two forwards.

    torchrun --nproc-per-node 8 -m edit_r1 train editor qwen_image_edit_lora_8gpu --data data/contexts
    Peak: `--plan --processes 8`.
    """
    settings = QwenImageEditSettings(area=AREA, source_area=AREA, offload_encoders=True)
    stage = replace(
        PAPER, contexts_per_step=32, guidance=4.0, sampling_steps=10, shard=True, sample_batch=4, train_batch=1,
        sde=SDESettings(eta=0.9, trained_steps=2),
    )  # fmt: skip
    return replace(kontext_lora_80gb(), stage=stage, load=EditorCheckpoint(QWEN, settings), out="runs/qwen_image_edit")


def kontext_full_nodes() -> EditorRecipe:
    """All weights of FLUX.1-Kontext in float32 on four nodes of eight 80 GB GPUs, in parts (FSDP2), bf16 products.

    On every node, whose memory holds eight times what --plan tells under "in the machine's memory":
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv_backend c10d --rdzv_endpoint HEAD:29500 \
        -m edit_r1 train editor kontext_full_nodes --data data/contexts --verifier http://HOST:8000/v1#edit-rrm
    Peak: `--plan --processes 32`.
    """
    settings = FluxKontextSettings(max_area=AREA, source_area=AREA, offload_encoders=True, bf16_products=True)
    stage = replace(
        PAPER, contexts_per_step=32, lora_rank=0, save_as="merged", shard=True, train_batch=1,
        updates=UpdateSettings(learning_rate=1e-5),
    )  # fmt: skip
    load = EditorCheckpoint(KONTEXT, settings, dtype="float32", waits=True)
    return replace(kontext_lora_80gb(), stage=stage, load=load, out="runs/kontext_full")
