"""How the slope of the metric is estimated: at which points, and by which backward rule.

Every first-order method multiplies a change of activation, clean minus corrupt, by a multiplier:
the metric's slope there. They differ only in where the slope is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.attribution.rules import DiscreteGradient, Gradient, RelP
from interp.attribution.runs import Run, run
from interp.brief import brief
from interp.errors import PlanError, did_you_mean
from interp.model.model import Model

IG_STEPS = 5
"""MIB's number of interpolation steps."""


@brief
@dataclass(frozen=True)
class Estimator:
    """A first-order method.

    Attributes:
        points: (t, weight) of the runs that are differentiated; t = 1 is the clean prompt's
            embedding, t = 0 the corrupt one's.
        rule: what the backward pass does at nonlinearities.
        source: the paper.
    """

    points: tuple[tuple[float, float], ...]
    rule: type[Gradient]
    source: str

    @property
    def only_clean(self) -> bool:
        """Whether the run that is differentiated is the clean run itself."""
        return self.points == ((1.0, 1.0),)


def left_riemann(steps: int) -> tuple[tuple[float, float], ...]:
    """Points t = 0, 1/S, …, (S - 1)/S: those of EAP-IG's published code."""
    return tuple((s / steps, 1 / steps) for s in range(steps))


def right_riemann(steps: int) -> tuple[tuple[float, float], ...]:
    """Points t = 1/S, …, 1: those of the published code for nodes; one step is the clean run."""
    return tuple((s / steps, 1 / steps) for s in range(1, steps + 1))


def gauss_legendre(steps: int) -> tuple[tuple[float, float], ...]:
    """Gauss-Legendre points of [0, 1], exact for slopes of polynomial degree 2 S - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return tuple((float((t + 1) / 2), float(w / 2)) for t, w in zip(nodes, weights, strict=True))


CLEAN = ((1.0, 1.0),)

ESTIMATORS: Mapping[str, Estimator] = {
    "eap": Estimator(CLEAN, Gradient, "Syed et al., arXiv 2310.10348"),
    "clean-corrupted": Estimator(((0.0, 0.5), (1.0, 0.5)), Gradient, "arXiv 2403.17806"),
    "eap-ig": Estimator(left_riemann(IG_STEPS), Gradient, "Hanna et al., arXiv 2403.17806"),
    "eap-gl": Estimator(gauss_legendre(3), Gradient, "EAP-IG by Gauss-Legendre quadrature"),
    "relp": Estimator(CLEAN, RelP, "Jafari et al., arXiv 2508.21258"),
    "eap-dg": Estimator(CLEAN, DiscreteGradient, "this toolkit: interp.attribution.rules"),
}


def estimator_named(name: str, steps: int | None = None) -> Estimator:
    """Look an estimator of edges up.

    Args:
        name: a key of `ESTIMATORS`.
        steps: interpolation points of ``eap-ig`` and ``eap-gl``, instead of 5 and 3.

    Raises:
        PlanError: unknown name, or steps for a method without them.
    """
    if name not in ESTIMATORS:
        raise PlanError(f"unknown attribution method {name!r}. {did_you_mean(name, ESTIMATORS)}")
    found = ESTIMATORS[name]
    if steps is None:
        return found
    quadrature = {"eap-ig": left_riemann, "eap-gl": gauss_legendre}
    if name not in quadrature or steps < 1:
        raise PlanError(
            f"{name!r} cannot take {steps} steps; 'eap-ig' and 'eap-gl' take 1 or more."
        )
    return Estimator(quadrature[name](steps), found.rule, found.source)


def node_estimator_named(name: str, steps: int | None = None) -> Estimator:
    """As `estimator_named` for nodes and units, where ``eap-ig`` takes the right-hand points."""
    found = estimator_named(name, steps)
    if name != "eap-ig":
        return found
    return Estimator(right_riemann(len(found.points)), found.rule, found.source)


@brief
@dataclass(frozen=True)
class Linearised:
    """A contrast's runs, one of them differentiable.

    Attributes:
        run: the rows that are differentiated: all pairs at the first point, then the next …
        total: weighted sum of the metric over these rows.
        clean, corrupt: both plain runs, detached.
        metric: the metric of the clean and of the corrupt prompts.
        rule: the backward rule, for local steps that belong to the same linearisation.
        n_points: how many points.
    """

    run: Run
    total: Float[Tensor, ""]
    clean: Run
    corrupt: Run
    metric: tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]
    rule: Gradient
    n_points: int


def linearise(
    model: Model, contrast: Contrast, estimator: Estimator, sites: Sequence[str]
) -> Linearised:
    """Run the contrast so that multipliers can flow back to the given sites.

    Args:
        model: the model; its parameters receive no gradients.
        contrast: the prompts.
        estimator: where and how the slope is taken.
        sites: sites to keep (see `runs.run`).
    """
    rule = estimator.rule()
    clean_in, corrupt_in = (
        contrast.calls.embeddings[which] for which in (contrast.clean, contrast.corrupt)
    )
    pair = torch.arange(len(contrast))
    points = torch.tensor([t for t, _ in estimator.points], dtype=torch.float64).to(clean_in)
    weights = torch.tensor([w for _, w in estimator.points], dtype=torch.float64).repeat_interleave(
        len(pair)
    )
    start = torch.lerp(corrupt_in, clean_in, points[:, None, None, None]).flatten(0, 1)
    with torch.enable_grad(), rule.clean(model):
        rows = pair.repeat(len(points))
        done = run(model, contrast, start.detach().requires_grad_(True), rows, sites)
        values = contrast.read(done.final, rows)
    with torch.no_grad(), rule.corrupt(model):
        corrupt = run(model, contrast, corrupt_in, pair, sites)
        low = contrast.read(corrupt.final, pair)
    if estimator.only_clean:
        clean, high = _detached(done), values.detach()
    else:
        with torch.no_grad():
            clean = run(model, contrast, clean_in, pair, sites)
            high = contrast.read(clean.final, pair)
    with torch.enable_grad():
        total = (values * weights.to(values)).sum()
    return Linearised(done, total, clean, corrupt, (high, low), rule, len(points))


def _detached(done: Run) -> Run:
    kept = {site: [x.detach() for x in layers] for site, layers in done.kept.items()}
    return Run(done.pair, kept, done.final.detach())
