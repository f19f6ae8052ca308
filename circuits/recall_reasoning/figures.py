"""Figures of a study: own against other loss, score maps, random controls; and its report."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.recall_reasoning.cells import CELLS, design_named
from circuits.recall_reasoning.scoring import RULES
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.style import GREY, PALETTE, RED, label, styled, translucent, whiskers

if TYPE_CHECKING:
    from circuits.recall_reasoning.replicate import Replication
    from circuits.recall_reasoning.result import RecallReasoning

NAMES = {
    "own_accuracy": "own accuracy lost [95 % interval]",
    "other_accuracy": "other accuracy lost [95 % interval]",
    "own_effect": "own effect lost [95 % interval]",
    "other_effect": "other effect lost [95 % interval]",
    "effect_auc": "effect AUC",
}


def plot_dissociation(result: "RecallReasoning") -> go.Figure:
    """Every tested circuit: what its own ability loses, and what the other does.

    A circuit that dissociates lies far to the right, within the grey band around 0. Chosen
    circuits are large and carry their intervals; the others are shown without.
    """
    table: Any = result.tables["singles"]
    table = table[table["ablation"] == result.settings.ablations[0]]
    figure = go.Figure()
    margin = 100 * result.settings.effect_margin
    figure.add_hrect(
        y0=-margin,
        y1=margin,
        fillcolor=translucent(GREY),
        line_width=0,
        annotation_text="counts as intact",
        annotation_position="bottom right",
    )
    for ability, colour in zip(
        design_named(result.settings.design).abilities, PALETTE, strict=False
    ):
        own = table[table["ability"] == ability.name]
        name = f"{ability.name}: loses {'+'.join(ability.own)}, not {'+'.join(ability.others)}?"
        _points(figure, own[~own["chosen"]], colour, f"{ability.name}, other circuits", False)
        _points(figure, own[own["chosen"]], colour, name, True)
    kind = result.settings.ablations[0]
    seeds = ", ".join(map(str, result.settings.seeds))
    note = f"{kind} ablation, test split, split seeds {seeds}; bars: 95 % over bridge entities"
    return styled(
        figure,
        f"Dissociation on {result.model}",
        note,
        xaxis={"title": "own effect lost (% of total effect)", "zeroline": True},
        yaxis={"title": "other effect lost (%)", "zeroline": True},
        height=560,
    )


def _points(
    figure: go.Figure, rows: pd.DataFrame, colour: str, name: str, with_bounds: bool
) -> None:
    if not len(rows):
        return
    bars = {}
    for axis, side in (("error_x", "own_effect"), ("error_y", "other_effect")):
        if with_bounds:
            bounds = (100 * rows[f"{side}{end}"] for end in ("", "_low", "_high"))
            bars[axis] = whiskers(*bounds)
    figure.add_scatter(
        x=100 * rows["own_effect"],
        y=100 * rows["other_effect"],
        mode="markers",
        name=name,
        marker={
            "color": colour,
            "size": 13 if with_bounds else 6,
            "opacity": 1 if with_bounds else 0.45,
        },
        text=[label(f"{c}, seed {s}") for c, s in zip(rows["circuit"], rows["seed"], strict=True)],
        hovertemplate="%{text}<br>own %{x:.0f} %, other %{y:.0f} %<extra></extra>",
        **bars,
    )


def plot_scores(result: "RecallReasoning", rule: str = "difference") -> go.Figure:
    """A map of layer x head for each ability: its heads' scores by a rule, mean over seeds."""
    scores = result.scores["head"].mean("seed")
    abilities = design_named(result.settings.design).abilities
    titles = [f"{a.name}: {'+'.join(a.own)} − {'+'.join(a.others)}" for a in abilities]
    figure = make_subplots(1, len(abilities), subplot_titles=titles, shared_yaxes=True)
    maps = [
        100
        * RULES[rule](
            scores.sel(cell=list(a.own)).mean("cell").values,
            scores.sel(cell=list(a.others)).mean("cell").values,
        )
        for a in abilities
    ]
    largest = max(float(np.abs(m).max()) for m in maps)
    for column, values in enumerate(maps, 1):
        figure.add_heatmap(
            z=values,
            zmin=-largest,
            zmax=largest,
            colorbar={"title": "% of total effect"},
            showscale=column == len(maps),
            row=1,
            col=column,
            hovertemplate="layer %{y}, head %{x}: %{z:.1f} %<extra></extra>",
        )
        figure.update_xaxes(title="head", dtick=1, row=1, col=column)
    figure.update_yaxes(title="layer", dtick=max(1, len(maps[0]) // 12), row=1, col=1)
    title = f"Where heads matter to one ability more than to the other, {result.model}"
    return styled(figure, title, height=520, width=80 + 340 * len(maps), margin={"t": 90})


def plot_control(result: "RecallReasoning") -> go.Figure:
    """Selectivity (own minus other loss) of each chosen circuit and of its random sets.

    Those are of its layers, and of nearby layers where its own hold too few.
    """
    draws, control = (_of_depth(result.tables[name]) for name in ("draws", "control"))
    figure = go.Figure()
    for ability in design_named(result.settings.design).abilities:
        own = draws[draws["ability"] == ability.name]
        figure.add_violin(
            x=100 * own["selectivity"],
            y=[ability.name] * len(own),
            orientation="h",
            points="all",
            pointpos=0,
            jitter=0.5,
            marker={"size": 3, "opacity": 0.4},
            line={"color": GREY},
            showlegend=False,
        )
    figure.add_scatter(
        x=100 * control["selectivity"],
        y=control["ability"],
        mode="markers",
        marker={"symbol": "diamond", "size": 13, "color": RED},
        name="chosen circuit, one per split seed",
    )
    n = control.groupby(["seed", "circuit"])["n_random"].sum().min() if len(control) else 0
    return styled(
        figure,
        f"Chosen circuits against {n} or more random sets of the same or nearby layers",
        xaxis={"title": "own − other effect lost (% of total)"},
        height=220 + 110 * max(1, draws["ability"].nunique()),
    )


def _of_depth(table: Any) -> Any:
    return table[(table["reading"] == "effect") & table["control"].isin(["layer", "near"])]


# --- reports -----------------------------------------------------------------------------------


def study_report(result: "RecallReasoning") -> Report:
    """The verdict, the figures and the tables of a study."""
    cells = design_named(result.settings.design).cells
    return Report(
        title=f"Recall versus reasoning on {result.model}",
        lead=result.verdict[0],
        sections=[
            Section(
                "Verdict",
                [list(result.verdict), "Cells:", [f"{name}: {CELLS[name].says}" for name in cells]],
            ),
            Section("Dissociation", [_dissociation(result), *_tables(result, OUTCOMES)]),
            Section("Random controls", [_controls(result), *_tables(result, CONTROLS)]),
            Section("Where the heads are", [_maps(result), *_tables(result, PARTS)]),
        ],
        method=_method(result),
        excluded=_dropped(result),
        provenance=result.provenance,
    )


OUTCOMES = {
    "chosen": "Single dissociations of the chosen circuits",
    "doubles": "Double dissociations",
    "cells": "Cells: what the model gets right",
}
CONTROLS = {"control": "Random controls", "neutral": "Perplexity of neutral text"}
PARTS = {
    "backup": "Heads one by one and together",
    "relations": "Circuits of one relation each",
    "firing": "Firing of neurons, mean per circuit",
    "overlap": "Overlap of circuits over split seeds",
}


def _tables(result: "RecallReasoning", captions: dict[str, str]) -> list[Table]:
    made: dict[str, Any] = {
        "chosen": lambda: _brief(result.chosen),
        "neutral": lambda: _of_chosen(result, "neutral"),
        "firing": lambda: _firing(result),
        "overlap": result.overlap,
    }
    frames = {name: made[name]() if name in made else result.tables[name] for name in captions}
    return [
        Table(caption, frames[name], names=NAMES)
        for name, caption in captions.items()
        if len(frames[name])
    ]


def _dissociation(result: "RecallReasoning") -> Figure:
    chosen = result.chosen
    held = sum(chosen["holds"].tolist())
    says = (
        "Right: the circuit's own ability is lost; within the grey band the other is intact. "
        f"Large points are the chosen circuits: {held} of {len(chosen)} dissociate."
    )
    return Figure("What each circuit's ablation costs", says, plot_dissociation(result))


def _controls(result: "RecallReasoning") -> Figure:
    control = _of_depth(result.tables["control"])
    parts = [
        f"{name} {100 * rows['selectivity'].mean():.0f} %"
        for name, rows in control.groupby("ability", sort=False)
    ]
    says = (
        "Diamonds: chosen circuits; violins: random sets. Mean of the chosen circuits: "
        f"{', '.join(parts) or 'none'}."
    )
    return Figure("Selectivity beside random sets", says, plot_control(result))


def _maps(result: "RecallReasoning") -> Figure:
    figure: Any = plot_scores(result)
    best: list[str] = []
    for ability, trace in zip(
        design_named(result.settings.design).abilities, figure.data, strict=True
    ):
        z = np.asarray(trace.z)
        layer, head = np.unravel_index(np.argmax(z), z.shape)
        best.append(f"{ability.name}: layer {layer}, head {head} ({z[layer, head]:.1f} %)")
    says = f"Blue: matters more to the map's own ability. Largest: {'; '.join(best)}."
    return Figure("Heads that one ability needs more than the other", says, figure)


def _method(result: "RecallReasoning") -> tuple[str, ...]:
    s = result.settings
    return (
        f"Needed: at least {100 * s.min_drop:.0f} points of accuracy lost, interval above 0. "
        f"Intact: accuracy within ±{100 * s.accuracy_margin:.0f} points and logit difference "
        f"within ±{100 * s.effect_margin:.0f} % of the total effect, by equivalence tests. "
        "Specific: above the 99th percentile of random sets: those of as many units per layer, of "
        "nearby layers where a layer holds few units, and of any.",
        f"Settings: {cell_text(s.record())}. {result.seconds:.0f} s.",
    )


def _dropped(result: "RecallReasoning") -> pd.DataFrame:
    """Pairs that were left out, over all seeds, by reason."""
    table: Any = result.tables["dropped"]
    if "reason" not in table:
        return excluded_counts({})
    counts = table.groupby("reason", sort=False).size()
    return excluded_counts({str(reason): int(n) for reason, n in counts.items()})


def replication_report(result: "Replication") -> Report:
    """The confound table and the labels of layers."""
    sizes: Any = result.layers.groupby(["prompts", "label"]).size()
    labels = sizes.reset_index(name="layers")
    sets = result.confounds.to_dict("records")
    figures = [str(name) for name in result.confounds if name != "prompts"]
    rows = [{"figure": _words(f)} | {str(one["prompts"]): one[f] for one in sets} for f in figures]
    table = pd.DataFrame(rows, dtype=object)  # counts stay whole numbers
    lengths = [f"{one['prompts']} {cell_text(float(one['length_auc']))}" for one in sets]
    return Report(
        title=f"Published statistics on {result.model}",
        lead=f"AUC of prompt length alone: {', '.join(lengths)}.",
        sections=[
            Section(
                "What length alone explains",
                [Table("Prompts, and what is called specialised", table), Table("Layers", labels)],
            )
        ],
        method=(
            "The published statistics compare prompts and intervene on nothing. Where length "
            "alone tells the two sets apart (AUC 1), whatever depends on length is significant.",
        ),
        provenance=result.provenance,
    )


def _words(figure: str) -> str:
    """The name of a figure in the confound table."""
    return figure.replace("neurons_neurons", "neurons").replace("_", " ").replace("auc", "AUC")


def _brief(table: pd.DataFrame) -> pd.DataFrame:
    kept = ["seed", "ability", "circuit"]
    for side in ("own", "other"):
        for key in ("accuracy", "effect"):
            kept += [f"{side}_{key}", f"{side}_{key}_low", f"{side}_{key}_high"]
    return table.loc[:, [*kept, "needed", "intact", "specific", "holds"]]


def _of_chosen(result: "RecallReasoning", name: str) -> pd.DataFrame:
    table: Any = result.tables[name]
    return table[table["circuit"].isin(set(result.chosen["circuit"]))]


def _firing(result: "RecallReasoning") -> pd.DataFrame:
    """Mean over the neurons of each circuit; the table holds one row per neuron."""
    table: Any = result.tables["firing"]
    by = table.groupby(["seed", "circuit"], sort=False)
    return by[["own", "other", "specificity"]].mean().reset_index()
