"""How each record is laid out in flat columns, there and back.

A record that holds others prefixes their columns: a `Preference` has `context_source`, `first_image`,
`second_image` and so on, so that the Hub's viewer shows its three images in one row.
"""

from __future__ import annotations

from typing import Any, cast, get_args

from edit_r1.records import (
    CATEGORIES,
    Candidate,
    Choice,
    Context,
    GoldVerdicts,
    PoolTrace,
    Preference,
    Principle,
    Quadruple,
    Rating,
    Sample,
    Trace,
    Unparsed,
    Verdict,
)
from edit_r1.store.parquet import Feature, Features, Row
from edit_r1.store.stages import Table

PRINCIPLES: Feature = {"question": "string", "category": "string"}
VERDICTS: Feature = {"value": "int64", "evidence": "string"}
REFERENCES: Feature = {"image": "image"}
RATINGS: Feature = {"name": "string", "first": "float64", "second": "float64"}

_SAMPLE: Features = {
    "id": "string",
    "source": "image",
    "instruction": "string",
    "category": "string",
    "subset": "string",
    "split": "string",
    "hidden": "string",
    "references": REFERENCES,
    "origin": "string",
    "licence": "string",
}
_CONTEXT: Features = {**_SAMPLE, "principles": PRINCIPLES, "decomposer": "string", "simulated": "bool"}
_CANDIDATE: Features = {
    "id": "string",
    "sample_id": "string",
    "image": "image",
    "editor": "string",
    "seed": "int64",
    "hidden": "string",
}
_TRACE: Features = {
    "text": "string",
    "score": "float64",
    "verdicts": VERDICTS,
    "average_score": "float64",
    "tokens": "int64",
}
_OUTCOME: Features = {**_TRACE, "unparsed": "string", "failed_call": "bool"}
"""`unparsed` is the reason, and empty (None) for a parsed trace."""


def _prefixed(prefix: str, columns: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in columns.items()}


def _part(row: Row, prefix: str) -> Row:
    return {name.removeprefix(f"{prefix}_"): value for name, value in row.items() if name.startswith(f"{prefix}_")}


def _one_of(value: Any, allowed: tuple[Any, ...], column: str) -> Any:
    if value not in allowed:
        raise ValueError(f"column {column} holds {value!r}: expected one of {', '.join(map(repr, allowed))}")
    return value


def sample_to_row(sample: Sample) -> Row:
    return {
        "id": sample.id,
        "source": sample.source,
        "instruction": sample.instruction,
        "category": sample.category,
        "subset": sample.subset,
        "split": sample.split,
        "hidden": sample.hidden,
        "references": [{"image": image} for image in sample.references] or None,
        "origin": sample.origin or None,
        "licence": sample.licence or None,
    }


def sample_from_row(row: Row) -> Sample:
    return Sample(
        id=row["id"],
        source=row["source"],
        instruction=row["instruction"],
        category=row["category"],
        subset=_one_of(row["subset"], ("random", "hard"), "subset"),
        split=row["split"],
        hidden=row["hidden"],
        references=tuple(reference["image"] for reference in row.get("references") or ()),  # old files have none
        origin=row.get("origin") or "",
        licence=row.get("licence") or "",
    )


def context_to_row(context: Context) -> Row:
    return {
        **sample_to_row(context.sample),
        "principles": [{"question": p.question, "category": p.category} for p in context.principles],
        "decomposer": context.decomposer,
        "simulated": context.simulated,
    }


def context_from_row(row: Row) -> Context:
    principles = [Principle(p["question"], _one_of(p["category"], CATEGORIES, "category")) for p in row["principles"]]
    return Context(sample_from_row(row), tuple(principles), row["decomposer"], row["simulated"])


def candidate_to_row(candidate: Candidate) -> Row:
    return {
        "id": candidate.id,
        "sample_id": candidate.sample_id,
        "image": candidate.image,
        "editor": candidate.editor,
        "seed": int(candidate.seed),
        "hidden": candidate.hidden,
    }


def candidate_from_row(row: Row) -> Candidate:
    return Candidate(row["id"], row["sample_id"], row["image"], row["editor"], row["seed"], row["hidden"])


def _verdicts_to_rows(verdicts: tuple[Verdict, ...]) -> list[Row]:
    return [{"value": int(verdict.value), "evidence": verdict.evidence} for verdict in verdicts]


def _verdicts_from_rows(rows: list[Row]) -> tuple[Verdict, ...]:
    return tuple(Verdict(_one_of(row["value"], (0, 1), "value"), row["evidence"]) for row in rows)


def trace_to_row(trace: Trace) -> Row:
    return {
        "text": trace.text,
        "score": float(trace.score),
        "verdicts": None if trace.verdicts is None else _verdicts_to_rows(trace.verdicts),
        "average_score": None if trace.average_score is None else float(trace.average_score),
        "tokens": int(trace.tokens),
    }


def trace_from_row(row: Row) -> Trace:
    verdicts = None if row["verdicts"] is None else _verdicts_from_rows(row["verdicts"])
    return Trace(row["text"], row["score"], verdicts, row["average_score"], row["tokens"])


def outcome_to_row(outcome: Trace | Unparsed) -> Row:
    """An unparsed text has a reason and no score: its score column is empty, never 0."""
    if isinstance(outcome, Trace):
        return {**trace_to_row(outcome), "unparsed": None, "failed_call": False}
    empty = dict.fromkeys(_TRACE)
    return {
        **empty,
        "text": outcome.text,
        "tokens": int(outcome.tokens),
        "unparsed": outcome.reason,
        "failed_call": outcome.failed_call,
    }


def outcome_from_row(row: Row) -> Trace | Unparsed:
    if row["unparsed"] is None:
        return trace_from_row(row)
    return Unparsed(row["text"], row["unparsed"], row["tokens"], row["failed_call"])


def pool_trace_to_row(record: PoolTrace) -> Row:
    return {
        "candidate_id": record.candidate_id,
        "judge": record.judge,
        "index": int(record.index),
        **outcome_to_row(record.outcome),
        "simulated": record.simulated,
    }


def pool_trace_from_row(row: Row) -> PoolTrace:
    return PoolTrace(row["candidate_id"], row["judge"], row["index"], outcome_from_row(row), row["simulated"])


def gold_to_row(record: GoldVerdicts) -> Row:
    return {
        "candidate_id": record.candidate_id,
        "gold": _verdicts_to_rows(record.gold),
        "verifier": record.verifier,
        "simulated": record.simulated,
    }


def gold_from_row(row: Row) -> GoldVerdicts:
    return GoldVerdicts(row["candidate_id"], _verdicts_from_rows(row["gold"]), row["verifier"], row["simulated"])


def quadruple_to_row(record: Quadruple) -> Row:
    target = dict.fromkeys(_TRACE) if record.target is None else trace_to_row(record.target)
    return {
        **_prefixed("context", context_to_row(record.context)),
        **_prefixed("candidate", candidate_to_row(record.candidate)),
        **_prefixed("target", target),
    }


def quadruple_from_row(row: Row) -> Quadruple:
    target = _part(row, "target")
    return Quadruple(
        context_from_row(_part(row, "context")),
        candidate_from_row(_part(row, "candidate")),
        None if target["text"] is None else trace_from_row(target),
    )


def preference_to_row(record: Preference) -> Row:
    return {
        **_prefixed("context", context_to_row(record.context)),
        **_prefixed("first", candidate_to_row(record.first)),
        **_prefixed("second", candidate_to_row(record.second)),
        "choice": record.choice,
        "annotator": record.annotator,
        "simulated": record.simulated,
        "aspect": record.aspect or None,
        "soft_label": None if record.soft_label is None else float(record.soft_label),
        "votes": None if record.votes is None else int(record.votes),
        "ratings": [{"name": r.name, "first": float(r.first), "second": float(r.second)} for r in record.ratings]
        or None,
        "origin": record.origin or None,
    }


def preference_from_row(row: Row) -> Preference:
    return Preference(
        context_from_row(_part(row, "context")),
        candidate_from_row(_part(row, "first")),
        candidate_from_row(_part(row, "second")),
        cast(Choice, _one_of(row["choice"], get_args(Choice), "choice")),
        row["annotator"],
        row["simulated"],
        aspect=row.get("aspect") or "",  # files written before these columns were have none
        soft_label=row.get("soft_label"),
        votes=row.get("votes"),
        ratings=tuple(Rating(one["name"], one["first"], one["second"]) for one in row.get("ratings") or ()),
        origin=row.get("origin") or "",
    )


SAMPLES = Table(_SAMPLE, sample_to_row, sample_from_row)
CONTEXTS = Table(_CONTEXT, context_to_row, context_from_row)
CANDIDATES = Table(_CANDIDATE, candidate_to_row, candidate_from_row)
POOL_TRACES = Table(
    {"candidate_id": "string", "judge": "string", "index": "int64", **_OUTCOME, "simulated": "bool"},
    pool_trace_to_row,
    pool_trace_from_row,
)
GOLD_VERDICTS = Table(
    {"candidate_id": "string", "gold": VERDICTS, "verifier": "string", "simulated": "bool"},
    gold_to_row,
    gold_from_row,
)
QUADRUPLES = Table(
    {**_prefixed("context", _CONTEXT), **_prefixed("candidate", _CANDIDATE), **_prefixed("target", _TRACE)},
    quadruple_to_row,
    quadruple_from_row,
)
PREFERENCES = Table(
    {
        **_prefixed("context", _CONTEXT),
        **_prefixed("first", _CANDIDATE),
        **_prefixed("second", _CANDIDATE),
        "choice": "string",
        "annotator": "string",
        "simulated": "bool",
        "aspect": "string",
        "soft_label": "float64",
        "votes": "int64",
        "ratings": RATINGS,
        "origin": "string",
    },
    preference_to_row,
    preference_from_row,
)
