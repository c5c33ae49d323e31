"""The tiny verifiers: the fast path equals Hugging Face's, lessons hold no verdict, a cut run equals a whole one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from edit_r1.images import decode_pil, encode_png
from edit_r1.records import Principle
from edit_r1.verifier.prompts import judge_request
from edit_r1.vlm.chat import to_messages
from edit_r1.vlm.protocol import Request
from edit_r1.world import checks
from edit_r1.world.perceive import perceive
from edit_r1.world.render import render_one
from edit_r1.world.scenes import belongs
from edit_r1.zoo import painted, verifier
from edit_r1.zoo.lesson_batch import Course, batch_for, collate
from edit_r1.zoo.probe import probe
from edit_r1.zoo.seeing import COARSE, FINE, LESSONS, Lesson, Rates, edited_pair, lesson, painted_lesson
from edit_r1.zoo.tokenizer import PIECES, build_tokenizer
from edit_r1.zoo.verifier_model import SHAPES, FastForward, build_model, build_processor, export, patchify


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(seed=0)


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro")
    export(build_model("micro", tokenizer, seed=0), tokenizer, folder)
    return folder


def lessons(count: int, kind: str | None = None, split: str = "train", rates: Rates = FINE) -> list[Lesson]:
    rng = np.random.default_rng(3)
    return [lesson(rng, split, kind, rates) for _ in range(count)]


def as_request(taught: Lesson) -> Request:
    pictures = [encode_png(render_one(*shown)) for shown in taught.pictures]
    return Request(tuple(part if isinstance(part, str) else pictures[part] for part in taught.parts))


def through_processor(processor, taught: Lesson):
    request = as_request(taught)
    text = processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
    images = [decode_pil(data) for data in request.images]
    return processor(text=[f"{text}{taught.answer}<|im_end|>"], images=images, return_tensors="pt")


@pytest.mark.parametrize("kind", LESSONS)
def test_fast_tensors_equal_the_processors(kind, tokenizer, exported):
    processor = AutoProcessor.from_pretrained(exported)
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32)
    for taught in lessons(3, kind):
        expected = through_processor(processor, taught)
        batch = collate(tokenizer, [taught])
        length = expected["input_ids"].shape[1]
        assert torch.equal(batch.ids_BL[:, :length], expected["input_ids"])
        assert (batch.ids_BL[:, length:] == tokenizer.pad_token_id).all()
        torch.testing.assert_close(batch.pixels_NPC.flatten(0, 1), expected["pixel_values"], rtol=0, atol=1e-6)
        assert expected["image_grid_thw"].tolist() == [[1, 8, 8]] * len(taught.pictures)
        positions, _ = model.model.get_rope_index(
            expected["input_ids"], expected["mm_token_type_ids"], expected["image_grid_thw"]
        )
        assert torch.equal(batch.positions_3BL[:, :, :length], positions)
        # What is learned is the answer and its end, each predicted from the position before it.
        answer = tokenizer(f"{taught.answer}<|im_end|>")["input_ids"]
        assert batch.targets.tolist() == answer
        assert (batch.rows + 1).tolist() == list(range(length - len(answer), length))


def test_fast_forward_equals_the_hugging_face_forward(tokenizer):
    model = build_model("micro", tokenizer, seed=1).eval()
    processor = build_processor(tokenizer)
    taught = lessons(6)
    with torch.no_grad():
        fast = FastForward(model, compiled=False)(collate(tokenizer, taught))
        slow = []
        for one in taught:
            logits = model(**through_processor(processor, one)).logits[0]
            count = len(tokenizer(f"{one.answer}<|im_end|>")["input_ids"])
            slow.append(logits[-count - 1 : -1])
    torch.testing.assert_close(fast, torch.cat(slow), rtol=1e-4, atol=1e-4)


def test_tokenizer_is_reproducible_and_lossless(tokenizer):
    assert build_tokenizer(seed=0).get_vocab() == tokenizer.get_vocab()
    assert 500 <= len(tokenizer) <= 1000
    trace = '1 was small solid red star top left, now nothing top left: yes\n12 no border: no\n{"average_score": 0.50}'
    for text in (trace, "<score>10.0</score>", "Émigré 猫 \U0001f600 “quoted”", "top left of it"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for piece in (*PIECES, *"0123456789", " circle", " striped", " was", " yes", " no", " photograph"):
        assert len(tokenizer(piece)["input_ids"]) == 1, piece
    assert len(tokenizer("2026")["input_ids"]) == 4
    visible = tokenizer.decode(tokenizer("<score>4.5</score><|im_end|>")["input_ids"], skip_special_tokens=True)
    assert visible == "<score>4.5</score>"


def test_lessons_hold_no_verdict_and_no_score_and_stay_in_their_split():
    for taught in lessons(100, rates=COARSE) + lessons(100, rates=FINE):
        assert not re.search(r"score|\byes\b|\bno\b(?! border)|average|verify", taught.answer), taught.answer
        assert "verify" not in "".join(part for part in taught.parts if isinstance(part, str))
        assert all(belongs(scene, "train") for scene, _ in taught.pictures)
    assert all(belongs(scene, "validation") for one in lessons(20, split="validation") for scene, _ in one.pictures)


def test_the_layout_is_the_compact_judges():
    rng = np.random.default_rng(0)
    taught = lesson(rng, "train", "principles")
    prompt = as_request(taught)
    instruction = re.search(r"Instruction: (.*)", prompt.text).group(1)
    asked = re.findall(r"^\d+ \[\w+\] (.*)$", prompt.text, flags=re.MULTILINE)
    principles: list[Principle] = [checks.principle(checks.parse_question(text)) for text in asked]
    expected = judge_request([prompt.images[0]], prompt.images[1], instruction, principles, "think", "compact")
    assert prompt.parts[:-1] == expected.parts[:-1]
    assert prompt.parts[-1] == "\nAnswer: see" and expected.parts[-1] == "\nAnswer: think"


def test_pairs_are_seeded_and_often_differ():
    first = [edited_pair(np.random.default_rng(seed), "train", FINE) for seed in range(12)]
    assert first == [edited_pair(np.random.default_rng(seed), "train", FINE) for seed in range(12)]
    assert sum(source != edited for source, (edited, _), _ in first) >= 6


def test_sizes_fit_their_budgets(tokenizer):
    counts = {size: sum(p.numel() for p in build_model(size, tokenizer).parameters()) for size in ("small", "base")}
    assert 1_000_000 <= counts["small"] <= 2_000_000
    assert 3_000_000 <= counts["base"] <= 3_900_000 and 2 * counts["base"] <= 7.9 * 2**20
    with pytest.raises(ValueError, match="choose one of"):
        build_model("huge", tokenizer)
    assert "micro" in SHAPES


def test_painted_pictures_are_what_the_oracle_sees_in_the_tiny_editors_own(tmp_path: Path, monkeypatch, tokenizer):
    monkeypatch.setattr(painted, "SHARD", 4)
    assert painted.load_bank(tmp_path, 8) == []
    with pytest.raises(ValueError, match="there are none"):
        batch_for(tokenizer, 0, 4, 2, Course(0, 4))
    assert not painted.grow_bank(tmp_path, 8, deadline=0.0)
    assert painted.grow_bank(tmp_path, 8, part=1, parts=2)
    assert painted.grow_bank(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-00000.npz", "0-00001.npz"]
    bank = painted.load_bank(tmp_path, 8)
    part = painted.load_bank(tmp_path, 4)
    assert 0 < len(part) < len(bank) and [one.source for one in part] == [one.source for one in bank[: len(part)]]
    assert 4 <= len(bank) <= 8
    for item in bank:
        assert belongs(item.source, "train") and belongs(item.scene, "train")
        assert item.pixels_HWC.dtype == np.uint8
        assert perceive(item.pixels_HWC, item.source, item.edit) == (item.scene, item.damage)
    rng = np.random.default_rng(0)
    taught = [painted_lesson(rng, bank[0]) for _ in range(24)]
    assert {one.kind for one in taught} == {"caption", "questions", "nouns", "principles"}
    pair = next(one for one in taught if one.kind == "principles")
    assert pair.parts[1:].count(1) == 1 and pair.pixels[0] is None
    pixels_NPC = collate(tokenizer, [pair]).pixels_NPC.numpy()
    assert np.array_equal(pixels_NPC, patchify(np.stack([render_one(bank[0].source), bank[0].pixels_HWC])))
    assert batch_for(tokenizer, 0, 4, 2, Course(0, 4), bank).targets.numel() > 0


def test_a_run_in_pieces_equals_a_whole_one_and_exports(tmp_path: Path, monkeypatch):
    config = verifier.LoopConfig(steps=6, batch_size=3, learning_rate=2e-3, warmup_steps=2)
    monkeypatch.setitem(verifier.CONFIGS, "micro", config)
    monkeypatch.setitem(verifier.COURSES, "micro", verifier.Course(fine_from=0, painted_from=4, painted_contexts=4))
    monkeypatch.setattr(painted, "SHARD", 4)
    monkeypatch.setattr(verifier, "probe", lambda model, tokenizer: probe(model, tokenizer, 4))
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert verifier.pretrain_verifier("micro", whole / "out", whole, minutes=5, seed=5)
    calls = 0
    while not verifier.pretrain_verifier("micro", pieces / "out", pieces, minutes=1e-9 if calls == 0 else 5, seed=5):
        # The clock stopped the call before its first step; now stop one in the middle.
        run, tokenizer = verifier.open_run("micro", pieces, 5, config)
        assert run.step == 0
        half = verifier.LoopConfig(steps=2, batch_size=3, learning_rate=2e-3, warmup_steps=2, decay_share=0.0)
        monkeypatch.setitem(verifier.CONFIGS, "micro", half)
        assert verifier.pretrain_verifier("micro", pieces / "out", pieces, minutes=5, seed=5)
        monkeypatch.setitem(verifier.CONFIGS, "micro", config)
        calls += 1
    assert calls == 1
    states = [torch.load(folder / "state.pt", weights_only=True)["module"] for folder in (whole, pieces)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert set(json.loads((whole / "probe.json").read_text())) == {"step", "seconds", "lines", "slots"}


def test_the_export_loads_by_the_auto_classes_and_samples(exported):
    assert json.loads((exported / "edit_r1.json").read_text()) == {
        "variant": "compact",
        "mode": "both",
        "domain": "EditWorld",
    }
    model = AutoModelForImageTextToText.from_pretrained(exported)
    processor = AutoProcessor.from_pretrained(exported)
    assert model.dtype == torch.bfloat16 and model.generation_config.do_sample is False
    assert processor.tokenizer.eos_token == "<|im_end|>" and processor.tokenizer.pad_token == "<|endoftext|>"
    request = as_request(lessons(1, "nouns")[0])
    text = processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[decode_pil(data) for data in request.images], return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=5, do_sample=True)
    assert inputs["input_ids"].shape[1] < written.shape[1] <= inputs["input_ids"].shape[1] + 5
