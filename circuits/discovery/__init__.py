"""Circuits as objects: discovered from scores or by search, evaluated, compared, drawn.

scores = interp.attribute_edges(model, splits["discovery"])
circuit = top_edges(scores, 2000)
curve = faithfulness(Evaluator.of(model, splits["test"]), scores)
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.discovery.circuit import Circuit as Circuit
    from circuits.discovery.circuit import Overlap as Overlap
    from circuits.discovery.circuit import all_edges as all_edges
    from circuits.discovery.circuit import of_edges as of_edges
    from circuits.discovery.circuit import overlap as overlap
    from circuits.discovery.circuit import prune as prune
    from circuits.discovery.discovery_settings import DiscoverySettings as DiscoverySettings
    from circuits.discovery.evaluator import ABLATIONS as ABLATIONS
    from circuits.discovery.evaluator import Evaluator as Evaluator
    from circuits.discovery.faithfulness import GRID as GRID
    from circuits.discovery.faithfulness import evaluate as evaluate
    from circuits.discovery.faithfulness import faithfulness as faithfulness
    from circuits.discovery.ranking import edge_matrix as edge_matrix
    from circuits.discovery.ranking import greedy_edges as greedy_edges
    from circuits.discovery.ranking import threshold_edges as threshold_edges
    from circuits.discovery.ranking import top_edges as top_edges
    from circuits.discovery.ranking import top_neurons as top_neurons
    from circuits.discovery.ranking import top_nodes as top_nodes
    from circuits.discovery.resampling import resampled as resampled
    from circuits.discovery.result import Evaluation as Evaluation
    from circuits.discovery.result import Faithfulness as Faithfulness
    from circuits.discovery.search import acdc as acdc
    from circuits.discovery.search import discover as discover
    from circuits.discovery.search import edge_pruning as edge_pruning
    from circuits.discovery.stability import stability as stability
    from circuits.discovery.stability_result import Stability as Stability
    from circuits.discovery.stability_settings import StabilitySettings as StabilitySettings

lazy(__name__)
