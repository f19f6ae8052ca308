"""Figures of results: plotly heatmaps and curves, and the self-contained page they sit on."""

import html
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import xarray as xr

if TYPE_CHECKING:
    from interp.results import PatchResult

AXIS_NAMES = {
    "layer": "layer",
    "pos": "token",
    "span": "position",
    "head": "head",
    "neuron": "neuron group",
}


def plot_result(result: "PatchResult", pair: str | None = None) -> go.Figure:
    """Draw a sweep: a heatmap over two axes, a curve with its interval over one.

    Colours show the normalised effect, 0 = corrupt and 1 = clean, on a scale centred at 0 for
    denoising and at 1 for noising, so that white always means "this cell changed nothing".

    Args:
        result: from `interp.patch`; of three axes, the last is shown at its strongest cell.
        pair: draw this pair alone, with its own tokens.
    """
    shown = result if pair is None else result.select(pair)
    effect = shown.normalised()
    over = list(shown.over)
    figure = _curve(shown, effect) if len(over) == 1 else _heatmap(shown, effect, over)
    n = f"pair {pair}" if pair else f"mean of {shown.n_pairs} pairs"
    verb = {"denoise": "clean activation patched in", "noise": "corrupt activation patched in"}
    figure.update_layout(
        title=f"{shown.site} on {shown.model}<br><sup>{verb[shown.direction]}, {n}</sup>",
        template="plotly_white",
        font={"size": 13},
        margin={"t": 80, "r": 30},
    )
    return figure


def _heatmap(result: "PatchResult", effect: xr.Dataset, over: list[str]) -> go.Figure:
    table = effect["mean"]
    for extra in over[2:]:
        strongest = abs(table - _unchanged(result)).fillna(-1).argmax(extra)
        table = table.isel({extra: strongest})
    vertical, horizontal = over[0], over[1]
    z = table.transpose(vertical, horizontal).values
    reach = float(np.nanmax(np.abs(z - _unchanged(result)))) or 1.0
    low, high = (effect[k].transpose(*over).values for k in ("low", "high"))
    bounds = np.stack([low, high], -1) if len(over) == 2 and result.n_pairs > 1 else None
    interval = "<br>95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}"
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=list(range(z.shape[1])),
            y=list(range(z.shape[0])),
            customdata=bounds,
            hovertemplate=f"{vertical} %{{y}}, {horizontal} %{{x}}: %{{z:.3f}}"
            f"{interval if bounds is not None else ''}<extra></extra>",
            colorscale="RdBu",
            zmin=_unchanged(result) - reach,
            zmax=_unchanged(result) + reach,
            colorbar={"title": f"{result.metric}<br>0 = corrupt<br>1 = clean"},
        )
    )
    for axis, name in (("xaxis", horizontal), ("yaxis", vertical)):
        labels = _labels(result, name)
        step = max(1, len(labels) // 40)
        figure.update_layout(
            {
                axis: {
                    "title": AXIS_NAMES[name],
                    "tickvals": list(range(0, len(labels), step)),
                    "ticktext": labels[::step],
                }
            }
        )
    figure.update_layout(height=max(420, 120 + 16 * z.shape[0]), width=max(640, 60 * z.shape[1]))
    return figure


def _unchanged(result: "PatchResult") -> float:
    """The normalised value of a cell that does nothing."""
    return 0.0 if result.direction == "denoise" else 1.0


def _curve(result: "PatchResult", effect: xr.Dataset) -> go.Figure:
    axis = result.over[0]
    labels = _labels(result, axis)
    x = list(range(len(labels)))
    figure = go.Figure()
    if result.n_pairs > 1:
        figure.add_scatter(
            x=x + x[::-1],
            y=[*effect["high"].values, *effect["low"].values[::-1]],
            fill="toself",
            line={"width": 0},
            fillcolor="rgba(31,119,180,0.2)",
            name="95 % interval",
            hoverinfo="skip",
        )
    figure.add_scatter(x=x, y=effect["mean"].values, name="mean", line={"color": "#1f77b4"})
    figure.update_layout(
        xaxis={"title": AXIS_NAMES[axis], "tickvals": x, "ticktext": labels},
        yaxis={"title": f"{result.metric} (0 = corrupt, 1 = clean)"},
    )
    return figure


def _labels(result: "PatchResult", axis: str) -> list[str]:
    if axis == "pos":
        return [f"{i} {t.strip() or repr(t)}" for i, t in enumerate(result.position_labels())]
    return [str(value) for value in result.values.coords[axis].values]


# --- pages -------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
table { border-collapse: collapse; font-size: 14px; }
td, th { padding: 3px 12px; text-align: right; border-bottom: 1px solid #ddd; }
th { background: #f5f5f5; } td:first-child, th:first-child { text-align: left; }
code { background: #f5f5f5; padding: 1px 4px; } .muted { color: #666; }
"""


def result_html(result: "PatchResult", scripts: bool | str = "cdn") -> str:
    """The figure, the baselines, the strongest cells and what was left out, as HTML."""
    figure = plot_result(result).to_html(full_html=False, include_plotlyjs=scripts)
    top = result.top(10).to_html(index=False, float_format=lambda x: f"{x:.3f}", border=0)
    left_out = "".join(
        f"<tr><td>{html.escape(row.id)}</td><td>{html.escape(row.where)}</td>"
        f"<td style='text-align:left'>{html.escape(row.reason)}</td></tr>"
        for row in result.excluded
    )
    excluded = (
        f"<details><summary>{len(result.excluded)} rows were excluded</summary><table>"
        f"<tr><th>id</th><th>where</th><th>reason</th></tr>{left_out}</table></details>"
        if result.excluded
        else "<p class='muted'>No row was excluded.</p>"
    )
    return (
        f"<p><b>{html.escape(result.metric)}</b> ({html.escape(result.unit)}): "
        f"{float(result.clean.mean()):.3f} on clean, {float(result.corrupt.mean()):.3f} on "
        f"corrupt prompts; {result.n_pairs} pairs of {html.escape(result.source)}; "
        f"{html.escape(result.direction)}; swept in {result.seconds:.2f} s.</p>"
        f"{''.join(f'<p><b>Mind:</b> {html.escape(text)}</p>' for text in result.warnings)}"
        f"{figure}{_carriers_html(result)}<h3>Strongest cells</h3>"
        f"<p class='muted'>effect = change of the metric against "
        f"the unpatched run, with a 95 % bootstrap interval over pairs; normalised: 0 = corrupt, "
        f"1 = clean.</p>{top}{excluded}"
    )


def _carriers_html(result: "PatchResult") -> str:
    if set(result.over) != {"layer", "pos"}:
        return ""
    table = result.carriers().to_html(index=False, float_format=lambda x: f"{x:.3f}", border=0)
    return (
        "<h3>Where the answer is</h3><p class='muted'>Tokens that account for at least half of the "
        "gap: in which layers, and their strongest cell with its 95 % interval.</p>" + table
    )


def page(result: "PatchResult", title: str) -> str:
    """A self-contained HTML page: no network is needed to read it."""
    made = result.provenance
    versions = ", ".join(f"{k} {v}" for k, v in made.get("versions", {}).items())
    command = " ".join(made.get("command", []))
    note = f"{made.get('made')}; {versions}; seed {made.get('seed')}; weights {made.get('weights')}"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{result_html(result, scripts=True)}<hr>"
        f"<p class='muted'>{html.escape(note)}<br><code>{html.escape(command)}</code></p>"
        f"</body></html>"
    )
