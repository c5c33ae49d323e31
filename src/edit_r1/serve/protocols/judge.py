"""Our own protocol: full judgments of a batch of edits. Scores are 0 to 10."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from edit_r1.records import CATEGORIES, Judgment, Principle
from edit_r1.serve.intake import Incoming
from edit_r1.serve.protocols.common import ERRORS, EXAMPLE_IMAGE, Seed, Temperature, Traces
from edit_r1.serve.service import Service, reason
from edit_r1.verifier.judgments import judgment_json
from edit_r1.web.answers import Answer

SCALE = {"min": 0, "max": 10}


class JudgePrinciple(BaseModel):
    """One yes/no question about the edited image; yes is good."""

    question: str
    category: str = Field(description=f"One of {', '.join(CATEGORIES)}.")


class JudgeItem(BaseModel):
    """One edited image."""

    sources: list[str] = Field(description="The image or images before the edit, each as base64 or a data URL.")
    edited: str = Field(description="The image after the edit, as base64 or a data URL.")
    instruction: str = Field(description="What the edit should do.")
    principles: list[JudgePrinciple] | None = Field(None, description="Left out: the model writes them.")
    id: str | int | None = Field(None, description="Comes back with the judgment.")


class JudgeRequest(BaseModel):
    """A batch of edits, all judged the same way."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"sources": [EXAMPLE_IMAGE], "edited": EXAMPLE_IMAGE, "instruction": "Make the hat red."},
                        {
                            "id": "with-principles",
                            "sources": [EXAMPLE_IMAGE],
                            "edited": EXAMPLE_IMAGE,
                            "instruction": "Make the hat red.",
                            "principles": [{"question": "Is the hat red?", "category": CATEGORIES[0]}],
                        },
                    ],
                    "traces": 4,
                    "seed": 1,
                }
            ]
        }
    )

    items: list[JudgeItem]
    traces: Traces | None = Field(None, description="1 is greedy, more are sampled; left out: the server's --traces.")
    temperature: Temperature | None = Field(None, description="Left out: 0 for one trace, 1 for several.")
    seed: Seed = 0
    expected: bool = Field(False, description="Also give `expected_score`, which breaks ties of `score`.")


class JudgePrincipleResult(BaseModel):
    """One line of the checklist."""

    question: str
    category: str
    verdict: float | None = Field(description="Mean over the parsed traces, 0 to 1.")
    evidence: str | None


class JudgeResult(BaseModel):
    """One judgment, as `edit-r1 score --json` gives it, with `id`, `reason` and `simulated`."""

    model_config = ConfigDict(extra="allow")

    id: str | int | None
    score: float | None = Field(description="0 to 10; null when no trace could be parsed or the item was refused.")
    reason: str | None = Field(description="Why the score is null.")
    traces: int
    unparsed: int
    score_std: float | None
    expected_score: float | None = Field(
        description="0 to 10; null: not asked for, or the model gives no probabilities."
    )
    principles: list[JudgePrincipleResult]
    categories: dict[str, float | None]
    model: str
    prompts: str = Field(description="Version of the prompts: scores of different versions are not comparable.")
    seconds: float
    simulated: bool


class Scale(BaseModel):
    """What the scores range over."""

    min: float
    max: float


class JudgeResponse(BaseModel):
    """One judgment per item, in their order."""

    judgments: list[JudgeResult]
    scale: Scale


def routes(service: Service) -> APIRouter:
    """POST /v1/judge."""
    router = APIRouter()

    @router.post("/v1/judge", response_model=JudgeResponse, responses=ERRORS, summary="Judge a batch of edits")
    async def judge(body: JudgeRequest, http: Request) -> Answer:
        """Scores are 0 to 10. An item that cannot be judged has `"score": null` and a `reason`, and costs no other."""
        asked = service.judging(body.traces, body.temperature, body.seed, body.expected)
        judgments = await service.judge([_incoming(item) for item in body.items], asked, http)
        results = [_result(item, judgment) for item, judgment in zip(body.items, judgments, strict=True)]
        return Answer({"judgments": results, "scale": SCALE})

    return router


def _incoming(item: JudgeItem) -> Incoming:
    principles = None
    if item.principles is not None:
        principles = [Principle(one.question, one.category) for one in item.principles]
    return Incoming(item.sources, item.edited, item.instruction, principles)


def _result(item: JudgeItem, judgment: Judgment) -> dict[str, Any]:
    document = judgment_json(judgment)
    return {"id": item.id, **document, "reason": reason(judgment), "simulated": judgment.simulated}
