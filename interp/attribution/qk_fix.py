"""AtP*'s QK fix: one step is taken exactly, a head's own attention; then the slope of the rest.

A query or key acts through a softmax, whose slope says little when it is saturated. So its
pattern is recomputed with the corrupt query or key, and only what the head then writes is
multiplied by the metric's slope:

    score = (z clean - z with that query or key) . multiplier at z

Source: AtP*, Kramar et al., arXiv 2403.00745, section 3.1.1.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, gradients
from interp.attribution.edges import edge_scores
from interp.attribution.estimators import ESTIMATORS, linearise
from interp.attribution.exact import Effects
from interp.forward.blocks import attend, norm, project
from interp.model.graph import Graph
from interp.model.model import Model

KEPT = ("resid_pre", "q", "k", "v", "z")


def qk_edge_scores(
    model: Model, contrast: Contrast
) -> Iterator[Float[Tensor, "source destination"]]:
    """EAP with the QK fix, carried to every edge into a query or a key, pair by pair.

    Costs, beside EAP, two attention steps for each source and layer that reads it.
    """
    graph, a = Graph.of(model.arch), model.arch
    scores = torch.stack(list(edge_scores(model, contrast, ESTIMATORS["eap"])))
    at = linearise(model, contrast, ESTIMATORS["eap"], KEPT)
    slopes = gradients(at.total, at.run.kept["z"])
    effects = Effects(model, contrast)
    with torch.no_grad():
        for layer in range(a.n_layers):
            resid, z = (at.clean.kept[site][layer] for site in ("resid_pre", "z"))
            clean = at.clean.per_head(model, layer)
            kwargs = contrast.calls.of_rows(layer, contrast.clean)
            start = graph.qkv(layer).start
            for source in range(graph.before_attention(layer)):
                normed = norm(model, layer, a.parts.ln1)(resid + effects.change(source))
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
    """AtP* scores of every query and every key, per query head and token.

    A key's score is of that token's key alone.
    """
    at = linearise(model, contrast, ESTIMATORS["eap"], KEPT)
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
