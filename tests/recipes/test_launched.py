"""`edit-r1 train editor` as people start it: alone, under torchrun and under accelerate launch."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from edit_r1.images import encode_png

pytestmark = pytest.mark.timeout(600)
"""Each launch imports everything again, once per process."""
HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny random Kontext, and a folder of three edits with principles."""
    root = tmp_path_factory.mktemp("launched")
    spec = importlib.util.spec_from_file_location("tiny_kontext", HERE.parent / "editors" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_kontext_pipeline(False).save_pretrained(root / "model")
    (root / "data").mkdir()
    rng = np.random.default_rng(0)
    principles = [{"question": "Is it bright?", "category": "Instruction Following"}]
    lines = []
    for name in "abc":
        (root / "data" / f"{name}.png").write_bytes(encode_png(rng.integers(0, 256, (16, 16, 3), np.uint8)))
        row = {"id": name, "source": f"{name}.png", "instruction": "make it bright", "principles": principles}
        lines.append(json.dumps(row))
    (root / "data" / "edits.jsonl").write_text("\n".join(lines))
    return root


def _run(folder: Path, launcher: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    told = {"EDIT_R1_TEST_FOLDER": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    command = [*launcher, "-m", "edit_r1", "train", "editor", f"{HERE / 'launched_recipe.py'}:tiny", *flags]
    return subprocess.run(
        command, env={**kept, **told}, cwd=folder, capture_output=True, text=True, timeout=290, check=False
    )


def _torchrun() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(port),
    ]  # fmt: skip


def _accelerate() -> list[str]:
    ports = _torchrun()
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_ip", "127.0.0.1", "--main_process_port", ports[-1],
    ]  # fmt: skip


def _steps(out: Path) -> list[int]:
    lines = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "step"]


def test_two_processes_make_one_result_and_one_resumes_it(folder):
    out = folder / "torchrun"
    done = _run(folder, _torchrun(), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == [str(out / "adapter")] and done.stdout.count(str(out / "adapter")) == 1
    assert _steps(out) == [0]
    assert (done.stdout + done.stderr).count("TensorBoard is not installed") == (find_spec("tensorboard") is None)
    again = _run(folder, [sys.executable], "--out", str(out), "--resume", "--steps", "2", "--tracker")
    assert again.returncode == 0, again.stderr
    assert _steps(out) == [0, 1]
    card = (out / "adapter" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "model" and "lora" in front["tags"] and str(folder) not in card


def test_accelerate_launch(folder):
    out = folder / "accelerate"
    done = _run(folder, _accelerate(), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert _steps(out) == [0] and done.stdout.count(str(out / "adapter")) == 1


def test_a_mistake_is_told_once(folder):
    out = folder / "mistaken"
    done = _run(folder, _torchrun(), "--out", str(out), "--data", str(folder / "model" / "gone.jsonl"))
    assert done.returncode != 0 and done.stderr.count("no such file or folder: check the path") == 1
    assert not (out / "state").exists()
