"""The sweep benchmark: ours and the peers', interleaved in one process on the same numbers."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from interp.bench.peers import bound_seconds, peer_sweep
from interp.data.pairs import PromptPairs, TokenPair, tokenise
from interp.errors import InterpError
from interp.model.model import Model
from interp.patching.patch import patch


def bench_sweep(
    model: Model,
    pairs: PromptPairs,
    peers: Sequence[str],
    over: str = "layer,pos",
    repeats: int = 3,
) -> dict[str, Any]:
    """Time one pair's denoising sweep, by layer and position or by layer and head.

    Args:
        model: the model, on its device.
        pairs: the first usable pair is swept.
        peers: names from `interp.bench.peers.PEERS`.
        over: ``"layer,pos"`` on ``resid_pre``, or ``"layer,head"`` on ``z``.
        repeats: timed rounds after one warm-up; each round runs ours and every peer once, and
            medians are reported.

    Returns:
        ``seconds`` and ``max_abs_error`` per peer, ``speedup`` of ours over each, our
        ``seconds``, ``bound_seconds`` and their ratio, and what was run.

    Raises:
        InterpError: unknown peer or axes.
    """
    if over not in ("layer,pos", "layer,head"):
        raise InterpError(f"cannot bench over {over!r}; choose 'layer,pos' or 'layer,head'.")
    axes = ("layer", over.removeprefix("layer,"))
    pair = tokenise(model, pairs)[0][0]
    one = PromptPairs((pair.pair,), pairs.source)
    site = "resid_pre" if axes[1] == "pos" else "z"
    runs = {"interp": lambda: _ours(model, one, site, axes)}
    runs |= {name: peer_sweep(name, model, pair, axes) for name in peers}
    times: dict[str, list[float]] = {name: [] for name in [*runs, "bound"]}
    values: dict[str, Tensor] = {}
    for round_ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            values[name] = run()
            if round_:
                times[name].append(time.perf_counter() - start)
        if round_:
            times["bound"].append(bound_seconds(model, len(pair.clean), axes))
    return _report(model, pair, site, axes, times, values)


def _ours(model: Model, pairs: PromptPairs, site: str, over: tuple[str, str]) -> Tensor:
    result = patch(model, pairs, site=site, over=over)
    return torch.from_numpy(result.values.values[0]).float()


def _report(
    model: Model,
    pair: TokenPair,
    site: str,
    over: tuple[str, str],
    times: dict[str, list[float]],
    values: dict[str, Tensor],
) -> dict[str, Any]:
    seconds = {name: median(ts) for name, ts in times.items()}
    ours, bound = seconds.pop("interp"), seconds.pop("bound")
    n_pos = len(pair.clean)
    return {
        "model": model.name,
        "device": _device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "site": site,
        "over": list(over),
        "n_tokens": n_pos,
        "first_difference": pair.first_difference,
        "cells": int(values["interp"].numel()),
        "seconds": ours,
        "bound_seconds": bound,
        "over_bound": ours / bound,
        "peers": {
            name: {
                "seconds": peer,
                "speedup": peer / ours,
                "max_abs_error": float((values[name] - values["interp"]).abs().max()),
            }
            for name, peer in seconds.items()
        },
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
