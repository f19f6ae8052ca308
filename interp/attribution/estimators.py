"""How the slope of the metric is estimated: at which points, and by which backward rule.

Every first-order method multiplies a change of activation, clean minus corrupt, by a multiplier:
the metric's slope there. They differ only in where the slope is taken.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.backward_rules import DiscreteGradient, Gradient, RelP
from interp.attribution.contrast import Contrast, RunValues, run
from interp.brief import brief
from interp.errors import PlanError, did_you_mean
from interp.model.model import Model

IG_STEPS = 5
"""MIB's number of interpolation steps."""
Points = tuple[tuple[float, float], ...]
"""(t, weight) of the runs that are differentiated; t = 1 is the clean prompt's embedding, t = 0
that of its tokens' partners."""


@brief
@dataclass(frozen=True)
class Estimator:
    """A first-order method: where the slope is taken, and by which rule of the backward pass."""

    points: Points
    rule: type[Gradient]


def riemann(steps: int, first: int = 0) -> Points:
    """Points t = 0, 1/S, …, (S - 1)/S: those of EAP-IG's published code; nodes' from 1."""
    return tuple((s / steps, 1 / steps) for s in range(first, first + steps))


def gauss_legendre(steps: int) -> Points:
    """Gauss-Legendre points of [0, 1], exact for slopes of polynomial degree 2 S - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return tuple((float((t + 1) / 2), float(w / 2)) for t, w in zip(nodes, weights, strict=True))


CLEAN = ((1.0, 1.0),)

ESTIMATORS: Mapping[str, Estimator] = {
    "eap": Estimator(CLEAN, Gradient),  # Syed et al., arXiv 2310.10348
    "clean-corrupted": Estimator(((0.0, 0.5), (1.0, 0.5)), Gradient),  # arXiv 2403.17806
    "eap-ig": Estimator(riemann(IG_STEPS), Gradient),  # Hanna et al., arXiv 2403.17806
    "eap-gl": Estimator(gauss_legendre(3), Gradient),  # EAP-IG by Gauss-Legendre quadrature
    "relp": Estimator(CLEAN, RelP),  # Jafari et al., arXiv 2508.21258
    "eap-dg": Estimator(CLEAN, DiscreteGradient),  # this toolkit: see backward_rules
}


def estimator_named(name: str, steps: int | None = None, *, of_nodes: bool = False) -> Estimator:
    """Look an estimator up; `steps` are points of ``eap-ig`` and ``eap-gl``, instead of 5 and 3.

    Of nodes and units ``eap-ig`` takes the right-hand points. Errors are `PlanError`.
    """
    if name not in ESTIMATORS:
        raise PlanError(f"unknown attribution method {name!r}. {did_you_mean(name, ESTIMATORS)}")
    found = ESTIMATORS[name]
    quadrature = {"eap-ig": riemann, "eap-gl": gauss_legendre}
    if steps is not None and (name not in quadrature or steps < 1):
        raise PlanError(
            f"{name!r} cannot take {steps} steps; 'eap-ig' and 'eap-gl' take 1 or more."
        )
    n = steps or len(found.points)
    if name == "eap-ig" and of_nodes:
        return Estimator(riemann(n, 1), found.rule)
    return found if steps is None else Estimator(quadrature[name](n), found.rule)


@brief
@dataclass(frozen=True)
class Linearised:
    """A contrast's runs: differentiable at all pairs of each point in turn, and both plain ones.

    `total` is the weighted sum of the metric over the rows of `run`, `metric` that of the clean
    and of the corrupt prompts, `rule` for local steps that belong to the same linearisation. Chords
    end in `end`: the corrupt run, or, of prompts of unequal length, whose tokens have other
    positions, the clean prompts with their partners' embeddings.
    """

    run: RunValues
    total: Float[Tensor, ""]
    clean: RunValues
    corrupt: RunValues
    end: RunValues
    metric: tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]
    rule: Gradient
    n_points: int


def _require_no_selection(model: Model, n_tokens: int) -> None:
    """Refuse chords where attention reads only some tokens: two runs may select others."""
    most = getattr(model.hf.config.get_text_config(), "index_topk", None)
    if most is not None and n_tokens > most:
        raise PlanError(
            f"attention in {model.name} selects {most} of the {n_tokens} tokens, and two runs may "
            "select others, between which there is no chord; use 'eap', 'eap-ig' or 'relp', or "
            f"prompts of at most {most} tokens."
        )


def linearise(
    model: Model, contrast: Contrast, estimator: Estimator, sites: Sequence[str]
) -> Linearised:
    """Run the contrast so that multipliers can flow back to the given sites, as `run` keeps them.

    The model's parameters receive no gradients.
    """
    rule, pair = estimator.rule(), contrast.pair
    if rule.chords:
        _require_no_selection(model, contrast.mask.shape[1])
    moved = rule.chords and not contrast.token_by_token
    if (estimator.points != CLEAN or moved) and (beside := contrast.calls.arguments.of_tokens):
        others = "'eap' or 'relp'" if moved else "'eap', 'relp', 'eap-dg' or 'exact'"
        raise PlanError(
            f"the blocks of {model.name} read the prompt's tokens beside the residual stream "
            f"({', '.join(sorted(beside))}), so there is nothing between the clean and the corrupt "
            f"prompt{' of another length' * moved}; use {others}."
        )
    clean_in, partners_in = contrast.embeddings
    at, weights = torch.tensor(estimator.points, dtype=torch.float64).T
    start = torch.lerp(partners_in, clean_in, at.to(clean_in)[:, None, None, None]).flatten(0, 1)
    with torch.enable_grad(), rule.clean(model):
        rows = pair.repeat(len(at))
        start = start.detach().requires_grad_(True)
        done = run(model, contrast, start, contrast.clean.repeat(len(at)), sites)
        values = contrast.read(done.final, rows)
    with torch.no_grad(), contextlib.nullcontext() if moved else rule.corrupt(model):
        start = contrast.calls.embeddings[contrast.corrupt]
        end = corrupt = run(model, contrast, start, contrast.corrupt, sites)
        low = contrast.read(corrupt.final, pair)
    if moved:
        with torch.no_grad(), rule.corrupt(model):
            end = run(model, contrast, partners_in, contrast.clean, sites)
            contrast.read(end.final, pair)
    if estimator.points == CLEAN:
        clean, high = done.detached(), values.detach()
    else:
        with torch.no_grad():
            clean = run(model, contrast, clean_in, contrast.clean, sites)
            high = contrast.read(clean.final, pair)
    with torch.enable_grad():
        total = (values * weights.repeat_interleave(len(pair)).to(values)).sum()
    corrupt = corrupt.beside(contrast, clean)
    return Linearised(done, total, clean, corrupt, end, (high, low), rule, len(at))


# --- local Jacobians of norms -------------------------------------------------------------------

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
    """Multipliers before a norm, linearised at `x`, from those after it, summed over points."""
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
