"""Local Jacobians of norms: multipliers pulled back, changes pushed forward, scales held fixed."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.backward_rules import DiscreteGradient, Gradient
from interp.model.model import Model

Function = Callable[[Tensor], Tensor]
"""A norm, token by token."""


def pull_back(
    model: Model,
    function: Function,
    x: Float[Tensor, "point token d"],
    corrupt: Float[Tensor, "token d"],
    to_output: Float[Tensor, "point token branch d"],
    rule: Gradient,
) -> Float[Tensor, "token branch d"]:
    """Multipliers before a norm from those after it, for many branches, summed over points.

    `x` is where the norm is linearised, `corrupt` the other end of the chord, for rules with one.
    """
    wide = x[:, :, None].expand_as(to_output).detach().requires_grad_(True)
    with torch.enable_grad(), rule.clean(model):
        y = function(wide.view_as(wide))
    with torch.no_grad(), rule.corrupt(model):
        function(corrupt[None, :, None].expand_as(to_output))
    (to_input,) = torch.autograd.grad(y, wide, to_output)
    return to_input.sum(0)


def push_forward(
    model: Model,
    function: Function,
    clean: Float[Tensor, "#branch token d"],
    corrupt: Float[Tensor, "#branch token d"],
    change: Float[Tensor, "branch token d"],
) -> Float[Tensor, "branch token d"]:
    """Shares of function(clean) - function(corrupt) that belong to parts of clean - corrupt.

    The transpose of the discrete Jacobian's pull-back, by differentiating it once more: it is
    linear in the multiplier. Shares of parts that sum to clean - corrupt sum to the whole.
    """
    x = clean.expand_as(change).detach().requires_grad_(True)
    multiplier = torch.zeros_like(change).requires_grad_(True)
    rule = DiscreteGradient()
    with torch.enable_grad():
        with rule.clean(model):
            y = function(x.view_as(x))
        with rule.corrupt(model):
            function(corrupt.expand_as(change))
        (back,) = torch.autograd.grad(y, x, multiplier, create_graph=True)
        (forward,) = torch.autograd.grad(back, multiplier, change)
    return forward


def with_fixed_scale(
    model: Model,
    function: Function,
    at: Float[Tensor, "#branch token d"],
    x: Float[Tensor, "branch token d"],
) -> Float[Tensor, "branch token d"]:
    """A norm's linear part while its scale stays what it is at `at`.

    The chord from `at` to ``-at`` has that scale at both ends, so its slope is the linear map.
    """
    return push_forward(model, function, at, -at, x)


def fixed_scale_transpose(
    model: Model,
    function: Function,
    at: Float[Tensor, "token d"],
    y: Float[Tensor, "token branch d"],
) -> Float[Tensor, "token branch d"]:
    """The transpose of `with_fixed_scale`: what a read-out after a norm reads before it."""
    return pull_back(model, function, at[None], -at, y[None], DiscreteGradient())
