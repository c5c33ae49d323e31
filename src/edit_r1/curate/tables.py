"""How the decisions of the selector and of the filter are laid out in columns, there and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

from edit_r1.curate.select import Cause, Decision
from edit_r1.store import Features, Row, Table

_DECISION: Features = {
    "candidate_id": "string",
    "judge": "string",
    "index": "int64",
    "agreement": "float64",
    "cause": "string",
    "reason": "string",
    "simulated": "bool",
}


def decision_to_row(decision: Decision) -> Row:
    return {name: getattr(decision, name) for name in _DECISION}


def decision_from_row(row: Row) -> Decision:
    if row["cause"] not in get_args(Cause):
        raise ValueError(f"column cause holds {row['cause']!r}: expected one of {', '.join(get_args(Cause))}")
    return Decision(
        row["candidate_id"],
        row["judge"],
        row["index"],
        row["agreement"],
        cast(Cause, row["cause"]),
        row["reason"],
        row["simulated"],
    )


DECISIONS: Table[Decision] = Table(_DECISION, decision_to_row, decision_from_row)


@dataclass(frozen=True)
class Pick:
    """What the filter of the Hard subset said of one request."""

    key: str
    """Hash of everything that was asked."""
    sample_id: str
    origin: str
    instruction: str
    hard: bool | None
    """None for an answer that holds no decision."""
    category: str
    """Kind of edit by the filter's word; "" without a decision."""
    reason: str
    """The filter's sentence, or what is wrong with its answer."""
    model: str
    simulated: bool = False


_PICK: Features = {
    "key": "string",
    "sample_id": "string",
    "origin": "string",
    "instruction": "string",
    "hard": "bool",
    "category": "string",
    "reason": "string",
    "model": "string",
    "simulated": "bool",
}


def pick_to_row(pick: Pick) -> Row:
    return {name: getattr(pick, name) for name in _PICK}


def pick_from_row(row: Row) -> Pick:
    return Pick(**{name: row[name] for name in _PICK})


PICKS: Table[Pick] = Table(_PICK, pick_to_row, pick_from_row)
