"""The HTTP editor against real loopback servers: one that serves the packaged tiny editor, one that misbehaves."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from edit_r1.editors.http import START, HttpEditor, HttpEditorSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.recipes.tiny import tiny_editor
from edit_r1.records import Sample
from edit_r1.world.samples import make_samples

Form = dict[str, bytes]
Answer = Callable[[Form, int], tuple[int, bytes, dict[str, str]]]
"""(form, number of the request) to (status, body, headers)."""


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[tuple[Form, dict[str, str]]]]]:
    """Base address of a server, and what it was sent."""
    seen: list[tuple[Form, dict[str, str]]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/images/edits"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            form = {
                str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
                for part in message_from_bytes(head + body).get_payload()
            }
            with lock:
                seen.append((form, dict(self.headers)))
                number = len(seen)
            status, data, headers = answer(form, number)
            if status == 0:  # breaks off
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def answered(*images: bytes) -> tuple[int, bytes, dict[str, str]]:
    data = [{"b64_json": base64.b64encode(image).decode()} for image in images]
    return 200, json.dumps({"created": 1, "data": data}).encode(), {"Content-Type": "application/json"}


def refused(status: int, message: str = "no", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps({"error": {"message": message}}).encode(), headers


def picture(level: int, size: int = 16) -> bytes:
    return encode_png(np.full((size, size, 3), level, np.uint8))


def sample(level: int = 10, instruction: str = "make it red") -> Sample:
    return Sample(f"s{level}", picture(level), instruction, "")


def editor(url: str, **settings: object) -> HttpEditor:
    return HttpEditor(url, HttpEditorSettings(**{"pause_s": 0.001, **settings}))


def test_the_tiny_editor_behind_an_endpoint_paints_what_it_paints_here() -> None:
    local = tiny_editor()
    local.pipeline.set_progress_bar_config(disable=True)
    lock = threading.Lock()

    def answer(form: Form, _: int) -> tuple[int, bytes, dict[str, str]]:
        asked = Sample("x", form["image"], form["prompt"].decode(), "")
        with lock:
            made = local.edit([asked] * int(form["n"]), [int(form["seed"])])
        return answered(*(one.image for one in made if one.image is not None))

    contexts = make_samples(2, "validation", 0)
    with serving(answer) as (url, seen), editor(url, send_seed=True, model="tiny", concurrency=2) as remote:
        edits = remote.edit([contexts[0], contexts[1], contexts[0]], [3, 4, 5])
    expected = [local.edit([contexts[place]], [seed])[0].image for place, seed in ((0, 3), (1, 4), (0, 5))]
    assert [edit.image for edit in edits] == expected
    assert sorted(form["seed"] for form, _ in seen) == [b"3", b"4", b"5"]
    assert {(form["model"], form["n"], form["size"]) for form, _ in seen} == {(b"tiny", b"1", b"64x64")}


def test_alike_items_share_a_request_and_order_is_kept() -> None:
    def answer(form: Form, _: int) -> tuple[int, bytes, dict[str, str]]:
        level = int(decode_rgb(form["image"])[0, 0, 0])
        return answered(*(picture(level + place) for place in range(int(form["n"]))))

    samples = [sample(10)] * 3 + [sample(50), sample(50, "make it blue")]
    with serving(answer) as (url, seen), editor(url, per_request=2) as remote:
        edits = remote.edit(samples, [0, 1, 2, 3, 4])
    levels = [int(decode_rgb(edit.image)[0, 0, 0]) for edit in edits if edit.image is not None]
    assert levels == [10, 11, 10, 50, 50]
    assert sorted(form["n"] for form, _ in seen) == [b"1", b"1", b"1", b"2"]
    assert all("seed" not in form and "model" not in form for form, _ in seen)


def test_the_key_and_further_fields_are_sent() -> None:
    with serving(lambda form, _: answered(picture(1))) as (url, seen):
        settings = {"api_key": "secret", "size": "auto", "fields": (("response_format", "b64_json"),)}
        with editor(url, **settings) as remote:
            assert remote.edit([sample()], [0])[0].image is not None
    form, headers = seen[0]
    assert headers["Authorization"] == "Bearer secret"
    assert (form["size"], form["response_format"]) == (b"auto", b"b64_json")


@pytest.mark.parametrize("first", [refused(429, **{"Retry-After": "0"}), refused(503), (0, b"", {})], ids=str)
def test_load_and_broken_connections_are_tried_again(first: tuple[int, bytes, dict[str, str]]) -> None:
    def answer(form: Form, number: int) -> tuple[int, bytes, dict[str, str]]:
        return first if number == 1 else answered(picture(7))

    with serving(answer) as (url, seen), editor(url) as remote:
        assert remote.edit([sample()], [0])[0].image == picture(7)
    assert len(seen) == 2


def test_attempts_are_bounded_and_the_reason_is_told() -> None:
    with serving(lambda form, _: refused(500, "out of\nmemory")) as (url, seen), editor(url, attempts=3) as remote:
        edits = remote.edit([sample()] * 2, [0, 1])
    assert [edit.image for edit in edits] == [None, None]
    assert edits[0].error == f"{url}: 500 Internal Server Error: out of memory"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refused(400, "bad prompt"), "400 Bad Request: bad prompt"),
        (refused(401, "no key"), "wants a key: set the editor's api_key (401)"),
        (refused(404, "no such path"), "are images edited there, and does the address end in /v1?"),
        (refused(429, **{"Retry-After": "3600"}), "asks to come back in 3600 s"),
        ((302, b"", {"Location": "http://example.com/"}), "redirects to http://example.com/"),
        ((200, b'{"error": {"message": "no credit"}}', {}), "no credit"),
        ((200, b"<html>", {}), "no JSON object"),
        ((200, b"[" * 50_000, {}), "no JSON object"),
        ((200, b'{"data": 7}', {}), "no list"),
        ((200, b'{"data": []}', {}), "sent 0 of 1 pictures"),
        ((200, b'{"data": [{"url": "http://example.com/a.png"}]}', {}), "not fetched"),
        ((200, b'{"data": [{"b64_json": "%%%"}]}', {}), "cannot be read"),
        ((200, b'{"data": [{"b64_json": "aGVsbG8="}]}', {}), "cannot be read"),
        ((200, b'{"data": [null]}', {}), "no b64_json"),
    ],
    ids=str,
)
def test_other_failures_are_told_at_once(answer: tuple[int, bytes, dict[str, str]], said: str) -> None:
    with serving(lambda form, _: answer) as (url, seen), editor(url) as remote:
        edit = remote.edit([sample()], [0])[0]
    assert edit.image is None
    assert said in (edit.error or "")
    assert len(seen) == 1


def test_a_pause_may_be_asked_for_by_a_date() -> None:
    """One that has passed is no pause, one in an hour is too long: neither is our own pause, of a minute here."""
    past, later = (format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True) for hours in (-1, 1))

    def answer(form: Form, number: int) -> tuple[int, bytes, dict[str, str]]:
        return answered(picture(7)) if number == 2 else refused(429, **{"Retry-After": past if number == 1 else later})

    with serving(answer) as (url, seen), editor(url, pause_s=60.0) as remote:
        remote._server._pause = lambda error, failed: error.after  # type: ignore[method-assign]
        assert remote.edit([sample()], [0])[0].image == picture(7)
        assert "asks to come back in 3" in (remote.edit([sample()], [0])[0].error or "")
    assert len(seen) == 3


def test_requests_under_way_grow_while_all_are_answered_and_shrink_when_refused() -> None:
    bears, lock, counts = [100], threading.Lock(), [0, 0]

    def answer(form: Form, number: int) -> tuple[int, bytes, dict[str, str]]:
        with lock:
            counts[0] += 1
            busy = counts[0] > bears[0]
            counts[1] += busy
        try:
            return refused(503, "busy") if busy else answered(picture(number % 200))
        finally:
            with lock:
                counts[0] -= 1

    samples = [sample(10, f"make it {number}") for number in range(120)]
    with serving(answer) as (url, _), editor(url, concurrency=12) as remote:
        assert remote.limit == START
        assert all(edit.image for edit in remote.edit(samples, range(120)))
        grown = remote.limit
        bears[0] = 0  # it refuses everything for a while
        assert not any(edit.image for edit in remote.edit(samples[:20], range(20)))
        assert START < grown <= 12 and remote.limit < grown and counts[1] == 20 * 6


def test_what_is_no_answer_is_weather_once_the_server_has_answered() -> None:
    bodies = [answered(picture(1)), (200, b'{"error": {"message": "overloaded"}}', {}), answered(picture(2))]
    with serving(lambda form, number: bodies[number - 1]) as (url, seen), editor(url) as remote:
        edits = [remote.edit([sample()], [0])[0].image for _ in range(2)]
    assert edits == [picture(1), picture(2)] and len(seen) == 3


def test_a_refusal_by_a_server_that_edits_others_is_no_sign_that_it_is_out_of_order() -> None:
    """Before it has answered anything, the request may be wrong in a way that all have in common."""
    kinds = {b"face": refused(400, "blocked by the content policy"), b"gone": refused(404), b"down": refused(500)}

    def answer(form: Form, _: int) -> tuple[int, bytes, dict[str, str]]:
        return kinds.get(form["prompt"], answered(picture(1)))

    with serving(answer) as (url, _), editor(url, attempts=1) as remote:
        told = [remote.edit([sample(10, prompt)], [0])[0] for prompt in ("face", "hat", "face", "gone", "down")]
    assert [one.image is None for one in told] == [True, False, True, True, True]
    assert [one.absent for one in told] == [False, False, True, False, False]
    assert told[2].error == told[0].error and "content policy" in (told[2].error or "")


def test_the_key_is_never_told() -> None:
    key = "sk-very-secret"
    with (
        serving(lambda form, _: refused(400, f"bad {key}")) as (url, _),
        editor(url, api_key=key) as remote,
    ):
        told = remote.edit([sample()], [0])[0].error or ""
    assert "bad ***" in told and key not in told and key not in repr(remote.settings)
    with pytest.raises(ValueError, match="holds spaces") as caught:
        editor(url, api_key="two words")
    assert "two words" not in str(caught.value)


def test_one_bad_source_costs_no_request_and_no_neighbour() -> None:
    broken = Sample("bad", b"not an image", "make it red", "")
    with serving(lambda form, _: answered(picture(7))) as (url, seen), editor(url) as remote:
        edits = remote.edit([broken, sample()], [0, 1])
        with pytest.raises(ValueError, match="one seed per sample"):
            remote.edit([sample()], [])
    assert edits[0].image is None and "not an image" in (edits[0].error or "")
    assert edits[1].image == picture(7)
    assert len(seen) == 1


def test_a_server_that_is_not_there_is_told() -> None:
    with serving(lambda form, _: answered()) as (url, _):
        pass
    with editor(url, attempts=2) as remote:
        edit = remote.edit([sample()], [0])[0]
    assert edit.image is None and "cannot be reached" in (edit.error or "")


@pytest.mark.parametrize("endpoint", ["", "host:8000", "ftp://host/v1", "file:///etc/passwd", "http://"])
def test_an_endpoint_is_an_http_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        HttpEditor(endpoint, HttpEditorSettings())


def test_settings_have_ranges() -> None:
    for name in ("per_request", "attempts", "concurrency", "timeout_s", "pause_s"):
        with pytest.raises(ValueError, match=name):
            HttpEditorSettings(**{name: 0})
    for name, sends in (("n", False), ("prompt", False), ("image[]", False), ("seed", True)):
        with pytest.raises(ValueError, match=re.escape(f"fields: {name} is set for each request")):
            HttpEditorSettings(fields=(("quality", "high"), (name, "4")), send_seed=sends)
    assert HttpEditorSettings(fields=(("seed", "7"),)).fields
    with pytest.raises(ValueError, match="price=-1"):
        HttpEditorSettings(price=-1)


def test_the_settings_key_tells_what_shapes_an_edit_and_nothing_else() -> None:
    url = "http://127.0.0.1:9/v1"
    plain = [{}, {"concurrency": 2, "price": 1.0, "per_request": 1, "api_key": "k", "attempts": 2}, {"model": "m"}]
    assert [editor(url, **one).settings_key for one in plain] == ["", "", ""]  # a model is the name where none is given
    named = HttpEditor(url, HttpEditorSettings(model="m"), "mine").settings_key
    shaping = [{"size": "auto"}, {"send_seed": True}, {"fields": (("quality", "high"),)}]
    keys = [named, *(editor(url, **one).settings_key for one in shaping)]
    assert len(set(keys)) == 4 and all(keys)


def test_references_follow_the_source_and_keep_edits_apart() -> None:
    """A request of several pictures has them as image[]; edits with other references are not asked for together."""
    plain = Sample("a", picture(1), "put the hat of picture 2 on", "")
    hats = [Sample("a", picture(1), plain.instruction, "", references=(picture(level),)) for level in (2, 2, 3)]
    with (
        serving(lambda form, n: answered(*[picture(9)] * int(form["n"]))) as (base, seen),
        HttpEditor(base, HttpEditorSettings(concurrency=1)) as editor,
    ):
        edits = editor.edit([plain, *hats], [0, 1, 2, 3])
    assert all(edit.image for edit in edits)
    assert [(int(form["n"]), "image" in form, "image[]" in form) for form, _ in seen] == [
        (1, True, False), (2, False, True), (1, False, True),
    ]  # fmt: skip
    assert [decode_rgb(form["image[]"])[0, 0, 0] for form, _ in seen[1:]] == [2, 3]  # the last of that name
