"""Autograd functions of ordinary values whose slopes are given, or are chords between two runs."""

# ruff: noqa: D102 (torch's own protocol: `forward` and `backward`)

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.brief import brief

CLOSE = 1e-3
"""Runs closer than this, relative to their size, take the slope at their midpoint: the chord
would be lost in rounding."""


@brief
@dataclass
class Chord:
    """The corrupt run's operands at one function, filled in after the clean run."""

    operands: tuple[Tensor, ...] = ()


class Linear(torch.autograd.Function):
    """A given value with a given elementwise slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None


class Elementwise(torch.autograd.Function):
    """f(x), with the slope of the chord to the corrupt run's x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor], chord: Chord) -> Tensor:
        ctx.save_for_backward(x)
        ctx.f, ctx.chord = f, chord
        return f(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,), (other,) = ctx.saved_tensors, ctx.chord.operands
        return grads[0] * _slope(ctx.f, x, other), None, None


def _slope(f: Callable[[Tensor], Tensor], x: Tensor, other: Tensor) -> Tensor:
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


class Product(torch.autograd.Function):
    """a b, by element or as matrices; each factor's change times the other's mean."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, matrix: bool, chord: Chord) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.matrix, ctx.chord = matrix, chord
        return a @ b if matrix else a * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (a, b), (other_a, other_b) = ctx.saved_tensors, ctx.chord.operands
        g, mean_a, mean_b = grads[0], (a + other_a) / 2, (b + other_b) / 2
        if ctx.matrix:
            to_a, to_b = g @ mean_b.transpose(-1, -2), mean_a.transpose(-1, -2) @ g
        else:
            to_a, to_b = g * mean_b, g * mean_a
        return to_a.sum_to_size(a.shape), to_b.sum_to_size(b.shape), None, None


def log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Logarithmic mean (p - q) / (log p - log q) of two probabilities; 0 where one is 0."""
    gap = (log_p - log_q).nan_to_num(0.0).abs()
    ratio = torch.where(gap < 1e-4, 1 - gap / 2, -torch.expm1(-gap) / gap.clamp(min=1e-4))
    return torch.maximum(log_p, log_q).exp() * ratio


class Softmax(torch.autograd.Function):
    """Probabilities from their logarithms; its Jacobian with logarithmic means in their place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_p: Tensor, dim: int, chord: Chord) -> Tensor:
        ctx.save_for_backward(log_p)
        ctx.dim, ctx.chord = dim, chord
        return log_p.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        mean = log_mean(ctx.saved_tensors[0], ctx.chord.operands[0])
        weighted = mean * grads[0]
        share = weighted.sum(ctx.dim, keepdim=True) / mean.sum(ctx.dim, keepdim=True)
        return weighted - mean * share, None, None, None


class LogSumExp(torch.autograd.Function):
    """log sum exp(x), with weights that are normed logarithmic means of probabilities."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_p: Tensor, dim: int, chord: Chord) -> Tensor:
        ctx.save_for_backward(log_p)
        ctx.dim, ctx.chord = dim, chord
        return torch.logsumexp(x, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        mean = log_mean(ctx.saved_tensors[0], ctx.chord.operands[0])
        weights = mean / mean.sum(ctx.dim, keepdim=True)
        return grads[0].unsqueeze(ctx.dim) * weights, None, None, None
