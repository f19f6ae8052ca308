"""Attribution: what the metric owes to nodes, neurons and edges. Positive = supports the answer."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.attribution.attribute import (
        EDGE_METHODS,
        NODE_METHODS,
        UNIT_METHODS,
        attribute,
        attribute_edges,
        attribute_nodes,
    )
    from interp.attribution.estimators import ESTIMATORS
    from interp.attribution.exact import path_patch
    from interp.attribution.logit_attribution import (
        direct_logit_attribution,
        log_prob_increase,
        top_tokens,
    )
    from interp.attribution.logit_lens import LogitLens, logit_lens
    from interp.attribution.scores import EdgeScores, NodeScores, Scores, UnitScores

__all__ = [
    "LogitLens",
    "EDGE_METHODS",
    "ESTIMATORS",
    "NODE_METHODS",
    "UNIT_METHODS",
    "EdgeScores",
    "NodeScores",
    "Scores",
    "UnitScores",
    "attribute",
    "attribute_edges",
    "attribute_nodes",
    "direct_logit_attribution",
    "log_prob_increase",
    "logit_lens",
    "path_patch",
    "top_tokens",
]

lazy(__name__)
