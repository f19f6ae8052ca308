"""Sweeps that survive being killed: finished shards of pairs are kept beside the run folder."""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp import folder
from interp.errors import InterpError, RunFolderError
from interp.model import Model
from interp.pairs import PromptPairs, tokenise
from interp.patching import label
from interp.results import PatchResult
from interp.running import SweepArrays, run_sweep
from interp.sweep import plan_sweep

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
        progress: called with (pairs done, pairs in all).

    Raises:
        RunFolderError: `out` holds another run, or something else.
        InterpError: whatever `interp.patch` refuses.
    """
    out = Path(out)
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
    run = run_key(model, pairs, options)
    if out.exists():
        refuse_other_run(out, run)
        return PatchResult.load(out)
    kept, excluded = tokenise(model, pairs)
    places = sweep.places(kept)
    with partial_folder(out, run) as partial:
        shards: list[dict[str, np.ndarray]] = []
        for first in range(0, len(kept), SHARD):
            shard = kept[first : first + SHARD]
            file = partial / f"{first:06d}.safetensors"
            done = read_shard(file)
            if done is None:
                started = time.perf_counter()
                arrays = run_sweep(model, sweep, shard, places)
                done = asdict(arrays) | {"seconds": np.array([time.perf_counter() - started])}
                write_shard(file, done)
            shards.append(done)
            if progress:
                progress(min(first + SHARD, len(kept)), len(kept))
        joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        seconds = float(joined.pop("seconds").sum())
        result = label(model, sweep, pairs.source, kept, excluded, SweepArrays(**joined), seconds)
        note = {"seed": seed, "run": run, "options": options, "weights": model.weights_hash}
        result.save(out, note)
    return PatchResult.load(out)


def run_key(model: Model, pairs: PromptPairs, options: dict[str, Any]) -> str:
    """Identity of a run: weights, dtype, the rows themselves and every option."""
    rows = [asdict(pair) for pair in pairs]
    said = json.dumps([model.weights_hash, str(model.dtype), rows, options], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def refuse_other_run(out: Path, run: str) -> None:
    """Raise unless a finished run folder is of this very run."""
    if not (out / "manifest.json").is_file():
        raise RunFolderError(f"--out {out} exists and is not a run folder; choose another.")
    if folder.read_manifest(out).get("provenance", {}).get("run") != run:
        raise RunFolderError(
            f"{out} holds a run with another model, other pairs or other options; choose another "
            "--out, or remove that folder."
        )


def open_partial(out: Path, run: str) -> Path:
    """The folder of finished shards; one left by another run is started afresh."""
    partial = out.with_name(f"{out.name}.partial")
    note = partial / "run"
    if partial.exists() and not (note.is_file() and note.read_text() == run):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    note.write_text(run)
    return partial


@contextlib.contextmanager
def partial_folder(out: Path, run: str) -> Generator[Path]:
    """`open_partial`; gone again where the run is done, or refused before a shard was finished."""
    partial = open_partial(out, run)
    try:
        yield partial
    except InterpError:
        if [file.name for file in partial.iterdir()] == ["run"]:
            shutil.rmtree(partial)
        raise
    shutil.rmtree(partial)


def read_shard(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a finished shard; `None` where it is missing or half-written."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None


def write_shard(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a shard beside its place, then rename it."""
    beside = file.with_suffix(".half")
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, beside)
    beside.replace(file)
