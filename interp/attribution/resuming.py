"""Attributions that survive being killed: finished shards of pairs are run folders of their own."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from interp.attribution.attribute import (
    EDGE_METHODS,
    NODE_METHODS,
    UNIT_METHODS,
    attribute,
    attribute_edges,
    attribute_nodes,
)
from interp.attribution.scores import Scores
from interp.errors import MetricError, RunFolderError, SiteError, did_you_mean
from interp.model import Model
from interp.pairs import PromptPairs, tokenise
from interp.progress import Progress
from interp.resuming import partial_folder, refuse_other_run, run_key

SHARD = 16
"""Pairs a shard: what a killed run loses at most."""


def attribute_to(
    model: Model,
    pairs: PromptPairs,
    of: str = "edges",
    over: str | None = None,
    method: str = "eap-dg",
    metric: str = "logit_diff",
    steps: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Attribute to what a name says: ``"edges"``, ``"nodes"``, or the units of a site.

    Args:
        model: from `interp.load_model`.
        pairs: the prompts, already loaded.
        of: ``"edges"``, ``"nodes"`` or a site name.
        over: axes of a site, comma-separated; by default ``layer,pos``.
        method: of `EDGE_METHODS`, `NODE_METHODS` or `UNIT_METHODS`.
        metric: what to read.
        steps: interpolation points, of the methods that integrate.
        progress: called with (pairs done, pairs in all).

    Raises:
        MetricError: this method does not attribute to that.
        SiteError: axes were given for edges or nodes; or no such site.
    """
    _check(of, over, method)
    options: dict[str, Any] = {"metric": metric, "steps": steps, "progress": progress or False}
    if of == "edges":
        return attribute_edges(model, pairs, method, **options)
    if of == "nodes":
        return attribute_nodes(model, pairs, method, **options)
    return attribute(model, pairs, of, over or "layer,pos", method, **options)


def _check(of: str, over: str | None, method: str) -> None:
    known = {"edges": EDGE_METHODS, "nodes": NODE_METHODS}.get(of, UNIT_METHODS)
    if method not in known:
        raise MetricError(f"no method {method!r} scores {of}. {did_you_mean(method, known)}")
    if over is not None and of in ("edges", "nodes"):
        raise SiteError(f"{of} have no axes {over!r}; leave `over` out, or name a site, such as z.")


def attribute_into(
    out: str | Path,
    model: Model,
    pairs: PromptPairs,
    of: str = "edges",
    over: str | None = None,
    method: str = "eap-dg",
    metric: str = "logit_diff",
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """As `attribute_to`, into a run folder, resuming where an earlier call was stopped.

    Every `SHARD` pairs become a run folder in ``<out>.partial`` as soon as they are measured; the
    folder itself appears when all are there. A finished folder of the same run is loaded.

    Args:
        out: the run folder.
        model: as in `attribute_to`; so are `pairs` and the options that follow.
        pairs: the prompts, already loaded.
        of: what to attribute to.
        over: axes of a site.
        method: how.
        metric: what to read.
        steps: interpolation points.
        seed: of the bootstrap; recorded.
        progress: called with (pairs done, pairs in all).

    Raises:
        RunFolderError: `out` holds another run, or something else.
        InterpError: whatever `attribute_to` refuses.
    """
    out = Path(out)
    options: dict[str, Any] = {
        "of": of,
        "over": over,
        "method": method,
        "metric": metric,
        "steps": steps,
    }
    run = run_key(model, pairs, options | {"seed": seed})
    if out.exists():
        refuse_other_run(out, run)
        return Scores.load(out)
    _check(of, over, method)
    kept, excluded = tokenise(model, pairs)
    rows = PromptPairs(tuple(pair.pair for pair in kept), pairs.source)
    with partial_folder(out, run) as partial:
        shards = [
            _shard(partial / f"{first:06d}", model, rows, first, options, progress)
            for first in range(0, len(rows), SHARD)
        ]
        joined = replace(_joined(shards), excluded=tuple(excluded))
        record = {"seed": seed, "run": run, "options": options, "weights": model.weights_hash}
        joined.save(out, record)
    return Scores.load(out)


def _shard(
    at: Path,
    model: Model,
    rows: PromptPairs,
    first: int,
    options: dict[str, Any],
    progress: Progress | None,
) -> Scores:
    """One shard, read back where it is finished and measured where not."""

    def report(done: int, _: int) -> None:
        if progress:
            progress(first + done, len(rows))

    shard = _finished(at)
    if shard is None:
        shutil.rmtree(at, ignore_errors=True)
        shard = attribute_to(model, rows[first : first + SHARD], **options, progress=report)
        shard.save(at)
    report(shard.n_pairs, 0)
    return shard


def _finished(shard: Path) -> Scores | None:
    try:
        return Scores.load(shard)
    except RunFolderError:
        return None


def _joined(shards: Sequence[Scores]) -> Scores:
    """Shards as one; a position axis is as long as the longest prompt's."""
    series = {
        name: xr.concat([getattr(shard, name) for shard in shards], "pair", join="outer")
        for name in ("values", "clean", "corrupt")
    }
    prompts = dict.fromkeys(text for shard in shards for text in shard.prompts)
    seconds = sum(shard.seconds for shard in shards)
    return replace(shards[0], **series, prompts=tuple(prompts), seconds=seconds, provenance={})
