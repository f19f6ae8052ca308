"""Components and sets: ``a3.h1`` a head, ``m5`` an MLP, ``m5.n17`` a neuron, ``m5.e2`` an expert.

Names are those of the graph; those of papers, ``L3H1``, ``L5MLP``, ``L5N17`` and ``L5E2``, are read
too.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd

from interp.brief import brief
from interp.errors import PlanError, shown
from interp.model.graph import component_name
from interp.model.model import Model
from interp.model.sites import SITES

ComponentKind = Literal["head", "mlp", "neuron", "expert"]
KINDS: tuple[ComponentKind, ...] = get_args(ComponentKind)

SITE_OF: dict[ComponentKind, str] = {
    "head": "z",
    "mlp": "mlp_out",
    "neuron": "mlp_post",
    "expert": "expert_out",
}
"""Where each kind of component is replaced."""

_FORM = re.compile(r"a(\d+)\.h(\d+)|m(\d+)(?:\.([ne])(\d+))?")
_LAYER_OF_HEADS = re.compile(r"a(\d+)")
_NAMED = 3  # a set's name lists its components up to so many


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """A head, an MLP, a neuron or an expert; `unit` is its number in the layer, 0 for an MLP."""

    layer: int
    kind: ComponentKind
    unit: int = 0

    def __str__(self) -> str:
        if self.kind == "head":
            return f"a{self.layer}.h{self.unit}"
        return f"m{self.layer}" + ("" if self.kind == "mlp" else f".{self.kind[0]}{self.unit}")

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a component's name; `PlanError` where it is not one."""
        match = _FORM.fullmatch(component_name(name))
        if match is None:
            raise PlanError(
                f"no component {shown(name)}: write 'a3.h1' or 'L3H1' for a head, 'm5' for an "
                "MLP, 'm5.n17' for a neuron, 'm5.e2' for an expert, 'a3' for all heads of a layer."
            )
        layer_of_head, head, layer, letter, unit = match.groups()
        if head is not None:
            return cls(int(layer_of_head), "head", int(head))
        kinds: dict[str | None, ComponentKind] = {None: "mlp", "n": "neuron", "e": "expert"}
        return cls(int(layer), kinds[letter], int(unit or 0))


Components = str | Component | Iterable[str | Component] | Any
"""``"a3.h1,m5"``, a list or column of names, a data frame (columns ``component``, or ``layer`` and
``head``, ``neuron`` or ``expert``), or an array [layer, head] or [layer, neuron]: those that are
true, or all that are finite, by falling absolute score."""


def refuse_unreadable(names: Iterable[str]) -> None:
    """Raise `PlanError` at the first name that is not a component of any model."""
    for name in names:
        if _LAYER_OF_HEADS.fullmatch(name) is None:
            Component.parse(name)


def n_units(model: Model, kind: ComponentKind) -> int:
    """Components of a kind per layer that has any; `PlanError` where none has, or they differ."""
    return model.n_units(model.site(SITE_OF[kind])[0])


def layers_of(model: Model, kind: ComponentKind) -> tuple[int, ...]:
    """The layers that have components of a kind; `PlanError` where none has."""
    return model.layers_with(SITES[SITE_OF[kind]])


def shapes(model: Model, kinds: Iterable[ComponentKind]) -> dict[ComponentKind, tuple[int, int]]:
    """(layers, components per layer) of each kind."""
    return {kind: (model.arch.n_layers, n_units(model, kind)) for kind in kinds}


def everything(model: Model, kind: ComponentKind) -> list[Component]:
    """All components of a kind, by layer."""
    site = SITES[SITE_OF[kind]]
    return [
        Component(layer, kind, unit)
        for layer in model.layers_with(site)
        for unit in range(model.n_units(site, layer))
    ]


def components_of(model: Model, given: Components) -> list[Component]:
    """The components that are meant, in order; `PlanError` unless the model has each, once."""
    found = [one for part in _parts(model, given) for one in _expanded(model, part)]
    if len(set(found)) < len(found):
        twice = next(c for i, c in enumerate(found) if c in found[:i])
        raise PlanError(f"component '{twice}' is named twice; name each one once.")
    for one in found:
        site, last = SITES[SITE_OF[one.kind]], model.arch.n_layers - 1
        if one.layer > last:
            raise PlanError(f"no component '{one}': {model.name} has layers 0 to {last}.")
        model.check_layers([one.layer], site)
        n = model.n_units(site, one.layer)
        if not 0 <= one.unit < n:
            raise PlanError(
                f"no component '{one}': layer {one.layer} of {model.name} has {one.kind}s 0 to "
                f"{n - 1}."
            )
    return found


def _parts(model: Model, given: Components) -> Sequence[str | Component]:
    if isinstance(given, str):
        return [part.strip() for part in given.split(",")]
    if isinstance(given, Component):
        return [given]
    if isinstance(given, pd.DataFrame):
        return _of_table(given)
    if getattr(given, "ndim", 1) != 1:
        return _of_scores(model, np.asarray(given))
    return list(given)


def _of_table(table: pd.DataFrame) -> list[str | Component]:
    if "component" in table:
        return [str(name) for name in table["component"]]
    unit: Any = next((kind for kind in ("head", "neuron", "expert") if kind in table), None)
    if unit is None or "layer" not in table:
        raise PlanError(
            f"a table with columns {list(table.columns)} names no components; give 'component', or "
            "'layer' and 'head', 'neuron' or 'expert'."
        )
    places = table[["layer", unit]].apply(pd.to_numeric, errors="coerce").to_numpy()
    if not (places % 1 == 0).all():
        raise PlanError(
            f"a table's 'layer' or {unit!r} is not a whole number; leave such rows out."
        )
    return [Component(int(layer), unit, int(u)) for layer, u in places]


def _of_scores(model: Model, scores: np.ndarray) -> list[Component]:
    heads, neurons = ((model.arch.n_layers, n) for n in (model.arch.n_heads, model.arch.d_mlp))
    if scores.shape not in (heads, neurons):
        raise PlanError(
            f"an array of shape {scores.shape} names no components; {model.name} has [layer, head] "
            f"= {list(heads)} and [layer, neuron] = {list(neurons)}."
        )
    kind: ComponentKind = "head" if scores.shape == heads else "neuron"
    if scores.dtype == bool:
        places = np.flatnonzero(scores)
    else:
        order = np.argsort(-np.abs(scores), axis=None, kind="stable")
        places = order[np.isfinite(scores.ravel()[order])]
    return [Component(int(i // scores.shape[1]), kind, int(i % scores.shape[1])) for i in places]


def _expanded(model: Model, part: str | Component) -> list[Component]:
    if isinstance(part, Component):
        return [part]
    layer = _LAYER_OF_HEADS.fullmatch(str(part))
    if layer is None:
        return [Component.parse(str(part))]
    number = int(layer[1])
    model.check_layers([number], SITES["z"])
    heads = range(model.n_units(SITES["z"], number))
    return [Component(number, "head", head) for head in heads]


# --- sets --------------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class ComponentSet:
    """What is ablated together: `components`, or, with `among`, all others of those kinds."""

    components: tuple[Component, ...]
    among: tuple[ComponentKind, ...] = ()

    @property
    def key(self) -> tuple[frozenset[Component], tuple[ComponentKind, ...]]:
        """Equal for sets that ablate the same."""
        return frozenset(self.components), self.among

    @property
    def name(self) -> str:
        """A name for messages and axes."""
        names = "+".join(map(str, self.components)) or "nothing"
        if len(self.components) > _NAMED:
            names = f"{len(self.components)} components"
        return f"all but {names}" if self.among else names

    def ablated(self, model: Model) -> list[Component]:
        """The components that are replaced."""
        if not self.among:
            return list(self.components)
        kept = set(self.components)
        return [c for kind in self.among for c in everything(model, kind) if c not in kept]


Sets = dict[str, ComponentSet]
"""Named sets, in order."""


def singles(model: Model, components: Components | None = None) -> Sets:
    """Each component on its own, checked by `components_of`; by default every head."""
    given = everything(model, "head") if components is None else components
    return {str(one): ComponentSet((one,)) for one in components_of(model, given)}


def cumulative(model: Model, ranked: Components, sizes: Sequence[int] | None = None) -> Sets:
    """The first k components of a ranking, for growing k: `sizes`, or 1, 2, 4, … and all.

    `ranked` has first the one to go first; scores rank by falling absolute value.
    """
    order = components_of(model, ranked)
    if sizes is None:
        doubled = [2**i for i in range(len(order).bit_length()) if 2**i < len(order)]
        sizes = [*doubled, len(order)]
    if not sizes or any(not 0 <= k <= len(order) for k in sizes):
        raise PlanError(
            f"sizes {list(sizes)} do not fit a ranking of {len(order)} components; give numbers "
            f"from 0 to {len(order)}."
        )
    return {str(k): ComponentSet(tuple(order[:k])) for k in sorted(set(sizes))}


def all_but(
    model: Model, kept: Components | Sets, among: Sequence[ComponentKind] | None = None
) -> Sets:
    """Everything but a set, or but each of several named sets (such as those of `cumulative`).

    `among` are the kinds of which all others are ablated; by default those that occur in `kept`,
    so that keeping heads leaves the MLPs alone.
    """
    named = as_sets(model, kept)
    found: set[ComponentKind] = {c.kind for one in named.values() for c in one.components}
    wanted: set[ComponentKind] = found if among is None else set(among)
    if not wanted or not wanted <= set(KINDS):
        raise PlanError(
            f"all but {list(named)} among {among}: name some of {', '.join(KINDS)} in `among`."
        )
    kinds = tuple(sorted(wanted))
    turned = {name: ComponentSet(one.components, kinds) for name, one in named.items()}
    return turned if isinstance(kept, Mapping) else {one.name: one for one in turned.values()}


def as_sets(model: Model, given: Components | ComponentSet | Sets) -> Sets:
    """Named sets from named sets, from one set, or from components that make one set."""
    if isinstance(given, Mapping):
        if not given:
            raise PlanError("there are no sets to ablate; give at least one.")
        return {str(name): _as_set(model, one) for name, one in given.items()}
    one = _as_set(model, given)
    return {one.name: one}


def _as_set(model: Model, given: Any) -> ComponentSet:
    if isinstance(given, ComponentSet):
        components_of(model, given.components)
        return given
    return ComponentSet(tuple(components_of(model, given)))


def nested(sets: Mapping[str, ComponentSet]) -> bool:
    """Whether each of several sets holds the one before it, as those of `cumulative` do."""
    listed = [one.key for one in sets.values()]
    return len(listed) > 1 and all(a[0] < b[0] and a[1] == b[1] for a, b in pairwise(listed))
