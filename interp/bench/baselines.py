"""The sweep as others run it, one forward pass per cell, for parity tests and for timing.

Plain hooks work for every site and define what `interp.patch` must equal; the sweeps of
TransformerLens and nnsight are those libraries' own. `bench_sweep` times all, interleaved in one
process on the same numbers.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bench.bound import Seconds, bound_seconds, timed
from interp.data.pairs import PromptPairs, TokenPair, tokenise
from interp.errors import PlanError, did_you_mean
from interp.forward.hooks import hooked
from interp.interventions import nnsight
from interp.model.adapters import bridge, bridge_sweep
from interp.model.model import Model
from interp.model.sites import SITES, Site
from interp.patching.patch import patch

BASELINES = ("hooks", "transformer-lens", "nnsight")


def activation(
    model: Model, site: Site, layer: int, ids: Int[Tensor, "1 pos"]
) -> Float[Tensor, "1 pos width"]:
    """One site's activation in a plain forward pass."""
    found: list[Tensor] = []
    with torch.no_grad(), hooked(model, [(site, layer, lambda a: found.append(a.clone()))]):
        model.hf(input_ids=ids, use_cache=False)
    return found[0]


def patched_logits(
    model: Model,
    base: Int[Tensor, "1 pos"],
    site: Site,
    layers: Sequence[int],
    positions: Sequence[int],
    features: Sequence[int] | None,
    source: dict[int, Float[Tensor, "1 pos width"]],
) -> Float[Tensor, "1 pos vocab"]:
    """One full forward of `base` with one intervention: the definition of activation patching.

    At these layers, positions and features (``None``: all) it gets the `source`'s activation.
    """
    chosen = slice(None) if features is None else list(features)

    def replace(act: Tensor, layer: int) -> None:
        for p in positions:
            act[:, p, chosen] = source[layer][:, p, chosen]

    edits = [(site, layer, partial(replace, layer=layer)) for layer in layers]
    with torch.no_grad(), hooked(model, edits):
        return model.hf(input_ids=base, use_cache=False).logits


def sweep_with_hooks(
    model: Model,
    pair: TokenPair,
    site: str,
    over: tuple[str, str] = ("layer", "pos"),
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer other"]:
    """Denoising sweep over layer x position or layer x head, one forward pass per cell."""
    chosen = range(model.arch.n_layers) if layers is None else layers
    where, metric = SITES[site], _logit_diff(pair)
    clean, corrupt = _prompts(model, pair)
    n_pos, d, by_position = len(pair.clean), model.arch.d_head, over[1] == "pos"
    others = range(n_pos) if by_position else range(model.n_units(where))
    values = torch.zeros(len(chosen), len(others))
    for row, layer in enumerate(chosen):
        source = {layer: activation(model, where, layer, clean)}
        for other in others:
            positions = [other] if by_position else range(n_pos)
            features = None if by_position else range(other * d, (other + 1) * d)
            logits = patched_logits(model, corrupt, where, [layer], positions, features, source)
            values[row, other] = metric(logits)
    return values


def bench_sweep(
    model: Model,
    pairs: PromptPairs,
    baselines: Sequence[str],
    over: str = "layer,pos",
    repeats: int = 3,
) -> dict[str, Any]:
    """Time the denoising sweep of the first usable pair, by layer and position or head.

    Args:
        model: the model, on its device.
        pairs: of which the first usable one is swept.
        baselines: names in `BASELINES`.
        over: ``"layer,pos"`` on ``resid_pre``, or ``"layer,head"`` on ``z``.
        repeats: timed rounds after one warm-up; each round runs interp and every baseline once,
            and medians are reported.

    Returns:
        ``seconds``, ``speedup`` and ``max_abs_error`` of each of the ``baselines``, the
        ``seconds`` of interp, ``bound_seconds`` and their ratio, the same in processor time (of
        this process, so other load counts less), and what was run.
    """
    if over not in ("layer,pos", "layer,head"):
        raise PlanError(f"cannot time sweeps over {over!r}; choose 'layer,pos' or 'layer,head'.")
    axes = ("layer", over.removeprefix("layer,"))
    site = "resid_pre" if axes[1] == "pos" else "z"
    pair = tokenise(model, pairs, "single")[0][0]
    one = PromptPairs((pair.pair,), pairs.source)

    def ours() -> Tensor:
        return torch.from_numpy(patch(model, one, site=site, over=axes).values.values[0]).float()

    runs = {name: _baseline(name, model, pair, site, axes) for name in baselines}
    times: dict[str, list[Seconds]] = {name: [] for name in ["interp", *runs, "bound"]}
    values: dict[str, Tensor] = {}
    for _ in range(repeats + 1):
        for name, run in {"interp": ours, **runs}.items():
            values[name], took = timed(run, model.device)
            times[name].append(took)
        times["bound"].append(bound_seconds(model, pair, axes))
    seconds = {name: median(took.wall for took in own[1:]) for name, own in times.items()}
    cpu = {name: median(took.cpu for took in own[1:]) for name, own in times.items()}
    gpu = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else ""
    return {
        "model": model.name,
        "device": gpu or f"{torch.get_num_threads()} CPU threads",
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "site": site,
        "over": list(axes),
        "n_tokens": len(pair.clean),
        "first_difference": pair.first_difference,
        "cells": int(values["interp"].numel()),
        "seconds": seconds["interp"],
        "bound_seconds": seconds["bound"],
        "over_bound": seconds["interp"] / seconds["bound"],
        "cpu_seconds": cpu["interp"],
        "cpu_over_bound": cpu["interp"] / cpu["bound"],
        "baselines": {
            name: {
                "seconds": seconds[name],
                "speedup": seconds[name] / seconds["interp"],
                "max_abs_error": float((values[name] - values["interp"]).abs().max()),
            }
            for name in runs
        },
    }


def _baseline(
    name: str, model: Model, pair: TokenPair, site: str, over: tuple[str, str]
) -> Callable[[], Tensor]:
    """A prepared run of one baseline's sweep: ``resid_pre`` by position, or ``z`` by head."""
    clean, corrupt = _prompts(model, pair)
    metric = _logit_diff(pair)
    if name == "hooks":
        return lambda: sweep_with_hooks(model, pair, site, over)
    if name == "transformer-lens":
        wrapped = bridge(copy.deepcopy(model.hf))
        return lambda: bridge_sweep(wrapped, clean, corrupt, metric, over[1])
    if name == "nnsight" and over[1] == "pos":
        traced = nnsight.traced(model)
        return lambda: nnsight.sweep_resid_pre(traced, model, clean, corrupt, metric)
    if name == "nnsight":
        raise PlanError("the nnsight baseline sweeps positions only; leave it out for heads.")
    raise PlanError(f"unknown baseline {name!r}. {did_you_mean(name, BASELINES)}")


def _logit_diff(pair: TokenPair) -> Callable[[Float[Tensor, "1 pos vocab"]], Float[Tensor, ""]]:
    """The metric of every baseline: logit(answer) - logit(wrong answer) at the last token."""

    def difference(logits: Tensor) -> Tensor:
        last = logits[0, -1].float()
        return last[pair.answer] - last[pair.wrong_answer]

    return difference


def _prompts(model: Model, pair: TokenPair) -> tuple[Int[Tensor, "1 pos"], Int[Tensor, "1 pos"]]:
    """The clean and the corrupt prompt, each a batch of one."""
    both = (pair.clean, pair.corrupt)
    clean, corrupt = (torch.tensor([ids], device=model.device) for ids in both)
    return clean, corrupt
