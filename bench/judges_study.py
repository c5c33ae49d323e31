"""The judges of EditWorld side by side: base, SFT, GCPO, and holistic scorers trained on the same pairs.

    python bench/judges_study.py --runs runs/seeds --out runs/judges

For every seed of `bench/demo_seeds.py`: a Bradley-Terry head (`edit-r1 train head tiny_head`: pictures and instruction
to one score, no principles) is trained on the seed's pairs, from the same pretrained model (head) and from the seed's
SFT model, which has learned from all that GCPO learns from (head-sft). Then each judge goes through
`edit-r1 evaluate reward` on the held-out pairs and `edit-r1 evaluate readiness` on the tiny editor's edits of the
validation split, with the oracle as reference and, but for the heads, the mean of the verdicts as reward, which trains
the demo's editors. All by the commands that a user has. The edits are the same for every judge and seed, so they are
sampled once. Resumable: what is there is only read. Prints Markdown; documents and readiness pages lie in `--out`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import tyro
from held_out import markdown

from edit_r1.cli import main as edit_r1
from edit_r1.evaluate.judging import pair_of
from edit_r1.evaluate.reward import PairScore
from edit_r1.evaluate.reward_report import preference_scores
from edit_r1.stats import nested_ci
from edit_r1.store import read_json, write_text
from edit_r1.zoo.packaged import weights

JUDGES = ("base", "sft", "gcpo", "head", "head-sft")
COMPARED = (("gcpo", "head"), ("gcpo", "head-sft"), ("gcpo", "sft"), ("sft", "head"), ("sft", "head-sft"))
SHOWN = (
    "unparsed traces", "reliability", "groups without spread", "lift of best of G", "rank correlation",
    "near-equal pairs",
)  # fmt: skip
"""Checks whose numbers are in the table."""
Documents = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""By seed and judge."""


def main(
    runs: Path,
    out: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    judges: tuple[str, ...] = JUDGES,
    contexts: int = 24,
    group: int = 8,
    ready: bool = True,
) -> None:
    """runs: folder of seed-0, seed-1, ... judges: of `JUDGES`. contexts, group: of the readiness. ready: also measure
    that."""
    pairs: dict[int, dict[str, Any]] = {}
    fit: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        run, here = runs / f"seed-{seed}", out / f"seed-{seed}"
        models = {"base": weights("verifier-small"), "sft": run / "sft/model", "gcpo": run / "gcpo/model",
                  "head": here / "head/model", "head-sft": here / "head-sft/model"}  # fmt: skip
        for name, start in (("head", "base"), ("head-sft", "sft")):
            if name in judges and not models[name].exists():
                command("train", "head", "tiny_head", "--data", run / "data/pairs", "--out", here / name,
                        "--model", models[start], "--seed", seed, "--resume")  # fmt: skip
        for name in judges:
            document = here / f"{name}.json"
            if not document.exists():
                command("evaluate", "reward", "--data", run / "data/test", "--model", models[name], "--out", document,
                        "--cache", here / "cache", codes=(0, 3))  # fmt: skip
            pairs.setdefault(seed, {})[name] = read_json(document)
            verdict = here / f"ready-{name}.json"
            if ready and not verdict.exists():
                # A head gives a number; of the others the demo's editors are rewarded by the verdicts.
                traces, value = (1, "score") if name.startswith("head") else (4, "verdicts")
                told = command("evaluate", "readiness", "--data", "editworld", "--editor", "tiny", "--reference",
                               "oracle", "--contexts", contexts, "--group", group, "--traces", traces, "--value", value,
                               "--model", models[name], "--out", out / "readiness", "--html",
                               here / f"ready-{name}.html", "--json", codes=(0, 4))  # fmt: skip
                write_text(verdict, told)
            if ready:
                fit.setdefault(seed, {})[name] = read_json(verdict)
    print("\n".join(pairs_table(pairs)))
    if ready:
        print("\n".join(ready_table(fit)))


def command(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    """What the command writes to stdout. Ends the study when its exit code is none of `codes`."""
    told = [str(one) for one in arguments]
    print("edit-r1", *told, file=sys.stderr, flush=True)
    code: object = 0
    with redirect_stdout(StringIO()) as written:
        try:
            edit_r1(told)
        except SystemExit as end:
            code = end.code or 0
    if code not in codes:
        raise SystemExit(f"edit-r1 {' '.join(told[:2])} ended with {code}")
    return written.getvalue()


def scores(document: Mapping[str, Any]) -> list[PairScore]:
    """The winner's and the loser's score of every decided pair."""
    return preference_scores([pair_of(row) for row in document["rows"]])


def pairs_table(found: Documents) -> list[str]:
    """Half credit of each seed, and the differences over all seeds, seeds and sources both drawn anew."""
    judges = list(next(iter(found.values())))
    lines = markdown(
        ("half credit %", *judges),
        [[f"seed {seed}", *(_half_credit(documents[name]) for name in judges)] for seed, documents in found.items()],
    )
    for name, other in COMPARED:
        if name not in judges or other not in judges:
            continue
        gains, runs, sources = [], [], []
        for seed, documents in found.items():
            for a, b in zip(scores(documents[name]), scores(documents[other]), strict=True):
                assert (a.winner_id, a.loser_id) == (b.winner_id, b.loser_id), "judged on the same pairs"
                gains.append(a.half_credit - b.half_credit)
                runs.append(seed)
                sources.append(a.sample_id)
        estimate = nested_ci(gains, runs, sources)
        low, high = estimate.ci95 or (float("nan"), float("nan"))
        lines.append(f"{name} - {other}: {100 * estimate.mean:+.1f} points (95 % {100 * low:.1f} to {100 * high:.1f})")
    return lines


def _half_credit(document: Mapping[str, Any]) -> str:
    lost = f" ({document['unparsed']} of {document['pairs']} pairs unparsed)" if document["unparsed"] else ""
    return f"{100 * document['half_credit']:.1f}{lost}"


def ready_table(found: Documents) -> list[str]:
    """What each judge's verdict is, what was measured (bold: missed), and which probes it missed."""
    rows = []
    for seed, documents in found.items():
        for name, document in documents.items():
            checks = {check["name"]: check for check in document["checks"]}
            missed = [check for check in checks if checks[check]["passed"] is False and check not in SHOWN]
            shown = [_shown(checks[check]) if check in checks else "" for check in SHOWN]
            rows.append([str(seed), name, "yes" if document["ready"] else "no", *shown, ", ".join(missed)])
    return markdown(("seed", "judge", "ready", *SHOWN, "other checks missed"), rows)


def _shown(check: Mapping[str, Any]) -> str:
    if check["value"] is None:
        return "**none**" if check["passed"] is False else ""
    interval = "" if check["ci95"] is None else " ({:.2f} to {:.2f})".format(*check["ci95"])
    value = f"{check['value']:.2f}"
    return (f"**{value}**" if check["passed"] is False else value) + interval


if __name__ == "__main__":
    tyro.cli(main)
