"""Graphs of many prompts of one task: which edges recur, by span; and the circuit they make."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from circuits.discovery.circuit import Circuit, prune
from circuits.explanation.graph import AttributionGraph
from interp.errors import DataError, PlanError
from interp.model.graph import Graph
from interp.model.model import Model


def recurring_edges(graphs: Sequence[AttributionGraph]) -> pd.DataFrame:
    """The edges of several graphs of one model, aligned by what their positions are.

    A position is called by its span where the prompt has one there, and else counted from the end
    of the prompt (``-1``: its last token); edges at positions of one name are added up.

    Returns:
        ``source``, ``target`` (such as ``a5.h3@subject``), ``branch``, ``share`` (of the graphs
        that have the edge) and ``weight`` (mean over all graphs, 0 where a graph lacks it; in the
        metric's unit), those of most graphs first.

    Raises:
        DataError: no graph.
        PlanError: graphs of different weights, or metrics.
    """
    _refuse_mixed(graphs)
    return _shares(graphs, _by_role)


def _shares(
    graphs: Sequence[AttributionGraph], named: Callable[[AttributionGraph, str], str]
) -> pd.DataFrame:
    """Edges between nodes under other names; those with an end that has none are left out."""
    parts: list[Any] = []
    for number, graph in enumerate(graphs):
        names = {one: named(graph, one) for one in graph.nodes["id"]}
        ends = {end: [names[one] for one in graph.edges[end]] for end in ("source", "target")}
        parts.append(graph.edges.assign(graph=number, **ends))
    edges, key = pd.concat(parts), ["source", "target", "branch"]
    edges = edges[(edges["source"] != "") & (edges["target"] != "")]
    per: Any = edges.groupby([*key, "graph"], as_index=False)["weight"].sum()
    by_edge: Any = per.groupby(key, as_index=False)
    found = by_edge.agg(share=("graph", "size"), weight=("weight", "sum"))
    found[["share", "weight"]] /= len(graphs)
    order = np.lexsort((-found["weight"].abs().to_numpy(), -found["share"].to_numpy()))
    return found.iloc[order].reset_index(drop=True)


def _by_role(graph: AttributionGraph, name: str) -> str:
    node, at, pos = name.partition("@")
    if not at:
        return name
    roles = graph.prompt.roles if "prompt" in graph.settings else ()
    own = roles[int(pos)] if int(pos) < len(roles) else ""
    return f"{node}@{own or int(pos) - graph.n_prompt}"


def task_circuit(
    model: Model, graphs: Sequence[AttributionGraph], at_least: float = 0.5
) -> Circuit:
    """The circuit of what recurs: edges between heads and MLPs, and neurons, whatever the position.

    Args:
        model: the model of the graphs.
        graphs: of several prompts of one task.
        at_least: share (0 to 1) of the graphs in which an edge, or a neuron, must be shown.

    Returns:
        a circuit whose scores are mean weights. It knows the graphs' prompts, on which evaluation
        refuses it.

    Raises:
        DataError: no graph.
        PlanError: graphs of other weights; a share outside 0 to 1; or nothing recurs.
    """
    _refuse_mixed(graphs)
    for graph in graphs:
        graph.check_model(model)
    if not 0 < at_least <= 1:
        raise PlanError(f"at_least={at_least} is not a share of graphs; give more than 0, up to 1.")
    shape, seen = Graph.of(model.arch), Counter[tuple[int, int]]()
    for graph in graphs:
        neurons = graph.nodes[graph.nodes["kind"] == "neuron"]
        seen.update({*zip(neurons["layer"], neurons["unit"], strict=True)})
    found = _shares(graphs, lambda _, name: _component(name))
    edges = torch.zeros_like(shape.exists)
    scores = torch.full(shape.exists.shape, torch.nan, dtype=torch.float64)
    scores[shape.exists] = 0.0
    for source, target, branch, share, weight in found.itertuples(index=False):
        at = shape.edge(f"{source}->{target}{f'<{branch}>' if branch else ''}")
        edges[at], scores[at] = share >= at_least, weight
    kept: dict[str, tuple[int, ...]] = {}
    for (layer, unit), n in sorted(seen.items()):
        if n >= at_least * len(graphs):
            kept[f"m{layer}"] = (*kept.get(f"m{layer}", ()), int(unit))
    if seen:  # an MLP without a recurring neuron is no part of the task
        gone = [i for i in range(shape.n_layers) if f"m{i}" not in kept]
        edges[[shape.mlp(i) for i in gone]] = False
        edges[:, [shape.mlp_in(i) for i in gone]] = False
    edges = prune(shape, edges)
    if not edges.any():
        raise PlanError(
            f"no path from the input to the logits recurs in {at_least:.0%} of {len(graphs)} "
            "graphs; choose a smaller share, or graphs with more nodes."
        )
    texts = [text for graph in graphs for text in graph.prompt.texts]
    method = f"edges in {at_least:.0%} of {len(graphs)} attribution graphs"
    prompts = tuple(dict.fromkeys(texts))
    return Circuit(shape, edges, scores, kept, method, model.name, model.weights_hash, prompts)


def _component(name: str) -> str:
    """A node of a model's `Graph`: heads and MLPs without positions and neurons; else ``""``."""
    node = name.partition("@")[0]
    if node == "embedding":
        return "input"
    if node == "bias" or node.endswith(".rest"):
        return ""
    return node.partition(".")[0] if node[0] in "ml" else node


def _refuse_mixed(graphs: Sequence[AttributionGraph]) -> None:
    if not graphs:
        raise DataError("there are no graphs to merge; give at least one.")
    if len({graph.weights_hash for graph in graphs}) > 1:
        raise PlanError("the graphs are of different weights; merge those of one model.")
    if len({(graph.metric, graph.unit) for graph in graphs}) > 1:
        raise PlanError("the graphs explain different metrics, whose weights cannot be added.")
