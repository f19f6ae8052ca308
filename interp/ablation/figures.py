"""Figures of ablations: a curve over nested sets, bars over others, beside random sets."""

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from interp.ablation.readouts import unit_of
from interp.model.components import nested
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_rows
from interp.results.style import BLUE, GREY, add_band, label, styled, whiskers

if TYPE_CHECKING:
    from interp.ablation.result import AblationResult

SHOWN = 40
"""Bars drawn at most: those of the largest effects."""


def plot_ablation(result: "AblationResult", readout: str) -> go.Figure:
    """Draw one readout, with 95 % intervals and the central 95 % of the random sets.

    Args:
        result: from `interp.ablate`.
        readout: which.
    """
    curve = nested(result.sets)
    table = result.table(readout) if curve else result.top(SHOWN, readout)
    figure = go.Figure()
    (_draw_curve if curve else _draw_bars)(figure, table)
    kept = any(one.among for one in result.sets.values())
    axis = "components kept, all others ablated" if kept else "components ablated"
    of = "windows of neutral text" if readout == "nll" else "pairs"
    note = f"mean of {table['n'].iloc[0]} {of}, 95 % intervals"
    return styled(
        figure,
        f"{result.kind} ablation on {result.model}",
        note,
        xaxis={"title": axis if curve else ""},
        yaxis={"title": f"{readout} ({unit_of(readout)})" if curve else f"change of {readout}"},
    )


def _draw_curve(figure: go.Figure, table: pd.DataFrame) -> None:
    x, base = table["size"].to_numpy(), table["baseline"].iloc[0]
    controlled = table[table["n_random"] > 0]
    for rows, prefix, name, colour in (
        (controlled, "random", "random sets", GREY),
        (table, "effect", "ablated", BLUE),
    ):
        low, high = ("low", "high") if prefix == "effect" else ("random_low", "random_high")
        sizes = list(rows["size"])
        add_band(figure, sizes, base + rows[low], base + rows[high], colour)
        figure.add_scatter(x=sizes, y=base + rows[prefix], name=name, line={"color": colour})
    figure.add_hline(y=base, line={"dash": "dot", "color": GREY}, annotation_text="unablated")
    figure.update_xaxes(type="log" if x.min() > 0 and x.max() > 16 else "linear", tickvals=x)


def _draw_bars(figure: go.Figure, table: pd.DataFrame) -> None:
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


# --- report ------------------------------------------------------------------------------------


def report(result: "AblationResult") -> Report:
    """Of each readout the figure and the sets of largest effect, as a report."""
    n = len(result.sets)
    without = f" {len(result.uncontrolled)} without random sets to compare." * bool(
        result.uncontrolled
    )
    first = _strongest(result, result.readouts[0])
    sections = [_section(result, readout) for readout in result.readouts]
    if result.uncontrolled:
        sections.append(Section("Sets without random sets", [_uncontrolled(result)]))
    return Report(
        title=f"{result.kind} ablation on {result.model}, {result.source}",
        lead=f"{n} set{'s' * (n != 1)} of components, {result.n_pairs} pairs of {result.source}."
        f"{without} {first}",
        sections=sections,
        method=(
            "Effect: ablated - baseline, mean over examples, with its 95 % bootstrap interval; "
            "random sets: the mean effect of matched random sets and the central 95 % of theirs. "
            "p: how often a random set does at least as much; adjusted over all sets "
            "(Benjamini-Hochberg).",
            f"ComponentKind of ablation: {result.kind}"
            + (f", mean over {result.mean_over}" if result.mean_over else "")
            + f"; seed {result.seed}; the runs took {result.seconds:.2f} s.",
        ),
        excluded=excluded_rows(result.excluded),
        provenance=result.provenance,
    )


def _uncontrolled(result: "AblationResult") -> Table:
    rows = pd.DataFrame({"set": list(result.uncontrolled), "why": result.uncontrolled.values()})
    return Table("No random set could be matched", rows)


def _strongest(result: "AblationResult", readout: str) -> str:
    row = result.top(1, readout).iloc[0]
    beside = (
        "" if not row["n_random"] else f", beside {cell_text(float(row['random']))} of random sets"
    )
    return (
        f"The largest effect on {readout} is {cell_text(float(row['effect']))} "
        f"({unit_of(readout)}), of {row['set']}{beside}."
    )


def _section(result: "AblationResult", readout: str) -> Section:
    baseline = float(result.reading(readout)["baseline"].mean())
    says = (
        f"Blue: {readout} with the sets ablated; grey: with matched random sets; "
        f"{baseline:.3f} unablated. {_strongest(result, readout)}"
    )
    drawn = Figure(f"Effect on {readout}", says, plot_ablation(result, readout))
    names = {"random": "random sets [central 95 %]", "n_random": "number of random sets"}
    return Section(readout, [drawn, Table("Largest effects", result.top(15, readout), "", names)])
