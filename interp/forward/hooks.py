"""Editing activations in place, at a site, while the untouched model runs."""

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.model.architecture import ModulePoint
from interp.model.model import Model
from interp.model.sites import Site

Edit = Callable[[Float[Tensor, "... width"]], None]
"""Receives a site's activation and may change it in place."""


@contextlib.contextmanager
def hooked(model: Model, edits: Iterable[tuple[Site, int, Edit]]) -> Generator[None]:
    """Run `edits` whenever their site is computed; every hook is gone on exit.

    An edit sees the whole batch as the module computes it. Changing it in place changes what
    the rest of the model reads, and at ``resid_mid`` also what the block adds its MLP to:
    Hugging Face blocks keep the residual stream as the same tensor that enters the norm.

    Args:
        model: the model that will be run inside the ``with`` block.
        edits: (site, layer, function) triples, applied in the order given.
    """
    with contextlib.ExitStack() as stack:
        for site, layer, edit in edits:
            module, point = model.point(site, layer)
            stack.callback(hook_point(module, point, edit).remove)
        yield


def hook_point(module: nn.Module, point: ModulePoint, edit: Edit) -> RemovableHandle:
    """Register `edit` on one side of a module; returns the removable handle."""
    if point.side == "in":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            _edit_features(args[0] if args else next(iter(kwargs.values())), point, edit)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        _edit_features(output[0] if isinstance(output, tuple) else output, point, edit)

    return module.register_forward_hook(after)


def _edit_features(activation: Tensor, point: ModulePoint, edit: Edit) -> None:
    if point.features is None:
        edit(activation)
        return
    features = point.features.to(activation.device)
    part = activation[..., features]
    edit(part)
    activation[..., features] = part
