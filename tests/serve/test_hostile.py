"""What nobody should send: each is refused in words, costs its neighbours nothing, and the server stays up."""

from __future__ import annotations

import io
import json
import struct
import zlib
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from edit_r1.records import CATEGORIES

URL = "/v1/judge"


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def post(client: TestClient, path: str, body: object) -> httpx.Response:
    """As ASCII: httpx by itself would write UTF-8, which half a surrogate pair does not fit."""
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


GREY = Image.new("RGB", (16, 16), (50, 0, 0))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))

REFUSED = {
    "zero bytes": (b"", "empty"),
    "truncated": (saved(NOISE, "PNG")[:-200], "damaged"),
    "truncated JPEG": (saved(NOISE, "JPEG")[:-100], "damaged"),
    "gigantic": (bomb(50_000, 50_000), "pixels"),
    "decompression bomb": (bomb(6_000, 6_000), "pixels"),
    "wide bomb": (bomb(2**31 - 1, 2**31 - 1), ""),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "SVG or HTML"),
    "HTML named .png": (b"<!DOCTYPE html><html></html>", "SVG or HTML"),
    "PDF": (b"%PDF-1.7", "PDF"),
    "pickle": (b"\x80\x04\x95\x00cos\nsystem\n", "not an image"),
    "one pixel": (saved(Image.new("RGB", (1, 1)), "PNG"), "at least 8"),
    "text": (b"../../etc/passwd", "not an image"),
}
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
READ = {
    "animated GIF": saved(GREY, "GIF", save_all=True, append_images=[NOISE, NOISE]),
    "palette": saved(GREY.quantize(4), "PNG"),
    "CMYK": saved(GREY.convert("CMYK"), "JPEG", quality=100),
    "16 bit": saved(Image.fromarray(np.full((16, 16), 12_850, np.uint16)), "PNG"),
    "EXIF-rotated": saved(GREY, "JPEG", exif=ROTATED),
    "alpha": saved(GREY.convert("RGBA"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("where", ["edited", "sources"])
def test_bad_images_are_refused_by_name(kit: SimpleNamespace, client: TestClient, name: str, where: str) -> None:
    data, said = REFUSED[name]
    bad = kit.item(2, **{where: kit.b64(data) if where == "edited" else [kit.b64(data)]})
    answer = client.post(URL, json={"items": [kit.item(1), bad, kit.item(3)]})
    assert answer.status_code == 200
    first, second, third = answer.json()["judgments"]
    assert (first["score"], second["score"], third["score"]) == (0.1, None, 0.3)
    assert said in second["reason"] and second["reason"].startswith(where.removesuffix("s")[:6])


@pytest.mark.parametrize("name", READ)
def test_unusual_images_are_read(kit: SimpleNamespace, client: TestClient, name: str) -> None:
    answer = client.post(URL, json={"items": [kit.item(1, sources=[kit.b64(READ[name])])]})
    assert answer.json()["judgments"][0]["reason"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edited": "https://example.org/cat.png"}, "not fetched"),
        ({"edited": "file:///etc/passwd"}, "not fetched"),
        ({"edited": "data:text/html;base64,PGI+"}, "not fetched"),
        ({"edited": "../../../etc/passwd"}, "paths are not opened"),
        ({"edited": "/etc/passwd"}, "image"),
        ({"edited": "\N{SNOWMAN}" * 9}, "not base64"),
        ({"edited": "iVBORw0KGgo=\x00"}, "not base64"),
        ({"sources": []}, "0 source images"),
        ({"sources": ["AAAA"] * 9}, "9 source images"),
        ({"instruction": ""}, "empty"),
        ({"instruction": "x" * 100_000}, "100000 characters"),
        ({"instruction": "make it\x00red"}, "null byte"),
        ({"instruction": "make it \ud800 red"}, "surrogate"),
        ({"edited": "\udfff"}, "not base64"),
        ({"principles": [{"question": "Is it \ud800?", "category": CATEGORIES[0]}]}, "surrogate"),
        ({"principles": [{"question": "Is it?", "category": "\ud800"}]}, "category"),
        ({"principles": []}, "no principles"),
        ({"principles": [{"question": "Is it?", "category": CATEGORIES[0]}] * 10_000}, "10000 principles"),
        ({"principles": [{"question": "Is it?", "category": "'; DROP TABLE"}]}, "category"),
        ({"principles": [{"question": "Is\x00it?", "category": CATEGORIES[0]}]}, "null byte"),
        ({"principles": [{"question": "x" * 9999, "category": CATEGORIES[0]}]}, "characters"),
    ],
)
def test_bad_items_are_refused_by_name(kit: SimpleNamespace, client: TestClient, changes: dict, said: str) -> None:
    answer = post(client, URL, {"items": [kit.item(1), kit.item(2, **changes)]})
    assert answer.status_code == 200
    first, second = answer.json()["judgments"]
    assert (first["score"], second["score"], second["principles"]) == (0.1, None, [])
    assert said in second["reason"] and len(second["reason"]) < 500


BODIES = {
    "nothing": b"",
    "not JSON": b"{items: }",
    "a list": b"[]",
    "a number": b"7",
    "invalid UTF-8": b'{"items": [{"instruction": "\xff\xfe"}]}',
    "UTF-16": '{"items": [7]}'.encode("utf-16"),
    "deep": b'{"items": ' + b"[" * 200_000,
    "deep and whole": b'{"items": [], "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "NaN": b'{"items": [], "temperature": NaN}',
    "Infinity": b'{"items": [], "temperature": Infinity}',
    "a long number": b'{"items": [], "seed": 1' + b"0" * 10_000 + b"}",
    "a large number": b'{"items": [], "seed": 1e400}',
    "null bytes": b"\0" * 1000,
    "pickle": b"\x80\x04\x95\x10\0\0\0cos\nsystem\n",
    "a key of another kind": b'{"items": [{"sources": "x", "edited": 1, "instruction": null}]}',
}


@pytest.mark.parametrize("path", [URL, "/compute", "/score", "/v1/chat/completions"])
@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies_are_refused_cleanly(kit: SimpleNamespace, client: TestClient, path: str, name: str) -> None:
    answer = client.post(path, content=BODIES[name], headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert isinstance(answer.json()["error"], str) and len(answer.json()["error"]) < 500
    assert client.post(URL, json={"items": [kit.item(1)]}).json()["judgments"][0]["score"] == 0.1


def test_half_a_surrogate_pair_comes_back_as_it_went(kit: SimpleNamespace, client: TestClient) -> None:
    half = "\ud83d"
    (got,) = post(client, URL, {"items": [kit.item(1, id=half)]}).json()["judgments"]
    assert (got["id"], got["score"]) == (half, 0.1)
    request = {"history": [], "required_rewards": [half], "request_id": half, "sample_id": half}
    answer = post(client, "/score", {"requests": [request]}).json()
    assert answer["identities"][0]["request_id"] == half and half in answer["errors"][0]
    chat = {"messages": [{"role": "system", "content": half}, {"role": "user", "content": half}]}
    assert post(client, "/v1/chat/completions", chat).status_code == 400


def test_no_form_and_no_multipart_is_read(client: TestClient) -> None:
    assert client.post(URL, data={"items": "[]"}).status_code == 422
    assert client.post(URL, files={"items": b"[]"}).status_code == 422


def test_a_body_is_refused_by_its_announced_length(kit: SimpleNamespace, model) -> None:
    with kit.make_client(model, max_body_mb=1, max_bodies_mb=1) as client:
        answer = client.post(URL, content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and "1048576 bytes" in answer.json()["error"]
        assert client.post(URL, json={"items": [kit.item(1)]}).status_code == 200
        assert 'reason="too_large"} 1.0' in client.get("/metrics").text


def test_large_images_are_refused_by_their_size(kit: SimpleNamespace, model) -> None:
    large = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    data = saved(Image.fromarray(large), "PNG")
    with kit.make_client(model, max_image_mb=1, max_megapixels=0.1) as client:
        items = [kit.item(1, edited=kit.b64(data)), kit.item(2, edited=kit.b64(bomb(400, 400)))]
        first, second = client.post(URL, json={"items": items}).json()["judgments"]
    assert "1048576 bytes" in first["reason"]
    assert "400 x 400 is more than 100000 pixels" in second["reason"]


def test_errors_of_a_large_input_do_not_repeat_it(client: TestClient) -> None:
    body = {"items": [{"sources": [], "edited": "", "instruction": ["x" * 1_000_000]}]}
    answer = post(client, URL, body)
    assert answer.status_code == 422 and len(answer.content) < 500
