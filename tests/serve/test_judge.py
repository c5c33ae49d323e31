"""POST /v1/judge: nothing is mixed up, failures are per item, settings are respected, the server lives on."""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from edit_r1.records import CATEGORIES
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.verifier.traces import write_trace
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.protocol import Completion, Request, Sampling, TokenChoices

URL = "/v1/judge"


def judge(client: TestClient, items: list[dict], **settings) -> list[dict]:
    answer = client.post(URL, json={"items": items, **settings})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["scale"] == {"min": 0, "max": 10}
    return document["judgments"]


def test_a_judgment_is_that_of_the_command_line_with_its_id(kit: SimpleNamespace, client: TestClient) -> None:
    principles = [{"question": "Is it red?", "category": CATEGORIES[0]}]
    (got,) = judge(client, [kit.item(42, id="x", principles=principles)])
    assert got.pop("seconds") >= 0
    assert got == {
        "id": "x", "score": 4.2, "reason": None, "traces": 1, "unparsed": 0, "score_std": None, "model": "fake",
        "expected_score": None, "prompts": PROMPT_VERSIONS["compact"],
        "principles": [{**principles[0], "verdict": 1.0, "evidence": kit.evidence(42)}],
        "categories": {CATEGORIES[0]: 1.0, CATEGORIES[1]: None, CATEGORIES[2]: None}, "simulated": False,
    }  # fmt: skip


def test_the_model_writes_principles_where_none_are_given(kit: SimpleNamespace, client: TestClient) -> None:
    (got,) = judge(client, [kit.item(7)])
    assert [row["question"] for row in got["principles"]] == [one.question for one in kit.PRINCIPLES]


def test_several_sources_and_data_urls(kit: SimpleNamespace, client: TestClient) -> None:
    sources = [kit.b64(kit.picture(number)) for number in (1, 2, 3)]
    sources[1] = f"data:image/png;base64,{sources[1]}"
    (got,) = judge(client, [kit.item(9, sources=sources)])
    assert got["principles"][0]["evidence"] == "1 and 2 and 3 became 9 by edit 9"


def test_a_failure_costs_no_other_item(kit: SimpleNamespace, client: TestClient) -> None:
    items = [
        kit.item(1), kit.item(2, fault=kit.UNPARSED), kit.item(3), kit.item(4, fault=kit.NO_ANSWER),
        kit.item(5, edited="no image"), kit.item(6),
    ]  # fmt: skip
    got = judge(client, items)
    assert [one["score"] for one in got] == [0.1, None, 0.3, None, None, 0.6]
    assert [one["unparsed"] for one in got] == [0, 1, 0, 1, 1, 0]
    reasons = [one["reason"] for one in got]
    assert reasons[0] is reasons[2] is reasons[5] is None
    assert "score" in reasons[1] and "time-out" in reasons[3] and "not base64" in reasons[4]
    assert all("\n" not in reason for reason in reasons if reason)


def test_an_item_that_breaks_its_call_costs_no_other_and_the_server_lives_on(
    kit: SimpleNamespace, client: TestClient
) -> None:
    got = judge(client, [kit.item(1), kit.item(2, fault=kit.RAISES)])
    assert [one["score"] for one in got] == [0.1, None]
    assert got[1]["reason"] == "the model failed: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert client.get("/health").json()["status"] == "ok"
    judge(client, [kit.item(2, fault=kit.RAISES)])  # two calls: a failed item is tried once more
    health = client.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["failures_in_a_row"]) == (200, "degraded", 3)
    assert health.json()["rewards"] == {"edit_rrm": ["degraded"]}
    assert judge(client, [kit.item(1)])[0]["score"] == 0.1
    assert client.get("/health").json()["status"] == "ok"


def test_an_endpoint_that_is_gone_makes_the_server_degraded_and_broken_pictures_do_not(
    kit: SimpleNamespace, fake_openai: Any, reply: Any
) -> None:
    gone = [True]
    text = write_trace([None], [1], 7.0, "both", "compact")
    server = fake_openai(lambda body, number: reply({"error": "down"}, 502) if gone[0] else text)
    given = {"principles": [{"question": "Is it red?", "category": CATEGORIES[0]}]}
    vlm = OpenAIVLM(server.url, "judge", max_retries=0)
    with kit.make_client(vlm) as client:
        status = lambda: client.get("/health").json()["status"]  # noqa: E731
        for number in range(3):  # the header is whole and the pixels are not
            broken = kit.b64(kit.picture(number, size=64)[:-30])
            assert judge(client, [kit.item(1, edited=broken, **given)])[0]["score"] is None
        assert (status(), server.bodies) == ("ok", [])
        for _ in range(2):  # an item without an answer is asked about once more
            assert "502" in judge(client, [kit.item(1, **given)])[0]["reason"]
        assert status() == "degraded"
        assert "edit_r1_batch_failures_total 4.0" in client.get("/metrics").text
        gone[0] = False
        assert judge(client, [kit.item(1, **given)])[0]["score"] == 7.0
        assert status() == "ok"
    vlm.close()


def test_the_expected_score_is_asked_for_by_name(kit: SimpleNamespace, client: TestClient, model, monkeypatch) -> None:
    text = write_trace([None] * 3, [1] * 3, 8.0, "both", "compact")
    place = text.rindex("<score>") + len("<score>")
    choices = [TokenChoices(sign, ((sign, 0.0),)) for sign in text]
    choices[place] = TokenChoices("8", (("8", math.log(0.75)), ("4", math.log(0.25))))
    answer = Completion(text, len(text), "stop", choices=tuple(choices))

    def generate(requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        return [[answer if sampling.top_logprobs else replace(answer, choices=None)] * n for _ in requests]

    monkeypatch.setattr(model, "generate", generate)
    given = {"principles": [{"question": f"Is it {n}?", "category": CATEGORIES[0]} for n in range(3)]}
    (plain,), (asked,) = judge(client, [kit.item(1, **given)]), judge(client, [kit.item(1, **given)], expected=True)
    assert (plain["score"], plain["expected_score"]) == (8.0, None)
    assert (asked["score"], asked["expected_score"]) == (8.0, pytest.approx(7.0))


def test_base64_may_be_broken_into_lines(kit: SimpleNamespace, client: TestClient) -> None:
    """As the program base64 writes it."""
    wrapped = base64.encodebytes(kit.picture(7, size=64)).decode()
    assert wrapped.count("\n") > 1
    (got,) = judge(client, [kit.item(7, edited=wrapped.replace("\n", "\r\n"), sources=[wrapped])])
    assert (got["score"], got["reason"]) == (0.7, None)


def test_concurrent_requests_are_judged_together_and_never_mixed_up(kit: SimpleNamespace) -> None:
    model = kit.FakeVLM()
    model.gate.clear()
    settings = [{}, {"traces": 2}, {"traces": 2, "seed": 5}, {"temperature": 0.5}]
    with kit.make_client(model, max_wait_ms=0) as client, ThreadPoolExecutor(48) as pool:

        def ask(number: int) -> list[dict]:
            return judge(client, [kit.item(number), kit.item(number + 50)], **settings[number % 4])

        answers = [pool.submit(ask, number) for number in range(48)]
        while client.get("/health").json()["queued"] < 90:
            time.sleep(0.01)
        model.gate.set()
        for number, answer in enumerate(answers):
            first, second = answer.result()
            assert (first["score"], second["score"]) == (number / 10, (number + 50) / 10)
            assert first["principles"][0]["evidence"] == kit.evidence(number)
            assert second["principles"][2]["evidence"] == kit.evidence(number + 50)
            assert first["traces"] == settings[number % 4].get("traces", 1)
        assert len(model.calls) < 20
        kinds = {(n, sampling.temperature, sampling.seed) for _, n, sampling in model.calls}
        assert kinds == {(1, 0.0, 0), (2, 1.0, 0), (2, 1.0, 5), (1, 0.5, 0)}
        assert all(requests * n <= 64 for requests, n, _ in model.calls)


def test_the_server_sets_the_traces_where_the_request_does_not(kit: SimpleNamespace, model) -> None:
    with kit.make_client(model, traces=3) as client:
        assert judge(client, [kit.item(1)])[0]["traces"] == 3
        assert judge(client, [kit.item(1)], traces=1)[0]["traces"] == 1


def test_batch_size_one_switches_batching_off(kit: SimpleNamespace, model) -> None:
    with kit.make_client(model, batch_size=1) as client:
        judge(client, [kit.item(number) for number in range(5)])
    assert [requests for requests, _, _ in model.calls] == [1] * 5


def test_a_full_queue_and_too_many_items_are_refused(kit: SimpleNamespace) -> None:
    model = kit.FakeVLM()
    model.gate.clear()
    with kit.make_client(model, queue=3, max_items=3, max_wait_ms=0) as client, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(judge, client, [kit.item(1)])]
        while client.get("/metrics").text.count("edit_r1_batch_items_count 1.0") == 0:
            time.sleep(0.01)
        running.append(pool.submit(judge, client, [kit.item(number) for number in (2, 3)]))
        while client.get("/health").json()["queued"] < 2:
            time.sleep(0.01)
        full = client.post(URL, json={"items": [kit.item(4), kit.item(5)]})
        assert (full.status_code, "try again" in full.json()["error"]) == (503, True)
        assert int(full.headers["Retry-After"]) >= 1
        many = client.post(URL, json={"items": [kit.item(number) for number in range(4)]})
        assert many.status_code == 413 and "at most 3" in many.json()["error"]
        model.gate.set()
        assert [[one["score"] for one in answer.result()] for answer in running] == [[0.1], [0.2, 0.3]]
        metrics = client.get("/metrics").text
        assert 'edit_r1_rejected_total{reason="queue_full"} 1.0' in metrics


def test_an_item_the_model_must_not_be_asked_about(kit: SimpleNamespace, model) -> None:
    def accepts(item) -> str | None:
        if item.instruction == "edit 3":
            raise ValueError("source image:\ndamaged")
        return "not EditWorld" if item.instruction == "edit 2" else None

    with kit.make_client(model, accepts=accepts) as client:
        got = judge(client, [kit.item(number) for number in (1, 2, 3, 4)])
    assert [one["score"] for one in got] == [0.1, None, None, 0.4]
    assert [one["reason"] for one in got] == [None, "not EditWorld", "source image: damaged", None]


def test_no_items_no_judgments(client: TestClient) -> None:
    assert judge(client, []) == []


def test_the_metrics_count_what_happened(kit: SimpleNamespace, client: TestClient) -> None:
    judge(client, [kit.item(1), kit.item(2, fault=kit.UNPARSED), kit.item(3, edited=""), kit.item(4)], traces=2)
    judge(client, [kit.item(4, fault=kit.RAISES)])
    client.post(URL, content=b"{")
    client.get("/nowhere/at/all")
    figures = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    expected = {
        'edit_r1_requests_total{endpoint="/v1/judge",status="200"}': 2,
        'edit_r1_requests_total{endpoint="other",status="404"}': 1,
        'edit_r1_items_total{outcome="scored"}': 2,
        'edit_r1_items_total{outcome="unparsed"}': 1,
        'edit_r1_items_total{outcome="refused"}': 1,
        'edit_r1_items_total{outcome="failed"}': 1,
        "edit_r1_unparsed_traces_total": 3,
        "edit_r1_batch_failures_total": 2,
        "edit_r1_queue_items": 0,
        "edit_r1_batch_items_sum": 5,
        "edit_r1_judging_seconds_count": 3,
        "edit_r1_waiting_seconds_count": 5,
    }
    assert {name: float(figures[name]) for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"traces": 0}, "traces"), ({"traces": 65}, "traces"), ({"traces": 1.5}, "traces"), ({"seed": -1}, "seed"),
        ({"temperature": -1}, "temperature"), ({"temperature": 1e-300}, "temperature"),
        ({"temperature": 99}, "temperature"), ({"items": {}}, "items"), ({"items": [{}]}, "items.0.sources"),
        ({"items": ["x"]}, "items.0"),
    ],
)  # fmt: skip
def test_a_field_out_of_range_is_named(client: TestClient, settings: dict, said: str) -> None:
    answer = client.post(URL, json={"items": [], **settings})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)


def test_unknown_keys_are_ignored(kit: SimpleNamespace, client: TestClient) -> None:
    (got,) = judge(client, [kit.item(1, colour="blue")], pickle="gASVIAAAAAAAAAA=", model="other")
    assert got["score"] == 0.1


def test_a_token_is_needed_where_one_is_set(kit: SimpleNamespace, model) -> None:
    token = "a-token-of-some-length"
    with kit.make_client(model, tokens=("another-one-entirely", token)) as client:
        assert client.get("/health").status_code == 200
        for path in ("/metrics", "/docs", "/openapi.json", "/rewards"):
            assert client.get(path).status_code == 401
        body = {"items": [kit.item(1)]}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"bearer{token}"}):
            refused = client.post(URL, json=body, headers=headers)
            assert refused.status_code == 401 and "token" in refused.json()["error"]
            assert "WWW-Authenticate" in refused.headers
        assert client.post(URL, json=body, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert client.post(URL, json=body, auth=("any", token)).status_code == 200
        assert model.calls and 'reason="unauthorized"} 7.0' in client.get("/metrics", auth=("", token)).text


def test_what_a_gone_client_asked_is_not_judged(kit: SimpleNamespace) -> None:
    import httpx

    from edit_r1.verifier.scoring import Verifier

    model = kit.FakeVLM()
    model.gate.clear()
    with kit.live(Verifier(model, variant="compact"), batch_size=1) as url:

        def queued() -> int:
            return httpx.get(f"{url}/health", timeout=300).json()["queued"]

        first = threading.Thread(target=lambda: httpx.post(f"{url}{URL}", json={"items": [kit.item(1)]}, timeout=300))
        first.start()
        assert model.asked.wait(60)  # the first item is with the model before the others arrive
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}{URL}", json={"items": [kit.item(2), kit.item(3)]}, timeout=httpx.Timeout(300, read=2))
        while queued() > 0:
            time.sleep(0.01)
        model.gate.set()
        first.join()
        assert len(model.calls) == 1
