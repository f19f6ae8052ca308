"""Circuits as JSON in the form of MIB's submissions (arXiv 2504.13151), both ways."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Required

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import TypedDict

from interp.data.records import Count, Finite, Index, Row, checked
from interp.errors import DataError, PlanError, shown
from interp.model.graph import Graph


class _Config(Row):
    n_layers: Count
    n_heads: Count
    d_model: Count
    parallel_attn_mlp: bool


class _Node(Row):
    kept_neurons: list[Index] | None = None


class _Edge(Row):
    in_graph: bool
    score: Finite | None = None


class _Interval(TypedDict):
    value: Finite
    low: Finite
    high: Finite


class _Choice(TypedDict, total=False):
    criterion: Required[str]
    components: Required[Count]
    of_components: Required[Count]
    n_pairs: Required[Count]
    f: Required[_Interval]
    source: str
    tried: list[dict[str, Finite]]


class _Own(Row):
    """What MIB has no field for."""

    method: str = ""
    model: str = ""
    weights_hash: str = ""
    prompts: tuple[str, ...] = ()
    choice: _Choice | None = None
    provenance: dict[str, Any] = {}


class _Record(Row):
    cfg: _Config
    nodes: dict[str, _Node]
    edges: dict[str, _Edge]
    interp: _Own | None = None


def record(
    graph: Graph,
    edges: Bool[Tensor, "source destination"],
    scores: Float[Tensor, "source destination"] | None,
    neurons: Mapping[str, Sequence[int]],
    inside: Sequence[str],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """A circuit as MIB's record; `inside` are its nodes, and `own` goes under ``"interp"``."""
    nodes: dict[str, Any] = {name: {"in_graph": name in {*inside}} for name in graph.sources}
    for name, kept in neurons.items():
        nodes[name]["kept_neurons"] = list(kept)
    nodes["logits"] = {"in_graph": True}
    entries: dict[str, Any] = {}
    for source, destination in graph.exists.nonzero().tolist():
        entry: dict[str, Any] = {"in_graph": bool(edges[source, destination])}
        if scores is not None and math.isfinite(float(scores[source, destination])):
            entry["score"] = float(scores[source, destination])
        entries[graph.edge_name(source, destination)] = entry
    config = {"n_layers": graph.n_layers, "n_heads": graph.n_heads}
    config |= {"parallel_attn_mlp": graph.parallel, "d_model": graph.d_model}
    return {"cfg": config, "nodes": nodes, "edges": entries, "interp": dict(own)}


def parts(given: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of a circuit from MIB's record; `where` is its file, for messages."""
    read = checked(_Record, given, where)
    graph = _graph(read, where)
    edges = torch.zeros_like(graph.exists)
    scores = torch.full(graph.exists.shape, torch.nan, dtype=torch.float64)
    try:
        for name, entry in read.edges.items():
            at = graph.edge(name)
            edges[at] = entry.in_graph
            scores[at] = math.nan if entry.score is None else entry.score
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from error
    kept = {name: node.kept_neurons for name, node in read.nodes.items()}
    neurons = {name: tuple(some) for name, some in kept.items() if some is not None}
    odd = next((n for n, some in neurons.items() if n[0] != "m" or len({*some}) < len(some)), None)
    if odd is not None:
        raise PlanError(
            f"{where} keeps neurons of {shown(odd)}, which is not an MLP of its graph or has one "
            "twice."
        )
    return {
        "graph": graph,
        "edges": edges,
        "scores": scores if bool(scores.isfinite().any()) else None,
        "neurons": neurons,
        **dict(read.interp or _Own()),
    }


def _graph(given: _Record, where: str) -> Graph:
    """The graph of the config, checked against the nodes before anything of its size is made."""
    cfg, nodes = given.cfg, given.nodes.keys() - {"logits"}
    graph = Graph(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.parallel_attn_mlp)
    if graph.n_sources != len(nodes) or nodes != set(graph.sources):
        raise DataError(
            f"{where}: its {len(nodes)} nodes are not those of {cfg.n_layers} layers of "
            f"{cfg.n_heads} heads and an MLP."
        )
    return graph
