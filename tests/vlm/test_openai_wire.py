"""Reading a server's answers: whatever it sends, completions or one clear reason; never another exception."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.images import encode_png
from edit_r1.vlm.openai_wire import (
    NoAnswer,
    encode_messages,
    encode_request,
    one_line,
    read_answer,
    retry_after,
    server_words,
)
from edit_r1.vlm.protocol import Request, Sampling, TokenChoices

PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "content", "finish_reason", "logprobs", "usage", "token", "logprob", "top_logprobs",
             "text", "type", "refusal", "reasoning", "prompt_tokens", "completion_tokens", "error"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=30,
)  # fmt: skip


def answer(message: Any, finish: Any = "stop", logprobs: Any = None) -> bytes:
    choice = {"message": message, "finish_reason": finish, "logprobs": logprobs}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()


@pytest.mark.parametrize("count", [10**30, int("9" * 400), -1, 2.5, True, None, "3"])
def test_counts_that_no_request_has_are_none(count: Any) -> None:
    """One of 400 digits fits no column and no float."""
    body = {"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": count, "completion_tokens": count}}
    read = read_answer(json.dumps(body).encode(), 1)
    assert read.prompt_tokens is None and read.completion_tokens is None
    assert read.completions[0].text == "yes" and read.completions[0].tokens == 0


@given(st.lists(st.text() | st.just(PICTURE), max_size=4).map(tuple), st.none() | st.text())
def test_messages_are_the_json_of_the_conversation(parts: tuple[str | bytes, ...], system: str | None) -> None:
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": url}}
        for part in parts
    ]
    expected = [{"role": "user", "content": content}]
    if system is not None:
        expected.insert(0, {"role": "system", "content": system})
    messages = encode_messages(Request(parts, system))
    assert json.loads(messages) == expected
    body = json.loads(encode_request(messages, Sampling(5), "judge", 2, "max_tokens", {"min_p": 0.5}))
    assert body["messages"] == expected and (body["n"], body["min_p"], body["max_tokens"]) == (2, 0.5, 5)


def test_a_server_that_samples_as_it_likes_is_told_nothing_of_it() -> None:
    shaped = Sampling(5, temperature=0.7, top_p=0.9, top_k=3, repetition_penalty=1.1, seed=4, top_logprobs=2)
    body = json.loads(encode_request(b"[]", shaped, "judge", 1, "max_completion_tokens", {}, server_sampling=True))
    wanted = {"model": "judge", "max_completion_tokens": 5, "logprobs": True, "top_logprobs": 2, "messages": []}
    assert body == wanted
    told = json.loads(encode_request(b"[]", shaped, "judge", 1, "max_completion_tokens", {}))
    assert told.keys() - wanted.keys() == {"temperature", "top_p", "top_k", "repetition_penalty", "seed"}


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.integers(1, 3))
def test_any_bytes_are_completions_or_one_reason(payload: bytes, n: int) -> None:
    try:
        completions = read_answer(payload, n).completions
    except NoAnswer as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return
    assert len(completions) == n
    for completion in completions:
        assert (completion.finish == "error") == (completion.error is not None)
        completion.text.encode()


@given(JSON, JSON, JSON)
def test_any_message_is_read_or_an_error(message: Any, finish: Any, logprobs: Any) -> None:
    (completion,) = read_answer(answer(message, finish, logprobs), 1).completions
    assert completion.finish != "stop" or completion.text
    for position in completion.choices or ():
        values = [value for _, value in position.alternatives]
        assert values == sorted(values, reverse=True)
        assert all(math.isfinite(value) and value <= 0 for value in values)


@pytest.mark.parametrize(
    ("message", "finish", "text", "ended"),
    [
        ({"content": "fine"}, "stop", "fine", "stop"),
        ({"content": "fine"}, None, "fine", "stop"),
        ({"content": "cut"}, "length", "cut", "length"),
        ({"content": None, "reasoning_content": "hm"}, "length", "", "length"),
        ({"content": "fine", "reasoning_content": "<score>1</score>"}, "stop", "fine", "stop"),
        ({"content": "fine", "reasoning": "hm", "refusal": None, "tool_calls": []}, "stop", "fine", "stop"),
        ({"content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "fi"},
                      {"type": "text", "text": "ne"}]}, "stop", "fine", "stop"),
        ({"content": "half \ud800 character"}, "stop", "half ? character", "stop"),
    ],
)  # fmt: skip
def test_what_the_text_is(message: Any, finish: str | None, text: str, ended: str) -> None:
    read = read_answer(answer(message, finish), 1)
    (completion,) = read.completions
    assert (completion.text, completion.finish, completion.tokens) == (text, ended, 2)
    assert (read.prompt_tokens, read.completion_tokens) == (3, 2)


def test_alternatives_come_most_likely_first() -> None:
    rows = [
        {
            "token": "8",
            "logprob": -0.5,
            "top_logprobs": [{"token": "7", "logprob": -1.5}, {"token": "8", "logprob": -0.5}],
        },
        {"token": "</", "logprob": 0, "top_logprobs": []},
    ]
    (completion,) = read_answer(answer({"content": "8</"}, logprobs={"content": rows}), 1).completions
    assert completion.choices == (TokenChoices("8", (("8", -0.5), ("7", -1.5))), TokenChoices("</", ()))
    rows[0]["top_logprobs"][0]["logprob"] = "low"
    (completion,) = read_answer(answer({"content": "8</"}, logprobs={"content": rows}), 1).completions
    assert (completion.text, completion.choices) == ("8</", None)


NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 0.25 ", 0.25),
        ("-3", None),
        ("", None),
        ("later", None),
        ("Mon, 04 May 2026 12:00:30 GMT", 30.0),
        ("Mon, 04 May 2026 11:00:00 GMT", 0.0),
        ("Mon, 04 May 2026 14:01:00 +0200", 60.0),
        ("Mon, 99 May 2026 14:01:00 GMT", None),
        ("1" * 400, None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_no_header_is_too_odd(value: str) -> None:
    wait = retry_after(value, NOW)
    assert wait is None or wait >= 0


@given(st.binary(max_size=500))
def test_a_servers_words_are_one_short_line(payload: bytes) -> None:
    words = server_words(payload)
    assert len(words) <= 203 and one_line(words)[:200] == words[:200]
