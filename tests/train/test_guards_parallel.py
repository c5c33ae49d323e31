"""A guard's decision holds for every process: both stop after the same iteration, as one process alone does."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import CATEGORIES, Context, Judgment, Principle, Sample
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.guards import Guard, GuardSettings
from edit_r1.train.processes import in_processes
from edit_r1.train.rewards import CombinedReward, RewardSettings
from edit_r1.train.verifier_run import Progress
from edit_r1.verifier.scoring import ScoreItem

STAGE = changed(EditorRLStage(),
    steps=5, contexts_per_step=2, group_size=3, sampling_steps=3, trained_steps=1, lora_rank=0, learning_rate=1e-3,
    train_batch=3, sample_batch=3, kl_beta=0.0, save_every=1,
)  # fmt: skip


class Brightness:
    """A judge that pays for brightness, by each category."""

    identity = "brightness"
    apart = True

    def judge(self, items: Sequence[ScoreItem]) -> list[Judgment]:
        shares = [float(decode_rgb(item.edited).mean()) / 255 for item in items]
        return [Judgment(10 * s, 1, 0, None, (), dict.fromkeys(CATEGORIES, s), "b", 0.0) for s in shares]

    def close(self) -> None: ...


def _contexts(count: int) -> list[Context]:
    rng = np.random.default_rng(0)
    principles = (Principle("?", CATEGORIES[0]),)
    return [
        Context(Sample(f"s{i}", encode_png(rng.integers(0, 256, (16, 16, 3), np.uint8)), "do it", ""), principles, "t")
        for i in range(count)
    ]


def _train(model: Path, out: Path, *, progress: Progress | None) -> Path:
    editor = FluxKontextEditor.from_pretrained(model, FluxKontextSettings(steps=3))
    looks = iter(range(1000))

    def trained(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
        """What the guard is told: always better. Called in the first process alone."""
        look = next(looks)
        return [float(look) + place / 10 for place in range(len(images))]

    fallen = iter([9.0, 8.0, 7.0, 6.0, 5.0])

    def heldout(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
        value = next(fallen)
        return [value] * len(images)

    contexts = _contexts(5)
    reward = CombinedReward(Brightness(), RewardSettings(value="categories"))
    guard = Guard(GuardSettings(contexts=2, validate_every=1, window=1), trained, contexts[3:], heldout)
    done = train_editor(STAGE, editor, contexts[:3], reward, out, resume=True, guard=guard)
    assert done.stopped and done.steps == 2  # in every process; an error in one would end all
    return Path(done.result)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(__file__).parent.parent / "editors" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_kontext", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("model")
    module.make_kontext_pipeline(False).save_pretrained(folder)
    return folder


def test_two_processes_stop_as_one(tmp_path: Path, model: Path) -> None:
    lines = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        in_processes(count, partial(_train, model, out))
        lines[count] = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
        assert len(list((out / "validation").glob("*.png"))) == 3
    alone, together = lines[1], lines[2]
    assert [(line["kind"], line["step"]) for line in alone] == [(line["kind"], line["step"]) for line in together]
    for one, two in zip(alone, together, strict=True):
        assert one["guard"].keys() == two["guard"].keys()
        for name, value in one["guard"].items():
            assert two["guard"][name] == (None if value is None else pytest.approx(value, abs=0.05))
        assert [alert["name"] for alert in one["alerts"]] == [alert["name"] for alert in two["alerts"]]
        if one["kind"] == "step":
            assert two["reward_parts"] == pytest.approx(one["reward_parts"], abs=1e-3)
