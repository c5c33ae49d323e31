"""Failures of requests to an OpenAI-compatible server of texts or pictures, and which of them an HTTP status means."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from edit_r1.vlm.openai_wire import error_code, one_line, retry_after, server_words

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
"""What some hosted models take no value of."""
REFUSALS = (400, 422)
"""A request that a server calls malformed: it is the request's fault, or what the request shows."""
_REFUSAL = rf"(?:^|: )(?:{'|'.join(map(str, REFUSALS))})(?:[ :]|$)"
OUT_OF_ROOM = "max_tokens or model output limit was reached"
"""Its words for a reasoning model whose limit was gone before its answer began."""


class Failed(Exception):
    """A request that failed; the message is one line without the key."""


class Refused(Failed):
    """A request that the server calls malformed."""


class OutOfRoom(Failed):
    """The model thought until its limit of tokens, which api.openai.com tells as a 400: an answer that was cut."""


class Unlucky(Failed):
    """A failure that may pass."""

    def __init__(self, reason: str, after: float | None = None, load: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        """Seconds that the server asks to wait; None when it asks for none."""
        self.load = load
        """True when the server has too much to do."""


@dataclass(frozen=True)
class Asked:
    """What a request was made with, as far as a remedy names it."""

    missing: str
    """What a 404 asks the user to check."""
    key_place: str
    """Where the key is set: an environment variable, or in words."""
    with_key: bool
    longest_wait_s: float
    """A server that asks for a longer pause has failed."""


def status_problem(response: httpx.Response, payload: bytes, asked: Asked) -> Failed | None:
    """What is wrong with a response, from its status; None for 200. `Unlucky` for what may pass."""
    status = response.status_code
    if status == 200:
        return None
    if status in (401, 403):  # the server's own words may quote the key
        place = asked.key_place
        refused = f"refuses the key in {place}" if asked.with_key else f"wants a key: set {place}"
        return Failed(f"{refused} ({status})")
    words = server_words(payload)
    told = f"{status} {response.reason_phrase}".strip() + (f": {words}" if words else "")
    if status == 404:
        return Failed(f"{told}; {asked.missing}")
    if 300 <= status < 400:
        return Failed(f"redirects to {one_line(response.headers.get('location', '?'))}: give that address")
    if status == 400 and OUT_OF_ROOM in words:
        return OutOfRoom(told)
    if (status not in (408, 429) and status < 500) or error_code(payload) == "insufficient_quota":
        return Refused(told + _remedy(words)) if status in REFUSALS else Failed(told)
    after = retry_after(response.headers.get("retry-after"))
    if after is not None and after > asked.longest_wait_s:
        return Failed(f"{told}; asks to come back in {after:.0f} s")
    return Unlucky(told, after, load=status in (429, 503))


def tells_refusal(reason: str) -> bool:
    """Whether a kept reason is that of a `Refused`, as `status_problem` words it behind the address."""
    return re.search(_REFUSAL, reason) is not None


def _remedy(words: str) -> str:
    """What to ask otherwise, where a server names a parameter that it does not take."""
    if "max_completion_tokens" in words:
        return "; ask with --limit-key max_completion_tokens"
    refuses = any(
        word in words.lower() for word in ("support", "unknown", "unrecognized", "not permitted", "deprecated")
    )
    if refuses and any(name in words for name in SAMPLING_KEYS):
        return "; ask with --server-sampling"
    return ""
