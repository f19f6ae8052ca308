"""Drawings of sweeps: a heatmap over two axes, a curve with its interval over one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.results.style import AXIS_NAMES, BLUE, add_band

Labels = Mapping[str, Sequence[str]]
"""Tick texts of each axis."""


def draw_effect(
    effect: xr.Dataset, labels: Labels, metric: str, unchanged: float, interval: bool
) -> go.Figure:
    """Draw a normalised effect, 0 = corrupt and 1 = clean.

    `effect` has ``mean``, ``low`` and ``high`` over one to three axes; of three, the last is shown
    at its strongest cell. `unchanged` is the value of a cell that changes nothing, the middle of
    the colour scale; `interval` says whether the bounds mean something (one pair has none).
    """
    table = effect["mean"]
    if table.ndim == 1:
        return _curve(effect, labels, metric, interval)
    vertical, horizontal, *rest = (str(dim) for dim in table.dims)
    for extra in rest:
        strongest = abs(table - unchanged).fillna(-1).argmax(extra)
        table = table.isel({extra: strongest})
    z = table.values
    span = float(np.nanmax(np.abs(z - unchanged))) or 1.0
    bounded = interval and not rest
    cell = f"{vertical} %{{y}}, {horizontal} %{{x}}: %{{z:.3f}}"
    says = "<br>95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}" if bounded else ""
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=list(range(z.shape[1])),
            y=list(range(z.shape[0])),
            customdata=np.stack([effect["low"], effect["high"]], -1) if bounded else None,
            hovertemplate=f"{cell}{says}<extra></extra>",
            zmin=unchanged - span,
            zmax=unchanged + span,
            colorbar={"title": f"{metric}<br>0 = corrupt<br>1 = clean"},
        )
    )
    return figure.update_layout(
        xaxis=_axis(horizontal, labels),
        yaxis=_axis(vertical, labels),
        height=max(420, 120 + 16 * z.shape[0]),
        width=max(640, 60 * z.shape[1]),
    )


def _axis(name: str, labels: Labels, most: int = 40) -> dict[str, Any]:
    texts = labels[name]
    step = max(1, len(texts) // most)
    ticks = list(range(0, len(texts), step))
    return {"title": AXIS_NAMES[name], "tickvals": ticks, "ticktext": texts[::step]}


def _curve(effect: xr.Dataset, labels: Labels, metric: str, interval: bool) -> go.Figure:
    axis = str(effect["mean"].dims[0])
    x = list(range(effect.sizes[axis]))
    figure = go.Figure()
    if interval:
        add_band(figure, x, effect["low"].values, effect["high"].values, BLUE, "95 % interval")
    figure.add_scatter(x=x, y=effect["mean"].values, name="mean", line={"color": BLUE})
    return figure.update_layout(
        xaxis=_axis(axis, labels, len(x)), yaxis={"title": f"{metric} (0 = corrupt, 1 = clean)"}
    )
