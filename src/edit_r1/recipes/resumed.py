"""What a resumed editor's training may not have changed beside its stage and its contexts, which its states know.

A state holds the trained weights and nothing of the base model, the judge or the algorithm: with others of these a run
would go on without a word, on a reward that its earlier curve was not drawn by. So the first start notes them in the
run's folder. Addresses of servers, devices, batch sizes and off-loading may change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.evaluate.judge_identity import fingerprint, judge_identity
from edit_r1.records import Context
from edit_r1.store import read_json, write_json
from edit_r1.train.editor_card import plain
from edit_r1.train.editor_policy import contexts_digest
from edit_r1.train.judges import JudgeSettings, split_device
from edit_r1.train.rewards import RewardSettings

RECORD = "recipe.json"
_SPEED = ("batch_size", "padding", "offload_encoders")
"""Of an editor's settings: they change nothing but rounding."""
_JUDGE = ("traces", "temperature", "seed", "mode", "variant", "max_new_tokens", "max_pixels", "server_sampling")
_REWARD = ("value", "weights", "combine", "gate", "gate_threshold", "copies", "std_floor", "batch_floor")


def check_resumed(out: Path, now: dict[str, Any], resumed: bool, first: bool) -> None:
    """Hold what shapes a run (`shaping`) against what its first start noted in `out`; in a new run note it.

    first: whether this process writes. What an earlier version did not note is not compared.
    Raises ValueError that names what has changed.
    """
    record = out / RECORD
    if resumed and record.exists():
        before = read_json(record)
        odd = [name for name, was in before.items() if now.get(name) != was]
        changed = [f"{name} was {before[name]!r} and is {now.get(name)!r}" for name in odd]
        if changed:
            raise ValueError(
                f"{out} was started with another recipe ({'; '.join(changed)}): restore these to resume, or start in a "
                "new folder"
            )
    elif first:
        write_json(record, now)


def shaping(
    algorithm: Any,
    load: Any,
    reward: RewardSettings,
    heldout: JudgeSettings,
    heldout_share: float,
    validation: Sequence[Context],
    validation_seed: int,
) -> dict[str, Any]:
    """By name, as JSON has it: what shapes an iteration or a guard's decision beyond stage and training contexts."""
    told: dict[str, Any] = {"algorithm": plain(algorithm), **_editor(load), **_judge("judge", reward.judge)}
    told |= {f"reward.{name}": getattr(reward, name) for name in _REWARD}
    told |= _judge("heldout", heldout) if heldout.address else {"heldout": None, "heldout_share": heldout_share}
    told |= {"validation": contexts_digest(validation)[:16], "guard.seed": validation_seed}
    same: dict[str, Any] = json.loads(json.dumps(told))
    return same


def _editor(load: Any) -> dict[str, Any]:
    if not isinstance(load, EditorCheckpoint):
        return {"load": plain(load)}
    weights = Path(load.path) / "transformer"
    known = f"files:{fingerprint(weights)}" if any(weights.glob("*.safetensors")) else f"name:{load.path}"
    settings = {
        f"settings.{one.name}": getattr(load.settings, one.name)
        for one in fields(load.settings)
        if one.name not in _SPEED
    }
    return {"editor": known, "dtype": load.dtype, "quantise": load.quantise, **settings}


def _judge(role: str, settings: JudgeSettings) -> dict[str, Any]:
    url, _, model = settings.address.partition("#")
    if not url.startswith(("http://", "https://")):
        identity = judge_identity(split_device(settings.address)[0])
    else:
        # `edit-r1 serve` names its model itself, and may have moved: only that it is one is known here.
        identity = judge_identity(model, url) if model else "served"
    return {role: identity, **{f"{role}.{name}": getattr(settings, name) for name in _JUDGE}}
