"""Node and neuron attribution: how much the metric owes to each activation, to first order.

    score(a) = (a clean - a corrupt) * multiplier at a

summed over a unit's features (a head's, a vector's; a neuron is one feature). Positive = the
activation supports the answer. One backward pass gives every unit of every layer and token.
AtP* (Kramar et al., arXiv 2403.00745) corrects it in two ways, GradDrop and the QK fix: a query or
key acts through a softmax, whose slope says little when it is saturated. So a head's pattern is
recomputed with the corrupt query or key, and only what it then writes goes by the metric's slope:

    score = (z clean - z with that query or key) . multiplier at z
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.backward_rules import given
from interp.attribution.contrast import Contrast, RunValues, gradients, run
from interp.attribution.edges import kept, linearised_scores
from interp.attribution.estimators import ESTIMATORS, Linearised, linearise
from interp.attribution.exact import Effects
from interp.forward.blocks import attend, norm, project
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

NODE_SITES = ("resid_pre", "z", "mlp_out")
QK_SITES = ("resid_pre", "q", "k", "v", "z")
UnitValues = dict[str, Float[Tensor, "pair layer pos unit"]]
"""Site -> scores, on the CPU; units are heads, key-value heads, neurons, or 1 for vectors."""


def unit_scores(
    model: Model, contrast: Contrast, at: Linearised, sites: Sequence[str]
) -> UnitValues:
    """Scores of every unit of some sites, from runs that `linearise` made with these.

    Source: attribution patching, Nanda 2023; Kramar et al., arXiv 2403.00745, eq. 4.
    """
    multipliers = gradients(at.total, [x for site in sites for x in at.run.kept[site]])
    slopes = [g.unflatten(0, (at.n_points, len(contrast))).sum(0) for g in multipliers]
    return _products(model, contrast, sites, at.clean, at.corrupt, slopes)


def _products(
    model: Model,
    contrast: Contrast,
    sites: Sequence[str],
    clean: RunValues,
    corrupt: RunValues,
    slopes: Sequence[Tensor],
) -> UnitValues:
    """Clean minus corrupt times slope, summed over each unit's features."""
    rest, out = iter(slopes), UnitValues()
    for site in sites:
        layers: list[Tensor] = []
        for high, low in zip(clean.kept[site], corrupt.kept[site], strict=True):
            score = (high - low).detach().float() * next(rest).float()
            by_unit = score.unflatten(-1, (model.n_units(SITES[site]), -1))
            layers.append(by_unit.sum(-1) * contrast.mask[..., None])
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


def by_position(values: Float[np.ndarray, "pair layer pos unit"], contrast: Contrast) -> np.ndarray:
    """Positions counted from each prompt's first token; NaN beyond its last or without partner."""
    longest = int(contrast.prompt.sum(1).max())
    out = np.full_like(values[:, :, :longest], np.nan)
    paired = (contrast.prompt & contrast.paired).cpu().numpy()
    for i, real in enumerate(contrast.prompt.cpu().numpy()):
        own = np.where(paired[i][None, :, None], values[i], np.nan)
        out[i, :, : real.sum()] = own[:, real]
    return out


def grad_drop_scores(model: Model, contrast: Contrast, sites: Sequence[str]) -> UnitValues:
    """AtP with GradDrop: sizes, not signs, that cancelling paths cannot hide.

    sum over layers l of |score with no gradient through layer l| / (L - 1)

    Source: AtP*, Kramar et al., arXiv 2403.00745, section 3.1.2.
    """
    n_layers, embeddings = model.arch.n_layers, contrast.calls.embeddings
    dropped: list[int] = []

    def gated(layer: int, before: Tensor, after: Tensor) -> Tensor:
        """Pass a layer's contribution on; its gradient only while the layer is not dropped."""
        change = after - before
        return before + given(change.clone, lambda g: (g * (layer not in dropped),), change)

    with torch.no_grad():
        corrupt = run(model, contrast, embeddings[contrast.corrupt], contrast.corrupt, sites)
    with torch.enable_grad():
        start = embeddings[contrast.clean].detach().requires_grad_(True)
        clean = run(model, contrast, start, contrast.clean, sites, through=gated)
        total = contrast.read(clean.final, contrast.pair).sum()
    corrupt = corrupt.beside(contrast, clean.detached())
    flat = [x for site in sites for x in clean.kept[site]]
    sizes: UnitValues = {}
    for layer in range(n_layers):
        dropped[:] = [layer]
        slopes = gradients(total, flat, retain_graph=True)
        for site, score in _products(model, contrast, sites, clean, corrupt, slopes).items():
            sizes[site] = sizes.get(site, 0) + score.abs() / max(1, n_layers - 1)
    return sizes


# --- the QK fix ---------------------------------------------------------------------------------


def qk_edge_scores(
    model: Model, contrast: Contrast
) -> Iterator[Float[Tensor, "source destination"]]:
    """EAP with the QK fix: two more attention steps for each source and layer that reads it."""
    graph, a = Graph.of(model.arch), model.arch
    at = linearise(model, contrast, ESTIMATORS["eap"], kept(model))
    scores = torch.stack(list(linearised_scores(model, contrast, at)))
    slopes = gradients(at.total, at.run.kept["z"])
    effects = Effects(model, contrast)
    with torch.no_grad():
        for layer in range(a.n_layers):
            resid, z = (at.clean.kept[site][layer] for site in ("resid_pre", "z"))
            clean = at.clean.per_head(model, layer)
            kwargs = contrast.calls.of_rows(layer, contrast.clean)
            start = graph.qkv(layer).start
            for source in range(graph.before_attention(layer)):
                normed = norm(model, layer, model.parts(layer).ln1)(resid + effects.change(source))
                wide = normed[:, None].expand(-1, a.n_heads, -1, -1)
                for place, part in enumerate("qk"):
                    other = clean | {part: project(model, part, layer, wide)}
                    moved = attend(model, layer, kwargs, other["q"], other["k"], other["v"])
                    own = slice(start + place * a.n_heads, start + (place + 1) * a.n_heads)
                    effect = _by_head(model, contrast, (z - moved) * slopes[layer])
                    scores[:, source, own] = effect.sum(1)
    yield from scores


def qk_node_scores(
    model: Model, contrast: Contrast
) -> tuple[Float[Tensor, "pair layer pos head"], Float[Tensor, "pair layer pos head"]]:
    """AtP* scores of every query and every token's own key, per query head and token."""
    at = linearise(model, contrast, ESTIMATORS["eap"], QK_SITES)
    slopes = gradients(at.total, at.run.kept["z"])
    queries, keys = [], []
    with torch.no_grad():
        for layer, slope in enumerate(slopes):
            kwargs = contrast.calls.of_rows(layer, contrast.clean)
            clean, corrupt = (r.per_head(model, layer) for r in (at.clean, at.corrupt))
            z = at.clean.kept["z"][layer]
            moved = attend(model, layer, kwargs, corrupt["q"], clean["k"], clean["v"])
            queries.append(_by_head(model, contrast, (z - moved) * slope))
            by_token = []
            for pos in range(z.shape[1]):
                k = clean["k"].clone()
                k[:, pos] = corrupt["k"][:, pos]
                moved = attend(model, layer, kwargs, clean["q"], k, clean["v"])
                by_token.append(_by_head(model, contrast, (z - moved) * slope).sum(1))
            keys.append(torch.stack(by_token, 1) * contrast.mask[..., None].cpu())
    return torch.stack(queries, 1), torch.stack(keys, 1)


def _by_head(model: Model, contrast: Contrast, effect: Tensor) -> Float[Tensor, "pair pos head"]:
    by_head = effect.unflatten(-1, (model.arch.n_heads, model.arch.d_head)).sum(-1)
    return (by_head * contrast.mask[..., None]).cpu()
