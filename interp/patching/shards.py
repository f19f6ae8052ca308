"""`patch_into`: a patching sweep into a run folder, shard of pairs by shard of pairs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from interp.data.pairs import PromptPairs, TokenPair, tokenise
from interp.model.model import Model
from interp.patching.cells import SweepArrays, run_sweep
from interp.patching.patch import label
from interp.patching.result import PatchResult
from interp.patching.sweep import Sweep, plan_sweep
from interp.results.run_folder import ARRAYS, RunFolder, identity, names_of

SHARD = 16
"""Pairs a shard: what a killed run loses at most."""


def patch_into(
    out: str | Path,
    model: Model,
    pairs: PromptPairs,
    site: str = "resid_pre",
    over: str = "layer,pos",
    metric: str = "logit_diff",
    direction: str = "denoise",
    at: str = "all",
    layers: list[int] | None = None,
    neurons: int = 1,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PatchResult:
    """As `interp.patch`, into a run folder, resuming where an earlier call was stopped.

    Every `SHARD` pairs are written to ``<out>.partial`` as soon as they are measured; the
    folder itself appears when all are there. A finished folder of the same run is loaded.

    Args:
        out: the run folder.
        model: as in `interp.patch`.
        pairs: the prompts, already loaded.
        site: as in `interp.patch`; so are the options that follow.
        over: axes, comma-separated.
        metric: what to read.
        direction: ``"denoise"`` or ``"noise"``.
        at: positions, where no position axis is given.
        layers: a subset of layers.
        neurons: group size of the neuron axis.
        seed: of the bootstrap; recorded.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (pairs done, pairs in all).

    Raises:
        RunFolderError: `out` holds another run, or something else.
        InterpError: whatever `interp.patch` refuses.
    """
    options = {
        "site": site,
        "over": over,
        "metric": metric,
        "direction": direction,
        "at": at,
        "layers": layers,
        "neurons": neurons,
        "seed": seed,
    }
    sweep = plan_sweep(model, site, over, metric, direction, at, layers, neurons)
    named = options | names_of(pairs) | identity(model)
    with RunFolder.open(out, "patch", named, unit="pairs", force=force) as run:
        if not run.finished:
            result = _swept(run, model, sweep, pairs, progress)
            run.finish(lambda at: result.save(at, {"seed": seed, "weights": model.weights_hash}))
    return PatchResult.load(out)


def _swept(
    run: RunFolder,
    model: Model,
    sweep: Sweep,
    pairs: PromptPairs,
    progress: Callable[[int, int], None] | None,
) -> PatchResult:
    """The whole sweep from its shards, each read back or measured."""
    kept, excluded = tokenise(model, pairs)
    places = sweep.places(kept)
    shards: list[dict[str, np.ndarray]] = []
    for first in range(0, len(kept), SHARD):
        some = kept[first : first + SHARD]
        measure = partial(_shard, model, sweep, some, places)
        shards.append(run.step(f"{first:06d}", measure, ARRAYS))
        run.count(first + len(some), len(kept))
        if progress:
            progress(first + len(some), len(kept))
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    seconds = float(joined.pop("seconds").sum())
    return label(model, sweep, pairs.source, kept, excluded, SweepArrays(**joined), seconds)


def _shard(
    model: Model, sweep: Sweep, pairs: Sequence[TokenPair], places: Sequence[Any]
) -> dict[str, np.ndarray]:
    """The arrays of a shard, and the seconds they took."""
    started = time.perf_counter()
    arrays = asdict(run_sweep(model, sweep, pairs, places))
    return arrays | {"seconds": np.array([time.perf_counter() - started])}
