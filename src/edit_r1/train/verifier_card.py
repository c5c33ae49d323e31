"""Cards of a verifier's training: the model card in the result's folder, and one of the data it was trained on.

Everything in them is a fact of the run. Licences are the user's to choose. Cards are made to be published, so folders
of this machine and addresses of servers are cut to their last part (`train.editor_card.plain`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edit_r1.preferences.votes import flip_rate, gather_votes
from edit_r1.records import Preference, Quadruple, Sample
from edit_r1.store.cards import LICENCE_LINE, NOT_SIMULATED, SIMULATED, data_head, markdown_table
from edit_r1.train.editor_card import plain, public_name, versions

LICENCE = "choose a licence that those of the base model and the data allow, and write `license: ...` here"
METRICS = {
    "loss": "loss",
    "mean_token_accuracy": "share of target tokens that are the likeliest",
    "mean_ratio": "mean win ratio (GCPO's reward), 0 to 1",
    "unparsed": "share of traces without a score",
    "truncated": "share of traces cut at the limit",
    "passed": "share of verdicts that are 1",
    "replay_loss": "loss of a replayed token, nats",
    "tie_share": "share of comparisons with equal scores",
    "trace_tokens": "tokens of a trace",
    "entropy": "entropy of a token, nats",
    "score_winner": "mean score of winners, 0 to 10",
    "score_loser": "mean score of losers, 0 to 10",
    "accuracy": "share of training pairs in the right order",
    "margin": "mean difference of the winner's and the loser's logit",
}
"""What a card tells of curves.jsonl, and in which words."""


@dataclass(frozen=True)
class VerifierFacts:
    """What a model card tells."""

    method: str
    """"SFT", "GCPO" or "Bradley-Terry"."""
    stage: Any
    """The stage that was run: a dataclass."""
    data_digest: str
    """SHA-256 of the data's identities in their order."""
    rows: str
    """How much data, in words."""
    lines: Sequence[Mapping[str, Any]]
    """Of curves.jsonl."""


def verifier_card(facts: VerifierFacts) -> str:
    """README.md of a trained verifier, with the front matter that the hub reads."""
    stage = facts.stage
    about = (
        f"`{public_name(stage.model)}` after {facts.method}: it reads a source image, an edit of it, the instruction "
        "and a checklist of principles, and writes 0/1 verdicts with evidence and a score from 0 to 10."
    )
    use = (
        f"```\nedit-r1 score SOURCE EDITED -i TEXT --model .\n```\n\n`edit_r1.json` says how it is asked: prompts "
        f"{stage.variant}, mode {stage.mode}."
    )
    return _model_card(facts, "trained to verify image edits", about, use)


def head_card(facts: VerifierFacts) -> str:
    """README.md of a discriminative head with its backbone."""
    about = (
        f"`{public_name(facts.stage.model)}` with a scalar head, trained by {facts.method}: it reads a source image, "
        "an edit of it and the instruction, and gives one number, higher for the better edit. It writes no checklist, "
        "and only its order was trained: as a score it is 10 times the sigmoid."
    )
    use = (
        "```\nedit-r1 evaluate reward --data PAIRS --model .\n```\n\n`reward_head.json` marks it; the backbone beside "
        "it opens as any checkpoint does."
    )
    return _model_card(facts, "trained to order image edits", about, use)


def _model_card(facts: VerifierFacts, what: str, about: str, use: str) -> str:
    stage = facts.stage
    base = public_name(stage.model)
    alarms = sum(len(line.get("alarms", ())) for line in facts.lines)
    front = [
        "---", f"# {LICENCE}", f"base_model: {json.dumps(base)}", "base_model_relation: finetune",
        "library_name: transformers", "pipeline_tag: image-text-to-text", "tags:",
        *(f"- {tag}" for tag in ("edit-r1", "image-editing", "reward-model", facts.method.lower())), "---",
    ]  # fmt: skip
    parts = [
        "\n".join(front),
        f"# {base.rsplit('/', 1)[-1]}, {what} with edit-r1",
        f"{about} Steps: {facts.lines[-1]['step'] if facts.lines else 0}. Data: {facts.rows}.",
        f"Licence: not set. Before publishing {LICENCE.replace(' here', ' above')}.",
        "## Use",
        use,
        "## Metrics of the training",
        _table(facts.lines, alarms),
        "First: the first logged step; last: the last one. Accuracy on held-out pairs is not measured by a training: "
        "`edit-r1 evaluate reward --data PAIRS --model .` does, for this model and for its base.",
        "## Data",
        f"{facts.rows}; SHA-256 of its identities, in order: `{facts.data_digest}`.",
        "## Recipe",
        f"```json\n{json.dumps(plain(stage), indent=2, ensure_ascii=False)}\n```",
        "## Versions",
        "\n".join(f"- {name} {found}" for name, found in versions().items()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(lines: Sequence[Mapping[str, Any]], alarms: int) -> str:
    rows = ["| metric | first | last |", "|---|---|---|"]
    for name, words in METRICS.items():
        values = [line[name] for line in lines if isinstance(line.get(name), int | float)]
        if values:
            rows.append(f"| {words} | {values[0]:.4g} | {values[-1]:.4g} |")
    return "\n".join([*rows, f"| alarms, in all | | {alarms} |"])


def quadruples_card(quadruples: Iterable[Quadruple]) -> str:
    """Card of curated data: README.md beside its files. One quadruple is in memory at a time."""
    samples: dict[str, Sample] = {}
    editors: Counter[str] = Counter()
    decomposers: Counter[str] = Counter()
    count = targets = 0
    simulated = False
    for each in quadruples:
        sample = each.context.sample
        samples.setdefault(sample.id, replace(sample, source=b"", references=(), instruction="", hidden=None))
        editors[each.candidate.editor] += 1
        decomposers[each.context.decomposer] += 1
        count += 1
        targets += each.target is not None
        simulated |= each.context.simulated
    facts = [
        f"- {count} quadruples (source, edit, instruction, principles), {targets} with a target trace",
        f"- {len(samples)} contexts; {_counted('subset', [sample.subset for sample in samples.values()])}; "
        f"{_counted('split', [sample.split for sample in samples.values()])}",
        f"- {_counted('editor', editors)}",
        f"- {_counted('decomposed by', decomposers)}",
    ]
    licences = Counter(sample.licence or "unknown" for sample in samples.values())
    if licences.keys() != {"unknown"}:
        facts.append(f"- {_counted('contexts by the licence of their picture and text', licences)}")
    kinds = Counter(sample.category or "unknown" for sample in samples.values())
    return _data_card("Checklists and judgments of image edits", facts, kinds, simulated)


def preferences_card(preferences: Sequence[Preference]) -> str:
    """Card of compared edits: README.md beside their files."""
    samples = {each.context.sample.id: each.context.sample for each in preferences}
    votes = gather_votes(preferences).values()
    found = flip_rate([pair.decided() for pair in votes], [pair.source for pair in votes])
    several = "no pair has two decided answers"
    if found is not None:
        several = (
            f"{found.pairs} pairs have several decided answers, {found.disagreement:.1%} of which disagree: "
            f"an estimated flip rate of {found.rate:.3f}"
        )
    annotators = len({each.annotator for each in preferences})
    facts = [
        f"- {len(preferences)} comparisons of two edits on {len(samples)} contexts; "
        f"{_counted('choice', [each.choice for each in preferences])}",
        f"- annotators: {annotators}; {several}",
        f"- {_counted('split', [sample.split for sample in samples.values()])}",
        f"- {_counted('editor', [each.editor for pair in preferences for each in (pair.first, pair.second)])}",
    ]
    kinds = Counter(sample.category or "unknown" for sample in samples.values())
    return _data_card("Preferences between image edits", facts, kinds, any(each.simulated for each in preferences))


def _counted(what: str, values: Iterable[str]) -> str:
    counted = values if isinstance(values, Counter) else Counter(values)
    return f"{what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))


def _data_card(title: str, facts: Sequence[str], kinds: Counter[str], simulated: bool) -> str:
    front = data_head({"default": "*.parquet"}, ["simulated"] if simulated else [])
    table = markdown_table(["kind of edit", "contexts"], sorted(kinds.items()))
    parts = [front, f"# {title}", SIMULATED if simulated else NOT_SIMULATED, LICENCE_LINE, "\n".join(facts), table]
    return "\n\n".join(parts) + "\n"
