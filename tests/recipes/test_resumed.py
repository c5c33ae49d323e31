"""What a resumed run may change, and what it is refused for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.editors.flux_kontext import FluxKontextSettings
from edit_r1.recipes.resumed import RECORD, check_resumed, shaping
from edit_r1.records import Context, Principle, Sample
from edit_r1.train.editor import train_editor
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.nft import train_nft
from edit_r1.train.rewards import RewardSettings

REWARD = RewardSettings(judge=JudgeSettings("http://10.0.0.7:8000/v1#edit-rrm"))


def _editor(folder: Path, weights: bytes = b"some") -> EditorCheckpoint:
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "model.safetensors").write_bytes(weights)
    return EditorCheckpoint(str(folder), FluxKontextSettings(max_area=4096), device="cpu")


def _shaping(load, algorithm=train_editor, reward=REWARD, heldout=None, share=0.25, question="Is it red?", seed=0):
    validation = [Context(Sample("v", b"picture", "make it red", ""), (Principle(question, "Image Quality"),), "t")]
    return shaping(algorithm, load, reward, heldout or JudgeSettings(), share, validation, seed)


def _judge(**changes):
    return replace(REWARD, judge=replace(REWARD.judge, **changes))


def test_where_things_are_and_how_fast_they_run_may_change(tmp_path):
    load = _editor(tmp_path / "a" / "editor")
    check_resumed(tmp_path, _shaping(load), False, True)
    moved = replace(_editor(tmp_path / "b" / "other"), device="cuda", name="x", waits=True)
    moved = replace(moved, settings=replace(moved.settings, batch_size=2, padding=0.0, offload_encoders=True))
    faster = replace(_judge(address="http://10.0.0.8:9000/v1#edit-rrm", concurrency=2, timeout_s=9.0), workers=3)
    faster = replace(faster, judge=replace(faster.judge, limit_key="max_completion_tokens"))
    check_resumed(tmp_path, _shaping(moved, reward=replace(faster, cache_entries=0)), True, True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm": train_nft}, "algorithm was 'edit_r1.train.editor.train_editor' and is 'edit_r1.train.nft"),
        (
            {"reward": _judge(address="http://10.0.0.7:8000/v1#base")},
            "judge was 'served:edit-rrm' and is 'served:base'",
        ),
        ({"reward": _judge(address="model@cuda:1")}, "is 'hub:model'"),
        ({"reward": _judge(traces=4)}, "judge.traces was 1 and is 4"),
        ({"reward": _judge(server_sampling=True)}, "judge.server_sampling was False and is True"),
        ({"reward": _judge(variant="compact")}, "judge.variant was None and is 'compact'"),
        ({"reward": replace(REWARD, value="verdicts")}, "reward.value was 'score' and is 'verdicts'"),
        ({"reward": replace(REWARD, weights=(1.0, 0.0, 0.0))}, "reward.weights was"),
        ({"share": 0.5}, "heldout_share was 0.25 and is 0.5"),
        ({"heldout": JudgeSettings("http://10.0.0.9:8500")}, "heldout was None and is 'served'"),
        ({"question": "Is it blue?"}, "validation was"),
        ({"seed": 1}, "guard.seed was 0 and is 1"),
    ],
)
def test_what_shapes_a_run_may_not_change(tmp_path, changes, told):
    load = _editor(tmp_path / "editor")
    check_resumed(tmp_path, _shaping(load), False, True)
    with pytest.raises(ValueError, match=f"was started with another recipe .*{told}.* or start in a new folder"):
        check_resumed(tmp_path, _shaping(load, **changes), True, True)


def test_another_base_model_is_found_by_its_weights(tmp_path):
    load = _editor(tmp_path / "a" / "editor")
    check_resumed(tmp_path, _shaping(load), False, True)
    with pytest.raises(ValueError, match="editor was 'files:"):
        check_resumed(tmp_path, _shaping(_editor(tmp_path / "b" / "editor", b"other")), True, True)
    smaller = replace(load, settings=replace(load.settings, max_area=1024))
    with pytest.raises(ValueError, match="settings.max_area was 4096 and is 1024"):
        check_resumed(tmp_path, _shaping(smaller), True, True)
    with pytest.raises(ValueError, match="editor was .* and is None"):
        check_resumed(tmp_path, _shaping(_editor), True, True)


def test_a_new_run_and_one_of_before_the_record_are_noted_by_the_first_process(tmp_path):
    check_resumed(tmp_path, {"a": 1}, False, False)
    assert not (tmp_path / RECORD).exists()
    check_resumed(tmp_path, {"a": 1}, True, True)
    check_resumed(tmp_path, {"a": 2}, False, True)  # begun anew
    check_resumed(tmp_path, {"a": 2}, True, True)
    with pytest.raises(ValueError, match="a was 2 and is 3"):
        check_resumed(tmp_path, {"a": 3}, True, False)
