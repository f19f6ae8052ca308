"""What Hugging Face passes to each layer: recorded once, so that layers can be called singly."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.brief import brief
from interp.errors import ModelError
from interp.forward.argument_axes import ArgumentAxes, BlockArguments, block_arguments, mapped
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class LayerCalls:
    """A padded batch of prompts at the bottom of the model, and every layer's arguments.

    Attributes:
        embeddings: what enters layer 0, learned positions and scaling included.
        kwargs: per layer, the masks, rotary tables and the rest, as Hugging Face passed them.
        arguments: what is known of these: their axes, and what depends on the blocks before.
    """

    embeddings: Float[Tensor, "prompt pos d_model"]
    kwargs: list[dict[str, Any]]
    mask: Bool[Tensor, "prompt pos"]
    arguments: BlockArguments

    def of_rows(self, layer: int, prompt: Int[Tensor, " row"]) -> dict[str, Any]:
        """A layer's arguments for a batch of whole rows, each continuing one of the prompts."""

        def per_row(value: Tensor, axes: ArgumentAxes | None) -> Tensor:
            return value if axes is None else axes.rows(value, len(self.mask), prompt)

        given = self.kwargs[layer].items()
        return {name: mapped(value, name, self.arguments.axes, per_row) for name, value in given}

    def only(self, prompts: Int[Tensor, " prompt"]) -> "LayerCalls":
        """The same for some of the prompts."""
        kwargs = [self.of_rows(layer, prompts) for layer in range(len(self.kwargs))]
        where = prompts.to(self.mask.device)
        embeddings, mask = self.embeddings[where], self.mask[where]
        return replace(self, embeddings=embeddings, kwargs=kwargs, mask=mask)


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
    `ModelError` where the model was put in training mode, in which dropout draws other numbers
    every time.
    """
    if any(module.training for module in model.hf.modules()):
        raise ModelError(
            f"{model.name} is in training mode, in which dropout makes its numbers random; call "
            "model.hf.eval()."
        )
    plain = {"input_ids": ids, "use_cache": False}
    inputs = plain | positions_and_mask(model, mask) if given is None else dict(given)
    embeddings, kwargs, _ = _recorded(model, inputs)
    return LayerCalls(embeddings, kwargs, mask, arguments_of(model))


def arguments_of(model: Model) -> BlockArguments:
    """What a model's blocks are called with; measured once, with three tiny batches.

    A compiled program's blocks read the stream alone, and may be too short for these batches.
    """
    if not model.arch.causal:
        return BlockArguments()

    def record(n_prompts: int, n_pos: int, token: int) -> tuple[list[dict[str, Any]], Any]:
        vocabulary = model.hf.get_input_embeddings().weight.shape[0]
        ids = torch.arange(n_prompts * n_pos, device=model.device).view(n_prompts, n_pos)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[-1, -2:] = False  # without padding there may be no mask to look at
        inputs = {"input_ids": (ids + token) % vocabulary, "use_cache": False}
        with torch.no_grad():
            return _recorded(model, inputs | positions_and_mask(model, mask))[1:]

    return block_arguments(model.hf, record)


def _recorded(
    model: Model, inputs: Mapping[str, Any]
) -> tuple[Tensor, list[dict[str, Any]], tuple[Any, ...]]:
    """What enters layer 0, every layer's arguments, and what layer 0 gives beside the stream."""
    kwargs, entered = list[dict[str, Any]](), list[Tensor]()
    beside: list[tuple[Any, ...]] = []

    def stand_in(block: nn.Module, layer: int) -> Callable[..., Any]:
        run = block.forward
        # The class's own signature: wrappers (accelerate, nnsight) put others on the instance.
        signature = inspect.signature(type(block).forward)

        def forward(*args: Any, **kw: Any) -> Any:
            _, (_, hidden), *rest = signature.bind(block, *args, **kw).arguments.items()
            bound = dict(rest)
            bound.update(bound.pop("kwargs", {}))
            entered.append(hidden)
            kwargs.append(bound)
            if layer == model.arch.n_layers - 1:
                raise _AllRecorded
            if layer == 0:
                out = run(*args, **kw)
                beside.extend([out[1:]] if isinstance(out, tuple) else [])
            return (hidden, *beside[0]) if beside else hidden

        return forward

    with contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            stack.callback(restore_forward, block, block.__dict__.get("forward"))
            block.forward = stand_in(block, layer)
        with contextlib.suppress(_AllRecorded):
            model.hf(**inputs)
    return entered[0], kwargs, beside[0] if beside else ()


def restore_forward(block: nn.Module, before: Any) -> None:
    """Put back the forward that an instance had of its own, or none."""
    if before is None:
        del block.forward
    else:
        block.forward = before


def positions_and_mask(model: Model, mask: Bool[Tensor, "prompt pos"]) -> dict[str, Tensor]:
    """Attention mask, and position ids that count real tokens, so padding moves nothing."""
    inputs = {"attention_mask": mask.long()}
    known = inspect.signature(model.hf.forward).parameters
    if model.arch.given_positions and "position_ids" in known:
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return inputs
