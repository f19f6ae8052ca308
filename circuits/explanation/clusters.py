"""Supernodes by clustering: nodes that read and are read alike, and are active alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from circuits.explanation.graph import AttributionGraph
from circuits.explanation.tracer_records import rows_of
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.interventions.recording import activations
from interp.model.model import Model


def clustered(
    graph: AttributionGraph,
    n: int | None = None,
    distance: float = 0.5,
    activity: Mapping[str, np.ndarray] | None = None,
) -> AttributionGraph:
    """The graph with supernodes of nodes that read and are read alike.

    Heads, neurons, MLPs and features without a supernode are clustered (average linkage) by the
    cosine distance of what flows into each from every other node and out of each to every other
    node, and of their activations over positions where `activity` gives them (id -> values); each
    part counts alike. A cluster of one node is no supernode; nodes without edges are left out.

    Args:
        graph: its supernodes stay.
        n: number of clusters; by default as many as `distance` leaves.
        distance: the largest mean distance (0 to 2) within a cluster.
        activity: such as from `activity`.

    Raises:
        PlanError: `n` is less than 1, or `distance` not above 0.
    """
    if (n is not None and n < 1) or distance <= 0:
        raise PlanError("nodes are clustered into 1 group or more, at a distance above 0.")
    parts = _profiles(graph, activity)
    if len(parts) < 2:
        return graph
    ids = list(parts)
    tree = linkage(np.stack([parts[i] for i in ids]), "average", "cosine")
    at = fcluster(tree, distance, "distance") if n is None else fcluster(tree, n, "maxclust")
    nodes: Any = graph.nodes.set_index("id")
    sizes, labels = nodes["attribution"].abs(), nodes["label"]
    taken = set(graph.nodes["supernode"])
    groups: dict[str, list[str]] = {}
    for number in sorted(set(at.tolist())):
        members = [i for i, own in zip(ids, at.tolist(), strict=True) if own == number]
        if len(members) > 1:
            strongest = max(members, key=lambda i: float(sizes[i]))
            name = f"like {labels[strongest] or strongest}"
            groups[name if name not in taken | set(groups) else f"{name} ({number})"] = members
    return graph.grouped(groups)


def _profiles(
    graph: AttributionGraph, activity: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Of each node to cluster, its parts, each of length 1, behind each other."""
    at = {node: i for i, node in enumerate(graph.nodes["id"])}
    into, out = np.zeros((len(at), len(at))), np.zeros((len(at), len(at)))
    for source, target, weight in rows_of(graph.edges, "source", "target", "weight"):
        into[at[target], at[source]] += weight
        out[at[source], at[target]] += weight
    nodes: Any = graph.nodes
    kinds = nodes["kind"].isin(("head", "neuron", "mlp", "feature"))
    free = nodes[kinds & (nodes["supernode"] == "")]
    found: dict[str, np.ndarray] = {}
    for node in free["id"]:
        given = [into[at[node]], out[at[node]]]
        given += [] if activity is None else [activity[node]]
        if any(one.any() for one in given[:2]):
            found[node] = np.concatenate([one / (np.linalg.norm(one) or 1.0) for one in given])
    return found


def activity(model: Model, graph: AttributionGraph) -> dict[str, np.ndarray]:
    """Activations over the prompt's positions, for `clustered`.

    A neuron's is its activation, a head's and an MLP's the length of what it writes. Errors as in
    `circuits.explanation.names.named`.
    """
    graph.check_model(model)
    prompt = TokenPrompt(graph.prompt.clean)
    found: dict[str, np.ndarray] = {}
    nodes: Any = graph.nodes
    for kind, site in (("neuron", "mlp_post"), ("head", "z"), ("mlp", "mlp_out")):
        own = nodes[nodes["kind"] == kind]
        layers = sorted(set(own["layer"].tolist()))
        values = activations(model, [prompt], site, layers) if layers else {}
        for node, layer, unit in rows_of(own, "id", "layer", "unit"):
            row: Any = values[layer][0].float()
            if kind == "head":
                row = row.unflatten(-1, (model.arch.layers[layer].n_heads, -1))[:, unit]
            found[node] = (row[:, unit] if kind == "neuron" else row.norm(dim=-1)).numpy()
    return {node: found.get(node, np.zeros(len(prompt.ids))) for node in graph.nodes["id"]}
