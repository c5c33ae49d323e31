"""What goes over the wire to an OpenAI-compatible server, and what its answers mean. Nothing is sent from here.

Decisions, where servers differ:
- The answer is `content` (a text, or the text parts of a list). What a thinking model writes into
  `reasoning_content` or `reasoning` is no part of it and is left out; its tokens are counted by the server.
- A refusal, a stop by a content filter, a call of a tool, or an answer without any text is an error: no answer
  came, and it is never read as a score. An answer cut at the token limit is "length", also when all of it was
  reasoning.
- `top_k` and `repetition_penalty` are sent only when they say something: vLLM knows them, api.openai.com refuses
  keys it does not know. Every other parameter of sampling is always sent, unless the caller leaves sampling to a server
  that takes none.
- Token probabilities are taken as the server reports them; malformed ones are left out as if it gave none.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from edit_r1.images import picture_mime
from edit_r1.vlm.protocol import Completion, Request, Sampling, TokenChoices

LimitKey = Literal["max_tokens", "max_completion_tokens"]
"""How the longest answer is named: every server knows the first, hosted reasoning models only the second."""
OWN_KEYS = (
    "model", "messages", "temperature", "top_p", "seed", "top_k", "repetition_penalty", "logprobs", "top_logprobs", "n",
    "stream",
)  # fmt: skip
"""Keys of a request that are ours to set; an answer in pieces ("stream") is not read."""

_STOPPED = {None, "stop", "eos", "eos_token", "end_turn", "stop_sequence"}
_CUT = {"length", "max_tokens"}
_TEXT_KINDS = {"text", "output_text"}
_MARKUP = re.compile(r"<(?:style|script).*?</(?:style|script)>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_MAX_REASON = 200
"""Longest quotation of a server's own words, in characters."""


class NoAnswer(ValueError):
    """A response that is no answer at all; the message is one line."""


@dataclass(frozen=True)
class Answer:
    """A response that was read."""

    completions: tuple[Completion, ...]
    prompt_tokens: int | None
    """None when the server does not say."""
    completion_tokens: int | None


def encode_messages(request: Request) -> bytes:
    """The conversation of a request as JSON; pictures as data URLs of the bytes as they are.

    Raises ImageError (a ValueError) for a picture that cannot be read.
    """
    content = b", ".join(_part(part) for part in request.parts)
    messages = b'{"role": "user", "content": [' + content + b"]}"
    if request.system is not None:
        messages = json.dumps({"role": "system", "content": request.system}).encode() + b", " + messages
    return b"[" + messages + b"]"


class Messages:
    """The messages of the last request as JSON: its draws are asked for one after the other, and pictures are long."""

    def __init__(self) -> None:
        self._last: tuple[Request, bytes] | None = None

    def of(self, request: Request) -> bytes:
        """Raises ImageError (a ValueError) for a picture that cannot be read."""
        if self._last is None or self._last[0] is not request:
            self._last = (request, encode_messages(request))
        return self._last[1]


def encode_request(
    messages: bytes,
    sampling: Sampling,
    model: str,
    n: int,
    limit_key: LimitKey,
    extra: Mapping[str, Any],
    server_sampling: bool = False,
) -> bytes:
    """The JSON of one chat completion.

    messages: of `encode_messages`. extra: the server's own keys, sent as given. server_sampling: nothing is said of how
    to sample, not even a seed.
    """
    body: dict[str, Any] = {"model": model, limit_key: sampling.max_new_tokens}
    if not server_sampling:
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        if sampling.top_k > 0:
            body["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1:
            body["repetition_penalty"] = sampling.repetition_penalty
    if sampling.top_logprobs > 0:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    if n > 1:
        body["n"] = n
    return json.dumps({**body, **extra}).encode()[:-1] + b', "messages": ' + messages + b"}"


def _part(part: str | bytes) -> bytes:
    if isinstance(part, str):
        return json.dumps({"type": "text", "text": part}).encode()
    # By hand: looking through megabytes of base64 for signs to escape took half of the time of encoding.
    url = f"data:{picture_mime(part)};base64,".encode() + base64.b64encode(part)
    return b'{"type": "image_url", "image_url": {"url": "' + url + b'"}}'


def read_answer(payload: bytes, n: int) -> Answer:
    """n completions from the body of a response with status 200; a choice that is no answer is an error of its own.

    Raises:
        NoAnswer: when the body is not JSON, or holds no choices.
    """
    document = _json_object(payload)
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        told = server_words(payload)
        raise NoAnswer(f"the answer holds no choices{f' ({told})' if 'error' in document and told else ''}")
    usage = document.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt, generated = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    rows = [_completion(choice, generated if n == 1 else None) for choice in choices[:n]]
    rows += [_failed(f"the server gave {len(rows)} of {n} answers")] * (n - len(rows))
    return Answer(tuple(rows), prompt, generated)


def _json_object(payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        kind = "HTML" if payload.lstrip()[:1] == b"<" else "something that is not JSON"
        words = server_words(payload)
        raise NoAnswer(f"the server answered with {kind}{f': {words}' if words else ' (nothing)'}") from error
    if not isinstance(document, dict):
        raise NoAnswer(f"the server answered with a JSON {type(document).__name__} in place of an object")
    return document


def _completion(choice: object, generated: int | None) -> Completion:
    """One choice; `generated`: tokens of this choice alone, None when unknown."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _failed("a choice of the answer holds no message")
    chosen = _token_choices(choice.get("logprobs"))
    tokens = generated if generated is not None else len(chosen or ())
    finish = choice.get("finish_reason")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return _failed(f"the model refused: {one_line(refusal)}", tokens)
    if finish == "content_filter":
        return _failed("stopped by the server's content filter", tokens)
    cut = isinstance(finish, str) and finish in _CUT
    if not cut and (not isinstance(finish, str | None) or finish not in _STOPPED):
        return _failed(f"the answer ended by {one_line(repr(finish))} and not by itself", tokens)
    text = _text(message.get("content"))
    if text is None or (not text and not cut):
        if cut:
            return Completion("", tokens, "length", choices=chosen)
        thought = message.get("reasoning_content") or message.get("reasoning")
        return _failed("the model reasoned and gave no answer" if thought else "the answer holds no text", tokens)
    return Completion(text, tokens, "length" if cut else "stop", choices=chosen)


def _text(content: object) -> str | None:
    """The text of a message; None when there is none."""
    if isinstance(content, str):
        return _unicode(content)
    if not isinstance(content, list):
        return None
    texts = [part["text"] for part in content if isinstance(part, dict) and part.get("type") in _TEXT_KINDS
             and isinstance(part.get("text"), str)]  # fmt: skip
    return _unicode("".join(texts)) if texts else None


def _token_choices(logprobs: object) -> tuple[TokenChoices, ...] | None:
    rows = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(rows, list) or not rows:
        return None
    read: list[TokenChoices] = []
    for row in rows:
        others = row.get("top_logprobs") if isinstance(row, dict) else None
        if not isinstance(others, list) or not isinstance(row.get("token"), str):
            return None
        pairs = [pair for pair in map(_pair, others) if pair is not None]
        if len(pairs) != len(others):
            return None
        read.append(TokenChoices(_unicode(row["token"]), tuple(sorted(pairs, key=lambda pair: -pair[1]))))
    return tuple(read)


def _pair(row: object) -> tuple[str, float] | None:
    """(token, log-probability); None for anything else. Servers round, so a little above 0 is 0."""
    if not isinstance(row, dict) or not isinstance(row.get("token"), str):
        return None
    value = row.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
        return None
    return _unicode(row["token"]), min(0.0, float(value))


def server_words(payload: bytes) -> str:
    """What a server says in the body of an error, on one line of at most 200 characters; "" when it says nothing."""
    text = payload[:100_000].decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return one_line(_MARKUP.sub(" ", text))
    for key in ("error", "message", "detail"):
        if isinstance(document, dict) and document.get(key):
            document = document[key]
    return one_line(document if isinstance(document, str) else json.dumps(document, ensure_ascii=False))


def error_code(payload: bytes) -> str:
    """`error.code` of an error's body, such as "insufficient_quota"; "" when there is none."""
    try:
        code = json.loads(payload)["error"]["code"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) else ""


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait by a Retry-After header, in seconds or as an HTTP date; None for none, or one that is neither."""
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text, re.ASCII):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        when = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def one_line(text: str) -> str:
    """Printable, on one line, at most 200 characters."""
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return words if len(words) <= _MAX_REASON else f"{words[:_MAX_REASON]}..."


def _unicode(text: str) -> str:
    """Without lone surrogates, which JSON may spell and no file can hold."""
    return text.encode("utf-8", "replace").decode()


_MOST_TOKENS = 2**40
"""What no request takes: such a count tells nothing."""


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _failed(reason: str, tokens: int = 0) -> Completion:
    return Completion("", tokens, "error", reason)
