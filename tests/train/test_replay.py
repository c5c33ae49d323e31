"""SFT's traces replayed beside GCPO's surrogate: which, with what loss, and the same over processes and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from edit_r1.records import Preference, Quadruple
from edit_r1.train.gcpo import build_trainer, train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.pairs import pairs_of
from edit_r1.train.processes import in_processes
from edit_r1.train.replay import Replay, learned_tokens, trace_loss
from edit_r1.train.settings import changed
from edit_r1.train.sft import trace_text
from edit_r1.train.verifier_run import RunFolder, judge_messages, read_curves


def stage_for(model: Path, out: Path, **changes: Any) -> GCPOStage:
    stage = GCPOStage(
        str(model), str(out), mode="verify", variant="compact", steps=1, pairs_per_step=3, traces=4,
        sampling=SamplingSettings(max_new_tokens=8), updates=GCPOUpdates(learning_rate=1e-3, micro_batch=4),
        stored="fp32", save_every=2, cpu=True,
    )  # fmt: skip
    return changed(stage, replay_weight=0.5, replay_traces=6, **changes)


def token_losses(checkpoint: Path, quadruple: Quadruple) -> torch.Tensor:
    """Negative log-likelihoods of a target's tokens, one example at a time, by the model's own forward."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(checkpoint)
    messages, images = judge_messages(quadruple.context, quadruple.candidate, "verify", "compact")
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    text = prompt + trace_text(quadruple, "verify", "compact") + "<|im_end|>\n"
    inputs = processor(text=[text], images=images, return_tensors="pt")
    count = inputs["input_ids"].size(1) - processor(text=[prompt], images=images)["input_ids"][0].__len__()
    with torch.no_grad():
        log_prob = model(**inputs).logits[0, -count - 1 : -1].log_softmax(-1)
    return -log_prob.gather(1, inputs["input_ids"][0, -count:, None]).squeeze(1)


def test_draws_depend_on_seed_and_update_alone_and_are_shared_out(quadruples: Sequence[Quadruple]) -> None:
    replay = Replay(quadruples, 6, "verify", "compact", seed=3)
    alone = [replay.rows(update, 0, 1) for update in range(20)]
    again = Replay(quadruples, 6, "verify", "compact", seed=3)
    assert [again.rows(update, 0, 2) + again.rows(update, 1, 2) for update in range(20)] == alone
    assert all(len(set(rows)) == 6 for rows in alone)
    assert {row for rows in alone for row in rows} == set(range(len(quadruples)))
    assert Replay(quadruples, 6, "verify", "compact", seed=4).rows(0, 0, 1) != alone[0]
    assert Replay(quadruples[1:], 6, "verify", "compact", seed=3).identity != replay.identity == again.identity


def test_the_loss_is_the_mean_over_traces_of_the_token_mean(
    wavering: Path, preferences: Sequence[Preference], quadruples: Sequence[Quadruple], tmp_path: Path
) -> None:
    """Six traces in forwards of four and two, against one example at a time."""
    stage = stage_for(wavering, tmp_path)
    replay = Replay(quadruples, 6, "verify", "compact", stage.seed)
    trainer = build_trainer(stage, pairs_of(preferences), RunFolder(tmp_path), replay=replay)
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
    parts = []
    for place in range(trainer.args.steps_per_generation):
        trainer._step = place
        parts.append(trainer._replay_loss(trainer.model))
    assert [part is not None for part in parts] == [True, True, False, False, False, False]
    expected = [token_losses(wavering, quadruples[row]).mean() for row in replay.rows(0, 0, 1)]
    assert sum(part.item() for part in parts if part is not None) == pytest.approx(float(sum(expected)) / 6, rel=1e-5)


def test_learned_tokens_end_where_the_batch_does() -> None:
    labels = torch.tensor([[-100, -100, 5, 6, -100], [-100, 7, 8, 9, -100]])
    length, mask = learned_tokens(labels)
    assert length == 4
    assert mask.tolist() == [[False, True, True, False], [True, True, True, False]]
    log_prob = torch.tensor([[-9.0, -1.0, -3.0, -9.0], [-1.0, -2.0, -6.0, -9.0]])
    assert trace_loss(log_prob, mask).item() == pytest.approx(2.0 + 3.0)


def test_without_an_advantage_an_update_is_the_replay_s_alone_in_one_process_and_in_two(
    wavering: Path, preferences: Sequence[Preference], quadruples: Sequence[Quadruple], tmp_path: Path
) -> None:
    """Traces of one token have no score, so that no ratio differs. AdamW's first step is the sign of the gradient."""
    results = []
    for name, processes in (("one", 1), ("two", 2)):
        stage = stage_for(wavering, tmp_path / name, max_new_tokens=1)
        model = in_processes(processes, partial(train_gcpo, stage, preferences, replay=quadruples), lambda *_: None)
        results.append(load_file(model / "model.safetensors"))
        (line,) = read_curves(tmp_path / name / "curves.jsonl")
        assert line["pairs_silent"] == 1 and line["replay_loss"] > 0
    before = load_file(wavering / "model.safetensors")
    one, two = results
    moved = torch.cat([(one[name] - before[name]).flatten() for name in before])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in before])
    assert moved.abs().max() > 5e-4
    assert (apart.abs() > 1e-5).float().mean() < 0.01  # where the gradient is rounding, its sign is too


def test_a_killed_run_resumes_to_the_same_weights(
    wavering: Path, preferences: Sequence[Preference], quadruples: Sequence[Quadruple], tmp_path: Path
) -> None:
    stage = stage_for(wavering, tmp_path / "run", steps=4)
    straight = load_file(train_gcpo(stage, preferences, replay=quadruples) / "model.safetensors")
    plain = train_gcpo(changed(replace(stage, out=str(tmp_path / "plain")), replay_weight=0.0), preferences)
    assert any(not torch.equal(straight[name], value) for name, value in load_file(plain / "model.safetensors").items())

    class Killed(Exception):
        pass

    def kill(done: int, total: int, logged: object) -> None:
        if done == 3:
            raise Killed

    again = replace(stage, out=str(tmp_path / "again"))
    with pytest.raises(Killed):
        train_gcpo(again, preferences, progress=kill, replay=quadruples)
    with pytest.raises(ValueError, match=r"other settings \(data\)"):
        train_gcpo(again, preferences, resume=True, replay=quadruples[:12])
    resumed = load_file(train_gcpo(again, preferences, resume=True, replay=quadruples) / "model.safetensors")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    card = (tmp_path / "run/model/README.md").read_text()
    assert "8 preference pairs and 24 quadruples" in card and "loss of a replayed token" in card


def test_weight_and_quadruples_go_together(
    wavering: Path, preferences: Sequence[Preference], quadruples: Sequence[Quadruple], tmp_path: Path
) -> None:
    stage = stage_for(wavering, tmp_path / "run")
    with pytest.raises(ValueError, match=r"replay_weight=0\.5 and nothing to replay"):
        train_gcpo(stage, preferences)
    with pytest.raises(ValueError, match=r"24 quadruples to replay, replay_weight=0"):
        train_gcpo(changed(stage, replay_weight=0.0), preferences, replay=quadruples)
    with pytest.raises(ValueError, match=r"4 quadruples, replay_traces=6"):
        train_gcpo(stage, preferences, replay=quadruples[:4])
    with pytest.raises(ValueError, match=r"replay_traces=25: at most the 24"):
        changed(stage, replay_traces=25)
    assert not (tmp_path / "run").exists()
