"""An installation without any extra: what docs/score.md promises it works there, and the rest names its extra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.images import encode_png
from edit_r1.records import CATEGORIES
from edit_r1.verifier.traces import write_trace

PROGRAM = """
import json, sys

MISSING = set(json.loads(sys.argv[1]))

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
from edit_r1.cli import main

for words in json.loads(sys.argv[2]):
    try:
        main(words)
    except SystemExit as ended:
        print("\\ncode", ended.code, flush=True)
"""
MISSING = [
    "torch", "torchvision", "transformers", "diffusers", "accelerate", "peft", "safetensors", "tokenizers",
    "huggingface_hub", "sentencepiece", "trl", "datasets", "matplotlib", "skimage", "ray", "vllm", "fastapi", "uvicorn",
    "starlette", "pydantic", "prometheus_client", "swagger_ui", "bitsandbytes", "scipy",
]  # fmt: skip


def run(*commands: tuple[str | Path, ...]) -> tuple[list[int], str, str]:
    """Exit codes, stdout and stderr of commands, one after the other."""
    asked = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(MISSING), asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("code ")]
    assert len(codes) == len(commands)
    return codes, done.stdout, done.stderr


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two of EditWorld's samples."""
    folder = tmp_path / "samples"
    codes, _, _ = run(("world", "sample", "--out", folder, "--count", "1"))
    assert codes == [0]
    return folder


def test_an_endpoint_needs_no_extra(tmp_path: Path, samples: Path, fake_openai: Any) -> None:
    trace = write_trace(["seen", None, None], [1, 1, 0], 6.5, "both", "compact")
    rules = json.dumps([{"question": f"Is it right ({one})?", "category": one} for one in CATEGORIES])
    server = fake_openai(lambda body, number: trace if len(pictures(body)) > 1 else rules)
    picture = tmp_path / "a.png"
    picture.write_bytes(encode_png(np.zeros((16, 16, 3), np.uint8)))
    edits = tmp_path / "edits.jsonl"
    row = {"source": "a.png", "edited": "a.png", "instruction": "make it red"}
    edits.write_text(json.dumps(row))
    where = ("-i", "make it red", "--endpoint", server.url, "--model", "m", "--variant", "compact")
    many = ("--endpoint", server.url, "--model", "m", "--variant", "compact")
    codes, out, err = run(
        ("principles", picture, *where),
        ("score", picture, picture, *where, "--html", tmp_path / "page.html"),
        ("rank", picture, picture, picture, *where),
        ("score-many", edits, "--out", tmp_path / "scores.jsonl", *many),
        ("score-many", edits, "--out", tmp_path / "scores.parquet", *many),
    )
    assert codes == [0, 0, 0, 0, 0], err
    assert out.count("1 edits: 1 scored") + out.count("1 edit: 1 scored") == 2 and (tmp_path / "page.html").exists()


def pictures(body: dict[str, Any]) -> list[Any]:
    return [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]


def test_what_needs_an_extra_says_which(tmp_path: Path, samples: Path) -> None:
    row = json.loads((samples / "samples.jsonl").read_text().splitlines()[0])
    pair = [samples / row[name] for name in ("source", "edited")]
    codes, _, err = run(
        ("score", *pair, "-i", row["instruction"]),
        ("score-many", samples, "--out", tmp_path / "scores.jsonl"),
        ("score", *pair, "-i", "x", "--model", samples),
        ("serve", "--port", "0"),
        ("demo", "--out", tmp_path / "demo"),
    )
    assert codes == [1] * 5, err
    told = err.splitlines()
    assert len(told) == 5, err
    assert all("pip install 'edit-r1[" in line for line in told), err
