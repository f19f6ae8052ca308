"""`Tails`: the last tokens of prompts, run again and again from one layer on, with gradients.

With causal attention, what an intervention at one token changes lies at that token and behind
it, and above its layer. So the prompts are run once, the keys and values of everything before
are held, and each further run computes the tail alone. Where a model's attention does not go
through transformers' attention interface (GPT-J) the tail is the whole prompt.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.forward.blocks import first_output
from interp.forward.layer_calls import LayerCalls, record_layer_calls
from interp.forward.packed import causal_mask, no_eager, shares_prefixes
from interp.model.model import Model

HELD_ATTENTION = "interp_held"


@brief
@dataclass
class Held:
    """Travels to the attention function in place of a mask; one a layer.

    Attributes:
        implementation: the attention function the model would have used.
        mask: that function's mask for the tokens that are run, or ``None``.
        keys, values: of the tokens before the tail, which the tail's are appended to; empty
            until the first run has filled them in.
        n_tail: how many last columns are the tail.
    """

    implementation: str
    mask: Tensor | None
    n_tail: int
    keys: Float[Tensor, "prompt kv_head before d_head"] | None = None
    values: Float[Tensor, "prompt kv_head before d_head"] | None = None

    def only(self, prompts: Int[Tensor, " prompt"]) -> "Held":
        """The same for some of the prompts."""

        def some(value: Tensor | None) -> Tensor | None:
            return value if value is None or len(value) == 1 else value[prompts.to(value.device)]

        keys, values = some(self.keys), some(self.values)
        return Held(self.implementation, some(self.mask), self.n_tail, keys, values)


def held_attention(
    module: nn.Module,
    query: Float[Tensor, "prompt head tail d_head"],
    key: Float[Tensor, "prompt kv_head tail d_head"],
    value: Float[Tensor, "prompt kv_head tail d_head"],
    attention_mask: Held,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The model's own attention over held and fresh keys; the first call holds the former."""
    held = attention_mask
    if held.keys is None or held.values is None:
        before = key.shape[2] - held.n_tail
        held.keys, held.values = key[:, :, :before], value[:, :, :before]
    else:
        key, value = torch.cat([held.keys, key], 2), torch.cat([held.values, value], 2)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", no_eager)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(held.implementation, eager)
    mask = held.mask
    if mask is None:  # Hugging Face's word for plain causality
        mask = causal_mask(key.shape[2], key)
    return attend(module, query, key, value, mask[:, :, -query.shape[2] :], **kwargs)


ALL_ATTENTION_FUNCTIONS.register(HELD_ATTENTION, held_attention)


@brief
@dataclass(frozen=True)
class Tails:
    """Prompts padded on the left, so that their tails are the last columns.

    Attributes:
        model: the model.
        calls: what Hugging Face passes to each layer.
        first: the layer where runs begin.
        n_tail: tokens of each prompt that are run.
        hidden: what enters layer `first` at those tokens.
        held: per layer from `first` on; ``None`` where the tail is the whole prompt anyway.
    """

    model: Model
    calls: LayerCalls
    first: int
    n_tail: int
    hidden: Float[Tensor, "prompt tail d_model"]
    held: list[Held] | None

    @property
    def real(self) -> Bool[Tensor, "prompt tail"]:
        """Which of the tails' tokens are not padding."""
        return self.calls.mask[:, -self.n_tail :]

    def run(self) -> Float[Tensor, "prompt tail d_model"]:
        """The residual stream after the last block, under whatever hooks are installed now."""
        hidden = self.hidden
        if self.held is None:
            for layer in range(self.first, self.model.arch.n_layers):
                hidden = first_output(self.model.blocks[layer](hidden, **self.calls.kwargs[layer]))
            return hidden
        with self.model.attention_named(HELD_ATTENTION):
            for layer, held in enumerate(self.held, self.first):
                kwargs = _last(self.calls, layer, self.n_tail) | {"attention_mask": held}
                hidden = first_output(self.model.blocks[layer](hidden, **kwargs))
        return hidden

    def only(self, prompts: Int[Tensor, " prompt"]) -> "Tails":
        """The same for some of the prompts."""
        held = None if self.held is None else [one.only(prompts) for one in self.held]
        return replace(
            self,
            calls=self.calls.only(prompts),
            hidden=self.hidden[prompts.to(self.hidden.device)],
            held=held,
        )


@torch.no_grad()
def tails(model: Model, prompts: Sequence[TokenPrompt], first: int, n_tail: int) -> Tails:
    """Run prompts once, under whatever hooks are installed, and hold what lies before the tails.

    Args:
        model: the model.
        prompts: in tokens; they run as one batch.
        first: the layer where later runs begin.
        n_tail: how many last tokens they run; longer than a prompt is its whole.

    Raises:
        PlanError: the layer is out of range.
    """
    model.check_layers([first])
    ids, mask = pad(model, prompts)
    calls = record_layer_calls(model, ids, mask)
    hidden = calls.embeddings
    for layer in range(first):
        hidden = first_output(model.blocks[layer](hidden, **calls.kwargs[layer]))
    if not shares_prefixes(model):
        return Tails(model, calls, first, ids.shape[1], hidden, None)
    n_tail = min(n_tail, ids.shape[1])
    entering = hidden[:, -n_tail:]
    implementation, holders = model.attention_implementation, list[Held]()
    with model.attention_named(HELD_ATTENTION):
        for layer in range(first, model.arch.n_layers):
            kwargs = calls.kwargs[layer]
            held = Held(implementation, kwargs.get("attention_mask"), n_tail)
            hidden = first_output(model.blocks[layer](hidden, **kwargs | {"attention_mask": held}))
            holders.append(held)
    return Tails(model, calls, first, n_tail, entering, holders)


def _last(calls: LayerCalls, layer: int, n: int) -> dict[str, Any]:
    """A layer's arguments for the last `n` columns; masks are the attention function's business."""
    n_pos = calls.mask.shape[1]

    def cut(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(cut(v) for v in value)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == n_pos:
            return value[:, -n:]
        return value

    return {name: cut(v) for name, v in calls.kwargs[layer].items() if name != "attention_mask"}
