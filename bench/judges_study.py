"""The judges of EditWorld side by side: base, SFT, GCPO, and a holistic scorer trained on the same pairs.

    python bench/judges_study.py --runs runs/seeds --out runs/judges

For every seed of `bench/demo_seeds.py`: a Bradley-Terry head (`edit-r1 train head tiny_head`: pictures and instruction
to one score, no principles) is trained on the seed's pairs from the same pretrained model, then each judge goes through
`edit-r1 evaluate reward` on the held-out pairs and `edit-r1 evaluate readiness` on the tiny editor's edits of the
validation split, with the oracle as reference. All by the commands that a user has. Resumable: what is there is only
read. Prints Markdown; documents and readiness pages lie in `--out`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

from edit_r1.evaluate.reward import PairScore
from edit_r1.stats import nested_ci
from edit_r1.store import read_json
from edit_r1.zoo.packaged import weights

JUDGES = ("base", "sft", "gcpo", "head")


def main(
    runs: Path, out: Path, seeds: tuple[int, ...] = (0, 1, 2), contexts: int = 24, group: int = 8, ready: bool = True
) -> None:
    """runs: folder of seed-0, seed-1, ... contexts, group: of the readiness. ready: also measure that."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for seed in seeds:
        run, here = runs / f"seed-{seed}", out / f"seed-{seed}"
        head = here / "head/model"
        if not head.exists():
            command("train", "head", "tiny_head", "--data", run / "data/pairs", "--out", here / "head",
                    "--seed", seed, "--resume")  # fmt: skip
        models = {"base": weights("verifier-small"), "sft": run / "sft/model", "gcpo": run / "gcpo/model", "head": head}
        for name in JUDGES:
            document = here / f"{name}.json"
            if not document.exists():
                command("evaluate", "reward", "--data", run / "data/test", "--model", models[name], "--out", document,
                        "--cache", here / "cache", codes=(0, 3))  # fmt: skip
            found.setdefault(seed, {})[name] = read_json(document)
            page = here / f"ready-{name}.html"
            if ready and not page.exists():
                traces = 1 if name == "head" else 4
                command("evaluate", "readiness", "--data", "editworld", "--editor", "tiny", "--reference", "oracle",
                        "--contexts", contexts, "--group", group, "--traces", traces, "--model", models[name], "--out",
                        here / f"ready-{name}", "--html", page, codes=(0, 4))  # fmt: skip
    print("\n".join(pairs_table(found)))
    if ready:
        print("\n".join(ready_table(out, seeds)))


def command(*arguments: object, codes: tuple[int, ...] = (0,)) -> None:
    told = [str(one) for one in arguments]
    print("edit-r1", *told, file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, "-m", "edit_r1", *told], check=False, stdout=subprocess.DEVNULL).returncode
    if code not in codes:
        raise SystemExit(f"edit-r1 {' '.join(told[:2])} ended with {code}")


def scores(document: dict[str, Any]) -> list[PairScore]:
    """The winner's and the loser's score of every decided pair."""
    rows = []
    for pair in document["rows"]:
        if pair["label"] == "tie":
            continue
        sides = (pair["first"], pair["second"]) if pair["label"] == "first" else (pair["second"], pair["first"])
        rows.append(PairScore(pair["source"], pair["task"], "", "", sides[0]["score"], sides[1]["score"]))
    return rows


def pairs_table(found: dict[int, dict[str, dict[str, Any]]]) -> list[str]:
    """Half credit of each seed, and the differences over all seeds, seeds and sources both drawn anew."""
    lines = ["| seed | " + " | ".join(JUDGES) + " |", "| --- " * (len(JUDGES) + 1) + "|"]
    for seed, documents in found.items():
        cells = [f"{100 * documents[name]['half_credit']:.1f}" for name in JUDGES]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    for name, other in (("gcpo", "head"), ("gcpo", "sft"), ("sft", "head")):
        gains, runs, sources = [], [], []
        for seed, documents in found.items():
            both = zip(scores(documents[name]), scores(documents[other]), strict=True)
            for a, b in both:
                gains.append(a.half_credit - b.half_credit)
                runs.append(seed)
                sources.append(a.sample_id)
        estimate = nested_ci(gains, runs, sources)
        low, high = estimate.ci95 or (float("nan"), float("nan"))
        lines.append(f"{name} - {other}: {100 * estimate.mean:+.1f} points (95 % {100 * low:.1f} to {100 * high:.1f})")
    return lines


def ready_table(out: Path, seeds: tuple[int, ...]) -> list[str]:
    """Every check of every judge."""
    lines = ["| seed | judge | ready | checks missed |", "| --- | --- | --- | --- |"]
    for seed in seeds:
        for name in JUDGES:
            document = read_json(out / f"seed-{seed}/ready-{name}/readiness.json")
            missed = [check["name"] for check in document["checks"] if check["passed"] is False]
            lines.append(f"| {seed} | {name} | {'yes' if document['ready'] else 'no'} | {', '.join(missed)} |")
    return lines


if __name__ == "__main__":
    tyro.cli(main)
