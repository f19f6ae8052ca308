"""Runs of some layers only: the others hand their input on, and cost nothing."""

import contextlib
import inspect
from collections.abc import Callable, Generator
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache

from interp.forward.layer_calls import restore_forward
from interp.model.model import Model

_tupled: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()
"""Whether a model's blocks give a tuple, as seen the first time that one of them is run."""


@contextlib.contextmanager
def layers_only(
    model: Model, layers: range, entering: Float[Tensor, "row new d_model"] | None = None
) -> Generator[None]:
    """Run these layers of a model alone, from `entering` instead of what comes below.

    Its blocks must hand on the residual stream alone (`prefix_cache.separable`). The other layers
    put one zero per token into the KV cache, whose length says where a run is.
    """

    def stand_in(layer: int) -> Callable[..., Any]:
        signature = inspect.signature(type(model.blocks[layer]).forward)

        def forward(*args: Any, **kw: Any) -> Any:
            _, (_, hidden), *rest = signature.bind(None, *args, **kw).arguments.items()
            given = dict(rest)
            given.update(given.pop("kwargs", {}))
            for cache in (value for value in given.values() if isinstance(value, Cache)):
                nothing = hidden.new_zeros(len(hidden), 1, hidden.shape[1], 1)
                cache.update(nothing, nothing, layer)
            if entering is not None and layer == layers.start - 1:
                hidden = entering
            return (hidden, None) if _tupled[model.hf] else hidden

        return forward

    def look(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        _tupled[model.hf] = isinstance(output, tuple)

    with contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            if layer in layers:
                stack.callback(block.register_forward_hook(look).remove)
            else:
                stack.callback(restore_forward, block, block.__dict__.get("forward"))
                block.forward = stand_in(layer)
        yield
