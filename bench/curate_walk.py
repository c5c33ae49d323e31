"""docs/curate.md's walk with a real model server: `transformers serve` with the packaged tiny verifier.

    python bench/curate_walk.py --out runs/curate_walk --photographs FOLDER

In turn, each command as a person types it:

- EditWorld: pictures of `edit-r1 world sample` and their JSONL, read as a team's data with the edits that lie there.
  The tiny verifier knows these pictures: it decomposes and judges them (by the compact prompts that it was trained on).
  It never learned to write gold, so the filter is off and the target is drawn among its traces. One step of `edit-r1
  train sft` then reads what was selected.
- photographs (left out without FOLDER): `edits.jsonl` there has rows {id, instruction, source, edit_a, edit_b}. The
  guide's own recipe, with the edits that lie ready. The tiny verifier knows no photographs: what is asked for here is
  that every row is right or failed with its cause, and one clear line.

Of every step of a curation the rows and failures have to add up to what was given to it. Prints what a person sees,
and writes JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import tyro
from kept import begin_anew
from rich.console import Console
from rich.table import Table

from edit_r1.store import read_json, write_json
from edit_r1.zoo.packaged import weights

SERVE = Path(sys.executable).with_name("transformers")

WORLD = """
from edit_r1.recipes.curation import (
    Columns, CurateStage, IntakeChecks, OpenAIVLM, PoolMember, ReadyEdits, Sampling, team_samples,
)


def walk():
    samples = team_samples({data!r}, columns=Columns(edits="edited"), checks=IntakeChecks(min_side=32))
    model = OpenAIVLM({url!r}, {model!r}, concurrency=2)
    return CurateStage(
        samples, model, (ReadyEdits(samples.ready_edits, "world"),),
        (PoolMember(model, 2, Sampling(512, temperature=0.7), "compact"),),
        model, candidates_per_context=1, variant="compact", decompose_sampling=Sampling(512, temperature=0.7),
        verify_sampling=Sampling(512, temperature=0.0), filter_on=False,
    )
"""
PHOTOGRAPHS = """
from pathlib import Path

from edit_r1.recipes.curation import OpenAIVLM, cold_start, folder_edits, team_samples


def walk():
    samples = team_samples({data!r}, licence="Apache-2.0")
    model = OpenAIVLM({url!r}, {model!r}, concurrency=2)
    edits = Path({data!r}) / "edits"
    editors = (folder_edits(edits), folder_edits(edits, number=2))
    return cold_start(samples, model, editors, trace_tokens=256, principle_tokens=256, gold_tokens=256)
"""


@contextmanager
def served(out: Path) -> Iterator[tuple[str, str]]:
    """(address, model's name) of the server, which samples only if the model's own generation_config says so."""
    model = out / "model"
    shutil.copytree(weights("verifier-small-rrm"), model)
    config = read_json(model / "generation_config.json")
    write_json(model / "generation_config.json", config | {"do_sample": True})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVE, "serve", model, "--host", "127.0.0.1", "--port", port, "--device", "cpu", "--dtype", "float32"]
    with open(out / "serve.log", "wb") as log:
        process = subprocess.Popen([str(one) for one in command], stdout=log, stderr=log)
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"the server ended: see {out / 'serve.log'}")
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        process.terminate()
        process.wait(60)


def typed(folder: Path, *arguments: object) -> dict[str, Any]:
    """A command of `edit-r1` in `folder`: its arguments, exit code, seconds, and last lines."""
    start = time.monotonic()
    command = [sys.executable, "-m", "edit_r1", *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
    told = (ended.stdout + ended.stderr).strip()
    if "Traceback" in told:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended in a traceback:\n{told}")
    return {
        "command": "edit-r1 " + " ".join(map(str, arguments)),
        "code": ended.returncode,
        "seconds": round(time.monotonic() - start, 1),
        "told": told.splitlines()[-3:],
    }


def walked(folder: Path, recipe: str) -> dict[str, Any]:
    """The guide's commands on a recipe, and whether rows and failures add up."""
    (folder / "recipe.py").write_text(recipe)
    run = ("curate", "run", "recipe.py:walk", "--out", "runs/cold", "--chunks-at-once", "2")
    steps = [typed(folder, "curate", "intake", "recipe.py:walk", "--out", "runs/cold"), typed(folder, *run)]
    cold = folder / "runs" / "cold"
    summary = read_json(cold / "summary.json")
    asked = summary["spent"]["requests"]
    steps += [typed(folder, *run), typed(folder, "curate", "status", "runs/cold")]
    steps += [typed(folder, "curate", "look", "runs/cold")]
    rows, failed = summary["rows"], {step: sum(causes.values()) for step, causes in summary["failed"].items()}
    sums = {
        "samples": rows["samples"] + failed["samples"] == summary["given"],
        "contexts": rows["contexts"] + failed["contexts"] == rows["samples"],
        "gold": rows["gold"] + failed["gold"] == rows["candidates"],
        "selected": rows["selected"] + failed["selected"] == rows["candidates"],
        "causes": all(cause for causes in summary["failed"].values() for cause in causes),
        "nothing asked twice": read_json(cold / "summary.json")["spent"]["requests"] == asked,
    }
    return {"steps": steps, "rows": rows, "failed": summary["failed"], "requests": asked, "adds up": sums}


def write_photographs(source: Path, folder: Path) -> None:
    """The folder that the guide describes."""
    (folder / "edits").mkdir(parents=True)
    lines = []
    for row in map(json.loads, (source / "edits.jsonl").read_text().splitlines()):
        shutil.copy(source / row["source"], folder / row["source"])
        for key, name in (("edit_a", row["id"]), ("edit_b", f"{row['id']}-2")):
            shutil.copy(source / row[key], folder / "edits" / f"{name}{Path(row[key]).suffix}")
        lines.append(json.dumps({name: row[name] for name in ("id", "source", "instruction")}))
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))


def main(out: Path, photographs: Path | None = None, contexts: int = 6) -> None:
    """contexts: of EditWorld."""
    begin_anew(out)
    out = out.resolve()
    told: dict[str, Any] = {}
    with served(out) as (url, model):
        world = out / "world"
        world.mkdir()
        made = typed(world, "world", "sample", "--out", "pictures", "--count", contexts)
        recipe = WORLD.format(data="pictures", url=url, model=model)
        told["EditWorld"] = walked(world, recipe)
        train = ("train", "sft", "tiny_sft", "--data", "runs/cold/selected", "--out", "runs/try")
        trained = typed(world, *train, "--steps", 1, "--batch-size", 2)
        told["EditWorld"]["steps"] = [made, *told["EditWorld"]["steps"], trained]
        if photographs is not None:
            write_photographs(photographs, out / "photographs" / "photographs")
            recipe = PHOTOGRAPHS.format(data="photographs", url=url, model=model)
            told["photographs"] = walked(out / "photographs", recipe)
    write_json(out / "curate_walk.json", told)
    show(told)


def show(told: dict[str, Any]) -> None:
    console = Console(width=140)
    for name, walk in told.items():
        table = Table("command", "code", "s", "last lines", title=name)
        for step in walk["steps"]:
            table.add_row(step["command"], str(step["code"]), f"{step['seconds']:.1f}", "\n".join(step["told"]))
        console.print(table)
        console.print(f"rows {walk['rows']}\nfailed {walk['failed']}\nrequests {walk['requests']}, {walk['adds up']}")


if __name__ == "__main__":
    tyro.cli(main)
