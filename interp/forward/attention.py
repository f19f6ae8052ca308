"""Attention patterns: how much each query token reads from each key token, head by head."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import PlanError
from interp.model.model import Model

Weights = Float[Tensor, "prompt head query key"]


@contextlib.contextmanager
def weights_kept(model: Model, layers: Sequence[int], kept: dict[int, Weights]) -> Generator[None]:
    """Keep some layers' attention weights of the runs inside the ``with`` block.

    Fused attention functions never form the weights, so these runs use Hugging Face's eager one;
    the model's own is back on exit.

    Args:
        model: the model.
        layers: which layers.
        kept: where the weights of each layer go.

    Raises:
        PlanError: a layer has no attention, or it gives out no weights.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            module = _attention(model, layer)
            handle = module.register_forward_hook(_keep(model, layer, kept))
            stack.callback(handle.remove)
        stack.enter_context(model.attention_named("eager"))
        yield


def _attention(model: Model, layer: int) -> nn.Module:
    path = model.arch.attention
    try:
        return model.blocks[layer].get_submodule(path)
    except AttributeError:
        raise PlanError(
            f"layer {layer} of {model.name} has no site 'pattern': it has no attention module "
            f"{path!r}; give layers that have one."
        ) from None


def _keep(model: Model, layer: int, kept: dict[int, Weights]) -> Callable[..., None]:
    def keep(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise PlanError(
                f"{model.name} has no site 'pattern': its {type(module).__name__} gives out no "
                "attention weights."
            )
        kept[layer] = weights

    return keep
