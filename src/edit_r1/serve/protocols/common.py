"""What the protocols share: the shape of an error, bounds of sampling, and the picture of the examples."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, Field

from edit_r1.images import encode_png
from edit_r1.verifier.scoring import MAX_TRACES

EXAMPLE_IMAGE = base64.b64encode(encode_png(np.full((16, 16, 3), 64, np.uint8))).decode()
"""A grey picture of 16 x 16, for the examples of the API page."""

MIN_TEMPERATURE = 0.01
"""Below it, and above 0, logits divided by the temperature overflow."""


class ErrorBody(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One line: what is wrong and what to do.")


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    401: {"model": ErrorBody, "description": "A token is needed."},
    408: {"model": ErrorBody, "description": "The body came too slowly."},
    413: {"model": ErrorBody, "description": "Too many bytes or items."},
    422: {"model": ErrorBody, "description": "A field is missing, of another type or out of range."},
    499: {"model": ErrorBody, "description": "The client went away; nobody reads this."},
    503: {"model": ErrorBody, "description": "The queue is full or the server is stopping; see Retry-After."},
}


def _check_temperature(value: float) -> float:
    if value != 0 and value < MIN_TEMPERATURE:
        raise ValueError(f"use 0 (greedy) or at least {MIN_TEMPERATURE}")
    return value


Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), AfterValidator(_check_temperature)]
Traces = Annotated[int, Field(ge=1, le=MAX_TRACES)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
