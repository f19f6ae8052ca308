"""Circuits as objects: discovered from scores or by search, evaluated, compared, drawn.

scores = interp.attribute_edges(model, splits["discovery"])
circuit = top_edges(scores, 2000)
curve = faithfulness(bench(model, splits["test"]), scores)
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.discovery.circuit import (
        Circuit,
        edge_matrix,
        greedy_edges,
        of_edges,
        prune,
        threshold_edges,
        top_edges,
        top_neurons,
        top_nodes,
        whole,
    )
    from circuits.discovery.compare import Overlap, overlap, score_stability
    from circuits.discovery.criteria import Criteria, criteria
    from circuits.discovery.faithfulness import GRID, Faithfulness, faithfulness, random_scores
    from circuits.discovery.mib import from_json, load_circuit, save_circuit, to_json
    from circuits.discovery.running import ABLATIONS, Bench, bench
    from circuits.discovery.search import Pruning, acdc, edge_pruning
    from interp.errors import PlanError

__all__ = [
    "ABLATIONS",
    "GRID",
    "Bench",
    "Circuit",
    "PlanError",
    "Criteria",
    "Faithfulness",
    "Overlap",
    "Pruning",
    "acdc",
    "bench",
    "criteria",
    "edge_matrix",
    "edge_pruning",
    "faithfulness",
    "from_json",
    "greedy_edges",
    "load_circuit",
    "of_edges",
    "overlap",
    "prune",
    "random_scores",
    "save_circuit",
    "score_stability",
    "threshold_edges",
    "to_json",
    "top_edges",
    "top_neurons",
    "top_nodes",
    "whole",
]

lazy(__name__)
