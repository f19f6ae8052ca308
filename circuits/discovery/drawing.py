"""Figures of circuits: the drawn graph, Graphviz text, and faithfulness against size."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuits.discovery.circuit import Circuit
from circuits.discovery.faithfulness import Faithfulness
from interp.errors import PlanError
from interp.model.graph import Graph
from interp.results.style import AGAINST, BLUE, FOR, GREY, PALETTE, styled, whiskers

MOST_EDGES = 200
"""Edges that can be told apart in one drawing."""
WAYS = {
    "q": ("into query", "dash"),
    "k": ("into key", "dot"),
    "v": ("into value", "solid"),
    "": ("into MLP or logits", "solid"),
}
SIGNS = {"supports": FOR, "opposes": AGAINST, "": GREY}
FILLS = {"head": "#fff2df", "mlp": "#dff0e4", "end": "#e4e4e4"}
WIDTHS = (0.8, 1.8, 3.2, 5.0)
"""Line widths, of scores up to 1/8, 1/4, 1/2 and all of the largest."""


@dataclass(frozen=True)
class _Edge:
    source: int
    destination: int
    score: float | None

    @property
    def size(self) -> float:
        return abs(self.score or 0.0)

    @property
    def sign(self) -> str:
        if self.score is None:
            return ""
        return "supports" if self.score >= 0 else "opposes"


def draw(circuit: Circuit, most: int = MOST_EDGES) -> go.Figure:
    """Draw a circuit: layers from bottom to top, heads across, MLPs on the right.

    Width shows the size of an edge's score, colour its sign; dashes, and the side at which it
    arrives, whether it enters a head's query, key or value. Of a larger circuit the strongest
    edges are drawn, and the title says how many are not.

    Args:
        circuit: any circuit.
        most: edges to draw.

    Raises:
        PlanError: a circuit without edges.
    """
    edges = _strongest(circuit, most)
    if not edges:
        raise PlanError(f"{circuit!r} has no edges to draw; select more of them.")
    graph = circuit.graph
    places, rows = _places(graph, edges)
    figure = go.Figure()
    _add_edges(figure, graph, edges, places)
    _add_nodes(figure, graph, edges, places)
    return styled(
        figure,
        circuit.method or "circuit",
        note_of(circuit, most),
        height=max(480, 160 + 44 * len(rows)),
        width=max(880, 320 + 62 * graph.n_heads),
        hovermode="closest",
        legend={"y": -0.03},
        xaxis={"visible": False},
        yaxis={
            "title": "layer",
            "range": [-0.8, len(rows) - 0.2],
            "tickvals": list(range(len(rows))),
            "ticktext": [_row_name(graph, layer) for layer in rows],
            "showgrid": False,
            "zeroline": False,
        },
    )


def note_of(circuit: Circuit, most: int = MOST_EDGES) -> str:
    """How large a circuit is, and how much of it `draw` leaves out."""
    note = (
        f"{circuit.n_edges} of {circuit.graph.n_edges} edges, {len(circuit.nodes)} nodes, on "
        f"{circuit.model or 'no model'}"
    )
    if most < circuit.n_edges:
        which = "first" if circuit.scores is None else "strongest"
        note += f"; the {most} {which} are drawn, {circuit.n_edges - most} left out"
    return note


def _strongest(circuit: Circuit, most: int) -> list[_Edge]:
    scores = circuit.scores
    edges = [
        _Edge(s, d, None if scores is None else float(scores[s, d]))
        for s, d in circuit.edges.nonzero().tolist()
    ]
    return sorted(edges, key=lambda edge: -edge.size)[:most]


# --- places ------------------------------------------------------------------------------------


def _layer(graph: Graph, node: int) -> int:
    """-1 of the input, the number of layers of the logits."""
    return (node - 1) // (graph.n_heads + 1) if node else -1


def _kind(graph: Graph, node: int) -> str:
    if node in (0, graph.n_sources):
        return "end"
    return "mlp" if node == graph.mlp(_layer(graph, node)) else "head"


def _name(graph: Graph, node: int) -> str:
    return "logits" if node == graph.n_sources else graph.sources[node]


def _row_name(graph: Graph, layer: int) -> str:
    return {-1: "", graph.n_layers: ""}.get(layer, str(layer))


def _way(graph: Graph, destination: int) -> str:
    """Which of q, k and v a destination is; nothing of MLPs and the logits."""
    name = graph.destinations[destination]
    return name[-2] if name.endswith(">") else ""


def _places(
    graph: Graph, edges: Sequence[_Edge]
) -> tuple[dict[int, tuple[float, float]], list[int]]:
    """Where each node on the edges is drawn, and the layers in use: one row each."""
    nodes = {node for edge in edges for node in (edge.source, int(graph.owner[edge.destination]))}
    rows = sorted({_layer(graph, node) for node in nodes})
    places: dict[int, tuple[float, float]] = {}
    for node in sorted(nodes):
        layer = _layer(graph, node)
        y = float(rows.index(layer))
        if _kind(graph, node) == "end":
            places[node] = (graph.n_heads / 2, y)
        elif _kind(graph, node) == "mlp":
            # above its layer's heads, which it reads
            places[node] = (graph.n_heads + 0.5, y + 0.3)
        else:
            places[node] = (float(node - graph.heads(layer).start), y)
    return places, rows


# --- what is drawn -----------------------------------------------------------------------------


def _add_edges(
    figure: go.Figure,
    graph: Graph,
    edges: Sequence[_Edge],
    places: dict[int, tuple[float, float]],
) -> None:
    """One trace a style, for plotly has one style a trace, and one of the points that answer."""
    largest = max(edge.size for edge in edges) or 1.0
    beside = min(0.2, 0.012 * (graph.n_heads + 1.5))  # within the node, however far apart heads are
    groups: dict[tuple[str, str, float], list[np.ndarray]] = {}
    middles: list[np.ndarray] = []
    # weak ones first: the strong lie on top
    for edge in reversed(edges):
        way = _way(graph, edge.destination)
        share = edge.size / largest if edge.score is not None else 0.25
        width = WIDTHS[sum(share > bound for bound in (1 / 8, 1 / 4, 1 / 2))]
        end = places[int(graph.owner[edge.destination])]
        port = {"q": -1, "k": 0, "v": 1, "": 0}[way] * beside
        curve = _curve(places[edge.source], (end[0] + port, end[1]), port)
        groups.setdefault((edge.sign, way, width), []).append(curve)
        middles.append(curve[len(curve) // 2])
    shown: set[str] = set()
    for (sign, way, width), curves in sorted(groups.items(), key=lambda group: group[0][2]):
        label = f"{sign}, {WAYS[way][0]}" if sign else WAYS[way][0]
        x, y = np.concatenate([np.vstack([c, [np.nan, np.nan]]) for c in curves]).T
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": SIGNS[sign], "width": width, "dash": WAYS[way][1]},
            opacity=0.75,
            hoverinfo="skip",
            name=label,
            legendgroup=label,
            showlegend=label not in shown,
        )
        shown.add(label)
    names = [
        graph.edge_name(edge.source, edge.destination)
        + ("" if edge.score is None else f": {edge.score:.4g}")
        for edge in reversed(edges)
    ]
    x, y = np.stack(middles).T
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 9, "opacity": 0},
        text=[html.escape(name) for name in names],
        hovertemplate="%{text}<extra></extra>",
        name="edges",
        showlegend=False,
    )


def _curve(
    start: tuple[float, float], end: tuple[float, float], port: float, n: int = 15
) -> np.ndarray:
    """A bow from node to node, wider the more layers it skips, so that it clears those between.

    Queries, keys and values of one head part ways by their port.
    """
    a, b = np.array(start), np.array(end)
    rise = float(b[1] - a[1])
    bow = 0.12 * max(rise - 1, 0.0) * (1 if a[0] >= b[0] else -1)
    control = (a + b) / 2 + [bow, 2 * port]
    t = np.linspace(0, 1, n)[:, None]
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b


def _add_nodes(
    figure: go.Figure,
    graph: Graph,
    edges: Sequence[_Edge],
    places: dict[int, tuple[float, float]],
) -> None:
    n_in, n_out = dict.fromkeys(places, 0), dict.fromkeys(places, 0)
    for edge in edges:
        n_out[edge.source] += 1
        n_in[int(graph.owner[edge.destination])] += 1
    for kind, symbol in (("head", "circle"), ("mlp", "square"), ("end", "square")):
        nodes = [node for node in places if _kind(graph, node) == kind]
        names = [_name(graph, node) for node in nodes]
        figure.add_scatter(
            x=[places[node][0] for node in nodes],
            y=[places[node][1] for node in nodes],
            mode="markers+text",
            marker={
                "symbol": symbol,
                "size": 30 if kind != "end" else 40,
                "color": FILLS[kind],
                "line": {"color": GREY, "width": 1},
            },
            text=[name.partition(".")[2] or name for name in names],
            textfont={"size": 11, "color": "#1f2328"},
            customdata=[
                [name, n_in[node], n_out[node]] for name, node in zip(names, nodes, strict=True)
            ],
            hovertemplate="%{customdata[0]}: %{customdata[1]} in, %{customdata[2]} out"
            "<extra></extra>",
            name={"head": "heads", "mlp": "MLPs", "end": "input and logits"}[kind],
            showlegend=False,
        )


def to_dot(circuit: Circuit) -> str:
    """The circuit as Graphviz text: ``dot -Tsvg circuit.dot``; layers are ranks."""
    graph = circuit.graph
    edges = _strongest(circuit, circuit.n_edges)
    largest = max((edge.size for edge in edges), default=0.0) or 1.0
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [style=filled];"]
    ends = {node for e in edges for node in (e.source, int(graph.owner[e.destination]))}
    ranks: dict[tuple[int, bool], list[str]] = {}
    for node in sorted(ends):
        kind, name = _kind(graph, node), _name(graph, node)
        shape = "ellipse" if kind == "head" else "box"
        lines.append(f'  "{name}" [shape={shape}, fillcolor="{FILLS[kind]}"];')
        ranks.setdefault((_layer(graph, node), kind == "mlp"), []).append(name)
    for names in ranks.values():
        lines.append(f"  {{rank=same; {'; '.join(f'{chr(34)}{n}{chr(34)}' for n in names)}}}")
    for edge in edges:
        way = _way(graph, edge.destination)
        end = _name(graph, int(graph.owner[edge.destination]))
        style = {"q": "dashed", "k": "dotted"}.get(way, "solid")
        said = "" if edge.score is None else f', tooltip="{edge.score:.4g}"'
        width = 1.0 if edge.score is None else 0.5 + 4.5 * edge.size / largest
        lines.append(
            f'  "{graph.sources[edge.source]}" -> "{end}" [color="{SIGNS[edge.sign]}", '
            f'style={style}, penwidth={width:.2f}, label="{way}"{said}];'
        )
    return "\n".join([*lines, "}", ""])


# --- faithfulness ------------------------------------------------------------------------------


def plot_faithfulness(results: Sequence[Faithfulness]) -> go.Figure:
    """Faithfulness against the part of edges kept, both rankings of each method."""
    figure = go.Figure()
    for result, colour in zip(results, PALETTE * len(results), strict=False):
        for name, curve, dash in (
            ("by size", result.absolute, "solid"),
            ("signed", result.signed, "dash"),
        ):
            figure.add_scatter(
                x=curve.k,
                y=result.f(curve),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                customdata=curve.n_edges,
                hovertemplate="%{customdata} edges: f = %{y:.3f}<extra></extra>",
                name=f"{result.method}, {name}",
            )
    figure.add_hline(
        y=1,
        line={"color": GREY, "dash": "dot"},
        annotation_text="whole model",
        annotation_position="bottom right",
    )
    first = results[0]
    return styled(
        figure,
        f"Faithfulness of circuits on {first.model}",
        f"{first.source}, {len(first.full)} test pairs, {first.ablation} ablation",
        height=480,
        xaxis={
            "type": "log",
            "title": "part of all edges kept",
            "tickformat": "~%",
            "tickvals": first.absolute.k,
        },
        yaxis={"title": f"f of {first.metric} (0: all edges cut)"},
    )


def plot_evaluation(
    summary: Mapping[str, Any], random: Mapping[str, Float[np.ndarray, " draw"]]
) -> go.Figure:
    """Faithfulness of a circuit with its 95 % interval, and of each random circuit.

    Args:
        summary: of `Evaluation.summary`.
        random: faithfulness of the random circuits, by kind of control.
    """
    f = summary["faithfulness"]
    figure = go.Figure()
    for kind, drawn in random.items():
        name = f"random {kind}<br>p = {summary['random'][kind]['p']:.3f}"
        figure.add_scatter(
            x=drawn,
            y=[name] * len(drawn),
            mode="markers",
            marker={"color": GREY, "symbol": "line-ns-open", "size": 18},
            showlegend=False,
        )
    figure.add_scatter(
        x=[f["value"]],
        y=["circuit"],
        error_x=whiskers([f["value"]], [f["low"]], [f["high"]]),
        mode="markers",
        marker={"color": BLUE, "size": 12},
        showlegend=False,
    )
    for at, text in ((0, "all edges cut"), (1, "whole model")):
        figure.add_vline(x=at, line={"color": GREY, "dash": "dot"}, annotation_text=text)
    return styled(
        figure,
        f"{summary['circuit']} on {summary['model']}",
        f"{summary['n_edges']} of {summary['of_edges']} edges, {summary['n_pairs']} test pairs, "
        f"{summary['ablation']} ablation; 95 % interval over pairs; a line is a random circuit",
        height=220 + 60 * len(random),
        xaxis={"title": f"faithfulness ({summary['metric']})", "zeroline": False},
    )
