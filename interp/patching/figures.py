"""Figures of patching results: heatmaps and curves, and the report they belong to."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.results.report import Figure, Part, Report, Section, Table, cell_text, excluded_rows
from interp.results.style import BLUE, add_band, label, styled

if TYPE_CHECKING:
    from interp.patching.result import PatchResult

AXIS_NAMES = {
    "layer": "layer",
    "pos": "token",
    "span": "position",
    "head": "head",
    "neuron": "neuron group",
}
VERBS = {"denoise": "clean activation patched in", "noise": "corrupt activation patched in"}


def plot_result(result: "PatchResult", pair: str | None = None) -> go.Figure:
    """Draw a sweep: a heatmap over two axes, a curve with its interval over one.

    Colours show the normalised effect, 0 = corrupt and 1 = clean, on a scale centred at 0 for
    denoising and at 1 for noising, so that its middle always means "this cell changed nothing".

    Args:
        result: from `interp.patch`; of three axes, the last is shown at its strongest cell.
        pair: draw this pair alone, with its own tokens.
    """
    chosen = result if pair is None else result.select(pair)
    effect = chosen.normalised()
    over = list(chosen.over)
    figure = _curve(chosen, effect) if len(over) == 1 else _heatmap(chosen, effect, over)
    n = f"pair {pair}" if pair else f"mean of {chosen.n_pairs} pairs"
    return styled(figure, f"{chosen.site} on {chosen.model}", f"{VERBS[chosen.direction]}, {n}")


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
        low, high = (effect[bound].values for bound in ("low", "high"))
        add_band(figure, x, low, high, BLUE, "95 % interval")
    figure.add_scatter(x=x, y=effect["mean"].values, name="mean", line={"color": BLUE})
    figure.update_layout(
        xaxis={"title": AXIS_NAMES[axis], "tickvals": x, "ticktext": labels},
        yaxis={"title": f"{result.metric} (0 = corrupt, 1 = clean)"},
    )
    return figure


def _labels(result: "PatchResult", axis: str) -> list[str]:
    if axis == "pos":
        tokens = enumerate(result.position_labels())
        return [label(f"{i} {text.strip() or repr(text)}") for i, text in tokens]
    return [label(value) for value in result.values.coords[axis].values]


# --- report ------------------------------------------------------------------------------------


def report(result: "PatchResult", seed: int = 0) -> Report:
    """The figure, the strongest cells, and where the answer is, as a report."""
    top = result.top(10, seed)
    strongest = "No cell has an effect."
    if len(top):
        place = ", ".join(_place(name, top.iloc[0][name]) for name in top.columns[:-4])
        strongest = (
            f"The strongest cell is {place}: it changes {result.metric} by "
            f"{cell_text(float(top.iloc[0]['effect']))} {result.unit} "
            f"(normalised effect {cell_text(float(top.iloc[0]['normalised']))})."
        )
    colours = "Colours" if len(result.over) > 1 else "The curve"
    centre = "0 = corrupt, 1 = clean; the middle of the scale is a cell that changes nothing"
    says = f"{colours} show the normalised effect ({centre}). {strongest}"
    drawn = Figure(
        f"{VERBS[result.direction].capitalize()}, cell by cell", says, plot_result(result)
    )
    parts: list[Part] = [drawn, Table("Strongest cells", top)]
    sections = [Section("Effect of each cell", parts)]
    if result.by_token:
        sections.append(Section("Where the answer is", [_carriers(result, seed)]))
    return Report(
        title=f"{result.site} on {result.model}, {result.source}",
        lead=f"{result.metric} ({result.unit}): {float(result.clean.mean()):.3f} on clean, "
        f"{float(result.corrupt.mean()):.3f} on corrupt prompts; {result.n_pairs} pairs of "
        f"{result.source}. {strongest}",
        sections=sections,
        method=(
            f"Direction: {result.direction} ({VERBS[result.direction]}); positions: {result.at}; "
            f"the sweep took {result.seconds:.2f} s.",
            "Effect: change of the metric against the unpatched run, with its 95 % bootstrap "
            "interval over pairs. Normalised effect: (patched - corrupt) / (clean - corrupt), "
            "each averaged over pairs.",
        ),
        excluded=excluded_rows(result.excluded),
        provenance=result.provenance,
        warnings=result.warnings,
    )


def _place(name: str, value: object) -> str:
    return f"token {str(value).strip()!r}" if name == "token" else f"{AXIS_NAMES[name]} {value}"


def _carriers(result: "PatchResult", seed: int) -> Table:
    return Table(
        "Tokens that account for at least half of the gap",
        result.carriers(seed=seed),
        "In which layers, and the part of the gap at their strongest cell.",
        {
            "first": "first layer",
            "last": "last layer",
            "peak": "strongest layer",
            "mean": "part of the gap [95 % interval]",
        },
    )
