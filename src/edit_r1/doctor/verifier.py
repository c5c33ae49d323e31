"""Does a verifier load, answer in its format, and tell a true edit from what is none? A function per check."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edit_r1.doctor.examples import Example
from edit_r1.doctor.findings import Finding, attempt, skipped
from edit_r1.evaluate.probes import BLACK, COPY, SWAPPED
from edit_r1.records import Judgment, Trace, Unparsed
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.zoo.packaged import open_chosen

TRACES = 4
"""Sampled traces of one item that have to differ."""
USABLE = 5.0
"""On the scale of the score 5 is "partly usable": what shows no edit at all has to lie below it."""
MODEL, JUDGMENT, FORMAT, DIFFER, PRINCIPLES, SPEED = (
    "model", "judgment", "format", "traces differ", "principles", "throughput",
)  # fmt: skip
CONTRASTS = (COPY, BLACK, SWAPPED)
AFTER_LOADING = (JUDGMENT, *CONTRASTS, FORMAT, DIFFER, PRINCIPLES, SPEED)


@dataclass(frozen=True)
class Judged:
    """The true edit of every example and its three contrasts, judged in one batch."""

    examples: tuple[Example, ...]
    true: tuple[Judgment, ...]
    contrasts: dict[str, tuple[Judgment, ...]]
    seconds: float
    """Of the whole batch."""

    @property
    def all(self) -> list[Judgment]:
        return [*self.true, *(one for judgments in self.contrasts.values() for one in judgments)]


def load(models: ModelChoice) -> tuple[Finding, Verifier | None]:
    """Opens a model as `score` does, and asks a served one a first question. The one place where doctor opens one."""
    start = time.monotonic()
    opened = attempt(lambda: _open(models))
    if isinstance(opened, str):
        remedy = "give the folder of a vision-language model in the Hugging Face layout; docs/doctor.md"
        if models.endpoint is not None:
            remedy = "is the server running, and are address, key and model's name right? docs/score.md"
        return Finding(MODEL, "fail", opened, remedy), None
    values: dict[str, Any] = {"seconds": time.monotonic() - start, "domain": opened.domain, "variant": opened.variant}
    told = [opened.vlm.name, *_weights(opened, values), f"asked by the {opened.variant} prompts, mode {opened.mode}"]
    told.append(f"loaded in {values['seconds']:.1f} s")
    if opened.domain is not None:
        told.append(f"knows {opened.domain} only")
    return Finding(MODEL, "ok", ", ".join(told), None, values), opened


def _open(models: ModelChoice) -> Verifier:
    models.check()
    verifier = open_chosen(models)
    if isinstance(verifier.vlm, OpenAIVLM):
        verifier.vlm.check()
    return verifier


def _weights(verifier: Verifier, values: dict[str, Any]) -> list[str]:
    """Number and format of a local model's weights, and its attention kernel."""
    from edit_r1.vlm.transformers import TransformersVLM

    if not isinstance(verifier.vlm, TransformersVLM):
        return []
    parameters = list(verifier.vlm.model.parameters())
    values["parameters"] = sum(parameter.numel() for parameter in parameters)
    values["dtypes"] = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    values["attention"] = verifier.vlm.attention
    weights = f"{values['parameters'] / 1e6:,.1f} M weights in {' and '.join(values['dtypes'])}"
    return [weights, f"attention {values['attention']}"]


def examine_verifier(verifier: Verifier, examples: Sequence[Example]) -> list[Finding]:
    """Every check of a verifier that loaded, in the order of `AFTER_LOADING`."""
    first = examples[0]
    findings = [one_judgment(verifier, first)]
    if findings[0].status == "fail":
        return [*findings, *skipped(AFTER_LOADING[1:], "no judgment came")]
    judged = attempt(lambda: judge_contrasts(verifier, examples))
    if isinstance(judged, str):
        findings += skipped([*CONTRASTS, FORMAT], judged)
    else:
        findings += [contrast(judged, name) for name in CONTRASTS]
        findings.append(answer_format(judged.all, verifier.max_new_tokens))
    findings += [traces_differ(verifier, first), writes_principles(verifier, first)]
    return [*findings, *(skipped([SPEED], judged) if isinstance(judged, str) else [throughput(judged)])]


def one_judgment(verifier: Verifier, example: Example) -> Finding:
    """The true edit of one example, end to end."""
    judgment = attempt(
        lambda: verifier.score([example.source], example.edited, example.instruction, example.principles)
    )
    if isinstance(judgment, str):
        return Finding(JUDGMENT, "fail", judgment, "try smaller pictures, another --dtype or another --device")
    values = {"score": judgment.score, "seconds": judgment.seconds}
    if judgment.score is not None:
        told = f"{example.name}: {judgment.score:.1f} of 10 for a true edit, {judgment.seconds:.1f} s"
        return Finding(JUDGMENT, "ok", told, None, values)
    reason = _reasons([judgment])[0]
    if any(isinstance(outcome, Unparsed) and outcome.failed_call for outcome in judgment.outcomes):
        return Finding(JUDGMENT, "fail", f"no answer came: {reason}", "mend what the reason says", values)
    return Finding(JUDGMENT, "warn", f"an answer came and no score could be read from it: {reason}",
                   "see the check of the format", values)  # fmt: skip


def judge_contrasts(verifier: Verifier, examples: Sequence[Example]) -> Judged:
    """Greedy judgments, all in one call, by given principles: what is examined is the judging."""
    items: list[ScoreItem] = []
    for example in examples:
        source = (example.source,)
        items += [
            ScoreItem(source, example.edited, example.instruction, example.principles),
            ScoreItem(source, example.source, example.instruction, example.principles),
            ScoreItem(source, example.black, example.instruction, example.principles),
            ScoreItem(source, example.edited, example.other_instruction, example.other_principles),
        ]
    start = time.monotonic()
    judgments = verifier.score_many(items)
    seconds = time.monotonic() - start
    contrasts = {name: tuple(judgments[place::4]) for place, name in enumerate(CONTRASTS, start=1)}
    return Judged(tuple(examples), tuple(judgments[::4]), contrasts, seconds)


def contrast(judged: Judged, name: str) -> Finding:
    """A contrast has to score below the true edit of its example, and below `USABLE`.

    ok: both on every example; warn: below the true edit on most of them, or not below `USABLE`; fail: on half of the
    examples or fewer. An example with an unparsed score is counted and compared with nothing.
    """
    pairs = [
        (example.name, true.score, other.score)
        for example, true, other in zip(judged.examples, judged.true, judged.contrasts[name], strict=True)
    ]
    told = "; ".join(f"{example}: {_shown(other)} against {_shown(true)}" for example, true, other in pairs)
    scored = [(true, other) for _, true, other in pairs if true is not None and other is not None]
    values = {"examples": [{"name": one, "true": true, "contrast": other} for one, true, other in pairs]}
    if not scored:
        return Finding(name, "skipped", "no pair of scores could be read", None, values)
    below = sum(other < true for true, other in scored)
    high = sum(other >= USABLE for _, other in scored)
    text = f"below the true edit on {below} of {len(pairs)}. {told}"
    what = "instruction" if name == CONTRASTS[2] else "pictures"
    remedy = f"the score follows the {what} poorly: average more --traces, take a larger model, or train this one"
    if below <= len(pairs) / 2:
        return Finding(name, "fail", text, remedy, values)
    if below < len(pairs) or high:
        text += f". {high} of {len(pairs)} at {USABLE:g} or above" if high else ""
        if below == len(pairs):
            remedy = (
                "the order is right and the value too high: rank by it, set no threshold; or train the model on such"
            )
        return Finding(name, "warn", text, remedy, values)
    return Finding(name, "ok", text, None, values)


def _shown(score: float | None) -> str:
    return "unparsed" if score is None else f"{score:.1f}"


def answer_format(judgments: Sequence[Judgment], max_new_tokens: int) -> Finding:
    """Is the answer what the prompt asks for: parsed, with every verdict, not cut off; and how long is it."""
    outcomes = [outcome for judgment in judgments for outcome in judgment.outcomes]
    traces = [outcome for outcome in outcomes if isinstance(outcome, Trace)]
    cut = sum(outcome.tokens >= max_new_tokens for outcome in outcomes)
    lengths = sorted(outcome.tokens for outcome in outcomes if outcome.tokens)
    values: dict[str, Any] = {
        "answers": len(outcomes),
        "parsed": len(traces),
        "with_verdicts": sum(trace.verdicts is not None for trace in traces),
        "with_average": sum(trace.average_score is not None for trace in traces),
        "cut": cut,
        "tokens_median": lengths[len(lengths) // 2] if lengths else None,
        "tokens_max": lengths[-1] if lengths else None,
        "max_new_tokens": max_new_tokens,
        "reasons": _reasons(judgments),
    }
    told = (
        f"{len(traces)} of {len(outcomes)} answers parsed, {values['with_verdicts']} with every verdict, "
        f"{values['with_average']} with an average score, {cut} cut at {max_new_tokens} tokens"
    )
    if lengths:
        told += f"; {values['tokens_median']} tokens in the middle, {lengths[-1]} at most"
    if values["reasons"]:
        told += f". {values['reasons'][0]}"
    if cut:
        remedy = "the model goes on writing: raise --max-new-tokens, or take an instruction-tuned model"
        return Finding(FORMAT, "fail" if cut > len(outcomes) / 2 else "warn", told, remedy, values)
    if len(traces) <= len(outcomes) / 2:
        return Finding(
            FORMAT, "fail", told, "the model does not keep the format: take a larger or a trained one", values
        )
    if len(traces) < len(outcomes) or values["with_verdicts"] < len(traces):
        return Finding(FORMAT, "warn", told, "unparsed answers have no score: ask for several --traces", values)
    return Finding(FORMAT, "ok", told, None, values)


def _reasons(judgments: Sequence[Judgment]) -> list[str]:
    """Why outcomes could not be parsed, each reason once."""
    found = [one.reason for judgment in judgments for one in judgment.outcomes if isinstance(one, Unparsed)]
    return list(dict.fromkeys(found))


def traces_differ(verifier: Verifier, example: Example) -> Finding:
    """Are N traces sampled at temperature 1 different texts? A pinned generation config makes them one."""
    judgment = attempt(
        lambda: verifier.score([example.source], example.edited, example.instruction, example.principles, TRACES)
    )
    if isinstance(judgment, str):
        return Finding(DIFFER, "fail", judgment, "see the judgment check")
    texts = [outcome.text for outcome in judgment.outcomes]
    scores = [outcome.score for outcome in judgment.outcomes if isinstance(outcome, Trace)]
    values = {"traces": TRACES, "different": len(set(texts)), "scores": scores}
    shown = ", ".join(f"{score:.1f}" for score in scores) or "none"
    told = f"{len(set(texts))} different texts of {TRACES} sampled; scores {shown}"
    if len(set(texts)) > 1:
        return Finding(DIFFER, "ok", told, None, values)
    remedy = "the backend ignores the temperature: unset top_k and do_sample in its generation config"
    return Finding(DIFFER, "fail", told, remedy, values)


def writes_principles(verifier: Verifier, example: Example) -> Finding:
    """Does the model write usable principles itself? Where it does not, they can be given."""
    written = attempt(lambda: verifier.principles([example.source], example.instruction))
    if isinstance(written, str):
        return Finding(PRINCIPLES, "warn", written, "give principles from a file or from another model")
    count = Counter(one.category for one in written)
    repeated = verifier.repeated([example.source], example.instruction)
    told = f"{len(written)} written: {', '.join(f'{number} {name}' for name, number in count.items())}"
    told += f"; {repeated} more asked what one of them asks" if repeated else ""
    values = {"count": len(written), "categories": dict(count), "repeated": repeated}
    return Finding(PRINCIPLES, "ok", told, None, values)


def throughput(judged: Judged) -> Finding:
    """An estimate from the batch of the contrasts: one run, small pictures, nothing else measured."""
    edits, seconds = len(judged.all), max(judged.seconds, 1e-9)
    tokens = sum(outcome.tokens for judgment in judged.all for outcome in judgment.outcomes)
    values = {"edits": edits, "seconds": seconds, "edits_per_s": edits / seconds, "tokens_per_s": tokens / seconds}
    rates = f"{edits / seconds:.2f} edits/s and {tokens / seconds:.0f} tokens/s"
    told = f"about {rates}: an estimate from one batch of {edits}"
    return Finding(SPEED, "ok", told, None, values)
