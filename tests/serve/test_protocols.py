"""The protocols of others, field by field as their clients send and read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.openai_wire import read_answer
from edit_r1.vlm.protocol import MAX_TOP_LOGPROBS, Completion, Request, Sampling, TokenChoices

# --- Flow-Factory -----------------------------------------------------------------------------------------------


def compute(kit: SimpleNamespace, numbers: list[int], faults: list[int] | None = None, **changes) -> dict:
    """The body that Flow-Factory's client builds."""
    rows = list(zip(numbers, faults or [0] * len(numbers), strict=True))
    return {
        "prompt": [f"edit {number}" for number, _ in rows],
        "image": [kit.b64(kit.picture(number, fault)) for number, fault in rows],
        "video": None,
        "condition_images": [[kit.b64(kit.picture(number + 100))] for number, _ in rows],
        "condition_videos": None,
        "kwargs": {"height": 64},
        **changes,
    }


def test_compute_gives_a_tenth_of_each_score_in_order(kit: SimpleNamespace, client: TestClient) -> None:
    answer = client.post("/compute", json=compute(kit, [70, 10, 100, 0]))
    assert answer.status_code == 200
    assert answer.json() == {"rewards": pytest.approx([0.7, 0.1, 1.0, 0.0]), "scale": {"min": 0, "max": 1}}


def test_compute_judges_again_by_a_sampled_trace(kit: SimpleNamespace, client: TestClient, model) -> None:
    body = compute(kit, [1, 2, 3], [0, kit.UNPARSED_IF_GREEDY, 0])
    assert client.post("/compute", json=body).json()["rewards"] == pytest.approx([0.01, 0.02, 0.03])
    assert [(size, sampling.temperature, sampling.seed) for size, _, sampling in model.calls] == [(3, 0, 0), (1, 1, 1)]


def test_compute_judges_again_alone_what_failed_in_company(kit: SimpleNamespace, client: TestClient, model) -> None:
    body = compute(kit, [1, 2, 3], [0, kit.RAISES_IN_COMPANY, 0])
    assert client.post("/compute", json=body).json()["rewards"] == pytest.approx([0.01, 0.02, 0.03])
    assert [size for size, _, _ in model.calls] == [3, 1, 1, 1]


@pytest.mark.parametrize("fault", ["UNPARSED", "NO_ANSWER", "RAISES"])
def test_compute_gives_an_error_rather_than_a_number(kit: SimpleNamespace, client: TestClient, fault: str) -> None:
    answer = client.post("/compute", json=compute(kit, [1, 2], [0, getattr(kit, fault)]))
    assert answer.status_code == 200
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].startswith("1 of 2 images have no score; the first, 1: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"condition_images": None}, "required_fields"), ({"image": None}, "required_fields"),
        ({"prompt": ["a", "b"]}, "2 prompts, 1 images"), ({"condition_images": [[]]}, "0 source images"),
        ({"image": ["@"]}, "not base64"),
    ],
)  # fmt: skip
def test_compute_says_what_is_missing(kit: SimpleNamespace, client: TestClient, changes: dict, said: str) -> None:
    answer = client.post("/compute", json=compute(kit, [1], **changes))
    assert answer.status_code == 200
    assert said in answer.json()["error"]


def test_compute_of_nothing(client: TestClient) -> None:
    answer = client.post("/compute", json={"prompt": [], "image": [], "condition_images": []})
    assert answer.json()["rewards"] == []


# --- UniRL ------------------------------------------------------------------------------------------------------


def request(kit: SimpleNamespace, number: int, fault: int = 0, **changes) -> dict:
    """One request as UniRL's client builds it."""
    return {
        "history": [
            {"text": f"edit {number}", "image_b64": kit.b64(kit.picture(number + 100))},
            {"text": f"edit {number}", "image_b64": kit.b64(kit.picture(number, fault))},
        ],
        "required_rewards": ["edit_rrm"],
        "metadata": {"policy_version": 3},
        **changes,
    }


IDENTITY = {
    "request_id": "r-1", "sample_id": "s-1", "group_id": "g-1", "source_rank": 2, "policy_version": 3,
    "idempotency_key": "ab12",
}  # fmt: skip


def test_score_gives_a_tenth_and_the_identities(kit: SimpleNamespace, client: TestClient) -> None:
    body = {"protocol_version": "1", "requests": [request(kit, 80, **IDENTITY), request(kit, 15)]}
    answer = client.post("/score", json=body).json()
    assert answer["results"] == [{"edit_rrm": {"overall": 0.8}}, {"edit_rrm": {"overall": 0.15}}]
    assert answer["errors"] == [{}, {}]
    assert (answer["protocol_version"], answer["scale"]) == ("1", {"min": 0, "max": 1})
    assert {**IDENTITY, "scorer_version": answer["identities"][0]["scorer_version"]} == answer["identities"][0]
    assert "fake" in answer["identities"][0]["scorer_version"]
    assert answer["identities"][1]["request_id"] is None


def test_score_leaves_a_failure_out_of_the_results(kit: SimpleNamespace, client: TestClient) -> None:
    requests = [
        request(kit, 1),
        request(kit, 2, kit.UNPARSED),
        request(kit, 3, kit.UNPARSED_IF_GREEDY),
        request(kit, 4, required_rewards=["clip", "edit_rrm"]),
        request(kit, 5, required_rewards=["clip"]),
        request(kit, 6, history=[{"text": "edit 6", "image_b64": kit.b64(kit.picture(6))}]),
        request(kit, 7, history=[]),
        request(kit, 8, history=[{"text": "x", "video_path": "/etc/passwd"}, {"text": "x", "image_b64": None}]),
    ]
    answer = client.post("/score", json={"requests": requests}).json()
    scores = [result.get("edit_rrm", {}).get("overall") for result in answer["results"]]
    assert scores == [0.01, None, 0.03, 0.04, None, None, None, None]
    errors = answer["errors"]
    assert errors[0] == errors[2] == {}
    assert "score" in errors[1]["edit_rrm"]
    assert errors[3].keys() == errors[4].keys() == {"clip"} and "edit_rrm" in errors[3]["clip"]
    assert all("0 source images" in errors[place]["edit_rrm"] for place in (5, 6, 7))


def test_several_turns_are_several_sources(kit: SimpleNamespace, client: TestClient, model) -> None:
    turns = [{"text": "edit 9", "image_b64": kit.b64(kit.picture(number))} for number in (3, 4, 9)]
    assert client.post("/score", json={"requests": [request(kit, 9, history=turns)]}).json()["errors"] == [{}]


def test_rewards_and_health_are_what_unirl_looks_for(client: TestClient) -> None:
    assert client.get("/rewards").json() == {"rewards": ["edit_rrm"]}
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["rewards"] == {"edit_rrm": ["ready"]}


# --- OpenAI -----------------------------------------------------------------------------------------------------


def test_chat_answers_with_the_bare_text(kit: SimpleNamespace, client: TestClient, model) -> None:
    content = [
        {"type": "text", "text": "Look: "},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{kit.b64(kit.picture(1))}"}},
    ]
    body = {
        "model": "any",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
        "max_tokens": 64, "temperature": 0.0, "top_p": 0.9, "top_k": -1, "n": 2, "seed": 7, "user": "me",
    }  # fmt: skip
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    document = answer.json()
    assert (document["object"], document["model"]) == ("chat.completion", "fake")
    said = {"role": "assistant", "content": "1 images, Look: <image>, Be brief., 64"}
    choice = {"message": said, "finish_reason": "stop", "logprobs": None}
    assert document["choices"] == [{"index": n, **choice} for n in (0, 1)]
    assert document["usage"]["completion_tokens"] == 14
    sampling = model.calls[-1][2]
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.0, 0.9, 0, 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stream": True}, "stream"), ({"tools": [{}]}, "tools"), ({"stop": ["x"]}, "stop"),
        ({"top_logprobs": 2}, "without logprobs"),
        ({"messages": []}, "roles"), ({"messages": [{"role": "assistant", "content": "x"}]}, "roles"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [{"role": "user", "content": "x\x00"}]}, "null byte"),
        ({"messages": [{"role": "user", "content": "x" * 200_001}]}, "characters"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "without its text"),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]}]},
            "not fetched",
        ),
    ],
)  # fmt: skip
def test_chat_refuses_by_name(client: TestClient, changes: dict, said: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], **changes}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_chat_tells_what_the_tokens_could_have_been(client: TestClient, model, monkeypatch) -> None:
    chosen = (
        TokenChoices("8", (("9", -0.25), ("8", -1.5), ("7", -math.inf))),
        TokenChoices("!", (("</", -0.1),)),  # sampled, and not among the likeliest
    )
    answer = Completion("8!", 2, "stop", choices=chosen)
    asked: list[Sampling] = []

    def generate(requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        asked.append(sampling)
        return [[answer] * n for _ in requests]

    monkeypatch.setattr(model, "generate", generate)
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2}
    response = client.post("/v1/chat/completions", json=body)
    others = [{"token": "9", "logprob": -0.25}, {"token": "8", "logprob": -1.5}]
    assert response.json()["choices"][0]["logprobs"]["content"] == [
        {"token": "8", "logprob": -1.5, "top_logprobs": others},
        {"token": "!", "logprob": -9999.0, "top_logprobs": [{"token": "</", "logprob": -0.1}]},
    ]
    assert [one.top_logprobs for one in asked] == [MAX_TOP_LOGPROBS]
    (read,) = read_answer(response.content, 1).completions  # our own client reads it
    assert read.choices is not None and read.choices[0] == TokenChoices("8", (("9", -0.25), ("8", -1.5)))


def test_chat_tells_when_an_endpoint_behind_it_is_gone(kit: SimpleNamespace, fake_openai: Any, reply: Any) -> None:
    server = fake_openai(lambda body, number: reply({"error": "down"}, 503))
    vlm = OpenAIVLM(server.url, "judge", max_retries=0)
    with kit.make_client(vlm) as client:
        answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
    vlm.close()
    assert (answer.status_code, answer.json()["error"]["type"]) == (502, "server_error")  # a client asks again


def test_chat_tells_what_the_model_could_not_do(kit: SimpleNamespace, client: TestClient) -> None:
    for fault, status in ((kit.NO_ANSWER, 400), (kit.RAISES, 503)):
        url = f"data:image/png;base64,{kit.b64(kit.picture(1, fault))}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "\nAnswer: verify"}]
        body = {"messages": [{"role": "user", "content": content}]}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
