"""TRL-style: the keywords that TRL's GRPOTrainer passes, and what it makes of the answer."""

from __future__ import annotations

import io
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image


@pytest.fixture
def module(example, loaded, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("EDIT_R1_MODEL", "some/model")
    return example("trl_reward")


def pil(kit: SimpleNamespace, *numbers: int) -> Image.Image:
    return Image.open(io.BytesIO(kit.picture(*numbers)))


def test_a_failure_is_none_and_becomes_nan(kit: SimpleNamespace, module: ModuleType, loaded: list) -> None:
    logged: dict[str, float] = {}
    rows = [(70, 0), (2, kit.UNPARSED), (10, 0)]
    rewards = module.edit_rrm(
        prompts=[f"edit {number}" for number, _ in rows],
        completions=[pil(kit, number, fault) for number, fault in rows],
        completion_ids=[[1]] * 3,
        source=[pil(kit, number + 100) for number, _ in rows],
        trainer_state=None,
        log_extra=lambda name, values: None,
        log_metric=logged.__setitem__,
    )
    assert rewards == [pytest.approx(0.7), None, pytest.approx(0.1)]
    assert logged == {"edit_rrm/without_score": pytest.approx(1 / 3)}
    as_trl_reads = torch.tensor([torch.nan if reward is None else reward for reward in rewards])
    assert as_trl_reads.nanmean().item() == pytest.approx(0.4)
    assert loaded == [("some/model", {"device": "cpu", "dtype": "float32"})]


def test_on_a_gpu_the_verifier_is_loaded_in_bfloat16(
    module: ModuleType, loaded: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDIT_R1_DEVICE", "cuda:1")
    assert module.edit_rrm([], [], source=[]) == []
    assert loaded == [("some/model", {"device": "cuda:1", "dtype": "bfloat16"})]


def test_chat_completions_and_an_instruction_column(kit: SimpleNamespace, module: ModuleType) -> None:
    content = [{"type": "text", "text": "Here."}, {"type": "image", "image": pil(kit, 33)}]
    completion = [{"role": "assistant", "content": content}]
    prompt = [{"role": "user", "content": "ignored"}]
    rewards = module.edit_rrm([prompt], [completion], source=[pil(kit, 133)], instruction=["edit 33"])
    assert rewards == [pytest.approx(0.33)]
