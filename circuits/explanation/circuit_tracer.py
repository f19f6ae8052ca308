"""Attribution graphs as circuit-tracer's JSON, which its front end and Neuronpedia open.

Ours come back from their files as they were (`circuits.explanation.tracer_records`). A graph of
circuit-tracer's own has features of transcoders for nodes; its links, in units of the feature that
they enter, become edges in logits.

Source: Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs.
"""

import json
import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from circuits.explanation.graph import EDGE_COLUMNS, KINDS, NODE_COLUMNS, AttributionGraph
from circuits.explanation.prompt_record import PromptRecord
from circuits.explanation.tracer_records import GIVEN, RAW, to_circuit_tracer
from interp.data.records import (
    Finite,
    Index,
    Row,
    Text,
    checked,
    parse_json,
    read_text,
    refuse_repeated,
)
from interp.errors import DataError, shown
from interp.results.folder import write_text

Branch = Literal["", "q", "k", "v"]
_Number = Annotated[int, Field(ge=-1, lt=2**31)]


class _Metadata(Row):
    slug: str
    prompt_tokens: tuple[str, ...] = Field(min_length=1)
    scan: str | list[str] | None = None
    interp: dict[str, Any] | None = None


class _Saved(Row):
    supernodes: tuple[tuple[str, ...], ...] = ()


class _FileNode(Row):
    node_id: Text
    layer: str | int
    ctx_idx: Index
    feature_type: Text
    feature: int | None = None
    clerp: str = ""
    activation: Finite | None = None
    token_prob: Finite = 0.0
    is_target_logit: bool = False
    interp: dict[str, Any] | None = None


class _Link(Row):
    source: str
    target: str
    weight: Finite
    interp: dict[Branch, Finite] | None = None


class _File(Row):
    metadata: _Metadata
    nodes: tuple[_FileNode, ...] = Field(min_length=1)
    links: tuple[_Link, ...]
    qParams: _Saved = _Saved()


def write_circuit_tracer(graph: AttributionGraph, path: str | Path) -> Path:
    """Write a graph as a JSON file; `DataError` where it cannot be written."""
    write_text(Path(path), json.dumps(to_circuit_tracer(graph), ensure_ascii=False))
    return Path(path)


def read_circuit_tracer(path: str | Path) -> AttributionGraph:
    """Read a graph from circuit-tracer's JSON: one of ours, saved by the viewer, or another's.

    Of another's file the nodes are its features (kind ``"feature"``), errors (``"rest"``),
    embeddings and logits, under its own ids; model names are not resolved. Edges and attributions
    are in logits of the target token: a feature passes on what it got in proportion to its
    activation, so weight × (attribution of the feature / its activation). Edges into other logits
    are in these logits, and nothing flows back from them.

    Raises:
        DataError: no file, not JSON, or not this schema: a field of another type, a node twice, a
            link to an unknown node, links in a circle, a feature without activation, no logit.
    """
    record = parse_json(read_text(path, "circuit-tracer's JSON"), str(path))
    file = checked(_File, record, str(path))
    ids = [node.node_id for node in file.nodes]
    refuse_repeated(((str(path), one) for one in ids), "node")
    known = set(ids)
    for number, link in enumerate(file.links, 1):
        for end in (link.source, link.target):
            if end not in known:
                raise DataError(f"{path}, link {number}: no node is called {shown(end)}.")
    n_tokens = len(file.metadata.prompt_tokens)
    for node in file.nodes:
        if node.ctx_idx >= n_tokens:
            at = f"{path}, node {shown(node.node_id)}"
            raise DataError(f"{at}: ctx_idx is {node.ctx_idx}, but there are {n_tokens} tokens.")
    supernodes: dict[str, str] = {}
    for name, *members in (group for group in file.qParams.supernodes if group):
        supernodes |= dict.fromkeys(members, name)
    if file.metadata.interp is not None:
        return _ours(file, path, supernodes)
    return _theirs(file, record, path, supernodes)


class _OwnFields(Row):
    """``metadata.interp`` of a file that we wrote."""

    model: str
    weights_hash: str
    corrupt_tokens: tuple[str, ...]
    n_prompt: Index
    target: str
    metric: str
    unit: str
    method: str
    value: Finite | None
    corrupt_value: Finite | None
    scores: dict[str, Finite | None]
    settings: dict[str, Any]
    checks: list[dict[str, Any]]


class _OwnNode(Row, extra="allow"):
    """``interp`` of such a file's node: its row in our table of nodes, other columns included."""

    id: Text
    kind: Text
    layer: _Number
    pos: _Number
    unit: _Number
    activation: Finite | None
    corrupt_activation: Finite | None
    attribution: Finite | None
    unshown: Finite | None
    label: str
    supernode: str


def _ours(file: _File, path: str | Path, supernodes: Mapping[str, str]) -> AttributionGraph:
    own = checked(_OwnFields, file.metadata.interp, f"{path}, metadata.interp")
    where = [f"{path}, node {shown(node.node_id)}" for node in file.nodes]
    rows = [
        checked(_OwnNode, node.interp, at).model_dump()
        for node, at in zip(file.nodes, where, strict=True)
    ]
    for row, node, at in zip(rows, file.nodes, where, strict=True):
        row["supernode"] = supernodes.get(node.node_id, "")
        if row["kind"] not in KINDS or row["pos"] >= len(file.metadata.prompt_tokens):
            what = f"a node of kind {shown(row['kind'])} at position {row['pos']}"
            raise DataError(f"{at}: {what}; give one of {', '.join(KINDS)}, at one of the tokens.")
    if "prompt" in own.settings:
        checked(PromptRecord, own.settings["prompt"], f"{path}, metadata.interp.settings.prompt")
    refuse_repeated(((at, row["id"]) for at, row in zip(where, rows, strict=True)), "id")
    name_of = {node.node_id: row["id"] for node, row in zip(file.nodes, rows, strict=True)}
    edges = [
        (name_of[link.source], name_of[link.target], branch, weight)
        for link in file.links
        for branch, weight in (link.interp or {"": link.weight}).items()
    ]
    given: dict[str, Any] = {name: getattr(own, name) for name in _OwnFields.model_fields}
    scores = {name: _nan(value) for name, value in own.scores.items()}
    given |= {"value": _nan(own.value), "corrupt_value": _nan(own.corrupt_value), "scores": scores}
    given["checks"] = pd.DataFrame(own.checks)
    return AttributionGraph(
        **given,
        tokens=file.metadata.prompt_tokens,
        nodes=_typed(pd.DataFrame(rows), NODE_COLUMNS),
        edges=_typed(pd.DataFrame(edges, columns=list(EDGE_COLUMNS)), EDGE_COLUMNS),
    )


def _theirs(
    file: _File, record: dict[str, Any], path: str | Path, supernodes: Mapping[str, str]
) -> AttributionGraph:
    target = _target(file, path)
    attribution, passed = _attributions(file, target.node_id, path)
    top = max((_layer(node) for node in file.nodes if node.feature_type != "logit"), default=-1)
    rows = [
        {
            "id": node.node_id,
            "kind": _kind(node.feature_type),
            "layer": top + 1 if node.feature_type == "logit" else _layer(node),
            "pos": node.ctx_idx,
            "unit": -1 if node.feature is None else node.feature,
            "activation": _nan(node.activation),
            "corrupt_activation": math.nan,
            "attribution": attribution[node.node_id],
            "unshown": attribution[node.node_id],
            "label": node.clerp,
            "supernode": supernodes.get(node.node_id, ""),
            RAW: json.dumps(raw, ensure_ascii=False),
        }
        for node, raw in zip(file.nodes, record["nodes"], strict=True)
    ]
    nodes = _typed(pd.DataFrame(rows), NODE_COLUMNS)
    edges = [(at.source, at.target, "", at.weight * passed[at.target]) for at in file.links]
    table = _typed(pd.DataFrame(edges, columns=list(EDGE_COLUMNS)), EDGE_COLUMNS)
    inflow = nodes["id"].map(table.groupby("target")["weight"].sum()).fillna(0.0)
    as_given = [link.weight for link in file.links]
    settings = {name: record.get(name, {}) for name in ("metadata", "qParams")}
    scan = file.metadata.scan
    return AttributionGraph(
        model=scan if isinstance(scan, str) else ", ".join(scan or ["a model that is not named"]),
        weights_hash="",
        tokens=file.metadata.prompt_tokens,
        corrupt_tokens=(),
        n_prompt=len(file.metadata.prompt_tokens),
        target=target.clerp or target.node_id,
        metric="logit",
        unit="logits",
        method="circuit-tracer",
        value=math.nan,
        corrupt_value=math.nan,
        nodes=nodes.assign(unshown=nodes["unshown"] - inflow),
        edges=table.assign(**{RAW: as_given}),
        settings={GIVEN: settings},
    )


def _target(file: _File, path: str | Path) -> _FileNode:
    """The logit that is explained: the one marked, or the likeliest."""
    logits = [node for node in file.nodes if node.feature_type == "logit"]
    if not logits:
        raise DataError(f"{path}: no node is a logit, so there is nothing that is explained.")
    return max(logits, key=lambda node: (node.is_target_logit, node.token_prob))


def _attributions(
    file: _File, target: str, path: str | Path
) -> tuple[dict[str, float], dict[str, float]]:
    """What each node contributes to the target, and by what weights into it are multiplied."""
    out: dict[str, list[_Link]] = {node.node_id: [] for node in file.nodes}
    into: dict[str, float] = dict.fromkeys(out, 0.0)
    for link in file.links:
        out[link.source].append(link)
        into[link.target] += link.weight
    try:
        readers = {name: {link.target for link in links} for name, links in out.items()}
        order = list(TopologicalSorter(readers).static_order())
    except CycleError as error:
        raise DataError(f"{path}: links run in a circle through {error.args[1][0]!r}.") from error
    nodes = {node.node_id: node for node in file.nodes}
    read = {link.target for link in file.links}
    found: dict[str, float] = {}
    passed: dict[str, float] = {}
    for name in order:  # readers come before what they read
        node = nodes[name]
        if node.feature_type == "logit":
            found[name], passed[name] = into[name], 1.0
            continue
        found[name] = sum(
            link.weight * passed[link.target]
            for link in out[name]
            if nodes[link.target].feature_type != "logit" or link.target == target
        )
        if name in read and not node.activation:
            raise DataError(
                f"{path}, node {shown(name)}: it has links into it but no activation, of which "
                "each link is a share; write the file again with a newer circuit-tracer."
            )
        passed[name] = found[name] / node.activation if node.activation else 0.0
    return found, passed


def _kind(feature_type: str) -> str:
    if "error" in feature_type:
        return "rest"
    return {"embedding": "embedding", "logit": "logits"}.get(feature_type, "feature")


def _layer(node: _FileNode) -> int:
    text = str(node.layer)
    return int(text) if text.lstrip("-").isdigit() else -1


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _typed(table: Any, columns: Mapping[str, str]) -> Any:
    """With the types of a graph's table; None becomes NaN."""
    return table.astype({name: kind for name, kind in columns.items() if kind != "str"})
