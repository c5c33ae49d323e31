"""Who may call a server of ours: tokens, and which addresses need one."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path

MIN_TOKEN_CHARS = 16
"""Shorter tokens can be guessed."""

_MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens in a file, one a line (several while one replaces another).

    Raises:
        ValueError: when the file cannot be read, holds no token, or one that is short or not plain ASCII.
    """
    try:
        text = path.read_bytes().decode("ascii")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a token is plain ASCII; make one by {_MAKE_ONE}") from error
    tokens = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not tokens:
        raise ValueError(f"{path}: the token file is empty; make a token by {_MAKE_ONE}")
    for number, token in enumerate(tokens, start=1):
        if len(token) < MIN_TOKEN_CHARS or any(not "!" <= char <= "~" for char in token):
            raise ValueError(
                f"{path}: token {number} has spaces or fewer than {MIN_TOKEN_CHARS} characters; make one by {_MAKE_ONE}"
            )
    return tokens


def check_exposure(host: str, tokens: Sequence[str]) -> None:
    """ValueError for an address that other machines may reach, unless there is a token."""
    if tokens or is_loopback(host):
        return
    raise ValueError(
        f"--host {host} can be reached from other machines: give --token-file FILE with a token in it (make one by "
        f"{_MAKE_ONE}), or stay on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine alone. Names other than localhost are not looked up, and count as not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_authorized(header: bytes | None, tokens: Sequence[str]) -> bool:
    """Whether an Authorization header carries one of the tokens; compared in constant time.

    `Bearer TOKEN`, or `Basic` with the token as the password: clients that can set no header (the trainers' own
    reward clients) take the latter from an address such as http://any:TOKEN@host:8500.
    """
    given = _credential(header or b"")
    fits = [secrets.compare_digest(given, token.encode()) for token in tokens]  # all of them: no early end to be timed
    return any(fits)


def _credential(header: bytes) -> bytes:
    scheme, _, value = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
