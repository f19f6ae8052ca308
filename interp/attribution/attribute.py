"""The three calls: attribute the metric to edges, to nodes, or to the units of a site."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.activations import grad_drop_scores, ig_activation_scores
from interp.attribution.contrast import Contrast, contrasts
from interp.attribution.edges import kept, linearised_scores
from interp.attribution.estimators import (
    ESTIMATORS,
    IG_STEPS,
    estimator_named,
    linearise,
    node_estimator_named,
)
from interp.attribution.exact import exact_edges, exact_nodes
from interp.attribution.local import qk_edge_scores, qk_node_scores
from interp.attribution.nodes import NODE_SITES, node_scores, unit_scores
from interp.attribution.runs import run
from interp.attribution.scores import EdgeScores, NodeScores, UnitScores
from interp.data.pairs import PromptPairs, TokenPair, load_pairs, tokenise
from interp.data.prompts import mixed_positions
from interp.errors import DegenerateGap, InterpWarning, PlanError, did_you_mean
from interp.metrics import DEGENERATE, AnyMetric, as_metric
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import Site
from interp.progress import Progress, reported

EDGE_METHODS = ("exact", *ESTIMATORS, "eap-ig-activations", "eap-qk")
NODE_METHODS = ("exact", *ESTIMATORS)
UNIT_METHODS = (*ESTIMATORS, "eap-qk", "grad-drop")
Baseline = tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]
"""The metric of the clean and of the corrupt prompts."""
Rows = tuple[np.ndarray, Baseline]


def attribute_edges(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    at_once: int | None = None,
    progress: Progress | bool = True,
) -> EdgeScores:
    """How much the metric owes to each edge of the graph.

    Args:
        model: from `interp.load_model`.
        pairs: `PromptPairs`, or anything `load_pairs` takes.
        method: one of `EDGE_METHODS`; ``"exact"`` runs the model once per edge and pair.
        metric: ``"logit_diff"``, ``"logprob"``, ``"prob"``, or a differentiable function, as
            `interp.patch` takes it.
        steps: interpolation points, of the methods that integrate.
        at_once: pairs in a micro-batch.
        progress: called with (pairs done, pairs in all); True draws a bar where one is watched.

    Returns:
        `EdgeScores`; positive = the edge supports the answer.

    Raises:
        PlanError: unknown method or metric.
        DataError: no pair is usable.
        DegenerateGap: clean and corrupt prompts score the same.

    Source: each method's own; see `ESTIMATORS` and docs/attribution.md.
    """
    graph = Graph.of(model.arch)

    def rows(contrast: Contrast) -> Rows:
        found, metric = edges_by(model, contrast, method, steps)
        return np.stack([scores[graph.exists].float().numpy() for scores in found]), metric

    values, labels = _measure(model, pairs, metric, at_once, progress, rows)
    array = xr.DataArray(
        values.astype(np.float32), dims=("pair", "edge"), coords={"edge": list(graph.edge_names)}
    )
    return EdgeScores(values=array.assign_coords(pair=labels.pop("ids")), method=method, **labels)


def edges_by(
    model: Model, contrast: Contrast, method: str, steps: int | None = None
) -> tuple[Iterator[Float[Tensor, "source destination"]], Baseline]:
    """Edge scores of one contrast by any method's name, pair by pair, and the metric unpatched.

    Raises:
        PlanError: unknown method.
    """
    if method in ESTIMATORS:
        at = linearise(model, contrast, estimator_named(method, steps), kept(model))
        return linearised_scores(model, contrast, at), at.metric
    special = {
        "exact": _exact_edges,
        "eap-ig-activations": lambda m, c: ig_activation_scores(m, c, steps or IG_STEPS),
        "eap-qk": qk_edge_scores,
    }
    if method not in special:
        raise PlanError(
            f"unknown attribution method {method!r}. {did_you_mean(method, EDGE_METHODS)}"
        )
    if steps is not None and (method != "eap-ig-activations" or steps < 1):
        raise PlanError(
            f"{method!r} cannot take {steps} steps; 'eap-ig', 'eap-gl' and 'eap-ig-activations' "
            "take 1 or more."
        )
    return special[method](model, contrast), baseline(model, contrast)


def _exact_edges(model: Model, contrast: Contrast) -> Iterator[Float[Tensor, "source destination"]]:
    graph = Graph.of(model.arch)
    edges = [(int(s), int(d)) for s, d in graph.exists.nonzero()]
    for row in exact_edges(model, contrast, edges):
        scores = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.float64)
        scores[graph.exists] = row
        yield scores


def attribute_nodes(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    at_once: int | None = None,
    progress: Progress | bool = True,
) -> NodeScores:
    """How much the metric owes to the embedding, each head and each MLP, all tokens together.

    ``"exact"`` gives a node its corrupt activation and recomputes the rest (noising); the others
    approximate it. Arguments and errors as `attribute_edges`.
    """
    graph = Graph.of(model.arch)

    def rows(contrast: Contrast) -> Rows:
        if method == "exact":
            found = exact_nodes(model, contrast, range(graph.n_sources))
            return found.numpy(), baseline(model, contrast)
        at = linearise(model, contrast, node_estimator_named(method, steps), NODE_SITES)
        return node_scores(model, contrast, at).numpy(), at.metric

    values, labels = _measure(model, pairs, metric, at_once, progress, rows)
    array = xr.DataArray(
        values.astype(np.float32), dims=("pair", "node"), coords={"node": list(graph.sources)}
    )
    return NodeScores(values=array.assign_coords(pair=labels.pop("ids")), method=method, **labels)


def attribute(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    site: str,
    over: Sequence[str] | str = ("layer", "pos"),
    method: str = "eap-dg",
    metric: AnyMetric = "logit_diff",
    steps: int | None = None,
    at_once: int | None = None,
    progress: Progress | bool = True,
) -> UnitScores:
    """How much the metric owes to each unit of a site: what `interp.patch` would find, in one go.

    Compare with ``interp.patch(model, pairs, site, over, direction="noise")``.

    Args:
        model: from `interp.load_model`.
        pairs: `PromptPairs`, or anything `load_pairs` takes.
        site: a short site name.
        over: axes to keep: ``layer``, ``pos``, and ``head`` or ``neuron`` where the site has
            them; the others are summed.
        method: one of `UNIT_METHODS`; ``"eap"`` is attribution patching (AtP), ``"eap-qk"`` (of
            the sites q and k) and ``"grad-drop"`` are AtP*'s two corrections of it.
        metric: ``"logit_diff"``, ``"logprob"``, ``"prob"``, or a differentiable function, as
            `interp.patch` takes it.
        steps: interpolation points, of the methods that integrate.
        at_once: pairs in a micro-batch.
        progress: called with (pairs done, pairs in all); True draws a bar where one is watched.

    Returns:
        `UnitScores`, dims ``("pair", *over)``; NaN beyond a prompt's end.

    Raises:
        PlanError: the site or an axis does not exist in this model.

    Warns:
        InterpWarning: over ``pos``, pairs whose prompts differ in length or in where their spans
            are.
    """
    where, layer = model.site(site)
    axes, unit = checked_axes(where, layer, over)
    if method == "eap-qk" and where.name not in ("q", "k"):
        raise PlanError(f"'eap-qk' recomputes queries and keys: of {site!r} use 'eap'.")

    def rows(contrast: Contrast) -> Rows:
        sites = [where.name]
        if method == "eap-qk":
            found, read = {where.name: _qk_units(model, contrast, where)}, baseline(model, contrast)
        elif method == "grad-drop":
            found, read = grad_drop_scores(model, contrast, sites), baseline(model, contrast)
        else:
            at = linearise(model, contrast, node_estimator_named(method, steps), sites)
            found, read = unit_scores(model, contrast, at, sites), at.metric
        values = _aligned(found[where.name].numpy(), contrast)
        return values if "pos" in axes else np.nansum(values, 2, keepdims=True), read

    loaded = load_pairs(pairs)
    if "pos" in axes:
        _warn_of_mixed_positions(tokenise(model, loaded)[0])
    values, labels = _measure(model, loaded, metric, at_once, progress, rows)
    full = xr.DataArray(values.astype(np.float32), dims=("pair", "layer", "pos", unit))
    full = full.squeeze("pos", drop=True) if "pos" not in axes else full
    full = full.sum(unit, skipna=False) if unit not in axes else full
    full = full.transpose("pair", *axes)
    coords = {axis: list(range(full.sizes[axis])) for axis in axes}
    named = full.assign_coords({"pair": labels.pop("ids"), **coords})
    return UnitScores(values=named, method=f"{method} ({site})", **labels)


def checked_axes(
    site: Site, layer: int | None, over: Sequence[str] | str
) -> tuple[tuple[str, ...], str]:
    """The axes, and the name of the site's unit axis: ``"unit"`` where it has none to tell apart.

    Raises:
        PlanError: one cannot attribute to that over these axes, whatever the model.
    """
    axes = tuple(over.split(",")) if isinstance(over, str) else tuple(over)
    unit = {"head": "head", "kv_head": "head", "neuron": "neuron"}.get(site.units, "unit")
    allowed = ("layer", "pos", unit) if unit != "unit" else ("layer", "pos")
    wrong = [axis for axis in axes if axis not in allowed]
    if wrong or "layer" not in axes or layer is not None or len(set(axes)) != len(axes):
        raise PlanError(
            f"cannot attribute to {site.name!r} over {list(axes)}: name the site without a layer, "
            f"and 'layer' and some of {', '.join(allowed[1:])} as axes."
        )
    return axes, unit


def _warn_of_mixed_positions(pairs: Sequence[TokenPair]) -> None:
    mixed = mixed_positions([pair.clean for pair in pairs], [pair.roles for pair in pairs])
    if mixed:
        text = f"{mixed}; attribute over pairs of one template, or leave 'pos' out."
        warnings.warn(text, InterpWarning, stacklevel=3)


def _qk_units(model: Model, contrast: Contrast, site: Site) -> Float[Tensor, "pair layer pos unit"]:
    """QK-fixed scores of a site's own heads: a key serves all query heads of its group."""
    scores = qk_node_scores(model, contrast)["qk".index(site.name)]
    return scores.unflatten(-1, (model.n_units(site), -1)).sum(-1)


def _aligned(values: Float[np.ndarray, "pair layer pos unit"], contrast: Contrast) -> np.ndarray:
    """Positions counted from each prompt's first token; NaN beyond its last."""
    out = np.full_like(values, np.nan)
    for i, real in enumerate(contrast.mask.cpu().numpy()):
        out[i, :, : real.sum()] = values[i][:, real]
    return out


def _measure(
    model: Model,
    pairs: Any,
    metric: AnyMetric,
    at_once: int | None,
    progress: Progress | bool,
    rows: Callable[[Contrast], Rows],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run micro-batches through `rows`, and everything that labels a result."""
    started = time.perf_counter()
    loaded = load_pairs(pairs)
    usable, excluded = tokenise(model, loaded)
    parts, baselines, done = [], [], 0
    with reported(progress, "attribution", len(usable)) as report:
        for contrast in contrasts(model, usable, metric, at_once):
            values, metric_of = rows(contrast)
            parts.append(values)
            baselines.append([x.detach().double().cpu().numpy() for x in metric_of])
            done += len(contrast)
            report(done, len(usable))
    clean, corrupt = (np.concatenate(x) for x in zip(*baselines, strict=True))
    chosen = as_metric(metric)
    _check_gap(chosen.name, clean, corrupt, usable)
    ids = [pair.pair.id for pair in usable]
    series = [xr.DataArray(x, dims="pair", coords={"pair": ids}) for x in (clean, corrupt)]
    labels: Mapping[str, Any] = {
        "ids": ids,
        "clean": series[0],
        "corrupt": series[1],
        "graph": Graph.of(model.arch),
        "metric": chosen.name,
        "unit": chosen.unit,
        "model": model.name,
        "weights_hash": model.weights_hash,
        "source": loaded.source,
        "excluded": tuple(excluded),
        "prompts": tuple(dict.fromkeys(t for p in usable for t in (p.pair.clean, p.pair.corrupt))),
        "seconds": time.perf_counter() - started,
    }
    return _padded_stack(parts), dict(labels)


def baseline(model: Model, contrast: Contrast) -> Baseline:
    """The metric of every clean and every corrupt prompt, unpatched."""
    pair = torch.arange(len(contrast))
    with torch.no_grad():
        clean, corrupt = (
            contrast.read(
                run(model, contrast, contrast.calls.embeddings[which], pair, []).final, pair
            )
            for which in (contrast.clean, contrast.corrupt)
        )
    return clean, corrupt


def _padded_stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join micro-batches whose position axes may differ in length."""
    if parts[0].ndim < 4:
        return np.concatenate(parts)
    width = max(part.shape[2] for part in parts)
    padded = [
        np.pad(p, ((0, 0), (0, 0), (0, width - p.shape[2]), (0, 0)), constant_values=np.nan)
        for p in parts
    ]
    return np.concatenate(padded)


def _check_gap(
    metric: str, clean: np.ndarray, corrupt: np.ndarray, kept: Sequence[TokenPair]
) -> None:
    if not abs(clean.mean() - corrupt.mean()) >= DEGENERATE:
        raise DegenerateGap(
            f"degenerate clean/corrupt gap: mean {metric} is {clean.mean():.6g} on clean and "
            f"{corrupt.mean():.6g} on corrupt prompts ({len(kept)} pairs, first "
            f"{kept[0].pair.id!r}); choose pairs or a metric that tell them apart."
        )
