"""Node and neuron attribution: how much the metric owes to each activation, to first order.

    score(a) = (a clean - a corrupt) * multiplier at a

summed over a unit's features (a head's, a vector's; a neuron is one feature). Positive = the
activation supports the answer. One backward pass gives every unit of every layer and token.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.attribution.estimators import Linearised
from interp.attribution.runs import gradients
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

NODE_SITES = ("resid_pre", "z", "mlp_out")


def unit_scores(
    model: Model, contrast: Contrast, at: Linearised, sites: Sequence[str]
) -> dict[str, Float[Tensor, "pair layer pos unit"]]:
    """Scores of every unit of some sites.

    Args:
        model: the model.
        contrast: a micro-batch of pairs.
        at: its runs, from `linearise` with these sites; the plain gradient is AtP (Nanda 2023).
        sites: short site names.

    Returns:
        By site, on the CPU; units are heads, key-value heads, neurons, or 1 for whole vectors.

    Source: attribution patching, Kramar et al., arXiv 2403.00745, eq. 4.
    """
    flat = [x for site in sites for x in at.run.kept[site]]
    multipliers = iter(gradients(at.total, flat))
    n_pairs, out = len(contrast), {}
    for site in sites:
        layers = []
        n_units = model.n_units(SITES[site])
        for clean, corrupt in zip(at.clean.kept[site], at.corrupt.kept[site], strict=True):
            slope = next(multipliers).unflatten(0, (at.n_points, n_pairs)).sum(0)
            score = ((clean - corrupt).float() * slope.float()).unflatten(-1, (n_units, -1))
            layers.append(score.sum(-1) * contrast.mask[..., None])
        out[site] = torch.stack(layers, 1).cpu()
    return out


def node_scores(model: Model, contrast: Contrast, at: Linearised) -> Float[Tensor, "pair source"]:
    """Scores of the graph's sources: the embedding, every head, every MLP, all tokens summed.

    `at` comes from `linearise` with `NODE_SITES`.
    """
    graph = Graph.of(model.arch)
    by_site = unit_scores(model, contrast, at, NODE_SITES)
    out = torch.zeros(len(contrast), graph.n_sources)
    out[:, 0] = by_site["resid_pre"][:, 0].sum((1, 2))
    for layer in range(graph.n_layers):
        out[:, graph.heads(layer)] = by_site["z"][:, layer].sum(1)
        out[:, graph.mlp(layer)] = by_site["mlp_out"][:, layer].sum((1, 2))
    return out
