"""Hooks on the untouched model: activations edited in place at a site, attention weights read."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.errors import PlanError
from interp.model.architecture import ModulePoint
from interp.model.model import Model
from interp.model.sites import Site

Edit = Callable[[Float[Tensor, "... width"]], None]
"""Receives a site's activation and may change it in place."""

Weights = Float[Tensor, "prompt head query key"]


@contextlib.contextmanager
def hooked(model: Model, edits: Iterable[tuple[Site, int, Edit]]) -> Generator[None]:
    """Run (site, layer, edit) triples, in order, whenever their site is computed.

    An edit sees the whole batch as the module computes it. Changing it in place changes what
    the rest of the model reads, and at ``resid_mid`` also what the block adds its MLP to:
    Hugging Face blocks keep the residual stream as the same tensor that enters the norm. Every
    hook is gone on exit.
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
            edit_features(first_input(args, kwargs), point, edit)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        edit_features(output[0] if isinstance(output, tuple) else output, point, edit)

    return module.register_forward_hook(after)


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a module reads: the first argument of a call, or ``hidden_states`` by name."""
    if args:
        return args[0]
    return kwargs.get("hidden_states", next(iter(kwargs.values()), None))


def edit_features(activation: Tensor, point: ModulePoint, edit: Edit) -> None:
    """Run an edit on the features of a tensor that are a site's."""
    if point.features is None:
        edit(activation)
        return
    features = point.features.to(activation.device)
    part = activation[..., features]
    edit(part)
    activation[..., features] = part


@contextlib.contextmanager
def attention_weights(
    model: Model, layers: Sequence[int], found: dict[int, Weights]
) -> Generator[None]:
    """Put some layers' attention weights of the runs inside the ``with`` block into `found`.

    Fused attention functions never form the weights, so these runs use Hugging Face's eager one.
    `PlanError` where a layer has no attention, or it gives out no weights.
    """

    def keep(layer: int, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise PlanError(
                f"{model.name} has no site 'pattern': its {type(module).__name__} gives out "
                "no attention weights."
            )
        found[layer] = weights

    with contextlib.ExitStack() as stack:
        for layer in layers:
            module = model.attention(layer)
            if module is None:
                raise PlanError(
                    f"layer {layer} of {model.name} has no site 'pattern': it has no attention; "
                    "give layers that have."
                )
            stack.callback(module.register_forward_hook(partial(keep, layer)).remove)
        stack.enter_context(model.attention_named("eager"))
        yield
