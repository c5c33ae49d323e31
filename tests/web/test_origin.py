"""Other sites cannot use a page that a person has open."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from edit_r1.web.origin import SameOrigin


def client(loopback_only: bool) -> TestClient:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("in"), methods=["GET", "POST"])])
    return TestClient(SameOrigin(app, loopback_only))


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "localhost", "localhost:1", "[::1]:8400"])
def test_this_machine_may(host: str) -> None:
    assert client(True).get("/", headers={"Host": host}).text == "in"
    assert client(True).post("/", headers={"Host": host, "Origin": f"http://{host}"}).text == "in"


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example:8400", "", "[::1", "10.0.0.7:8400"])
def test_a_name_that_was_made_to_point_here_may_not(host: str) -> None:
    answer = client(True).get("/", headers={"Host": host})
    assert answer.status_code == 403 and "is not this machine" in answer.json()["error"]
    assert client(False).get("/", headers={"Host": host}).text == "in"  # there a token is asked for


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:8401", "null", "http://[::1"])
def test_another_page_may_read_nothing_new_and_send_nothing(origin: str) -> None:
    headers = {"Host": "127.0.0.1:8400", "Origin": origin}
    assert client(True).post("/", headers=headers).status_code == 403
    assert client(False).post("/", headers=headers).status_code == 403


def test_programs_send_no_origin() -> None:
    assert client(True).post("/", headers={"Host": "127.0.0.1"}).text == "in"
