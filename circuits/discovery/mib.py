"""Circuits as JSON in the form of MIB's submissions (arXiv 2504.13151), both ways."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from circuits.discovery.circuit import Circuit, CircuitError
from interp import folder
from interp.errors import DataFileError, SiteError
from interp.graph import Graph


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


def from_json(record: dict[str, Any], where: str = "the record") -> Circuit:
    """Read MIB's record.

    Raises:
        CircuitError: a field is missing, or an edge is not one of the graph's.
    """
    try:
        config = record["cfg"]
        graph = Graph(
            config["n_layers"],
            config["n_heads"],
            config["d_model"],
            bool(config["parallel_attn_mlp"]),
        )
        edges = torch.zeros_like(graph.exists)
        scores = torch.full(graph.exists.shape, torch.nan, dtype=torch.float64)
        for name, entry in record["edges"].items():
            at = graph.edge(name)
            edges[at] = bool(entry["in_graph"])
            score = entry.get("score")
            scores[at] = math.nan if score is None else float(score)
        neurons = {
            name: tuple(entry["kept_neurons"])
            for name, entry in record["nodes"].items()
            if "kept_neurons" in entry
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CircuitError(
            f"{where} is no circuit in MIB's form ({type(error).__name__}: {error})."
        ) from error
    except SiteError as error:
        raise CircuitError(f"{where}: {error}") from error
    unknown = [name for name in neurons if name not in graph.sources or name[0] != "m"]
    if unknown:
        raise CircuitError(
            f"{where} keeps neurons of {unknown[0]!r}, which is no MLP of its graph."
        )
    own = record.get("interp") or {}
    return Circuit(
        graph=graph,
        edges=edges,
        scores=scores if bool(scores.isfinite().any()) else None,
        neurons=neurons,
        method=own.get("method", ""),
        model=own.get("model", ""),
        weights_hash=own.get("weights_hash", ""),
        prompts=tuple(own.get("prompts", ())),
        provenance=own.get("provenance") or {},
    )


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit as MIB JSON, with where it comes from; whole or not at all."""
    path = Path(path)
    circuit = replace(circuit, provenance=folder.provenance() | dict(circuit.provenance))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(json.dumps(to_json(circuit)), encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit from MIB JSON.

    Raises:
        DataFileError: the file is missing or not JSON.
        CircuitError: it is JSON, but no circuit.
    """
    path = Path(path)
    if not path.is_file():
        raise DataFileError(f"no such file: {path}; give a circuit in MIB's JSON form.")
    try:
        record = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} is not JSON ({type(error).__name__}: {error}).") from error
    if not isinstance(record, dict):
        raise CircuitError(f"{path} holds a {type(record).__name__}, not a circuit.")
    return from_json(record, str(path))
