"""Sets of components to ablate: one by one, together, cumulatively, or all but them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from interp.ablation.components import KINDS, Component, Components, Kind, components_of, everything
from interp.brief import brief
from interp.errors import PlanError
from interp.model.model import Model

NAMED = 3
"""A set's name lists its components up to so many."""


@brief
@dataclass(frozen=True)
class ComponentSet:
    """What is ablated together.

    Attributes:
        components: the components of interest.
        among: empty where these are ablated; else they are *kept*, and all others of these
            kinds are ablated.
    """

    components: tuple[Component, ...]
    among: tuple[Kind, ...] = ()

    @property
    def key(self) -> tuple[frozenset[Component], tuple[Kind, ...]]:
        """Equal for sets that ablate the same."""
        return frozenset(self.components), self.among

    @property
    def name(self) -> str:
        """A name for messages and axes."""
        few = len(self.components) <= NAMED
        names = "+".join(map(str, self.components)) or "nothing"
        said = names if few else f"{len(self.components)} components"
        return f"all but {said}" if self.among else said

    def ablated(self, model: Model) -> list[Component]:
        """The components that are replaced."""
        if not self.among:
            return list(self.components)
        kept = set(self.components)
        return [c for kind in self.among for c in everything(model, kind) if c not in kept]


Sets = dict[str, ComponentSet]
"""Named sets, in order."""


def singles(model: Model, components: Components | None = None) -> Sets:
    """Each component on its own.

    Args:
        model: the model.
        components: which; by default every head.

    Raises:
        PlanError: a component that the model does not have.
    """
    given = everything(model, "head") if components is None else components
    return {str(one): ComponentSet((one,)) for one in components_of(model, given)}


def cumulative(model: Model, ranked: Components, sizes: Sequence[int] | None = None) -> Sets:
    """The first k components of a ranking, for growing k.

    Args:
        model: the model.
        ranked: components, first the one to go first; scores rank by falling absolute value.
        sizes: the values of k; by default 1, 2, 4, … and all.

    Raises:
        PlanError: a component that the model does not have.
        PlanError: a size beyond the ranking, or no size.
    """
    order = components_of(model, ranked)
    if sizes is None:
        doubled = [2**i for i in range(len(order).bit_length()) if 2**i < len(order)]
        sizes = [*doubled, len(order)]
    wrong = [k for k in sizes if not 0 <= k <= len(order)]
    if wrong or not sizes:
        raise PlanError(
            f"sizes {list(sizes)} do not fit a ranking of {len(order)} components; give numbers "
            f"from 0 to {len(order)}."
        )
    return {str(k): ComponentSet(tuple(order[:k])) for k in sorted(set(sizes))}


def all_but(model: Model, kept: "Components | Sets", among: Sequence[Kind] | None = None) -> Sets:
    """Everything but a set, or but each of several sets (such as those of `cumulative`).

    Args:
        model: the model.
        kept: the components that are left as they are, or named sets of them.
        among: kinds of which all others are ablated; by default those that occur in `kept`, so
            that keeping heads leaves the MLPs alone.

    Raises:
        PlanError: a component that the model does not have.
        PlanError: nothing is kept and `among` does not say what "everything" is.
    """
    named = as_sets(model, kept)
    found: set[Kind] = {c.kind for one in named.values() for c in one.components}
    wanted: set[Kind] = found if among is None else set(among)
    kinds: tuple[Kind, ...] = tuple(sorted(wanted))
    if not kinds or not wanted <= set(KINDS):
        raise PlanError(
            f"all but {list(named)} among {among}: name some of {', '.join(KINDS)} in `among`."
        )
    turned = {name: ComponentSet(one.components, kinds) for name, one in named.items()}
    return turned if isinstance(kept, Mapping) else {one.name: one for one in turned.values()}


def as_sets(model: Model, given: "Components | ComponentSet | Sets") -> Sets:
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
