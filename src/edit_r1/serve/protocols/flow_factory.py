"""Flow-Factory's remote reward protocol. Rewards are 0 to 1, a tenth of the score.

Its client takes one number per image or `{"error": ...}`; it has no way to leave one image out, and neither null nor
NaN is safe (the first cannot become a tensor, the second spoils the group's mean). So an image without a score fails
the request, after it was judged again, with the reason in `error`, on which the client stops without trying again.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from edit_r1.serve.intake import Incoming
from edit_r1.serve.protocols.common import ERRORS, EXAMPLE_IMAGE, ErrorBody
from edit_r1.serve.service import Service, reason
from edit_r1.web.answers import Answer


class ComputeRequest(BaseModel):
    """One entry per image in each list; other keys (video, kwargs) are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": ["Make the hat red."], "image": [EXAMPLE_IMAGE], "condition_images": [[EXAMPLE_IMAGE]]}
            ]
        }
    )

    prompt: list[str] = Field(description="The edit instructions.")
    image: list[str] | None = Field(None, description="The edited images, base64.")
    condition_images: list[list[str]] | None = Field(None, description="The source images of each, base64.")


class ComputeResponse(BaseModel):
    """One reward per image, in their order."""

    rewards: list[float] = Field(description="0 to 1.")
    scale: dict[str, float]


def routes(service: Service) -> APIRouter:
    """POST /compute."""
    router = APIRouter()

    @router.post(
        "/compute",
        response_model=ComputeResponse | ErrorBody,
        responses=ERRORS,
        summary="Rewards as Flow-Factory asks for them",
    )
    async def compute(body: ComputeRequest, http: Request) -> Answer:
        """Rewards are 0 to 1. One image without a score makes the answer `{"error": ...}`: never a made-up number."""
        if body.image is None or body.condition_images is None:
            return _error(
                "image and condition_images are both needed: an edit is judged against its source; name "
                "condition_images in the reward model's required_fields"
            )
        counts = len(body.prompt), len(body.image), len(body.condition_images)
        if len(set(counts)) > 1:
            return _error(f"{counts[0]} prompts, {counts[1]} images, {counts[2]} lists of condition images: send equal")
        rows = zip(body.prompt, body.image, body.condition_images, strict=True)
        items = [Incoming(sources, edited, prompt) for prompt, edited, sources in rows]
        judgments = await service.judge(items, service.judging(), http, again=True)
        scores = [judgment.score for judgment in judgments]
        missing = [place for place, score in enumerate(scores) if score is None]
        if missing:
            why = reason(judgments[missing[0]])
            return _error(f"{len(missing)} of {len(scores)} images have no score; the first, {missing[0]}: {why}")
        rewards = [score / 10 for score in scores if score is not None]
        return Answer({"rewards": rewards, "scale": {"min": 0, "max": 1}})

    return router


def _error(message: str) -> Answer:
    """With status 200: the client shows the message of these alone."""
    return Answer({"error": message})
