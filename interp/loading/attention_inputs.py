"""Does attention read its input in anything but queries, keys and values? Measured at load.

Edges end in a head's query, key and value. Where a head's output is also multiplied by a gate that
reads the residual stream, they are not all that it depends on.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp.forward.hooks import hooked
from interp.loading.fitting import probe_ids
from interp.model.model import Model
from interp.model.sites import SITES

MOVES = 0.01
"""Least relative change of heads' outputs that is not rounding, in 16 bits either; inputs change by
about their own size."""
READS = ("q", "k", "v")


def with_gates_known(model: Model) -> Model:
    """The model; blocks whose attention reads more than queries, keys and values stay whole."""
    layers = [
        layer
        for layer, block in enumerate(model.arch.layers)
        if block.whole is None and {*READS, "z"} <= set(block.points)
    ]
    kept: dict[tuple[str, int], Tensor] = {}
    moved: dict[int, Tensor] = {}
    sites = [(SITES[site], layer) for layer in layers for site in (*READS, "z")]
    with hooked(model, [(s, n, partial(_keep, kept, (s.name, n))) for s, n in sites]):
        _run(model)
    again = [(s, n, partial(_put, kept[s.name, n])) for s, n in sites if s.name != "z"]
    again += [(SITES["z"], layer, partial(_keep, moved, layer)) for layer in layers]
    with contextlib.ExitStack() as hooks:
        for layer in layers:
            if (module := model.attention(layer)) is not None:
                hook = module.register_forward_pre_hook(_disturbed, with_kwargs=True)
                hooks.enter_context(hook)
        with hooked(model, again):
            _run(model)
    blocks = list(model.arch.layers)
    for layer in layers:
        z = kept["z", layer]
        if float((moved[layer] - z).norm()) > MOVES * float(z.norm()):
            path = blocks[layer].attention
            why = f"{path!r} reads the stream in more than queries, keys and values (a gate)"
            blocks[layer] = replace(blocks[layer], whole=why)
    return replace(model, arch=replace(model.arch, layers=tuple(blocks)))


def _run(model: Model) -> None:
    with torch.no_grad():
        model.hf(input_ids=probe_ids(model), use_cache=False)


def _keep(into: dict[Any, Tensor], key: Any, activation: Tensor) -> None:
    into[key] = activation.float().clone()


def _put(value: Tensor, activation: Tensor) -> None:
    activation.copy_(value)


def _disturbed(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The attention's input turned round: other values of the same size."""
    turn: Callable[[Tensor], Tensor] = lambda x: x.roll(1, -1)  # noqa: E731
    if args:
        return (turn(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: turn(kwargs[name])}
