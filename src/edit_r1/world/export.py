"""EditWorld as files: pictures and one JSON row per candidate, for people and scripts outside the package."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from edit_r1.records import Sample
from edit_r1.world.checks import principle
from edit_r1.world.oracle import judge
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.scenes import from_json
from edit_r1.world.simulated_editors import SimulatedEditor, all_editors

CANDIDATES_PER_CONTEXT = 4


def write_world_samples(out: Path, count: int, seed: int, split: str = "train") -> int:
    """Write `count` contexts with several candidates each to `out`: PNGs and `samples.jsonl`. Returns the rows.

    A row is {source, edited, instruction, category, editor, principles: [{question, category, gold}],
    utility}; paths are relative to `out`. The folder appears whole or not at all.

    Raises:
        ValueError: for a count below 1, a folder that is not empty, or a disk that cannot be written.
    """
    if count < 1:
        raise ValueError(f"count={count}: ask for at least one context")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ValueError(f"cannot write to {out.parent}: {error.strerror}; choose another --out") from error
    try:
        rows = _write(partial, count, seed, split)
        if out.exists():
            out.rmdir()
        partial.chmod(0o755)
        os.replace(partial, out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(f"cannot write {out}: {error.strerror}; free some space or choose another --out") from error
    return rows


def _write(folder: Path, count: int, seed: int, split: str) -> int:
    editors = all_editors()
    lines: list[str] = []
    for number, sample in enumerate(make_samples(count, split, seed)):
        source = f"{number:04d}_source.png"
        (folder / source).write_bytes(sample.source)
        # Every context shows the usually right editor and a rotating choice of the flawed ones.
        turn = [editors[1 + (3 * number + offset) % (len(editors) - 1)] for offset in range(CANDIDATES_PER_CONTEXT - 1)]
        for editor in (editors[0], *turn):
            edited = f"{number:04d}_{editor.profile}.png"
            lines.append(json.dumps(_row(sample, editor, seed, folder, source, edited)))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _row(
    sample: Sample, editor: SimulatedEditor, seed: int, folder: Path, source: str, edited: str
) -> dict[str, object]:
    edit = editor.edit([sample], [seed])[0]
    assert edit.image is not None
    assert edit.hidden is not None
    (folder / edited).write_bytes(edit.image)
    gold = judge(scene_of(sample), edit_of(sample), *from_json(edit.hidden))
    principles = [
        {"question": principle(check).question, "category": principle(check).category, "gold": value}
        for check, value in zip(gold.checks, gold.values, strict=True)
    ]
    return {
        "source": source,
        "edited": edited,
        "instruction": sample.instruction,
        "category": sample.category,
        "editor": editor.name,
        "principles": principles,
        "utility": gold.utility,
        "simulated": True,
    }
