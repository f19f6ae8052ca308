"""A circuit's graph, drawn or as Graphviz text.

Width shows the size of an edge's score, colour its sign; dashes, and the side at which it arrives,
whether it enters a head's query, key or value.
"""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from interp.model.graph import Graph
from interp.results.style import AGAINST, FOR, GREY, styled

MOST_EDGES = 200
"""Edges that can be told apart in one drawing."""
WAYS = {
    "q": ("into query", "dash", -1),
    "k": ("into key", "dot", 0),
    "v": ("into value", "solid", 1),
    "": ("into MLP or logits", "solid", 0),
}
"""What an edge enters -> its name, dashes, and the side at which it arrives."""
SIGNS = {"supports": FOR, "opposes": AGAINST, "": GREY}
FILLS = {"head": "#fff2df", "mlp": "#dff0e4", "end": "#e4e4e4"}
WIDTHS = (0.8, 1.8, 3.2, 5.0)
"""Line widths, of scores up to 1/8, 1/4, 1/2 and all of the largest."""

Places = dict[int, tuple[float, float]]
"""Node -> where it is drawn."""


class Edge(NamedTuple):
    """An edge by the indices of a graph, with its score where it has one."""

    source: int
    destination: int
    score: float | None

    @property
    def size(self) -> float:
        """Absolute score; 0 without one."""
        return abs(self.score or 0.0)

    @property
    def sign(self) -> str:
        """A key of `SIGNS`."""
        return "" if self.score is None else "supports" if self.score >= 0 else "opposes"


def draw(graph: Graph, edges: Sequence[Edge], title: str, note: str) -> go.Figure:
    """Draw edges, strongest first: layers from bottom to top, heads across, MLPs on the right."""
    nodes = {node for e in edges for node in (e.source, int(graph.owner[e.destination]))}
    rows = sorted({_layer(graph, node) for node in nodes})
    places: Places = {}
    for node in sorted(nodes):
        kind, layer = _kind(graph, node), _layer(graph, node)
        x = {"end": graph.n_heads / 2, "mlp": graph.n_heads + 0.5}
        head = 0.0 if kind != "head" else float(node - graph.heads(layer).start)
        # an MLP lies above its layer's heads, which it reads
        places[node] = x.get(kind, head), rows.index(layer) + (0.3 if kind == "mlp" else 0.0)
    figure = go.Figure()
    _add_edges(figure, graph, edges, places)
    _add_nodes(figure, graph, edges, places)
    ticks = [str(at) if 0 <= at < graph.n_layers else "" for at in rows]
    y = {"title": "layer", "range": [-0.8, len(rows) - 0.2], "showgrid": False, "zeroline": False}
    y |= {"tickvals": list(range(len(rows))), "ticktext": ticks}
    size = {"height": max(480, 160 + 44 * len(rows)), "width": max(880, 320 + 62 * graph.n_heads)}
    look = {"hovermode": "closest", "xaxis": {"visible": False}}
    return styled(figure, title, note, yaxis=y, **size, **look)


def _layer(graph: Graph, node: int) -> int:
    """-1 of the input, the number of layers of the logits."""
    return (node - 1) // (graph.n_heads + 1) if node else -1


def _kind(graph: Graph, node: int) -> str:
    if node in (0, graph.n_sources):
        return "end"
    return "mlp" if node == graph.mlp(_layer(graph, node)) else "head"


def _way(graph: Graph, destination: int) -> str:
    """Which of q, k and v a destination is; nothing of MLPs and the logits."""
    name = graph.destinations[destination]
    return name[-2] if name.endswith(">") else ""


def _add_edges(figure: go.Figure, graph: Graph, edges: Sequence[Edge], places: Places) -> None:
    """One trace per style, for plotly has one style per trace, and one of the points to hover."""
    largest = max(edge.size for edge in edges) or 1.0
    beside = min(0.2, 0.012 * (graph.n_heads + 1.5))  # within the node, however far apart heads are
    groups: dict[tuple[str, str, float], list[np.ndarray]] = {}
    middles: list[np.ndarray] = []
    weak_first = edges[::-1]  # the strong lie on top
    for edge in weak_first:
        way = _way(graph, edge.destination)
        share = edge.size / largest if edge.score is not None else 0.25
        width = WIDTHS[sum(share > bound for bound in (1 / 8, 1 / 4, 1 / 2))]
        end, port = places[int(graph.owner[edge.destination])], WAYS[way][2] * beside
        curve = _curve(places[edge.source], (end[0] + port, end[1]), port)
        groups.setdefault((edge.sign, way, width), []).append(curve)
        middles.append(curve[len(curve) // 2])
    seen: set[str] = set()
    for (sign, way, width), curves in sorted(groups.items(), key=lambda group: group[0][2]):
        label = ", ".join(filter(None, [sign, WAYS[way][0]]))
        x, y = np.concatenate([np.vstack([c, [np.nan, np.nan]]) for c in curves]).T
        line = {"color": SIGNS[sign], "width": width, "dash": WAYS[way][1]}
        named = {"name": label, "legendgroup": label, "showlegend": label not in seen}
        look = {"mode": "lines", "line": line, "opacity": 0.75, "hoverinfo": "skip"}
        figure.add_scatter(x=x, y=y, **look, **named)
        seen.add(label)
    named = [(graph.edge_name(e.source, e.destination), e.score) for e in weak_first]
    texts = [name if score is None else f"{name}: {score:.4g}" for name, score in named]
    x, y = np.stack(middles).T
    hover = {"text": list(map(html.escape, texts)), "hovertemplate": "%{text}<extra></extra>"}
    look = {"mode": "markers", "marker": {"size": 9, "opacity": 0}, "showlegend": False}
    figure.add_scatter(x=x, y=y, name="edges", **look, **hover)


def _curve(start: tuple[float, float], end: tuple[float, float], port: float) -> np.ndarray:
    """A bow from node to node, wider the more layers it skips, so that it clears those between."""
    a, b = np.array(start), np.array(end)
    bow = 0.12 * max(float(b[1] - a[1]) - 1, 0.0) * (1 if a[0] >= b[0] else -1)
    control = (a + b) / 2 + [bow, 2 * port]
    t = np.linspace(0, 1, 15)[:, None]
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b


def _add_nodes(figure: go.Figure, graph: Graph, edges: Sequence[Edge], places: Places) -> None:
    named, n_out = (*graph.sources, "logits"), [edge.source for edge in edges]
    n_in = [int(graph.owner[edge.destination]) for edge in edges]
    for kind, symbol, size, title in (
        ("head", "circle", 30, "heads"),
        ("mlp", "square", 30, "MLPs"),
        ("end", "square", 40, "input and logits"),
    ):
        nodes = [node for node in places if _kind(graph, node) == kind]
        names = [named[node] for node in nodes]
        look = {"symbol": symbol, "size": size, "color": FILLS[kind]}
        figure.add_scatter(
            x=[places[node][0] for node in nodes],
            y=[places[node][1] for node in nodes],
            mode="markers+text",
            marker=look | {"line": {"color": GREY, "width": 1}},
            text=[name.partition(".")[2] or name for name in names],
            textfont={"size": 11, "color": "#1f2328"},
            customdata=[[named[n], n_in.count(n), n_out.count(n)] for n in nodes],
            hovertemplate="%{customdata[0]}: %{customdata[1]} in, %{customdata[2]} out"
            "<extra></extra>",
            name=title,
            showlegend=False,
        )


def to_dot(graph: Graph, edges: Sequence[Edge]) -> str:
    """Edges as Graphviz text; layers are ranks."""
    named = (*graph.sources, "logits")
    largest = max((edge.size for edge in edges), default=0.0) or 1.0
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [style=filled];"]
    nodes = {node for e in edges for node in (e.source, int(graph.owner[e.destination]))}
    ranks: dict[tuple[int, bool], list[str]] = {}
    for node in sorted(nodes):
        kind, name = _kind(graph, node), f'"{named[node]}"'
        shape = "ellipse" if kind == "head" else "box"
        lines.append(f'  {name} [shape={shape}, fillcolor="{FILLS[kind]}"];')
        ranks.setdefault((_layer(graph, node), kind == "mlp"), []).append(name)
    lines += [f"  {{rank=same; {'; '.join(names)}}}" for names in ranks.values()]
    for edge in edges:
        way = _way(graph, edge.destination)
        end = named[int(graph.owner[edge.destination])]
        style = {"q": "dashed", "k": "dotted"}.get(way, "solid")
        tip = "" if edge.score is None else f', tooltip="{edge.score:.4g}"'
        width = 1.0 if edge.score is None else 0.5 + 4.5 * edge.size / largest
        lines.append(
            f'  "{graph.sources[edge.source]}" -> "{end}" [color="{SIGNS[edge.sign]}", '
            f'style={style}, penwidth={width:.2f}, label="{way}"{tip}];'
        )
    return "\n".join([*lines, "}", ""])
