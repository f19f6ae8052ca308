"""Methods that need a backward pass a layer: EAP-IG (activations) and AtP*'s GradDrop."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.attribution.edges import kept, linearised_scores
from interp.attribution.estimators import ESTIMATORS, IG_STEPS, Linearised, linearise
from interp.attribution.runs import gradients, run
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES


def ig_activation_scores(
    model: Model, contrast: Contrast, steps: int = IG_STEPS
) -> Iterator[Float[Tensor, "source destination"]]:
    """EAP-IG over activations: one layer's sources at a time move from corrupt to clean.

    The slope of every edge is averaged over all (2 L + 1) S runs, as the published code does.

    Source: Hanna et al., arXiv 2403.17806; circuits in MIB, arXiv 2504.13151.
    """
    graph = Graph.of(model.arch)
    plain = linearise(model, contrast, ESTIMATORS["eap"], kept(model))
    total = torch.zeros(len(contrast), graph.n_sources, graph.n_destinations, dtype=torch.float64)
    for site, layer in _source_layers(model):
        at = _interpolated(model, contrast, plain, site, layer, steps)
        total += torch.stack(list(linearised_scores(model, contrast, at)))
    yield from total / (2 * graph.n_layers + 1)


def _source_layers(model: Model) -> Iterator[tuple[str, int]]:
    yield "resid_pre", 0
    for layer in range(model.arch.n_layers):
        yield "z", layer
        yield "mlp_out", layer


def _interpolated(
    model: Model, contrast: Contrast, plain: Linearised, site: str, layer: int, steps: int
) -> Linearised:
    """The clean run with one layer's sources at corrupt + s/S (clean - corrupt), s = 1 … S."""
    pair = torch.arange(len(contrast))
    clean, corrupt = (r.kept[site][layer] for r in (plain.clean, plain.corrupt))
    points = torch.arange(1, steps + 1).to(clean) / steps
    between = torch.lerp(corrupt, clean, points[:, None, None, None]).flatten(0, 1)
    rows = pair.repeat(steps)
    start = contrast.calls.embeddings[contrast.clean].repeat(steps, 1, 1)
    given = None if site == "resid_pre" else (site, layer, between)
    between.requires_grad_(True)
    start = between if given is None else start
    with torch.enable_grad():
        done = run(model, contrast, start.requires_grad_(True), rows, kept(model), given)
        total = contrast.read(done.final, rows).sum() / steps
    return dataclasses.replace(plain, run=done, total=total, n_points=steps)


class _Gate(torch.autograd.Function):
    """Passes a layer's contribution on; its gradient only while the layer is open."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: int, dropped: list[int]) -> Tensor:
        ctx.layer, ctx.dropped = layer, dropped
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (grads[0] * (ctx.layer not in ctx.dropped), None, None)


def grad_drop_scores(
    model: Model, contrast: Contrast, sites: Sequence[str]
) -> dict[str, Float[Tensor, "pair layer pos unit"]]:
    """AtP with GradDrop: sizes, not signs, that cancelling paths cannot hide.

    sum over layers l of |score with no gradient through layer l| / (L - 1)

    Args:
        model: the model.
        contrast: the pairs.
        sites: as in `nodes.unit_scores`.

    Source: AtP*, Kramar et al., arXiv 2403.00745, section 3.1.2.
    """
    pair, n_layers = torch.arange(len(contrast)), model.arch.n_layers
    clean_in, corrupt_in = (
        contrast.calls.embeddings[which] for which in (contrast.clean, contrast.corrupt)
    )
    dropped: list[int] = []

    def gated(layer: int, before: Tensor, after: Tensor) -> Tensor:
        return before + _Gate.apply(after - before, layer, dropped)  # pyright: ignore[reportOperatorIssue]

    with torch.no_grad():
        corrupt = run(model, contrast, corrupt_in, pair, sites)
    with torch.enable_grad():
        start = clean_in.detach().requires_grad_(True)
        clean = run(model, contrast, start, pair, sites, through=gated)
        total = contrast.read(clean.final, pair).sum()
    sizes: dict[str, Tensor] = {}
    for layer in range(n_layers):
        dropped[:] = [layer]
        slopes = iter(
            gradients(total, [x for s in sites for x in clean.kept[s]], retain_graph=True)
        )
        for site in sites:
            score = _unit_sums(model, contrast, site, clean.kept[site], corrupt.kept[site], slopes)
            sizes[site] = sizes.get(site, 0) + score.abs() / max(1, n_layers - 1)
    return sizes


def _unit_sums(
    model: Model,
    contrast: Contrast,
    site: str,
    clean: Sequence[Tensor],
    corrupt: Sequence[Tensor],
    slopes: Iterator[Tensor],
) -> Float[Tensor, "pair layer pos unit"]:
    n_units = model.n_units(SITES[site])
    change: Callable[[Tensor, Tensor], Tensor] = lambda c, k: (c - k).detach().float()  # noqa: E731
    layers = [
        (change(c, k) * next(slopes).float()).unflatten(-1, (n_units, -1)).sum(-1)
        for c, k in zip(clean, corrupt, strict=True)
    ]
    return (torch.stack(layers, 1) * contrast.mask[:, None, :, None]).cpu()
