"""The pages' calls over HTTP, and what strangers are told."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from edit_r1.annotate.app import STATIC, create_app
from edit_r1.annotate.assignment import Plan


@pytest.fixture
def page(tmp_path: Path, kit: SimpleNamespace) -> Iterator[TestClient]:
    database, pictures = kit.open(kit.write_task(tmp_path, 4, principles=1))
    with TestClient(create_app(database, pictures, Plan(gold_every=0)), base_url="http://127.0.0.1") as client:
        yield client
    database.close()


def join(page: TestClient, name: str = "Ann") -> dict[str, str]:
    joined = page.post("/api/join", json={"name": name}).json()
    return {"task": joined["task"], "name": joined["name"]}


def test_a_person_answers_a_pair(page: TestClient) -> None:
    who = join(page)
    got = page.post("/api/next", json={**who, "having": [], "count": 2}).json()
    shown = got["pairs"][0]
    assert set(shown) == {"pair", "source", "left", "right", "instruction", "principles"}
    assert (got["finished"], got["answered"], shown["principles"]) == (False, 0, ["Is point 0 right?"])
    for side in ("source", "left", "right"):
        picture = page.get(f"/pictures/{shown[side]}")
        assert picture.headers["content-type"] == "image/png" and "immutable" in picture.headers["cache-control"]
    event = {"kind": "answer", "id": "answer-1", "pair": shown["pair"], "choice": "left", "left": [1], "right": [0]}
    for stored in (1, 0):
        answer = page.post("/api/answers", json={**who, "events": [event]})
        assert answer.json() == {"stored": stored, "refused": {}}
    assert page.get("/api/progress").json()["answers"] == 1
    undo = {"kind": "undo", "id": "undo-0001", "answer": "answer-1"}
    assert page.post("/api/answers", json={**who, "events": [undo]}).json() == {"stored": 0, "refused": {}}
    assert page.post("/api/leave", json=who).json() == {}


def test_an_answer_after_weeks_does_not_hold_back_the_others(page: TestClient) -> None:
    """A page may be left open for as long: what is refused as a whole is sent again for ever."""
    who = join(page)
    pairs = page.post("/api/next", json={**who, "having": [], "count": 2}).json()["pairs"]
    events = [
        {"kind": "answer", "id": f"answer-{n}", "pair": one["pair"], "choice": "left", "seconds": seconds}
        for n, (one, seconds) in enumerate(zip(pairs, (2.5e6, 3.0), strict=True))
    ]
    assert page.post("/api/answers", json={**who, "events": events}).json() == {"stored": 2, "refused": {}}


def test_pages_need_nothing_from_elsewhere(page: TestClient) -> None:
    for path in ("/", "/progress"):
        answer = page.get(path)
        assert answer.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
            assert page.get(name).status_code == 200
    for file in STATIC.iterdir():
        text = file.read_text()
        assert not re.search(r"https?:|//[a-z]+\.|<script>|style=|\bon[a-z]+=\"", text), file.name


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/pictures/answers.sqlite", "/pictures/..%2f..%2fanswers.sqlite",
     f"/pictures/{'0' * 64}", "/docs", "/answers.sqlite"],
)  # fmt: skip
def test_only_the_pages_and_the_tasks_pictures_are_served(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 404 and "error" in answer.json()


JSON = {"Content-Type": "application/json"}
ANSWER = {"kind": "answer", "id": "answer-1", "pair": 1, "choice": "left"}


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"events": [{**ANSWER, "choice": "first"}]}, 422, "choice"),
        ({"events": [{**ANSWER, "id": "x' OR 1"}]}, 422, "id"),
        ({"events": [{**ANSWER, "pair": 2**63}]}, 422, "pair"),
        ({"events": [{**ANSWER, "pair": "one"}]}, 422, "pair"),
        ({"events": [{**ANSWER, "seconds": -1}]}, 422, "seconds"),
        ({"events": [{**ANSWER, "left": [2]}]}, 422, "left"),
        ({"events": [{**ANSWER, "gold": 1}]}, 422, "gold"),
        ({"events": [ANSWER] * 501}, 422, "500"),
        ({"events": [{**ANSWER, "kind": "delete"}]}, 422, "kind"),
        ({"name": "nobody"}, 409, "no annotator 'nobody'"),
        ({"task": "another"}, 409, "another task"),
        ({"name": "\ud800"}, 422, "name"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    page: TestClient, change: dict[str, Any], status: int, reason: str
) -> None:
    who = join(page)
    body = {**who, "events": [], **change}
    answer = page.post("/api/answers", content=json.dumps(body), headers=JSON)
    assert answer.status_code == status and reason in answer.json()["error"]
    assert "\n" not in answer.json()["error"] and page.get("/api/progress").json()["answers"] == 0


def test_names_that_cannot_be_used(page: TestClient) -> None:
    for name, status in (("", 409), (" ", 409), ("x" * 100, 409), ("x" * 300, 422), ("\ud800", 422)):
        assert page.post("/api/join", content=json.dumps({"name": name}), headers=JSON).status_code == status
    assert page.post("/api/join", content=b"{", headers=JSON).status_code == 422
    assert page.post("/api/join", content=b"x" * (2**20 + 1)).status_code == 413


def test_a_token_is_asked_for_everywhere_but_at_health(tmp_path: Path, kit: SimpleNamespace) -> None:
    database, pictures = kit.open(kit.write_task(tmp_path, 1))
    token = "a-token-of-sixteen-or-more"
    with TestClient(create_app(database, pictures, Plan(), [token])) as client:
        for path in ("/", "/progress", "/static/style.css", "/api/progress", f"/pictures/{'0' * 64}"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/", auth=("anybody", token)).status_code == 200
    database.close()


def test_other_sites_and_rebound_names_are_kept_out(page: TestClient) -> None:
    assert page.post("/api/join", json={"name": "Eve"}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert page.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_a_killed_server_keeps_what_it_acknowledged(tmp_path: Path, kit: SimpleNamespace, serve: Any) -> None:
    server = serve(kit.write_task(tmp_path, 40, gold=2), "--gold-every", "0")
    assert server.said.startswith(f"edit-r1 annotate: {tmp_path} (40 pairs, 2 gold) at {server.url} ")
    with httpx.Client(timeout=10) as client:
        who = {**client.post(f"{server.url}/api/join", json={"name": "Ann"}).json()}
        who = {"task": who["task"], "name": who["name"]}
        pairs = client.post(f"{server.url}/api/next", json={**who, "having": [], "count": 16}).json()["pairs"]

    def send(place: int) -> int | None:
        event = {"kind": "answer", "id": f"answer-{place:04}", "pair": pairs[place]["pair"], "choice": "left"}
        try:
            answer = httpx.post(f"{server.url}/api/answers", json={**who, "events": [event]}, timeout=10)
        except httpx.HTTPError:
            return None
        return place if answer.status_code == 200 else None

    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, place) for place in range(16)]
        sending[4].result()
        server.stop(signal.SIGKILL)
        acknowledged = {f"answer-{one:04}" for one in (future.result() for future in sending) if one is not None}
    server.start()
    database, _ = kit.open(tmp_path, gold_every=0)
    stored = [row[0] for row in database.rows("SELECT id FROM answers")]
    database.close()
    assert acknowledged <= set(stored) and len(stored) == len(set(stored))
    assert httpx.get(f"{server.url}/health").json()["task"] == who["task"]
    assert server.stop(signal.SIGTERM) == 0
