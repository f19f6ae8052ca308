"""Runs whose activations are kept, layer by layer, and through which multipliers flow back."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.brief import brief
from interp.forward.blocks import split_mlp_input
from interp.forward.hooks import hooked
from interp.model.model import Model
from interp.model.sites import SITES


@brief
@dataclass
class Run:
    """Activations of a batch of rows at the asked sites, one entry a layer.

    Attributes:
        pair: which pair of the contrast each row belongs to.
        kept: site -> activation of each layer. ``mlp_in`` is the MLP's input, after its norm.
        final: the residual stream after the last block.
    """

    pair: Int[Tensor, " row"]
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    final: Tensor = field(default_factory=lambda: torch.empty(0))


def run(
    model: Model,
    contrast: Contrast,
    hidden: Float[Tensor, "row pos d_model"],
    pair: Int[Tensor, " row"],
    sites: Sequence[str],
    given: tuple[str, int, Tensor] | None = None,
    through: Callable[[int, Tensor, Tensor], Tensor] = lambda layer, before, after: after,
) -> Run:
    """Run every block on whole rows and keep what passes the given sites.

    Args:
        model: the model, untouched.
        contrast: whose prompts the rows continue.
        hidden: what enters layer 0; differentiable where it requires a gradient.
        pair: the pair of each row.
        sites: short site names, and ``"mlp_in"``.
        given: (site, layer, value) that takes the place of an activation.
        through: (layer, what entered, what left) -> what the next layer gets.
    """
    out = Run(pair, {site: [] for site in sites})
    for layer, block in enumerate(model.blocks):
        kwargs = contrast.calls.of_rows(layer, 2 * pair)
        with _giving(model, layer, given), _keeping(model, layer, out.kept):
            result = block(hidden, **kwargs)
        after = result[0] if isinstance(result, tuple) else result
        hidden = through(layer, hidden, after)
    out.final = hidden
    return out


@contextlib.contextmanager
def _giving(model: Model, layer: int, given: tuple[str, int, Tensor] | None) -> Generator[None]:
    """Out of place: what attention computes is saved for its own backward pass."""
    if given is None or given[1] != layer:
        yield
        return
    module, point = model.point(SITES[given[0]], layer)
    if point.side == "in":
        handle = module.register_forward_pre_hook(lambda _, args: (given[2], *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, __, out: given[2])
    with contextlib.ExitStack() as stack:
        stack.callback(handle.remove)
        yield


@contextlib.contextmanager
def _keeping(model: Model, layer: int, kept: dict[str, list[Tensor]]) -> Generator[None]:
    edits = [(SITES[s], layer, kept[s].append) for s in kept if s in SITES]
    with contextlib.ExitStack() as stack:
        if "mlp_in" in kept:
            stack.callback(split_mlp_input(model, layer, kept["mlp_in"].append).remove)
        stack.enter_context(hooked(model, edits))
        yield


def gradients(
    output: Tensor, inputs: Sequence[Tensor], multiplier: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """Gradients of an output at several inputs; zero where it does not depend on one."""
    found = torch.autograd.grad(output, inputs, multiplier, allow_unused=True, **options)
    known: list[Tensor | None] = list(found)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(known, inputs, strict=True)]
