"""How fast verifiers of real sizes judge: Qwen2.5-VL-3B and 7B, random weights, two pictures of 1024 px, 10 principles.

    python bench/gpu/verifier_speed.py --models 3b 7b --edits 16 --traces 8 --out runs/verifier_speed.json
    python bench/gpu/verifier_speed.py --tiny          # a smoke test on a CPU, measures nothing worth quoting

Random weights compute what trained ones compute, so nothing is downloaded: the configurations stand below, from the
public model cards. Texts are random tokens of the length of the real prompt (4 characters a token); a random model does
not end its answers, so every trace has `--new-tokens` tokens, and what is saved on rows that end early is not shown.

Two ways: the prompt read and held once for the traces of an edit (what `score` does), and
`generate(num_return_sequences=traces)`. The bandwidth limit of decoding is the time to read, once a step, the weights
of the language model and the keys and values that the way has to read; the bandwidth is measured by a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

from edit_r1.records import CATEGORIES, Principle
from edit_r1.store import write_json
from edit_r1.verifier.prompts import judge_request
from edit_r1.vlm.decoding import continue_prompts, read_prompts
from edit_r1.vlm.protocol import Sampling
from edit_r1.vlm.shared_prefix import shared_attention
from edit_r1.vlm.token_choices import ChoiceRecorder

IMAGE, VIDEO, START, END, FIRST_TEXT = 0, 1, 2, 3, 10
"""Token ids; the place in the vocabulary does not matter to the speed."""


def config_of(size: Literal["3b", "7b", "tiny"]) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL's public configurations, and a toy of the same architecture."""
    if size == "tiny":
        layers, hidden, inner, heads, key_heads, vocabulary, positions, theta = 2, 64, 96, 4, 2, 512, 4096, 1e4
        sections, depth, width, vision_inner, vision_heads, full = [2, 3, 3], 2, 32, 48, 2, [1]
    else:
        shape = (36, 2048, 11008, 16, 2, 151936) if size == "3b" else (28, 3584, 18944, 28, 4, 152064)
        layers, hidden, inner, heads, key_heads, vocabulary = shape
        positions, theta, sections = 128000, 1e6, [16, 24, 24]
        depth, width, vision_inner, vision_heads, full = 32, 1280, 3420, 16, [7, 15, 23, 31]
    text = {
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "vocab_size": vocabulary, "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": size != "7b",
        "rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": sections},
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    vision = {
        "depth": depth, "hidden_size": width, "intermediate_size": vision_inner, "num_heads": vision_heads,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": full, "out_hidden_size": hidden,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"],
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way of one model."""

    model: str
    way: str
    prompt_tokens: int
    edits_per_s: float
    tokens_per_s: float
    prompt_s: float
    """Seconds to read the prompts of all edits; for generate, of all their copies."""
    step_ms: float
    """Milliseconds a decoding step."""
    peak_gb: float | None
    """Most device memory, 1e9 bytes; None on a CPU."""
    bandwidth_share: float
    """Time at the memory's limit by the time taken, of a decoding step."""


def main(
    models: tuple[Literal["3b", "7b"], ...] = ("3b", "7b"),
    edits: int = 16,
    traces: int = 8,
    pixels: int = 1024,
    principles: int = 10,
    new_tokens: int = 512,
    repeats: int = 3,
    tiny: bool = False,
    out: Path | None = None,
) -> None:
    """
    Args:
        edits: judged at once; with `traces` the sequences in flight.
        pixels: width and height of both pictures.
        new_tokens: length of every trace.
        repeats: runs of each way; the fastest counts, the first one warms up and does not.
        tiny: a toy model, small pictures and few tokens, on this machine's CPU.
        out: where the numbers go, JSON.
    """
    if not tiny and not torch.cuda.is_available():
        raise SystemExit("verifier_speed: no CUDA device here; --tiny runs a smoke test on the CPU")
    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.bfloat16)
    if tiny:
        edits, traces, pixels, new_tokens = min(edits, 2), min(traces, 4), 112, 16
    bandwidth = measured_bandwidth(device, 2**24 if tiny else 2**30)
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, copies at {bandwidth / 1e9:.0f} GB/s")
    rows: list[Row] = []
    for size in ("tiny",) if tiny else models:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration._from_config(config_of(size), dtype=dtype).eval()
        inputs = inputs_of(model, edits, pixels, principles, device)
        rows += [
            measure(size, way, model, inputs, traces, new_tokens, repeats, bandwidth)
            for way in ("shared prefix", "generate")
        ]
        del model
    print("\n".join(table(rows)))
    if out is not None:
        write_json(out, {"rows": [asdict(row) for row in rows], "bandwidth": bandwidth, "edits": edits,
                         "traces": traces, "pixels": pixels, "new_tokens": new_tokens})  # fmt: skip


def measured_bandwidth(device: str, count: int) -> float:
    """Bytes a second that a copy moves, read and written; the best of ten."""
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / min(timed(device, lambda: target.copy_(source))[1] for _ in range(10))


def timed(device: str, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and its seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def inputs_of(model: Any, edits: int, pixels: int, principles: int, device: str) -> dict[str, torch.Tensor]:
    """Token ids and pixels of `edits` judging prompts, all of one length."""
    listed = [
        Principle(f"Is point {n} of the instruction fulfilled as asked?", CATEGORIES[n % 3]) for n in range(principles)
    ]
    request = judge_request([b"s"], b"e", "Make the shirt of the woman on the left red.", listed, "both", "full")
    rng = np.random.default_rng(0)
    vision = model.config.vision_config
    processor = Qwen2VLImageProcessor(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )
    pictures = [rng.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8) for _ in range(2)]
    seen = processor(images=pictures, return_tensors="pt")
    per_picture = [int(grid.prod()) // vision.spatial_merge_size**2 for grid in seen["image_grid_thw"]]
    vocabulary = model.config.get_text_config().vocab_size
    ids: list[int] = []
    for part in request.parts:
        if isinstance(part, bytes):
            ids += [START, *[IMAGE] * per_picture.pop(), END]
        else:
            ids += rng.integers(FIRST_TEXT, vocabulary, max(1, len(part) // 4)).tolist()
    row = torch.tensor([ids], device=device)
    tokens = row.repeat(edits, 1)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "mm_token_type_ids": (tokens == IMAGE).long(),
        "pixel_values": seen["pixel_values"].repeat(edits, 1).to(device, model.dtype),
        "image_grid_thw": seen["image_grid_thw"].repeat(edits, 1).to(device),
    }


def measure(
    size: str, way: str, model: Any, inputs: dict[str, torch.Tensor], traces: int, new_tokens: int, repeats: int,
    bandwidth: float,
) -> Row:  # fmt: skip
    """Runs one way; a run of one token tells the time of the prompts."""
    device = model.device.type
    edits, length = inputs["input_ids"].shape
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = shared if way == "shared prefix" else generated
    seconds: dict[int, float] = {}
    with torch.inference_mode():
        for count in (1, new_tokens):
            spent = [
                timed(device, lambda count=count: run(model, inputs, traces, count))[1] for _ in range(repeats + 1)
            ]
            seconds[count] = min(spent[1:])
    step = (seconds[new_tokens] - seconds[1]) / (new_tokens - 1)
    text = model.config.get_text_config()
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    weights = sum(p.numel() for n, p in model.named_parameters() if ".visual." not in n and "embed_tokens" not in n)
    if text.tie_word_embeddings:
        weights += text.vocab_size * text.hidden_size
    copies = edits if way == "shared prefix" else edits * traces
    held = copies * length + edits * traces * new_tokens / 2
    least = (weights + held * per_token) * model.dtype.itemsize / bandwidth
    return Row(
        size, way, length, edits / seconds[new_tokens], edits * traces * new_tokens / seconds[new_tokens], seconds[1],
        1000 * step, torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None, least / step,
    )  # fmt: skip


def shared(model: Any, inputs: dict[str, torch.Tensor], traces: int, new_tokens: int) -> torch.Tensor:
    """As `edit_r1.vlm.transformers` does it, without an end token."""
    prompts = read_prompts(model, inputs, traces)
    assert prompts is not None, "Qwen2.5-VL's positions are known"
    sampling = Sampling(new_tokens, temperature=1.0)
    with shared_attention(model), ChoiceRecorder(model, 0) as recorder:
        return continue_prompts(model, prompts, sampling, [-1], 0, [IMAGE, VIDEO, START, END], recorder)


def generated(model: Any, inputs: dict[str, torch.Tensor], traces: int, new_tokens: int) -> torch.Tensor:
    """transformers by hand."""
    config = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=True, top_k=0, num_return_sequences=traces, pad_token_id=0,
        suppress_tokens=[IMAGE, VIDEO, START, END],
    )  # fmt: skip
    return model.generate(**inputs, generation_config=config)


def table(rows: list[Row]) -> list[str]:
    """Markdown."""
    lines = [
        "| model | way | prompt tokens | edits/s | tokens/s | prompts, s | step, ms | memory, GB | of the limit |",
        "| --- " * 9 + "|",
    ]
    for r in rows:
        memory = "" if r.peak_gb is None else f"{r.peak_gb:.1f}"
        lines.append(
            f"| {r.model} | {r.way} | {r.prompt_tokens} | {r.edits_per_s:.2f} | {r.tokens_per_s:.0f} | "
            f"{r.prompt_s:.2f} | {r.step_ms:.1f} | {memory} | {r.bandwidth_share:.0%} |"
        )
    return lines


if __name__ == "__main__":
    tyro.cli(main)
