"""An adapter of float32 weights computes in the precision of its base."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode

from edit_r1.editors.flow import generator
from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.train import adapter
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_stage import EditorRLStage, changed

STAGE = changed(EditorRLStage(), lora_rank=2, kl_beta=0.0)


class Products(TorchDispatchMode):
    """Counts matrix products by the precision of their operands."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
            self.found |= Counter({one.dtype for one in args if isinstance(one, torch.Tensor)})
        return func(*args, **(kwargs or {}))


def _inputs(editor):
    source = encode_png(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    [(_, contexts)] = editor.encode([Sample("s", source, "make it red", "")])
    return editor.noise(contexts, [generator(0)]), torch.tensor([500.0]), contexts, 2.5


def _gradients(policy, inputs):
    """Of a loss on the velocity, with an adapter that is not at its start, where half of them are 0."""
    with torch.no_grad():
        for name, parameter in policy.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator(len(name))))
    velocity = policy.editor.velocity(*inputs)
    velocity.square().mean().backward()
    return velocity.detach(), {name: parameter.grad for name, parameter in policy.parameters.items()}


def test_an_adapter_is_its_seeds_and_asks_no_gpu(make_editor, monkeypatch):
    expected = make_editor()
    torch.manual_seed(7)
    expected.transformer.add_adapter(adapter.lora_config(expected.lora_targets, 2))
    state = torch.random.get_rng_state()

    def refuse(*_):
        raise AssertionError("a GPU was asked for the state of its generator")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", refuse)
    editor = make_editor()
    torch.random.set_rng_state(state)
    adapter.add_lora(editor.transformer, adapter.lora_config(editor.lora_targets, 2), seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    found = dict(editor.transformer.named_parameters())
    for name, weight in expected.transformer.named_parameters():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("bf16_products", [False, True])
def test_no_product_is_float32_on_a_bf16_base(make_editor, bf16_products):
    editor = make_editor(dtype=torch.bfloat16)
    editor.settings = replace(editor.settings, bf16_products=bf16_products)
    policy = EditorPolicy(editor, STAGE)
    inputs = _inputs(editor)
    with Products() as products:
        _gradients(policy, inputs)
    assert set(products.found) == {torch.bfloat16}
    assert {parameter.dtype for parameter in policy.parameters.values()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in policy.parameters.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_pefts_float32_products_up_to_rounding(make_editor, monkeypatch, dtype):
    found = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(adapter, "round_for_products", lambda transformer: None)
        policy = EditorPolicy(make_editor(dtype=dtype), STAGE)
        layers = [one for one in policy.editor.transformer.modules() if isinstance(one, LoraLayer)]
        assert layers and all(one.cast_input_dtype_enabled is not kept for one in layers)
        found.append(_gradients(policy, _inputs(policy.editor)))
    (velocity, own), (expected_velocity, expected) = found
    assert own.keys() == expected.keys()
    if dtype == torch.float32:
        assert torch.equal(velocity, expected_velocity)
        assert all(torch.equal(own[name], expected[name]) for name in own)
        return
    assert torch.nn.functional.cosine_similarity(velocity.flatten(), expected_velocity.flatten(), dim=0) > 0.999
    together, whole = (torch.cat([each[name].flatten() for name in own]) for each in (own, expected))
    assert float((together - whole).norm() / whole.norm()) < 0.03
