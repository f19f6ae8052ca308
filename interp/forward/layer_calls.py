"""What Hugging Face passes to each layer: recorded once, so that layers can be called singly."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.brief import brief
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class LayerCalls:
    """A padded batch of prompts at the bottom of the model, and every layer's arguments.

    Attributes:
        embeddings: what enters layer 0, learned positions and scaling included.
        kwargs: per layer, the masks, rotary tables and the rest, as Hugging Face passed them.
    """

    embeddings: Float[Tensor, "prompt pos d_model"]
    kwargs: list[dict[str, Any]]
    mask: Bool[Tensor, "prompt pos"]

    def of_rows(self, layer: int, prompt: Int[Tensor, " row"]) -> dict[str, Any]:
        """A layer's arguments for a batch of whole rows, each continuing one of the prompts."""

        def per_row(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return type(value)(per_row(v) for v in value)
            if isinstance(value, Tensor) and value.ndim >= 2 and len(value) == len(self.mask):
                return value[prompt.to(value.device)]
            return value

        return {name: per_row(value) for name, value in self.kwargs[layer].items()}

    def only(self, prompts: Int[Tensor, " prompt"]) -> "LayerCalls":
        """The same for some of the prompts."""
        kwargs = [self.of_rows(layer, prompts) for layer in range(len(self.kwargs))]
        where = prompts.to(self.mask.device)
        return LayerCalls(self.embeddings[where], kwargs, self.mask[where])


class _AllRecorded(Exception):
    """Raised from the last block to end the recording run before the unembedding."""


def record_layer_calls(
    model: Model,
    ids: Int[Tensor, "prompt pos"],
    mask: Bool[Tensor, "prompt pos"],
    given: Mapping[str, Any] | None = None,
) -> LayerCalls:
    """Run embedding, masks and rotary tables only: all blocks but the first are skipped.

    `given` are the arguments of the forward call, where the tokens follow others in a cache.
    """
    plain = {"input_ids": ids, "use_cache": False}
    inputs = plain | positions_and_mask(model, mask) if given is None else dict(given)
    kwargs: list[dict[str, Any]] = []
    entered: list[Tensor] = []
    as_tuple = False

    def stand_in(block: nn.Module, layer: int) -> Callable[..., Any]:
        run = block.forward
        # The class's own signature: wrappers (accelerate, nnsight) put others on the instance.
        signature = inspect.signature(type(block).forward)

        def forward(*args: Any, **kw: Any) -> Any:
            nonlocal as_tuple
            _, (_, hidden), *rest = signature.bind(block, *args, **kw).arguments.items()
            bound = dict(rest)
            bound.update(bound.pop("kwargs", {}))
            entered.append(hidden)
            kwargs.append(bound)
            if layer == model.arch.n_layers - 1:
                raise _AllRecorded
            if layer == 0:
                as_tuple = isinstance(run(*args, **kw), tuple)
            return (hidden,) if as_tuple else hidden

        return forward

    with contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            stack.callback(restore_forward, block, block.__dict__.get("forward"))
            block.forward = stand_in(block, layer)
        with contextlib.suppress(_AllRecorded):
            model.hf(**inputs)
    return LayerCalls(entered[0], kwargs, mask)


def restore_forward(block: nn.Module, before: Any) -> None:
    """Put back the forward that an instance had of its own, or none."""
    if before is None:
        del block.forward
    else:
        block.forward = before


def positions_and_mask(model: Model, mask: Bool[Tensor, "prompt pos"]) -> dict[str, Tensor]:
    """Attention mask, and position ids that count real tokens, so padding moves nothing."""
    inputs = {"attention_mask": mask.long()}
    if "position_ids" in inspect.signature(model.hf.forward).parameters:
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return inputs
