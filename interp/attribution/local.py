"""Attribution that takes one step exactly: a head's own attention, then the slope of the rest.

AtP*'s QK fix: a query or key acts through a softmax, whose slope says little when it is
saturated. So its pattern is recomputed with the corrupt query or key, and only what the head then
writes is multiplied by the metric's slope:

    score = (z clean - z with that query or key) . multiplier at z
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.attribution.edges import edge_scores
from interp.attribution.estimators import ESTIMATORS, linearise
from interp.attribution.exact import Effects
from interp.attribution.runs import gradients
from interp.forward.blocks import attend, norm, project
from interp.model.graph import Graph
from interp.model.model import Model

KEPT = ("resid_pre", "q", "k", "v", "z")


def qk_edge_scores(
    model: Model, contrast: Contrast
) -> Iterator[Float[Tensor, "source destination"]]:
    """EAP with the QK fix on every edge into a query or a key, pair by pair.

    Costs, beside EAP, two attention steps a source and layer that reads it.

    Source: AtP*, Kramar et al., arXiv 2403.00745, section 3.1.1, carried from nodes to edges.
    """
    graph, a = Graph.of(model.arch), model.arch
    scores = torch.stack(list(edge_scores(model, contrast, ESTIMATORS["eap"])))
    at = linearise(model, contrast, ESTIMATORS["eap"], KEPT)
    slopes = gradients(at.total, at.run.kept["z"])
    effects = Effects(model, contrast)
    with torch.no_grad():
        for layer in range(a.n_layers):
            resid = at.clean.kept["resid_pre"][layer]
            clean = {part: _per_head(model, at.clean.kept[part][layer]) for part in "qkv"}
            z, slope = at.clean.kept["z"][layer], slopes[layer]
            kwargs = contrast.calls.of_rows(layer, contrast.clean)
            start = graph.qkv(layer).start
            for source in range(graph.before_attention(layer)):
                normed = norm(model, layer, a.parts.ln1)(resid + effects.change(source))
                wide = normed[:, None].expand(-1, a.n_heads, -1, -1)
                for place, part in enumerate("qk"):
                    other = clean | {part: project(model, part, layer, wide)}
                    moved = attend(model, layer, kwargs, other["q"], other["k"], other["v"])
                    own = slice(start + place * a.n_heads, start + (place + 1) * a.n_heads)
                    scores[:, source, own] = _by_head(model, contrast, (z - moved) * slope)
    yield from scores


def qk_node_scores(
    model: Model, contrast: Contrast
) -> tuple[Float[Tensor, "pair layer pos head"], Float[Tensor, "pair layer pos head"]]:
    """AtP* scores of every query and key, token by token.

    Returns:
        Queries and keys, one a query head; a key's score is of that token's key alone.

    Source: AtP*, arXiv 2403.00745, section 3.1.1.
    """
    a = model.arch
    at = linearise(model, contrast, ESTIMATORS["eap"], KEPT)
    slopes = gradients(at.total, at.run.kept["z"])
    queries, keys = [], []
    with torch.no_grad():
        for layer in range(a.n_layers):
            kwargs = contrast.calls.of_rows(layer, contrast.clean)
            clean, corrupt = (
                {part: _per_head(model, r.kept[part][layer]) for part in "qkv"}
                for r in (at.clean, at.corrupt)
            )
            z, slope = at.clean.kept["z"][layer], slopes[layer]
            moved = attend(model, layer, kwargs, corrupt["q"], clean["k"], clean["v"])
            effect = ((z - moved) * slope).unflatten(-1, (a.n_heads, a.d_head))
            queries.append(effect.sum(-1) * contrast.mask[..., None])
            by_token = []
            for pos in range(z.shape[1]):
                k = clean["k"].clone()
                k[:, pos] = corrupt["k"][:, pos]
                moved = attend(model, layer, kwargs, clean["q"], k, clean["v"])
                by_token.append(_by_head(model, contrast, (z - moved) * slope))
            keys.append(torch.stack(by_token, 1) * contrast.mask[..., None].cpu())
    return torch.stack(queries, 1).cpu(), torch.stack(keys, 1)


def _per_head(model: Model, x: Float[Tensor, "row pos width"]) -> Tensor:
    """Queries, keys or values for each query head: groups repeat theirs."""
    by_head = x.unflatten(-1, (-1, model.arch.d_head))
    return by_head.repeat_interleave(model.arch.n_heads // by_head.shape[2], 2)


def _by_head(model: Model, contrast: Contrast, effect: Tensor) -> Float[Tensor, "pair head"]:
    by_head = effect.unflatten(-1, (model.arch.n_heads, model.arch.d_head)).sum(-1)
    return (by_head * contrast.mask[..., None]).sum(1).cpu()
