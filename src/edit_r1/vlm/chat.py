"""A `Request` as Hugging Face chat messages and decoded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from edit_r1.images import decode_pil
from edit_r1.vlm.protocol import Request


def to_messages(request: Request) -> list[dict[str, Any]]:
    """The conversation, one user turn, with {"type": "image"} where a picture stands.

    The pictures themselves are `images_of(request)`, in the same order.
    """
    content: list[dict[str, str]] = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in request.parts
    ]
    user: dict[str, Any] = {"role": "user", "content": content}
    if request.system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": request.system}]}, user]


def images_of(request: Request) -> list[Image.Image]:
    """The pictures in order, RGB. Raises `ImageError` (a ValueError) for one that cannot be read."""
    return [decode_pil(data) for data in request.images]


def start_once(tokenizer: Any, texts: Sequence[str]) -> dict[str, bool]:
    """What a processor is to be told beside rendered chats: no second start token where the template writes one.

    Gemma's and Llama's templates do, and their tokenizers put another one before it.
    """
    start = tokenizer.bos_token
    return {"add_special_tokens": False} if start and all(text.startswith(start) for text in texts) else {}
