"""A curation of one's own over endpoints starts without what training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RECIPE = """
from edit_r1.recipes.curation import HttpEditor, HttpEditorSettings, OpenAIVLM, cold_start, team_samples


def mine():
    model = OpenAIVLM("http://127.0.0.1:9/v1", "model", timeout_s=1.0, max_retries=0)
    editor = HttpEditor("http://127.0.0.1:9/v1", HttpEditorSettings(attempts=1), name="editor")
    return cold_start(team_samples("data"), model, editors=(editor,))
"""
COMMAND = """
import sys

HEAVY = "torch torchvision transformers diffusers trl datasets peft accelerate matplotlib skimage scipy pandas".split()


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Without())  # as where they are not installed

from edit_r1.cli import main

main(["curate", *sys.argv[1:]])
"""


def test_a_recipe_over_endpoints_runs_on_a_light_installation(tmp_path: Path) -> None:
    """Down to the line that tells of the server that is not there."""
    import numpy as np

    from edit_r1.images import encode_png

    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (tmp_path / "data" / "a.png").write_bytes(encode_png(pixels))
    (tmp_path / "data" / "rows.jsonl").write_text('{"source": "a.png", "instruction": "Make the sky darker."}\n')
    (tmp_path / "recipe.py").write_text(RECIPE)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", COMMAND, *arguments, "recipe.py:mine", "--out", "out"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    looked = run("intake")
    assert looked.returncode == 0 and "Traceback" not in looked.stderr, looked.stderr
    ended = run("run")
    told = ended.stderr.strip().splitlines()
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert "nothing was selected; contexts: 1 x model: no answer came" in " ".join(" ".join(told).split())
