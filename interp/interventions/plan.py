"""Interventions as data: what is written, at which site, layers, units and tokens; and plans.

Nothing here runs a model: `binding` resolves a plan against a model and its prompts, and
`native`, `bridge` and `nnsight` carry it out.

Every vector is as wide as its site, whatever `units` selects of it, and may carry a position
axis, ``[pos, width]``, one entry per prompt, ``[prompt, pos, width]``, or one per layer of
`layers`, ``[layer, prompt, pos, width]``. Positions count a prompt's own tokens from 0, padding
left out; a position axis of 1 holds for every position. `interp.Activations`, or a labelled array
with the dims of its site, in place of a vector are written where they were recorded.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import ITEMS, LIMIT, in_few_words
from interp.data.prompts import Positions, whole_numbers
from interp.errors import PlanError, did_you_mean
from interp.interventions.batch_run import Rewrite
from interp.interventions.labelled import written
from interp.results import folder, storage

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

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """What to do to the chosen features."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Patch(SiteEdit):
    """Write given activations, such as another prompt's: a tensor, or what was recorded."""

    value: Value
    tensors = ("value",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The value in place of the activation."""
        return Rewrite(0.0, _selected(self.value, features))


AblationKind = Literal["zero", "mean", "resample", "noise", "optimal"]


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(SiteEdit):
    """Remove the information an activation carries.

    `interp.interventions.values` makes all kinds but zero from a model and prompts.

    Attributes:
        value: what is written, as `Patch` takes it; for noise, what is added. ``None`` for zero.
        kind: what the value is, for the record.
    """

    value: Value | None = None
    kind: AblationKind = field(default="zero", kw_only=True)
    tensors = ("value",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.value is None) != (self.kind == "zero"):
            need = "a value (interp.interventions.values makes one)"
            need = "no value" if self.kind == "zero" else need
            raise PlanError(f"Ablate of kind {self.kind!r} at {self.site!r} takes {need}.")

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """Zero, or the value, or the activation with noise added."""
        if self.value is None:
            return Rewrite(0.0)
        return Rewrite(1.0 if self.kind == "noise" else 0.0, _selected(self.value, features))


@dataclass(frozen=True, eq=False, repr=False)
class Add(SiteEdit):
    """Add a vector: steering.

    Attributes:
        vector: what is added, as `Patch` takes it.
        scale: times this.
        relative: ``"norm"``: also times the L2 norm of the activation (of the chosen units) at
            each token.
    """

    vector: Value
    scale: float = 1.0
    relative: Literal["norm"] | None = field(default=None, kw_only=True)
    tensors = ("vector",)
    numbers = ("scale",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation plus scale x vector."""
        added = self.scale * _selected(self.vector, features)
        return Rewrite(1.0, added, of_norm={None: False, "norm": True}[self.relative])


@dataclass(frozen=True, eq=False, repr=False)
class Scale(SiteEdit):
    """Multiply activations by a number."""

    factor: float
    numbers = ("factor",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation times the factor."""
        return Rewrite(self.factor)


@dataclass(frozen=True, eq=False, repr=False)
class ProjectOut(SiteEdit):
    """Remove the component of the activation in the span of linearly independent directions.

    Their lengths and angles do not matter. With `units`, they are restricted to these features.
    """

    directions: Float[Tensor, "*direction width"]
    tensors = ("directions",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions.ndim > 2:
            shape = tuple(self.directions.shape)
            raise PlanError(f"ProjectOut.directions has shape {shape}; give [direction, width].")

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation minus its projection; linearly dependent directions are refused."""
        rows = _selected(self.directions.reshape(-1, self.directions.shape[-1]).double(), features)
        basis, r = torch.linalg.qr(rows.T)
        size = r.diagonal().abs()
        if len(size) < len(rows) or not bool((size > 1e-6 * rows.norm(dim=1)).all()):
            raise PlanError(
                f"ProjectOut at {self.site!r}: its {len(rows)} directions are linearly dependent "
                "(or zero) in the selected features; give independent ones."
            )
        return Rewrite(basis=basis)


@dataclass(frozen=True, eq=False, repr=False)
class KnockOut(Described):
    """Cut attention edges: the queries cannot read the keys in these layers.

    The pre-softmax score becomes minus infinity, so the other weights grow to sum to one
    (Geva et al., arXiv 2304.14767).

    `layers` and `heads` (query heads) are all by default.
    """

    queries: Positions
    keys: Positions
    layers: Numbers = None
    heads: Numbers = None


Intervention = SiteEdit | KnockOut
KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Patch, Ablate, Add, Scale, ProjectOut, KnockOut)
}


@dataclass(frozen=True)
class Plan(Sequence[Intervention]):
    """Interventions in the order in which they apply; ``+`` puts one plan after another."""

    steps: tuple[Intervention, ...] = ()

    @classmethod
    def of(cls, *steps: "Intervention | Plan") -> Self:
        """A plan of interventions and of other plans' interventions."""
        flat = [one for step in steps for one in (step if isinstance(step, Plan) else (step,))]
        for one in flat:
            if type(one).__name__ not in KINDS:
                raise PlanError(f"{one!r} is not an intervention; a plan takes {', '.join(KINDS)}.")
        return cls(tuple(flat))

    @property
    def edits(self) -> tuple[SiteEdit, ...]:
        """The interventions that rewrite activations."""
        return tuple(step for step in self.steps if isinstance(step, SiteEdit))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: Any) -> Any:
        return Plan(self.steps[index]) if isinstance(index, slice) else self.steps[index]

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.steps)

    def __add__(self, other: "Intervention | Plan") -> "Plan":
        return Plan.of(self, other)

    def __repr__(self) -> str:
        text = f"Plan({', '.join(map(repr, self.steps))})"
        if len(text) <= LIMIT:
            return text
        count = Counter(type(step).__name__ for step in self.steps)
        kinds = ", ".join(f"{n} {kind}" for kind, n in count.items())
        return f"Plan({len(self.steps)} interventions: {kinds})"

    def save(self, path: str | Path) -> Path:
        """Write a folder: ``manifest.json`` and, in safetensors, the tensors."""
        steps = [{"intervention": type(step).__name__} | step.fields() for step in self.steps]
        return storage.store(steps, Path(path), "plan")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; `RunFolderError` where that is missing or damaged."""
        steps: list[dict[str, Any]] = storage.restore(Path(path), "plan", list[dict[str, Any]])
        with folder.reading(Path(path)):
            for name in (one["intervention"] for one in steps):
                if name not in KINDS:
                    text = f"unknown intervention {name!r}. {did_you_mean(name, KINDS)}"
                    raise PlanError(text)
            return cls(tuple(KINDS[one.pop("intervention")](**one) for one in steps))


AnyPlan = Plan | Intervention | Iterable[Intervention]


def as_plan(plan: "AnyPlan") -> Plan:
    """A plan from a plan, one intervention, or several."""
    if isinstance(plan, Plan):
        return plan
    return Plan.of(plan) if isinstance(plan, Described) else Plan.of(*plan)


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


def _selected(
    value: Float[Tensor, "*any width"], features: Int[Tensor, " feature"] | None
) -> Float[Tensor, "*any feature"]:
    """Some features of a value; ``None`` for all."""
    return value if features is None else value[..., features.to(value.device)]
