"""Attribute the metric to edges, to nodes, or to the units of a site: three calls, and one by name.

The latter also resumes in a run folder, micro-batch by micro-batch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, plain_runs
from interp.attribution.edges import EdgeMatrices, ig_activation_scores, kept, linearised_scores
from interp.attribution.estimators import ESTIMATORS, IG_STEPS, estimator_named, linearise
from interp.attribution.exact import exact_edge_scores, exact_nodes
from interp.attribution.micro_batches import AnyPairs, AttributionRun, Baseline, Rows, Scored
from interp.attribution.nodes import (
    NODE_SITES,
    by_position,
    grad_drop_scores,
    node_scores,
    qk_edge_scores,
    qk_node_scores,
    unit_scores,
)
from interp.attribution.scores import EdgeScores, NodeScores, Scores, UnitScores
from interp.data.pairs import AnswerMode, PromptPairs
from interp.errors import PlanError, did_you_mean
from interp.metrics import AnyMetric, as_metric
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import AXES_OF, Site, parse_site
from interp.progress import Progress
from interp.results.run_folder import RunFolder, Steps, identity, names_of

EDGE_METHODS = ("exact", *ESTIMATORS, "eap-ig-activations", "eap-qk")
NODE_METHODS = ("exact", *ESTIMATORS)
UNIT_METHODS = (*ESTIMATORS, "eap-qk", "grad-drop")


def attribute_edges(
    model: Model,
    pairs: AnyPairs,
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    at_once: int | None = None,
    progress: Progress | bool = True,
    *,
    answers: AnswerMode = "whole",
) -> EdgeScores:
    """How much the metric owes to each edge of the graph; positive = it supports the answer.

    `pairs` is anything `load_pairs` takes; `method` one of `EDGE_METHODS`, of which ``"exact"``
    runs the model once per edge and pair; `metric` ``"logit_diff"``, ``"logprob"``, ``"prob"``, or
    a differentiable function, as `interp.patch` takes it; `steps` the interpolation points of the
    methods that integrate; `at_once` the pairs in a micro-batch. `progress` is called with (pairs
    done, pairs in all); True draws a bar where one is watched. `answers` is as in `interp.patch`:
    of whole answers, all tokens count, those of the answers themselves included.

    Warns:
        InterpWarning: tokens without a partner in the other prompt, at which nothing changes;
            ``result.warnings`` says so, too.

    Raises:
        PlanError: unknown method or metric.
        DataError: no pair is usable.
        DegenerateGap: clean and corrupt prompts score the same.

    Source: each method's own; see `ESTIMATORS` and docs/attribution.md.
    """
    run = AttributionRun(model, pairs, method, metric, answers, at_once, progress)
    return run.measured(*_edges(model, method, steps))


def _edges(model: Model, method: str, steps: int | None) -> Scored[EdgeScores]:
    graph = Graph.of(model.arch)

    def rows(contrast: Contrast) -> Rows:
        found, read = edges_by(model, contrast, method, steps)
        values = np.stack([scores[graph.exists].float().numpy() for scores in found])
        return xr.DataArray(values, dims=("pair", "edge")), read

    return EdgeScores, rows, {"edge": graph.edge_names}


def attribute_nodes(
    model: Model,
    pairs: AnyPairs,
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    at_once: int | None = None,
    progress: Progress | bool = True,
    *,
    answers: AnswerMode = "whole",
) -> NodeScores:
    """How much the metric owes to the embedding, each head and each MLP, all tokens together.

    ``"exact"`` gives a node its corrupt activation and recomputes the rest (noising); the others
    approximate it. Arguments and errors as in `attribute_edges`.
    """
    run = AttributionRun(model, pairs, method, metric, answers, at_once, progress)
    return run.measured(*_nodes(model, method, steps))


def _nodes(model: Model, method: str, steps: int | None) -> Scored[NodeScores]:
    graph = Graph.of(model.arch)

    def rows(contrast: Contrast) -> Rows:
        if method == "exact":
            values = exact_nodes(model, contrast, range(graph.n_sources))
            read = baseline(model, contrast)
        else:
            estimator = estimator_named(method, steps, of_nodes=True)
            at = linearise(model, contrast, estimator, NODE_SITES)
            values, read = node_scores(model, contrast, at), at.metric
        return xr.DataArray(values.numpy(), dims=("pair", "node")), read

    return NodeScores, rows, {"node": graph.sources}


def attribute(
    model: Model,
    pairs: AnyPairs,
    site: str,
    over: Sequence[str] | str = ("layer", "pos"),
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    at_once: int | None = None,
    progress: Progress | bool = True,
    *,
    answers: AnswerMode = "whole",
) -> UnitScores:
    """How much the metric owes to each unit of a site: what `interp.patch` would find, in one go.

    Compare with ``interp.patch(model, pairs, site, over, direction="noise")``. `site` is a short
    site name; `over` the axes to keep: ``layer``, ``pos``, and ``head``, ``neuron`` or ``expert``
    where the site has them; the others are summed. `method` is one of `UNIT_METHODS`; ``"eap"`` is
    attribution patching (AtP), ``"eap-qk"`` (of the sites q and k) and ``"grad-drop"`` are AtP*'s
    two corrections of it. Dims are ``("pair", *over)``; positions are those of the clean prompts,
    without the answers, NaN beyond a prompt's end and where a token has no partner. Over ``pos``,
    prompts that differ in length or in where their spans are raise an `InterpWarning`. All else as
    in `attribute_edges`, and `PlanError` where this model has no such site or axis.
    """
    scored = _units(model, site, over, method, steps)
    run = AttributionRun(model, pairs, f"{method} ({site})", metric, answers, at_once, progress)
    return run.measured(*scored)


def _units(
    model: Model, site: str, over: Sequence[str] | str, method: str, steps: int | None
) -> Scored[UnitScores]:
    where, layer = model.site(site)
    axes, unit = checked_axes(where, layer, over)
    if method == "eap-qk" and where.name not in ("q", "k"):
        raise PlanError(f"'eap-qk' recomputes queries and keys: of {site!r} use 'eap'.")

    def rows(contrast: Contrast) -> Rows:
        found, read = _units_by(model, contrast, where, method, steps)
        if unit == "expert":  # of neurons, too
            found = found.unflatten(-1, (model.n_along(unit, where), -1)).sum(-1)
        values = by_position(found.numpy(), contrast)
        places = {"pos": range(values.shape[2])}
        array = xr.DataArray(values, dims=("pair", "layer", "pos", unit), coords=places)
        array = array if "pos" in axes else array.sum("pos")
        array = array if unit in axes else array.sum(unit, skipna=False)
        return array.transpose("pair", *axes), read

    return UnitScores, rows, {"layer": model.layers_with(where)}


def attribute_to(
    model: Model,
    pairs: PromptPairs,
    of: str = "edges",
    over: str | None = None,
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    *,
    answers: AnswerMode = "whole",
    out: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Attribute to what a name says: ``"edges"``, ``"nodes"``, or the units of a site.

    `over` are the axes of a site, comma-separated (by default ``layer,pos``). With `out`, a run
    folder, a stopped run resumes there and a finished one is loaded; `force` replaces another run,
    or a damaged one, that it holds; `seed`, of the bootstrap, is recorded. Else as in the three
    calls, and `PlanError` where the method does not attribute to that, or it has no such axes;
    `RunFolderError` where `out` holds another run, or something else.
    """
    refuse_mismatch(of, over, method)
    name = method if of in ("edges", "nodes") else f"{method} ({of})"

    def measured(into: Steps) -> Scores:
        run = AttributionRun(model, pairs, name, metric, answers, None, progress or False, into)
        if of == "edges":
            return run.measured(*_edges(model, method, steps))
        if of == "nodes":
            return run.measured(*_nodes(model, method, steps))
        return run.measured(*_units(model, of, over or "layer,pos", method, steps))

    pairs = pairs.rendered(model)
    if out is None:
        return measured(Steps())
    options = {"of": of, "over": over, "method": method, "steps": steps, "answers": answers}
    options |= {"metric": as_metric(metric).identity, "seed": seed}
    options |= names_of(pairs) | identity(model)
    with RunFolder.open(out, "attribute", options, unit="pairs", force=force) as run:
        made = not run.finished
        if made:
            scores = measured(run)
            run.finish(lambda at: scores.save(at, {"seed": seed, "weights": model.weights_hash}))
    return Scores.load(out) if made else Scores.load(out).warned()


def refuse_mismatch(of: str, over: str | None, method: str) -> None:
    """Raise where a method cannot attribute to that, whatever the model; errors as above."""
    known = {"edges": EDGE_METHODS, "nodes": NODE_METHODS}.get(of, UNIT_METHODS)
    if method not in known:
        raise PlanError(f"no method {method!r} scores {of}. {did_you_mean(method, known)}")
    if over is not None and of in ("edges", "nodes"):
        raise PlanError(f"{of} have no axes {over!r}; leave `over` out, or name a site, such as z.")
    if of not in ("edges", "nodes"):
        checked_axes(*parse_site(of), over or "layer,pos")


# --- one contrast ------------------------------------------------------------------------------


def edges_by(
    model: Model, contrast: Contrast, method: str, steps: int | None = None
) -> tuple[EdgeMatrices, Baseline]:
    """Edge scores of one contrast by any method's name, pair by pair, and the metric unpatched."""
    if method in ESTIMATORS:
        at = linearise(model, contrast, estimator_named(method, steps), kept(model))
        return linearised_scores(model, contrast, at), at.metric
    if method not in EDGE_METHODS:
        known = did_you_mean(method, EDGE_METHODS)
        raise PlanError(f"unknown attribution method {method!r}. {known}")
    if steps is not None and (method != "eap-ig-activations" or steps < 1):
        raise PlanError(
            f"{method!r} cannot take {steps} steps; 'eap-ig', 'eap-gl' and 'eap-ig-activations' "
            "take 1 or more."
        )
    if method == "eap-ig-activations":
        found = ig_activation_scores(model, contrast, steps or IG_STEPS)
    else:
        found = {"exact": exact_edge_scores, "eap-qk": qk_edge_scores}[method](model, contrast)
    return found, baseline(model, contrast)


def _units_by(
    model: Model, contrast: Contrast, site: Site, method: str, steps: int | None
) -> tuple[Float[Tensor, "pair layer pos unit"], Baseline]:
    if method == "eap-qk":  # a key serves all query heads of its group
        scores = qk_node_scores(model, contrast)["qk".index(site.name)]
        by_head = scores.unflatten(-1, (model.n_units(site), -1)).sum(-1)
        return by_head, baseline(model, contrast)
    if method == "grad-drop":
        found = grad_drop_scores(model, contrast, [site.name])
        return found[site.name], baseline(model, contrast)
    at = linearise(model, contrast, estimator_named(method, steps, of_nodes=True), [site.name])
    return unit_scores(model, contrast, at, [site.name])[site.name], at.metric


def baseline(model: Model, contrast: Contrast) -> Baseline:
    """The metric of every clean and every corrupt prompt, unpatched."""
    with torch.no_grad():
        clean, corrupt = (
            contrast.read(done.final, contrast.pair) for done in plain_runs(model, contrast, [])
        )
    return clean, corrupt


def checked_axes(
    site: Site, layer: int | None, over: Sequence[str] | str
) -> tuple[tuple[str, ...], str]:
    """The axes, and the name of the site's unit axis: ``"unit"`` where none can be told apart."""
    axes = tuple(over.split(",") if isinstance(over, str) else over)
    known = AXES_OF[site.units]
    unit = next((axis for axis in known if axis in axes), known[0] if known else "unit")
    allowed = ("layer", "pos", *known)
    wrong = [axis for axis in axes if axis not in allowed]
    if wrong or "layer" not in axes or layer is not None or len(set(axes)) != len(axes):
        raise PlanError(
            f"cannot attribute to {site.name!r} over {list(axes)}: name the site without a layer, "
            f"and 'layer' and some of {', '.join(allowed[1:])} as axes."
        )
    return axes, unit
