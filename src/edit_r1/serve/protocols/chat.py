"""OpenAI's chat completions, for trainers that write the prompt themselves: the bare model, no principles, no score.

One user message of texts and images (data URLs) with an optional system text, as the models here are asked. What
would change the answer and is not offered (stream, tools, stop, several turns) is refused by name.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from edit_r1.serve.protocols.common import ERRORS, EXAMPLE_IMAGE, Seed, Temperature, Traces
from edit_r1.serve.service import Chatting, Service
from edit_r1.verifier.prompts import check_signs
from edit_r1.vlm.paid import PaidVLM
from edit_r1.vlm.protocol import MAX_TOP_LOGPROBS, Completion, Sampling, TokenChoices
from edit_r1.vlm.protocol import Request as Question
from edit_r1.web.answers import Answer

MAX_TEXT_CHARS = 200_000
"""Longest conversation; far above any prompt of ours, and every model's context ends well before it."""
MAX_IMAGES = 16
UNLIKELY = -9999.0
"""Log-probability of a generated token that is not among the `MAX_TOP_LOGPROBS` likeliest, as OpenAI tells it."""


class ImageURL(BaseModel):
    """An image as a data URL; other addresses are not fetched."""

    url: str


class Part(BaseModel):
    """A text or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageURL | None = None


class Message(BaseModel):
    """A system text or the user's message."""

    role: Literal["system", "user", "assistant", "developer", "tool"]
    content: str | list[Part]


class ChatRequest(BaseModel):
    """Keys that are not named here are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "edit-r1",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{EXAMPLE_IMAGE}"}},
                                {"type": "text", "text": "What colour is this?"},
                            ],
                        }
                    ],
                    "max_tokens": 32,
                    "temperature": 0,
                }
            ]
        }
    )

    messages: list[Message]
    model: str | None = Field(None, description="Ignored: this server has one model.")
    max_tokens: Annotated[int, Field(ge=1, le=32768)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=32768)] | None = None
    temperature: Temperature = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=100_000)] = 0
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)] = 1.0
    seed: Seed = 0
    n: Traces = 1
    stream: bool | None = None
    logprobs: bool | None = Field(None, description="Also the log-probabilities of the generated tokens.")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="With logprobs: so many alternatives for each token."
    )
    tools: list[Any] | None = None
    stop: str | list[str] | None = None


class ChatErrorDetail(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    code: str | None = None


class ChatError(BaseModel):
    """OpenAI's envelope of an error."""

    error: ChatErrorDetail | str


class ChatMessage(BaseModel):
    """The model's answer."""

    role: Literal["assistant"]
    content: str


class TokenLogprob(BaseModel):
    """A token as text, and the natural logarithm of its probability at temperature 1, before any truncation."""

    token: str
    logprob: float


class ChosenToken(TokenLogprob):
    """A generated token and what could have stood in its place, likeliest first."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """One entry per generated token."""

    content: list[ChosenToken]


class Choice(BaseModel):
    """One of n answers."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None = Field(description="null: not asked for, or the model gives none.")


class ChatResponse(BaseModel):
    """OpenAI's chat completion; `usage` counts the generated tokens alone, where the model tells them."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, int]


CHAT_ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: {**entry, "model": ChatError} for status, entry in ERRORS.items()},
    502: {"model": ChatError, "description": "The endpoint behind this server gave no answer."},
}


def routes(service: Service) -> APIRouter:
    """POST /v1/chat/completions."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        response_model=ChatResponse,
        responses=CHAT_ERRORS,
        summary="OpenAI-compatible chat with the bare model",
    )
    async def chat(body: ChatRequest, http: Request) -> Answer:
        """The model's text as it is: nothing is parsed and nothing is scored."""
        try:
            _check_offered(body)
            question, pixels = _question(body.messages, service)
        except ValueError as error:
            return _refused(400, str(error))
        asked = Chatting(_sampling(body, service.verifier.max_new_tokens), body.n)
        completions = await service.chat(question, pixels, asked, http)
        if completions is None:
            return _refused(503, "the model failed twice: see the server's log", "server_error")
        errors = [one.error for one in completions if one.finish == "error"]
        if errors:  # a local model's are the request's fault; an endpoint's may pass
            behind = isinstance(service.verifier.vlm, PaidVLM)
            kind = "server_error" if behind else "invalid_request_error"
            return _refused(502 if behind else 400, errors[0] or "the model gave no answer", kind)
        return Answer(_document(completions, service.verifier.vlm.name, body.top_logprobs or 0))

    return router


def _check_offered(body: ChatRequest) -> None:
    """ValueError for what would change the answer and is not offered."""
    for name in ("stream", "tools", "stop"):
        if getattr(body, name):
            raise ValueError(f"{name} is not offered: leave it out")
    if body.top_logprobs and not body.logprobs:
        raise ValueError(f"top_logprobs={body.top_logprobs} without logprobs: send logprobs true, or leave both out")


def _question(messages: list[Message], service: Service) -> tuple[Question, int]:
    """The conversation as one request, and the pixels of its images."""
    roles = [message.role for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise ValueError(f"roles {roles}: one user message is answered, after a system message if there is one")
    system = None
    if len(messages) == 2:
        if not isinstance(messages[0].content, str):
            raise ValueError("the system message must be a text")
        system = check_signs("the system message", messages[0].content)
    content = messages[-1].content
    parts: list[str | bytes] = []
    pixels = 0
    for part in [Part(type="text", text=content)] if isinstance(content, str) else content:
        if part.type == "text" and part.text is not None:
            parts.append(check_signs("the user message", part.text))
        elif part.type == "image_url" and part.image_url is not None:
            data, size = service.read_image(part.image_url.url, "image")
            parts.append(data)
            pixels += size
        else:
            raise ValueError(f"a part of type {part.type} without its {part.type}")
    question = Question(tuple(parts), system)
    if not any(parts):
        raise ValueError("the user message is empty")
    if len(question.text) + len(system or "") > MAX_TEXT_CHARS or len(question.images) > MAX_IMAGES:
        raise ValueError(f"at most {MAX_TEXT_CHARS} characters and {MAX_IMAGES} images are read: send fewer")
    return question, pixels


def _sampling(body: ChatRequest, default_tokens: int) -> Sampling:
    return Sampling(
        max_new_tokens=body.max_completion_tokens or body.max_tokens or default_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=max(0, body.top_k),  # -1 means every token elsewhere, 0 does here
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        top_logprobs=MAX_TOP_LOGPROBS if body.logprobs else 0,
    )


def _document(completions: list[Completion], model: str, alternatives: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.text},
                "finish_reason": one.finish,
                "logprobs": _logprobs(one.choices, alternatives),
            }
            for index, one in enumerate(completions)
        ],
        "usage": {"completion_tokens": sum(one.tokens for one in completions)},
    }


def _logprobs(choices: tuple[TokenChoices, ...] | None, alternatives: int) -> dict[str, Any] | None:
    if choices is None:
        return None
    rows = [(one.token, [(text, max(UNLIKELY, value)) for text, value in one.alternatives]) for one in choices]
    return {
        "content": [
            {
                "token": token,
                "logprob": max([value for text, value in others if text == token], default=UNLIKELY),
                "top_logprobs": [{"token": text, "logprob": value} for text, value in others[:alternatives]],
            }
            for token, others in rows
        ]
    }


def _refused(status: int, message: str, kind: str = "invalid_request_error") -> Answer:
    body = {"error": {"message": " ".join(message.split()), "type": kind, "code": None}}
    return Answer(body, status, headers={"Retry-After": "1"} if status == 503 else None)
