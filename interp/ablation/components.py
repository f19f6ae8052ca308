"""Components, written as in the graph: ``a3.h1`` a head, ``m5`` an MLP, ``m5.n17`` a neuron.

The names that papers use, ``L3H1``, ``L5MLP`` and ``L5N17``, are read as well.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd

from interp.errors import PlanError, shown
from interp.model.graph import component_name
from interp.model.model import Model

Kind = Literal["head", "mlp", "neuron"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SITE_OF: dict[Kind, str] = {"head": "z", "mlp": "mlp_out", "neuron": "mlp_post"}
"""Where each kind of component is replaced."""

_FORM = re.compile(r"a(\d+)\.h(\d+)|m(\d+)(?:\.n(\d+))?")
_LAYER_OF_HEADS = re.compile(r"a(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """A head, an MLP or a neuron.

    Attributes:
        layer: its layer.
        kind: what it is.
        unit: number of the head or neuron in its layer; 0 for an MLP.
    """

    layer: int
    kind: Kind
    unit: int = 0

    def __str__(self) -> str:
        form = {"head": "a{0}.h{1}", "mlp": "m{0}", "neuron": "m{0}.n{1}"}[self.kind]
        return form.format(self.layer, self.unit)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a component's name; a head may also be written ``L3H1``.

        Raises:
            PlanError: it is none.
        """
        match = _FORM.fullmatch(component_name(name))
        if match is None:
            raise PlanError(
                f"no component {shown(name)}: write 'a3.h1' or 'L3H1' for a head, 'm5' for an "
                "MLP, 'm5.n17' for a neuron, 'a3' for all heads of a layer."
            )
        if match[1] is not None:
            return cls(int(match[1]), "head", int(match[2]))
        if match[4] is not None:
            return cls(int(match[3]), "neuron", int(match[4]))
        return cls(int(match[3]), "mlp")


def refuse_unreadable(names: Iterable[str]) -> None:
    """Raise where a name is that of no component of any model.

    Raises:
        PlanError: naming the first.
    """
    for name in names:
        if _LAYER_OF_HEADS.fullmatch(name) is None:
            Component.parse(name)


Components = str | Component | Iterable[str | Component] | Any
"""``"a3.h1,m5"`` (or ``"L3H1,m5"``), a list or column of names, a data frame (columns
``component``, or ``layer`` and ``head`` or ``neuron``), or an array [layer, head] or [layer,
neuron]: those that are true, or all that are finite, by falling absolute score."""


def n_units(model: Model, kind: Kind) -> int:
    """Components of a kind in each layer.

    Raises:
        PlanError: the architecture has no such site.
    """
    return model.n_units(model.site(SITE_OF[kind])[0])


def everything(model: Model, kind: Kind) -> list[Component]:
    """All components of a kind."""
    units = range(n_units(model, kind))
    return [Component(layer, kind, u) for layer in range(model.arch.n_layers) for u in units]


def components_of(model: Model, given: Components) -> list[Component]:
    """The components that are meant, in order, checked against the model.

    Raises:
        PlanError: a name that does not parse, a component that the model does not have, one that
            is named twice, or a table of another form.
    """
    found = [one for part in _parts(model, given) for one in _expanded(model, part)]
    if len(set(found)) < len(found):
        twice = next(c for i, c in enumerate(found) if c in found[:i])
        raise PlanError(f"component '{twice}' is named twice; name each one once.")
    for one in found:
        _check(model, one)
    return found


def _parts(model: Model, given: Components) -> Sequence[str | Component]:
    if isinstance(given, str):
        return [part.strip() for part in given.split(",")]
    if isinstance(given, Component):
        return [given]
    if isinstance(given, pd.DataFrame):
        return _rows(given)
    if getattr(given, "ndim", 1) != 1:
        return _scored(model, np.asarray(given))
    return list(given)


def _rows(table: pd.DataFrame) -> list[str | Component]:
    if "component" in table:
        return [str(name) for name in table["component"]]
    unit: Any = next((kind for kind in ("head", "neuron") if kind in table), None)
    if unit is None or "layer" not in table:
        raise PlanError(
            f"a table with columns {list(table.columns)} names no components; give 'component', or "
            "'layer' and 'head' or 'neuron'."
        )
    pairs = zip(table["layer"], table[unit], strict=True)
    return [Component(int(layer), unit, int(u)) for layer, u in pairs]


def _scored(model: Model, scores: np.ndarray) -> list[Component]:
    heads, neurons = (
        (model.arch.n_layers, model.arch.n_heads),
        (model.arch.n_layers, model.arch.d_mlp),
    )
    if scores.shape not in (heads, neurons):
        raise PlanError(
            f"an array of shape {scores.shape} names no components; {model.name} has [layer, head] "
            f"= {list(heads)} and [layer, neuron] = {list(neurons)}."
        )
    kind: Kind = "head" if scores.shape == heads else "neuron"
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
    return [Component(int(layer[1]), "head", head) for head in range(model.arch.n_heads)]


def _check(model: Model, one: Component) -> None:
    n = n_units(model, one.kind)
    if one.layer >= model.arch.n_layers or one.unit >= n:
        units = "" if one.kind == "mlp" else f" and {one.kind}s 0 to {n - 1}"
        raise PlanError(
            f"no component '{one}': {model.name} has layers 0 to {model.arch.n_layers - 1}{units}."
        )
