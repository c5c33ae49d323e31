"""Who writes the principles that an editor's data lacks, and how it is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.images import encode_png
from edit_r1.recipes.editor_data import open_contexts
from edit_r1.recipes.run import with_flags
from edit_r1.records import CATEGORIES
from edit_r1.train.contexts import DataSettings
from edit_r1.train.data_parallel import ALONE
from edit_r1.train.judges import JudgeSettings


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps({"source": "a.png", "instruction": "make it red"}))
    return str(path)


def test_a_hosted_reasoning_model_writes_them_for_a_judge_that_is_asked_otherwise(
    data: str, tmp_path: Path, fake_openai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDIT_R1_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WRITER_KEY", "secret")
    rules = json.dumps([{"question": f"Is it {one}?", "category": one} for one in CATEGORIES])
    server = fake_openai(lambda body, number: rules)
    settings = DataSettings(
        principles_model=f"{server.url}#o9", principles_key_env="WRITER_KEY", principles_max_new_tokens=16000,
        principles_limit_key="max_completion_tokens", principles_server_sampling=True,
    )  # fmt: skip
    judge = JudgeSettings("http://127.0.0.1:9#never-asked")
    told: list[str] = []
    [context] = open_contexts(data, settings, judge, tmp_path, "data", ALONE, False, told.append)
    assert [one.category for one in context.principles] == list(CATEGORIES) and context.decomposer == "o9"
    [body] = server.bodies
    assert body.keys() == {"model", "messages", "max_completion_tokens"} and body["max_completion_tokens"] == 16000
    assert server.seen_headers[0]["authorization"] == "Bearer secret"


def test_settings_of_a_model_that_is_not_named_are_refused() -> None:
    for changes in (
        {"principles_server_sampling": True},
        {"principles_key_env": "A"},
        {"principles_max_new_tokens": 9},
    ):
        with pytest.raises(ValueError, match="are for a principles_model"):
            DataSettings(**changes)
    assert replace(DataSettings(), principles_model="a/model", principles_max_new_tokens=9).most_rows == 0


def test_every_setting_of_a_judge_is_a_flag() -> None:
    asked = [
        "--verifier", "https://example.org/v1#o9",
        "--reward.judge.limit-key", "max_completion_tokens",
        "--reward.judge.server-sampling",
        "--reward.judge.max-new-tokens", "16000",
        "--reward.judge.max-pixels", "262144",
        "--heldout.mode", "verify",
        "--heldout.variant", "compact",
        "--principles-model", "http://127.0.0.1:9/v1#o9",
        "--principles-limit-key", "max_completion_tokens",
    ]  # fmt: skip
    recipe = with_flags("editor", "tiny_editor_grpo", asked)
    judge = recipe.reward.judge
    assert (judge.limit_key, judge.server_sampling) == ("max_completion_tokens", True)
    assert (judge.max_new_tokens, judge.max_pixels) == (16000, 262144)
    assert (recipe.heldout.mode, recipe.heldout.variant) == ("verify", "compact")
    assert recipe.reading.principles_limit_key == "max_completion_tokens"
