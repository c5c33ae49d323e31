"""Replicas of a checkpoint in processes of their own: the same answers, in order, and no failure unheard."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Request, Sampling
from edit_r1.vlm.replicas import TransformersReplicas
from edit_r1.vlm.transformers import TransformersVLM

REQUESTS = [Request((f"Say{' on' * (index % 4)} {index}",)) for index in range(7)]
GREEDY = Sampling(max_new_tokens=8, temperature=0.0)


def test_answers_are_those_of_one_model_and_in_order(checkpoint: Path) -> None:
    alone = TransformersVLM.load(checkpoint).generate(REQUESTS, GREEDY)
    replicas = TransformersReplicas(checkpoint, ("cpu", "cpu"), batch_size=2)
    seen: list[tuple[int, int]] = []
    try:
        together = replicas.generate(REQUESTS, GREEDY, progress=lambda done, total: seen.append((done, total)))
        sampled = [replicas.generate(REQUESTS, Sampling(max_new_tokens=8, seed=3), n=2) for _ in range(2)]
        with pytest.raises(ValueError, match="temperature"):
            replicas.generate(REQUESTS, Sampling(max_new_tokens=8, temperature=-1.0))
    finally:
        replicas.close()
    assert [row[0].text for row in together] == [row[0].text for row in alone]
    assert seen[-1] == (7, 7)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert sampled[0] == sampled[1]
    assert all(len(row) == 2 for row in sampled[0])
    one = TransformersReplicas(checkpoint, ("cpu",), batch_size=2)
    assert one.generate(REQUESTS, Sampling(max_new_tokens=8, seed=3), n=2) == sampled[0]
    one.close()


def test_a_model_that_cannot_be_loaded_says_so_at_once(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Verifier.load(tmp_path / "nowhere", device=("cpu", "cpu"))
    with pytest.raises(ModelError, match="at least one device"):
        TransformersReplicas(tmp_path, ())
    with pytest.raises(ModelError, match="batch_size=0"):
        TransformersReplicas(checkpoint, ("cpu", "cpu"), batch_size=0)


def test_a_replica_that_dies_is_an_error_not_a_wait(checkpoint: Path) -> None:
    replicas = TransformersReplicas(checkpoint, ("cpu", "cpu"), batch_size=2)
    os.kill(next(iter(replicas._replicas[1]._processes)), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(ModelError, match="has died"):
            replicas.generate(REQUESTS * 20, GREEDY)
    replicas.close()
