"""What all kinds of intervention share: normal form, checks, equality, a short repr."""

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.brief import ITEMS, in_few_words
from interp.data.prompts import whole_numbers
from interp.errors import PlanError

SETS = ("layers", "units", "heads", "positions", "queries", "keys")


class Described:
    """Normal form, checks, equality and repr that all interventions share."""

    tensors: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ()

    def fields(self) -> dict[str, Any]:
        """Every field by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]

    def held(self) -> list[tuple[str, Tensor]]:
        """The fields that are tensors."""
        return [(k, v) for k, v in self.fields().items() if isinstance(v, Tensor)]

    def __post_init__(self) -> None:
        for name, value in self.fields().items():
            normal = value
            if name in self.tensors:
                normal = _vector(value, f"{type(self).__name__}.{name}")
            elif name in self.numbers:
                normal = _finite(value, f"{type(self).__name__}.{name}")
            elif name in SETS and value is not None and not isinstance(value, str):
                normal = whole_numbers(value, name)
            object.__setattr__(self, name, normal)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        theirs = other.fields()
        return all(_same(value, theirs[name]) for name, value in self.fields().items())

    def __repr__(self) -> str:
        parts = [f"{k}={_brief(v)}" for k, v in self.fields().items() if v is not None]
        return f"{type(self).__name__}({', '.join(parts)})"


def _vector(value: Any, what: str) -> Tensor | None:
    if value is None:
        return None
    tensor = torch.as_tensor(value)
    if not 1 <= tensor.ndim <= 4 or not tensor.is_floating_point():
        raise PlanError(
            f"{what} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; give floats of "
            "shape [width], [pos, width], [prompt, pos, width] or [layer, prompt, pos, width]."
        )
    usable = torch.isfinite(tensor)
    if tensor.ndim > 1 and not what.endswith("directions"):
        # a token's NaN is one beyond a prompt's end, as `interp.activations` records it
        usable = usable | tensor.isnan().all(-1, keepdim=True)
    if not bool(usable.all()):
        raise PlanError(f"{what} holds NaN or infinity; nothing useful can be written.")
    return tensor


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise PlanError(f"{what} is {value}; give a finite number.")
    return float(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        a, b = a.cpu(), b.cpu()
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    return type(a) is type(b) and a == b


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    if isinstance(value, tuple) and len(value) > ITEMS:
        run = value == tuple(range(value[0], value[-1] + 1))
        return f"{value[0]} to {value[-1]}" if run else f"{len(value)} numbers"
    return in_few_words(value)
