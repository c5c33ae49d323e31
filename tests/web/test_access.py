"""Who may call: token files, addresses, headers."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.web.access import check_exposure, is_authorized, is_loopback, read_tokens

TOKENS = ("first-token-0123456789", "second-token-0123456789")


def test_tokens_stand_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"\n {TOKENS[0]} \r\n{TOKENS[1]}\n\n")
    assert read_tokens(path) == TOKENS


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"\n \n", "empty"), (b"short\n", "fewer than 16"), (b"two words in one line", "spaces"),
     ("\N{SNOWMAN}".encode() * 9, "ASCII"), (b"\0" * 20, "spaces")],
)  # fmt: skip
def test_a_bad_token_file_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_token_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="check the path"):
        read_tokens(tmp_path / "none")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_the_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.4", "example.org", "localhost.example.org", "0"])
def test_every_other_address_does(host: str) -> None:
    with pytest.raises(ValueError, match="--token-file"):
        check_exposure(host, ())
    check_exposure(host, TOKENS)


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_taken_as_bearer_or_as_password(token: str) -> None:
    for header in (f"Bearer {token}".encode(), f"bearer  {token} ".encode(), basic(f"any:{token}"), basic(f":{token}")):
        assert is_authorized(header, TOKENS)


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", TOKENS[0].encode(), f"Token {TOKENS[0]}".encode(), basic(TOKENS[0]),
     b"Basic @@@", f"Bearer {TOKENS[0]}x".encode(), f"Bearer {TOKENS[0][:-1]}".encode(), b"Bearer \xff\xfe"],
)  # fmt: skip
def test_everything_else_is_not(header: bytes | None) -> None:
    assert not is_authorized(header, TOKENS)


@given(st.binary(max_size=60))
def test_no_other_header_is_taken(header: bytes) -> None:
    assert not is_authorized(header, TOKENS)
