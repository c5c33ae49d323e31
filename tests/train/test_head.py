"""The discriminative head on a real, tiny Qwen2.5-VL: it learns an order, resumes exactly, and opens as a judge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from edit_r1.cli import main
from edit_r1.evaluate.judges import cache_identity, judge_kind, open_judge
from edit_r1.records import Preference, Quadruple
from edit_r1.store import PREFERENCES, write_dataset
from edit_r1.train import gcpo, head, sft
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage
from edit_r1.train.head import HeadStage, bradley_terry_loss, train_head
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.verifier_run import read_curves
from edit_r1.verifier.cards import read_card
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.head_judge import HeadJudge, head_request, score_of
from edit_r1.verifier.items import ScoreItem
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm import scalar_head
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.scalar_head import MARKER, WEIGHTS, ScalarVLM, encode
from edit_r1.vlm.transformers import TransformersVLM

SETTINGS: dict[str, Any] = {
    "steps": 12, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 1, "schedule": "constant", "stored": "fp32",
    "log_every": 4, "save_every": 6, "cpu": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(checkpoint: Path, preferences: list[Preference], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("head") / "run"
    return train_head(HeadStage(str(checkpoint), str(out), **SETTINGS), preferences)


def items(preferences: list[Preference]) -> list[ScoreItem]:
    return [
        ScoreItem((one.context.sample.source,), candidate.image, one.context.sample.instruction)
        for one in preferences
        for candidate in (one.winner, one.loser)
        if candidate is not None
    ]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=6), st.floats(0, 1))
def test_the_loss_is_bradley_terrys(rows: list[tuple[float, float]], center: float) -> None:
    expected = sum(-math.log(1 / (1 + math.exp(loser - winner))) for winner, loser in rows) / len(rows)
    expected += center * sum((winner + loser) ** 2 for winner, loser in rows) / len(rows)
    winners, losers = (torch.tensor(side, dtype=torch.float64) for side in zip(*rows, strict=True))
    assert float(bradley_terry_loss(winners, losers, center)) == pytest.approx(expected)


def test_it_learns_the_order_and_keeps_the_layout(
    trained: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    names = ["curves.jsonl", "data_card.md", "model", "stage.json"]
    assert sorted(path.name for path in trained.parent.iterdir()) == names
    card = (trained / "README.md").read_text()
    assert "a scalar head, trained by Bradley-Terry" in card and "8 preference pairs" in card
    assert "share of training pairs in the right order" in card and str(trained.parent) not in card
    curve = read_curves(trained.parent / "curves.jsonl")
    assert curve[-1]["accuracy"] > 0.9 and curve[-1]["loss"] < curve[0]["loss"]
    assert {MARKER, WEIGHTS, "model.safetensors", "config.json"} <= {path.name for path in trained.iterdir()}
    assert load_file(trained / "model.safetensors").keys() == load_file(checkpoint / "model.safetensors").keys()
    TransformersVLM.load(trained)  # the backbone is a plain checkpoint, all its weights there
    judge = HeadJudge(ScalarVLM.load(trained))
    judgments = judge.score_many(items(preferences))
    scores = [judgment.score for judgment in judgments]
    assert all(score is not None and 0 < score < 10 for score in scores)
    right = [winner > loser for winner, loser in zip(scores[::2], scores[1::2], strict=True)]  # type: ignore[operator]
    assert sum(right) > 0.9 * len(right)
    assert (judgments[0].principles, judgments[0].prompts, judgments[0].traces) == ((), "head-1", 1)


def test_one_score_is_not_trained_on_several_aspects(checkpoint: Path, preferences: list[Preference]) -> None:
    mixed = [replace(preferences[0], aspect="consistency"), *preferences[1:]]
    with pytest.raises(ValueError, match="compared by consistency, the whole edit: one score is trained"):
        train_head(HeadStage(str(checkpoint), "/nowhere", **SETTINGS), mixed)


def test_a_batch_does_not_change_a_score(trained: Path, preferences: list[Preference]) -> None:
    model = ScalarVLM.load(trained, batch_size=5)
    requests = [head_request(item.sources, item.edited, item.instruction) for item in items(preferences)]
    requests.append(head_request([requests[0].images[0]], requests[0].images[0], "a much longer instruction " * 4))
    together = model.logits(requests)
    alone = [model.logits([request])[0] for request in requests]
    assert together == pytest.approx(alone, abs=1e-4)
    inputs = encode(model.vlm.processor, requests)
    assert (inputs["attention_mask"][:, -1] == 1).all()  # padded on the left: the last place is the last token


def test_a_stopped_run_goes_on_to_the_same_weights(
    trained: Path, checkpoint: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int, logged: object) -> None:
        if done == 8:
            raise Killed

    stage = HeadStage(str(checkpoint), str(tmp_path / "run"), **SETTINGS)
    with pytest.raises(Killed):
        train_head(stage, preferences, progress=kill)
    with pytest.raises(ValueError, match="resume it"):
        train_head(stage, preferences)
    model = train_head(stage, preferences, resume=True)
    for file in (WEIGHTS, "model.safetensors"):
        ours, theirs = load_file(model / file), load_file(trained / file)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert train_head(stage, preferences, resume=True) == model


def test_lora_is_merged(checkpoint: Path, preferences: list[Preference], tmp_path: Path) -> None:
    stage = HeadStage(
        str(checkpoint), str(tmp_path / "run"), **{**SETTINGS, "steps": 3, "lora_rank": 4, "accumulate": 2}
    )
    model = train_head(stage, preferences)
    before, after = load_file(checkpoint / "model.safetensors"), load_file(model / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name].float(), after[name])}
    assert changed and all("proj" in name and "visual" not in name for name in changed)
    assert len(HeadJudge(ScalarVLM.load(model)).score_many(items(preferences)[:2])) == 2


def test_only_evaluations_open_it(trained: Path, tmp_path: Path) -> None:
    assert judge_kind(ModelChoice(model=str(trained))) == "head"
    with pytest.raises(ValueError, match="leave --judge holistic out"):
        judge_kind(ModelChoice(model=str(trained)), "holistic")
    for refused in (read_card, Verifier.load):
        with pytest.raises(ModelError, match="no checklist"):
            refused(trained)
    with pytest.raises(ValueError, match="no checklist"):
        train_head(HeadStage(str(trained), str(tmp_path / "again"), **SETTINGS), build(1))
    with pytest.raises(ValueError, match="on one device"):
        open_judge(ModelChoice(model=str(trained), device="cpu,cpu"), "head")


def build(count: int) -> list[Preference]:
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_preferences(count)  # type: ignore[no-any-return]


def test_damage_is_told(trained: Path, checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    for number, (name, data) in enumerate([(MARKER, b"{}"), (MARKER, b"["), (WEIGHTS, b"x"), (WEIGHTS, None)]):
        folder = tmp_path / str(number)
        shutil.copytree(trained, folder)
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
        with pytest.raises(ModelError, match="train it anew"):
            ScalarVLM.load(folder)


def test_identities_tell_judges_apart(trained: Path, checkpoint: Path) -> None:
    plain, head = ModelChoice(model=str(checkpoint)), ModelChoice(model=str(trained))
    found = [
        cache_identity(plain, "checklist"),
        cache_identity(plain, "holistic"),
        cache_identity(ModelChoice(model=str(checkpoint), mode="verify"), "checklist"),
        cache_identity(ModelChoice(model=str(checkpoint), dtype="bfloat16"), "holistic"),
        cache_identity(ModelChoice(model=str(checkpoint), endpoint="http://127.0.0.1:1"), "checklist"),
        cache_identity(head, "head"),
    ]
    assert len(set(found)) == len(found)
    assert cache_identity(ModelChoice(model=str(checkpoint), device="cuda", concurrency=3), "holistic") == found[1]


def test_a_bad_item_costs_no_neighbour(trained: Path, preferences: list[Preference]) -> None:
    good = items(preferences)[0]
    judge = HeadJudge(ScalarVLM.load(trained))
    first, second = judge.score_many([ScoreItem((b"nothing",), good.edited, "x"), good])
    assert first.score is None and second.score is not None
    with pytest.raises(ValueError, match="traces=2"):
        judge.score_many([good], traces=2)


def test_the_score_is_ten_times_the_sigmoid() -> None:
    for logit in (-800.0, -3.0, 0.0, 0.5, 800.0):
        assert score_of(logit) == pytest.approx(10 / (1 + math.exp(-logit)) if logit > -700 else 0)


def test_train_and_evaluate_from_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, "pairs", build(10), PREFERENCES)
    (tmp_path / "recipe.py").write_text(
        "from edit_r1.recipes.run import HeadRecipe\nfrom edit_r1.train.head import HeadStage\n"
        f"STAGE = HeadStage({str(checkpoint)!r}, 'out', cpu=True)\n"
        f"def head():\n    return HeadRecipe({str(tmp_path / 'pairs')!r}, STAGE)\n"
    )
    flags = ["--steps", "10", "--batch-size", "4", "--learning-rate", "5e-3", "--warmup-steps", "1"]
    commands = [
        ["train", "head", f"{tmp_path}/recipe.py:head", "--out", str(tmp_path / "run"), *flags],
        ["evaluate", "reward", "--data", str(tmp_path / "pairs"), "--model", str(tmp_path / "run/model"), "--json",
         "--cache", str(tmp_path / "cache")],
    ]  # fmt: skip
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main(command)
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
    document = json.loads(out)
    assert document["judge"]["kind"] == "head"
    assert (document["pairs"], document["unparsed"]) == (8, 0)
    assert document["official"] > 0.5
    with pytest.raises(SystemExit) as ended:
        main([*commands[1], "--traces", "2"])
    assert ended.value.code == 1
    assert "samples nothing" in capsys.readouterr().err


@pytest.mark.parametrize("fits", [2, 1, 0])
def test_a_batch_that_memory_does_not_hold_is_halved(
    trained: Path, preferences: list[Preference], monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    judge = HeadJudge(ScalarVLM.load(trained))
    wanted = [one.score for one in judge.score_many(items(preferences))]
    whole, refused = scalar_head.last_hidden_BD, []

    def sparing(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if len(inputs["input_ids"]) > fits:
            refused.append(len(inputs["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return whole(model, inputs)

    monkeypatch.setattr(scalar_head, "last_hidden_BD", sparing)
    found = judge.score_many(items(preferences))
    assert refused
    if fits:
        assert [one.score for one in found] == pytest.approx(wanted, abs=1e-5)
    else:
        assert all("out of memory (CUDA out of memory. Tried to allocate 2 GiB)" in str(one) for one in found)


@pytest.mark.parametrize("stage", ["sft", "gcpo", "head"])
def test_one_process_that_sees_several_gpus_is_refused(
    stage: str, checkpoint: Path, quadruples: list[Quadruple], preferences: list[Preference], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Before a model is opened: transformers would wrap it in `nn.DataParallel`."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for module in (sft, gcpo, head):
        monkeypatch.setattr(module, "load_trainable", lambda *_: pytest.fail("the model was opened"))
    out = str(tmp_path / "run")
    work: dict[str, Callable[[], Path]] = {
        "sft": lambda: train_sft(SFTStage(str(checkpoint), out, variant="compact"), quadruples),
        "gcpo": lambda: train_gcpo(GCPOStage(str(checkpoint), out, variant="compact", pairs_per_step=4), preferences),
        "head": lambda: train_head(HeadStage(str(checkpoint), out), preferences),
    }
    with pytest.raises(ValueError, match=r"sees 2 GPUs: start one for each \(torchrun --nproc-per-node 2"):
        work[stage]()
