"""Why a head looked where it did: query-key attributions of one attention weight."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from circuits.explanation.assembly import Sources, named, run_again, shown_nodes
from circuits.explanation.attribution import LinearRun
from circuits.explanation.graph import AttributionGraph, by_size
from interp.attribution.backward_rules import Gradient
from interp.attribution.contrast import RunValues, gradients
from interp.errors import PlanError
from interp.forward.blocks import attend, weight_of
from interp.model.model import Model


def query_key_edges(model: Model, graph: AttributionGraph, head: str, source: int) -> pd.DataFrame:
    """Which nodes made a head, at its position, attend to another.

    Attributes the attention weight (0 to 1) of one head from its position to `source`. Against a
    corrupt prompt it is that of chords, and all rows add up to the difference of the weight between
    the two prompts; of a prompt alone it is the weight's derivative times what each node writes,
    with the norm's scale constant, and adds up to nothing in particular.

    Args:
        model: the model of the graph.
        graph: a graph of `explain`.
        head: id of one of its heads, such as ``a5.h3@7``.
        source: position that it attends to.

    Returns:
        ``source`` (node id; nodes not shown are in their rests), ``branch`` (``q``: written where
        the head is, ``k``: where a key is read), ``weight`` (attention weight), the largest first.

    Raises:
        PlanError: the graph has no such head, the prompt no such position, or the model other
            weights.
        DataError: the graph does not say of which prompt it is.
    """
    row: Any = graph.node(head)
    if row["kind"] != "head" or not 0 <= source < len(graph.tokens):
        raise PlanError(
            f"{head!r} and position {source} are not a head of the graph and one of its "
            f"{len(graph.tokens)} positions."
        )
    run = run_again(model, graph)
    layer, unit, pos = (int(row[name]) for name in ("layer", "unit", "pos"))
    reads = _reads(run, layer, unit, pos, source)
    sources = Sources.of(run, shown_nodes(graph))
    flow = sources.into(2 * layer, reads[None])[0][0]
    parts = [
        (named(node), branch, float(value))
        for branch, values in zip("qk", flow, strict=True)
        for node, value in zip(sources.nodes, values, strict=True)
        if value
    ]
    table = pd.DataFrame(parts, columns=["source", "branch", "weight"])
    return by_size(table, "weight").reset_index(drop=True)


def _reads(run: LinearRun, layer: int, unit: int, pos: int, source: int) -> Tensor:
    """Multipliers of an attention weight at the stream: (query or key, pos, d_model)."""
    model, contrast, columns = run.model, run.prompt.contrast, run.prompt.columns
    a = model.arch.layers[layer]
    rule = type(run.at.rule)() if run.prompt.paired else Gradient()
    end = contrast.corrupt if contrast.token_by_token else contrast.clean

    def weight(values: RunValues, prompt: Tensor, leaves: list[Tensor]) -> Tensor:
        """Of a value that is 1 at the source alone, what the head writes is the weight."""
        own = values.per_head(model, layer)
        one = torch.zeros_like(own["v"])
        one[0, columns[source], :, 0] = 1
        q, k = (own[part].detach().requires_grad_(torch.is_grad_enabled()) for part in "qk")
        leaves.extend((q, k))
        z = attend(model, layer, contrast.calls.of_rows(layer, prompt), q, k, one)
        return z[0, columns[pos]].unflatten(-1, (a.n_heads, a.d_head))[unit, 0]

    leaves: list[Tensor] = []
    with torch.enable_grad(), rule.clean(model):
        found = weight(run.at.clean, contrast.clean, leaves)
    with torch.no_grad(), rule.corrupt(model):
        weight(run.at.end, end, [])
    branches: list[Tensor] = []
    for part, g in zip("qk", gradients(found, leaves), strict=True):
        matrix = weight_of(model, part, layer).unflatten(0, (-1, a.d_head))
        shared = a.n_heads // len(matrix)
        own = g[0, columns.to(g.device)]
        branches.append(torch.einsum("phk,hkd->pd", own, matrix.repeat_interleave(shared, 0)))
    to_output = torch.stack(branches, 1)
    return run.before_norm("resid_pre", layer, model.parts(layer).ln1, to_output).transpose(0, 1)
