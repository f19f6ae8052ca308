"""Activation patching: replace one activation by its value in the other prompt, read a metric."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp.data.pairs import Excluded, PromptPairs, TokenPair, load_pairs, tokenise
from interp.errors import DegenerateGap, InterpWarning
from interp.metrics import DEGENERATE, AnyMetric
from interp.model.model import Model
from interp.patching.cells import SweepArrays, run_sweep
from interp.patching.result import PatchResult
from interp.patching.sweep import Direction, Sweep, plan_sweep
from interp.progress import Progress, reported


def patch(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    site: str = "resid_pre",
    over: Sequence[str] | str = ("layer", "pos"),
    metric: AnyMetric = "logit_diff",
    direction: Direction = "denoise",
    at: str = "all",
    layers: Sequence[int] | None = None,
    neurons: int | Sequence[Sequence[int]] = 1,
    tokens_at_once: int | None = None,
    progress: Progress | bool = True,
) -> PatchResult:
    """Patch `site` at every cell of `over`, for every pair, in one pass over the layers.

    Denoising runs the corrupt prompt and puts clean activations in (is the cell sufficient to
    restore the answer?); noising runs the clean prompt and puts corrupt ones in (is it
    necessary?). Cells are exact: every number equals a separate forward pass with a hook.

    Args:
        model: from `interp.load_model`.
        pairs: `PromptPairs`, or anything `load_pairs` takes.
        site: a short name (``"z"``) or a hook name (``"blocks.7.attn.hook_z"``: that layer).
        over: axes of the sweep, in order: ``layer``; ``pos`` (each token) or ``span`` (each
            named span, its last token, and the prompt's last token); ``head`` or ``neuron``.
            What is not an axis is patched together: all layers, all positions, all heads.
        metric: a name in `interp.metrics.METRICS`, or a function: (logits [row, vocab]) or
            (logits, token ids of both answers [row, 2]) -> [row]; see `interp.metrics.AnyMetric`.
        direction: ``"denoise"`` or ``"noise"``.
        at: where no position axis is given, which positions to patch: ``"all"``, ``"last"``,
            a span's name, or ``"<span>_last"``.
        layers: a subset of layers.
        neurons: group size of the ``neuron`` axis, or the groups themselves.
        tokens_at_once: most tokens in the batch; by default from free memory, halved whenever
            memory runs out.
        progress: called with (pairs done, pairs in all); True draws a bar where one is watched.

    Returns:
        A `PatchResult`; ``result.values`` has dims ``("pair", *over)``.

    Warns:
        InterpWarning: over ``pos``, pairs whose prompts differ in length or in where their spans
            are; ``result.warnings`` says so, too.

    Raises:
        PlanError: the site, a layer, or an axis does not exist in this model.
        DataError: no pair is usable, or a span is missing from some pair.
        PlanError: unknown metric, or a function of another form.
        DegenerateGap: clean and corrupt prompts score the same, so nothing can be localised.
        OutOfMemory: even one row at a time does not fit.

    Source: Heimersheim & Nanda, arXiv 2404.15255; Zhang & Nanda, arXiv 2309.16042.
    """
    started = time.perf_counter()
    sweep = plan_sweep(model, site, over, metric, direction, at, layers, neurons)
    loaded = load_pairs(pairs)
    kept, excluded = tokenise(model, loaded)
    places = sweep.places(kept)
    with reported(progress, f"patching {site}", len(kept)) as report:
        arrays = run_sweep(model, sweep, kept, places, tokens_at_once, report)
    seconds = time.perf_counter() - started
    result = label(model, sweep, loaded.source, kept, excluded, arrays, seconds)
    for text in result.warnings:
        warnings.warn(text, InterpWarning, stacklevel=2)
    return result


def label(
    model: Model,
    sweep: Sweep,
    source: str,
    kept: Sequence[TokenPair],
    excluded: Sequence[Excluded],
    arrays: SweepArrays,
    seconds: float,
) -> PatchResult:
    """Put coordinates on a sweep's arrays, refusing a gap in which nothing can be localised.

    Raises:
        DegenerateGap: the mean gap is not finite, or below `DEGENERATE`.
    """
    _check_gap(sweep, kept, arrays)
    ids = [pair.pair.id for pair in kept]
    clean, corrupt = (
        xr.DataArray(values, dims="pair", coords={"pair": ids})
        for values in (arrays.clean, arrays.corrupt)
    )
    return PatchResult(
        values=_labelled(model, sweep, kept, arrays.values).assign_coords(pair=ids),
        clean=clean,
        corrupt=corrupt,
        excluded=tuple(excluded),
        model=model.name,
        site=sweep.site.name,
        metric=sweep.metric.name,
        unit=sweep.metric.unit,
        direction=sweep.direction,
        at=sweep.at,
        source=source,
        tokens=tuple(tuple(model.token(t) for t in pair.clean) for pair in kept),
        roles=tuple(pair.roles for pair in kept),
        seconds=seconds,
    )


def _check_gap(sweep: Sweep, kept: Sequence[TokenPair], arrays: SweepArrays) -> None:
    clean, corrupt = float(arrays.clean.mean()), float(arrays.corrupt.mean())
    if not abs(clean - corrupt) >= DEGENERATE:
        raise DegenerateGap(
            f"degenerate clean/corrupt gap: mean {sweep.metric.name} is {clean:.6g} on clean and "
            f"{corrupt:.6g} on corrupt prompts ({len(kept)} pairs, first {kept[0].pair.id!r}); "
            "choose pairs or a metric that tell them apart."
        )


def _labelled(
    model: Model, sweep: Sweep, kept: Sequence[TokenPair], values: np.ndarray
) -> xr.DataArray:
    place = "span" if "span" in sweep.over else "pos"
    unit = "neuron" if "neuron" in sweep.over else "head"
    labels = {"layer": sweep.layers, place: sweep.places(kept), unit: sweep.unit_labels}
    full = xr.DataArray(values, dims=("pair", "layer", place, unit))
    full = full.squeeze([axis for axis in labels if axis not in sweep.over], drop=True)
    coords: dict[str, Any] = {axis: list(labels[axis]) for axis in sweep.over}
    if "pos" in sweep.over:
        width = len(labels["pos"])
        tokens = [[model.token(t) for t in p.clean] + [""] * (width - len(p.clean)) for p in kept]
        coords["token"] = (("pair", "pos"), tokens)
    return full.transpose("pair", *sweep.over).assign_coords(coords)
