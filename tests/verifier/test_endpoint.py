"""The verifier through a real OpenAI-compatible server: `transformers serve` with the packaged tiny verifier."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edit_r1.records import Principle
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.world.export import write_world_samples
from edit_r1.zoo.packaged import weights

COMMAND = Path(sys.executable).with_name("transformers")
pytestmark = pytest.mark.skipif(
    not COMMAND.exists() or importlib.util.find_spec("openai") is None,
    reason="`transformers serve` needs transformers and openai: pip install edit-r1[dev]",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged weights; the server samples only if the model's own generation_config says so."""
    folder = tmp_path_factory.mktemp("served") / "verifier"
    shutil.copytree(weights("verifier-small-rrm"), folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "do_sample": True}))
    return folder


@pytest.fixture(scope="module")
def endpoint(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.txt"
    command = [COMMAND, "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(log, "wb") as out:
        process = subprocess.Popen([*map(str, command), "--dtype", "float32"], stdout=out, stderr=out)
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[ScoreItem]:
    folder = tmp_path_factory.mktemp("world") / "samples"
    write_world_samples(folder, 2, seed=3)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()][::2]
    return [
        ScoreItem(
            sources=((folder / row["source"]).read_bytes(),),
            edited=(folder / row["edited"]).read_bytes(),
            instruction=row["instruction"],
            principles=tuple(Principle(one["question"], one["category"]) for one in row["principles"]),
        )
        for row in rows
    ]


@pytest.mark.timeout(600)
def test_a_served_model_judges_as_a_local_one(model: Path, endpoint: str, items: list[ScoreItem]) -> None:
    with Verifier.load(model) as local, Verifier.connect(endpoint, str(model), concurrency=2) as served:
        assert isinstance(served.vlm, OpenAIVLM)
        served.vlm.check()
        assert (served.variant, served.mode, served.domain) == (local.variant, local.mode, local.domain)
        ours, theirs = local.score_many(items), served.score_many(items)
        # Greedy: the same text, so the same checklist and score.
        assert [[outcome.text for outcome in one.outcomes] for one in theirs] == [
            [outcome.text for outcome in one.outcomes] for one in ours
        ]
        assert [one.score for one in theirs] == [one.score for one in ours]
        assert all(one.score is not None for one in theirs)
        # The server counts the token that ends an answer, the local backend does not.
        assert [one.outcomes[0].tokens for one in theirs] == [one.outcomes[0].tokens + 1 for one in ours]
        sampled = served.score_many(items, traces=3, temperature=1.5)
        assert any(len({outcome.text for outcome in one.outcomes}) > 1 for one in sampled)
        usage = served.vlm.usage
        assert usage.requests == 1 + 4 * len(items)  # a check, one greedy trace and three sampled ones for each edit
        assert (usage.failures, usage.unmetered) == (0, 0) and usage.prompt_tokens > usage.completion_tokens > 0


@pytest.mark.timeout(600)
def test_a_wrong_name_is_one_clear_line(endpoint: str) -> None:
    vlm = OpenAIVLM(endpoint, "another-model")
    with pytest.raises(ModelError) as caught:
        vlm.check()
    vlm.close()
    assert "another-model" in str(caught.value) and "\n" not in str(caught.value)
