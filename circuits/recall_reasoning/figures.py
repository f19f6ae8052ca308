"""Figures of a study: own against other loss, score maps, random controls; and a page of them."""

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.recall_reasoning.cells import CELLS, design_named
from circuits.recall_reasoning.scoring import RULES
from interp.figures import STYLE

if TYPE_CHECKING:
    from circuits.recall_reasoning.replicate import Replication
    from circuits.recall_reasoning.result import RecallReasoning

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#7b3294")
GREY = "150,150,150"


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
        fillcolor=f"rgba({GREY},0.2)",
        line_width=0,
        annotation_text="counts as intact",
        annotation_position="bottom right",
    )
    for ability, colour in zip(
        design_named(result.settings.design).abilities, COLOURS, strict=False
    ):
        own = table[table["ability"] == ability.name]
        name = f"{ability.name}: loses {'+'.join(ability.own)}, not {'+'.join(ability.others)}?"
        _points(figure, own[~own["chosen"]], colour, f"{ability.name}, other circuits", False)
        _points(figure, own[own["chosen"]], colour, name, True)
    kind = result.settings.ablations[0]
    seeds = ", ".join(map(str, result.settings.seeds))
    note = f"{kind} ablation, test split, split seeds {seeds}; bars: 95 % over bridge entities"
    figure.update_layout(
        title=f"Dissociation on {html.escape(result.model)}<br><sup>{note}</sup>",
        xaxis={"title": "own effect lost (% of total effect)", "zeroline": True},
        yaxis={"title": "other effect lost (%)", "zeroline": True},
        template="plotly_white",
        font={"size": 13},
        legend={"orientation": "h", "y": -0.2},
        height=560,
        margin={"t": 80, "r": 30},
    )
    return figure


def _points(
    figure: go.Figure, rows: pd.DataFrame, colour: str, name: str, with_bounds: bool
) -> None:
    if not len(rows):
        return
    bars = {}
    for axis, side in (("error_x", "own_effect"), ("error_y", "other_effect")):
        if with_bounds:
            bars[axis] = {
                "type": "data",
                "symmetric": False,
                "array": 100 * (rows[f"{side}_high"] - rows[side]).to_numpy(),
                "arrayminus": 100 * (rows[side] - rows[f"{side}_low"]).to_numpy(),
                "thickness": 1.2,
            }
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
        text=[f"{c}, seed {s}" for c, s in zip(rows["circuit"], rows["seed"], strict=True)],
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
            colorscale="RdBu_r",
            colorbar={"title": "% of total effect"},
            showscale=column == len(maps),
            row=1,
            col=column,
            hovertemplate="layer %{y}, head %{x}: %{z:.1f} %<extra></extra>",
        )
        figure.update_xaxes(title="head", dtick=1, row=1, col=column)
    figure.update_yaxes(title="layer", row=1, col=1)
    figure.update_layout(
        title=f"Where heads matter to one ability more than to the other, {result.model}",
        template="plotly_white",
        height=520,
        margin={"t": 90},
    )
    return figure


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
            line={"color": f"rgb({GREY})"},
            showlegend=False,
        )
    figure.add_scatter(
        x=100 * control["selectivity"],
        y=control["ability"],
        mode="markers",
        marker={"symbol": "diamond", "size": 13, "color": "#d62728"},
        name="chosen circuit, one a split seed",
    )
    n = control.groupby(["seed", "circuit"])["n_random"].sum().min() if len(control) else 0
    figure.update_layout(
        title=f"Chosen circuits against {n} or more random sets of the same or nearby layers",
        xaxis={"title": "own − other effect lost (% of total effect)"},
        template="plotly_white",
        height=160 + 110 * max(1, draws["ability"].nunique()),
        margin={"l": 140, "t": 70},
        legend={"orientation": "h", "y": -0.15},
    )
    return figure


def _of_depth(table: Any) -> Any:
    return table[(table["reading"] == "effect") & table["control"].isin(["layer", "near"])]


def study_page(result: "RecallReasoning", title: str) -> str:
    """A study as a self-contained HTML page: verdict, figures, tables."""
    design = design_named(result.settings.design)
    cells = "".join(f"<li><b>{c}</b>: {html.escape(CELLS[c].says)}</li>" for c in design.cells)
    said = "".join(f"<li>{html.escape(line)}</li>" for line in result.verdict)
    figures = [plot_dissociation(result), plot_control(result), plot_scores(result)]
    drawn = [
        f.to_html(full_html=False, include_plotlyjs=i == 0, div_id=f"figure-{i}")
        for i, f in enumerate(figures)
    ]
    tables = {
        "Single dissociations of the chosen circuits": _brief(result.chosen),
        "Double dissociations": result.tables["doubles"],
        "Random controls": result.tables["control"],
        "Cells: what the model gets right": result.tables["cells"],
        "Perplexity of neutral text": _of_chosen(result, "neutral"),
        "Heads one by one and together": result.tables["backup"],
        "Circuits of one relation each": result.tables["relations"],
        "Firing of neurons, by circuit": _firing(result),
        "Overlap of circuits over split seeds": result.overlap(),
    }
    shown = "".join(f"<h3>{name}</h3>{_table(table)}" for name, table in tables.items())
    margins = result.settings
    return _page(
        title,
        f"<ul>{said}</ul><ul class='muted'>{cells}</ul>{drawn[0]}"
        f"<p class='muted'>needed: at least {100 * margins.min_drop:.0f} points of accuracy lost, "
        f"interval above 0; intact: accuracy within ±{100 * margins.accuracy_margin:.0f} points "
        f"and logit difference within ±{100 * margins.effect_margin:.0f} % of the total effect, by "
        "equivalence tests; specific: above the 99th percentile of random sets: those of as many "
        "units a layer, of nearby layers where a layer holds few units, and of any.</p>"
        f"{drawn[1]}{drawn[2]}{shown}",
        result.provenance,
    )


def replication_page(result: "Replication", title: str) -> str:
    """A replication as a page: the confound table and the labels of layers and heads."""
    sizes: Any = result.layers.groupby(["prompts", "label"]).size()
    labels = sizes.reset_index(name="layers")
    return _page(
        title,
        "<p>The published statistics compare prompts and intervene on nothing. Where length "
        "alone tells the two sets apart (AUC 1), whatever depends on length is significant.</p>"
        f"{_table(result.confounds.T.reset_index())}<h3>Layer labels</h3>{_table(labels)}",
        result.provenance,
    )


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
    """Mean over the neurons of each circuit; the table holds a row a neuron."""
    table: Any = result.tables["firing"]
    by = table.groupby(["seed", "circuit"], sort=False)
    return by[["own", "other", "specificity"]].mean().reset_index()


def _table(table: pd.DataFrame) -> str:
    made = table.to_html(index=False, float_format=lambda x: f"{x:.3f}", border=0)
    return f"<div style='overflow-x:auto'>{made}</div>"


def _page(title: str, body: str, made: dict[str, object]) -> str:
    note = f"{made.get('made')}; weights {made.get('weights')}; {made.get('versions')}"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{body}<hr><p class='muted'>{html.escape(note)}</p>"
        "</body></html>"
    )
