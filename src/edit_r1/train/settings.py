"""Settings in groups: a config holds at most 25 fields, so that a stage's stand in groups of what belongs together."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from tyro.conf import arg

Unprefixed = arg(name="")
"""On the command line the fields of a group have their own names alone, which therefore differ between groups; those
of a recipe's reward or guard are "--reward.value"."""


def groups_of(stage: Any) -> dict[str, str]:
    """The group of every grouped field of a stage, by the field's name."""
    return {
        one.name: group.name
        for group in fields(stage)
        if is_dataclass(getattr(stage, group.name))
        for one in fields(getattr(stage, group.name))
    }


def changed(stage: Any, **changes: Any) -> Any:
    """A stage with other values of fields, those of its groups by their own names, as on the command line.

    Raises TypeError for a field that there is not, ValueError as the stage and its groups do.
    """
    groups = groups_of(stage)
    grouped: dict[str, dict[str, Any]] = {}
    for name in list(changes):
        if name in groups:
            grouped.setdefault(groups[name], {})[name] = changes.pop(name)
    for group, own in grouped.items():
        changes[group] = replace(changes.get(group, getattr(stage, group)), **own)
    return replace(stage, **changes)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """A stage as `dataclasses.asdict` gives it, the fields of its groups among its own."""
    spread: dict[str, Any] = {}
    for name, value in values.items():
        spread |= value if isinstance(value, dict) else {name: value}
    return spread
