"""Edits that are stored as they come and looked up afterwards."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.editors.http import HttpEditor, HttpEditorSettings
from edit_r1.editors.kept import PIECE, KeptEditor, edit_key
from edit_r1.editors.protocol import EditedImage, PaidEditor
from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.vlm.budget import Budget, BudgetError, Ledger, read_spent
from edit_r1.vlm.usage import Usage


def picture(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


SAMPLES = [Sample(f"row-{number}", picture(number), f"Make circle {number} blue.", "") for number in range(6)]
SEEDS = list(range(6))


class Server(ThreadingHTTPServer):
    """An images API whose picture depends on the instruction and the number among n; refuses what it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.prompts: list[str] = []
        self.refuse: set[str] = set()
        self.elsewhere: set[int] = set()
        """Pictures of a request of which an address is sent."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts: Any = message_from_bytes(head + body).get_payload()
        form = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}
        prompt, n = form["prompt"].decode(), int(form["n"])
        self.server.prompts.append(prompt)
        images = [base64.b64encode(picture(len(prompt) + 100 * ord(prompt[12]) + k)).decode() for k in range(n)]
        refused = prompt in self.server.refuse
        entries = [{"b64_json": one} for one in images]
        for k in self.server.elsewhere.intersection(range(n)):
            entries[k] = {"url": "http://127.0.0.1/picture"}
        data = json.dumps({"error": "no"} if refused else {"data": entries}).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def connect(server: Server, **settings: Any) -> HttpEditor:
    return HttpEditor(server.url, HttpEditorSettings(concurrency=2, price=0.25, **settings), "painter")


def test_an_endpoint_is_paid() -> None:
    assert isinstance(HttpEditor("http://127.0.0.1:9/v1", HttpEditorSettings()), PaidEditor)
    assert not isinstance(Painter(), PaidEditor)


def test_what_was_made_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.refuse = {SAMPLES[2].instruction}
    ledger = Ledger(tmp_path / "spent")
    kept = KeptEditor(connect(server), tmp_path / "kept", ledger)
    first = kept.edit(SAMPLES, SEEDS)
    assert [edited.image is None for edited in first] == [number == 2 for number in range(6)]
    assert kept.used == Usage(requests=6, failures=1, cost=1.25) and len(server.prompts) == 6
    kept.close()
    server.refuse = set()
    again = KeptEditor(connect(server), tmp_path / "kept", ledger)
    rest = again.edit(SAMPLES, SEEDS)
    assert server.prompts[6:] == [SAMPLES[2].instruction]
    assert [one for n, one in enumerate(rest) if n != 2] == [one for n, one in enumerate(first) if n != 2]
    assert rest[2].image is not None and again.used.cost == 1.5
    spent = read_spent(tmp_path / "spent")["painter"]
    assert spent.usage == Usage(requests=7, failures=1, cost=1.5) and spent.limit in (1, 2)
    again.edit(SAMPLES[:1], [77])
    KeptEditor(connect(server, size="64x64"), tmp_path / "kept").edit(SAMPLES[:1], SEEDS[:1])
    assert len(server.prompts) == 9


def test_a_damaged_picture_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    first = KeptEditor(connect(server), tmp_path).edit(SAMPLES[:3], SEEDS[:3])
    pictures = sorted((tmp_path / "pictures").iterdir())
    pictures[0].write_bytes(b"torn")
    pictures[1].unlink()
    assert KeptEditor(connect(server), tmp_path).edit(SAMPLES[:3], SEEDS[:3]) == first
    assert len(server.prompts) == 5


def test_draws_of_one_request_are_single_edits(server: Server, tmp_path: Path) -> None:
    kept = KeptEditor(connect(server), tmp_path)
    edits = kept.edit([SAMPLES[0]] * 3, [1, 2, 3])
    assert len(server.prompts) == 1 and len({edited.image for edited in edits}) == 3
    assert KeptEditor(connect(server), tmp_path).edit([SAMPLES[0]] * 2, [1, 3]) == [edits[0], edits[2]]
    assert len(server.prompts) == 1


def test_a_picture_that_was_sent_and_cannot_be_read_costs_too(server: Server, tmp_path: Path) -> None:
    """Else a server that sends addresses is never seen by a budget in money."""
    server.elsewhere = {0, 2}
    ledger = Ledger(tmp_path / "spent", Budget(money=1.5))
    kept = KeptEditor(connect(server), tmp_path / "kept", ledger)
    edits = kept.edit([SAMPLES[0]] * 3, [1, 2, 3])
    assert [edited.image is None for edited in edits] == [True, False, True]
    assert kept.used.cost == 0.75 == read_spent(tmp_path / "spent")["painter"].usage.cost
    server.elsewhere = {0}
    with pytest.raises(BudgetError, match="budget of 1.5"):
        KeptEditor(connect(server), tmp_path / "other", ledger).edit(SAMPLES, SEEDS)
    assert len(server.prompts) == 2


def test_a_budget_ends_the_asking_and_what_is_under_way_is_stored(server: Server, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spent", Budget(requests=4))
    with pytest.raises(BudgetError, match="budget of 4"):
        KeptEditor(connect(server), tmp_path / "kept", ledger).edit(SAMPLES, SEEDS)
    assert len(server.prompts) == 4 == read_spent(tmp_path / "spent")["painter"].usage.requests
    KeptEditor(connect(server), tmp_path / "kept").edit(SAMPLES, SEEDS)
    assert len(server.prompts) == 6


class Painter:
    """An editor of this machine whose edits depend on what is made beside them."""

    name, simulated = "local", True

    def __init__(self, breaks_after: int | None = None) -> None:
        self.breaks_after = breaks_after
        self.asked: list[int] = []

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        if len(self.asked) == self.breaks_after:
            raise KeyboardInterrupt
        self.asked.append(len(samples))
        dark = EditedImage(None, "too dark")
        return [
            dark if seed == 999 else EditedImage(picture(1000 * place + seed), hidden=f"{seed}")
            for place, seed in enumerate(seeds)
        ]


def test_a_local_editors_edits_are_those_of_a_run_that_was_not_killed(tmp_path: Path) -> None:
    samples, seeds = [SAMPLES[0]] * (PIECE + 3), [*range(PIECE + 2), 999]
    whole = KeptEditor(Painter(), tmp_path / "whole").edit(samples, seeds)
    with pytest.raises(KeyboardInterrupt):
        KeptEditor(Painter(breaks_after=1), tmp_path / "killed").edit(samples, seeds)
    rest = Painter()
    assert KeptEditor(rest, tmp_path / "killed").edit(samples, seeds) == whole
    assert rest.asked == [3] and whole[-1].error == "too dark" and whole[3].hidden == "3"
    assert KeptEditor(rest, tmp_path / "killed").simulated
    KeptEditor(rest, tmp_path / "killed").edit(samples, seeds)
    assert rest.asked == [3, 3]  # a failure is tried again, and its piece with it


def test_keys_name_all_that_shapes_an_edit() -> None:
    sample = SAMPLES[0]
    other = [Sample(sample.id, sample.source, sample.instruction, "", references=(picture(9),)), SAMPLES[1]]
    keys = [
        edit_key("a", "", sample, 1), edit_key("b", "", sample, 1), edit_key("a", "s", sample, 1),
        edit_key("a", "", sample, 2), *(edit_key("a", "", one, 1) for one in other),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
