"""`Tails`: the last tokens of prompts, run again and again from one layer on, with gradients.

With causal attention, what an intervention at one token changes lies at that token and behind
it, and above its layer. So the prompts are run once, the keys and values of everything before
are kept, and each further run computes the tail alone. Where a model keeps more than keys
(convolutions, recurrent layers) the tail is the whole prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.blocks import first_output
from interp.forward.layer_calls import LayerCalls, arguments_of, record_layer_calls
from interp.forward.prefix_cache import PrefixCache, only_keys
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class Tails:
    """Prompts padded on the left, so that their tails are the last columns.

    Attributes:
        cache: the prompts, of which all but the tails is read.
        calls: what Hugging Face passes to each layer for the tails, the KV cache `given` among it.
        first, hidden: the layer where runs begin, and what enters it.
    """

    model: Model
    cache: PrefixCache
    calls: LayerCalls
    given: DynamicCache | None
    first: int
    hidden: Float[Tensor, "prompt tail d_model"]

    @property
    def n_tail(self) -> int:
        """Tokens of each prompt that are run."""
        return self.hidden.shape[1]

    def run(self) -> Float[Tensor, "prompt tail d_model"]:
        """The residual stream after the last block, under whatever hooks are installed now."""
        return self.through(self.hidden, range(self.first, self.model.arch.n_layers))

    def through(self, hidden: Tensor, layers: range) -> Float[Tensor, "prompt tail d_model"]:
        """Call some layers on the tails, behind a copy of what was kept."""
        kv = self.cache.branch().kv
        for layer in layers:
            kwargs = {k: kv if v is self.given else v for k, v in self.calls.kwargs[layer].items()}
            hidden = first_output(self.model.blocks[layer](hidden, **kwargs))
        return hidden

    def only(self, prompts: Int[Tensor, " prompt"]) -> "Tails":
        """The same for some of the prompts."""
        hidden = self.hidden[prompts.to(self.hidden.device)]
        cache, calls = self.cache.branch(prompts), self.calls.only(prompts)
        return replace(self, cache=cache, calls=calls, hidden=hidden)


@torch.no_grad()
def tails(
    model: Model,
    prompts: Sequence[TokenPrompt],
    first: int,
    n_tail: int,
    cache: PrefixCache | None = None,
) -> Tails:
    """Run prompts once, in one batch, under whatever hooks are installed; keep what precedes tails.

    Later runs begin at layer `first` and run the `n_tail` last tokens, at most the whole prompt.
    `cache` holds the prompts where their beginnings, or the layers up to `first`, are run already.
    """
    model.check_layers([first])
    known = arguments_of(model)
    if handed := [*known.carried, *sorted(known.shared)]:
        raise PlanError(
            f"the blocks of {model.name} hand on more than the residual stream "
            f"({', '.join(handed)}), so runs cannot begin in the middle of it."
        )
    cache = cache or PrefixCache.of(model, prompts, keep=only_keys(model))
    n_tail = n_tail if cache.kv is not None else cache.ids.shape[1]
    if n_tail < cache.ids.shape[1] - cache.n_read:
        cache.read(model, leave=n_tail)
    ids, mask = (x[:, cache.n_read :] for x in (cache.ids, cache.mask))
    given = cache.branch()  # recording runs the first layer, which takes keys in
    n = cache.ids.shape[1]
    with given.running(model, cache.n_read, n):
        calls = record_layer_calls(model, ids, mask, given.arguments(model.hf, model, n))
    run = Tails(model, cache, calls, given.kv, first, calls.embeddings)
    if cache.entering is None:
        return replace(run, hidden=run.through(calls.embeddings, range(first)))
    start = cache.layers.start if cache.layers else 0
    return replace(run, hidden=run.through(cache.entering[:, cache.n_read :], range(start, first)))
