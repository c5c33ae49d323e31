"""How far a task is, how fast it goes, how far its annotators agree, and who may be careless."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from edit_r1.annotate.database import Database
from edit_r1.preferences.agreement import against_others, chance_of_guessing, krippendorff, raw_agreement
from edit_r1.stats import Estimate, bootstrap_ci, counted_proportion

PACE_WINDOW_S = 600.0
"""The pace is that of the last ten minutes, or since the first answer where that is less than ten minutes ago."""
LEAST_WINDOW_S = 60.0
"""Of a task's first answers: a pace over seconds would jump about."""
GUESSING = 0.05
"""An annotator whose gold answers a guesser would reach with at least this probability is not told from one."""

_ANSWERS = """
SELECT a.number, a.pair, a.choice, a.seconds, a.at, n.name, s.turned, p.gold
FROM answers a JOIN annotators n ON n.number = a.annotator
JOIN showings s ON s.annotator = a.annotator AND s.pair = a.pair JOIN pairs p ON p.number = a.pair
WHERE a.undone IS NULL ORDER BY a.number
"""
_SOURCES = "SELECT number, json_extract(record, '$.context_source') FROM pairs"


def measure(database: Database, now: float) -> dict[str, Any]:
    """The progress page's figures as JSON; None where there is nothing to measure. No result of the comparison itself.

    Agreement is over pairs with two answers or more, gold pairs and skipped ones left out. Times are in seconds, shares
    0 to 1.

    Raises:
        StoreError: as `Database.rows`.
    """
    wanted = database.begun().annotators_per_pair
    rows = database.rows(_ANSWERS)
    counts = database.rows("SELECT answers FROM pairs WHERE active AND gold IS NULL")
    gold_pairs = database.rows("SELECT COUNT(*) FROM pairs WHERE active AND gold IS NOT NULL")[0][0]
    undone = {
        row[0]: row[1]
        for row in database.rows(
            "SELECT n.name, COUNT(*) FROM answers a JOIN annotators n ON n.number = a.annotator "
            "WHERE a.undone IS NOT NULL GROUP BY n.name"
        )
    }
    compared: dict[int, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["gold"] is None and row["choice"] != "skip":
            compared[row["pair"]][row["name"]] = row["choice"]
    units = list(compared.values())
    answers = [list(unit.values()) for unit in units]
    names = [row[0] for row in database.rows("SELECT name FROM annotators ORDER BY number")]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    window = PACE_WINDOW_S
    if rows:
        window = min(PACE_WINDOW_S, max(LEAST_WINDOW_S, now - min(row["at"] for row in rows)))
    recent = sum(row["at"] > now - PACE_WINDOW_S for row in rows)
    return {
        "task": database.task,
        "pairs": len(counts),
        "gold_pairs": gold_pairs,
        "wanted": wanted,
        "complete": sum(row[0] >= wanted for row in counts),
        "answers": sum(len(unit) for unit in units),
        "open": sum(max(0, wanted - row[0]) for row in counts),
        "per_minute": recent / (window / 60),
        "median_seconds": median(seconds) if seconds else None,
        "agreement": {
            "raw": _estimate(raw_agreement(answers)),
            "alpha_nominal": asdict(krippendorff(answers, level="nominal")),
            "alpha_ordinal": asdict(krippendorff(answers, level="ordinal")),
        },
        "annotators": [
            _annotator(name, [row for row in rows if row["name"] == name], units, undone.get(name, 0), now)
            for name in names
        ],
    }


def gsb_of(database: Database, leave_out: Collection[str] = (), seed: int = 0) -> dict[str, Any] | None:
    """A study's result, (G - B) / (G + S + B), or None where the task is no study of two editors.

    Every answer is a comparison; the interval draws whole source images, because the answers to one pair, and to pairs
    of one source, are not independent.

    Args:
        leave_out: names of annotators whose answers do not count.
        seed: of the bootstrap.

    Returns:
        {"new", "other": editors, "good", "same", "bad", "gsb": -1 to 1 or None, "ci95": [low, high] or None, "n",
        "pairs"}.

    Raises:
        ValueError: for a name to leave out that is nobody's.
        StoreError: as `Database.rows`.
    """
    check_left_out(database, leave_out)
    editors = database.meta("study")
    if editors is None:
        return None
    new, other = json.loads(editors)
    worth = {"first": 1.0, "same": 0.0, "second": -1.0}
    rows = [
        row
        for row in database.rows(_ANSWERS)
        if row["gold"] is None and row["choice"] != "skip" and row["name"] not in leave_out
    ]
    counted = {choice: sum(row["choice"] == choice for row in rows) for choice in worth}
    document: dict[str, Any] = {
        "new": new, "other": other,
        "good": counted["first"], "same": counted["same"], "bad": counted["second"],
        "gsb": None, "ci95": None, "n": len(rows), "pairs": len({row["pair"] for row in rows}),
    }  # fmt: skip
    if rows:
        sources = {row[0]: row[1] for row in database.rows(_SOURCES)}
        estimate = bootstrap_ci([worth[row["choice"]] for row in rows], [sources[row["pair"]] for row in rows], seed)
        document |= {"gsb": estimate.mean, "ci95": estimate.ci95}
    return document


def check_left_out(database: Database, names: Collection[str]) -> None:
    """Raises ValueError for a name that is no annotator's."""
    known = {row[0] for row in database.rows("SELECT name FROM annotators")}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"--leave-out {unknown[0]!r}: no such annotator; known are {', '.join(sorted(known))}")


def _annotator(
    name: str, rows: Sequence[sqlite3.Row], units: Sequence[dict[str, str]], undone: int, now: float
) -> dict[str, Any]:
    answers = [row for row in rows if row["gold"] is None and row["choice"] != "skip"]
    decided = [(row["choice"] == "second") == bool(row["turned"]) for row in answers if row["choice"] != "same"]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    gold = [row["choice"] == row["gold"] for row in rows if row["gold"] is not None and row["choice"] != "skip"]
    guess = chance_of_guessing(sum(gold), len(gold)) if gold else None
    enough = bool(gold) and chance_of_guessing(len(gold), len(gold)) < GUESSING  # if all of them had been right
    return {
        "name": name,
        "answers": len(answers),
        "skipped": sum(row["choice"] == "skip" for row in rows),
        "undone": undone,
        "median_seconds": median(seconds) if seconds else None,
        "idle_seconds": now - rows[-1]["at"] if rows else None,
        "left": _estimate(counted_proportion(decided, [1] * len(decided))),
        "same_share": sum(row["choice"] == "same" for row in answers) / len(answers) if answers else None,
        "others": _estimate(against_others(units, name)),
        "gold": {
            "right": sum(gold),
            "asked": len(gold),
            "guess_probability": guess,
            "better_than_guessing": guess < GUESSING if guess is not None and enough else None,
        },
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"mean": estimate.mean, "ci95": estimate.ci95, "n": estimate.n}
