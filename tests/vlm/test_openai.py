"""The openai backend against a real HTTP server on loopback that misbehaves as servers do."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from edit_r1.images import encode_png
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.openai import OpenAIVLM, Prices, Usage
from edit_r1.vlm.openai_failures import tells_refusal
from edit_r1.vlm.openai_wire import encode_messages
from edit_r1.vlm.paid import Call
from edit_r1.vlm.protocol import Request, Sampling

PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))
GREEDY = Sampling(max_new_tokens=9, temperature=0.0)
SAMPLED = Sampling(max_new_tokens=9, seed=40)
ASK = [Request(("Hello",))]

Connect = Callable[..., OpenAIVLM]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """An `OpenAIVLM` with short pauses; closed after the test."""
    made: list[OpenAIVLM] = []

    def make(url: str, **settings: Any) -> OpenAIVLM:
        made.append(OpenAIVLM(url, "judge", **{"backoff_s": 0.01, "max_retries": 3, **settings}))
        return made[-1]

    yield make
    for vlm in made:
        vlm.close()


def reason(vlm: OpenAIVLM) -> str:
    """Why the one question got no answer."""
    ((completion,),) = vlm.generate(ASK, GREEDY)
    assert (completion.text, completion.finish) == ("", "error")
    assert completion.error and "\n" not in completion.error and completion.error.startswith(vlm.endpoint)
    return completion.error


def test_what_is_sent(fake_openai: Any, connect: Connect) -> None:
    server = fake_openai(lambda body, number: "yes")
    vlm = connect(server.url)
    asked = Request(("Source: ", PICTURE, "\nGo"), system="Be strict")
    assert [row[0].text for row in vlm.generate([asked], GREEDY)] == ["yes"]
    (body,) = server.bodies
    assert server.paths == ["/v1/chat/completions"]
    user = body["messages"][1]["content"]
    assert body["messages"][0] == {"role": "system", "content": "Be strict"}
    assert [part["type"] for part in user] == ["text", "image_url", "text"]
    assert user[1]["image_url"]["url"].startswith("data:image/png;base64,")
    del body["messages"]
    # Every parameter of sampling is named; keys that api.openai.com does not know only when they say something.
    assert body == {"model": "judge", "max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    vlm.generate(ASK, Sampling(5, top_k=7, repetition_penalty=1.1, top_logprobs=3))
    known = {key: server.bodies[1][key] for key in ("top_k", "repetition_penalty", "logprobs", "top_logprobs")}
    assert known == {"top_k": 7, "repetition_penalty": 1.1, "logprobs": True, "top_logprobs": 3}


def test_n_answers_are_n_requests_with_n_seeds(fake_openai: Any, connect: Connect) -> None:
    server = fake_openai(lambda body, number: f"seed {body['seed']}")
    vlm = connect(server.url)
    rows = vlm.generate(ASK * 2, SAMPLED, n=3)
    assert [[one.text for one in row] for row in rows] == [["seed 40", "seed 41", "seed 42"]] * 2
    assert all("n" not in body for body in server.bodies)
    server.bodies.clear()
    assert [one.text for one in vlm.generate(ASK, GREEDY, n=3)[0]] == ["seed 0"] * 3
    assert len(server.bodies) == 1  # greedy copies are one answer
    assert vlm.generate([], SAMPLED) == []


def test_a_server_that_honours_n_is_asked_once(fake_openai: Any, connect: Connect, reply: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        texts = ["a", "b"] if number else ["a", "b", "c"]
        choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in texts]
        return reply({"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 6}})

    server = fake_openai(answer)
    vlm = connect(server.url, server_n=True)
    assert [one.text for one in vlm.generate(ASK, SAMPLED, n=3)[0]] == ["a", "b", "c"]
    assert server.bodies[0]["n"] == 3
    assert vlm.usage == Usage(requests=1, prompt_tokens=10, completion_tokens=6)
    row = vlm.generate(ASK, SAMPLED, n=3)[0]
    assert [one.finish for one in row] == ["stop", "stop", "error"]
    assert "gave 2 of 3" in (row[2].error or "")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_bad_luck_is_tried_again(fake_openai: Any, connect: Connect, reply: Any, status: int) -> None:
    server = fake_openai(lambda body, number: reply({"error": "busy"}, status) if number < 2 else "fine")
    vlm = connect(server.url)
    assert vlm.generate(ASK, GREEDY)[0][0].text == "fine"
    assert vlm.usage == Usage(requests=1, retries=2, prompt_tokens=10, completion_tokens=4)
    assert server.bodies[0] == server.bodies[2]


def test_it_gives_up_and_says_why(fake_openai: Any, connect: Connect, reply: Any) -> None:
    server = fake_openai(lambda body, number: reply({"error": {"message": "model is\nloading"}}, 503))
    vlm = connect(server.url)
    assert "503 Service Unavailable: model is loading" in reason(vlm)
    assert len(server.bodies) == 4
    assert vlm.usage == Usage(requests=1, retries=3, failures=1)


def test_retry_after_is_waited_for(fake_openai: Any, connect: Connect, reply: Any) -> None:
    soon = format_datetime(datetime.now(UTC) - timedelta(seconds=5), usegmt=True)
    waits = ["0", soon, "0.01", "tomorrow"]
    server = fake_openai(
        lambda body, number: reply({}, 429, {"Retry-After": waits[number]}) if number < len(waits) else "fine"
    )
    vlm = connect(server.url, max_retries=4)
    assert vlm.generate(ASK, GREEDY)[0][0].text == "fine"
    assert vlm.usage.retries == 4


def test_a_pause_that_is_asked_for_is_kept_by_all(fake_openai: Any, connect: Connect, reply: Any) -> None:
    times: list[float] = []

    def answer(body: dict[str, Any], number: int) -> Any:
        times.append(time.monotonic())
        return reply({}, 429, {"Retry-After": "0.4"}) if number == 0 else "fine"

    vlm = connect(fake_openai(answer).url, concurrency=1)
    rows = vlm.generate(ASK * 5, GREEDY)
    assert [row[0].text for row in rows] == ["fine"] * 5
    assert len(times) == 6 and times[1] - times[0] >= 0.4


def test_a_request_that_waits_holds_no_place_of_another(fake_openai: Any, connect: Connect, reply: Any) -> None:
    """One place: the others are answered while the first one pauses."""
    order: list[str] = []

    def answer(body: dict[str, Any], number: int) -> Any:
        text = body["messages"][0]["content"][0]["text"]
        order.append(text)
        return reply({}, 500) if order.count("0") == 1 and text == "0" else f"answer {text}"

    vlm = connect(fake_openai(answer).url, concurrency=1)
    vlm._server._pause = lambda error, failed: 0.3  # type: ignore[method-assign]
    rows = vlm.generate([Request((str(number),)) for number in range(4)], GREEDY)
    assert [row[0].text for row in rows] == [f"answer {number}" for number in range(4)]
    assert order[:2] == ["0", "1"] and order.count("0") == 2


def test_to_queue_hardly_counts_as_a_retry(fake_openai: Any, connect: Connect, reply: Any) -> None:
    """Refused eight times, with three retries: others are answered in between. Refused for ever, it ends."""
    refusals = [8]

    def answer(body: dict[str, Any], number: int) -> Any:
        if body["messages"][0]["content"][0]["text"] == "0" and refusals[0]:
            refusals[0] -= 1
            return reply({"error": "queue"}, 429, {"Retry-After": "0.01"})
        return "fine"

    server = fake_openai(answer)
    vlm = connect(server.url, concurrency=2)
    rows = vlm.generate([Request((str(number),)) for number in range(40)], GREEDY)
    assert [row[0].text for row in rows] == ["fine"] * 40
    refusals[0] = 10**6
    rows = vlm.generate([Request((str(number),)) for number in range(9)], GREEDY)
    assert [row[0].finish for row in rows] == ["error"] + ["stop"] * 8
    assert 10**6 - refusals[0] <= 3 / 0.1 + 2


def test_a_body_that_is_no_json_is_weather_after_an_answer(fake_openai: Any, connect: Connect, reply: Any) -> None:
    """Before, it is a wrong address (`test_what_is_no_answer_is_an_error`)."""
    replies = ["fine", reply(b"<html>Bad gateway"), reply(b'{"choices": [{"mess'), "well"]
    vlm = connect(fake_openai(lambda body, number: replies[number]).url)
    assert [vlm.generate(ASK, GREEDY)[0][0].text for _ in range(2)] == ["fine", "well"]
    assert vlm.usage == Usage(requests=2, retries=2, prompt_tokens=20, completion_tokens=8)


def test_answers_are_handed_over_as_they_come(fake_openai: Any, connect: Connect) -> None:
    last = threading.Event()

    def answer(body: dict[str, Any], number: int) -> str:
        text = body["messages"][0]["content"][0]["text"]
        if text == "0":
            assert last.wait(20)
        return text

    vlm = connect(fake_openai(answer).url, concurrency=2, prices=Prices(1.0, 1.0))
    calls = [call for text in "0123" for call in vlm.calls(Request((text,)), SAMPLED, 1)]
    numbers = []
    for one in vlm.answer_each(calls):
        assert one.completions[0].text == str(one.number)
        assert one.usage == Usage(requests=1, prompt_tokens=10, completion_tokens=4, cost=14e-6)
        numbers.append(one.number)
        if len(numbers) == 3:
            last.set()
    assert numbers[-1] == 0 and sorted(numbers) == [0, 1, 2, 3]


def test_calls_are_taken_when_they_can_be_sent_and_what_they_raise_ends_the_asking(
    fake_openai: Any, connect: Connect
) -> None:
    server = fake_openai(lambda body, number: "fine")
    vlm = connect(server.url, concurrency=2)
    taken, heard = [0], [0]

    def calls() -> Iterator[Call]:
        for number in range(10):
            if number == 5:
                raise ValueError("no money left")
            taken[0] += 1
            yield Call(ASK[0], GREEDY)

    def hear() -> None:
        for _ in vlm.answer_each(calls()):
            heard[0] += 1
            assert taken[0] <= heard[0] + 2 * vlm.concurrency

    with pytest.raises(ValueError, match="no money left"):
        hear()
    assert heard[0] == taken[0] == 5 == len(server.bodies)
    assert len(list(vlm.answer_each(calls_of(vlm, 3)))) == 3  # and it can be asked again


def test_given_up_from_another_thread(fake_openai: Any, connect: Connect) -> None:
    """Who waits for an answer that does not come is told, and the connection can be used again."""
    began = threading.Event()

    def answer(body: dict[str, Any], number: int) -> str | None:
        began.set()
        return "fine" if number else None

    vlm = connect(fake_openai(answer).url)
    told: list[str] = []

    def ask() -> None:
        try:
            vlm.generate(ASK, GREEDY)
        except ModelError as error:
            told.append(str(error))

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert began.wait(20)
    vlm.give_up()
    waiting.join(20)
    assert told == [f"{vlm.endpoint}: given up"]
    assert vlm.generate(ASK, GREEDY)[0][0].text == "fine"


def calls_of(vlm: OpenAIVLM, count: int) -> list[Call]:
    return [call for _ in range(count) for call in vlm.calls(ASK[0], GREEDY, 4)]


def test_pictures_are_encoded_once_for_all_draws(
    fake_openai: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = [0]

    def counted(request: Request) -> bytes:
        count[0] += 1
        return encode_messages(request)

    monkeypatch.setattr("edit_r1.vlm.openai_wire.encode_messages", counted)
    server = fake_openai(lambda body, number: "fine")
    connect(server.url).generate([Request((PICTURE, "a")), Request((PICTURE, "b"))], SAMPLED, n=4)
    assert count[0] == 2 and len(server.bodies) == 8
    assert len({repr(body["messages"]) for body in server.bodies}) == 2


def test_a_pause_too_long_is_a_failure(fake_openai: Any, connect: Connect, reply: Any) -> None:
    server = fake_openai(lambda body, number: reply({"error": "limit"}, 429, {"Retry-After": "3600"}))
    assert "come back in 3600 s" in reason(connect(server.url))
    assert len(server.bodies) == 1


def test_an_empty_account_is_not_tried_again(fake_openai: Any, connect: Connect, reply: Any) -> None:
    error = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    server = fake_openai(lambda body, number: reply(error, 429))
    assert "exceeded your quota" in reason(connect(server.url))
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error": {"message": "unknown key top_k"}}, "unknown key top_k"),
        (404, {"detail": "no model judge"}, "is the model 'judge' served there"),
        (413, b"<html><h1>Request Entity\nToo Large</h1></html>", "Request Entity Too Large"),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, "bad"),
        (302, b"", "redirects to"),
        (204, b"", "204"),
    ],
)
def test_other_refusals_are_final(
    fake_openai: Any, connect: Connect, reply: Any, status: int, body: Any, said: str
) -> None:
    server = fake_openai(lambda _, number: reply(body, status))
    vlm = connect(server.url)
    told = reason(vlm)
    assert said in told and tells_refusal(told) == tells_refusal(f"no answer came: {told}") == (status in (400, 422))
    assert len(server.bodies) == 1
    with pytest.raises(ModelError, match=said):
        vlm.check()


def test_a_model_that_thought_until_its_limit_is_cut_and_not_gone(
    fake_openai: Any, connect: Connect, reply: Any
) -> None:
    """api.openai.com says so by a 400; were it a failure, a run would end because the short question of `check` has no
    answer either."""
    words = "Could not finish the message because max_tokens or model output limit was reached. Please try again."
    refusal = {"error": {"message": words, "type": "invalid_request_error"}}
    vlm = connect(fake_openai(lambda body, number: reply(refusal, 400)).url)
    vlm.check()
    [row] = vlm.generate(ASK, GREEDY)
    assert (row[0].finish, row[0].text, row[0].error) == ("length", "", None)
    assert (vlm.usage.failures, vlm.usage.unmetered) == (0, 2)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_without_probabilities_is_asked_without(
    fake_openai: Any, connect: Connect, reply: Any, status: int
) -> None:
    """`rank` asks for them to break ties, and some hosted models refuse every request that does."""
    refusal = {"error": {"message": "logprobs are not supported with this model"}}
    server = fake_openai(lambda body, number: reply(refusal, status) if "logprobs" in body else "fine")
    vlm = connect(server.url)
    asked = Sampling(9, temperature=0.0, top_logprobs=20)
    ((one,),) = vlm.generate(ASK, asked)
    assert (one.text, one.choices) == ("fine", None)
    assert vlm.usage == Usage(requests=1, retries=1, prompt_tokens=10, completion_tokens=4)
    assert vlm.generate(ASK, asked)[0][0].text == "fine"
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]  # it is remembered


def test_what_is_refused_for_another_reason_says_so(fake_openai: Any, connect: Connect, reply: Any) -> None:
    server = fake_openai(lambda body, number: reply({"error": "the picture is too small"}, 400))
    vlm = connect(server.url)
    for _ in range(2):
        ((one,),) = vlm.generate(ASK, Sampling(9, temperature=0.0, top_logprobs=20))
        assert one.finish == "error" and "the picture is too small" in (one.error or "")
    assert ["logprobs" in body for body in server.bodies] == [True, False] * 2  # nothing was learned about the server


def test_the_key_is_sent_and_never_told(
    fake_openai: Any, connect: Connect, reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-very-secret"
    monkeypatch.setenv("JUDGE_KEY", f" {key}\n")
    replies = [
        reply({"error": {"message": f"Incorrect key: {key}"}}, 401),
        reply({"error": f"bad {key}"}, 400),
        reply(f"<p>{key}</p>".encode()),
        reply({"choices": [{"message": {"refusal": f"not for {key}"}}]}),
    ]
    server = fake_openai(lambda body, number: replies[number])
    vlm = connect(server.url, api_key_env="JUDGE_KEY")
    told = [reason(vlm) for _ in replies]
    assert all(headers["authorization"] == f"Bearer {key}" for headers in server.seen_headers)
    assert "refuses the key in JUDGE_KEY (401)" in told[0]
    assert not any(key in text for text in [*told, repr(vlm), repr(vlm.usage)])
    monkeypatch.setenv("JUDGE_KEY", "two words")
    with pytest.raises(ModelError, match="JUDGE_KEY") as caught:
        connect(server.url, api_key_env="JUDGE_KEY")
    assert "two words" not in str(caught.value)


def test_no_key_is_no_header(fake_openai: Any, connect: Connect, reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    server = fake_openai(lambda body, number: reply({}, 401))
    assert "wants a key: set JUDGE_KEY (401)" in reason(connect(server.url, api_key_env="JUDGE_KEY"))
    assert "authorization" not in server.seen_headers[0]


def test_a_dropped_connection_is_tried_again(fake_openai: Any, connect: Connect, reply: Any) -> None:
    server = fake_openai(lambda body, number: reply({"choices": []}, drop=True) if number == 0 else "fine")
    vlm = connect(server.url)
    assert vlm.generate(ASK, GREEDY)[0][0].text == "fine"
    assert vlm.usage.retries == 1
    always = fake_openai(lambda body, number: reply({"choices": []}, drop=True))
    assert "the connection broke" in reason(connect(always.url, max_retries=1))


def test_a_time_out_is_tried_again(fake_openai: Any, connect: Connect) -> None:
    server = fake_openai(lambda body, number: None if number == 0 else "fine")
    vlm = connect(server.url, timeout_s=0.5)
    assert vlm.generate(ASK, GREEDY)[0][0].text == "fine"
    assert vlm.usage.retries == 1
    silent = fake_openai(lambda body, number: None)
    assert "no answer within 0.2 s" in reason(connect(silent.url, timeout_s=0.2, max_retries=1))


def test_a_server_that_was_never_there_is_told_at_once(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        vlm = connect(url, max_retries=5, backoff_s=30.0, max_wait_s=60.0)
        assert "cannot be reached" in reason(vlm)
        assert vlm.usage == Usage(requests=1, failures=1)
        with pytest.raises(ModelError, match="is the server running there"):
            vlm.check()


def test_a_server_that_went_away_is_waited_for(fake_openai: Any, connect: Connect, reply: Any) -> None:
    body = {"choices": [{"message": {"content": "fine"}}]}
    server = fake_openai(lambda _, number: reply(body, headers={"Connection": "close"}))
    vlm = connect(server.url)
    vlm.check()
    server.shutdown()
    server.server_close()
    assert "cannot be reached" in reason(vlm)
    assert vlm.usage.retries == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "nothing"),
        (b"<!doctype html><title>Sign in</title>", "HTML: Sign in"),
        (b'{"choices": [{"message": {"content": "ha', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ([1, 2], "JSON list"),
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": None, "error": {"message": "overloaded"}}, "overloaded"),
        ({"choices": ["x"]}, "no message"),
        ({"choices": [{"message": None}]}, "no message"),
        ({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}, "no text"),
        ({"choices": [{"message": {"content": {"a": 1}}}]}, "no text"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}, "content filter"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "tool_calls"}]}, "tool_calls"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": ["stop"]}]}, "ended by"),
        ({"choices": [{"message": {"content": "x", "refusal": "I cannot"}}]}, "refused: I cannot"),
        ({"choices": [{"message": {"content": "", "reasoning": "hm"}, "finish_reason": "stop"}]}, "gave no answer"),
    ],
)
def test_what_is_no_answer_is_an_error(fake_openai: Any, connect: Connect, reply: Any, body: Any, said: str) -> None:
    server = fake_openai(lambda _, number: reply(body))
    assert said in reason(connect(server.url))
    assert len(server.bodies) == 1


def test_one_failure_leaves_the_others_alone(fake_openai: Any, connect: Connect, reply: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        text = body["messages"][0]["content"][0]["text"]
        return reply({"error": "no"}, 400) if text == "2" else f"answer {text}"

    vlm = connect(fake_openai(answer).url)
    requests = [Request((str(number),)) for number in range(5)]
    requests[3] = Request((b"broken picture", "3"))
    rows = vlm.generate(requests, GREEDY)
    assert [row[0].text for row in rows] == ["answer 0", "answer 1", "", "", "answer 4"]
    assert [row[0].finish for row in rows] == ["stop", "stop", "error", "error", "stop"]
    assert "not an image" in (rows[3][0].error or "")
    assert vlm.usage == Usage(requests=4, failures=1, prompt_tokens=30, completion_tokens=12)


def test_requests_in_flight_are_bounded(fake_openai: Any, connect: Connect) -> None:
    full = threading.Barrier(3)

    def answer(body: dict[str, Any], number: int) -> str:
        full.wait(20)  # passes only when three are in flight at once
        return body["messages"][0]["content"][0]["text"]

    server = fake_openai(answer)
    vlm = connect(server.url, concurrency=3)
    texts = [str(number) for number in range(12)]
    rows = vlm.generate([Request((text,)) for text in texts], GREEDY)
    assert [row[0].text for row in rows] == texts
    assert server.most_in_flight == 3 == vlm.capacity


def test_as_many_connections_as_requests_in_flight(fake_openai: Any, connect: Connect, reply: Any) -> None:
    seen: set[int] = set()
    server = fake_openai(lambda body, number: reply({}, drop=True) if number == 5 else "fine")
    verify = server.verify_request
    server.verify_request = lambda request, address: seen.add(address[1]) or verify(request, address)
    vlm = connect(server.url)
    for _ in range(10):
        assert vlm.generate(ASK, GREEDY)[0][0].text == "fine"
    assert len(seen) == 2  # a second one after the broken answer


def test_it_may_be_called_from_threads_and_inside_a_running_loop(fake_openai: Any, connect: Connect) -> None:
    vlm = connect(fake_openai(lambda body, number: "fine").url)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(vlm.generate(ASK, GREEDY)[0][0].text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def inside() -> str:
        return vlm.generate(ASK, GREEDY)[0][0].text

    assert [*found, asyncio.run(inside())] == ["fine"] * 5
    assert vlm.usage.requests == 5


def test_tokens_and_cost_per_request_and_in_all(fake_openai: Any, connect: Connect, reply: Any) -> None:
    server = fake_openai(lambda body, n: "fine" if n < 2 else reply({"choices": [{"message": {"content": "x"}}]}))
    each: list[Usage] = []
    vlm = connect(server.url, prices=Prices(2.0, 8.0), on_request=each.append)
    for _ in range(3):
        (row,) = vlm.generate(ASK, GREEDY)
        assert row[0].tokens == (4 if len(each) < 3 else 0)
    one = Usage(requests=1, prompt_tokens=10, completion_tokens=4, cost=(10 * 2 + 4 * 8) / 1e6)
    assert each == [one, one, Usage(requests=1, unmetered=1, cost=0.0)]
    assert vlm.usage == one + one + each[2]
    assert vlm.usage.cost == pytest.approx(104e-6)


@pytest.mark.parametrize(
    ("endpoint", "used"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        (" http://127.0.0.1:8000/ ", "http://127.0.0.1:8000/v1"),
        ("https://judge.example/openai/v1/", "https://judge.example/openai/v1"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1"),
    ],
)
def test_addresses(connect: Connect, endpoint: str, used: str) -> None:
    assert connect(endpoint).endpoint == used


@pytest.mark.parametrize(
    "endpoint",
    ["", "127.0.0.1:8000", "ftp://a/v1", "http://", "http://a/v1?key=1", "http://me:pw@a/v1", "http://a:b/v1"],
)
def test_what_is_no_address(endpoint: str) -> None:
    with pytest.raises(ModelError, match="endpoint") as caught:
        OpenAIVLM(endpoint, "judge")
    assert "pw" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout_s": 0.0}, "timeout_s=0.0"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"extra": {"seed": 1}}, "seed"),
        ({"extra": {"guided": {1, 2}}}, "give what JSON has"),
        ({"extra": {"min_p": float("nan")}}, "give what JSON has"),
    ],
)
def test_bad_settings(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OpenAIVLM("http://127.0.0.1:1", "judge", **change)
    with pytest.raises(ValueError, match="prices"):
        Prices(-1.0, 0.0)


def test_bad_sampling_and_a_closed_connection(fake_openai: Any, connect: Connect) -> None:
    vlm = connect(fake_openai(lambda body, number: "fine").url, extra={"min_p": 0.1})
    with pytest.raises(ValueError, match="top_logprobs=21"):
        vlm.generate(ASK, Sampling(4, top_logprobs=21))
    with pytest.raises(ValueError, match="n=0"):
        vlm.generate(ASK, GREEDY, n=0)
    vlm.close()
    vlm.close()
    with pytest.raises(ModelError, match="closed"):
        vlm.generate(ASK, GREEDY)
