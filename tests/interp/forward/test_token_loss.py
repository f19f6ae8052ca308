"""Losses of single tokens and their gradients are those of the whole vocabulary's logits."""

import pytest
import torch
from conftest import tiny

from interp.forward import token_loss
from interp.forward.token_loss import token_nll


@pytest.mark.parametrize("family", ["llama", "gemma2", "gptj", "gpt2"])
def test_losses_and_gradients_are_those_of_all_logits(family: str, monkeypatch):
    monkeypatch.setattr(token_loss, "AT_ONCE", 7)  # the last part is shorter
    model = tiny(family)
    torch.manual_seed(0)
    if family == "gptj":
        torch.nn.init.normal_(model.unembed.bias)
    resid = torch.randn(5, model.arch.d_model) * 3
    token, weight = torch.tensor([0, 3, 3, 11, model.n_vocab - 1]), torch.rand(5)
    ours, plain = (resid.clone().requires_grad_() for _ in range(2))
    nll = token_nll(model, ours, token)
    want = -model.logits(plain).log_softmax(-1)[torch.arange(5), token]
    torch.testing.assert_close(nll, want, atol=1e-5, rtol=1e-5)
    (nll * weight).sum().backward()
    (want * weight).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(token_nll(model, resid, token), want)
