"""A model whose answers tell what it was shown, servers around it, and pictures that carry numbers.

A picture is one colour: red is its number, blue its fault. The fake's score is the edited picture's number / 10, and
its evidence names the numbers of source, edit and instruction, so that any mix-up between items shows.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import CATEGORIES, Principle
from edit_r1.serve.app import create_app
from edit_r1.serve.settings import ServeSettings
from edit_r1.verifier.scoring import Verifier
from edit_r1.verifier.traces import write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling
from edit_r1.web.listen import bind, server_config

PRINCIPLES = tuple(Principle(f"Is it right ({category})?", category) for category in CATEGORIES)

UNPARSED_IF_GREEDY, UNPARSED, NO_ANSWER, RAISES, RAISES_IN_COMPANY = 20, 40, 60, 80, 100


class FakeVLM:
    """Answers from the pictures' colours; `gate` holds it back while it is not set."""

    name = "fake"
    simulated = False

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[tuple[int, int, Sampling]] = []
        """(requests, answers each, sampling) of every call that judged or chatted."""
        self.asked = threading.Event()
        """Set once a call that judges or chats has begun."""
        self.gate = threading.Event()
        self.gate.set()

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        if "List the principles." in requests[0].text:
            return [[_said(write_principles(PRINCIPLES, "compact"))] for _ in requests]
        self.asked.set()
        self.gate.wait(60)
        time.sleep(self.seconds)
        self.calls.append((len(requests), n, sampling))
        return [[self._answer(request, sampling, len(requests))] * n for request in requests]

    def _answer(self, request: Request, sampling: Sampling, company: int) -> Completion:
        if "Answer:" not in request.text:
            return _said(f"{len(request.images)} images, {request.text}, {request.system}, {sampling.max_new_tokens}")
        colours = [decode_rgb(image)[0, 0] for image in request.images]
        fault = int(colours[-1][2])
        if fault == RAISES or (fault == RAISES_IN_COMPANY and company > 1):
            raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")
        if fault == NO_ANSWER:
            return Completion("", 0, "error", "time-out")
        if fault == UNPARSED or (fault == UNPARSED_IF_GREEDY and sampling.temperature == 0):
            return _said("A very nice picture.")
        *sources, edited = [int(colour[0]) for colour in colours]
        instruction = re.search(r"Instruction: (.*)", request.text)
        said = f"{' and '.join(map(str, sources))} became {edited} by {instruction[1] if instruction else None}"
        count = len(re.findall(r"^\d+ \[", request.text, re.MULTILINE))
        return _said(write_trace([said] * count, [1] * count, edited / 10, "both", "compact"))


def _said(text: str) -> Completion:
    return Completion(text, len(text.split()), "stop")


def picture(number: int, fault: int = 0, size: int = 8) -> bytes:
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = (number, 0, fault)
    return encode_png(pixels)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def item(number: int, fault: int = 0, **changes: object) -> dict:
    """An item of /v1/judge whose source, edit and instruction all carry `number` (at most 100)."""
    whole = {
        "sources": [b64(picture(number + 100))],
        "edited": b64(picture(number, fault)),
        "instruction": f"edit {number}",
    }
    return {**whole, **changes}


def evidence(number: int) -> str:
    """What the fake says about `item(number)`."""
    return f"{number + 100} became {number} by edit {number}"


def make_client(model: FakeVLM, tokens: Sequence[str] = (), accepts: Callable | None = None, **settings) -> TestClient:
    """To be used as a context manager: the server's work starts with it."""
    verifier = Verifier(model, variant="compact")
    return TestClient(create_app(verifier, ServeSettings(**settings), tokens, accepts), raise_server_exceptions=True)


@contextmanager
def live(verifier: Verifier, tokens: Sequence[str] = (), **changes) -> Iterator[str]:
    """A real server on a free port of the loopback, in a thread; gives its address."""
    settings = ServeSettings(port=0, **changes)
    with bind(settings.host, 0) as listener:
        server = uvicorn.Server(server_config(create_app(verifier, settings, tokens)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """Everything above, for test files, which cannot import this one."""
    return SimpleNamespace(**globals())


@pytest.fixture
def model() -> FakeVLM:
    return FakeVLM()


@pytest.fixture
def client(model: FakeVLM) -> Iterator[TestClient]:
    with make_client(model) as client:
        yield client
