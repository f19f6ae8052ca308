"""Interventions as data: what is written, at which site, layers, units and tokens; and plans.

Nothing here runs a model: `binding` resolves a plan against a model and its prompts, and
`native`, `bridge` and `nnsight` carry it out.

Every vector is as wide as its site, whatever `units` selects of it, and may carry a position
axis, ``[pos, width]``, one entry per prompt, ``[prompt, pos, width]``, or one per layer of
`layers`, ``[layer, prompt, pos, width]``. Positions count a prompt's own tokens from 0, padding
left out; a position axis of 1 holds for every position. `interp.Activations`, or a labelled array
with the dims of its site, in place of a vector are written where they were recorded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import LIMIT
from interp.data.prompts import Positions
from interp.errors import PlanError, did_you_mean
from interp.interventions.batch_run import Rewrite
from interp.interventions.site_edit import Described, Numbers, Shift, SiteEdit, Value, selected
from interp.results import folder, storage


@dataclass(frozen=True, eq=False, repr=False)
class Patch(SiteEdit):
    """Write given activations, such as another prompt's: a tensor, or what was recorded."""

    value: Value
    tensors = ("value",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The value in place of the activation."""
        return Rewrite(0.0, selected(self.value, features))


AblationKind = Literal["zero", "mean", "resample", "noise"]


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
        return Rewrite(1.0 if self.kind == "noise" else 0.0, selected(self.value, features))


@dataclass(frozen=True, eq=False, repr=False)
class Add(Shift):
    """Add a vector: steering.

    Attributes:
        vector: what is added, as `Patch` takes it.
        scale: times this, and with ``relative="norm"`` times the norm of the activation.
    """

    vector: Value
    scale: float = 1.0
    tensors = ("vector",)
    numbers = ("scale",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation plus scale x vector."""
        added = self.scale * selected(self.vector, features)
        return Rewrite(1.0, added, of_norm=self.relative == "norm")


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Shift):
    """Move an activation along a vector until its coordinate is within bounds, and no further.

    The coordinate of x on the vector v is c = (x - origin)·v / v·v: 0 at the origin, 1 at
    origin + v. Where c is already within the bounds, x stays as it is; with
    ``relative="norm"`` the bounds are times the norm of x.

    Attributes:
        vector: v, as `Patch` takes it.
        low, high: the bounds of the coordinate; ``None``: none. `low` alone adds only what is
            missing (steering that stops on arrival).
        origin: where the coordinate is 0, of the shape of `vector`; ``None``: at zero.
    """

    vector: Value
    low: float | None = 1.0
    high: float | None = None
    origin: Value | None = field(default=None, kw_only=True)
    tensors = ("vector", "origin")

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = [self.finite(name) for name in ("low", "high") if getattr(self, name) is not None]
        if not ends or ends != sorted(ends):
            raise PlanError(
                f"Clamp at {self.site!r} has low={self.low} and high={self.high}; give one of "
                "them, or a low one that is not above the high one."
            )
        if self.origin is not None and self.origin.shape != self.vector.shape:
            raise PlanError(
                f"Clamp.origin at {self.site!r} has shape {tuple(self.origin.shape)}, but its "
                f"vector has {tuple(self.vector.shape)}; give one origin per vector."
            )

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation with its coordinate within the bounds."""
        origin = None if self.origin is None else selected(self.origin, features)
        bounds = (self.low, self.high)
        vector, of_norm = selected(self.vector, features), self.relative == "norm"
        if not bool(vector.reshape(-1, vector.shape[-1]).any(-1).all()):
            raise PlanError(f"Clamp.vector at {self.site!r} holds zero, which has no direction.")
        return Rewrite(1.0, vector, of_norm=of_norm, bounds=bounds, origin=origin)


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
        rows = selected(self.directions.reshape(-1, self.directions.shape[-1]).double(), features)
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
    kind.__name__: kind for kind in (Patch, Ablate, Add, Clamp, Scale, ProjectOut, KnockOut)
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
