from __future__ import annotations

import json

import pytest
import torch

from edit_r1.editors.flux2_klein import Flux2KleinEditor
from edit_r1.editors.flux_kontext import FluxKontextEditor
from edit_r1.editors.load import open_editor
from edit_r1.editors.qwen_image_edit import QwenImageEditor


def test_the_index_says_which_editor_it_is(kontext_pipeline, qwen_pipeline, klein_pipeline, tmp_path):
    made = {
        "kontext": (kontext_pipeline(), FluxKontextEditor),
        "qwen": (qwen_pipeline(), QwenImageEditor),
        "plus": (qwen_pipeline(plus=True), QwenImageEditor),
        "klein": (klein_pipeline(), Flux2KleinEditor),
    }
    for name, (pipeline, kind) in made.items():
        pipeline.save_pretrained(tmp_path / name)
        editor = open_editor(tmp_path / name, dtype=torch.bfloat16, steps=3, guidance=2.0, area=64 * 64, batch_size=2)
        assert type(editor) is kind and type(editor.pipeline) is type(pipeline) and editor.name == name
        assert (editor.settings.steps, editor.settings.guidance, editor.settings.batch_size) == (3, 2.0, 2)
        assert editor.settings.max_area == 4096 if name == "kontext" else editor.settings.area == 4096
        assert editor.transformer.dtype == torch.bfloat16
    assert open_editor(tmp_path / "qwen", name="own").name == "own"


def test_other_folders_are_refused_with_the_pipelines_that_are_known(tmp_path):
    with pytest.raises(ValueError, match=r"model_index\.json"):
        open_editor(tmp_path / "nothing")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ValueError, match=r"holds a StableDiffusionPipeline: .*FluxKontextPipeline, QwenImageEdit"):
        open_editor(tmp_path)
