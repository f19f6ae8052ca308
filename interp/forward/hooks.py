"""Hooks on the untouched model: activations edited in place at a site, attention weights read."""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.errors import PlanError
from interp.forward.experts import edit_experts
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
            stack.callback(hook_site(model, site, layer, edit))
        yield


def hook_site(model: Model, site: Site, layer: int, edit: Edit) -> Callable[[], None]:
    """Run `edit` whenever a site of a layer is computed; returns what removes the hook."""
    module, point = model.point(site, layer)
    tokens: list[tuple[int, ...]] = []  # rows and positions of the batch that the block runs on

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens[:] = [tuple(first_input(args, kwargs).shape[:-1])]

    def step(activation: Tensor) -> Tensor:
        shape = activation.shape
        if not tokens or shape[:-1] == tokens[0] or shape[:-1].numel() != math.prod(tokens[0]):
            edit_features(activation, point, edit)
            return activation
        if site.name == "resid_mid" and activation.requires_grad:
            raise PlanError(
                f"gradients at 'resid_mid' of {model.name} cannot be taken: its blocks lay all "
                "rows' tokens out in one axis there; take them at resid_pre, attn_out or mlp_out."
            )
        # it came with all rows' tokens in one axis, or with an axis of one head
        by_row = activation.reshape(*tokens[0], -1)
        edit_features(by_row, point, edit)
        return by_row.view(shape)

    block = model.blocks[layer]
    entered = block.register_forward_pre_hook(enter, with_kwargs=True)
    if point.side in ("in", "out"):
        remove = _hook_module(module, point.side, step).remove
    else:
        remove = edit_experts(module, model.mixtures[layer], point.side, step)
    return lambda: (entered.remove(), remove())[0]


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The first thing a module is called with, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _hook_module(module: nn.Module, side: str, step: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """What goes on is another tensor only where `step` had to lay the tokens out."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = first_input(args, kwargs)
        new = step(x)
        if new is x:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): new})

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        new = step(x)
        if new is x:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    if side == "in":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


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
