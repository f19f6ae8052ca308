"""`attribute_into`: attributions into a run folder, shard of pairs by shard of pairs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
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
    checked_axes,
)
from interp.attribution.scores import Scores
from interp.data.pairs import PromptPairs, tokenise
from interp.errors import PlanError, did_you_mean
from interp.model.model import Model
from interp.model.sites import parse_site
from interp.progress import Progress
from interp.results.run_folder import Codec, RunFolder, identity, names_of

SHARD = 16
"""Pairs a shard: what a killed run loses at most."""
SCORES: Codec[Scores] = Codec(lambda scores, path: scores.save(path), Scores.load)


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
        PlanError: this method does not attribute to that.
        PlanError: axes were given for edges or nodes; or no such site.
    """
    refuse_mismatch(of, over, method)
    options: dict[str, Any] = {"metric": metric, "steps": steps, "progress": progress or False}
    if of == "edges":
        return attribute_edges(model, pairs, method, **options)
    if of == "nodes":
        return attribute_nodes(model, pairs, method, **options)
    return attribute(model, pairs, of, over or "layer,pos", method, **options)


def refuse_mismatch(of: str, over: str | None, method: str) -> None:
    """Raise where a method cannot attribute to that, whatever the model; errors as above."""
    known = {"edges": EDGE_METHODS, "nodes": NODE_METHODS}.get(of, UNIT_METHODS)
    if method not in known:
        raise PlanError(f"no method {method!r} scores {of}. {did_you_mean(method, known)}")
    if over is not None and of in ("edges", "nodes"):
        raise PlanError(f"{of} have no axes {over!r}; leave `over` out, or name a site, such as z.")
    if of not in ("edges", "nodes"):
        checked_axes(*parse_site(of), over or "layer,pos")


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
    force: bool = False,
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
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (pairs done, pairs in all).

    Raises:
        RunFolderError: `out` holds another run, or something else.
        InterpError: whatever `attribute_to` refuses.
    """
    options: dict[str, Any] = {
        "of": of,
        "over": over,
        "method": method,
        "metric": metric,
        "steps": steps,
    }
    refuse_mismatch(of, over, method)
    named = options | {"seed": seed} | names_of(pairs) | identity(model)
    with RunFolder.open(out, "attribute", named, unit="pairs", force=force) as run:
        if not run.finished:
            scores = _attributed(run, model, pairs, options, progress)
            run.finish(lambda at: scores.save(at, {"seed": seed, "weights": model.weights_hash}))
    return Scores.load(out)


def _attributed(
    run: RunFolder,
    model: Model,
    pairs: PromptPairs,
    options: dict[str, Any],
    progress: Progress | None,
) -> Scores:
    """All scores from their shards, each read back or measured."""
    kept, excluded = tokenise(model, pairs)
    rows = PromptPairs(tuple(pair.pair for pair in kept), pairs.source)
    shards: list[Scores] = []

    def report(first: int, done: int, _: int = 0) -> None:
        if progress:
            progress(first + done, len(rows))

    for first in range(0, len(rows), SHARD):
        some = rows[first : first + SHARD]
        measure = partial(attribute_to, model, some, **options, progress=partial(report, first))
        shards.append(run.step(f"{first:06d}", measure, SCORES))
        run.count(first + len(some), len(rows))
        report(first, len(some))
    return replace(_joined(shards), excluded=tuple(excluded))


def _joined(shards: Sequence[Scores]) -> Scores:
    """Shards as one; a position axis is as long as the longest prompt's."""
    series = {
        name: xr.concat([getattr(shard, name) for shard in shards], "pair", join="outer")
        for name in ("values", "clean", "corrupt")
    }
    prompts = dict.fromkeys(text for shard in shards for text in shard.prompts)
    seconds = sum(shard.seconds for shard in shards)
    return replace(shards[0], **series, prompts=tuple(prompts), seconds=seconds, provenance={})
