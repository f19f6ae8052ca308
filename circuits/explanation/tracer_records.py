"""What circuit-tracer's JSON, and our viewer, hold of an attribution graph: plain records.

A file has ``metadata`` (prompt, tokens), ``qParams`` (pins and supernodes), ``nodes`` and
``links``. What that form has no place for stands in fields named ``interp``, which others pass
over.

Source: the schema is that of https://github.com/decoderesearch/circuit-tracer.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from interp.data.records import finite
from interp.version import __version__

HEAD = 10**8
"""Feature numbers from which heads are counted."""
FEATURES = {"rest": -1, "mlp": -3, "bias": -4}
TYPES = {
    "embedding": "embedding",
    "logits": "logit",
    "head": "attention head",
    "neuron": "mlp neuron",
    "mlp": "mlp",
    "bias": "bias",
    "rest": "mlp reconstruction error",
}
"""Kind of node -> circuit-tracer's ``feature_type``; another kind is its own."""
RAW = "record"
"""Column of nodes and edges that came from another's file: the fields as they were there."""
GIVEN = "circuit_tracer"
"""Setting that holds the ``metadata`` and ``qParams`` of such a file."""

Graph = Any
"""A `circuits.explanation.AttributionGraph`; its module imports this one, for its page."""


def to_circuit_tracer(graph: Graph) -> dict[str, Any]:
    """A graph as circuit-tracer's JSON: its links sum the branches of a head."""
    names = node_names(graph)
    own = about(graph)
    foreign = RAW in graph.edges
    links: dict[tuple[str, str], dict[str, Any]] = {}
    edges = graph.edges if foreign else graph.edges.assign(**{RAW: None})
    columns = ("source", "target", "branch", "weight", RAW)
    for source, target, branch, weight, as_given in rows_of(edges, *columns):
        ends = {"source": names[source], "target": names[target]}
        if foreign:
            links[source, target] = ends | {"weight": as_given}
            continue
        link = links.setdefault((source, target), ends | {"weight": 0.0, "interp": {}})
        link["weight"] += weight
        link["interp"][branch] = weight
    groups: dict[str, list[str]] = {}
    for node, group in zip(graph.nodes["id"], graph.nodes["supernode"], strict=True):
        if group:
            groups.setdefault(group, []).append(names[node])
    saved = own["qParams"] | {"supernodes": [[name, *ids] for name, ids in groups.items()]}
    if not foreign:
        saved["pinnedIds"] = [one for ids in groups.values() for one in ids]
    return {
        "metadata": own["metadata"],
        "qParams": saved,
        "nodes": node_records(graph, names),
        "links": list(links.values()),
    }


def about(graph: Graph) -> dict[str, Any]:
    """``metadata`` and ``qParams``: those of the file that it came from, or ours."""
    if GIVEN in graph.settings:
        return dict(graph.settings[GIVEN])
    fields = ("model", "weights_hash", "corrupt_tokens", "n_prompt", "target", "metric", "unit")
    fields += ("method", "value", "corrupt_value", "scores", "settings")
    tokens = list(graph.tokens)
    words = "".join(c if c.isalnum() else "-" for c in f"{graph.model}-{graph.target}".lower())
    checks = [finite(row) for row in graph.checks.to_dict("records")]
    metadata = {
        "slug": "-".join(filter(None, words.split("-")))[:80] or "graph",
        "scan": graph.model,
        "transcoder_list": [],
        "prompt_tokens": tokens,
        "prompt": "".join(tokens[: graph.n_prompt]),
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {"generator": {"name": "interp", "version": __version__}},
        "interp": finite({name: getattr(graph, name) for name in fields}) | {"checks": checks},
    }
    saved = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": saved}


def node_names(graph: Graph) -> dict[str, str]:
    """Node id -> circuit-tracer's ``layer_feature_position``."""
    if RAW in graph.nodes:
        return {node: node for node in graph.nodes["id"]}
    columns = ("id", "kind", "layer", "pos", "unit")
    found: dict[str, str] = {}
    for node, kind, layer, pos, unit in rows_of(graph.nodes, *columns):
        if kind == "embedding":
            found[node] = f"E_{pos}_{pos}"
        elif kind == "bias":
            found[node] = "E_-4_0"
        else:
            above = layer + (kind == "logits")  # theirs count the logits so
            found[node] = f"{above}_{_feature(node, kind, unit)}_{pos}"
    return found


def _feature(node: str, kind: str, unit: int) -> int:
    if kind == "head":
        return HEAD + unit
    if kind == "rest":
        return -2 if node.startswith("a") else -1
    if kind == "logits":
        return max(unit, 0)
    return FEATURES.get(kind, unit)


def node_records(graph: Graph, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """``nodes`` of the file; ``influence`` is the share of all |attribution| down to the node."""
    rows: list[dict[str, Any]] = graph.nodes.to_dict("records")
    sizes = np.nan_to_num(graph.nodes["attribution"].abs().to_numpy(float))
    sizes[graph.nodes["kind"].to_numpy() == "logits"] = 0.0
    order = np.argsort(-sizes, kind="stable")
    share = np.empty(len(sizes))
    share[order] = np.minimum(sizes[order].cumsum() / (sizes.sum() or 1.0), 1.0)
    records: list[dict[str, Any]] = []
    for row, influence in zip(rows, share.tolist(), strict=True):
        raw = row.pop(RAW, None)
        if raw is not None:
            given = json.loads(raw)
            new = {} if row["label"] == given.get("clerp", "") else {"clerp": row["label"]}
            records.append(given | new)
            continue
        name, kind = names[row["id"]], row["kind"]
        layer, feature, pos = name.split("_")
        known = {"prob": graph.value, "logprob": math.exp(min(graph.value, 0.0))}
        p = known.get(graph.metric, math.nan) if kind == "logits" else 0.0
        label = row["label"] or row["id"]
        if kind == "logits":  # whose token and probability their front end reads out of this text
            label = f'Output "{row["label"] or graph.target}" (p={p:.3f})'
        record = {
            "node_id": name,
            "feature": int(feature),
            "layer": layer,
            "ctx_idx": max(int(pos), 0),
            "feature_type": TYPES.get(kind, kind),
            "token_prob": p if math.isfinite(p) else 0.0,
            "is_target_logit": kind == "logits",
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "jsNodeId": f"{layer}_{feature}-{pos if int(feature) < 0 or layer == 'E' else 0}",
            "clerp": label,
            "influence": None if kind == "logits" else influence,
            "activation": finite(row["activation"]),
            "interp": finite(row),
        }
        records.append(record)
    return records


def rows_of(table: Any, *names: str) -> Iterator[tuple[Any, ...]]:
    """Rows of some columns, in Python's own types."""
    return table[list(names)].itertuples(index=False, name=None)
