"""How the selector's decisions are laid out in columns, there and back."""

from __future__ import annotations

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
