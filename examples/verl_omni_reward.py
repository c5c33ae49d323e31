"""verl-omni: an async reward function that asks a running `edit-r1 serve`.

    reward.custom_reward_function.path=path/to/verl_omni_reward.py
    reward.custom_reward_function.name=compute_score
    reward.custom_reward_function.reward_kwargs.server_url=http://127.0.0.1:8500

verl-omni calls it once per image, many at a time; the server judges those together. The source image must be in
`extra_info["source_img"]`, which its image-edit preprocessing puts there. The token, if there is one, is read from the
environment variable EDIT_R1_TOKEN. The score is 0 to 1.

The interface wants a number per image. One without a score is judged again (a sampled trace); if that fails too, this
raises and the step stops: a 0.0 would teach the editor that its edit was bad when nobody looked.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from typing import Any

import httpx
import numpy as np
from PIL import Image

from edit_r1.images import encode_png

ATTEMPTS = 8
"""Tries while the server is away or full: about two minutes."""


async def compute_score(
    data_source: str,
    solution_image: Any,
    ground_truth: str,
    extra_info: dict[str, Any],
    reward_router_address: str | None = None,
    model_name: str | None = None,
    server_url: str = "http://127.0.0.1:8500",
    **unused: Any,
) -> dict[str, Any]:
    """solution_image: uint8 (3, H, W) or (1, 3, H, W), tensor or array."""
    source = extra_info.get("source_img")
    if source is None:
        raise ValueError('extra_info["source_img"] is missing: an edit is judged against its source image')
    pixels = np.asarray(solution_image)
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    item = {
        "sources": [_base64(_png(source))],
        "edited": _base64(encode_png(np.ascontiguousarray(pixels.transpose(1, 2, 0)))),
        "instruction": extra_info.get("instruction") or ground_truth,
    }
    judgment: dict[str, Any] = {}
    for sampling in ({}, {"temperature": 1.0, "seed": 1}):
        judgment = (await _post(f"{server_url}/v1/judge", {"items": [item], **sampling}))["judgments"][0]
        if judgment["score"] is not None:
            return {"score": judgment["score"] / 10, **_categories(judgment)}
    raise RuntimeError(f"no score for an edit of {data_source}: {judgment['reason']}")


def _categories(judgment: dict[str, Any]) -> dict[str, float]:
    """Mean verdicts, logged beside the score; those without a verdict are NaN, which is no reward."""
    return {name: float("nan") if value is None else value for name, value in judgment["categories"].items()}


async def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Tries again while the server is away or full; any other refusal raises at once."""
    token = os.environ.get("EDIT_R1_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(timeout=600, headers=headers) as client:
        for attempt in range(ATTEMPTS):
            wait = min(30.0, 2.0**attempt)
            try:
                answer = await client.post(url, json=body)
                if answer.status_code != 503:
                    answer.raise_for_status()
                    document: dict[str, Any] = answer.json()
                    return document
                wait = float(answer.headers.get("Retry-After", wait))
            except httpx.TransportError:
                pass
            await asyncio.sleep(wait)
    raise RuntimeError(f"{url} did not answer in {ATTEMPTS} tries")


def _png(source: Any) -> bytes:
    """A picture as verl-omni's data sets hold it: PIL, or a Parquet image {"bytes", "path"}."""
    if isinstance(source, dict):
        source = Image.open(io.BytesIO(source["bytes"]) if source.get("bytes") else source["path"])
    return encode_png(source)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
