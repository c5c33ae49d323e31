"""The checks of an editor, on the packaged one and on broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edit_r1.doctor import editor as checks
from edit_r1.doctor.examples import photograph_examples, world_examples
from edit_r1.editors.flux_kontext import FluxKontextEditor
from edit_r1.images import decode_pil
from edit_r1.zoo.packaged import weights


@pytest.fixture(scope="module")
def opened() -> FluxKontextEditor:
    finding, editor = checks.load_editor(str(weights("editor")), "cpu", "float32")
    assert finding.status == "ok" and editor is not None
    return editor


def test_the_packaged_editor_passes_everything(opened: FluxKontextEditor) -> None:
    found = checks.examine_editor(opened, world_examples(1)[0])
    assert tuple(finding.name for finding in found) == checks.AFTER_LOADING
    assert [(finding.name, finding.status) for finding in found if finding.status != "ok"] == []
    assert found[-1].values == {"largest": 0, "mean": 0.0}
    assert found[1].values["attn.to_q"] > 0


def test_a_photograph_is_cropped_to_whole_tokens() -> None:
    pytest.importorskip("skimage")
    assert decode_pil(checks._cropped(photograph_examples()[0]).source).size == (256, 256)
    assert decode_pil(checks._cropped(world_examples(1)[0]).source).size == (64, 64)


def test_nan_weights_missing_targets_and_a_flat_picture_are_found(
    opened: FluxKontextEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "lora_targets", ("attn.to_q", "no.such.layer"))
    assert checks.lora_targets(opened).status == "warn"
    monkeypatch.setattr(opened, "lora_targets", ("no.such.layer",))
    assert checks.lora_targets(opened).status == "fail"
    bias = opened.pipeline.transformer.proj_out.bias
    kept = bias.detach().clone()
    bias[0] = torch.nan
    try:
        finding = checks.weights(opened)
        assert finding.status == "fail" and "transformer holds NaN" in finding.measured
        assert checks.one_edit(opened, checks._cropped(world_examples(1)[0])).status == "fail"
    finally:
        bias.copy_(kept)


def test_a_sampler_that_departs_from_diffusers_is_found(
    opened: FluxKontextEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = opened.schedule
    monkeypatch.setattr(opened, "schedule", lambda contexts, steps: schedule(contexts, steps + 1))
    finding = checks.same_as_diffusers(opened, checks._cropped(world_examples(1)[0]))
    assert finding.status == "fail" and finding.values["largest"] > 2


def test_foreign_and_missing_folders_are_told(tmp_path: Path) -> None:
    finding, editor = checks.load_editor(str(tmp_path / "missing"), "cpu", "float32")
    assert editor is None and finding.status == "fail" and finding.remedy
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "QwenImageEditPipeline"}))
    finding, editor = checks.load_editor(str(tmp_path), "cpu", "float32")
    assert editor is None and "QwenImageEditPipeline" in finding.measured
