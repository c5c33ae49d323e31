"""A recipe's condition that its judge was found fit to train an editor (`edit-r1 evaluate readiness`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from edit_r1.evaluate.judge_identity import judge_identity
from edit_r1.evaluate.readiness_verdict import ReadinessThresholds, looser
from edit_r1.store import read_json
from edit_r1.train.judges import JudgeSettings, split_device
from edit_r1.train.rewards import RewardSettings
from edit_r1.verifier.cards import read_card
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.verifier.scoring import MAX_NEW_TOKENS, trace_temperature

_KEYS = ("identity", "model", "variant", "prompts", "traces", "value", "weights", "gate", "gate_threshold")
_MEASURE = "measure it with `edit-r1 evaluate readiness`, or leave --require-ready out"
_MEASURE_SO = "measure it with these (what is judged is kept), or set the recipe's --ready.NAME"
ASKED = ReadinessThresholds()


def check_ready(path: Path, reward: RewardSettings, required: ReadinessThresholds = ASKED) -> None:
    """Raises ValueError unless the verdict in `path` asked for what is required, was passed, and is about `reward`.

    That is the same judge (by its files' content, or its name where it is served), asked by the prompts of today, as
    many traces, in the same mode, variant and precision, with the same temperature and limits, the same value of its
    judgments and, for verdicts, the same weights and gate. `required` is compared with the thresholds that it was
    measured by. What the verdict does not tell, as one of an earlier version, is not compared.
    """
    found = read_json(path)
    try:
        judge: dict[str, Any] = found["judge"]
        missed = [check["name"] for check in found["checks"] if check["passed"] is False]
        was = {name: judge[name] for name in _KEYS}
        ready = found["ready"] is True
        short = looser({**found.get("thresholds", {})}, required)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a verdict of `edit-r1 evaluate readiness` ({error!r}): {_MEASURE}") from error
    if not ready or missed:
        told = ", ".join(missed) or "see the file"
        raise ValueError(f"{path}: {was['model']} was found not ready ({told}): mend the judge and {_MEASURE}")
    if short:
        raise ValueError(f"{path}: asked less of {was['model']} than is required ({'; '.join(short)}): {_MEASURE_SO}")
    asked: dict[str, Any] = {"traces": reward.judge.traces, "value": reward.value}
    asked["prompts"] = {str(name): version for name, version in PROMPT_VERSIONS.items()}.get(was["variant"])
    shaped = _shaped(reward.judge)
    was |= {name: judge[name] for name in shaped if name in judge}
    asked |= {name: value for name, value in shaped.items() if name in judge}
    if reward.value != "score":
        asked |= {"weights": list(reward.weights), "gate": reward.gate}
        if reward.gate == "threshold":
            asked["gate_threshold"] = reward.gate_threshold
    odd = [f"{name} {was[name]} there, {value} here" for name, value in asked.items() if was[name] != value]
    if odd:
        raise ValueError(f"{path}: is about another reward ({'; '.join(odd)}): set the recipe alike, or {_MEASURE}")
    _check_same_judge(path, reward, was)


def _shaped(judge: JudgeSettings) -> dict[str, Any]:
    """What else shapes its answers and is known here; of `edit-r1 serve` nothing is."""
    url, _, model = judge.address.partition("#")
    if url.startswith(("http://", "https://")) and not model:
        return {}
    card = read_card(model or split_device(judge.address)[0])
    variant = judge.variant or card.variant
    return {
        "mode": judge.mode or card.mode,
        "variant": variant,
        "max_new_tokens": judge.max_new_tokens or MAX_NEW_TOKENS[variant],
        "max_pixels": judge.max_pixels,
        "server_sampling": judge.server_sampling,
        "dtype": None if model else judge.dtype,
        "temperature": trace_temperature(judge.traces) if judge.temperature is None else judge.temperature,
    }


def _check_same_judge(path: Path, reward: RewardSettings, was: dict[str, Any]) -> None:
    address = reward.judge.address
    if address.startswith(("http://", "https://")):
        url, _, model = address.partition("#")
        if model:
            identity = judge_identity(model, url)
        else:
            # `edit-r1 serve` tells the name of its model, no more.
            identity, was = f"name:{_served_model(url, reward)}", {**was, "identity": f"name:{was['model']}"}
    else:
        identity = judge_identity(split_device(address)[0])
    if identity != was["identity"]:
        raise ValueError(
            f"{path}: is about another judge ({was['model']}, {was['identity']}) than {address} ({identity}): "
            f"{_MEASURE}"
        )


def _served_model(url: str, reward: RewardSettings) -> str:
    token = os.environ.get(reward.judge.key_env)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", headers=headers, timeout=min(30.0, reward.judge.timeout_s))
        return str(answer.json()["model"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{url}: no `edit-r1 serve` answers there ({type(error).__name__}): start it") from error
