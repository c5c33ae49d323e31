"""The study's objectives against their definitions, on log-probabilities that are known."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCH)
    return runpy.run_path(str(BENCH / "preference_study.py"))


@pytest.mark.parametrize("forwards", [1, 4])
def test_dpos_loss_is_a_mean_over_the_groups_of_a_whole_step(bench: dict[str, Any], forwards: int) -> None:
    """TRL's trainer has its loss divide by the forwards of a step, and nothing else does."""
    new = [-3.0, -5.0, -4.0, -7.0, -2.0, -6.0]
    old = [-4.0, -4.5, -4.0, -6.0, -3.0, -2.0]
    marks = [1.0, -1.0, 0.0, -1.0, 0.0, 1.0]  # two groups of three traces

    class Known(bench["OnPolicyDPO"]):  # type: ignore[misc]
        def _trace_log_probability(self, model: Any, rows: Any) -> torch.Tensor:
            return torch.tensor(model)[rows["row"]]

    trainer = Known.__new__(Known)
    trainer.stage = SimpleNamespace(traces=3)
    trainer.reference = old
    trainer.current_gradient_accumulation_steps = forwards
    ones = torch.ones(6, 2, dtype=torch.long)
    inputs = {"advantages": torch.tensor(marks), "row": torch.arange(6), "prompt_ids": ones, "prompt_mask": ones,
              "completion_ids": ones, "completion_mask": ones}  # fmt: skip
    margins = [(new[0] - old[0]) - (new[1] - old[1]), (new[5] - old[5]) - (new[3] - old[3])]
    expected = sum(math.log1p(math.exp(-bench["DPO_BETA"] * margin)) for margin in margins) / 2
    assert float(trainer.policy_loss(new, inputs)) == pytest.approx(expected / forwards)


def test_the_best_and_the_worst_trace_are_picked_and_no_group_without_a_spread(bench: dict[str, Any]) -> None:
    ratio_GN = torch.tensor([[0.5, 1.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert bench["picked"](ratio_GN, False).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert bench["picked"](ratio_GN, True).tolist() == [[0, 1, 0, -1], [0, 0, 0, 0]]
