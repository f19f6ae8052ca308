"""Circuits as JSON in the form of MIB's submissions (arXiv 2504.13151), both ways."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from circuits.discovery.circuit import Circuit
from interp.data.records import Count, Finite, Index, Row, checked, read_json
from interp.errors import DataError, PlanError, shown
from interp.model.graph import Graph
from interp.results import folder
from interp.results.files import write_text

NAME = "circuit.json"
"""Of a circuit's file in a folder."""


def to_json(circuit: Circuit) -> dict[str, Any]:
    """The circuit as MIB's record: config, nodes, and every edge with its score.

    What MIB has no field for (method, model, prompts seen) is kept under ``"interp"``.
    """
    graph, inside = circuit.graph, set(circuit.nodes)
    scores = circuit.scores
    nodes: dict[str, Any] = {name: {"in_graph": name in inside} for name in graph.sources}
    for name, kept in circuit.neurons.items():
        nodes[name]["kept_neurons"] = list(kept)
    nodes["logits"] = {"in_graph": True}
    edges: dict[str, Any] = {}
    for source, destination in graph.exists.nonzero().tolist():
        entry: dict[str, Any] = {"in_graph": bool(circuit.edges[source, destination])}
        if scores is not None and math.isfinite(float(scores[source, destination])):
            entry["score"] = float(scores[source, destination])
        edges[graph.edge_name(source, destination)] = entry
    config = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": graph.d_model,
    }
    own = {name: getattr(circuit, name) for name in ("method", "model", "weights_hash")}
    return {
        "cfg": config,
        "nodes": nodes,
        "edges": edges,
        "interp": {
            **own,
            "prompts": list(circuit.prompts),
            "provenance": dict(circuit.provenance),
        },
    }


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


class _Own(Row):
    method: str = ""
    model: str = ""
    weights_hash: str = ""
    prompts: list[str] = []
    provenance: dict[str, Any] = {}


class _Record(Row):
    cfg: _Config
    nodes: dict[str, _Node]
    edges: dict[str, _Edge]
    interp: _Own | None = None


def from_json(record: dict[str, Any], where: str = "the record") -> Circuit:
    """Read MIB's record.

    Raises:
        DataError: a field is missing or of another kind, or the nodes are not the graph's.
        PlanError: an edge, or an MLP with neurons, is none of the graph's.
    """
    given = checked(_Record, record, where)
    graph = _graph(given, where)
    edges = torch.zeros_like(graph.exists)
    scores = torch.full(graph.exists.shape, torch.nan, dtype=torch.float64)
    try:
        for name, entry in given.edges.items():
            at = graph.edge(name)
            edges[at] = entry.in_graph
            scores[at] = math.nan if entry.score is None else entry.score
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from error
    kept = {name: node.kept_neurons for name, node in given.nodes.items()}
    neurons = {name: tuple(some) for name, some in kept.items() if some is not None}
    odd = next((n for n, some in neurons.items() if n[0] != "m" or len({*some}) < len(some)), None)
    if odd is not None:
        raise PlanError(
            f"{where} keeps neurons of {shown(odd)}, which is no MLP of its graph or has one twice."
        )
    own = given.interp or _Own()
    return Circuit(
        graph=graph,
        edges=edges,
        scores=scores if bool(scores.isfinite().any()) else None,
        neurons=neurons,
        method=own.method,
        model=own.model,
        weights_hash=own.weights_hash,
        prompts=tuple(own.prompts),
        provenance=own.provenance,
    )


def _graph(given: _Record, where: str) -> Graph:
    """The graph of the config, before anything of its size is made checked against the nodes."""
    cfg, nodes = given.cfg, given.nodes.keys() - {"logits"}
    graph = Graph(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.parallel_attn_mlp)
    if graph.n_sources != len(nodes) or nodes != set(graph.sources):
        raise DataError(
            f"{where}: its {len(nodes)} nodes are not those of {cfg.n_layers} layers of "
            f"{cfg.n_heads} heads and an MLP."
        )
    return graph


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit as MIB JSON, with where it comes from; whole or not at all."""
    circuit = replace(circuit, provenance=folder.provenance() | dict(circuit.provenance))
    return write_text(Path(path), json.dumps(to_json(circuit)))


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit from MIB JSON.

    Args:
        path: the file, or a folder of `interp circuit discover`.

    Raises:
        RunFolderError: the folder is damaged.
        DataError: the file is missing, not JSON, or not of MIB's form.
        PlanError: an edge or an MLP is none of its graph's.
    """
    path = Path(path)
    if path.is_dir():
        folder.check_files(path, folder.read_manifest(path))
        path = path / NAME
    return from_json(read_json(path, "a circuit (MIB's JSON)"), str(path))
