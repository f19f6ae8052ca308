"""Interventions as data: what is written, at which site, layers, units and tokens; and plans.

Nothing here runs a model: `binding` resolves a plan against a model and its prompts, and
`native`, `bridge` and `nnsight` carry it out.

Every vector is as wide as its site, whatever `units` selects of it, and may carry a position
axis, ``[pos, width]``, one entry per prompt, ``[prompt, pos, width]``, or one per layer of
`layers`, ``[layer, prompt, pos, width]``. Positions count a prompt's own tokens from 0, padding
left out; a position axis of 1 holds for every position. `interp.Activations` in place of a vector
are written where they were recorded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import LIMIT
from interp.data.prompts import Positions, whole_numbers
from interp.errors import PlanError, did_you_mean, shown
from interp.interventions.described import Described
from interp.interventions.rewrite import Rewrite, selected
from interp.model.sites import parse_site
from interp.results import folder, storage

Numbers = int | Sequence[int] | None
Value = Float[Tensor, "*prompt_pos width"]


@runtime_checkable
class Recorded(Protocol):
    """Activations that know where they were recorded, as `interp.Activations` do."""

    @property
    def site(self) -> str:
        """The site's short name."""
        ...

    def __iter__(self) -> Iterator[int]:
        """The layers."""
        ...

    def aligned(self, layer: int) -> Float[Tensor, "prompt pos width"]:
        """A layer's values at their positions in the prompt, NaN where nothing was recorded."""
        ...


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
            value = getattr(self, name)
            if isinstance(value, Recorded):
                layers = _recorded_layers(self, value)
                aligned = torch.stack([value.aligned(layer) for layer in layers])
                object.__setattr__(self, "layers", layers)
                object.__setattr__(self, name, aligned if len(layers) > 1 else aligned[0])
        super().__post_init__()
        for name, value in self.held():
            layers: Any = self.layers
            if value.ndim == 4 and len(value) != len(layers or ()):
                raise PlanError(
                    f"{type(self).__name__}.{name} holds one entry for each of {len(value)} "
                    "layers; name those layers in `layers`."
                )

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """What to do to the chosen features."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Patch(SiteEdit):
    """Write given activations, such as another prompt's.

    Attributes:
        value: what is written: a tensor, or `interp.Activations` of this site, which are written
            in their layers at the tokens that they were recorded at.
    """

    value: Value
    tensors = ("value",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The value in place of the activation."""
        return Rewrite(0.0, selected(self.value, features))


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
        return Rewrite(1.0 if self.kind == "noise" else 0.0, selected(self.value, features))


@dataclass(frozen=True, eq=False, repr=False)
class Add(SiteEdit):
    """Add a vector: steering.

    Attributes:
        vector: what is added, as `Patch` takes it.
        scale: times this.
        relative: also times the size of the activation (of the chosen units) at each token: its
            L2 ``"norm"``, or its root mean square, ``"rms"``.
    """

    vector: Value
    scale: float = 1.0
    relative: Literal["norm", "rms"] | None = field(default=None, kw_only=True)
    tensors = ("vector",)
    numbers = ("scale",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation plus scale x vector."""
        added = self.scale * selected(self.vector, features)
        sizes = {None: None, "norm": 1.0, "rms": added.shape[-1] ** -0.5}
        return Rewrite(1.0, added, of_norm=sizes[self.relative])


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
    """Remove the component of the activation in the span of some directions.

    With `units`, the directions are restricted to the selected features first.

    Attributes:
        directions: one or more, linearly independent; lengths and angles do not matter.
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

    Attributes:
        queries: the tokens that read.
        keys: the tokens that are read.
        layers: the window of layers; ``None`` for all.
        heads: which query heads; ``None`` for all.
    """

    queries: Positions
    keys: Positions
    layers: Numbers = None
    heads: Numbers = None


@dataclass(frozen=True, eq=False, repr=False)
class Feedback(Described):
    """Let the dose of every `Add` of the plan follow the state of the text that is generated.

    Each token that is read sets the dose of its row's next token: 1 where the cosine between the
    residual stream after `layer` and the row's direction is `low`, 0 where it is `high`, linear
    between and beyond, at most `most`. Before the first new token is read the dose is 1.

    Attributes:
        directions: one per prompt.
        low, high: per prompt.
        layer: whose output is read, after all edits there.
        most: the largest dose.
    """

    directions: Float[Tensor, "prompt d_model"]
    low: Float[Tensor, " prompt"]
    high: Float[Tensor, " prompt"]
    layer: int
    most: float = 2.0
    tensors = ("directions", "low", "high")
    numbers = ("most",)


Intervention = SiteEdit | KnockOut | Feedback
KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Patch, Ablate, Add, Scale, ProjectOut, KnockOut, Feedback)
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
        """Write a folder: ``manifest.json`` and, in safetensors, the tensors.

        Raises:
            RunFolderError: `path` exists and is not a run folder.
        """
        steps = [{"intervention": type(step).__name__} | step.fields() for step in self.steps]
        return storage.store(steps, Path(path), "plan")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RunFolderError: the folder is missing, damaged, no plan, or of another version.
        """
        steps: list[dict[str, Any]] = storage.restore(Path(path), "plan", list[dict[str, Any]])
        with folder.reading(Path(path)):
            return cls(tuple(_kind(one.pop("intervention"))(**one) for one in steps))


AnyPlan = Plan | Intervention | Iterable[Intervention]


def as_plan(plan: "AnyPlan") -> Plan:
    """A plan from a plan, one intervention, or several."""
    if isinstance(plan, Plan):
        return plan
    return Plan.of(plan) if isinstance(plan, Described) else Plan.of(*plan)


# --- helpers -----------------------------------------------------------------------------------


def _recorded_layers(step: SiteEdit, found: Recorded) -> tuple[int, ...]:
    """The layers of a step whose value is recorded activations: its own, or all recorded."""
    site, named = parse_site(step.site)
    if site.name != found.site:
        raise PlanError(
            f"{type(step).__name__} at {step.site!r} was given activations of the site "
            f"{found.site!r}; record {site.name!r}."
        )
    wanted = step.layers if step.layers is not None else named
    layers = tuple(found) if wanted is None else whole_numbers(wanted, "layers")
    missing = [layer for layer in layers if layer not in found]
    if missing:
        raise PlanError(
            f"the activations of {found.site!r} hold layers {shown(list(found))}, not "
            f"{missing[0]}; record that layer."
        )
    return layers


def _kind(name: str) -> Any:
    if name not in KINDS:
        raise PlanError(f"unknown intervention {name!r}. {did_you_mean(name, KINDS)}")
    return KINDS[name]
