"""What interventions share: normal form, checks, equality; and the base of what edits a site."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import ITEMS, in_few_words
from interp.data.prompts import Positions, whole_numbers
from interp.errors import PlanError
from interp.interventions.batch_run import Fade, Rewrite
from interp.interventions.labelled import written

Numbers = int | Sequence[int] | None
Value = Float[Tensor, "*prompt_pos width"]
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


@dataclass(frozen=True, eq=False, repr=False)
class SiteEdit(Described):
    """Base of what rewrites activations at a site.

    Attributes:
        site: ``"z"``, or ``"blocks.7.attn.hook_z"`` for one layer.
        layers: where; ``None`` for the layer in the site's name, or every layer.
        units: heads or neurons; ``None`` for all.
        positions: which tokens.
    """

    site: str
    layers: Numbers = field(default=None, kw_only=True)
    units: Numbers = field(default=None, kw_only=True)
    positions: Positions = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        for name in self.tensors:
            found: Any = getattr(self, name)
            array = getattr(found, "array", found)  # of interp.Activations
            if isinstance(array, xr.DataArray):
                what = type(self).__name__
                layers, value = written(array, self.site, self.layers, what)
                object.__setattr__(self, "layers", layers)
                object.__setattr__(self, name, value)
        super().__post_init__()
        layers: Any = self.layers or ()
        for name, value in self.held():
            if value.ndim == 4 and len(value) != len(layers):
                raise PlanError(
                    f"{type(self).__name__}.{name} holds one entry for each of {len(value)} "
                    "layers; name those layers in `layers`."
                )

    @property
    def fade(self) -> Fade | None:
        """How the dose ends while text is generated; ``None``: it does not."""
        return None

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """What to do to the chosen features."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Shift(SiteEdit):
    """Base of what moves activations along a vector, at a dose that may end during generation.

    Attributes:
        relative: ``"norm"``: the dose is times the L2 norm of the activation (of the chosen units)
            at each token.
        hold: how many new tokens are predicted at the full dose, or ``"sentence"``: those of the
            first sentence, up to a token that ends in one of ``. ! ? …`` or a closing quote or
            bracket behind it; ``None``: all.
        half_life: behind `hold`, the dose halves every so many tokens; ``None``: it is off at once.
    """

    relative: Literal["norm"] | None = field(default=None, kw_only=True)
    hold: int | Literal["sentence"] | None = field(default=None, kw_only=True)
    half_life: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        what = f"{type(self).__name__} at {self.site!r}"
        hold: Any = self.hold
        if self.relative not in (None, "norm"):
            raise PlanError(f"{what} has relative={self.relative!r}; choose 'norm' or None.")
        if hold not in (None, "sentence") and not (isinstance(hold, int) and hold >= 1):
            raise PlanError(f"{what} has hold={hold!r}; give 1 token or more, or 'sentence'.")
        if self.half_life is not None and (hold is None or self.finite("half_life") <= 0):
            raise PlanError(
                f"{what} has half_life={self.half_life!r} and hold={hold!r}; give a positive "
                "number of tokens, and with it `hold`, behind which the dose halves."
            )
        if hold is not None and self.positions not in ("all", "decoded", "generating"):
            raise PlanError(
                f"{what} has hold={hold!r}, which is about new tokens, but "
                f"positions={self.positions!r}; choose 'generating', 'decoded' or 'all'."
            )

    @property
    def fade(self) -> Fade | None:
        """How the dose ends while text is generated; ``None``: it does not."""
        return None if self.hold is None else Fade(self.hold, self.half_life)

    def finite(self, name: str) -> float:
        """A field that is a number; `PlanError` where it is infinite or none."""
        return _finite(getattr(self, name), f"{type(self).__name__}.{name}")


# --- helpers -----------------------------------------------------------------------------------


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


def selected(
    value: Float[Tensor, "*any width"], features: Int[Tensor, " feature"] | None
) -> Float[Tensor, "*any feature"]:
    """Some features of a value; ``None`` for all."""
    return value if features is None else value[..., features.to(value.device)]
