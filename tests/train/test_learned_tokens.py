"""The loss over learned tokens alone is the loss over all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl.trainer import utils

from edit_r1.train import learned_tokens
from edit_r1.train.verifier_run import load_trainable


def test_the_loss_and_every_gradient_are_those_of_all_tokens(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "_use_triton", learned_tokens._with_triton)
    model, _ = load_trainable(str(checkpoint), False, 0)
    model.eval()
    utils.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    seen: list[int] = []
    scored = utils._ChunkedLogProbFunction.apply

    def counted(hidden: torch.Tensor, *rest: object) -> object:
        seen.append(len(hidden))
        return scored(hidden, *rest)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", counted)
    ids_BL = torch.randint(20, 200, (3, 24), generator=torch.Generator().manual_seed(0))
    labels_BL = ids_BL.clone()
    labels_BL[:, :15] = -100
    labels_BL[2, 20:] = -100
    results = []
    for leave_out in (False, True):
        if leave_out:
            learned_tokens.score_learned_tokens()
        model.zero_grad()
        output = model(input_ids=ids_BL, labels=labels_BL, fused_lm_head=True)
        output.loss.backward()
        gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        results.append((output.loss.detach(), output.log_probs.detach(), output.entropy.detach(), gradients))
    assert seen == [3 * 23, int((labels_BL[:, 1:] != -100).sum())]
    (loss_all, *tokens_all, grads_all), (loss, *tokens, grads) = results
    torch.testing.assert_close(loss, loss_all)
    for one, other in zip(tokens, tokens_all, strict=True):
        torch.testing.assert_close(one, other)
    assert grads.keys() == grads_all.keys()
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, grads_all[name], rtol=1e-4, atol=1e-6)
    nothing = model(input_ids=ids_BL, labels=torch.full_like(labels_BL, -100), fused_lm_head=True).loss
    nothing.backward()
    assert nothing == 0
