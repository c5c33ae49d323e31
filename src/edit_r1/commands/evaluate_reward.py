"""`edit-r1 evaluate reward`: a judge on a public benchmark or on our own pairs, and two judges compared."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from edit_r1.commands.shared import PACKAGED, UNPARSED, USAGE, Models, check_file, check_traces, complain, print_json

if TYPE_CHECKING:  # the rest is imported where it is used, so that other commands start without it
    from edit_r1.evaluate.benchmarks.pair import Benchmark
    from edit_r1.evaluate.judges import EditJudge
    from edit_r1.evaluate.judging import JudgedBenchmark
    from edit_r1.evaluate.reward_report import Result
    from edit_r1.verifier.choice import ModelChoice

Name = Literal["pairs", "vs", "tiger", "compass"]


@dataclass(frozen=True)
class RewardOptions:
    """What is evaluated, and how it is asked."""

    data: str = ""
    """A folder or file of the benchmark, or its id on the hub, OWNER/NAME."""
    benchmark: Name = "pairs"
    """vs: EditReward-Bench of VectorSpaceLab; tiger: that of TIGER-Lab; compass: EditReward-Compass; pairs: preferences
    in our Parquet format (RUN/data/test of a demo)."""
    judge: Literal["checklist", "holistic"] = "checklist"
    """How the model is asked: by principles, or for SC and PQ as a holistic baseline. A folder with a scalar head is
    always asked for its number."""
    traces: int = 1
    """1 is greedy; more are sampled, and the score is their mean."""
    seed: int = 0
    """Of the traces."""
    expected: bool = False
    """Also ask for the probabilities of the score's digits, to break ties in a report apart."""
    dimension: str = ""
    """Judge and report the comparisons of this dimension alone; without it all, the benchmark's main one first."""
    by: Literal["score", "dimension"] = "score"
    """What is compared: the score, or in a dimension that the judge's own part of it (checklist, SC or PQ)."""
    compare: tuple[str, str] | None = None
    """A B: the paired difference, A minus B, of two judges; each a file that --out wrote, or a model to judge with."""
    out: Path | None = None
    """File for the document with every comparison's scores (.json), for --compare."""
    cache: Path | None = None
    """Folder of judgments that were paid for; by default beside the cache of principles."""
    split: str = ""
    """Of data that has several."""
    revision: str | None = None
    """Commit, tag or branch of a dataset on the hub; without it the newest."""
    allow_outside: bool = False
    """Read pictures outside the data's folder too."""
    json: bool = False
    """One JSON document on stdout."""


Options = Annotated[RewardOptions, tyro.conf.arg(name="")]
DEFAULTS = RewardOptions()


def evaluate_reward(options: Options = DEFAULTS, models: Models = PACKAGED) -> int:
    """How well a judge orders pairs of edits as people do: public benchmarks, or our own pairs."""
    from edit_r1.evaluate.reward_report import compare_results
    from edit_r1.store import write_json

    check_traces(options.traces)
    models.check()
    if options.out is not None and options.out.suffix != ".json":
        raise ValueError(f"--out {options.out}: end its name in .json")
    if options.out is not None:
        check_file(options.out)
    benchmark = _benchmark(options.benchmark)
    if options.compare is not None:
        a, b = (_result_of(name, options, models, benchmark) for name in options.compare)
        document = compare_results(_benchmark(a.benchmark), a, b, options.dimension, options.by, options.seed)
        if options.out is not None:
            write_json(options.out, document)
        _show(document, options.json)
        for one in (a, b):
            if one.failed:
                told = f"{one.name}: {one.failed} edits have no whole answer, and their comparisons may count as wrong"
                complain(f"{told}; judge them again before you compare")
        return 0
    if models.model is None:
        complain("evaluate reward needs the judge's model: add --model PATH, or --endpoint URL --model NAME")
        return USAGE
    if not options.data:
        complain("evaluate reward needs a benchmark's data: add --data FOLDER, or its id on the hub")
        return USAGE
    if benchmark.name == "pairs" and models.principles_model is not None:
        raise ValueError("--principles-model: preference pairs carry their principles; leave it out")
    judged, document = _evaluate(options, models, benchmark)
    if options.out is not None:
        from edit_r1.evaluate.judging import pair_row

        write_json(options.out, {**document, "rows": [pair_row(pair) for pair in judged.pairs]})
    _show(document, options.json)
    if judged.failed:
        reason = next(iter(judged.failed.values()))
        lost = f"{len(judged.failed)} of {judged.edits} edits have no whole answer ({reason})"
        complain(f"{lost}; the same command asks for them again")
    if document["unparsed"] < document["pairs"]:
        return 0
    if not judged.reasons and options.by == "dimension":
        complain(
            "no judgment has a verdict of this dimension's part: leave --by dimension out, or ask for verdicts (--mode)"
        )
        return UNPARSED
    complain(f"no trace could be parsed: {next(iter(judged.reasons), 'no answer')}")
    return UNPARSED


def _benchmark(name: str) -> Benchmark:
    from edit_r1.evaluate.benchmarks.compass import COMPASS
    from edit_r1.evaluate.benchmarks.pairs import PAIRS
    from edit_r1.evaluate.benchmarks.tiger import TIGER
    from edit_r1.evaluate.benchmarks.vs import VS

    known = {one.name: one for one in (PAIRS, VS, TIGER, COMPASS)}
    if name not in known:
        raise ValueError(f"benchmark {name!r}: known are {', '.join(known)}")
    return known[name]


def _evaluate(
    options: RewardOptions, models: ModelChoice, benchmark: Benchmark
) -> tuple[JudgedBenchmark, dict[str, Any]]:
    """Judges, reports, and says what it was made of. Raises ValueError when nothing was answered."""
    from edit_r1.evaluate.benchmarks.pair import open_benchmark
    from edit_r1.evaluate.judges import cache_identity, judge_kind, open_judge
    from edit_r1.evaluate.judging import JudgeOptions, judge_benchmark
    from edit_r1.evaluate.judgment_cache import JudgmentCache, default_folder
    from edit_r1.evaluate.reward_report import report_benchmark
    from edit_r1.report.terminal import quiet_libraries
    from edit_r1.report.totals import batch_progress

    kind = judge_kind(models, options.judge)
    if kind == "head" and options.traces > 1:
        raise ValueError(f"--traces {options.traces}: a discriminative head samples nothing; leave it out")
    if kind == "head" and options.by == "dimension":
        raise ValueError("--by dimension: a discriminative head has one number and no parts; leave it out")
    opened = open_benchmark(benchmark, options.data, options.split, options.revision, options.allow_outside)
    identity = cache_identity(models, kind)
    cache = JudgmentCache(options.cache or default_folder(), identity)

    def opened_judge() -> EditJudge:
        if models.endpoint is None:
            quiet_libraries()
        return open_judge(models, kind)

    start = time.monotonic()
    asked = JudgeOptions(options.traces, seed=options.seed, expected=options.expected)
    with batch_progress() as progress:
        judged = judge_benchmark(benchmark, opened, opened_judge, cache, identity, asked, options.dimension, progress)
    if len(judged.failed) == judged.edits:
        raise ValueError(f"no edit was judged: {next(iter(judged.failed.values()))}")
    document = report_benchmark(benchmark, judged.pairs, options.dimension, options.by, options.seed) | {
        "dataset": {"data": options.data, "revision": opened.revision, "hash": judged.hash, "rows": opened.rows},
        "judge": {"kind": kind, "model": models.model, "endpoint": models.endpoint, "traces": options.traces,
                  "seed": options.seed, "identity": identity[:16]},
        "edits": judged.edits,
        "cached": cache.found,
        "failed": len(judged.failed),
        "reasons": judged.reasons,
        "seconds": time.monotonic() - start,
    }  # fmt: skip
    return judged, document


def _result_of(name: str, options: RewardOptions, models: ModelChoice, benchmark: Benchmark) -> Result:
    """One side of --compare: read from a file that --out wrote, or judged now. Raises ValueError for neither."""
    from edit_r1.evaluate.judging import pair_of
    from edit_r1.evaluate.reward_report import Result
    from edit_r1.store import read_json

    if not name.endswith(".json"):
        if not options.data:
            raise ValueError(f"--compare {name}: judging with a model needs --data; or name a file that --out wrote")
        judged, _ = _evaluate(options, replace(models, model=name), benchmark)
        return Result(name, benchmark.name, judged.hash, judged.pairs, len(judged.failed))
    document = read_json(name)
    try:
        pairs = [pair_of(row) for row in document["rows"]]
        hashed, failed = str(document["dataset"]["hash"]), int(document.get("failed", 0))
        return Result(name, str(document["benchmark"]), hashed, pairs, failed)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: not a result of `evaluate reward --out` ({type(error).__name__}: {error}): write it anew"
        ) from error


def _show(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    from edit_r1.report.benchmark_tables import comparison_table, reward_tables

    Console().print(comparison_table(document) if "difference" in document else reward_tables(document))
