"""Slopes of chords between two runs: of functions, bilinear maps, linear systems and routers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from interp.forward.experts import Route

CLOSE = 1e-3
"""Runs closer than this, relative to their size, take the slope at their midpoint: the chord
would be lost in rounding."""


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


def halfway(
    f: Callable[..., Tensor], operands: Sequence[Tensor], other: Sequence[Tensor], g: Tensor
) -> tuple[Tensor, ...]:
    """Multipliers of a bilinear map's operands: its slope in the middle is the chord's."""
    pairs = zip(operands, other, strict=True)
    middle = [((x + y) / 2).detach().requires_grad_(True) for x, y in pairs]
    with torch.enable_grad():
        return torch.autograd.grad(f(*middle), middle, g)


def solve_slopes(
    a: Tensor, x: Tensor, other: Sequence[Tensor], form: Mapping[str, bool], g: Tensor
) -> tuple[Tensor, Tensor]:
    """Multipliers of a triangular matrix a and of b, of the system a x = b.

    From a_mean dx = db - da x_mean, which holds exactly.
    """
    mean_a, mean_x, upper = (a + other[0]) / 2, (x + other[1]) / 2, form["upper"]
    turned = {**form, "upper": not upper}
    to_b = torch.linalg.solve_triangular(mean_a.mT, g, **turned)
    to_a, skipped = -(to_b @ mean_x.mT), int(form.get("unitriangular", False))
    return (to_a.triu(skipped) if upper else to_a.tril(-skipped)), to_b


def routing_slopes(
    route: Route, logits: Tensor, weights: Tensor, other: Sequence[Tensor], g: Tensor
) -> Tensor:
    """Multipliers of a router's logits: the slope halfway, corrected along the chord.

    Which experts are chosen jumps, so no slope carries the whole difference; the correction, the
    smallest that does, makes sum(multiplier * (logits - logits')) equal sum(g * (w - w')).
    Source: Gonzalez 1996, eq. 2.4.
    """
    with torch.enable_grad():
        middle = ((logits + other[0]) / 2).detach().requires_grad_(True)
        (halfway,) = torch.autograd.grad((route(middle) * g).sum(), middle)
    step, moved = logits - other[0], weights - other[1]
    left = (g * moved).sum(-1) - (halfway * step).sum(-1).flatten()
    size = step.square().sum(-1).flatten()
    apart = size > 1e-10 * logits.square().sum(-1).flatten()
    scale = torch.where(apart, left / torch.where(apart, size, torch.ones_like(size)), 0)
    return halfway + scale.view(*step.shape[:-1], 1) * step


def log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Logarithmic mean (p - q) / (log p - log q) of two probabilities; 0 where one is 0."""
    gap = (log_p - log_q).nan_to_num(0.0).abs()
    ratio = torch.where(gap < 1e-4, 1 - gap / 2, -torch.expm1(-gap) / gap.clamp(min=1e-4))
    return torch.maximum(log_p, log_q).exp() * ratio
