"""Path patching: the corrupt prompt's information travels along one path and nowhere else.

    effect(u -> v -> ... -> w) = m(clean) - m(clean, but w reads v as it is when v reads u corrupt)

A path of one edge is that edge, patched exactly. Positive = supports the answer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, contrasts
from interp.attribution.exact import Effects
from interp.data.pairs import PromptPairs, load_pairs, tokenise
from interp.errors import PlanError
from interp.forward.blocks import attend, mlp_write
from interp.model.graph import Graph
from interp.model.model import Model


def path_patch(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    paths: Sequence[str],
    metric: str = "logit_diff",
) -> xr.DataArray:
    """Exact effects of paths, pair by pair.

    Args:
        model: from `interp.load_model`.
        pairs: `PromptPairs`, or anything `load_pairs` takes.
        paths: each as ``"a3.h1->a9.h2<q>->m11->logits"``: a node that writes, then what reads it
            in turn. What lies after the last one is recomputed.
        metric: ``"logit_diff"``, ``"logprob"`` or ``"prob"``.

    Returns:
        Dims (pair, path).

    Raises:
        PlanError: a path does not parse, or a step goes backwards; the message names it.
        DataError: no pair is usable.

    Source: Wang et al., arXiv 2211.00593, section 3.1; Goldowsky-Dill et al., arXiv 2304.05969.
    """
    graph = Graph.of(model.arch)
    if not paths:
        raise PlanError("no path was given; write some, such as 'a3.h1->a9.h2<q>->logits'.")
    steps = [parse_path(graph, path) for path in paths]
    kept, _ = tokenise(model, load_pairs(pairs))
    parts = [path_effects(model, c, steps).numpy() for c in contrasts(model, kept, metric)]
    coords = {"pair": [pair.pair.id for pair in kept], "path": list(paths)}
    return xr.DataArray(np.concatenate(parts), dims=("pair", "path"), coords=coords)


def parse_path(graph: Graph, path: str) -> tuple[int, ...]:
    """A path's first source and then its destinations, as indices of the graph.

    Raises:
        PlanError: it does not parse, or a step is not an edge of the graph.
    """
    first, *rest = path.split("->")
    if not rest:
        raise PlanError(f"path {path!r} has no step: write 'a3.h1->a9.h2<q>->logits'.")
    source = graph.node(first)
    found = [source]
    for name in rest:
        if source == graph.n_sources:
            raise PlanError(f"path {path!r} goes on after the logits, where everything ends.")
        destination = graph.edge(f"{graph.sources[source]}->{name}")[1]
        found.append(destination)
        source = int(graph.owner[destination])
    return tuple(found)


def path_effects(
    model: Model, contrast: Contrast, paths: Sequence[Sequence[int]]
) -> Float[Tensor, "pair path"]:
    """Exact effects of parsed paths on one contrast."""
    work, out = Effects(model, contrast), []
    with torch.no_grad():
        for first, *destinations in paths:
            change = work.change(first)
            for destination in destinations[:-1]:
                change = _passed_on(work, destination, change)
            out.append(work.with_change(destinations[-1], change))
    return work.full[:, None] - torch.stack(out, 1)


def _passed_on(work: Effects, destination: int, change: Tensor) -> Float[Tensor, "pair pos d"]:
    """How a node's write changes when the residual stream that one input of it reads does."""
    model, contrast, graph, kept = work.model, work.contrast, work.graph, work.clean.kept
    layer, place = divmod(destination, 3 * graph.n_heads + 1)
    if place == 3 * graph.n_heads:
        site = "resid_pre" if graph.parallel else "resid_mid"
        return mlp_write(model, layer, kept[site][layer] + change) - kept["mlp_out"][layer]
    part, head = divmod(place, graph.n_heads)
    branches = work.clean.per_head(model, layer)
    values, _, _ = work.branch(layer, "qkv"[part], head, change[None])
    changed = branches["qkv"[part]] = branches["qkv"[part]].clone()
    changed[:, :, head] = values[0]
    kwargs = contrast.calls.of_rows(layer, contrast.clean)
    z = attend(model, layer, kwargs, branches["q"], branches["k"], branches["v"])
    own = slice(head * model.arch.d_head, (head + 1) * model.arch.d_head)
    moved = torch.zeros_like(z)
    moved[..., own] = (z - kept["z"][layer])[..., own]
    return work.head_change(layer, head, moved)
