"""Whether an attribution graph is true: what interventions say of what it shows.

- ``faithfulness``: f = (m(graph) - m(nothing)) / (m(prompt) - m(nothing)), where all heads,
  neurons and MLPs outside the graph have their activation in the corrupt prompt (of a prompt
  alone: their mean over given prompts, or zero); also for fewer nodes, those of the graph that
  carry most. Beside it random nodes of the same layers and positions (``random``), and as many
  by activation x gradient (``gradient``). m(nothing) has all replaced; embeddings stay.
- ``ablation``: each of the strongest nodes replaced alone: what attribution predicts, and what
  the metric loses.
- ``denoising``: each of them given its activation in the clean prompt, in the corrupt one: what
  the metric gains (there is none of a prompt alone). A chord averages over the way from one
  prompt to the other; ablation sees one end of it, denoising the other (Heimersheim and Nanda
  2024, arXiv 2404.15255), so attribution is also compared with the mean of the two.
- ``edge``: each of the strongest edges cut alone, by path patching.
- ``scaling``: the shown nodes of one layer brought to a part of their distance to the reference.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from circuits.explanation.assembly import Node, named, run_again, shown_nodes, strongest
from circuits.explanation.attribution import LinearRun
from circuits.explanation.edge_runs import edge_effects, strongest_edges
from circuits.explanation.graph import AttributionGraph
from circuits.explanation.node_runs import NodeRuns, RowEdit
from circuits.explanation.restricted import carrying
from circuits.explanation.tracer_records import rows_of
from interp.attribution.contrast import gradients
from interp.attribution.estimators import ESTIMATORS, linearise
from interp.data.prompts import Prompts
from interp.errors import DataError, PlanError
from interp.model.model import Model
from interp.statistics import spearman

SIZES = (25, 50, 100, 200)
"""Numbers of nodes at which faithfulness is measured."""
FACTORS = (0.0, 0.5, 2.0)
"""Parts of their distance to the reference that groups of nodes are brought to."""
N_GROUPS = 8
"""Layers whose shown nodes are scaled together: the last ones that have strong nodes."""
COLUMNS = ("check", "what", "n", "predicted", "actual")


def check(
    model: Model,
    graph: AttributionGraph,
    *,
    means_over: Prompts | None = None,
    sizes: Sequence[int] = SIZES,
    n_random: int = 3,
    n_ablated: int = 50,
    n_edges: int = 20,
    seed: int = 0,
) -> AttributionGraph:
    """Test a graph by interventions on its own prompt; returned with `checks` and more scores.

    Args:
        model: the model that the graph was made on.
        graph: a graph of `explain`.
        means_over: of a prompt alone, prompts over whose tokens replaced nodes are averaged; by
            default they are zero, which few models take well.
        sizes: numbers of nodes for faithfulness; larger ones than the graph has are left out.
        n_random: random sets per size.
        n_ablated: how many of the strongest nodes are ablated one by one.
        n_edges: how many of the strongest edges are cut one by one.
        seed: of the random sets.

    Returns:
        the graph with `checks` (``check``, ``what``, ``n`` nodes, ``predicted`` and ``actual``:
        of faithfulness the part kept, f, which attribution predicts as `explained`; else changes
        of the metric) and the scores ``faithfulness`` (of all shown nodes), ``rank correlation``
        and ``slope`` of actual on predicted effects, and of ``denoising``, ``edge`` and
        ``scaling`` likewise; ``two-sided``: of the mean of ablation and denoising.

    Raises:
        PlanError: the graph is of other weights, or means are given where there is a corrupt
            prompt.
        DataError: the graph does not say of which prompt it is (an imported one).
    """
    run = run_again(model, graph)
    if means_over is not None and run.prompt.paired:
        raise PlanError("nodes are replaced by the corrupt prompt's; leave `means_over` out.")
    runs, nodes = NodeRuns.against(run, means_over), shown_nodes(graph)
    if not nodes:
        raise DataError("the graph shows no heads, neurons or MLPs that could be tested.")
    rows, labels = _faithfulness_rows(run, nodes, sizes, n_random, seed)
    singles = [RowEdit([node]) for node in nodes[:n_ablated]]
    layers = sorted({node[1] for node in nodes[:n_ablated]})[-N_GROUPS:]
    groups = [
        RowEdit([node for node in nodes if node[1] == layer], factor=factor)
        for layer in layers
        for factor in FACTORS
    ]
    back = [RowEdit([node], denoise=True) for node in nodes[:n_ablated] if run.prompt.paired]
    edits = [RowEdit([], True), RowEdit([]), *rows, *singles, *groups, *back]
    empty, full, *values = runs.values(edits)
    found = [
        (*label, len(edit.nodes), np.nan, (value - empty) / (full - empty))
        for label, edit, value in zip(labels, rows, values, strict=False)
    ]
    changes = [float(full - value) for value in values[len(rows) : len(values) - len(back)]]
    changes += [float(value - run.low_value) for value in values[len(values) - len(back) :]]
    names = ["ablation"] * len(singles) + ["scaling"] * len(groups) + ["denoising"] * len(back)
    for name, edit, change in zip(names, [*singles, *groups, *back], changes, strict=True):
        first = edit.nodes[0]
        what = f"layer {first[1]} x {edit.factor:g}" if name == "scaling" else named(first)
        predicted = sum(runs.predicted(node, edit.factor) for node in edit.nodes)
        found.append((name, what, len(edit.nodes), predicted, change))
    found += _edge_rows(runs, graph, nodes, n_edges, float(full))
    table = pd.DataFrame(found, columns=list(COLUMNS))
    scores = dict(graph.scores) | _scores(table) | {"nothing": float(empty)}
    settings = {**graph.settings, "reference": runs.what, "check seed": seed}
    return replace(graph, checks=table, scores=scores, settings=settings)


def _edge_rows(
    runs: NodeRuns, graph: AttributionGraph, nodes: Sequence[Node], n: int, full: float
) -> list[tuple[Any, ...]]:
    """What attribution says of the strongest edges, and what cutting each takes."""
    by_id = {named(node): node for node in nodes}
    for name, kind, pos in graph.nodes[["id", "kind", "pos"]].itertuples(index=False):
        if kind in ("embedding", "logits"):
            by_id[name] = (kind, -1, -1, pos)
    rows = list(rows_of(strongest_edges(graph, n), "source", "target", "branch", "weight"))
    cuts = [(by_id[source], by_id[target], branch) for source, target, branch, _ in rows]
    actual = edge_effects(runs, cuts, full)
    return [
        ("edge", f"{source} -> {target} {branch}".rstrip(), 1, weight, effect)
        for (source, target, branch, weight), effect in zip(rows, actual, strict=True)
    ]


def _faithfulness_rows(
    run: LinearRun, nodes: Sequence[Node], sizes: Sequence[int], n_random: int, seed: int
) -> tuple[list[RowEdit], list[tuple[str, str]]]:
    """Rows of the graph, of random nodes and of nodes by activation x gradient, at each size."""
    rng = np.random.default_rng(seed)
    counts = sorted({*(n for n in sizes if n < len(nodes)), len(nodes)})
    by_gradient = activation_gradient(run, counts[-1])
    rows, labels = list[RowEdit](), list[tuple[str, str]]()
    for n in counts:
        own = carrying(run, n, nodes)
        sets = [("graph", own), ("gradient", by_gradient[:n])]
        sets += [("random", random_like(run, own, rng)) for _ in range(n_random)]
        rows += [RowEdit(kept, keep=True) for _, kept in sets]
        labels += [("faithfulness", name) for name, _ in sets]
    return rows, labels


def activation_gradient(run: LinearRun, n: int) -> list[Node]:
    """The nodes of the largest activation x gradient by size: no chords, no corrupt prompt."""
    sites = ("z", "mlp_post", "mlp_out")
    at = linearise(run.model, run.prompt.contrast, ESTIMATORS["eap"], sites)
    flat = [x for site in sites for x in at.run.kept[site]]
    found = iter(gradients(at.total, flat))
    own = run.prompt.columns
    slopes = {site: [next(found)[0, own].float() for _ in at.run.kept[site]] for site in sites}
    # as a prompt alone, with the ordinary gradient instead of RelP's multipliers
    alone = replace(run.prompt, paired=False)
    return strongest(replace(run, prompt=alone, multipliers=run.multipliers | slopes), n)


def random_like(run: LinearRun, nodes: Sequence[Node], rng: np.random.Generator) -> list[Node]:
    """As many random nodes of each kind in the same layers and at the same positions."""
    cells = Counter((kind, layer, pos) for kind, layer, _, pos in nodes)
    found: list[Node] = []
    for (kind, layer, pos), n in cells.items():
        own = run.model.arch.layers[layer]
        if kind == "mlp":
            found.append((kind, layer, -1, pos))
            continue
        width = own.n_heads if kind == "head" else own.d_mlp
        found += [(kind, layer, int(u), pos) for u in rng.choice(width, n, replace=False)]
    return found


def _scores(table: pd.DataFrame) -> dict[str, float]:
    """Faithfulness of all shown nodes, and how predicted effects agree with actual ones."""
    graphs: Any = table[(table["check"] == "faithfulness") & (table["what"] == "graph")]
    scores = {"faithfulness": float(graphs["actual"].iloc[-1])}
    by_check: Any = table.groupby("check")
    effects = {name: rows[["predicted", "actual"]].to_numpy(float) for name, rows in by_check}
    if "denoising" in effects:
        effects["two-sided"] = (effects["ablation"] + effects["denoising"]) / 2
    for name in ("ablation", "denoising", "two-sided", "edge", "scaling"):
        if len(effects.get(name, ())) > 2:
            x, y = effects[name].T
            prefix = "" if name == "ablation" else f"{name} "
            scores[f"{prefix}rank correlation"] = spearman(x, y, n_resamples=1).value
            scores[f"{prefix}slope"] = float((x * y).sum() / (x * x).sum())
    return scores
