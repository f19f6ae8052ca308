"""Circuits as objects: discovered from scores or by search, evaluated, compared, drawn.

scores = interp.attribute_edges(model, splits["discovery"])
circuit = top_edges(scores, 2000)
curve = faithfulness(Evaluator.of(model, splits["test"]), scores)
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.discovery.circuit import Circuit, Overlap, all_edges, of_edges, overlap, prune
    from circuits.discovery.discovery_settings import DiscoverySettings
    from circuits.discovery.evaluator import ABLATIONS, Evaluator
    from circuits.discovery.faithfulness import (
        GRID,
        Criteria,
        criteria,
        evaluate,
        faithfulness,
        random_scores,
    )
    from circuits.discovery.ranking import (
        edge_matrix,
        greedy_edges,
        threshold_edges,
        top_edges,
        top_neurons,
        top_nodes,
    )
    from circuits.discovery.resampling import resampled
    from circuits.discovery.result import Evaluation, Faithfulness
    from circuits.discovery.search import acdc, discover, edge_pruning
    from circuits.discovery.stability import stability
    from circuits.discovery.stability_result import Stability
    from circuits.discovery.stability_settings import StabilitySettings

__all__ = [
    "ABLATIONS",
    "GRID",
    "Circuit",
    "Criteria",
    "DiscoverySettings",
    "Evaluation",
    "Evaluator",
    "Faithfulness",
    "Overlap",
    "Stability",
    "StabilitySettings",
    "acdc",
    "all_edges",
    "criteria",
    "discover",
    "edge_matrix",
    "edge_pruning",
    "evaluate",
    "faithfulness",
    "greedy_edges",
    "of_edges",
    "overlap",
    "prune",
    "random_scores",
    "resampled",
    "stability",
    "threshold_edges",
    "top_edges",
    "top_neurons",
    "top_nodes",
]

lazy(__name__)
