"""Starting and stopping: mistakes are told before a model is opened, and SIGTERM loses nothing that was accepted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from edit_r1.commands.serve import _open
from edit_r1.serve import ServeSettings, start_server
from edit_r1.serve.run import run
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.scoring import Verifier
from edit_r1.world.export import write_world_samples

HERE = Path(__file__).parent
SLOW_SERVER = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("kit", {str(HERE / "conftest.py")!r})
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
from edit_r1.serve.run import run
run(lambda: kit.Verifier(kit.FakeVLM(0.3), variant="compact"), kit.ServeSettings(port=0, batch_size=1))
"""
PACKAGED = "from edit_r1.cli import main; main(['serve', '--port', '0', '--max-wait-ms', '5'])"


def never() -> Verifier:
    raise AssertionError("no model is opened")


@contextmanager
def process(code: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address."""
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert " at http://127.0.0.1:" in line, running.communicate()[1]
        yield running, line.split(" at ")[1].split()[0]
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "--token-file"),
        ({"host": "no.such.host.invalid", "token_file": "good"}, "cannot be listened on"),
        ({"token_file": "/nowhere/tokens"}, "check the path"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(tmp_path: Path, settings: dict, said: str) -> None:
    (tmp_path / "good").write_text("a-long-enough-token")
    if settings.get("token_file") == "good":
        settings = {**settings, "token_file": tmp_path / "good"}
    elif "token_file" in settings:
        settings = {**settings, "token_file": Path(settings["token_file"])}
    with pytest.raises(ValueError, match=said) as caught:
        run(never, ServeSettings(**settings))
    assert "\n" not in str(caught.value)


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="choose another --port"):
            run(never, ServeSettings(port=taken.getsockname()[1]))


@pytest.mark.parametrize(
    "settings",
    [{"port": 70_000}, {"traces": 0}, {"batch_size": 0}, {"max_wait_ms": -1.0}, {"max_wait_ms": float("nan")},
     {"queue": 10}, {"max_bodies_mb": 1}, {"max_image_mb": 65}, {"grace_seconds": 0}],
)  # fmt: skip
def test_settings_out_of_range_name_the_flag(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(settings)).replace('_', '-')} "):
        ServeSettings(**settings)


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edit_r1.serve.run", None)
    with pytest.raises(ValueError, match=r"pip install 'edit-r1\[serve\]'"):
        start_server(ServeSettings(), never, lambda item: None)


def test_an_endpoint_that_does_not_answer_yet_is_told_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    verifier = _open(ModelChoice(model="judge", endpoint="http://127.0.0.1:1/v1"), 8)
    verifier.close()
    told = capsys.readouterr().err
    assert "cannot be reached" in told and "starts all the same" in told and told.count("\n") == 1


def _jobs_taken(metrics: str) -> float:
    """Jobs that wait and jobs whose call has begun."""
    figures = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    return float(figures["edit_r1_queue_items"]) + float(figures["edit_r1_batch_items_sum"])


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(kit: SimpleNamespace) -> None:
    with process(SLOW_SERVER) as (server, url), ThreadPoolExecutor(2) as pool:
        items = [kit.item(number) for number in range(8)]
        accepted = pool.submit(httpx.post, f"{url}/v1/judge", json={"items": items}, timeout=60)
        other = pool.submit(httpx.post, f"{url}/compute", json=_compute(kit), timeout=60)
        with httpx.Client(timeout=60) as client:
            while _jobs_taken(client.get(f"{url}/metrics").text) < 9:
                time.sleep(0.02)
            server.send_signal(signal.SIGTERM)
            while client.get(f"{url}/health").status_code == 200:
                time.sleep(0.02)
            late = client.post(f"{url}/v1/judge", json={"items": items})
        assert (late.status_code, "stopping" in late.json()["error"]) == (503, True)
        assert "Retry-After" in late.headers
        answer = accepted.result()
        assert answer.status_code == 200
        assert [one["score"] for one in answer.json()["judgments"]] == [number / 10 for number in range(8)]
        # Judged again after the signal: the request was accepted before it.
        assert other.result().json() == {"rewards": [pytest.approx(0.05)], "scale": {"min": 0, "max": 1}}
        assert server.wait(90) == 0
        assert server.stderr is not None and server.stderr.read() == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_second_signal_ends_it_at_once(kit: SimpleNamespace) -> None:
    with process(SLOW_SERVER) as (server, url), ThreadPoolExecutor(1) as pool:
        items = [kit.item(number) for number in range(100)]  # half a minute of work
        asked = pool.submit(httpx.post, f"{url}/v1/judge", json={"items": items}, timeout=60)
        while httpx.get(f"{url}/health").json()["queued"] < 90:
            time.sleep(0.02)
        for _ in range(2):
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert server.wait(60) == 1
        assert server.stderr is not None and "before everything was answered" in server.stderr.read()
        error = asked.exception()
        assert isinstance(error, httpx.TransportError) or asked.result().status_code >= 500


def _compute(kit: SimpleNamespace) -> dict:
    edited = kit.b64(kit.picture(5, kit.UNPARSED_IF_GREEDY))
    return {"prompt": ["edit 5"], "image": [edited], "condition_images": [[kit.b64(kit.picture(105))]]}


def test_the_command_serves_the_packaged_verifier(kit: SimpleNamespace, tmp_path: Path) -> None:
    write_world_samples(tmp_path / "world", count=1, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "world" / "samples.jsonl").read_text().splitlines()]
    items = [
        {
            "id": row["edited"],
            "sources": [kit.b64((tmp_path / "world" / row["source"]).read_bytes())],
            "edited": kit.b64((tmp_path / "world" / row["edited"]).read_bytes()),
            "instruction": row["instruction"],
            "principles": row["principles"],
        }
        for row in rows
    ]
    foreign = {**items[0], "instruction": "Make the dog look happy."}
    with process(PACKAGED) as (server, url):
        answer = httpx.post(f"{url}/v1/judge", json={"items": [*items, foreign]}, timeout=120).json()
        *judged, refused = answer["judgments"]
        assert [one["id"] for one in judged] == [row["edited"] for row in rows]
        assert all(one["score"] is not None for one in judged), judged
        assert [len(one["principles"]) for one in judged] == [len(row["principles"]) for row in rows]
        assert refused["score"] is None and "EditWorld" in refused["reason"]
        # Its protocol carries no principles: the model writes them first.
        body = {"prompt": [items[0]["instruction"]], "image": [items[0]["edited"]]}
        body["condition_images"] = [items[0]["sources"]]
        rewarded = httpx.post(f"{url}/compute", json=body, timeout=120).json()
        assert rewarded["scale"] == {"min": 0, "max": 1} and 0 <= rewarded["rewards"][0] <= 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(90) == 0
