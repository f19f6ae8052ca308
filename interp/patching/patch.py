"""Activation patching: replace one activation by its value in the other prompt, read a metric."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interp.data.answers import described
from interp.data.pairs import (
    AnswerMode,
    Excluded,
    PromptPairs,
    TokenPair,
    load_pairs,
    tokenise,
    unpaired,
)
from interp.metrics import AnyMetric, refuse_no_gap
from interp.model.model import Model
from interp.model.sites import UNITS
from interp.patching.cells import SweepArrays, run_sweep
from interp.patching.result import PatchResult
from interp.patching.sweep import Axes, Direction, Neurons, Sweep
from interp.progress import Progress, reported
from interp.results.run_folder import ARRAYS, RunFolder, identity, names_of

SHARD = 16
"""Pairs in a step of a run folder: what a killed run loses at most."""


def patch(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    site: str = "resid_pre",
    over: Axes = ("layer", "pos"),
    metric: AnyMetric = "logit_diff",
    direction: Direction = "denoise",
    at: str = "all",
    layers: Sequence[int] | None = None,
    neurons: Neurons = 1,
    tokens_at_once: int | None = None,
    progress: Progress | bool = True,
    *,
    answers: AnswerMode = "whole",
    out: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
) -> PatchResult:
    """Patch `site` at every cell of `over`, for every pair, in one pass over the layers.

    Denoising runs the corrupt prompt and puts clean activations in (is the cell sufficient to
    restore the answer?); noising runs the clean prompt and puts corrupt ones in (is it
    necessary?). Cells are exact: every number equals a separate forward pass with a hook.

    Args:
        model: from `interp.load_model`.
        pairs: `PromptPairs`, or anything `load_pairs` takes.
        site: a short name (``"z"``) or a hook name (``"blocks.7.attn.hook_z"``: that layer).
        over: axes of the sweep, in order: ``layer``; ``pos`` (each clean token) or ``span`` (each
            named span, its last token, and the prompt's last token); ``head`` or ``neuron``.
            What is not an axis is patched together: all layers, all positions, all heads. A token
            is patched with its partner in the other prompt (`interp.data.alignment`), and not at
            all where it has none.
        metric: a name in `interp.metrics.METRICS`, or a function: (logits [row, vocab]) or
            (logits, first tokens of both answers [row, 2]) -> [row]; see
            `interp.metrics.AnyMetric`, and `interp.metric` for functions of whole answers.
        direction: ``"denoise"`` or ``"noise"``.
        at: where no position axis is given, which positions to patch: ``"all"``, ``"last"``,
            a span's name, or ``"<span>_last"``.
        layers: a subset of layers.
        neurons: group size of the ``neuron`` axis, or the groups themselves.
        tokens_at_once: most tokens in the batch; by default from free memory, halved whenever
            memory runs out.
        progress: called with (pairs done, pairs in all); True draws a bar where one is watched.
        answers: ``"whole"``: all tokens of the answers, read behind the prompt (only tokens of
            the prompt are patched); ``"first"``: the first token of each alone.
        out: a run folder: a stopped run goes on where it was, and a finished one is loaded.
        seed: of the bootstrap; recorded in `out`.
        force: replace another run, or a damaged one, that `out` holds.

    Returns:
        A `PatchResult`; ``result.values`` has dims ``("pair", *over)``.

    Warns:
        InterpWarning: tokens without a partner; over ``pos``, pairs whose clean prompts differ in
            length or in where their spans are. ``result.warnings`` says so, too.

    Raises:
        PlanError: the site, a layer, an axis or the metric does not exist.
        DataError: no pair is usable, or a span is missing from some pair.
        DegenerateGap: clean and corrupt prompts score the same, so nothing can be localised.
        OutOfMemory: even one row at a time does not fit.
        RunFolderError: `out` holds another run, or something else.

    Source: Heimersheim & Nanda, arXiv 2404.15255; Zhang & Nanda, arXiv 2309.16042.
    """
    sweep = Sweep.of(model, site, over, metric, direction, at, layers, neurons)
    loaded = load_pairs(pairs).rendered(model)
    if out is None:
        return _measured(model, sweep, loaded, answers, tokens_at_once, progress).warned()
    named = {"site": site, "over": ",".join(sweep.over), "metric": sweep.metric.identity}
    named |= {"direction": direction, "at": at, "layers": layers, "neurons": neurons, "seed": seed}
    named |= {"answers": answers} | names_of(loaded) | identity(model)
    with RunFolder.open(out, "patch", named, unit="pairs", force=force) as run:
        if not run.finished:
            made = _measured(model, sweep, loaded, answers, tokens_at_once, progress, run)
            note = {"seed": seed, "weights": model.weights_hash}
            run.finish(lambda at: made.save(at, note))
    return PatchResult.load(out).warned()


def _measured(
    model: Model,
    sweep: Sweep,
    pairs: PromptPairs,
    answers: AnswerMode,
    tokens_at_once: int | None,
    progress: Progress | bool,
    run: RunFolder | None = None,
) -> PatchResult:
    """The whole sweep at once; in a run folder in steps of `SHARD` pairs, read back or measured."""
    usable, excluded = tokenise(model, pairs, answers)
    places = sweep.places(usable)

    def shard(
        some: Sequence[TokenPair], counted: Callable[[int, int], None] | None = None
    ) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        arrays = asdict(run_sweep(model, sweep, some, places, tokens_at_once, counted))
        return arrays | {"seconds": np.array([time.perf_counter() - started])}

    steps: list[dict[str, np.ndarray]] = []
    with reported(progress, f"patching {sweep.site.name}", len(usable)) as report:
        if run is None:
            steps.append(shard(usable, report))
        else:
            for first in range(0, len(usable), SHARD):
                some = usable[first : first + SHARD]
                steps.append(run.step(f"{first:06d}", partial(shard, some), ARRAYS))
                run.count(first + len(some), len(usable))
                report(first + len(some), len(usable))
    joined = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
    seconds = float(joined.pop("seconds").sum())
    arrays = SweepArrays(**joined)
    read = described((pair.answers for pair in usable), answers)
    return _labelled(model, sweep, pairs.source, usable, excluded, arrays, seconds, read)


def _labelled(
    model: Model,
    sweep: Sweep,
    source: str,
    pairs: Sequence[TokenPair],
    excluded: Sequence[Excluded],
    arrays: SweepArrays,
    seconds: float,
    read: str,
) -> PatchResult:
    """Put coordinates on a sweep's arrays, refusing a gap in which nothing can be localised."""
    ids = [pair.pair.id for pair in pairs]
    refuse_no_gap(sweep.metric, arrays.clean, arrays.corrupt, ids)
    place = "span" if "span" in sweep.over else "pos"
    unit = next((axis for axis in sweep.over if axis in UNITS), UNITS[0])
    labels = {"layer": sweep.layers, place: sweep.places(pairs), unit: sweep.unit_labels}
    values = xr.DataArray(arrays.values, dims=("pair", "layer", place, unit))
    values = values.squeeze([axis for axis in labels if axis not in sweep.over], drop=True)
    tokens = [[model.token(t) for t in pair.clean] for pair in pairs]
    coords: dict[str, Any] = {"pair": ids} | {axis: list(labels[axis]) for axis in sweep.over}
    if "pos" in sweep.over:
        width = len(labels["pos"])
        coords["token"] = (("pair", "pos"), [row + [""] * (width - len(row)) for row in tokens])
    return PatchResult(
        values=values.transpose("pair", *sweep.over).assign_coords(coords),
        clean=xr.DataArray(arrays.clean, dims="pair", coords={"pair": ids}),
        corrupt=xr.DataArray(arrays.corrupt, dims="pair", coords={"pair": ids}),
        excluded=tuple(excluded),
        model=model.name,
        site=sweep.site.name,
        metric=sweep.metric.name,
        unit=sweep.metric.unit,
        direction=sweep.direction,
        at=sweep.at,
        source=source,
        tokens=tuple(map(tuple, tokens)),
        roles=tuple(pair.roles for pair in pairs),
        unpaired=unpaired(pairs),
        seconds=seconds,
        answers=read,
        provenance={"dtype": str(model.dtype)},
    )
