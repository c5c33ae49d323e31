"""Real photographs, real edits and real instructions through `principles`, `score`, `rank`, `score-many` and `serve`.

    python bench/real_pictures.py --data FOLDER --out runs/real

FOLDER holds edits.jsonl ({id, instruction, source, edit_a, edit_b}) and a JSON file of ImgEdit-Bench's form with more
instructions ({key: {"prompt": ...}}). The model is an OpenAI-compatible endpoint on loopback that follows the prompts'
format and judges by counting changed pixels: it knows nothing of edits, but it checks what it is shown. Ends with 1
when a command fails, an answer cannot be parsed, or a picture arrives in another size or orientation than it should;
writes prompts as sent to OUT/prompts (read some).
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro
from PIL import Image, ImageOps

from edit_r1.images import MAX_JUDGED_PIXELS
from edit_r1.records import CATEGORIES

KEPT_PROMPTS = 6
"""Of each kind."""


@dataclass
class Seen:
    """What the endpoint was asked."""

    prompts: Path
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[tuple[int, int], ...]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, parts: list[dict[str, Any]], pictures: list[Image.Image]) -> None:
        with self.lock:
            self.kinds[kind] += 1
            self.sizes[tuple(picture.size for picture in pictures)] += 1
            number = self.kinds[kind]
        if number <= KEPT_PROMPTS:
            shown, left = [], iter(pictures)
            for part in parts:
                text = part.get("text")
                shown.append(text if text is not None else "<picture of {} x {}>".format(*next(left).size))
            (self.prompts / f"{kind}-{number}.txt").write_text("".join(shown), encoding="utf-8")


class Endpoint(ThreadingHTTPServer):
    """Answers in the prompts' own format."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, seen: Seen) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen = seen
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, body: dict[str, Any]) -> str:
        parts = [part for message in body["messages"] for part in _parts(message["content"])]
        text = "".join(part.get("text", "") for part in parts)
        pictures = [
            Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",", 1)[1])))
            for part in parts
            if part["type"] == "image_url"
        ]
        instruction = re.search(r"^Instruction: (.*)$", text, re.M)
        if instruction is None:  # whether anybody is there
            return "yes"
        listed = re.findall(r"^\d+\. \[([^\]]+)\] (.*)$", text, re.M)
        kind = "judge" if listed else "decompose"
        self.seen.note(kind, parts, pictures)
        return _judged(listed, pictures) if listed else _principles(instruction.group(1))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": self.server.answer(body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 200}
        payload = json.dumps({"choices": [choice] * body.get("n", 1), "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _principles(instruction: str) -> str:
    asked = {
        CATEGORIES[0]: (f'Does the image show the result of "{instruction}"?', "Is the change complete?"),
        CATEGORIES[1]: ("Is everything else as before?", "Is the main subject the same?"),
        CATEGORIES[2]: ("Is the image sharp?", "Are there no artefacts?"),
    }
    rows = [{"question": question, "category": category} for category, some in asked.items() for question in some]
    return json.dumps(rows, ensure_ascii=False)


def _judged(listed: list[tuple[str, str]], pictures: list[Image.Image]) -> str:
    *sources, edited = (picture.convert("RGB") for picture in pictures)
    before = np.asarray(sources[0].resize(edited.size), dtype=np.int16)
    changed = float((np.abs(before - np.asarray(edited, dtype=np.int16)).max(axis=2) > 24).mean())
    means = {CATEGORIES[0]: changed > 0.01, CATEGORIES[1]: changed < 0.9, CATEGORIES[2]: True}
    rows = [
        {"question": question, "evidence": f"{changed:.0%} of the pixels changed", "score": int(means[category])}
        for category, question in listed
    ]
    share = sum(row["score"] for row in rows) / len(rows)
    return (
        f"Comparing the pictures.\n{json.dumps(rows, ensure_ascii=False)}\n"
        f'{{"average_score": {share:.2f}}}\n<score>{10 * share:.1f}</score>'
    )


def expected_sizes(source: Path, edited: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a judge should be shown, upright (width, height): the edit at the source's size where the aspect agrees."""
    sizes = []
    for path in (source, edited):
        width, height = ImageOps.exif_transpose(Image.open(path)).size
        scale = min(1.0, (MAX_JUDGED_PIXELS / (width * height)) ** 0.5)
        sizes.append((width * scale, height * scale))
    (a, b), (c, d) = sizes
    if abs((c / d) / (a / b) - 1) <= 0.02:
        sizes[1] = sizes[0]
    return tuple((round(width), round(height)) for width, height in sizes)  # type: ignore[return-value]


class Tried:
    """Counts what went right and tells what did not."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.wrong: list[str] = []

    def check(self, what: str, good: bool, detail: str = "") -> None:
        if good:
            self.right[what] += 1
        else:
            self.wrong.append(f"{what}: {detail[:300]}")


def command(*arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(["edit-r1", *arguments, "--json"], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr


def main(data: Path, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    (out / "prompts").mkdir(exist_ok=True)
    rows = [json.loads(line) for line in (data / "edits.jsonl").read_text(encoding="utf-8").splitlines()]
    further = [
        one["prompt"]
        for path in sorted(data.glob("*.json"))
        for one in json.loads(path.read_text(encoding="utf-8")).values()
    ]
    seen, tried = Seen(out / "prompts"), Tried()
    endpoint = Endpoint(seen)
    model = ["--endpoint", endpoint.url, "--model", "counter"]
    for row in rows:
        source, edits = data / row["source"], [data / row[name] for name in ("edit_a", "edit_b")]
        asked = ["-i", row["instruction"], *model]
        code, told, errors = command("principles", str(source), *asked)
        tried.check("principles", code == 0 and len(told.get("principles") or ()) == 6, f"{row['id']} {code} {errors}")
        for edited in edits:
            page = out / f"{edited.stem}.html"
            code, told, errors = command("score", str(source), str(edited), *asked, "--html", str(page))
            tried.check("score", code == 0 and told["unparsed"] == 0 and page.exists(), f"{edited} {code} {errors}")
        code, told, errors = command("rank", str(source), *map(str, edits), *asked)
        tried.check("rank", code == 0 and len(told.get("ranking", ())) == 2, f"{row['id']} {code} {errors}")
    many(rows, further, data, out, model, tried)
    served(rows, further, data, endpoint, tried)
    wanted = {expected_sizes(data / row["source"], data / row[name]) for row in rows for name in ("edit_a", "edit_b")}
    shown = {sizes for sizes in seen.sizes if len(sizes) == 2}
    tried.check("sizes and orientations", shown == wanted, f"shown {sorted(shown)}, expected {sorted(wanted)}")
    print(f"asked: {dict(seen.kinds)}\nright: {dict(tried.right)}")
    for line in tried.wrong:
        print(f"WRONG {line}")
    return int(bool(tried.wrong))


def many(rows: list[dict[str, Any]], further: list[str], data: Path, out: Path, model: list[str], tried: Tried) -> None:
    """`score-many` over every instruction, with one of the real edits each."""
    table = out / "many.jsonl"
    with table.open("w", encoding="utf-8") as file:
        for number, text in enumerate([*(row["instruction"] for row in rows), *further]):
            row = rows[number % len(rows)]
            pictures = {
                name: str((data / row[key]).resolve()) for name, key in (("source", "source"), ("edited", "edit_a"))
            }
            file.write(json.dumps({"id": str(number), "instruction": text, **pictures}) + "\n")
    scores = out / "scores.jsonl"
    for left in out.glob("*scores.jsonl*"):
        left.unlink()
    code, told, errors = command("score-many", str(table), "--out", str(scores), *model, "--allow-outside")
    tried.check(
        "score-many", code == 0 and told["scored"] == told["rows"] == len(rows) + len(further), f"{told} {errors}"
    )


def served(rows: list[dict[str, Any]], further: list[str], data: Path, endpoint: Endpoint, tried: Tried) -> None:
    """The server in front of the same endpoint, 16 items a request."""
    process = subprocess.Popen(
        ["edit-r1", "serve", "--endpoint", endpoint.url, "--model", "counter", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, "serve tells its address"
        encoded = {
            row[key]: base64.b64encode((data / row[key]).read_bytes()).decode()
            for row in rows for key in ("source", "edit_a", "edit_b")
        }  # fmt: skip
        items = [
            {"id": f"{number}", "sources": [encoded[row["source"]]], "edited": encoded[row[key]], "instruction": text}
            for number, text in enumerate([*(row["instruction"] for row in rows), *further])
            for row in [rows[number % len(rows)]]
            for key in ("edit_a", "edit_b")
        ]
        with httpx.Client(base_url=url.group(0).rstrip("/"), timeout=300, trust_env=False) as client:
            for start in range(0, len(items), 16):
                answer = client.post("/v1/judge", json={"items": items[start : start + 16]})
                judgments = answer.json().get("judgments", []) if answer.status_code == 200 else []
                good = len(judgments) == len(items[start : start + 16]) and all(
                    one["score"] is not None for one in judgments
                )
                tried.check("served requests", good, f"{answer.status_code} {answer.text}")
    finally:
        process.terminate()
        tried.check("serve ends with 0", process.wait(60) == 0)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
