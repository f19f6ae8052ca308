"""Edges cut one by one: a reader reads one source's write from the other end, all else follows.

    effect(u -> r) = m(prompt) - m(prompt, but r is as it is when it reads u from the other end)

The reader alone is recomputed with the changed stream; what it then is goes into the prompt's run.
Source: path patching, Goldowsky-Dill et al., arXiv 2304.05969.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.explanation.assembly import Node
from circuits.explanation.attribution import LinearRun
from circuits.explanation.graph import AttributionGraph, by_size
from circuits.explanation.node_runs import NodeRuns, RowEdit
from interp.forward.blocks import attend, mlp_write, norm, project
from interp.forward.hooks import hooked
from interp.model.sites import SITES

Cut = tuple[Node, Node, str]
"""(source, reader, branch)."""


def strongest_edges(graph: AttributionGraph, n: int) -> pd.DataFrame:
    """The edges of the largest weights by size, without those of rests and biases.

    Nor those into one of several logits nodes, which no run tells apart.
    """
    kinds = dict(zip(graph.nodes["id"], graph.nodes["kind"], strict=True))
    shown = [
        kinds[source] not in ("rest", "bias") and not target.startswith("logits.")
        for source, target in zip(graph.edges["source"], graph.edges["target"], strict=True)
    ]
    return by_size(graph.edges[shown], "weight").head(n)


def edge_effects(runs: NodeRuns, cuts: Sequence[Cut], full: float) -> list[float]:
    """What the metric loses by each cut; `full` is the metric of the prompt."""
    effects: dict[int, float] = {}
    rows: list[RowEdit] = []
    numbers: list[int] = []
    for i, (source, reader, branch) in enumerate(cuts):
        write = source_write(runs.of, source)
        if reader[0] == "logits":
            effects[i] = full - _without(runs.of, write, source[3])
            continue
        rows.append(RowEdit([reader], value=recomputed(runs.of, reader, branch, source[3], write)))
        numbers.append(i)
    found = runs.values(rows) if rows else []
    effects |= {i: full - float(value) for i, value in zip(numbers, found, strict=True)}
    return [effects[i] for i in range(len(cuts))]


def source_write(run: LinearRun, node: Node) -> Float[Tensor, " d_model"]:
    """What a node adds to the stream at its position, less what it does at the other end."""
    kind, layer, unit, pos = node
    if kind == "embedding":
        return run.change("resid_pre", 0)[pos]
    if kind == "head":
        return run.head_writes(layer)[unit, pos]
    return run.neuron_writes(layer, [(unit, pos)])[0] if unit >= 0 else run.mlp_write(layer)[pos]


def _without(run: LinearRun, write: Tensor, pos: int) -> float:
    final = run.at.clean.final.clone()
    final[0, run.prompt.columns[pos]] -= write.to(final)
    with torch.no_grad():
        return float(run.prompt.contrast.read(final, torch.zeros(1, dtype=torch.long))[0])


@torch.no_grad()
def recomputed(
    run: LinearRun, reader: Node, branch: str, pos: int, write: Float[Tensor, " d_model"]
) -> Float[Tensor, " unit"]:
    """A reader's activation where it reads the stream at a position without a write."""
    kind, layer, unit, own = reader
    model, columns, parts = run.model, run.prompt.columns, run.model.parts(reader[1])
    if kind != "head":
        site = "resid_pre" if parts.parallel else "resid_mid"
        moved = run.at.clean.kept[site][layer][:, columns[pos]]
        moved = moved - write.to(moved)
        kept: list[Tensor] = []
        keep = [(SITES["mlp_post"], layer, kept.append)] if kind == "neuron" else []
        with hooked(model, keep):
            out = mlp_write(model, layer, moved[:, None])
        return kept[0].flatten()[unit : unit + 1] if kept else out[0, 0]
    moved = run.at.clean.kept["resid_pre"][layer].clone()
    moved[0, columns[pos]] -= write.to(moved)
    a, clean = model.arch.layers[layer], run.at.clean.per_head(model, layer)
    wide = norm(model, layer, parts.ln1)(moved)[:, None].expand(-1, a.n_heads, -1, -1)
    changed = clean[branch].clone()
    changed[:, :, unit] = project(model, branch, layer, wide)[:, :, unit]
    kwargs = run.prompt.contrast.calls.of_rows(layer, run.prompt.contrast.clean)
    z = attend(model, layer, kwargs, **(clean | {branch: changed}))
    return z[0, columns[own]].unflatten(-1, (a.n_heads, -1))[unit]
