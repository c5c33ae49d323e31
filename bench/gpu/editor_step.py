"""A Flow-GRPO iteration on a FLUX.1-Kontext of the real size: 12 B parameters, random weights, LoRA, one GPU.

    python bench/gpu/editor_step.py --pixels 512 1024 --out runs/editor_step_gpu.json
    python bench/gpu/editor_step.py --tiny             # a smoke test on a CPU, measures nothing worth quoting

Random weights compute what trained ones compute, so nothing is downloaded: transformer and autoencoder have FLUX.1's
public configuration, the base is bf16, the adapter float32, activations are recomputed in the backward pass. Texts
(512 T5 tokens) and sources are random encodings, so that encoders cost nothing in any way; decoding the edits counts to
sampling; nothing is judged.

"plain", "everything" and "fast" are those of bench/editor_step.py, with its published settings: 6 sampling steps, 5 of
them trained or a window, batches of 3 edits in the plain loop. Base and products are bf16 in all three.

FLOPs are counted by torch on one row, forward and backward. Utilisation is the FLOPs that the model needs (without the
recomputation) over the seconds and the device's nominal rate; the floor of a phase is all its FLOPs (with it) over the
rate that a large bf16 product reaches here.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import tyro
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings, KontextContexts
from edit_r1.records import Context, Sample
from edit_r1.store import write_json
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_stage import EditorRLStage, LossSettings, SDESettings, plan_iteration

NOMINAL_TFLOPS = 989.0
"""H100 and H200, dense bf16 products, by NVIDIA's data sheet."""
SHOWN = ("plain", "everything", "fast")


@dataclass(frozen=True)
class Row:
    """One way at one size; seconds are medians."""

    pixels: int
    way: str
    edits: int
    sample_s: float
    update_s: float
    edits_per_s: float
    peak_gb: float | None
    """Most device memory, 1e9 bytes; None on a CPU."""
    sample_utilisation: float
    update_utilisation: float
    sample_floor_s: float
    update_floor_s: float


def main(
    pixels: tuple[int, ...] = (512, 1024),
    group: int = 12,
    lora_rank: int = 64,
    window: int = 2,
    turns: int = 3,
    sample_batch: int = 12,
    train_batch: int = 2,
    nominal_tflops: float = NOMINAL_TFLOPS,
    tiny: bool = False,
    out: Path | None = None,
) -> None:
    """
    Args:
        pixels: width and height of source and edit.
        group: edits of the one context of an iteration.
        window: K of "fast".
        turns: of each way, after one that is not counted.
        train_batch: edits replayed in one forward, each at all its trained steps.
        nominal_tflops: what utilisation is a share of.
        tiny: a toy of the same classes, on this machine's CPU.
        out: where the numbers go, JSON.
    """
    if not tiny and not torch.cuda.is_available():
        print("editor_step: no CUDA device here, nothing is measured; --tiny runs a smoke test on the CPU")
        return
    device = "cpu" if tiny else "cuda"
    if tiny:
        pixels, group, lora_rank, turns = (64,), min(group, 4), min(lora_rank, 4), min(turns, 1)
    rate = matmul_rate(device, 256 if tiny else 8192)
    nominal = rate if tiny else nominal_tflops * 1e12
    print(f"{'CPU' if tiny else torch.cuda.get_device_name()}, products at {rate / 1e12:.2f} TFLOP/s")
    rows: list[Row] = []
    for side in pixels:
        stage = EditorRLStage(
            contexts_per_step=1, group_size=group, sampling_steps=6, guidance=2.5, lora_rank=lora_rank,
            sde=SDESettings(eta=0.9, window="all"), loss=LossSettings(kl_beta=0.0, advantage_std="batch"),
            sample_batch=sample_batch, train_batch=train_batch, checkpointing=True,
        )  # fmt: skip
        editor = RandomKontext.build(tiny, side, device)
        rows += measure(editor, stage, window, turns, side, rate, nominal)
        del editor
        if device == "cuda":
            torch.cuda.empty_cache()
    print("\n".join(table(rows)))
    if out is not None:
        write_json(out, {
            "rows": [asdict(row) for row in rows], "matmul_flops": rate, "nominal_flops": nominal, "group": group,
            "lora_rank": lora_rank, "window": window, "sample_batch": sample_batch, "train_batch": train_batch,
            "device": "CPU" if tiny else torch.cuda.get_device_name(), "torch": torch.__version__,
        })  # fmt: skip


class RandomKontext(FluxKontextEditor):
    """A Kontext of random weights whose encodings are random too."""

    text_tokens = 512
    side = 512

    @classmethod
    def build(cls, tiny: bool, side: int, device: str) -> RandomKontext:
        torch.manual_seed(0)
        dtype = torch.float32 if tiny else torch.bfloat16
        text = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
        )
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                pipeline = FluxKontextPipeline(
                    scheduler, autoencoder(tiny), CLIPTextModel(CLIPTextConfig(vocab_size=64, **text)), None,
                    T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
                    None, transformer(tiny),
                )  # fmt: skip
        finally:
            torch.set_default_dtype(default)
        editor = cls(pipeline, FluxKontextSettings(steps=6), "random-kontext")
        editor.side = side
        editor.text_tokens = 16 if tiny else 512
        return editor

    def encode(self, samples: Sequence[Sample]) -> list[tuple[list[int], KontextContexts]]:
        """Random, of the right shapes."""
        config = self.pipeline.transformer.config
        tokens = (self.side // self.multiple) ** 2
        count, like = len(samples), {"device": self.device, "dtype": self.pipeline.transformer.dtype}
        grid = torch.stack(
            torch.meshgrid(
                torch.arange(self.side // self.multiple), torch.arange(self.side // self.multiple), indexing="ij"
            ),
            dim=-1,
        ).reshape(tokens, 2)
        ids = [torch.cat([torch.full((tokens, 1), place), grid], dim=1) for place in (0, 1)]
        contexts = KontextContexts(
            torch.randn(count, tokens, config.in_channels, **like),
            torch.randn(count, self.text_tokens, config.joint_attention_dim, **like),
            torch.randn(count, config.pooled_projection_dim, **like),
            torch.zeros(self.text_tokens, 3, **like),
            torch.cat(ids).to(**like),
            (self.side, self.side),
        )
        return [(list(range(count)), contexts)]


def transformer(tiny: bool) -> FluxTransformer2DModel:
    """FLUX.1's public configuration, and a toy of the same architecture."""
    if not tiny:
        return FluxTransformer2DModel(guidance_embeds=True)
    return FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip


def autoencoder(tiny: bool) -> AutoencoderKL:
    """As `transformer`."""
    widths, layers, groups = ((8, 8, 8, 8), 1, 4) if tiny else ((128, 256, 512, 512), 2, 32)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths, layers_per_block=layers, latent_channels=16, norm_num_groups=groups,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def matmul_rate(device: str, side: int) -> float:
    """FLOP/s of a square product, bf16 on a GPU; the best of ten."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    spent = []
    for _ in range(10):
        start = clock(device)
        left @ right
        spent.append(clock(device) - start)
    return 2 * side**3 / min(spent)


def clock(device: str) -> float:
    """Seconds, when everything asked of the device so far is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter()


def counted_flops(policy: EditorPolicy[Any], stage: EditorRLStage) -> tuple[float, float]:
    """Of one row: a forward; and a forward, its recomputation and the backward pass together."""
    editor = policy.editor
    [(_, contexts)] = editor.encode([Sample("flops", b"", "", "")])
    latents = editor.noise(contexts, [torch.Generator("cpu").manual_seed(0)])
    timestep = torch.full((1,), 500.0, device=editor.device)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        editor.velocity(latents, timestep, contexts, stage.guidance)
    with FlopCounterMode(display=False) as both:
        editor.velocity(latents, timestep, contexts, stage.guidance).square().mean().backward()
    policy.optimizer.zero_grad(set_to_none=True)
    return float(forward.get_total_flops()), float(both.get_total_flops())


def measure(
    editor: RandomKontext, stage: EditorRLStage, window: int, turns: int, side: int, rate: float, nominal: float
) -> list[Row]:
    """All ways at one size, in turns."""
    loops = loops_of_cpu_bench()
    device = editor.device.type
    policy: EditorPolicy[Any] = EditorPolicy(editor, stage)
    forward, both = counted_flops(policy, stage)
    fast = replace(stage, sde=replace(stage.sde, window="random", trained_steps=window, same_start=True))
    context = Context(Sample("random", b"", "make it red", ""), (), "bench")
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in SHOWN}
    peaks: dict[str, int] = dict.fromkeys(SHOWN, 0)
    for turn in range(turns + 1):
        for name in SHOWN:
            way = loops.WAYS[name]
            chosen = fast if way.fast else stage
            iteration = plan_iteration(chosen, turn, 1)
            measured = Measured(device)
            loop = loops.own_loop if way.own_loop else loops.plain_loop
            loop(way, chosen, policy, iteration, [context], numbered, measured)
            if turn > 0:
                seconds[name].append(measured.seconds)
            peaks[name] = max(peaks[name], measured.peak)
    rows = []
    for name in SHOWN:
        trained = len(plan_iteration(fast if name == "fast" else stage, 0, 1).window)
        sample_s, update_s = (median(each[phase] for each in seconds[name]) for phase in ("sample", "update"))
        edits = stage.group_size
        sampling, training = edits * stage.sampling_steps * forward, edits * trained * both
        needed = edits * trained * (both - forward)
        rows.append(Row(
            side, name, edits, sample_s, update_s, edits / (sample_s + update_s), peaks[name] / 1e9 or None,
            sampling / sample_s / nominal, needed / update_s / nominal, sampling / rate, training / rate,
        ))  # fmt: skip
    return rows


def numbered(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
    """A reward with a spread, at no cost."""
    return [float(len(image) % 97) for image in images]


class Measured:
    """Seconds by phase, and the most device memory, of one iteration."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {"sample": 0.0, "judge": 0.0, "update": 0.0}
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = clock(self.device)
        yield
        self.seconds[name] += clock(self.device) - start

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else 0


def loops_of_cpu_bench() -> Any:
    """bench/editor_step.py, which has the loops and what they switch."""
    path = Path(__file__).parents[1] / "editor_step.py"
    spec = importlib.util.spec_from_file_location("cpu_editor_step", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def table(rows: list[Row]) -> list[str]:
    """Markdown."""
    lines = [
        "| px | way | sample s | update s | s/step | edits/s | peak GB | utilisation: sample | update | "
        "floor s: sample | update |",
        "| --- " * 11 + "|",
    ]
    for r in rows:
        memory = "" if r.peak_gb is None else f"{r.peak_gb:.1f}"
        lines.append(
            f"| {r.pixels} | {r.way} | {r.sample_s:.2f} | {r.update_s:.2f} | {r.sample_s + r.update_s:.2f} | "
            f"{r.edits_per_s:.2f} | {memory} | {r.sample_utilisation:.0%} | {r.update_utilisation:.0%} | "
            f"{r.sample_floor_s:.2f} | {r.update_floor_s:.2f} |"
        )
    return lines


if __name__ == "__main__":
    tyro.cli(main)
