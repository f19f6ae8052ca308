"""The page's interactive figure of an attribution graph: tokens across, layers upwards.

It draws the records of `circuits.explanation.tracer_records`, so that what it saves, with edited
labels and supernodes, can be read back. Script and style sheet lie beside this module.
"""

from functools import cache
from pathlib import Path
from typing import Any

from circuits.explanation.tracer_records import RAW, Graph, about, node_names, node_records, rows_of
from interp.data.records import finite
from interp.results.report import Interactive
from interp.results.style import PALETTE

MOST_EDGES = 20_000
"""Edges that a page holds; of more, the largest."""
BRANCHES = ("", "q", "k", "v")


def viewer(graph: Graph, n_edges: int) -> Interactive:
    """The figure of a graph; `n_edges` is how many edges there were before it was cut."""
    n = len(graph.edges)
    left = f" Of {n_edges:,} edges it holds the largest {n:,}." if n < n_edges else ""
    return Interactive(
        "Attribution graph",
        "Tokens across, layers upwards, from the embedding to the logits. Size shows how much of "
        f"the target a node accounts for ({graph.unit}), blue in its favour and red against it. "
        "Point at a node, or go to it with the keyboard, to see its edges; the table below the "
        f"picture lists the same nodes.{left}",
        _data(graph),
        _asset("viewer.js"),
        _asset("viewer.css"),
        "interp-graph",
    )


def _data(graph: Graph) -> dict[str, Any]:
    nodes, edges = graph.nodes, graph.edges
    at = {node: i for i, node in enumerate(nodes["id"])}
    links: list[list[Any]] = [  # nine digits are all that single precision has
        [at[source], at[target], float(f"{weight:.9g}"), BRANCHES.index(branch)]
        for source, target, weight, branch in rows_of(edges, "source", "target", "weight", "branch")
    ]
    foreign = RAW in edges
    if foreign:
        links = [[*link, raw] for link, raw in zip(links, edges[RAW].tolist(), strict=True)]
    logits = nodes["layer"][nodes["kind"] == "logits"]
    return {
        "file": about(graph) | {"nodes": node_records(graph, node_names(graph))},
        "links": links,
        "rows": finite(nodes.drop(columns=RAW).to_dict("records")) if foreign else [],
        "n_layers": int(logits.max() if len(logits) else nodes["layer"].max() + 1),
        "corrupt_tokens": list(graph.corrupt_tokens),
        "unit": graph.unit,
        "palette": list(PALETTE),
    }


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")
