"""Principles for pairs without any, written by a model behind a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.cli import main
from edit_r1.preferences.principles import write_principles
from edit_r1.records import Preference, Principle
from edit_r1.store import PREFERENCES, read_dataset
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.errors import ModelError

Make = Callable[..., Preference]
LIST = json.dumps([{"question": f"Is point {n} met?", "category": "Instruction Following"} for n in range(3)])


def open_at(url: str) -> Verifier:
    from edit_r1.vlm.openai import OpenAIVLM

    return Verifier(OpenAIVLM(url, "fake"), cache=None)


def test_each_context_is_asked_about_once_and_failures_are_left_out(
    tmp_path: Path, prefer: Make, dataset: Callable[..., Path], fake_openai: Callable[..., Any]
) -> None:
    given = prefer(1, 2, context=1002)
    own = (Principle("Was it there?", "Image Quality"),)
    given = replace(given, context=replace(given.context, principles=own, decomposer="data"))
    rows = [prefer(1, 2), prefer(2, 3, "same"), prefer(1, 2, context=1001), prefer(3, 4, context=1001), given]
    server = fake_openai(lambda body, _: "no list" if "Make it 1001." in json.dumps(body) else LIST)
    with open_at(server.url) as verifier:
        told = write_principles(dataset(*rows), tmp_path / "out", verifier)
    assert (told.rows, told.written, told.contexts, told.failed) == (5, 3, 2, 1) and told.reason
    found = read_dataset(tmp_path, "out", PREFERENCES)
    assert [len(row.context.principles) for row in found] == [3, 3, 1]
    assert [row.context.decomposer for row in found] == ["fake", "fake", "data"]
    assert [row.choice for row in found] == ["first", "same", "first"]
    assert len(server.bodies) == 3  # what cannot be read is drawn once more


def test_a_silent_server_leaves_nothing(
    tmp_path: Path, prefer: Make, dataset: Callable[..., Path], fake_openai: Callable[..., Any], reply: Any
) -> None:
    server = fake_openai(lambda body, _: reply({"error": {"message": "no such model"}}, status=404))
    with open_at(server.url) as verifier, pytest.raises(ModelError, match="no principles"):
        write_principles(dataset(prefer(1, 2)), tmp_path / "out", verifier)
    server = fake_openai(lambda body, _: "mumble")
    with open_at(server.url) as verifier, pytest.raises(ValueError, match="no pair got principles"):
        write_principles(tmp_path / "pairs", tmp_path / "out", verifier)
    assert not (tmp_path / "out").exists()


def test_the_command(
    tmp_path: Path, prefer: Make, dataset: Callable[..., Path], fake_openai: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = dataset(prefer(1, 2))
    with pytest.raises(SystemExit) as ended:
        main(["preferences", "principles", str(folder), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and "needs a model" in capsys.readouterr().err
    server = fake_openai(lambda body, _: LIST)
    flags = ["--endpoint", server.url, "--model", "fake", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["preferences", "principles", str(folder), "--out", str(tmp_path / "out"), *flags])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    assert json.loads(out)["written"] == 1
