"""Settings of every test: no network, few threads."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Before anything imports torch or a Hugging Face library: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; the process that started it has set the number already
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# No test reads or leaves anything in the home of who runs it; tests of the cache name a folder.
os.environ["EDIT_R1_CACHE"] = "off"

import pytest
from hypothesis import settings

# No deadlines: a slow machine must not fail a test. Derandomised: a test fails for everyone or for no one.
settings.register_profile("edit_r1", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edit_r1")
# For a search of minutes with seeds of its own: pytest FILE --hypothesis-profile fuzz --hypothesis-seed 7
examples = int(os.environ.get("EDIT_R1_EXAMPLES", "20000"))
settings.register_profile("fuzz", deadline=None, max_examples=examples, database=None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@dataclass
class Reply:
    """What the fake server does with a request."""

    body: Any
    """A JSON value, or bytes as they are."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Close the connection in the middle of the body."""


class FakeOpenAI(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback whose answers are a function of the request and its number."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply | str | None]) -> None:
        """answer: a text is a whole completion; None is no answer at all until the server closes."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.seen_headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    @staticmethod
    def completion(text: object, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
        """The JSON of an answer with 10 prompt tokens and 4 generated ones."""
        choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 4}}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeOpenAI

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.seen_headers.append({name.lower(): value for name, value in self.headers.items()})
            server.paths.append(self.path)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            reply = server.answer(body, number)
        finally:
            with server.lock:
                server.in_flight -= 1
        if reply is None:
            server.closing.wait(30)
            self.close_connection = True
            return
        if isinstance(reply, str):
            reply = Reply(server.completion(reply))
        payload = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        with suppress(OSError):
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(payload)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload[: len(payload) // 2] if reply.drop else payload)
        self.close_connection = self.close_connection or reply.drop

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def fake_openai() -> Iterator[Callable[[Callable[[dict[str, Any], int], Any]], FakeOpenAI]]:
    """Starts a fake server per call; all end with the test."""
    servers: list[FakeOpenAI] = []

    def start(answer: Callable[[dict[str, Any], int], Any]) -> FakeOpenAI:
        server = FakeOpenAI(answer)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def reply() -> type[Reply]:
    """The class of a fake server's replies."""
    return Reply
