"""Who is shown which pair: fewest answers first, no pair twice to one person, gold pairs mixed in."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edit_r1.annotate.database import Database

MAX_AHEAD = 16
"""Most pairs handed out to one annotator at once."""

_OWN = """
SELECT s.pair, s.turned, p.record FROM showings s JOIN pairs p ON p.number = s.pair
WHERE s.annotator = :annotator AND s.open AND p.active
  AND (s.until > :now OR p.gold IS NOT NULL OR p.answers + (
    SELECT COUNT(*) FROM showings o WHERE o.pair = s.pair AND o.annotator <> :annotator AND o.open AND o.until > :now
  ) < :wanted)
ORDER BY s.place
"""
_NEW = """
WITH leased AS (SELECT pair, COUNT(*) AS n FROM showings WHERE open AND until > :now GROUP BY pair)
SELECT p.number FROM pairs p
LEFT JOIN leased l ON l.pair = p.number
LEFT JOIN showings mine ON mine.pair = p.number AND mine.annotator = :annotator
WHERE p.active AND p.gold IS NULL AND mine.pair IS NULL AND p.answers + COALESCE(l.n, 0) < :wanted
ORDER BY p.answers + COALESCE(l.n, 0), p.rank LIMIT 1
"""
_NEW_GOLD = """
SELECT p.number FROM pairs p LEFT JOIN showings mine ON mine.pair = p.number AND mine.annotator = :annotator
WHERE p.active AND p.gold IS NOT NULL AND mine.pair IS NULL ORDER BY p.rank LIMIT 1
"""
_UNDER_WAY = """
SELECT 1 FROM pairs p
WHERE p.active AND p.gold IS NULL AND p.answers < :wanted
  AND NOT EXISTS (SELECT 1 FROM answers a WHERE a.pair = p.number AND a.annotator = :annotator AND a.undone IS NULL)
LIMIT 1
"""


@dataclass(frozen=True)
class Plan:
    """How pairs are handed out."""

    annotators_per_pair: int = 2
    gold_every: int = 10
    """One of so many showings is a gold pair; 0 for none."""
    lease_seconds: float = 600.0
    seed: int = 0


@dataclass(frozen=True)
class Handed:
    """What an annotator may look at next."""

    pairs: tuple[dict[str, Any], ...]
    """In order: {"pair": number, "source", "left", "right": picture ids, "instruction", "principles": [text]}. Neither
    editors nor gold are told."""
    finished: bool
    """True when nothing is left for this annotator; False with no pairs: others are looking at the last ones."""


def hand_out(database: Database, annotator: int, having: Sequence[int], count: int, plan: Plan, now: float) -> Handed:
    """Up to `count` pairs that the annotator has not, each leased to them; leases of those they have are renewed.

    A pair goes to an annotator once. Its lease counts as an answer that will come, so that no more than
    `annotators_per_pair` look at a pair at a time; when a lease runs out the pair goes to another, and an answer that
    comes all the same still counts.

    Args:
        having: numbers of pairs that the annotator's browser holds.
        now: seconds since 1970.

    Raises:
        StoreError: as `Database.transaction`.
    """
    values = {"annotator": annotator, "now": now, "wanted": plan.annotators_per_pair}
    held = set(having)
    with database.transaction() as connection:
        own = connection.execute(_OWN, values).fetchall()
        found = [row for row in own if row["pair"] not in held][:count]
        kept = held & {row["pair"] for row in own}
        _lease(connection, annotator, [*kept, *(row["pair"] for row in found)], now + plan.lease_seconds)
        while len(found) < count:
            row = _show_new(connection, values, plan, now)
            if row is None:
                break
            found.append(row)
        finished = not found and not kept and connection.execute(_UNDER_WAY, values).fetchone() is None
    return Handed(tuple(_document(row) for row in found), finished)


def release(database: Database, annotator: int) -> None:
    """Ends the leases of what an annotator did not answer, because they left. Raises as `Database.transaction`."""
    with database.transaction() as connection:
        connection.execute("UPDATE showings SET until = 0 WHERE annotator = ? AND open", (annotator,))


def is_turned(seed: int, name: str, pair: str) -> bool:
    """Whether a pair's second edit stands left for an annotator: drawn for the two of them, half of the time."""
    return bool(_draw("turned", seed, name, pair) % 2)


def is_gold_place(seed: int, name: str, place: int, every: int) -> bool:
    """Whether an annotator's showing number `place` (from 0) is a gold pair: one in each run of `every`, drawn."""
    return every > 0 and place % every == _draw("gold", seed, name, place // every) % every


def _draw(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")


def _lease(connection: sqlite3.Connection, annotator: int, pairs: Sequence[int], until: float) -> None:
    connection.executemany(
        "UPDATE showings SET until = ? WHERE annotator = ? AND pair = ?", [(until, annotator, pair) for pair in pairs]
    )


def _show_new(connection: sqlite3.Connection, values: dict[str, Any], plan: Plan, now: float) -> sqlite3.Row | None:
    """Hands out one new pair; None when there is none. Gold is not given to who has nothing else to do."""
    annotator = values["annotator"]
    name, place = connection.execute("SELECT name, shown FROM annotators WHERE number = ?", (annotator,)).fetchone()
    chosen = connection.execute(_NEW, values).fetchone()
    if chosen is None:
        return None
    if is_gold_place(plan.seed, name, place, plan.gold_every):
        gold = connection.execute(_NEW_GOLD, {"annotator": annotator}).fetchone()
        chosen = gold if gold is not None else chosen
    (pair,) = chosen
    (identity,) = connection.execute("SELECT id FROM pairs WHERE number = ?", (pair,)).fetchone()
    connection.execute(
        "INSERT INTO showings (annotator, pair, place, turned, until) VALUES (?, ?, ?, ?, ?)",
        (annotator, pair, place, is_turned(plan.seed, name, identity), now + plan.lease_seconds),
    )
    connection.execute("UPDATE annotators SET shown = shown + 1 WHERE number = ?", (annotator,))
    query = (
        "SELECT s.pair, s.turned, p.record FROM showings s JOIN pairs p ON p.number = s.pair "
        "WHERE s.annotator = ? AND s.pair = ?"
    )
    found: sqlite3.Row = connection.execute(query, (annotator, pair)).fetchone()
    return found


def _document(row: sqlite3.Row) -> dict[str, Any]:
    record = json.loads(row["record"])
    first, second = record["first_image"], record["second_image"]
    left, right = (second, first) if row["turned"] else (first, second)
    return {
        "pair": row["pair"],
        "source": record["context_source"],
        "left": left,
        "right": right,
        "instruction": record["context_instruction"],
        "principles": [item["question"] for item in record["context_principles"]],
    }
