"""How much of the target a graph explains: three scores, defined once."""

import pandas as pd

from circuits.explanation.graph import KINDS
from circuits.explanation.tracer_records import rows_of

ERRORS = ("rest", "bias")
"""Kinds of nodes whose own inputs are not shown, as of circuit-tracer's error nodes."""


def influence(
    nodes: pd.DataFrame, edges: pd.DataFrame
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of the target's absolute flow that passes each node; and of that, what is not shown.

    From the logits backwards, each reader hands its influence on to what it reads, in proportion
    to the absolute weights of its edges and of its ``unshown``. Logits nodes share 1 in proportion
    to their attributions by size. Both are by node id.

    Source: circuit-tracer's ``compute_influence`` (Ameisen et al. 2025, "Circuit Tracing").
    """
    into: dict[str, list[tuple[str, float]]] = {}
    for source, target, weight in rows_of(edges, "source", "target", "weight"):
        into.setdefault(target, []).append((source, abs(weight)))
    rows = list(rows_of(nodes, "id", "kind", "layer", "attribution", "unshown"))
    whole = sum(abs(own) for _, kind, _, own, _ in rows if kind == "logits") or 1.0
    found = {name: abs(own) / whole * (kind == "logits") for name, kind, _, own, _ in rows}
    hidden = dict.fromkeys(found, 0.0)
    readers = [row for row in rows if row[1] not in (*ERRORS, "embedding")]
    for name, _, _, _, unshown in sorted(readers, key=_written, reverse=True):
        own = into.get(name, [])
        total = sum(size for _, size in own) + abs(unshown)
        for source, size in own if total > 0 else ():
            found[source] += found[name] * size / total
        hidden[name] = found[name] * abs(unshown) / total if total > 0 else 0.0
    return found, hidden


def _written(row: tuple[str, str, int, float, float]) -> int:
    """When a node writes: after attention of its layer, if it is of an MLP."""
    return 2 * row[2] + (row[1] in ("neuron", "mlp"))


def graph_scores(nodes: pd.DataFrame, edges: pd.DataFrame) -> dict[str, float]:
    """``replacement`` and ``completeness`` of a graph, both between 0 and 1.

    ``replacement``: of the target's influence, traced back to where it comes from, the part that
    comes from embeddings; the rest comes from rests, biases and what is not shown.
    ``completeness``: the part of a node's absolute in-flow that shown heads, neurons, MLPs and
    embeddings give, averaged over all readers by their influence.
    """
    found, hidden = influence(nodes, edges)
    by_kind = dict.fromkeys(KINDS, 0.0)
    for name, kind in zip(nodes["id"], nodes["kind"], strict=True):
        by_kind[kind] += found[name]
    lost = sum(by_kind[kind] for kind in ERRORS) + sum(hidden.values())
    tokens = by_kind["embedding"]
    read = sum(by_kind.values()) - tokens - sum(by_kind[kind] for kind in ERRORS)
    return {
        "replacement": float(tokens / (tokens + lost or 1.0)),
        "completeness": float(1 - lost / (read or 1.0)),
    }
