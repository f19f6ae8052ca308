"""A block's arguments: which axes run over prompts and tokens, and what blocks hand on.

Masks, rotary tables and biases come in many layouts: ``(prompt, 1, query, key)``,
``(1, pos, d_head)``, ``(prompt · head, 1, pos)`` (Bloom), ``(head, 1, pos)`` (MPT). An axis that is
as long as there are prompts may still be one of heads, so sizes of one batch do not tell; those of
two batches do. A third batch, of other tokens, tells which arguments depend on what is read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.brief import brief

Path = tuple[str, int]
"""Name of an argument, with the place in a tuple, and its number of axes."""
SIZES = ((2, 5), (3, 4))
"""Prompts and positions of two batches."""
BATCHES = ((*SIZES[0], 0), (*SIZES[1], 0), (*SIZES[0], 11))
"""With the number of the first token."""


@brief
@dataclass(frozen=True)
class ArgumentAxes:
    """Of one tensor: the axis of `per_prompt` entries per prompt (or ``None``), those of tokens."""

    prompts: int | None
    per_prompt: int
    tokens: tuple[int, ...]

    @property
    def by_token(self) -> bool:
        """Whether it is constant, or laid out as (prompt or 1, pos, …)."""
        if not self.tokens:
            return self.prompts is None
        return self.tokens == (1,) and self.prompts in (None, 0) and self.per_prompt == 1

    def rows(self, value: Tensor, n_prompts: int, prompt: Tensor) -> Tensor:
        """The value for rows that continue the given prompts."""
        if self.prompts is None or n_prompts * self.per_prompt != value.shape[self.prompts]:
            return value
        split = value.unflatten(self.prompts, (n_prompts, self.per_prompt))
        chosen = split.index_select(self.prompts, prompt.to(value.device))
        return chosen.flatten(self.prompts, self.prompts + 1)


@brief
@dataclass(frozen=True)
class BlockArguments:
    """What is known of the arguments that a model's blocks are called with.

    Attributes:
        axes: of every tensor, the axes over prompts and tokens.
        carried: arguments that the block before gives out beside the residual stream, with their
            place in its output.
        of_tokens: names of those that depend on which tokens are read (per-layer embeddings).
        shared: names of those that blocks write into (keys and values of other layers).
    """

    axes: Mapping[Path, ArgumentAxes] = field(default_factory=dict)
    carried: Mapping[str, int] = field(default_factory=dict)
    of_tokens: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    @property
    def by_token(self) -> bool:
        """Whether all are laid out token by token, masks over queries and keys aside."""
        masks = {("attention_mask", 4)}
        own = (axes.by_token for path, axes in self.axes.items() if path not in masks)
        return all(own) and not self.carried and not self.shared


Recorded = list[dict[str, Any]]
"""Arguments of every block."""
_known: "WeakKeyDictionary[nn.Module, BlockArguments]" = WeakKeyDictionary()


def block_arguments(
    hf: nn.Module, record: Callable[[int, int, int], tuple[Recorded, tuple[Any, ...]]]
) -> BlockArguments:
    """What the blocks of a model are called with; measured once.

    `record` runs a padded batch of so many prompts and positions, whose first token has the given
    number; it returns the arguments, and what the first block gave out beside the stream.
    """
    if hf not in _known:
        (one, beside), (two, _), (other, _) = (record(*sizes) for sizes in BATCHES)
        first, second = dict(_shapes(one)), dict(_shapes(two))
        carried = {
            name: place
            for kwargs in one[1:]
            for name, value in kwargs.items()
            for place, given in enumerate(beside, 1)
            if isinstance(given, Tensor) and value is given
        }
        _known[hf] = BlockArguments(
            {path: _axes(shape, second[path]) for path, shape in first.items() if path in second},
            carried,
            frozenset(_different(one, other)) - set(carried),
            frozenset(
                name
                for kwargs in one
                for name, value in kwargs.items()
                if isinstance(value, MutableMapping) and type(value) is not dict
            ),
        )
    return _known[hf]


def _different(one: Recorded, other: Recorded) -> Iterator[str]:
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            pairs = zip(_tensors(value, name), _tensors(b.get(name), name), strict=False)
            if any(not torch.equal(x, y) for (_, x), (_, y) in pairs):
                yield name


class BlockState:
    """What blocks hand on beside the residual stream, for the rows of one run."""

    def __init__(self, arguments: BlockArguments):
        self.places, self.values = arguments.carried, dict[str, Tensor]()
        self.names, self.shared = arguments.shared, list[MutableMapping[str, Any]]()
        self.n_rows = 0

    def given(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A block's arguments, with what the block before handed on."""
        self.shared = [kwargs[name] for name in self.names if name in kwargs]
        return {**kwargs, **self.values}

    def after(self, out: Any) -> Tensor:
        """The residual stream in a block's output; the rest is kept for the next block."""
        if not isinstance(out, tuple):
            return out
        self.values = {
            name: out[place]
            for name, place in self.places.items()
            if place < len(out) and isinstance(out[place], Tensor)
        }
        return out[0]

    def join(self, rows: Tensor) -> None:
        """Add rows that so far are copies of others."""

        def more(value: Tensor) -> Tensor:
            return torch.cat([value, value[rows.to(value.device)]])

        self.values = {name: more(value) for name, value in self.values.items()}
        for mapping in self.shared:
            for key, values in list(mapping.items()):
                if len(values[0]) == self.n_rows:  # others are of another run, to be overwritten
                    mapping[key] = tuple(map(more, values))
        self.n_rows += len(rows)


def mapped(
    value: Any,
    name: str,
    axes: Mapping[Path, ArgumentAxes],
    change: Callable[[Tensor, ArgumentAxes | None], Tensor],
) -> Any:
    """An argument with every tensor in it changed; axes of those not met before are ``None``."""
    if isinstance(value, Tensor):
        return change(value, axes.get((name, value.ndim)))
    if type(value) in (tuple, list):
        return type(value)(mapped(v, f"{name}.{i}", axes, change) for i, v in enumerate(value))
    if type(value) is dict:
        return {key: mapped(v, f"{name}.{key}", axes, change) for key, v in value.items()}
    return value


def _shapes(calls: Iterable[dict[str, Any]]) -> Iterator[tuple[Path, torch.Size]]:
    for kwargs in calls:
        for argument, value in kwargs.items():
            for name, tensor in _tensors(value, argument):
                yield (name, tensor.ndim), tensor.shape


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif type(value) in (tuple, list, dict):
        for place, inner in value.items() if type(value) is dict else enumerate(value):
            yield from _tensors(inner, f"{name}.{place}")


def _axes(first: torch.Size, second: torch.Size) -> ArgumentAxes:
    (p1, _), (p2, _) = SIZES
    prompts, per_prompt, tokens = None, 1, list[int]()
    for axis, (a, b) in enumerate(zip(first, second, strict=True)):
        if a != b and a % p1 == 0 and b % p2 == 0 and a // p1 == b // p2:
            prompts, per_prompt = axis, a // p1
        elif a != b:  # positions, alone or times something else
            tokens.append(axis)
    return ArgumentAxes(prompts, per_prompt, tuple(tokens))
