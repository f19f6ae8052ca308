"""Tails: the last tokens run again from a layer on equal the whole prompts run anew."""

import pytest
import torch
from conftest import FAMILIES, tiny

from interp.data.prompts import TokenPrompt, pad
from interp.errors import PlanError
from interp.forward.blocks import projection, rewriting
from interp.forward.tails import tails

PROMPTS = [TokenPrompt(tuple(range(5, 5 + n))) for n in (9, 6, 11)]


def logits(model):
    ids, mask = pad(model, PROMPTS)
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return model.hf(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tail_under_a_change_equals_the_whole_run(family: str):
    model = tiny(family)
    added = torch.randn(3, 1, model.arch.d_model)

    def change(x, out):
        new = torch.zeros_like(out)
        new[:, -2] = added[:, 0]
        return out + new

    run = tails(model, PROMPTS, first=1, n_tail=3)
    with torch.no_grad(), rewriting(model, [("mlp_post", 1, change)]):
        got = model.logits(run.run()[:, -2:].flatten(0, 1))
        want = logits(model)[:, -2:].flatten(0, 1)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_some_prompts_of_a_batch_are_as_in_the_whole():
    model = tiny("gemma3")
    run = tails(model, PROMPTS, first=1, n_tail=4)
    with torch.no_grad():
        some = run.only(torch.tensor([2, 0])).run()
        torch.testing.assert_close(some, run.run()[[2, 0]])


def test_gradients_reach_what_is_added():
    model = tiny("llama")
    delta = torch.zeros(model.arch.d_model, requires_grad=True)
    run = tails(model, PROMPTS, first=2, n_tail=1)
    with rewriting(model, [("mlp_post", 2, lambda x, out: out + delta)]):
        model.logits(run.run()[:, -1])[:, 7].sum().backward()
    assert delta.grad is not None and float(delta.grad.norm()) > 0


def test_hooks_are_gone_after_an_exception():
    model = tiny("llama")

    def broken(x, out):
        raise ValueError

    with pytest.raises(ValueError), rewriting(model, [("mlp_post", 0, broken)]):
        logits(model)
    assert not projection(model, "mlp_post", 0)._forward_hooks


def test_no_projection_writes_from_elsewhere():
    with pytest.raises(PlanError, match="no projection writes from 'resid_pre'"):
        projection(tiny("llama"), "resid_pre", 0)
    with pytest.raises(PlanError, match="out of range"):
        tails(tiny("llama"), PROMPTS, first=7, n_tail=1)
