"""Interventions as data: what is written, at which site, layers, units and tokens; and plans.

Nothing here runs a model: `binding` resolves a plan against a model and its prompts, and
`native`, `bridge` and `nnsight` carry it out.

Every vector is as wide as its site, whatever `units` selects of it, and may carry a position
axis, ``[pos, width]``, one entry per prompt, ``[prompt, pos, width]``, or one per layer of
`layers`, ``[layer, prompt, pos, width]``. Positions count a prompt's own tokens from 0, padding
left out. `interp.Activations` in place of a vector are written where they were recorded.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import ITEMS, LIMIT, in_few_words
from interp.data.prompts import Positions, whole_numbers
from interp.errors import PlanError, did_you_mean, shown
from interp.interventions.rewrite import Rewrite, selected
from interp.model.sites import parse_site
from interp.results import folder


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


SETS = ("layers", "units", "heads", "positions", "queries", "keys")


class _Described:
    """Normal form, checks, equality and repr that all interventions share."""

    tensors: ClassVar[tuple[str, ...]] = ()

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]

    def __post_init__(self) -> None:
        for name, value in self._fields().items():
            if name in self.tensors:
                object.__setattr__(self, name, _vector(value, f"{type(self).__name__}.{name}"))
            elif name in SETS and value is not None and not isinstance(value, str):
                object.__setattr__(self, name, whole_numbers(value, name))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        theirs = other._fields()
        return all(_same(value, theirs[name]) for name, value in self._fields().items())

    def __repr__(self) -> str:
        shown = [f"{k}={_brief(v)}" for k, v in self._fields().items() if v is not None]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, eq=False, repr=False)
class Edit(_Described):
    """Base of what rewrites activations at a site.

    Attributes:
        site: ``"z"``, or ``"blocks.7.attn.hook_z"`` for one layer.
        layers: where; ``None`` for the layer in the site's name, or every layer.
        units: heads or neurons; ``None`` for all.
        positions: which tokens.
    """

    site: str
    layers: int | Sequence[int] | None = dataclasses.field(default=None, kw_only=True)
    units: int | Sequence[int] | None = dataclasses.field(default=None, kw_only=True)
    positions: Positions = dataclasses.field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        for name in self.tensors:
            value = getattr(self, name)
            if isinstance(value, Recorded):
                layers = _recorded_layers(self, value)
                aligned = torch.stack([value.aligned(layer) for layer in layers])
                object.__setattr__(self, "layers", layers)
                object.__setattr__(self, name, aligned if len(layers) > 1 else aligned[0])
        super().__post_init__()
        for name, value in _tensors(self):
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
class Patch(Edit):
    """Write given activations, such as another prompt's.

    Attributes:
        value: what is written: a tensor, or `interp.Activations` of this site, which are written
            in their layers at the tokens that they were recorded at.
    """

    value: Float[Tensor, "*prompt_pos width"]
    tensors = ("value",)

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The value in place of the activation."""
        return Rewrite(0.0, selected(self.value, features))


AblationKind = Literal["zero", "mean", "resample", "noise", "optimal"]


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Edit):
    """Remove the information an activation carries.

    `interp.interventions.values` makes all kinds but zero from a model and prompts.

    Attributes:
        value: what is written, as `Patch` takes it; for noise, what is added. ``None`` for zero.
        kind: what the value is, for the record.
    """

    value: Float[Tensor, "*prompt_pos width"] | None = None
    kind: AblationKind = dataclasses.field(default="zero", kw_only=True)
    tensors = ("value",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.value is None) != (self.kind == "zero"):
            need = (
                "no value"
                if self.kind == "zero"
                else "a value (interp.interventions.values makes one)"
            )
            raise PlanError(f"Ablate of kind {self.kind!r} at {self.site!r} takes {need}.")

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """Zero, or the value, or the activation with noise added."""
        if self.value is None:
            return Rewrite(0.0)
        keep = 1.0 if self.kind == "noise" else 0.0
        return Rewrite(keep, selected(self.value, features))


@dataclass(frozen=True, eq=False, repr=False)
class Add(Edit):
    """Add a vector: steering.

    Attributes:
        vector: what is added, as `Patch` takes it.
        scale: times this.
    """

    vector: Float[Tensor, "*prompt_pos width"]
    scale: float = 1.0
    tensors = ("vector",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", _finite(self.scale, "Add.scale"))

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation plus scale x vector."""
        return Rewrite(1.0, self.scale * selected(self.vector, features))


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Edit):
    """Multiply activations by a number."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factor", _finite(self.factor, "Scale.factor"))

    def rewrite(self, features: Int[Tensor, " feature"] | None) -> Rewrite:
        """The activation times the factor."""
        return Rewrite(self.factor)


@dataclass(frozen=True, eq=False, repr=False)
class ProjectOut(Edit):
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
        """The activation minus its projection.

        Raises:
            PlanError: the directions are linearly dependent.
        """
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
class KnockOut(_Described):
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
    layers: int | Sequence[int] | None = None
    heads: int | Sequence[int] | None = None


Intervention = Edit | KnockOut
KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Patch, Ablate, Add, Scale, ProjectOut, KnockOut)
}


@dataclass(frozen=True)
class Plan(Sequence[Intervention]):
    """Interventions in the order in which they apply; ``+`` puts one plan after another.

    Attributes:
        steps: the interventions.
    """

    steps: tuple[Intervention, ...] = ()

    @classmethod
    def of(cls, *steps: "Intervention | Plan") -> Self:
        """A plan of interventions and of other plans' interventions."""
        flat = [one for step in steps for one in (step if isinstance(step, Plan) else (step,))]
        for one in flat:
            if type(one).__name__ not in KINDS:
                raise PlanError(f"{one!r} is not an intervention; a plan takes {', '.join(KINDS)}.")
        return cls(tuple(flat))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: Any) -> Any:
        return Plan(self.steps[index]) if isinstance(index, slice) else self.steps[index]

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.steps)

    def __add__(self, other: "Intervention | Plan") -> "Plan":
        return Plan.of(self, other)

    def __repr__(self) -> str:
        whole = f"Plan({', '.join(map(repr, self.steps))})"
        if len(whole) <= LIMIT:
            return whole
        count = Counter(type(step).__name__ for step in self.steps)
        kinds = ", ".join(f"{n} {kind}" for kind, n in count.items())
        return f"Plan({len(self.steps)} interventions: {kinds})"

    def to_json(self) -> str:
        """The plan as text; tensors by name, shape and dtype."""
        return json.dumps([_record(i, step) for i, step in enumerate(self.steps)])

    def save(self, path: str | Path) -> Path:
        """Write a folder: ``manifest.json`` and, in safetensors, the tensors.

        Raises:
            RunFolderError: `path` exists and is not a run folder.
        """
        steps = json.loads(self.to_json())
        # numpy has no bfloat16; fp32 holds it exactly, and the manifest says what it was
        arrays = {
            f"{i}.{name}": value.detach().cpu().to(_storable(value.dtype)).numpy()
            for i, step in enumerate(self.steps)
            for name, value in _tensors(step)
        }
        manifest = {"kind": "plan", "plan": steps, "provenance": folder.provenance()}
        return folder.write(Path(path), manifest, {}, arrays)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RunFolderError: the folder is missing, damaged, or no plan.
            PlanError: it names a kind of intervention that this version does not know.
        """
        manifest, _, arrays = folder.read(path, "plan", ())
        return cls(tuple(_from_record(record, arrays) for record in manifest["plan"]))


AnyPlan = Plan | Edit | KnockOut | Iterable[Edit | KnockOut]


def as_plan(plan: "AnyPlan") -> Plan:
    """A plan from a plan, one intervention, or several."""
    if isinstance(plan, Plan):
        return plan
    return Plan.of(plan) if isinstance(plan, _Described) else Plan.of(*plan)


# --- normal forms ------------------------------------------------------------------------------


def _recorded_layers(step: Edit, found: Recorded) -> tuple[int, ...]:
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


# --- records -----------------------------------------------------------------------------------


def _tensors(step: Intervention) -> list[tuple[str, Tensor]]:
    values = step._fields().items()  # pyright: ignore[reportPrivateUsage]
    return [(name, value) for name, value in values if isinstance(value, Tensor)]


def _storable(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _record(i: int, step: Intervention) -> dict[str, Any]:
    record: dict[str, Any] = {"intervention": type(step).__name__}
    record |= step._fields()  # pyright: ignore[reportPrivateUsage]
    for name, value in _tensors(step):
        dtype = str(value.dtype).removeprefix("torch.")
        record[name] = {"array": f"{i}.{name}", "shape": list(value.shape), "dtype": dtype}
    return record


def _from_record(record: dict[str, Any], arrays: dict[str, Any]) -> Intervention:
    options = dict(record)
    kind = options.pop("intervention")
    if kind not in KINDS:
        raise PlanError(f"unknown intervention {kind!r}. {did_you_mean(kind, KINDS)}")
    for name, value in options.items():
        if isinstance(value, dict):
            dtype = getattr(torch, value["dtype"])
            options[name] = torch.from_numpy(arrays[value["array"]]).to(dtype)
    return KINDS[kind](**options)
