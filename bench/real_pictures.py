"""Real photographs, real edits and real instructions through `principles`, `score`, `rank`, `score-many` and `serve`.

    python bench/real_pictures.py --data FOLDER --out runs/real [--most 40]

FOLDER holds edits.jsonl ({id, instruction, source, edit_a, edit_b}) and a JSON file of ImgEdit-Bench's form with more
instructions ({key: {"prompt": ...}}). The model is an OpenAI-compatible endpoint on loopback that follows the prompts'
format and judges by counting changed pixels: it knows nothing of edits, but it checks what it is shown.

A run that was stopped goes on: OUT/steps.jsonl has a line per finished step, and what went wrong is tried again. Ends
with a table and OUT/summary.json, and with 1 when a command fails, an answer cannot be parsed, or a picture arrives in
another size or orientation than it should. Prompts as they were sent are in OUT/prompts (read some).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
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
from edit_r1.store import read_json, write_json

Sizes = tuple[tuple[int, int], ...]
"""(width, height) of pictures."""
EDIT_R1 = (sys.executable, "-m", "edit_r1")
KEPT_PROMPTS = 6
"""Of each kind."""
AT_ONCE = 16
"""Items of a request to the server."""


@dataclass
class Seen:
    """What the endpoint was asked since the last `take`."""

    prompts: Path
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: set[Sizes] = field(default_factory=set)
    """Of all pictures of a judgment, in order."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, parts: list[dict[str, Any]], pictures: list[Image.Image]) -> None:
        with self.lock:
            self.kinds[kind] += 1
            if kind == "judge":
                self.sizes.add(tuple(picture.size for picture in pictures))
            number = 1 + sum(1 for _ in self.prompts.glob(f"{kind}-*.txt"))
            if number > KEPT_PROMPTS:
                return
            shown, left = [], iter(pictures)
            for part in parts:
                text = part.get("text")
                shown.append(text if text is not None else "<picture of {} x {}>".format(*next(left).size))
            (self.prompts / f"{kind}-{number}.txt").write_text("".join(shown), encoding="utf-8")

    def take(self) -> dict[str, Any]:
        with self.lock:
            taken = {"asked": dict(self.kinds), "sizes": sorted(self.sizes)}
            self.kinds, self.sizes = Counter(), set()
        return taken


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


def expected_sizes(source: Path, edited: Path) -> Sizes:
    """What a judge should be shown, upright (width, height): the edit at the source's size where the aspect agrees."""
    sizes = []
    for path in (source, edited):
        width, height = ImageOps.exif_transpose(Image.open(path)).size
        scale = min(1.0, (MAX_JUDGED_PIXELS / (width * height)) ** 0.5)
        sizes.append((width * scale, height * scale))
    (a, b), (c, d) = sizes
    if abs((c / d) / (a / b) - 1) <= 0.02:
        sizes[1] = sizes[0]
    return tuple((round(width), round(height)) for width, height in sizes)


class Steps:
    """The steps of a pass, each written down when it is finished."""

    def __init__(self, path: Path, seen: Seen, asked: dict[str, Any]) -> None:
        """asked: what the pass is over. Raises ValueError for a file of another one."""
        self.path, self.seen = path, seen
        self.done: dict[str, dict[str, Any]] = {}
        if not path.exists():
            self._write(asked)
        lines = path.read_bytes().split(b"\n")[:-1]  # a line that a kill cut off is no line
        if not lines or json.loads(lines[0]) != asked:
            raise ValueError(f"{path}: of a pass over other data: choose another --out")
        for line in lines[1:]:
            step = json.loads(line)
            self.done[step["step"]] = step
        path.write_bytes(b"".join(line + b"\n" for line in lines))

    def open(self, step: str) -> bool:
        """Whether a step is still to be tried."""
        return step not in self.done or not self.done[step]["right"]

    def end(self, step: str, right: bool, detail: str, seconds: float) -> None:
        told = "" if right else detail[:300]
        line = {"step": step, "right": right, "detail": told, "seconds": round(seconds, 2), **self.seen.take()}
        self.done[step] = line
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Pass:
    """What is tried, and where."""

    data: Path
    out: Path
    rows: list[dict[str, Any]]
    instructions: list[str]
    """Those of the rows first."""
    endpoint: Endpoint
    steps: Steps

    @property
    def model(self) -> list[str]:
        return ["--endpoint", self.endpoint.url, "--model", "counter"]

    def row(self, number: int) -> dict[str, Any]:
        """Whose pictures the instruction of this number is asked with."""
        return self.rows[number % len(self.rows)]

    def command(self, step: str, good: Callable[[dict[str, Any]], bool], *arguments: str) -> None:
        """Runs `edit-r1` with --json unless that was done; right when it ends with 0 and its document is good."""
        if not self.steps.open(step):
            return
        start = time.monotonic()
        done = subprocess.run([*EDIT_R1, *arguments, "--json"], capture_output=True, text=True, env=self.environment)
        document = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        right = done.returncode == 0 and good(document)
        detail = f"ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        self.steps.end(step, right, detail, time.monotonic() - start)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "EDIT_R1_CACHE": str(self.out / "cache")}


def main(data: Path, out: Path, most: int | None = None) -> int:
    """data: the folder. out: of this pass. most: instructions beside the edits' own, None for all."""
    (out / "prompts").mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (data / "edits.jsonl").read_text(encoding="utf-8").splitlines()]
    further = [
        one["prompt"]
        for path in sorted(data.glob("*.json"))
        for one in json.loads(path.read_text(encoding="utf-8")).values()
    ][:most]
    instructions = [*(row["instruction"] for row in rows), *further]
    seen = Seen(out / "prompts")
    asked = {"instructions": hashlib.sha256(json.dumps(instructions).encode()).hexdigest(), "rows": rows}
    steps = Steps(out / "steps.jsonl", seen, asked)
    one = Pass(data, out, rows, instructions, Endpoint(seen), steps)
    single(one)
    many(one)
    served(one)
    summary = summed(one)
    write_json(out / "summary.json", summary)
    show(summary)
    return int(bool(summary["wrong"]))


def single(one: Pass) -> None:
    """`principles`, `score` and `rank` on each photograph."""
    for row in one.rows:
        source, edits = one.data / row["source"], [one.data / row[name] for name in ("edit_a", "edit_b")]
        asked = ["-i", row["instruction"], *one.model]
        one.command(
            f"principles {row['id']}", lambda told: len(told["principles"]) == 6, "principles", str(source), *asked
        )
        for edited in edits:
            page = one.out / f"{edited.stem}.html"
            one.command(
                f"score {edited.name}", lambda told, page=page: told["unparsed"] == 0 and page.exists(),
                "score", str(source), str(edited), *asked, "--html", str(page),
            )  # fmt: skip
        one.command(
            f"rank {row['id']}", lambda told: len(told["ranking"]) == told["ties"]["pairs"] + 1 == 2,
            "rank", str(source), *map(str, edits), *asked,
        )  # fmt: skip


def many(one: Pass) -> None:
    """`score-many` over every instruction, with one of the real edits each; it goes on where it was stopped."""
    table, scores = one.out / "many.jsonl", one.out / "scores.jsonl"
    lines = []
    for number, text in enumerate(one.instructions):
        row = one.row(number)
        pictures = {
            name: str((one.data / row[key]).resolve()) for name, key in (("source", "source"), ("edited", "edit_a"))
        }
        lines.append(json.dumps({"id": str(number), "instruction": text, **pictures}) + "\n")
    table.write_text("".join(lines), encoding="utf-8")
    one.command(
        "score-many", lambda told: told["scored"] == told["rows"] == len(one.instructions),
        "score-many", str(table), "--out", str(scores), *one.model, "--allow-outside",
    )  # fmt: skip


def served(one: Pass) -> None:
    """The server in front of the same endpoint, `AT_ONCE` items a request."""
    items = [(number, key) for number in range(len(one.instructions)) for key in ("edit_a", "edit_b")]
    requests = {f"serve {start}": items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)}
    left = {step: part for step, part in requests.items() if one.steps.open(step)}
    if not left and not one.steps.open("serve ends"):
        return
    process = subprocess.Popen(
        [*EDIT_R1, "serve", *one.model, "--port", "0"], stdout=subprocess.PIPE, text=True, env=one.environment
    )
    try:
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, "serve tells its address"
        with httpx.Client(base_url=url.group(0).rstrip("/"), timeout=300, trust_env=False) as client:
            for step, part in left.items():
                start = time.monotonic()
                answer = client.post("/v1/judge", json={"items": [_item(one, *item) for item in part]})
                judgments = answer.json().get("judgments", []) if answer.status_code == 200 else []
                good = len(judgments) == len(part) and all(judged["score"] is not None for judged in judgments)
                one.steps.end(step, good, f"{answer.status_code} {answer.text}", time.monotonic() - start)
    finally:
        start = time.monotonic()
        process.terminate()
        code = process.wait(60)
    one.steps.end("serve ends", code == 0, f"ended with {code}", time.monotonic() - start)


def _item(one: Pass, number: int, key: str) -> dict[str, Any]:
    row = one.row(number)
    source, edited = (base64.b64encode((one.data / row[name]).read_bytes()).decode() for name in ("source", key))
    return {"id": f"{number}", "sources": [source], "edited": edited, "instruction": one.instructions[number]}


def summed(one: Pass) -> dict[str, Any]:
    """What all steps of the pass came to, those of earlier calls included."""
    groups: dict[str, dict[str, float]] = {}
    asked: Counter[str] = Counter()
    shown: set[Sizes] = set()
    for name, step in one.steps.done.items():
        group = groups.setdefault(name.split()[0], {"steps": 0, "wrong": 0, "seconds": 0.0})
        group["steps"] += 1
        group["wrong"] += not step["right"]
        group["seconds"] += step["seconds"]
        asked.update(step["asked"])
        shown |= {tuple((width, height) for width, height in sizes) for sizes in step["sizes"]}
    wrong = [f"{name}: {step['detail']}" for name, step in one.steps.done.items() if not step["right"]]
    wanted = {
        expected_sizes(one.data / row["source"], one.data / row[name])
        for row in one.rows
        for name in ("edit_a", "edit_b")
    }
    if shown != wanted:
        wrong.append(f"sizes and orientations: shown {sorted(shown)}, expected {sorted(wanted)}")
    record = read_json(one.out / "scores.jsonl.run.json")
    ties = record["summary"]["ties"] if isinstance(record, dict) and record["summary"] else None
    return {
        "photographs": len(one.rows), "instructions": len(one.instructions), "steps": groups, "asked": dict(asked),
        "sizes": sorted(shown), "ties": ties, "wrong": wrong,
    }  # fmt: skip


def show(summary: dict[str, Any]) -> None:
    print(f"{summary['photographs']} photographs, {summary['instructions']} instructions")
    print(f"{'step':12}{'done':>6}{'wrong':>7}{'seconds':>9}")
    for name, group in summary["steps"].items():
        print(f"{name:12}{group['steps']:6}{group['wrong']:7}{group['seconds']:9.1f}")
    print(f"questions asked of the endpoint: {summary['asked']}")
    for line in summary["wrong"]:
        print(f"WRONG {line}")
    print("nothing went wrong" if not summary["wrong"] else f"{len(summary['wrong'])} wrong")


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except ValueError as problem:
        sys.exit(f"real_pictures: {problem}")
