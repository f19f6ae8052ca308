"""`PrefixCache`: rows of tokens whose beginnings have been read, once, their keys and values kept.

    cache = PrefixCache.of(model, prompts)      # a row per prompt; nothing is read yet
    cache.read(model, leave=1)                  # all but each row's last token
    rows = cache.branch([0, 0, 1])              # a copy: three rows that continue two prompts
    states = rows.read(model)[:, -1]            # read what is left: the final normed states
    rows.append(tokens)                         # another token per row, read by the next call
    rows.select([0, 2])                         # drop the other rows

`PrefixCache.sharing` reads what rows begin alike with only once. `read` runs the model under the
hooks that are installed, and is differentiable. Where a model keeps no keys (Mamba), every call
of `read` runs all columns again. A cache may be of some layers only, entered by hidden states that
an earlier run left.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.forward.layer_calls import arguments_of, positions_and_mask
from interp.forward.layer_range import layers_only
from interp.model.model import Model

NAMES = ("cache", "past_key_values")
"""The KV cache's keyword: from transformers 5.24 on, and before."""

Which = Sequence[int] | Int[Tensor, " row"]
States = Float[Tensor, "token d_model"]
"""What enters a layer at some tokens of a prompt."""


@brief
@dataclass
class PrefixCache:
    """A batch of rows, of which the first `n_read` columns are read.

    `ids` are padded on the left, and between a shared beginning and the rest; `prompts` are what
    the rows began as, without appended tokens; `kv` is ``None`` where the model keeps none.
    `layers` are those that are run, all by default; `entering` is what enters the first of them.
    """

    ids: Int[Tensor, "row column"]
    mask: Bool[Tensor, "row column"]
    prompts: list[TokenPrompt]
    kv: DynamicCache | None
    n_read: int = 0
    layers: range | None = None
    entering: Float[Tensor, "row column d_model"] | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Sequence[TokenPrompt],
        keep: bool = True,
        layers: range | None = None,
        states: Sequence[States] | None = None,
    ) -> Self:
        """A row per prompt, nothing read; without `keep` no keys are kept.

        `layers` alone are run (only of a `separable` model), from each prompt's `states`.
        """
        keep = keep and keeps_keys(model)
        kv = DynamicCache(config=model.hf.config) if keep else None
        ids, mask = pad(model, prompts)
        entering = None if states is None else _laid_out(mask, states)
        return cls(ids, mask, list(prompts), kv, layers=layers, entering=entering)

    @classmethod
    def sharing(
        cls,
        model: Model,
        prompts: Sequence[TokenPrompt],
        shared: Sequence[int],
        *,
        owner: Sequence[int] | None = None,
        during: Callable[[Int[Tensor, " row"]], AbstractContextManager[Any]] | None = None,
        room: int = 64,
        layers: range | None = None,
        states: Sequence[tuple[States, States]] | None = None,
    ) -> Self:
        """A row per prompt, whose shared beginning is read, once for all rows that have it.

        Nothing is shared where a sliding window is shorter than the batch: windows count columns,
        and there is padding between beginning and rest.

        `shared` is how many first tokens of each prompt others may share, fewer than all; rows
        share with rows of the same `owner` only, such as an edit. `during` gives, for the rows'
        owners, the context in which beginnings are read; `room` columns will be appended. `layers`
        and `states` as in `of`, those of a beginning apart from the rest's.
        """
        rest = max(len(p.ids) - n for p, n in zip(prompts, shared, strict=True))
        if not any(shared) or not can_share(model, max(shared) + rest + room):
            whole = None if states is None else [torch.cat(both) for both in states]
            return cls.of(model, prompts, layers=layers, states=whole)
        owners = [0] * len(prompts) if owner is None else owner
        heads = [(o, p.ids[:n]) for o, p, n in zip(owners, prompts, shared, strict=True)]
        number = {head: i for i, head in enumerate(dict.fromkeys(heads))}
        begun = None if states is None else [states[heads.index(head)][0] for head in number]
        cache = cls.of(model, [TokenPrompt(ids) for _, ids in number], layers=layers, states=begun)
        with during(torch.tensor([o for o, _ in number])) if during else contextlib.nullcontext():
            cache.read(model)
        cache.select([number[head] for head in heads])
        tails = [TokenPrompt(p.ids[n:]) for p, n in zip(prompts, shared, strict=True)]
        cache.append(*pad(model, tails), None if states is None else [rest for _, rest in states])
        cache.prompts = list(prompts)
        return cache

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, model: Model, leave: int = 0) -> Float[Tensor, "row new d_model"]:
        """Run the unread columns, all but the last `leave`; their states behind the final norm."""
        start, stop = self.n_read, self.ids.shape[1] - leave
        with self.running(model, start, stop):
            out = model.body(**self.arguments(model.body, model, stop))
        self.n_read = stop
        return out.last_hidden_state[:, start - stop :]

    def running(self, model: Model, start: int, stop: int) -> AbstractContextManager[None]:
        """In which a forward call of these columns runs the cache's layers alone."""
        if self.layers is None:
            return contextlib.nullcontext()
        entering = None if self.entering is None else self.entering[:, start:stop]
        return layers_only(model, self.layers, entering)

    def arguments(self, module: nn.Module, model: Model, stop: int) -> dict[str, Any]:
        """What a forward call of the unread columns up to `stop` takes."""
        start = self.n_read if self.kv is not None else 0
        given: dict[str, Any] = positions_and_mask(model, self.mask[:, :stop])
        if "position_ids" in given:
            given["position_ids"] = given["position_ids"][:, start:]
        if self.kv is not None:
            given |= cache_argument(module, self.kv)
        return given | {"input_ids": self.ids[:, start:stop], "use_cache": self.kv is not None}

    def append(
        self,
        tokens: Int[Tensor, "row *new"],
        real: Bool[Tensor, "row new"] | None = None,
        states: Sequence[States] | None = None,
    ) -> None:
        """Add a column or more, to be read next; all real by default, entered by `states`."""
        new = tokens if tokens.ndim == 2 else tokens[:, None]
        self.ids = torch.cat([self.ids, new], 1)
        real = torch.ones_like(new, dtype=torch.bool) if real is None else real
        self.mask = torch.cat([self.mask, real], 1)
        if self.entering is not None and states is not None:
            self.entering = torch.cat([self.entering, _laid_out(real, states)], 1)

    def select(self, which: Which) -> None:
        """Go on with some of the rows, in this order; a row may come twice."""
        where = torch.as_tensor(which, device=self.ids.device)
        self.ids, self.mask = self.ids[where], self.mask[where]
        self.entering = None if self.entering is None else self.entering[where]
        self.prompts = [self.prompts[i] for i in where.tolist()]
        if self.kv is not None and self.n_read:
            self.kv.reorder_cache(where)  # pyright: ignore[reportArgumentType]

    def branch(self, which: Which | None = None) -> Self:
        """A copy with these rows, all by default, that shares keys until it goes on."""
        other = copy.copy(self)
        if self.kv is not None:
            other.kv = copy.copy(self.kv)
            # layers of keys replace their tensors; others (linear attention) write into them
            other.kv.layers = [
                copy.copy(layer) if type(layer) in _KEYS else copy.deepcopy(layer)
                for layer in self.kv.layers
            ]
        if which is not None:
            other.select(which)
        return other


def _laid_out(
    real: Bool[Tensor, "row column"], states: Sequence[States]
) -> Float[Tensor, "row column d_model"]:
    """Each row's states at its real columns, zeros at the others."""
    every = torch.cat(list(states))
    out = every.new_zeros(*real.shape, every.shape[1])
    out[real.to(out.device)] = every
    return out


_KEYS = (DynamicLayer, DynamicSlidingWindowLayer)


def common_prefix(prompts: Sequence[TokenPrompt]) -> int:
    """How many first tokens all prompts share, each having another behind them."""
    least = min(len(prompt.ids) for prompt in prompts) - 1
    columns = zip(*(prompt.ids[:least] for prompt in prompts), strict=True)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), least)


def cache_in(kwargs: Mapping[str, Any]) -> Any:
    """The KV cache among the arguments of a forward call, or ``None``."""
    return next((kwargs[name] for name in NAMES if kwargs.get(name) is not None), None)


def cache_argument(module: nn.Module, cache: Any) -> dict[str, Any]:
    """A KV cache as the keyword argument that a module's forward takes it by; empty if none."""
    parameters = inspect.signature(module.forward).parameters
    name = next((name for name in NAMES if name in parameters), None)
    return {} if name is None else {name: cache}


def keeps_keys(model: Model) -> bool:
    """Whether a KV cache holds what a model has read; a recurrent state has no length."""
    stateful = getattr(model.hf, "_is_stateful", False)
    return model.arch.cached and not stateful and bool(cache_argument(model.body, None))


def can_share(model: Model, n_columns: int) -> bool:
    """Whether rows of so many columns can have padding between a shared beginning and the rest."""
    window = attention_window(model.hf.config)
    padded = model.arch.left_padding and model.arch.gaps and only_keys(model)
    return padded and (window is None or n_columns <= window)


def attention_window(config: Any) -> int | None:
    """How many columns, padding among them, the shortest local attention reaches; ``None``: all."""
    text = config.get_text_config()
    names = ("sliding_window", "window_size", "attention_chunk_size")
    return min((size for name in names if (size := getattr(text, name, None))), default=None)


def only_keys(model: Model) -> bool:
    """Whether tokens meet in attention alone, so that keys and values are all that is kept."""
    layers = DynamicCache(config=model.hf.config).layers if keeps_keys(model) else []
    return bool(layers) and all(type(layer) in _KEYS for layer in layers)


def separable(model: Model) -> bool:
    """Whether blocks hand on nothing but the residual stream, and keep nothing but keys."""
    known = arguments_of(model)
    return only_keys(model) and not known.carried and not known.shared
