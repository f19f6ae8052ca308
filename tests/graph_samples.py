"""Attribution graphs: a small one made by hand, whose arithmetic closes, and a large random one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from circuits.explanation.graph import EDGE_COLUMNS, NODE_COLUMNS, AttributionGraph, node_id

NODES = [
    ("embedding@0", "embedding", -1, 0, -1, 1.0, 0.5, 0.0, 0.0, "", ""),
    ("embedding@1", "embedding", -1, 1, -1, 1.2, 0.7, 3.0, 0.0, "", ""),
    ("embedding@2", "embedding", -1, 2, -1, 1.1, 1.1, 0.0, 0.0, "", ""),
    ("a0.h1@2", "head", 0, 2, 1, 2.0, -1.0, 2.5, 0.0, "", ""),
    ("a0.rest@2", "rest", 0, 2, 0, 0.3, 0.1, 0.5, 0.5, "", ""),
    ("m0.n5@2", "neuron", 0, 2, 5, 0.9, 0.0, 1.5, 0.0, "", ""),
    ("m1.n7@2", "neuron", 1, 2, 7, 0.4, 0.1, -0.5, -0.2, "", ""),
    ("logits", "logits", 2, 2, -1, 3.0, 0.0, 3.0, 0.25, "", ""),
]
EDGES = [
    ("embedding@1", "a0.h1@2", "v", 2.0),
    ("embedding@1", "a0.h1@2", "k", 0.5),
    ("a0.h1@2", "m0.n5@2", "", 1.2),
    ("a0.rest@2", "m0.n5@2", "", 0.3),
    ("m0.n5@2", "m1.n7@2", "", -0.3),
    ("a0.h1@2", "logits", "", 1.3),
    ("a0.rest@2", "logits", "", 0.2),
    ("m0.n5@2", "logits", "", 1.8),
    ("m1.n7@2", "logits", "", -0.55),
]


def recorded(ids: list[int], **other: Any) -> dict[str, Any]:
    """What a graph holds of a prompt alone, of which the likeliest token is explained."""
    plain = {"clean": ids, "corrupt": ids, "answers": [[], []], "paired": False, "reads": "top 1"}
    rest = {"partner": list(range(len(ids))), "roles": [""] * len(ids), "texts": ["", ""]}
    return plain | rest | other


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


WORDS = ("<bos>", "The", " capital", " of", " the", " country", " where", " the", " Louvre")
WORDS += (" stands", " is", " called")


def large(
    n_nodes: int = 200, n_layers: int = 30, seed: int = 0, p: float = 0.15
) -> AttributionGraph:
    """As many heads and neurons as asked for, over twelve tokens, most at the last one."""
    rng = np.random.default_rng(0)
    last = len(WORDS) - 1
    drawn = {("embedding", -1, pos, -1) for pos in range(last + 1)}
    while len(drawn) < n_nodes + last + 1:
        pos = last if rng.random() < 0.45 else int(rng.integers(1, last))
        kind = "head" if rng.random() < 0.4 else "neuron"
        unit = int(rng.integers(9 if kind == "head" else 1536))
        drawn.add((kind, int(rng.integers(n_layers)), pos, unit))
    drawn |= {("rest", layer, last, layer % 2) for layer in range(n_layers)}
    order = sorted(drawn, key=lambda one: (one[1], one[0] != "head", one))
    order.append(("logits", n_layers, last, -1))
    ids = [node_id(*one) for one in order]
    edges = []
    for at, (kind, layer, pos, _) in enumerate(order):
        for below in range(at if kind not in ("embedding", "rest") else 0):
            other, under, source, _ = order[below]
            near = under < layer or (kind == "neuron" and other == "head")
            if not near or rng.random() > p or source > pos or (kind != "head" and source < pos):
                continue
            branch = ("qkv" if source == pos else "kv")[rng.integers(2)] if kind == "head" else ""
            edges.append((ids[below], ids[at], branch, float(rng.standard_t(2)) * 0.02))
    links = pd.DataFrame(edges, columns=list(EDGE_COLUMNS))
    size = rng.standard_t(3, len(order)) * 0.1
    rows = [
        (i, kind, layer, pos, -1 if kind == "rest" else unit, 2 * a, a, a, 0.0, "", "")
        for i, (kind, layer, pos, unit), a in zip(ids, order, size.tolist(), strict=True)
    ]
    nodes = pd.DataFrame(rows, columns=list(NODE_COLUMNS))
    flow = nodes["id"].map(links.groupby("target")["weight"].sum()).fillna(0.0)
    nodes = nodes.assign(unshown=nodes["attribution"] - flow)
    other = (*WORDS[:8], " Colosseum", *WORDS[9:])
    return replace(
        hand_made(), tokens=WORDS, corrupt_tokens=other, n_prompt=12, nodes=nodes, edges=links
    )
