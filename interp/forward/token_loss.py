"""Losses of single tokens with their gradients, never holding the logits of a whole vocabulary."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.model.model import Model
from interp.model.weights import bias_in

AT_ONCE = 8192
"""Logits of a row that are computed together: few enough for the caches of a CPU."""


def token_nll(
    model: Model, resid: Float[Tensor, "row d_model"], token: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """Negative log-likelihood of each row's token, in nats, from final residual streams.

    Once differentiable in `resid`: the gradient is summed up in the same pass over the vocabulary.
    """
    normed = model.ln_final(resid.to(model.unembed_device))
    return _TokenNll.apply(normed, token.to(normed.device), model)


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Float[Tensor, "row d_model"], token: Int[Tensor, " row"], model: Model
    ) -> Float[Tensor, " row"]:
        weight, bias = model.unembedding, bias_in(model.unembed)
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        top = states.new_full((len(states),), -torch.inf, dtype=torch.float32)
        total, slope = torch.zeros_like(top), torch.zeros_like(states, dtype=torch.float32)
        for part, more in zip(weight.split(AT_ONCE), bias.split(AT_ONCE), strict=True):
            logits, pull = _transformed(model, states @ part.T + more)
            highest = torch.maximum(top, logits.amax(-1))
            shrink, top = (top - highest).exp(), highest
            p = logits.sub_(top[:, None]).exp_()
            total = total * shrink + p.sum(-1)
            if ctx.needs_input_grad[0]:
                slope = slope * shrink[:, None] + (pull(p).to(part.dtype) @ part).float()
        rows = weight[token]
        own, pull = _transformed(model, (states * rows).sum(-1, keepdim=True) + bias[token, None])
        away = slope / total[:, None] - pull(torch.ones_like(own)) * rows
        ctx.save_for_backward(away.to(states.dtype))
        return top + total.log() - own[:, 0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (away,), (grad,) = ctx.saved_tensors, grad_outputs
        return grad[:, None].to(away.dtype) * away, None, None


def _transformed(model: Model, raw: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Logits in fp32, and what pulls their gradient back through the architecture's transform."""
    with torch.enable_grad():
        leaf = raw.detach().float().requires_grad_()
        out = model.arch.logits_transform(leaf)
    if out is leaf:
        return leaf.detach(), lambda grad: grad
    return out.detach().clone(), lambda grad: torch.autograd.grad(out, leaf, grad)[0]
