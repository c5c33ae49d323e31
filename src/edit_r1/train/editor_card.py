"""The model card of a trained editor: README.md in the result's folder, with the front matter that the hub reads.

Everything in it is a fact of the run: the recipe with every field, the data's digest, the metrics, the versions. The
licence is the user's to choose. A card is made to be published, so folders of this machine and addresses of servers are
cut to their last part.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from edit_r1.store import write_text
from edit_r1.store.cards import public_text

PACKAGES = ("edit-r1", "torch", "diffusers", "transformers", "peft", "accelerate")
LICENCE = "choose a licence that those of the base model, the data and the judge allow, and write `license: ...` here"


@dataclass(frozen=True)
class CardFacts:
    """What a card tells."""

    base_model: str
    """Hub id of the editor before training, or the name of its folder."""
    pipeline: str
    """Class of the diffusers pipeline."""
    kind: Literal["adapter", "merged"]
    recipe: Any
    """The config that was run: a dataclass."""
    data_digest: str
    """SHA-256 of the training contexts in their order."""
    contexts: int
    """Training contexts."""
    metrics: Path
    """metrics.jsonl of the run."""
    steps: int
    """Iterations done."""
    stopped: bool
    """Whether a guard ended the run, so that the result is an earlier state."""


def write_editor_card(result: Path, facts: CardFacts) -> Path:
    """Writes README.md into the result's folder and returns it. Raises StoreError when it cannot be written."""
    card = result / "README.md"
    lines = [json.loads(text) for text in facts.metrics.read_text(encoding="utf-8").splitlines()]
    write_text(card, editor_card(facts, lines))
    return card


def editor_card(facts: CardFacts, lines: Sequence[Mapping[str, Any]]) -> str:
    """The card's text. lines: of metrics.jsonl."""
    # JSON's strings are YAML's too.
    front = [
        "---",
        f"# {LICENCE}",
        f"base_model: {json.dumps(facts.base_model)}",
        f"base_model_relation: {'adapter' if facts.kind == 'adapter' else 'finetune'}",
        "library_name: diffusers",
        "pipeline_tag: image-to-image",
        "tags:",
        *(f"- {tag}" for tag in ("edit-r1", "image-editing", "reinforcement-learning")),
        *(["- lora"] if facts.kind == "adapter" else []),
        "---",
    ]
    what = "A LoRA adapter for" if facts.kind == "adapter" else "A version of"
    parts = [
        "\n".join(front),
        f"# {facts.base_model.rsplit('/', 1)[-1]}, trained with edit-r1",
        f"{what} `{facts.base_model}`, trained by reinforcement learning with a verifier of image edits as the reward. "
        f"Iterations: {facts.steps}. Training contexts: {facts.contexts}."
        + (" A guard ended the run; the weights are those that the held-out reward liked best." * facts.stopped),
        f"Licence: not set. Before publishing {LICENCE.replace(' here', ' above')}.",
        "## Use",
        f"```python\n{loading_code(facts)}```",
        "## Metrics",
        _metrics_table(lines),
        "First: the first line of its kind in metrics.jsonl; last: the last one. Rewards are 0 to 10.",
        "## Data",
        f"{facts.contexts} contexts; SHA-256 of their ids, instructions and pictures, in order: `{facts.data_digest}`.",
        "## Recipe",
        f"```json\n{json.dumps(plain(facts.recipe), indent=2, ensure_ascii=False)}\n```",
        "## Versions",
        "\n".join(f"- {name} {found}" for name, found in versions().items()),
    ]
    return "\n\n".join(parts) + "\n"


def loading_code(facts: CardFacts) -> str:
    """Python that loads the result; its folder is the current one."""
    lines = [f"from diffusers import {facts.pipeline}", ""]
    if facts.kind == "adapter":
        lines += [
            f"base = {json.dumps(facts.base_model)}",
            'adapter = "."  # this folder, or its id on the hub',
            f"pipeline = {facts.pipeline}.from_pretrained(base)",
            "pipeline.load_lora_weights(adapter)",
        ]
    else:
        lines += [
            'model = "."  # this folder, or its id on the hub',
            f"pipeline = {facts.pipeline}.from_pretrained(model)",
        ]
    return "\n".join(lines) + "\n"


def _metrics_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """First and last of: the reward, the validations' rewards, every number of the evaluations."""
    rows = ["| metric | first | last |", "|---|---|---|"]
    wanted = {"step": ("reward_mean",), "validation": ("reward_mean", "heldout_mean"), "evaluation": ()}
    for kind, names in wanted.items():
        own = [line for line in lines if line["kind"] == kind]
        found = names or tuple(dict.fromkeys(name for line in own for name in line if name not in ("kind", "step")))
        for name in found:
            values = [line[name] for line in own if isinstance(line.get(name), int | float)]
            if values:
                rows.append(f"| {_NAMES.get((kind, name), name)} | {values[0]:.4g} | {values[-1]:.4g} |")
    alerts = sum(len(line.get("alerts", ())) for line in lines)
    return "\n".join([*rows, f"| alerts of the guard, in all | | {alerts} |"])


_NAMES = {
    ("step", "reward_mean"): "training reward, mean of an iteration",
    ("validation", "reward_mean"): "training reward on validation contexts",
    ("validation", "heldout_mean"): "held-out reward on validation contexts",
}


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def plain(value: Any) -> Any:
    """A config as JSON values, every field in it; functions by name, folders and addresses by their last part."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, partial):
        return {"function": plain(value.func), "arguments": plain([*value.args]), "keywords": plain(value.keywords)}
    if isinstance(value, Path):
        return plain(str(value))
    if isinstance(value, str):
        return public_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if name else str(value)


def public_name(origin: str) -> str:
    """A hub id as it is; of a folder its name."""
    if Path(origin).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", origin):
        return Path(origin).resolve().name if Path(origin).exists() else Path(origin).name or origin
    return origin
