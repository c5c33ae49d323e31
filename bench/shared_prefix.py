"""`score` of 64 edits x 8 traces, the prompt read once for the 8, against plain `generate(num_return_sequences=8)`.

    python bench/shared_prefix.py --repeats 5 --out runs/shared_prefix.json

Both have the same number of sequences in flight, the same model, prompts, sampling parameters and seeds. The plain way
is what one writes by hand with transformers: processor, `generate`, decode; `score` also decodes and checks the
pictures, parses, and makes judgments. The two take turns, and the median counts. CPU seconds stand beside the clock,
since a machine that does other work too slows the clock alone. Texts are compared: sampled with one seed, and greedy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from transformers import GenerationConfig

from edit_r1.images import decode_pil, encode_png
from edit_r1.records import Trace
from edit_r1.store import write_json
from edit_r1.verifier.prompts import judge_request
from edit_r1.verifier.scoring import _CHUNK_TRACES, ScoreItem, Verifier
from edit_r1.vlm.chat import to_messages
from edit_r1.vlm.protocol import Request
from edit_r1.vlm.transformers import TransformersVLM
from edit_r1.world.checks import checks_for, principle
from edit_r1.world.flaws import PROFILES
from edit_r1.world.render import render_one
from edit_r1.world.samples import edit_of, make_sample, scene_of
from edit_r1.zoo.packaged import weights


def main(
    edits: int = 64,
    traces: int = 8,
    in_flight: int = 64,
    repeats: int = 3,
    seed: int = 0,
    model: Path | None = None,
    out: Path | None = None,
) -> None:
    """
    Args:
        in_flight: sequences decoded at once.
        repeats: runs of each way, taking turns.
        model: folder of a verifier; the packaged one when not given.
        out: where the numbers go, JSON.
    """
    if in_flight % traces:
        raise ValueError(f"in_flight={in_flight}: a multiple of traces={traces}, so that both ways fill it")
    items = make_items(edits, seed)
    verifier = Verifier.load(model or weights("verifier-small-rrm"), batch_size=in_flight, cache=None)
    vlm = verifier.vlm
    assert isinstance(vlm, TransformersVLM)
    requests = requests_of(verifier, items)
    ways: dict[str, Callable[[], list[list[str]]]] = {
        "score, shared prefix": lambda: texts_of(verifier, items, traces, seed),
        "plain generate": lambda: plain(vlm, requests, traces, in_flight, verifier.max_new_tokens, seed),
    }
    for way in ways.values():
        way()  # once unmeasured: first calls compile and fill caches
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    texts: dict[str, list[list[str]]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            clock, cpu = time.perf_counter(), time.process_time()
            texts[name] = way()
            spent = time.perf_counter() - clock, time.process_time() - cpu
            runs[name].append(
                (*spent, sum(len(vlm.processor.tokenizer(t)["input_ids"]) for r in texts[name] for t in r))
            )
    greedy = [texts_of(verifier, items, 1, seed), plain(vlm, requests, 1, in_flight, verifier.max_new_tokens, seed)]
    result = report(runs, edits * traces)
    result |= {
        "sampled_identical": identical(*texts.values()),
        "greedy_identical": identical(*greedy),
        "edits": edits, "traces": traces, "in_flight": in_flight, "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(
        f"\nidentical texts: {result['sampled_identical']:.1%} sampled with one seed, "
        f"{result['greedy_identical']:.1%} greedy; {in_flight} sequences in flight, {torch.get_num_threads()} threads"
    )
    if out is not None:
        write_json(out, result)


def make_items(count: int, seed: int) -> list[ScoreItem]:
    """Edits of EditWorld's test contexts by editors of every kind of failure, with exact principles."""
    items = []
    profiles = list(PROFILES.values())
    for index in range(count):
        sample = make_sample("test", seed, index)
        scene, edit = scene_of(sample), edit_of(sample)
        edited = render_one(*profiles[index % len(profiles)](np.random.default_rng([seed, index]), scene, edit))
        principles = tuple(principle(check) for check in checks_for(scene, edit))
        items.append(ScoreItem((sample.source,), encode_png(edited), sample.instruction, principles))
    return items


def requests_of(verifier: Verifier, items: Sequence[ScoreItem]) -> list[Request]:
    """What `score` asks about the items."""
    return [
        judge_request(i.sources, i.edited, i.instruction, i.principles or (), verifier.mode, verifier.variant)
        for i in items
    ]


def texts_of(verifier: Verifier, items: Sequence[ScoreItem], traces: int, seed: int) -> list[list[str]]:
    """The traces of `score_many`."""
    judgments = verifier.score_many(items, traces, seed=seed)
    assert any(isinstance(outcome, Trace) for judgment in judgments for outcome in judgment.outcomes)
    return [[outcome.text for outcome in judgment.outcomes] for judgment in judgments]


def plain(
    vlm: TransformersVLM, requests: Sequence[Request], traces: int, in_flight: int, max_new_tokens: int, seed: int
) -> list[list[str]]:
    """transformers by hand: every copy of a prompt is read."""
    model, processor = vlm.model.eval(), vlm.processor
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=traces > 1, num_return_sequences=traces, top_k=0 if traces > 1 else 50,
        eos_token_id=vlm._ends, pad_token_id=vlm._pad, suppress_tokens=vlm._suppressed or None,
    )  # fmt: skip
    prompts = [
        processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
        for request in requests
    ]
    pictures = [[decode_pil(data) for data in request.images] for request in requests]
    answers: list[list[str]] = [[] for _ in requests]
    for places, batch_seed in batches(prompts, traces, in_flight):
        inputs = processor(
            text=[prompts[p] for p in places], images=[pictures[p] for p in places], padding=True, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)
        torch.manual_seed(seed + batch_seed)
        with torch.inference_mode():
            tokens = model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for place, row in zip(places, range(0, len(texts), traces), strict=True):
            answers[place] = texts[row : row + traces]
    return answers


def batches(prompts: Sequence[str], traces: int, in_flight: int) -> Iterator[tuple[list[int], int]]:
    """Places and seeds as `score` batches them: calls of so many traces, in each prompts of like length together."""
    step, per_batch = max(1, _CHUNK_TRACES // traces), in_flight // traces
    for first in range(0, len(prompts), step):
        order = sorted(range(first, min(first + step, len(prompts))), key=lambda place: (len(prompts[place]), place))
        for start in range(0, len(order), per_batch):
            yield order[start : start + per_batch], first + start


def identical(a: Sequence[Sequence[str]], b: Sequence[Sequence[str]]) -> float:
    """Share of traces that are the same."""
    pairs = [one == other for x, y in zip(a, b, strict=True) for one, other in zip(x, y, strict=True)]
    return sum(pairs) / len(pairs)


def report(runs: dict[str, list[tuple[float, float, int]]], traces: int) -> dict[str, Any]:
    """Prints Markdown; returns the medians and all runs."""
    print("| | traces/s | tokens/s | traces per CPU second | seconds, all runs |")
    print("| --- | --- | --- | --- | --- |")
    medians: dict[str, tuple[float, float]] = {}
    for name, spent in runs.items():
        clock, cpu = (statistics.median(run[k] for run in spent) for k in (0, 1))
        tokens = statistics.median(run[2] / run[0] for run in spent)
        medians[name] = clock, cpu
        seconds = ", ".join(f"{run[0]:.1f}" for run in spent)
        print(f"| {name} | {traces / clock:.1f} | {tokens:.0f} | {traces / cpu:.1f} | {seconds} |")
    (shared, shared_cpu), (whole, whole_cpu) = medians.values()
    print(f"| ratio | {whole / shared:.2f} | | {whole_cpu / shared_cpu:.2f} | |")
    return {
        "ratio": whole / shared,
        "ratio_cpu": whole_cpu / shared_cpu,
        "runs": {
            name: [{"seconds": s, "cpu_seconds": c, "tokens": n} for s, c, n in spent] for name, spent in runs.items()
        },
    }


if __name__ == "__main__":
    tyro.cli(main)
