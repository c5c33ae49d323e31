"""Thousands of edits from a file to a file: in chunks, each durable when it is finished, so that a run can be killed.

Beside the output `OUT` stand `OUT.run.json` (what the run was asked, and how far its costs are) and, for Parquet,
`OUT.rows.jsonl` until the last row is there. Rows are appended as JSON lines, a chunk at once, and flushed to the disk.
A run that was stopped goes on after its last whole chunk: what a kill left of a chunk is dropped and judged again, with
the same seeds and the same neighbours, so the result is that of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from edit_r1.records import CATEGORIES, Judgment, Trace, Unparsed
from edit_r1.store import Features, Row, StoreError, read_json, stream_rows, write_json, writing
from edit_r1.verifier.inputs import InputRow, open_data, read_inputs
from edit_r1.verifier.items import context_key
from edit_r1.verifier.judgments import judgment_json, tie_rates
from edit_r1.verifier.scoring import Progress, ScoreItem, Verifier
from edit_r1.vlm.openai import OpenAIVLM, Usage

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs from writing one file
    fcntl = None  # type: ignore[assignment]

NO_ANSWER, NO_PRINCIPLES, PICTURE, ROW = "no answer", "no principles", "picture", "row"
"""Causes of a row without a score, beside "unparsed"."""
UNPARSED = "unparsed"
CONTEXT_DIGITS = 32
"""Hexadecimal digits of the hash that rows of one source and instruction share: 128 bits."""
ADDRESSES = ("endpoint", "principles_endpoint")
"""Settings that say where a model is and not which."""

FEATURES: Features = {
    "row": "int64",
    "id": "string",
    "context": "string",
    "score": "float64",
    "traces": "int64",
    "unparsed": "int64",
    "score_std": "float64",
    "expected_score": "float64",
    "principles": {"question": "string", "category": "string", "verdict": "float64", "evidence": "string"},
    "repeated": "int64",
    **dict.fromkeys(CATEGORIES, "float64"),
    "model": "string",
    "prompts": "string",
    "seconds": "float64",
    "tokens": "int64",
    "cause": "string",
    "error": "string",
    "texts": {"text": "string", "score": "float64", "reason": "string"},
}
"""Columns of the Parquet output; in JSONL the three categories stand in one object, `categories`."""


@dataclass(frozen=True)
class BatchOptions:
    """How a file of edits is judged."""

    traces: int = 1
    seed: int = 0
    keep_texts: bool = False
    """Keep what the model wrote, every trace of every row."""
    allow_outside: bool = False
    """Read pictures by absolute paths, and by paths that lead out of the data's folder."""
    expected: bool = False
    """Also ask for the score expected under the tokens' probabilities (`verifier.expected_score`)."""
    chunk: int = 64
    """Rows judged together and written together; a run that goes on keeps the one it began with."""


@dataclass(frozen=True)
class BatchSummary:
    """What a finished file holds, and what this call did for it."""

    out: str
    rows: int
    scored: int
    unparsed: int
    """Rows without a score because no trace could be parsed."""
    failed: dict[str, int]
    """Rows without a score by cause: "no answer", "no principles", "picture", "row"."""
    reasons: dict[str, str]
    """The first reason of each cause, "unparsed" included."""
    traces: int
    unparsed_traces: int
    tokens: int
    """Generated tokens of all traces, where the model tells."""
    usage: dict[str, Any] | None
    """`Usage` of the endpoints over all calls for this file; None without an endpoint."""
    judged: int
    """Rows judged by this call."""
    seconds: float
    """Of this call, without opening the model."""
    edits_per_second: float | None
    """judged / seconds; None when nothing was left to judge."""
    ties: dict[str, Any] | None = None
    """`TieRates` among the edits of each source and instruction; None in files of versions that did not count them."""
    repeated: int = 0
    """Principles that the model wrote for these and that were left out, because their question stood there before."""


def score_file(
    open_verifier: Callable[[], Verifier],
    data: Path,
    out: Path,
    options: BatchOptions,
    settings: Mapping[str, Any],
    refuse: Callable[[ScoreItem], str | None] | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Judges every row of `data` into `out` (.jsonl or .parquet), or goes on where an earlier call was stopped.

    Args:
        open_verifier: called once, and not at all when nothing is left to judge.
        settings: what shapes the answers beside `options`; a file made with others is never continued.
        refuse: the reason why an edit must not be judged, None when it may.
        progress: called with (rows finished, rows in all), first with what an earlier call left.

    Raises:
        ValueError: for unusable data; StoreError (one too) for an output that is not of this run, is written by
            another process, or cannot be written; ModelError (one too) when a model cannot be opened or an
            endpoint has stopped answering: what is finished is kept, and the same call goes on.
    """
    if out.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"--out {out}: end its name in .jsonl or .parquet")
    inputs = open_data(data)
    asked = asdict(options) | dict(settings) | {"data": inputs.sha256, "rows": inputs.rows}
    chunk = asked.pop("chunk")
    if not options.expected:  # nor did runs that were begun before it could be asked for
        del asked["expected"]
    journal = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.rows.jsonl")
    state = _begin(out, journal, asked, chunk)
    if state["summary"] is not None:
        nothing = {"judged": 0, "seconds": 0.0, "edits_per_second": None, "out": str(out)}
        return BatchSummary(**{**state["summary"], **nothing})
    start = time.monotonic()
    with _appending(journal) as file:
        done = _recover(file, journal, state["chunk"], inputs.rows)
        if progress is not None:
            progress(done, inputs.rows)
        if done < inputs.rows:
            with open_verifier() as verifier:
                start = time.monotonic()
                check_endpoints(verifier)
                rows = read_inputs(inputs, done, options.allow_outside)
                for first in range(done, inputs.rows, state["chunk"]):
                    part = list(islice(rows, state["chunk"]))
                    results = _judge(verifier, part, options, first, refuse)
                    if any(row["cause"] == NO_ANSWER for row in results):
                        check_endpoints(verifier)  # an outage is not to be written down as the fault of rows
                    _append(file, journal, results)
                    write_json(_record(out), {**state, "usage": endpoint_usage(verifier, state["usage"])})
                    if progress is not None:
                        progress(first + len(part), inputs.rows)
                state["usage"] = endpoint_usage(verifier, state["usage"])
        summary = _summary(out, journal, state["usage"], inputs.rows - done, time.monotonic() - start)
        if journal != out:
            stream_rows(out, map(_flat, _lines(journal)), FEATURES)
    write_json(_record(out), {**state, "summary": asdict(summary)})
    if journal != out:
        journal.unlink()
    return summary


def _judge(
    verifier: Verifier,
    part: Sequence[InputRow],
    options: BatchOptions,
    first: int,
    refuse: Callable[[ScoreItem], str | None] | None,
) -> list[Row]:
    """The results of one chunk, in order."""
    refused = {row.index: refuse(row.item) for row in part if refuse is not None and row.item is not None}
    ready = [row for row in part if row.item is not None and refused.get(row.index) is None]
    items = [row.item for row in ready if row.item is not None]
    judgments = verifier.score_many(items, options.traces, seed=options.seed + first, expected=options.expected)
    judged = dict(zip([row.index for row in ready], judgments, strict=True))
    results = []
    for row in part:
        if row.index in judged:
            result = _result(row, judged[row.index], options.keep_texts)
            if row.item is not None and row.item.principles is None:
                result["repeated"] = verifier.repeated(row.item.sources, row.item.instruction)
            results.append(result)
            continue
        cause, reason = (ROW, refused[row.index]) if row.item is not None else (row.cause, row.problem)
        bad = Judgment(None, 0, 0, None, (), dict.fromkeys(CATEGORIES), verifier.vlm.name, 0.0)
        results.append({**_result(row, bad, options.keep_texts), "cause": cause, "error": reason})
    return results


def _result(row: InputRow, judgment: Judgment, keep_texts: bool) -> Row:
    cause = reason = None
    if judgment.score is None and judgment.outcomes:
        cause, reason = _why([outcome for outcome in judgment.outcomes if isinstance(outcome, Unparsed)])
    result = {
        "row": row.index,
        "id": row.id,
        "context": None if row.item is None else context_key(row.item.sources, row.item.instruction)[:CONTEXT_DIGITS],
        **judgment_json(judgment),
        "repeated": 0,
        "tokens": sum(outcome.tokens for outcome in judgment.outcomes),
        "cause": cause,
        "error": reason,
    }
    if cause in (PICTURE, ROW):  # refused before any model was asked: no trace was lost
        result |= {"traces": 0, "unparsed": 0}
    if keep_texts:
        result["texts"] = [
            {"text": outcome.text, "score": outcome.score, "reason": None}
            if isinstance(outcome, Trace)
            else {"text": outcome.text, "score": None, "reason": outcome.reason}
            for outcome in judgment.outcomes
        ]
    return result


def _why(outcomes: Sequence[Unparsed]) -> tuple[str, str]:
    """(cause, reason) of a judgment without a score; an answer that was no trace counts before one that never came."""
    answered = [outcome for outcome in outcomes if not outcome.failed_call]
    worst = (answered or outcomes)[0]
    if worst.reason.startswith("no principles: ") and not worst.failed_call:
        return NO_PRINCIPLES, worst.reason
    if not worst.failed_call:
        return UNPARSED, worst.reason
    if worst.reason.removeprefix("no principles: ").startswith("no answer came"):
        return NO_ANSWER, worst.reason
    return (PICTURE if worst.reason.startswith(("source image", "edited image")) else ROW), worst.reason


def _endpoints(verifier: Verifier) -> list[OpenAIVLM]:
    models = {id(model): model for model in (verifier.vlm, verifier.principles_vlm)}
    return [model for model in models.values() if isinstance(model, OpenAIVLM)]


def check_endpoints(verifier: Verifier) -> None:
    """Asks each endpoint of the verifier one short question. Raises ModelError for one that does not answer."""
    for model in _endpoints(verifier):
        model.check()


def endpoint_usage(verifier: Verifier, before: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What has been taken of the verifier's endpoints, `Usage` as JSON, on top of `before`; None without one."""
    models = _endpoints(verifier)
    if not models:
        return None
    return asdict(sum((model.usage for model in models), Usage() if before is None else Usage(**before)))


# --- on disk ----------------------------------------------------------------------------------------------------


def _record(out: Path) -> Path:
    return out.with_name(f"{out.name}.run.json")


def _begin(out: Path, journal: Path, asked: dict[str, Any], chunk: int) -> dict[str, Any]:
    """The run's record, new or as an earlier call left it. Raises StoreError for another run's."""
    record = _record(out)
    if not record.exists():
        if out.exists() or journal.exists():
            there = out if out.exists() else journal
            raise StoreError(f"{there}: exists and has no {record.name}: choose another --out, or remove it")
        new = {"asked": asked, "chunk": chunk, "usage": None, "summary": None}
        write_json(record, new)
        return new
    state: Any = read_json(record)
    if not isinstance(state, dict) or state.keys() != {"asked", "chunk", "usage", "summary"}:
        raise StoreError(f"{record}: not a record of score-many: choose another --out, or remove it with {out.name}")
    before: dict[str, Any] = state["asked"]
    odd = [name for name in sorted(before.keys() | asked.keys()) if _differs(name, before.get(name), asked.get(name))]
    if odd:
        told = "; ".join(f"{name}: {before.get(name)!r} then, {asked.get(name)!r} now" for name in odd)
        raise StoreError(f"{out}: begun with other settings or data ({told}): choose another --out, or ask as then")
    if state["summary"] is not None and not out.exists():
        raise StoreError(f"{out}: was finished and is gone: remove {record.name} to judge everything again")
    return dict(state)


def _differs(name: str, before: Any, now: Any) -> bool:
    """Whether a run cannot go on with this setting. A served model is told by its name: its address may have moved."""
    return bool(before != now) and (name not in ADDRESSES or None in (before, now))


@contextmanager
def _appending(journal: Path) -> Iterator[IO[bytes]]:
    """The journal, locked for this process while it is written."""
    with writing(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.touch()
    with open(journal, "a+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                reason = "another process is writing it: wait for it or choose another --out"
                raise StoreError(f"{journal}: {reason}") from error
        yield file


def _recover(file: IO[bytes], journal: Path, chunk: int, total: int) -> int:
    """Drops what a kill left of a chunk; returns the rows that are finished for good.

    Raises StoreError when more than a chunk's worth of lines is damaged: that was no kill.
    """
    file.seek(0)
    good = offset = kept = kept_at = tail = 0
    for line in file:
        if tail or not _is_row(line, good):
            tail += 1
            continue
        good += 1
        offset += len(line)
        if good % chunk == 0 or good == total:
            kept, kept_at = good, offset
    if tail > chunk:
        raise StoreError(f"{journal}: line {good + 1} is damaged: restore the file, or remove it and its .run.json")
    with writing(journal):
        file.truncate(kept_at)
        file.seek(0, os.SEEK_END)
    return kept


def _is_row(line: bytes, index: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and row.get("row") == index


def _append(file: IO[bytes], journal: Path, rows: Sequence[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with writing(journal):
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _lines(journal: Path) -> Iterator[Row]:
    with open(journal, "rb") as file:
        for line in file:
            yield json.loads(line)


def _flat(row: Row) -> Row:
    """A JSON line as a row of `FEATURES`."""
    flat = {name: value for name, value in row.items() if name != "categories"}
    return {"texts": [], "context": None, "repeated": 0, **flat, **row["categories"]}


def _summary(out: Path, journal: Path, usage: dict[str, Any] | None, judged: int, seconds: float) -> BatchSummary:
    causes: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    contexts: dict[str, list[tuple[float | None, float | None]]] = {}
    repeated: dict[str, int] = {}
    rows = traces = unparsed_traces = tokens = 0
    for row in _lines(journal):
        rows += 1
        traces += row["traces"]
        unparsed_traces += row["unparsed"]
        tokens += row["tokens"]
        if row.get("context") is not None:  # a run begun by an older version has rows without it
            contexts.setdefault(row["context"], []).append((row["score"], row["expected_score"]))
            repeated[row["context"]] = max(repeated.get(row["context"], 0), row["repeated"])
        if row["cause"] is not None:
            causes[row["cause"]] += 1
            reasons.setdefault(row["cause"], row["error"])
    unparsed = causes.pop(UNPARSED, 0)
    return BatchSummary(
        out=str(out),
        rows=rows,
        scored=rows - unparsed - causes.total(),
        unparsed=unparsed,
        failed=dict(sorted(causes.items())),
        reasons=reasons,
        traces=traces,
        unparsed_traces=unparsed_traces,
        tokens=tokens,
        usage=usage,
        judged=judged,
        seconds=seconds,
        edits_per_second=judged / seconds if judged else None,
        ties=asdict(tie_rates(contexts.values())),
        repeated=sum(repeated.values()),
    )
