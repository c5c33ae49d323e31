"""The address of an endpoint, and the key in an environment variable that it is asked with."""

from __future__ import annotations

import ipaddress
import os

import httpx

from edit_r1.vlm.errors import ModelError


def read_address(endpoint: str) -> tuple[str, str]:
    """(address up to "/chat/completions" or "/images/edits", host). Raises ModelError for what is no such address."""
    remedy = "give an address such as http://127.0.0.1:8000/v1"
    try:
        url = httpx.URL(endpoint.strip())
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ModelError(f"endpoint {endpoint!r}: not an address ({error}); {remedy}") from error
    if url.userinfo:  # said without quoting it
        raise ModelError(f"the endpoint at {url.host} holds a user or password: put a key into an environment variable")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ModelError(f"endpoint {endpoint!r}: {remedy}")
    path = url.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/images/edits") or "/v1"
    return str(url.copy_with(path=path)).rstrip("/"), url.host


def is_loopback(host: str) -> bool:
    """True for this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(variable: str) -> str | None:
    """The key in an environment variable, None for no key. Raises ModelError, not quoting it, for a malformed one."""
    return check_key(os.environ.get(variable, ""), variable)


def check_key(key: str, place: str) -> str | None:
    """The key without space around it, None for an empty one. Raises ModelError as `read_key`."""
    key = key.strip()
    if not all("!" <= sign <= "~" for sign in key):
        raise ModelError(f"{place}: holds spaces or signs that no key has: set it anew")
    return key or None
