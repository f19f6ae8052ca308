"""A small attribution graph made by hand, whose arithmetic closes."""

from dataclasses import replace

import numpy as np
import pandas as pd

from circuits.explain.graph import EDGE_COLUMNS, NODE_COLUMNS, AttributionGraph

NODES = [
    ("embedding@0", "embedding", -1, 0, -1, -1, 1.0, 0.5, 0.0, 0.0, "", ""),
    ("embedding@1", "embedding", -1, 1, -1, -1, 1.2, 0.7, 3.0, 0.0, "", ""),
    ("embedding@2", "embedding", -1, 2, -1, -1, 1.1, 1.1, 0.0, 0.0, "", ""),
    ("a0.h1@2", "head", 0, 2, 1, -1, 2.0, -1.0, 2.5, 0.0, "", ""),
    ("a0.rest@2", "rest", 0, 2, 0, -1, 0.3, 0.1, 0.5, 0.5, "", ""),
    ("m0.n5@2", "neuron", 0, 2, 5, -1, 0.9, 0.0, 1.5, 0.0, "", ""),
    ("m1.e2.n7@2", "neuron", 1, 2, 7, 2, 0.4, 0.1, -0.5, -0.2, "", ""),
    ("logits", "logits", 2, 2, -1, -1, 3.0, 0.0, 3.0, 0.25, "", ""),
]
EDGES = [
    ("embedding@1", "a0.h1@2", "v", 2.0),
    ("embedding@1", "a0.h1@2", "k", 0.5),
    ("a0.h1@2", "m0.n5@2", "", 1.2),
    ("a0.rest@2", "m0.n5@2", "", 0.3),
    ("m0.n5@2", "m1.e2.n7@2", "", -0.3),
    ("a0.h1@2", "logits", "", 1.3),
    ("a0.rest@2", "logits", "", 0.2),
    ("m0.n5@2", "logits", "", 1.8),
    ("m1.e2.n7@2", "logits", "", -0.55),
]


def hand_made(model: str = "tiny") -> AttributionGraph:
    return AttributionGraph(
        model=model,
        weights_hash="0" * 32,
        tokens=("The", " capital", " is"),
        corrupt_tokens=("The", " river", " is"),
        n_prompt=3,
        target="' Paris' - ' Rome'",
        metric="logit_diff",
        unit="logits",
        method="eap-dg",
        value=2.0,
        corrupt_value=-1.0,
        nodes=pd.DataFrame(NODES, columns=list(NODE_COLUMNS)),
        edges=pd.DataFrame(EDGES, columns=list(EDGE_COLUMNS)),
        scores={"explained": 0.8, "completeness": 0.9, "replacement": 0.7},
        settings={"nodes": 3},
    )


def without_corrupt(graph: AttributionGraph) -> AttributionGraph:
    nodes = graph.nodes.assign(corrupt_activation=np.nan)
    return replace(graph, corrupt_tokens=(), corrupt_value=np.nan, method="relp", nodes=nodes)
