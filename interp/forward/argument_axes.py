"""Which axes of a block's arguments run over prompts, and which over tokens.

Masks, rotary tables and biases come in many layouts: ``(prompt, 1, query, key)``,
``(1, pos, d_head)``, ``(prompt · head, 1, pos)`` (Bloom), ``(head, 1, pos)`` (MPT). An axis that is
as long as there are prompts may still be one of heads, so sizes of one batch do not tell; those of
two batches do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.brief import brief

Path = tuple[str, int]
"""Name of an argument, with the place in a tuple or the key in a dictionary, and its axes."""
SIZES = ((2, 5), (3, 7))
"""Prompts and positions of the two batches."""


@brief
@dataclass(frozen=True)
class ArgumentAxes:
    """Of one tensor: the axis that holds `per_prompt` entries for each prompt, and that of tokens.

    ``None``: no such axis.
    """

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


Recorded = list[dict[str, Any]]
"""Arguments of every block."""
_known: "WeakKeyDictionary[nn.Module, dict[Path, ArgumentAxes]]" = WeakKeyDictionary()


def argument_axes(
    hf: nn.Module, record: Callable[[int, int], Recorded]
) -> Mapping[Path, ArgumentAxes]:
    """The axes of all arguments of a model's blocks, found once.

    `record` runs a padded batch of so many prompts and positions.
    """
    if hf not in _known:
        first, second = (dict(_shapes(record(*sizes))) for sizes in SIZES)
        _known[hf] = {
            path: _axes(shape, second[path]) for path, shape in first.items() if path in second
        }
    return _known[hf]


def tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in an argument, with its name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, tuple | list):
        for place, inner in enumerate(value):
            yield from tensors(inner, f"{name}.{place}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from tensors(inner, f"{name}.{key}")


def _shapes(calls: Iterable[dict[str, Any]]) -> Iterator[tuple[Path, torch.Size]]:
    for kwargs in calls:
        for argument, value in kwargs.items():
            for name, tensor in tensors(value, argument):
                yield (name, tensor.ndim), tensor.shape


def _axes(first: torch.Size, second: torch.Size) -> ArgumentAxes:
    (p1, n1), (p2, n2) = SIZES
    prompts, per_prompt, tokens = None, 1, list[int]()
    for axis, (a, b) in enumerate(zip(first, second, strict=True)):
        if a != b and a % p1 == 0 and b % p2 == 0 and a // p1 == b // p2:
            prompts, per_prompt = axis, a // p1
        elif a != b:  # positions, alone or times something else
            tokens.append(axis)
    return ArgumentAxes(prompts, per_prompt, tuple(tokens))
