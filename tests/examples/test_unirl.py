"""UniRL: the settings fit its fields, and the server answers what its remote backend sends and reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import httpx

from edit_r1.verifier.scoring import Verifier


@dataclass
class RemoteRewardSpec:
    """The fields and defaults of unirl.reward.remote."""

    base_url: str = ""
    required_rewards: tuple[str, ...] = ()
    reward_weights: dict[str, float] | None = None
    batch_size: int = 8
    timeout: float = 300.0
    max_retries: int = 3
    retry_delay: float = 1.0
    request_batch_size: int | None = None
    require_identity_echo: bool = False
    expected_scorer_version: str | None = None
    sub_metric_reduce: str = "first"
    aggregation_method: str = "weighted_sum"
    image_format: str = "JPEG"
    image_quality: int = 95
    video_fps: int = 8
    input_kind: str = "image"
    raise_on_failure: bool = True


IDENTITY = ("request_id", "sample_id", "group_id", "source_rank", "policy_version", "idempotency_key")


def wire(kit: SimpleNamespace, spec: RemoteRewardSpec, number: int, fault: int = 0) -> dict:
    return {
        "history": [
            {"text": f"edit {number}", "image_b64": kit.b64(kit.picture(number + 100))},
            {"text": f"edit {number}", "image_b64": kit.b64(kit.picture(number, fault))},
        ],
        "required_rewards": list(spec.required_rewards),
        "metadata": None,
        "request_id": f"sample-{number}", "sample_id": f"sample-{number}", "group_id": "group-0", "source_rank": 0,
        "policy_version": None, "scorer_version": None, "idempotency_key": f"{number:064x}",
    }  # fmt: skip


def test_the_server_fits_unirls_remote_backend(kit: SimpleNamespace, stand_in, example) -> None:
    stand_in("unirl.reward.remote", RemoteRewardSpec=RemoteRewardSpec)
    with kit.live(Verifier(kit.FakeVLM(), variant="compact")) as url:
        spec = example("unirl_reward").edit_rrm(url)
        assert spec.raise_on_failure and spec.image_format == "PNG"
        served = httpx.get(f"{spec.base_url}/health").json()["rewards"]
        assert set(spec.required_rewards) <= served.keys()
        requests = [wire(kit, spec, number, fault) for number, fault in ((80, 0), (2, kit.UNPARSED), (15, 0))]
        payload = {"protocol_version": "1", "requests": requests}
        raw = httpx.post(f"{spec.base_url}/score", json=payload, timeout=spec.timeout).raise_for_status().json()
    assert raw["protocol_version"] == "1"
    for sent, echoed in zip(requests, raw["identities"], strict=True):
        assert {key: sent[key] for key in IDENTITY} == {key: echoed[key] for key in IDENTITY}
    first, failed, last = raw["results"]
    assert [next(iter(one["edit_rrm"].values())) for one in (first, last)] == [0.8, 0.15]
    assert all(math.isfinite(value) for value in first["edit_rrm"].values())
    assert failed == {} and raw["errors"][1].keys() == {"edit_rrm"}
    assert raw["errors"][0] == raw["errors"][2] == {}
