"""Figures and reports of edits: a comparison of methods, saved edits, and chosen layers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from circuits.editing.evaluation.metrics import DAMAGE
from circuits.editing.methods import Placement
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, excluded_counts
from interp.results.style import BLUE, GREY, PALETTE, label, styled, whiskers

if TYPE_CHECKING:
    from circuits.editing.comparing import Comparison
    from circuits.editing.edits import Edit
    from circuits.editing.files import SavedEdits
    from circuits.editing.placement import SavedPlacement

COLUMNS = ("multi_hop", "control_two_hop", "net_multi_hop", "efficacy", "paraphrase", "specificity")
AXES = ("control_two_hop", "multi_hop")
NAMES = {
    "multi_hop": "multi-hop",
    "control_two_hop": "control two-hop",
    "net_multi_hop": "net multi-hop",
    "kl": "divergence",
    "perplexity": "perplexity ratio",
    "position": "edited hop",
}
CHANCE = "Separation: area under the ROC curve; .5 is chance, 1 tells them apart without error."


def plot_frontier(result: "Comparison") -> go.Figure:
    """Multi-hop accuracy against control two-hop accuracy: up is used, right is unharmed.

    On the falling diagonal an edit answers as many questions that need it as it breaks that do
    not: that is where a change that spreads everywhere lies.
    """
    table: Any = result.table().set_index(["arm", "metric"])
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[1, 0], mode="lines", line={"dash": "dot", "color": GREY}, name="net 0"
    )
    for i, arm in enumerate(result.arms):
        if not {(arm, name) for name in AXES} <= set(table.index):
            continue  # its cases have no such question
        x, y = (table.loc[(arm, name)] for name in AXES)
        figure.add_scatter(
            x=[x["value"]],
            y=[y["value"]],
            error_x=_whiskers(x),
            error_y=_whiskers(y),
            mode="markers+text",
            text=[label(arm)],
            textposition="top center",
            marker={"color": PALETTE[i % len(PALETTE)], "size": 9},
            name=arm,
            showlegend=False,
        )
    n = result.summary()["n_filtered"]
    return styled(
        figure,
        f"{result.model}: edits used two hops later, n = {n}",
        xaxis={"title": "control two-hop questions still right", "range": [-0.03, 1.05]},
        yaxis={"title": "multi-hop accuracy (any of three)", "range": [-0.03, 1.05]},
        height=560,
    )


def plot_separation(placement: Placement, model: str) -> go.Figure:
    """How well each deep layer's gains tell a fact's questions from others, and what was chosen."""
    layers = list(placement.separation)
    chosen = [layer in placement.value for layer in layers]
    figure = go.Figure()
    for name, colour, mine in (("value layers", BLUE, True), ("others", GREY, False)):
        at = [layer for layer, one in zip(layers, chosen, strict=True) if one is mine]
        y = [placement.separation[layer] for layer in at]
        figure.add_bar(x=at, y=y, name=name, marker={"color": colour})
    return styled(
        figure,
        f"{model}: which layer tells a fact's questions from others",
        xaxis={"title": "layer", "dtick": 1},
        yaxis={"title": "separation (AUROC; .5 is chance)", "range": [0.5, 1]},
        height=380,
    )


def _whiskers(line: Any) -> dict[str, Any]:
    return whiskers([line["value"]], [line["low"]], [line["high"]])


# --- a comparison ------------------------------------------------------------------------------


def comparison_report(result: "Comparison") -> Report:
    """The frontier, the tables, and what was left out."""
    said = result.summary()
    lead = _best(result)
    how = (
        "the edits made one on top of the other, all questions asked after the last"
        if result.options["sequential"]
        else "each edited on its own, asked under its own edit"
    )
    drawn = Figure(
        "Edits used two hops later",
        "Up: more multi-hop questions answered by the edit; right: fewer others broken. On the "
        f"dotted line an edit gains as much as it breaks. {lead}",
        plot_frontier(result),
    )
    all_cases = Table("All cases, in %", _wide(result.table(), ["arm"]), names=NAMES)
    by_hop = _wide(result.table(["position"]), ["arm", "position"])
    return Report(
        title=f"Edits compared: {result.model}",
        lead=f"{said['n_filtered']} of {said['n_cases']} cases of {result.source}; {how}. {lead}",
        sections=[
            Section("Accuracy", [drawn, all_cases]),
            Section("By the position of the edited hop", [Table("In %", by_hop, names=NAMES)]),
            Section("Other text", _damage(result)),
            *_layers(result.placement, result.model),
        ],
        method=(
            "Brackets are 95 % bootstrap intervals over clusters of cases; one cluster alone has "
            "no interval. A method with + gets the two-hop prompts and preserved questions that "
            "ace gets.",
            f"Settings: {cell_text({k: v for k, v in result.options.items() if k != 'prefix'})}. "
            f"{result.seconds:.0f} s in all.",
        ),
        excluded=excluded_counts(said["excluded"]),
        provenance=result.provenance | {"weights": result.weights_hash},
    )


def _best(result: "Comparison") -> str:
    """Which method has the largest multi-hop accuracy, and what it costs."""
    table: Any = result.table().set_index(["arm", "metric"])["value"].unstack()
    if "multi_hop" not in table:
        return "These cases have no multi-hop question."
    best = table["multi_hop"].idxmax()
    kept = table.reindex(columns=AXES).loc[best, "control_two_hop"]
    beside = (
        f"with {100 * kept:.1f} % of the control two-hop questions still right"
        if math.isfinite(kept)
        else "and no control two-hop question was asked"
    )
    return (
        f"The largest multi-hop accuracy is that of {best}: "
        f"{100 * table.loc[best, 'multi_hop']:.1f} %, {beside}."
    )


def _damage(result: "Comparison") -> list[Part]:
    note = (
        "Fluency: n-gram entropy of what is generated after the edited cloze, in bits. On neutral "
        "text: divergence from the unedited model, in nats per token, and perplexity over the "
        "unedited model's."
    )
    frame = _wide(result.table(), ["arm"], DAMAGE, 1, 3)
    return [Table("Text beside the questions", frame, note, NAMES)]


def _layers(placement: Placement | None, model: str) -> list[Section]:
    """The chosen layers, and the picture of what chose them, where that is known."""
    if placement is None:
        return []
    said = f"Query layers {cell_text(placement.query)}; value layers {cell_text(placement.value)}."
    parts: list[Part] = [f"{said} Chosen by: {placement.by}."]
    if placement.separation:
        best = max(placement.separation, key=lambda layer: placement.separation[layer])
        says = (
            f"Blue: the value layers. The largest separation is "
            f"{cell_text(placement.separation[best])}, in layer {best}. {CHANCE}"
        )
        figure = plot_separation(placement, model)
        parts.append(Figure("Separation of a fact's questions from others", says, figure))
    return [Section("Why these layers" if placement.separation else "Layers", parts)]


def _wide(
    table: pd.DataFrame,
    keys: list[str],
    columns: Sequence[str] = COLUMNS,
    times: float = 100,
    digits: int = 1,
) -> pd.DataFrame:
    """One row per method (and position), one column per metric: a value and its interval."""
    rows: Any = table[table["metric"].isin(columns)]
    cells = [
        f"{times * value:.{digits}f} {_bounds(times * low, times * high, digits)}"
        for value, low, high in zip(rows["value"], rows["low"], rows["high"], strict=True)
    ]
    wide = rows.assign(cell=cells).pivot(index=keys, columns="metric", values="cell")
    order = [key for key in dict.fromkeys(map(tuple, rows[keys].to_numpy()))]
    at = [key if len(keys) > 1 else key[0] for key in order]
    return wide.loc[at, [c for c in columns if c in wide]].reset_index()


def _bounds(low: float, high: float, digits: int) -> str:
    known = math.isfinite(low) and math.isfinite(high)
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if known else "(no interval)"


# --- edits -------------------------------------------------------------------------------------


def edit_report(edit: "Edit") -> Report:
    """What an edit writes, where, and how well its search ended."""
    n = len(edit.facts)
    return Report(
        title=f"Edit {edit.id} of {edit.model} by {edit.method}",
        lead=f"{n} fact{'s' * (n != 1)} in {len(edit.changes)} changed weight matrices.",
        sections=[Section("Facts", [_facts([edit])]), Section("Changes", _changes(edit))],
        method=(
            "Probability: of the target on the first prompt at the end of each stage's search.",
            f"Seed {edit.seed}; {edit.seconds:.1f} s."
            + (f" Made on top of edits {', '.join(edit.after)}." if edit.after else ""),
        ),
        excluded=excluded_counts({note: 1 for note in edit.skipped}),
        provenance=dict(edit.provenance) | {"weights": edit.weights_hash},
    )


def ledger_report(saved: "SavedEdits") -> Report:
    """The edits of a ledger, in the order in which they are applied."""
    edits = saved.edits
    n = len(edits)
    models = ", ".join(dict.fromkeys(edit.model for edit in edits)) or "none"
    rows = [
        {"edit": edit.id, "method": edit.method, "facts": len(edit.facts)}
        | {"changed matrices": len(edit.changes), "on top of": list(edit.after)}
        | {"made": edit.provenance.get("made"), "seconds": edit.seconds}
        for edit in edits
    ]
    skipped = {f"edit {edit.id}: {note}": 1 for edit in edits for note in edit.skipped}
    last: Mapping[str, Any] = edits[-1].provenance if edits else {}
    return Report(
        title=f"Ledger of {n} edit{'s' * (n != 1)}: {saved.path.name}",
        lead=f"Model: {models}. The edits are applied in this order.",
        sections=[
            Section("Edits", [Table("Edits, in order", pd.DataFrame(rows))]),
            Section("Facts", [_facts(edits)]),
        ],
        method=("Provenance and command are those of the last edit.",),
        excluded=excluded_counts(skipped),
        provenance=last,
    )


def _facts(edits: Sequence["Edit"]) -> Table:
    rows = [
        {"fact": fact.cloze, "target": fact.target, "subject": fact.subject, "edit": edit.id}
        | {"probability of the target": [stage[i] for stage in edit.p if i < len(stage)]}
        for edit in edits
        for i, fact in enumerate(edit.facts)
    ]
    return Table("Facts written", pd.DataFrame(rows), "Probability: one number per stage.")


def _changes(edit: "Edit") -> list[Part]:
    rows = [
        {"matrix": f"block {one.layer}, {one.site}", "rank": one.up.shape[1]}
        for one in edit.changes
    ]
    return [Table("Changed weight matrices", pd.DataFrame(rows))]


def placement_report(saved: "SavedPlacement") -> Report:
    """The layers chosen for the ACE presets, and why."""
    at = saved.placement
    rows = [
        {"what": "query layers", "value": list(at.query)},
        {"what": "value layers", "value": list(at.value)},
        {"what": "gain at which value neurons fire", "value": at.threshold},
        {"what": "NLL at which the search for query neurons ends", "value": at.until},
    ]
    table = pd.DataFrame(rows).assign(value=[cell_text(row["value"]) for row in rows])
    return Report(
        title=f"Layers for edits of {saved.model}",
        lead=f"Query layers {cell_text(at.query)}; value layers {cell_text(at.value)}.",
        sections=[
            Section("Settings", [Table("What was chosen", table)]),
            *_layers(at, saved.model),
        ],
        method=(f"Chosen by: {at.by or 'not recorded'}.",),
        provenance=saved.provenance,
    )
