"""Figures of ablations, of the rows of `AblationResult.table`, beside random sets."""

import pandas as pd
import plotly.graph_objects as go

from interp.results.report import Figure, Section, Table, cell_text
from interp.results.style import BLUE, GREY, add_band, label, styled, whiskers


def plot_curve(table: pd.DataFrame, readout: str, unit: str, title: str, axis: str) -> go.Figure:
    """A readout over the size of nested sets, with 95 % intervals and those of random sets."""
    figure = go.Figure()
    x, base = table["size"].to_numpy(), table["baseline"].iloc[0]
    random = (table[table["n_random"] > 0], "random", "random_", "random sets", GREY)
    for rows, column, prefix, name, colour in (random, (table, "effect", "", "ablated", BLUE)):
        sizes, low, high = list(rows["size"]), rows[f"{prefix}low"], rows[f"{prefix}high"]
        add_band(figure, sizes, base + low, base + high, colour)
        figure.add_scatter(x=sizes, y=base + rows[column], name=name, line={"color": colour})
    figure.add_hline(y=base, line={"dash": "dot", "color": GREY}, annotation_text="unablated")
    figure.update_xaxes(type="log" if x.min() > 0 and x.max() > 16 else "linear", tickvals=x)
    axes = {"xaxis": {"title": axis}, "yaxis": {"title": f"{readout} ({unit})"}}
    return styled(figure, title, _note(table, readout), **axes)


def plot_bars(table: pd.DataFrame, readout: str, title: str) -> go.Figure:
    """The effect of each set beside that of its random sets, with 95 % intervals."""
    figure = go.Figure()
    names = [label(name) for name in table["set"]]
    figure.add_bar(
        x=names,
        y=table["effect"],
        error_y=whiskers(table["effect"], table["low"], table["high"]),
        name="ablated",
        marker={"color": BLUE},
        offsetgroup="ablated",
    )
    figure.add_scatter(
        x=names,
        y=table["random"],
        error_y=whiskers(table["random"], table["random_low"], table["random_high"]),
        mode="markers",
        marker={"color": GREY, "symbol": "line-ew-open", "size": 12},
        name="random sets",
        offsetgroup="random",
    )
    figure.update_layout(barmode="group", scattermode="group")  # side by side
    axes = {"xaxis": {"title": ""}, "yaxis": {"title": f"change of {readout}"}}
    return styled(figure, title, _note(table, readout), **axes)


def _note(table: pd.DataFrame, readout: str) -> str:
    of = "windows of neutral text" if readout == "nll" else "pairs"
    return f"mean of {table['n'].iloc[0]} {of}, 95 % intervals"


def readout_section(top: pd.DataFrame, readout: str, unit: str, plot: go.Figure) -> Section:
    """A readout's part of the page: its figure and the sets of largest effect."""
    says = (
        f"Blue: {readout} with the sets ablated; grey: with matched random sets; "
        f"{top['baseline'].iloc[0]:.3f} unablated. {strongest(top, readout, unit)}"
    )
    names = {"random": "random sets [central 95 %]", "n_random": "number of random sets"}
    drawn = Figure(f"Effect on {readout}", says, plot)
    return Section(readout, [drawn, Table("Largest effects", top, "", names)])


def strongest(top: pd.DataFrame, readout: str, unit: str) -> str:
    """The first row of the sets of largest effect, as a sentence."""
    row = top.iloc[0]
    random = f", beside {cell_text(float(row['random']))} of random sets" * bool(row["n_random"])
    effect = cell_text(float(row["effect"]))
    return f"The largest effect on {readout} is {effect} ({unit}), of {row['set']}{random}."
