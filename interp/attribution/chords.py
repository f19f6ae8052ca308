"""Slopes of chords between two runs, and a function whose value and pull-back are given."""

# ruff: noqa: D102 (torch's own protocol: `forward` and `backward`)

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CLOSE = 1e-3
"""Runs closer than this, relative to their size, take the slope at their midpoint: the chord
would be lost in rounding."""


class Given(torch.autograd.Function):
    """The value of f(), a function of operands, whose gradients are those that back(g) returns."""

    @staticmethod
    def forward(
        ctx: Any, f: Callable[[], Tensor], back: Callable[[Tensor], Any], *operands: Tensor
    ) -> Tensor:
        ctx.back = back
        return f()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, *ctx.back(grads[0])


def slope(f: Callable[[Tensor], Tensor], x: Tensor, other: Tensor) -> Tensor:
    """(f(x) - f(x')) / (x - x'), or the derivative at the midpoint where the two are close.

    At least in fp32: in 16-bit formats runs a rounding step apart would give a chord of noise.
    """
    kind = x.dtype
    x, other = (v.to(torch.promote_types(kind, torch.float32)) for v in (x, other))
    with torch.no_grad():
        step = x - other
        close = step.abs() <= CLOSE * torch.maximum(x.abs(), other.abs())
        chord = (f(x) - f(other)) / torch.where(close, torch.ones_like(step), step)
    with torch.enable_grad():
        middle = ((x + other) / 2).detach().requires_grad_(True)
        (derivative,) = torch.autograd.grad(f(middle).sum(), middle)
    return torch.where(close, derivative, chord).to(kind)


def log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Logarithmic mean (p - q) / (log p - log q) of two probabilities; 0 where one is 0."""
    gap = (log_p - log_q).nan_to_num(0.0).abs()
    ratio = torch.where(gap < 1e-4, 1 - gap / 2, -torch.expm1(-gap) / gap.clamp(min=1e-4))
    return torch.maximum(log_p, log_q).exp() * ratio
