"""How servers of ours answer: JSON in plain ASCII, and every refusal as {"error": one line}."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class Answer(JSONResponse):
    """JSON in plain ASCII: what a client sent to have it back (an id with half a surrogate pair) may not be UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


async def refused(request: Request, error: Exception) -> Answer:
    """The handler of HTTPException."""
    assert isinstance(error, HTTPException)
    return Answer({"error": str(error.detail)}, error.status_code, headers=error.headers)


async def malformed(request: Request, error: Exception) -> Answer:
    """The handler of RequestValidationError: where and what, without the input, which may be large, and need not be
    text that can be sent back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Answer({"error": f"not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"}, 422)
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    message = f"{place}: {first['msg']}" if place else str(first["msg"])
    return Answer({"error": message}, 422)
