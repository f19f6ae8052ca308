"""`AttributionGraph`: which node wrote what to which, from the tokens of one prompt to a target.

Nodes are by position. Every node has an attribution, its share of the target in the target's unit,
and attributions are conserved: what flows into a node over edges, from nodes that are not shown
(``unshown``) included, is its attribution.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from circuits.explanation.prompt_record import PromptRecord
from interp.data.records import checked
from interp.errors import DataError, PlanError, did_you_mean
from interp.results.result import Result

if TYPE_CHECKING:
    from interp.model.model import Model
    from interp.results.report import Report

KINDS = ("embedding", "head", "neuron", "mlp", "rest", "bias", "logits", "feature")
"""Kinds of nodes; a ``"rest"`` is what is left of one sublayer's output at one position, a
``"feature"`` one of a transcoder, in graphs from circuit-tracer."""
FIXED = ("embedding", "rest", "bias", "logits")
"""Kinds that no budget of nodes counts."""
NODE_COLUMNS = {
    "id": "str",
    "kind": "str",
    "layer": "int64",
    "pos": "int64",
    "unit": "int64",
    "activation": "float64",
    "corrupt_activation": "float64",
    "attribution": "float64",
    "unshown": "float64",
    "label": "str",
    "supernode": "str",
}
EDGE_COLUMNS = {"source": "str", "target": "str", "branch": "str", "weight": "float64"}


@dataclass(frozen=True, repr=False)
class AttributionGraph(Result):
    """The attribution graph of one prompt, or of a clean and a corrupt one.

    Attributes:
        model, weights_hash: the model it is of.
        tokens: of the clean prompt, then of the target where that is several tokens.
        corrupt_tokens: of each of them, its partner in the corrupt prompt, ``""`` where it has
            none; ``()`` where there is no corrupt prompt.
        n_prompt: how many of `tokens` are the prompt's own.
        target: what is explained, in words.
        metric, unit: the metric that stands for the target, and its unit.
        method: ``"eap-dg"`` (chords from corrupt to clean prompt) or ``"relp"``.
        value: the metric on the clean prompt.
        corrupt_value: on the corrupt one; NaN without.
        nodes: ``id`` (``a5.h3@7``, ``m12.n345@7``, ``embedding@2``, ``m3@7``, ``a3.rest@7``,
            ``bias``, ``logits``), ``kind`` (one of `KINDS`), ``layer`` (-1: embedding and bias;
            n_layers: logits), ``pos`` (a head's is its destination; -1: bias; logits: where the
            target's first token is predicted), ``unit`` (head or neuron, -1), ``activation`` and
            ``corrupt_activation`` (a neuron's; of others the length of what they write),
            ``attribution`` (in `unit`), ``unshown`` (the part of it that comes from nodes that are
            not shown), ``label`` and ``supernode`` (free text).
        edges: ``source`` and ``target`` (node ids), ``branch`` (``q``, ``k`` or ``v`` of a head,
            else ``""``; the source's position is the token that the head reads), ``weight``
            (in `unit`).
        scores: how much the graph explains; docs/explain.md defines each.
        settings: the options that made it.
        checks: what interventions say of it (`circuits.explanation.truth`); empty: not checked.
    """

    KIND: ClassVar[str] = "attribution graph"

    model: str
    weights_hash: str
    tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    n_prompt: int
    target: str
    metric: str
    unit: str
    method: str
    value: float
    corrupt_value: float
    nodes: pd.DataFrame = field(repr=False)
    edges: pd.DataFrame = field(repr=False)
    scores: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    checks: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    def __post_init__(self) -> None:
        """Refuse (`DataError`) tables without the columns, or edges between unknown nodes."""
        for name, table, columns in (
            ("nodes", self.nodes, NODE_COLUMNS),
            ("edges", self.edges, EDGE_COLUMNS),
        ):
            absent = [column for column in columns if column not in table]
            if absent:
                raise DataError(f"the table of {name} has no column {absent[0]!r}.")
        ids = set(self.nodes["id"])
        if len(ids) < len(self.nodes):
            raise DataError("a node id stands twice in the table of nodes; give each its own.")
        loose = [one for end in ("source", "target") for one in self.edges[end] if one not in ids]
        if loose:
            raise DataError(f"an edge names the node {loose[0]!r}, which the table of nodes lacks.")

    # --- parts ---

    @property
    def total(self) -> float:
        """What is explained: the metric, clean minus corrupt where there is a corrupt prompt."""
        return self.value - (0.0 if np.isnan(self.corrupt_value) else self.corrupt_value)

    @property
    def n_nodes(self) -> int:
        """How many heads, neurons and MLPs are shown: what a budget of nodes counts."""
        return sum(kind not in FIXED for kind in self.nodes["kind"])

    @property
    def prompt(self) -> PromptRecord:
        """Its prompt in tokens; `DataError` where it does not hold it, or holds it damaged."""
        if "prompt" not in self.settings:
            raise DataError("the graph does not hold its prompt's tokens, as imported ones do not.")
        return checked(PromptRecord, self.settings["prompt"], "the graph's prompt")

    def check_model(self, model: "Model") -> None:
        """`PlanError` where a model has other weights, `DataError` where it lacks what is named."""
        if self.weights_hash != model.weights_hash:
            raise PlanError(
                f"the graph is of other weights (of {self.model}) than {model.name} has; load "
                "those."
            )
        if "prompt" in self.settings and self.prompt.largest >= model.n_vocab:
            raise DataError(f"the graph's prompt has a token beyond the {model.n_vocab} there are.")
        own: Any = self.nodes[self.nodes["kind"].isin(("head", "neuron", "mlp"))]
        for row in own.itertuples():
            there = 0 <= row.layer < model.arch.n_layers and 0 <= row.pos < len(self.tokens)
            if there and row.kind != "mlp":
                block = model.arch.layers[row.layer]
                there = 0 <= row.unit < (block.n_heads if row.kind == "head" else block.d_mlp)
            if not there:
                raise DataError(f"the graph has the node {row.id!r}, which {model.name} lacks.")

    def node(self, node: str) -> pd.Series:
        """A node's row; `PlanError` where the graph has no such node."""
        self._known([node])
        return self.nodes.set_index("id").loc[node]

    def top(self, n: int = 10) -> pd.DataFrame:
        """The nodes of the largest attributions by size, without the logits."""
        own = self.nodes["kind"] != "logits"
        return _numbered(by_size(self.nodes[own], "attribution").head(n))

    def into(self, node: str) -> pd.DataFrame:
        """The edges into a node, largest first; `PlanError` where it is not in the graph."""
        return self._of("target", node)

    def out_of(self, node: str) -> pd.DataFrame:
        """The edges out of a node, largest first; `PlanError` where it is not in the graph."""
        return self._of("source", node)

    def _of(self, end: str, node: str) -> pd.DataFrame:
        self._known([node])
        return by_size(self.edges[self.edges[end] == node], "weight")

    def _known(self, ids: Iterable[str]) -> None:
        known = set(self.nodes["id"])
        for one in ids:
            if one not in known:
                raise PlanError(f"the graph has no node {one!r}. {did_you_mean(one, known)}")

    # --- changes ---

    def pruned(self, nodes: int | None = None, edges: float | None = None) -> "AttributionGraph":
        """With fewer nodes and edges; what they carried is added to ``unshown``.

        Args:
            nodes: how many heads, neurons and MLPs stay, those of the largest attributions by
                size. Embeddings, bias and logits stay, and rests that have edges.
            edges: the share (0 to 1) of each node's absolute in-flow over edges that stays: the
                largest edges that together reach it.

        Raises:
            PlanError: a negative number, or a share outside 0 to 1.
        """
        kept: Any = self.nodes
        links: Any = self.edges
        if nodes is not None:
            if nodes < 0:
                raise PlanError(f"a graph cannot keep {nodes} nodes; give 0 or more.")
            free: Any = kept[~kept["kind"].isin(FIXED)]
            gone = set(by_size(free, "attribution")["id"][nodes:])
            kept = kept[~kept["id"].isin(gone)]
            links = links[~(links["source"].isin(gone) | links["target"].isin(gone))]
        if edges is not None:
            if not 0 <= edges <= 1:
                raise PlanError(f"edges={edges} is not a share of in-flow; give 0 to 1.")
            links = links[_largest(links, edges)]
        used = {*links["source"], *links["target"]}
        kept = kept[(kept["kind"] != "rest") | kept["id"].isin(used)]
        return replace(self, nodes=_closed(kept, self.edges, links), edges=_numbered(links))

    def of_edges(self, n: int) -> "AttributionGraph":
        """With the `n` largest edges at most; what the others carried is added to ``unshown``."""
        links = by_size(_numbered(self.edges), "weight").head(n).sort_index()
        return replace(self, nodes=_closed(self.nodes, self.edges, links), edges=_numbered(links))

    def relabelled(self, labels: Mapping[str, str]) -> "AttributionGraph":
        """With other labels of some nodes, by id; `PlanError` where one is not in the graph."""
        return self._with("label", labels)

    def grouped(self, supernodes: Mapping[str, Iterable[str]]) -> "AttributionGraph":
        """With supernodes, name -> ids of their nodes; ``""`` takes nodes out of theirs.

        `PlanError` where a node is not in the graph.
        """
        of_node = {one: name for name, ids in supernodes.items() for one in ids}
        return self._with("supernode", of_node)

    def _with(self, column: str, texts: Mapping[str, str]) -> "AttributionGraph":
        self._known(texts)
        before = zip(self.nodes["id"], self.nodes[column], strict=True)
        own = [texts.get(node, text) for node, text in before]
        return replace(self, nodes=self.nodes.assign(**{column: own}))

    # --- shown ---

    def report(self) -> "Report":
        """The graph with controls, its strongest nodes and edges, and how much it explains."""
        from circuits.explanation.viewer import MOST_EDGES, viewer
        from interp.results.report import Report, Section, Table, cell_text

        edges: Any = _numbered(by_size(self.edges, "weight").head(25))
        top: Any = self.top(25)
        shown = ["id", "kind", "label", "activation", "attribution", "unshown"]
        strongest = edges[list(EDGE_COLUMNS)]
        tables = [Table("Strongest nodes", top[shown]), Table("Strongest edges", strongest)]
        scores = pd.DataFrame(list(self.scores.items()), columns=["score", "value"])
        if len(scores):
            tables.insert(0, Table("How much the graph explains", scores))
        if len(self.checks):
            tables.append(Table("Predicted and actual effects", self.checks))
        text, against = "".join(self.tokens[: self.n_prompt]), ""
        features = "feature" in set(self.nodes["kind"])
        what = "features of transcoders" if features else "heads, neurons and MLPs"
        if self.corrupt_tokens:
            against = f" {cell_text(self.corrupt_value)} on the corrupt prompt;"
        return Report(
            title=f"Attribution graph of {self.target} on {self.model}",
            lead=f"{self.metric} ({self.unit}): {cell_text(self.value)};{against} {self.n_nodes} "
            f"{what} and {len(self.edges)} edges are shown. Prompt: {text}",
            sections=[
                Section("Graph", [viewer(self.of_edges(MOST_EDGES), len(self.edges))]),
                Section("Nodes and edges", tables),
            ],
            method=(
                f"Linear attribution by {self.method}; positive = supports the target. What flows "
                "into a node over edges and from nodes not shown adds up to its attribution.",
            ),
            provenance=self.provenance | {"weights": self.weights_hash},
        )

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        top: Any = self.top(10)[["id", "attribution"]]
        return {
            "kind": self.KIND,
            **self.named("model", "target", "metric", "unit", "method", "value", "corrupt_value"),
            **self.named("scores", "n_nodes"),
            "n_edges": len(self.edges),
            "top": top.to_dict("records"),
        }

    def __repr__(self) -> str:
        return (
            f"AttributionGraph({self.target} by {self.method} on {self.model}: {self.n_nodes} "
            f"nodes, {len(self.edges)} edges, {len(self.tokens)} tokens; {self.metric} "
            f"{self.value:.3f})"
        )


def node_id(kind: str, layer: int = -1, pos: int = -1, unit: int = -1) -> str:
    """The id of a node, such as ``a5.h3@7``; a rest's `unit` is 0 of attention, 1 of an MLP."""
    if kind in ("bias", "logits"):
        return kind if unit < 0 else f"{kind}.{unit}"
    name = {
        "embedding": "embedding",
        "head": f"a{layer}.h{unit}",
        "neuron": f"m{layer}.n{unit}",
        "mlp": f"m{layer}",
        "rest": f"{'am'[unit > 0]}{layer}.rest",
    }[kind]
    return f"{name}@{pos}"


def _largest(edges: pd.DataFrame, share: float) -> np.ndarray:
    """Which edges are the largest of their targets that together reach a share of the in-flow."""
    sizes = edges["weight"].abs().to_numpy()
    order = np.argsort(-sizes, kind="stable")
    ordered = pd.Series(sizes[order]).groupby(edges["target"].to_numpy()[order])
    before = (ordered.cumsum() - sizes[order]).to_numpy()
    kept = np.zeros(len(edges), dtype=bool)
    kept[order] = before < share * ordered.transform("sum").to_numpy()
    return kept


def _closed(nodes: Any, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Nodes with what edges no longer carry as ``unshown``."""
    flow: Any = before.groupby("target")["weight"].sum()
    lost: Any = flow.sub(after.groupby("target")["weight"].sum(), fill_value=0.0)
    more = nodes["id"].map(lost).fillna(0.0).to_numpy(float)
    return _numbered(nodes.assign(unshown=nodes["unshown"] + more))


def by_size(table: Any, column: str) -> pd.DataFrame:
    """The rows in order of a column's size, the largest first."""
    return table.iloc[np.argsort(-table[column].abs().to_numpy(), kind="stable")]


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    return table.reset_index(drop=True)
