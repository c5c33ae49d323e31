"""Cold-start SFT on a real, tiny Qwen2.5-VL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edit_r1.images import encode_png
from edit_r1.records import Quadruple, Trace
from edit_r1.store import QUADRUPLES, open_dataset, write_dataset
from edit_r1.train import sft
from edit_r1.train.machine import MachineSettings
from edit_r1.train.replay import Replay
from edit_r1.train.sft import SFTStage, trace_text, train_sft
from edit_r1.train.verifier_run import (
    IdentityHash,
    RunFolder,
    decompose_messages,
    identity_hash,
    load_trainable,
    lora_config,
    read_curves,
    require_fp32,
)
from edit_r1.verifier.cards import read_card
from edit_r1.verifier.parsing import parse_trace
from edit_r1.verifier.prompts import Variant, judge_request
from edit_r1.verifier.scoring import Verifier
from edit_r1.verifier.traces import write_principles
from edit_r1.vlm.chat import to_messages
from edit_r1.vlm.protocol import Completion, Request, Sampling
from edit_r1.vlm.transformers import TransformersVLM


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


class Killed(Exception):
    """Stands for SIGKILL: nothing of ours runs after it."""


def kill_at(step: int):
    def progress(done: int, total: int, logged: object) -> None:
        if done == step:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def trained(checkpoint: Path, quadruples: list[Quadruple], sft_settings: dict, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sft") / "run"
    stage = SFTStage(str(checkpoint), str(out), **{**sft_settings, "log_every": 5, "save_every": 10})
    return train_sft(stage, quadruples)


def test_the_model_learns_to_judge_through_the_scorers_own_call(trained: Path, quadruples: list[Quadruple]) -> None:
    vlm = TransformersVLM.load(trained)
    requests = [
        judge_request([q.context.sample.source], q.candidate.image, q.context.sample.instruction, q.context.principles,
                      "verify", "compact")
        for q in quadruples
    ]  # fmt: skip
    answers = vlm.generate(requests, Sampling(max_new_tokens=12, temperature=0.0))
    outcomes = [
        parse_trace(answer[0].text, quadruple.context.principles, "verify")
        for answer, quadruple in zip(answers, quadruples, strict=True)
    ]
    assert all(isinstance(outcome, Trace) for outcome in outcomes)
    assert [outcome.score for outcome in outcomes] == [q.target.score for q in quadruples]


def test_the_folder_holds_model_card_and_curves_and_nothing_else(trained: Path, checkpoint: Path) -> None:
    found = sorted(path.name for path in trained.parent.iterdir())
    assert found == ["curves.jsonl", "data_card.md", "model", "stage.json"]
    assert "base_model_relation: finetune" in (trained / "README.md").read_text()
    assert (read_card(trained).variant, read_card(trained).mode) == ("compact", "verify")
    curve = read_curves(trained.parent / "curves.jsonl")
    assert [line["step"] for line in curve] == [1, 5, 10, 15, 20, 25, 30]
    assert curve[-1]["loss"] < 0.3 < curve[0]["loss"]
    assert [line["seconds"] for line in curve] == sorted(line["seconds"] for line in curve)
    generation = json.loads((trained / "generation_config.json").read_text())
    assert "top_k" not in generation
    assert "repetition_penalty" not in generation


def test_a_killed_run_resumes_to_the_same_weights(
    trained: Path, checkpoint: Path, quadruples: list[Quadruple], sft_settings: dict, tmp_path: Path
) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), **{**sft_settings, "log_every": 5, "save_every": 10})
    with pytest.raises(Killed):
        train_sft(stage, quadruples, progress=kill_at(25))
    assert not (tmp_path / "run/model").exists()
    # A checkpoint that a kill cut short is not taken for a whole one.
    (tmp_path / "run/checkpoints/checkpoint-24").mkdir()
    assert RunFolder(tmp_path / "run").checkpoint().name == "checkpoint-20"
    resumed = train_sft(stage, quadruples, resume=True)
    straight, again = weights(trained), weights(resumed)
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    before, after = (read_curves(path.parent / "curves.jsonl") for path in (trained, resumed))
    assert [(line["step"], line["loss"]) for line in before] == [(line["step"], line["loss"]) for line in after]
    assert train_sft(stage, quadruples, resume=True) == resumed  # done: at once


def test_a_killed_run_of_lora_resumes_to_the_same_weights(
    checkpoint: Path, quadruples: list[Quadruple], sft_settings: dict, tmp_path: Path
) -> None:
    changes = {**sft_settings, "steps": 4, "log_every": 1, "save_every": 2, "lora_rank": 2}
    straight = weights(train_sft(SFTStage(str(checkpoint), str(tmp_path / "straight"), **changes), quadruples))
    stage = SFTStage(str(checkpoint), str(tmp_path / "killed"), **changes)
    with pytest.raises(Killed):
        train_sft(stage, quadruples, progress=kill_at(3))
    again = weights(train_sft(stage, quadruples, resume=True))
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_a_run_is_resumed_by_as_many_processes(checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path) -> None:
    """Rows, random numbers and averaged weights are shared out among them: others would go on with another run."""
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", steps=2, batch_size=2, log_every=1,
                     save_every=1, cpu=True)  # fmt: skip
    with pytest.raises(Killed):
        train_sft(stage, quadruples, progress=kill_at(2))
    mark = tmp_path / "run/checkpoints/checkpoint-1/complete"
    assert mark.read_text() == "1"
    mark.write_text("8")
    with pytest.raises(ValueError, match="checkpoint-1: written by 8 processes, and this run has 1: start as many"):
        train_sft(stage, quadruples, resume=True)
    assert not (tmp_path / "run/model").exists()
    mark.write_text("")  # of a version that did not tell
    assert train_sft(stage, quadruples, resume=True).exists()


def test_another_run_or_no_resume_is_refused(
    trained: Path, checkpoint: Path, quadruples: list[Quadruple], sft_settings: dict
) -> None:
    stage = SFTStage(
        str(checkpoint), str(trained.parent), **{**sft_settings, "log_every": 5, "save_every": 10, "seed": 1}
    )
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        train_sft(stage, quadruples, resume=True)
    with pytest.raises(ValueError, match=r"other settings \(data\)"):
        train_sft(replace(stage, seed=0), quadruples[:-1], resume=True)
    with pytest.raises(ValueError, match="resume it"):
        train_sft(replace(stage, seed=0), quadruples)


def test_the_loss_is_on_the_answer_only_and_every_context_is_decomposed_once(
    checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    class Watched(sft.VerifierSFTTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.extend(row[row != -100].tolist() for row in inputs["labels"])
            assert inputs["pixel_values"].dtype == torch.float32
            return super().training_step(model, inputs, num_items_in_batch)

    monkeypatch.setattr(sft, "VerifierSFTTrainer", Watched)
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", epochs=1, batch_size=3, cpu=True)
    model = train_sft(stage, quadruples)
    tokenizer = TransformersVLM.load(model).processor.tokenizer
    contexts = {q.context.sample.id: q.context for q in quadruples}
    wanted = [trace_text(q, "both", "compact") for q in quadruples]
    wanted += [write_principles(context.principles, "compact") for context in contexts.values()]
    assert sorted(tokenizer.decode(row) for row in seen) == sorted(f"{text}<|im_end|>\n" for text in wanted)
    assert weights(model)["visual.merger.mlp.0.weight"].dtype == torch.bfloat16  # as asked for on disk


@pytest.mark.parametrize("mode", ["think", "verify", "both"])
def test_targets_are_projected_onto_the_mode(quadruples: list[Quadruple], mode: str) -> None:
    for quadruple in quadruples[:2]:
        outcome = parse_trace(trace_text(quadruple, mode, "compact"), quadruple.context.principles, mode)
        assert isinstance(outcome, Trace)
        assert outcome.score == quadruple.target.score
        assert (outcome.verdicts is None) == (mode == "think")


def test_bad_targets_are_refused(checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact")
    with pytest.raises(ValueError, match="no quadruples"):
        train_sft(stage, [])
    with pytest.raises(ValueError, match="has no target trace"):
        train_sft(stage, [replace(quadruples[0], target=None)])
    context = quadruples[0].context
    held_out = replace(context, sample=replace(context.sample, split="test"))
    with pytest.raises(ValueError, match="is of split 'test'"):
        train_sft(stage, [replace(quadruples[0], context=held_out)])
    with pytest.raises(ValueError, match="no verdicts"):
        train_sft(stage, [replace(quadruples[0], target=Trace("1 was a, now b\n<score>5.0</score>", 5.0, None))])
    broken = replace(quadruples[0].target, text="<score>8.0</score>")
    with pytest.raises(ValueError, match="cannot be parsed"):
        train_sft(stage, [replace(quadruples[0], target=broken)])
    assert not (tmp_path / "run").exists()


def test_time_is_a_limit_too(checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", steps=1000, batch_size=2,
                     max_seconds=0.001, log_every=1, cpu=True)  # fmt: skip
    train_sft(stage, quadruples)
    assert [line["step"] for line in read_curves(tmp_path / "run/curves.jsonl")] == [1]


def test_the_last_step_is_logged_and_on_the_card(checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", steps=3, batch_size=2, log_every=2,
                     cpu=True)  # fmt: skip
    card = (train_sft(stage, quadruples) / "README.md").read_text()
    assert [line["step"] for line in read_curves(tmp_path / "run/curves.jsonl")] == [1, 2, 3]
    assert "Steps: 3." in card


def test_lora_trains_the_language_model_alone_and_is_merged(
    checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path
) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", steps=2, batch_size=2, warmup_steps=0,
                     learning_rate=1e-2, lora_rank=2, stored="fp32", cpu=True)  # fmt: skip
    before, after = weights(checkpoint), weights(train_sft(stage, quadruples))
    assert set(before) == set(after)
    killed = replace(stage, out=str(tmp_path / "killed"), save_every=1, log_every=1)
    with pytest.raises(Killed):
        train_sft(killed, quadruples, progress=kill_at(2))
    assert RunFolder(tmp_path / "killed").checkpoint().name == "checkpoint-1"
    resumed = weights(train_sft(killed, quadruples, resume=True))
    assert all(torch.equal(after[name], resumed[name]) for name in after)
    changed = {name for name in before if not torch.equal(before[name].float(), after[name])}
    assert changed
    assert all("layers" in name and name.endswith("_proj.weight") for name in changed)


def test_muon_trains_and_resumes_exactly(checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", steps=3, batch_size=2, warmup_steps=0,
                     learning_rate=1e-2, optimizer="muon", log_every=1, stored="fp32", cpu=True)  # fmt: skip
    whole = weights(train_sft(stage, quadruples))
    killed = replace(stage, out=str(tmp_path / "killed"), save_every=1)
    with pytest.raises(Killed):
        train_sft(killed, quadruples, progress=kill_at(2))
    resumed = weights(train_sft(killed, quadruples, resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    adamw = weights(train_sft(replace(stage, out=str(tmp_path / "adamw"), optimizer="adamw"), quadruples))
    assert any(not torch.equal(whole[name], adamw[name]) for name in whole)


def test_weights_are_fp32_whatever_is_stored(checkpoint: Path) -> None:
    model, _ = load_trainable(str(checkpoint), freeze_vision=True, max_pixels=0)
    require_fp32(model)
    assert {weight.requires_grad for name, weight in model.named_parameters() if ".visual." in name} == {False}
    with pytest.raises(ValueError, match="bf16 swallows"):
        require_fp32(model.to(torch.bfloat16))
    assert lora_config(0) is None


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_opened(
    quadruples: list[Quadruple], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/deep/run"):
        stage = SFTStage(str(tmp_path / "no model"), str(tmp_path / out), variant="compact")
        with pytest.raises(ValueError, match="file is no folder that can be written to: choose another"):
            train_sft(stage, quadruples)


def test_a_missing_model_is_one_clear_line(quadruples: list[Quadruple], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        train_sft(SFTStage(str(tmp_path / "nowhere"), str(tmp_path / "run"), variant="compact"), quadruples)
    assert not (tmp_path / "run").exists()


def test_the_config_is_small_and_checked() -> None:
    assert len(fields(SFTStage)) <= 25
    with pytest.raises(ValueError, match="learning_rate=0"):
        SFTStage("m", "o", learning_rate=0)
    with pytest.raises(ValueError, match="lora_rank=-1"):
        SFTStage("m", "o", lora_rank=-1)


@pytest.mark.parametrize("variant", ["compact", "full"])
def test_decomposition_is_asked_as_a_scorer_asks(quadruples: list[Quadruple], variant: Variant) -> None:
    """The prompt of the second task is that of `Verifier.principles`, worked examples included."""
    context = quadruples[0].context
    asked: list[Request] = []

    class Recorder:
        name, simulated = "recorder", False

        def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
            asked.extend(requests)
            return [[Completion(write_principles(context.principles, variant), 1, "stop")] for _ in requests]

    Verifier(Recorder(), variant=variant).principles([context.sample.source], context.sample.instruction)
    messages, pictures = decompose_messages(context, variant)
    assert messages == to_messages(asked[0])
    assert len(pictures) == len(asked[0].images) == 1


def test_rows_are_told_apart_by_what_their_pictures_are_scaled_to(quadruples: list[Quadruple]) -> None:
    """Of pictures that are scaled down to one size none is longer."""

    def length(side: int, max_pixels: int) -> int:
        blank = encode_png(np.zeros((side, side, 3), np.uint8))
        context = quadruples[0].context
        large = replace(
            quadruples[0],
            context=replace(context, sample=replace(context.sample, source=blank)),
            candidate=replace(quadruples[0].candidate, image=blank),
        )
        stage = SFTStage("m", "o", variant="compact", decompose=False, max_pixels=max_pixels)
        (length,) = sft._Rows(stage, [large]).lengths
        return length

    assert length(2048, 0) == length(1024, 0) > length(512, 0) > length(64, 0)
    assert length(2048, 512 * 512) == length(512, 512 * 512) == length(512, 0)


def test_a_mapped_dataset_trains_the_same(
    checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path, sft_settings: dict
) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "list"), **{**sft_settings, "steps": 4, "decompose": True})
    own = weights(train_sft(stage, quadruples))
    write_dataset(tmp_path, "selected", quadruples, QUADRUPLES)
    mapped = open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    ahead = replace(stage, out=str(tmp_path / "mapped"), machine=MachineSettings(row_workers=2))
    others = weights(train_sft(ahead, mapped))
    assert all(torch.equal(own[name], others[name]) for name in own)
    cards = [(tmp_path / name / "data_card.md").read_text() for name in ("list", "mapped")]
    assert cards[0] == cards[1]
    replayed = [Replay(rows, 6, "verify", "compact", seed=3).identity for rows in (quadruples, mapped)]
    assert replayed[0] == replayed[1]


def test_the_identity_of_rows_one_by_one_is_that_of_all() -> None:
    """As runs of earlier versions have it in their stage.json."""
    rows = [("a", 'b "c"'), ("d", "é\n"), ("e",)]
    for count in range(4):
        digest = IdentityHash()
        for row in rows[:count]:
            digest.update(row)
        whole = hashlib.sha256(json.dumps([list(row) for row in rows[:count]]).encode()).hexdigest()
        assert digest.hexdigest() == whole == identity_hash(rows[:count])


def test_rows_prepared_ahead_are_the_same(
    checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path, sft_settings: dict
) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "own"), **{**sft_settings, "steps": 4, "decompose": True})
    own = weights(train_sft(stage, quadruples))
    ahead = replace(stage, out=str(tmp_path / "ahead"), machine=MachineSettings(row_workers=2))
    others = weights(train_sft(ahead, quadruples))
    assert all(torch.equal(own[name], others[name]) for name in own)
    with pytest.raises(ValueError, match="row_workers=-1"):
        MachineSettings(row_workers=-1)
