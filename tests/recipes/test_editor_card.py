"""The card of a trained editor: facts of its run, front matter that the hub reads, code that loads it."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import encode_png
from edit_r1.recipes.run import EditorRecipe, run_training
from edit_r1.records import CATEGORIES, Judgment, PrincipleResult
from edit_r1.train import rewards
from edit_r1.train.editor_card import CardFacts, editor_card, plain, public_name
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.guards import GuardSettings
from edit_r1.train.trackers import TrackerSettings

STAGE = changed(
    EditorRLStage(), steps=2, contexts_per_step=2, group_size=2, sampling_steps=3, trained_steps=1, lora_rank=2,
    kl_beta=0.0,
)  # fmt: skip


class Judge:
    """Gives every edit of a run another score."""

    identity, apart = "judge", False

    def __init__(self) -> None:
        self.count = 0

    def judge(self, items):
        return [self._one(item) for item in items]

    def _one(self, item):
        self.count += 1
        results = tuple(PrincipleResult(one.question, one.category, 1.0, None) for one in item.principles)
        return Judgment(self.count % 7, 1, 0, None, results, dict.fromkeys(CATEGORIES, 1.0), "judge", 0.0)

    def close(self):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("card")
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "editors" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_kontext_pipeline(False).save_pretrained(root / "tiny-kontext")
    rows = []
    for name in "abc":
        (root / f"{name}.png").write_bytes(encode_png(np.full((16, 16, 3), 40 * ord(name) % 256, np.uint8)))
        principles = [{"question": "Is it red?", "category": "Instruction Following"}]
        rows.append({"source": f"{name}.png", "instruction": "make it red", "principles": principles})
    (root / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_trained_editor_has_a_card_whose_code_loads_it(folder, monkeypatch, kind):
    monkeypatch.setattr(rewards, "open_judge", lambda settings: Judge())
    recipe = EditorRecipe(
        data=str(folder / "edits.jsonl"), verifier=f"{folder}/secret/rrm", stage=replace(STAGE, save_as=kind),
        guard=GuardSettings(contexts=1, validate_every=0), out=str(folder / kind), heldout_share=0.0,
        load=partial(FluxKontextEditor.from_pretrained, folder / "tiny-kontext", FluxKontextSettings(steps=2)),
        tracking=TrackerSettings(tracker=()),
    )  # fmt: skip
    result = run_training("editor", recipe, resume=False)
    card = (result / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "tiny-kontext" and front["library_name"] == "diffusers" and "license" not in front
    assert front["base_model_relation"] == {"adapter": "adapter", "merged": "finetune"}[kind]
    assert "edit-r1" in front["tags"] and ("lora" in front["tags"]) == (kind == "adapter")
    assert str(folder) not in card and "Licence: not set" in card and "| training reward, mean" in card
    told = json.loads(card.split("```json\n")[1].split("```")[0])
    assert told["stage"]["lora_rank"] == 2 and told["verifier"] == "(folder)/rrm"
    assert told["train"] == "edit_r1.train.editor.train_editor" and set(told) == set(recipe.__dataclass_fields__)

    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(result)
    names: dict = {}
    exec(code.replace('"tiny-kontext"', repr(str(folder / "tiny-kontext"))), names)
    pipeline = names["pipeline"]
    assert type(pipeline).__name__ == "FluxKontextPipeline"
    assert bool(pipeline.get_active_adapters()) == (kind == "adapter")


def test_the_card_tells_first_and_last(tmp_path):
    lines = [
        {"kind": "evaluation", "step": 0, "oracle": 4.0},
        {"kind": "step", "step": 0, "reward_mean": None, "alerts": [{}]},
        {"kind": "step", "step": 1, "reward_mean": 5.0},
        {"kind": "validation", "step": 2, "reward_mean": 6.0, "heldout_mean": None},
        {"kind": "step", "step": 2, "reward_mean": 7.0},
        {"kind": "evaluation", "step": 3, "oracle": 4.5},
    ]
    facts = CardFacts("team/base", "FluxKontextPipeline", "merged", STAGE, "ab12", 9, tmp_path, 3, True)
    card = editor_card(facts, lines)
    for row in ("mean of an iteration | 5 | 7 |", "validation contexts | 6 | 6 |", "| oracle | 4 | 4.5 |", "| | 1 |"):
        assert row in card
    assert "A guard ended the run" in card and "`ab12`" in card and "# base, trained with edit-r1" in card
    assert "held-out reward on" not in card


def test_what_a_card_keeps_to_itself(tmp_path):
    assert public_name("team/base") == "team/base" and public_name(str(tmp_path)) == tmp_path.name
    assert plain({"a": Path("/home/me/rrm"), "b": "http://10.0.0.7:8000/v1#rrm", "c": (1, None, partial(max, 2))}) == {
        "a": "(folder)/rrm", "b": "http://(server)/v1#rrm",
        "c": [1, None, {"function": "builtins.max", "arguments": [2], "keywords": {}}],
    }  # fmt: skip
