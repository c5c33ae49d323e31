"""UniRL's reward service protocol, version 1. Rewards are 0 to 1, a tenth of the score.

An item without a score, after it was judged again, has no entry in `results` and the reason in `errors`; UniRL's
client then stops the step by default. What it sends to recognise its items comes back as it was.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from edit_r1 import __version__
from edit_r1.records import Judgment
from edit_r1.serve.intake import Incoming
from edit_r1.serve.protocols.common import ERRORS, EXAMPLE_IMAGE
from edit_r1.serve.service import Service, reason
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.web.answers import Answer

REWARD = "edit_rrm"
"""The one reward this server has."""


class Turn(BaseModel):
    """A text with an image. Videos are not read, and no path or address is opened."""

    text: str | None = None
    image_b64: str | None = None


class ScoreRequestItem(BaseModel):
    """One edit: the turns before the last show the sources, the last one the edited image."""

    history: list[Turn]
    required_rewards: list[str]
    request_id: str | int | None = None
    sample_id: str | int | None = None
    group_id: str | int | None = None
    source_rank: int | None = None
    policy_version: str | int | None = None
    idempotency_key: str | None = None


class ScoreRequest(BaseModel):
    """A batch of edits; other keys (metadata) are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "requests": [
                        {
                            "history": [
                                {"text": "Make the hat red.", "image_b64": EXAMPLE_IMAGE},
                                {"text": "Make the hat red.", "image_b64": EXAMPLE_IMAGE},
                            ],
                            "required_rewards": [REWARD],
                            "metadata": {},
                        }
                    ]
                }
            ]
        }
    )

    requests: list[ScoreRequestItem]


class ScoreResponse(BaseModel):
    """`results[i]` and `errors[i]` belong to `requests[i]`."""

    results: list[dict[str, dict[str, float]]] = Field(description='{"edit_rrm": {"overall": 0 to 1}}, or empty.')
    errors: list[dict[str, str]] = Field(description="The reason of every reward that has no entry in `results`.")
    identities: list[dict[str, str | int | None]] = Field(description="What identified each request.")
    protocol_version: str
    scale: dict[str, float]


class RewardsResponse(BaseModel):
    """The names that `required_rewards` may hold."""

    rewards: list[str]


def routes(service: Service) -> APIRouter:
    """POST /score and GET /rewards."""
    router = APIRouter()
    version = f"{service.verifier.vlm.name}, edit-r1 {__version__}, prompts {PROMPT_VERSIONS[service.verifier.variant]}"

    @router.get("/rewards", response_model=RewardsResponse, summary="The rewards that /score gives")
    async def rewards() -> Answer:
        return Answer({"rewards": [REWARD]})

    @router.post("/score", response_model=ScoreResponse, responses=ERRORS, summary="Rewards as UniRL asks for them")
    async def score(body: ScoreRequest, http: Request) -> Answer:
        """Rewards are 0 to 1. An item without a score has none in `results`, and its reason in `errors`."""
        wanted = [place for place, one in enumerate(body.requests) if REWARD in one.required_rewards]
        items = [_incoming(body.requests[place]) for place in wanted]
        judged = dict(zip(wanted, await service.judge(items, service.judging(), http, again=True), strict=True))
        return Answer(
            {
                "results": [_result(judged.get(place)) for place in range(len(body.requests))],
                "errors": [_errors(one, judged.get(place)) for place, one in enumerate(body.requests)],
                "identities": [_identity(one, version) for one in body.requests],
                "protocol_version": "1",
                "scale": {"min": 0, "max": 1},
            }
        )

    return router


def _incoming(one: ScoreRequestItem) -> Incoming:
    """What lacks an image is refused with the others' reasons, as an item."""
    sources = [turn.image_b64 for turn in one.history[:-1] if turn.image_b64 is not None]
    edited = (one.history[-1].image_b64 if one.history else None) or ""
    instruction = next((turn.text for turn in reversed(one.history) if turn.text), "")
    return Incoming(sources, edited, instruction)


def _result(judgment: Judgment | None) -> dict[str, dict[str, float]]:
    if judgment is None or judgment.score is None:
        return {}
    return {REWARD: {"overall": judgment.score / 10}}


def _errors(one: ScoreRequestItem, judgment: Judgment | None) -> dict[str, str]:
    unknown = {name: f"no such reward: this server has {REWARD}" for name in one.required_rewards if name != REWARD}
    why = None if judgment is None else reason(judgment)
    return unknown if why is None else {**unknown, REWARD: why}


def _identity(one: ScoreRequestItem, version: str) -> dict[str, Any]:
    return {
        "request_id": one.request_id,
        "sample_id": one.sample_id,
        "group_id": one.group_id,
        "source_rank": one.source_rank,
        "policy_version": one.policy_version,
        "idempotency_key": one.idempotency_key,
        "scorer_version": version,
    }
