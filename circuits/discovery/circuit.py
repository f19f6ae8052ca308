"""`Circuit`: a set of edges of a model's graph, how it was chosen, and what it was chosen on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.discovery import mib
from circuits.discovery.drawing import MOST_EDGES, Edge, draw, to_dot
from interp.brief import brief
from interp.data.records import read_json
from interp.errors import PlanError
from interp.model.graph import Graph
from interp.results import folder
from interp.results.folder import write_text
from interp.results.report import Figure, Report, Section, Table
from interp.results.result import Result
from interp.statistics import jaccard, spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAME = "circuit.json"
"""Of a circuit's file in a run folder."""
READING = (
    "Width: size of an edge's score; blue supports the answer, red opposes it; dashes: into a "
    "query; dots: into a key."
)


@dataclass(frozen=True)
class Circuit(Result):
    """Edges of a model's graph, and optionally neurons within its MLPs.

    Attributes:
        scores: what it was chosen by, where there are any; NaN where there is no edge.
        neurons: by MLP node, the neurons in the circuit; all of them where an MLP is absent.
        method: how it was found.
        prompts: every prompt that discovery saw; evaluation refuses them.
        choice: how its size was chosen, if it was: criterion, f on held-out pairs, what was tried.
    """

    KIND: ClassVar[str] = "circuit"

    graph: Graph
    edges: Bool[Tensor, "source destination"] = field(repr=False)
    scores: Float[Tensor, "source destination"] | None = field(default=None, repr=False)
    neurons: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    method: str = ""
    model: str = ""
    weights_hash: str = ""
    prompts: tuple[str, ...] = field(default=(), repr=False)
    choice: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.edges.sum())

    @property
    def edge_names(self) -> tuple[str, ...]:
        """Its edges by MIB's names."""
        return tuple(self.graph.edge_name(s, d) for s, d in self.edges.nonzero().tolist())

    @property
    def nodes(self) -> tuple[str, ...]:
        """The sources that lie on its edges."""
        touched = self.edges.any(1) | _read(self.graph, self.edges)[:-1]
        return tuple(self.graph.sources[i] for i in touched.nonzero()[:, 0].tolist())

    def strongest(self, n: int = 10) -> list[tuple[str, float]]:
        """The edges with the largest scores; none where it was not chosen by scores."""
        if self.scores is None:
            return []
        scored = zip(self.edge_names, self.scores[self.edges].tolist(), strict=True)
        return sorted(scored, key=lambda pair: -abs(pair[1]))[:n]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            **self.named("model", "method", "n_edges"),
            "of_edges": self.graph.n_edges,
            "n_nodes": len(self.nodes),
            "n_neurons": sum(map(len, self.neurons.values())) if self.neurons else None,
            "n_prompts": len(self.prompts),
            "choice": self.choice,
            "nodes": list(self.nodes),
            "top": [{"edge": name, "score": score} for name, score in self.strongest()],
        }

    @property
    def chosen_by(self) -> str:
        """How its size was chosen, in a sentence."""
        if not self.choice:
            return "Its size was given."
        return (
            "Its size, {components} of {of_components} components, is the smallest size tried with "
            "{criterion} on {n_pairs} held-out pairs: f = {f[value]:.3f} (95 % interval "
            "{f[low]:.3f} to {f[high]:.3f}), where it was chosen; evaluate it on others."
        ).format(**self.choice)

    # --- files ---

    def to_json(self) -> dict[str, Any]:
        """MIB's record: config, nodes, and every edge with its score; ours under ``"interp"``."""
        own = self.named("method", "model", "weights_hash") | {"choice": self.choice}
        own |= {"prompts": list(self.prompts), "provenance": dict(self.provenance)}
        return mib.record(self.graph, self.edges, self.scores, self.neurons, self.nodes, own)

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write MIB's JSON to a file (``FILE.json``), or into a run folder of any other name.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        path = Path(path)
        note = folder.provenance() | self.provenance | (provenance or {})
        text = json.dumps(replace(self, provenance=note).to_json())
        if path.suffix == ".json":
            return write_text(path, text)
        folder.refuse_foreign(path)
        with folder.placing(path) as beside:
            write_text(beside / NAME, text)
            folder.seal(beside, {"kind": self.KIND, "model": self.model, "provenance": note})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read MIB's JSON: a file, or a run folder of `interp circuit discover`.

        Raises:
            RunFolderError: the folder is damaged.
            DataError: the file is missing, not JSON, or not of MIB's form.
            PlanError: the graph lacks an edge, or an MLP with neurons.
        """
        path = Path(path)
        if path.is_dir():
            folder.check_files(path, folder.read_manifest(path))
            path = path / NAME
        return cls(**mib.parts(read_json(path, "a circuit (MIB's JSON)"), str(path)))

    # --- figures ---

    def plot(self, most: int = MOST_EDGES) -> "go.Figure":
        """The graph of the `most` strongest edges; the title says how many are left out."""
        if not self.n_edges:
            raise PlanError(f"{self!r} has no edges to draw; select more of them.")
        return draw(self.graph, self._drawn()[:most], self.method or "circuit", self._note(most))

    def to_dot(self) -> str:
        """The circuit as Graphviz text: ``dot -Tsvg circuit.dot``; layers are ranks."""
        return to_dot(self.graph, self._drawn())

    def _drawn(self) -> list[Edge]:
        scores, places = self.scores, self.edges.nonzero().tolist()
        edges = [Edge(s, d, None if scores is None else float(scores[s, d])) for s, d in places]
        return sorted(edges, key=lambda edge: -edge.size)

    def _note(self, most: int = MOST_EDGES) -> str:
        note = (
            f"{self.n_edges} of {self.graph.n_edges} edges, {len(self.nodes)} nodes, on "
            f"{self.model or 'no model'}"
        )
        if most < self.n_edges:
            which = "first" if self.scores is None else "strongest"
            note += f"; the {most} {which} are drawn, {self.n_edges - most} left out"
        return note

    def report(self) -> Report:
        """The drawing, the strongest edges and the neurons; of a circuit with edges only."""
        says = f"{self._note()}. {READING if self.scores is not None else ''}".strip()
        drawing = Figure("The circuit, layers from bottom to top", says, self.plot())
        strongest = pd.DataFrame(self.strongest(15), columns=["edge", "score"])
        tables = [Table("Strongest edges", strongest)] if len(strongest) else []
        if self.neurons:
            rows = [(name, len(kept)) for name, kept in self.neurons.items()]
            tables.append(Table("Neurons kept", pd.DataFrame(rows, columns=["MLP", "neurons"])))
        share = self.n_edges / self.graph.n_edges
        found = f"{self.method or 'not recorded'}, on {len(self.prompts)}"
        return Report(
            title=f"Circuit of {self.model or 'an unnamed model'}: {self.method or 'given'}",
            lead=f"{self.n_edges} of {self.graph.n_edges} edges ({share:.2%}) and "
            f"{len(self.nodes)} nodes.",
            sections=[Section("Drawing", [drawing]), *([Section("Edges", tables)] * bool(tables))],
            method=(f"Found by: {found} prompts, which evaluation refuses.", self.chosen_by),
            provenance=self.provenance | {"weights": self.weights_hash},
        )

    def __repr__(self) -> str:
        share = self.n_edges / self.graph.n_edges
        return (
            f"Circuit({self.n_edges} of {self.graph.n_edges} edges ({share:.2%}), "
            f"{len(self.nodes)} nodes; {self.method or 'given'} on {self.model or 'no model'})"
        )


def all_edges(graph: Graph) -> Circuit:
    """The circuit of all edges: the full model."""
    return Circuit(graph, graph.exists.clone(), method="all edges")


def of_edges(graph: Graph, names: Iterable[str]) -> Circuit:
    """A circuit from edge names; `PlanError` where the graph lacks one."""
    edges = torch.zeros_like(graph.exists)
    for name in names:
        edges[graph.edge(name)] = True
    return Circuit(graph, edges)


def prune(graph: Graph, edges: Bool[Tensor, "source destination"]) -> Bool[Tensor, "s d"]:
    """Drop nodes without an edge in or out, and their edges, until none is left."""
    while True:
        alive = edges.any(1) & _read(graph, edges)[:-1]
        alive[0] = edges[0].any()
        useful = torch.cat([alive, torch.tensor([True])])[graph.owner]
        kept = edges & alive[:, None] & useful
        if bool((kept == edges).all()):
            return kept
        edges = kept


def _read(graph: Graph, edges: Bool[Tensor, "source destination"]) -> Bool[Tensor, " node"]:
    """Which nodes, the logits last, have an edge in."""
    fed = torch.zeros(graph.n_sources + 1, dtype=torch.bool)
    fed[graph.owner[edges.any(0)]] = True
    return fed


# --- how alike two circuits are ---


@brief
@dataclass(frozen=True)
class Overlap:
    """How alike two circuits of one model are.

    Attributes:
        edges, nodes: Jaccard overlap: shared / either.
        expected: Jaccard overlap of two random edge sets of these sizes, in expectation.
        shared_edges: edges in both.
        only_first, only_second: nodes that one alone has.
        rank_correlation: Spearman's, of their scores, where both score every edge.
    """

    edges: float
    nodes: float
    expected: float
    shared_edges: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    rank_correlation: float | None


def overlap(first: Circuit, second: Circuit) -> Overlap:
    """Compare two circuits; `PlanError` where their models differ in shape."""
    if first.graph != second.graph:
        raise PlanError(f"{first!r} and {second!r} are of differently shaped models.")
    a, b = set(first.edge_names), set(second.edge_names)
    nodes = set(first.nodes), set(second.nodes)
    chance = len(a) * len(b) / first.graph.n_edges
    union, exists, correlation = len(a) + len(b) - chance, first.graph.exists, None
    if first.scores is not None and second.scores is not None:
        x, y = first.scores[exists].numpy(), second.scores[exists].numpy()
        if np.isfinite(x + y).all():
            # One resample: only the value is wanted, and there may be a million edges.
            correlation = float(spearman(x, y, n_resamples=1).value)
    return Overlap(
        edges=jaccard(a, b),
        nodes=jaccard(*nodes),
        expected=chance / union if union else 1.0,
        shared_edges=len(a & b),
        only_first=tuple(sorted(nodes[0] - nodes[1])),
        only_second=tuple(sorted(nodes[1] - nodes[0])),
        rank_correlation=correlation,
    )
