"""The API page: its examples work, and nothing that fits or misses its schemas gives a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from edit_r1.verifier.scoring import Verifier

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, content_type_conformance]
POSTS = ["/v1/judge", "/compute", "/score", "/v1/chat/completions"]


@pytest.mark.parametrize("path", POSTS)
def test_the_examples_on_the_page_work(client: TestClient, path: str) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    (example,) = document["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["examples"]
    answer = client.post(path, json=example)
    assert answer.status_code == 200
    assert "error" not in answer.json()


def test_the_page_is_there(client: TestClient) -> None:
    assert "<title>edit-r1 serve" in client.get("/docs").text
    assert client.get("/openapi.json").json()["paths"].keys() == {*POSTS, "/rewards", "/health", "/metrics"}


@pytest.fixture(scope="module")
def server(kit: SimpleNamespace) -> Iterator[str]:
    with kit.live(Verifier(kit.FakeVLM(), variant="compact"), max_wait_ms=0) as url:
        yield url


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "misses"])
@pytest.mark.parametrize("path", POSTS)
def test_no_input_gives_a_5xx(server: str, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_url(f"{server}/openapi.json")[path]["POST"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        case.validate_response(case.call(timeout=60), checks=CHECKS)

    check()


@given(body=st.binary(max_size=200), path=st.sampled_from(POSTS))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_no_bytes_give_a_5xx(client: TestClient, body: bytes, path: str) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
