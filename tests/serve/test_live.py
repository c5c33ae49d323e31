"""A real uvicorn server: large bodies, kept connections, many clients."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx

from edit_r1.verifier.scoring import Verifier


def test_many_clients_over_kept_connections(kit: SimpleNamespace) -> None:
    model = kit.FakeVLM(0.02)
    with kit.live(Verifier(model, variant="compact"), batch_size=16) as url, httpx.Client(timeout=60) as client:

        def ask(number: int) -> bool:
            answer = client.post(f"{url}/v1/judge", json={"items": [kit.item(number % 100)]})
            (got,) = answer.json()["judgments"]
            return got["principles"][1]["evidence"] == kit.evidence(number % 100)

        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(ask, range(128)))
    assert len(model.calls) < 64


def test_large_bodies_are_refused_and_the_connection_survives(kit: SimpleNamespace, model) -> None:
    with kit.live(Verifier(model, variant="compact"), max_body_mb=1) as url, httpx.Client(timeout=60) as client:
        body = b"[" * (2**20 + 1)
        for content in (body, (body[start : start + 65536] for start in range(0, len(body), 65536))):
            answer = client.post(f"{url}/v1/judge", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413 and "1048576 bytes" in answer.json()["error"]
        assert client.post(f"{url}/v1/judge", json={"items": [kit.item(1)]}).status_code == 200


def test_what_is_no_http_leaves_the_server_up(kit: SimpleNamespace, model) -> None:
    with kit.live(Verifier(model, variant="compact")) as url:
        port = int(url.rsplit(":", 1)[1])
        for data in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /score HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.settimeout(10)
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                assert b" 500 " not in connection.recv(4096)
        # A body that never comes whole: the client hangs up.
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
