"""What a sweep patches: axes resolved against a model, and the cells of a set of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from interp.brief import brief
from interp.data.pairs import TokenPair
from interp.errors import DataError, PlanError
from interp.metrics import AnyMetric, Metric, as_metric
from interp.model.model import Model
from interp.model.sites import AXES, Site

Direction = Literal["denoise", "noise"]


@brief
@dataclass(frozen=True)
class Sweep:
    """A sweep over cells, resolved against one model and independent of the prompts.

    Attributes:
        site, metric, direction: what is patched, read, and which way.
        over: the axes, in the user's order.
        at: the positions patched where no position axis is given.
        layers: the layers patched, one by one or together.
        units: the features of each unit of the site; ``None`` where whole vectors are patched.
        unit_labels: coordinates of the unit axis.
    """

    site: Site
    over: tuple[str, ...]
    metric: Metric
    direction: Direction
    at: str
    layers: tuple[int, ...]
    units: tuple[tuple[int, ...], ...] | None
    unit_labels: tuple[Any, ...]

    @property
    def n_layer_cells(self) -> int:
        """Length of the layer axis; 1 where all layers are patched together."""
        return len(self.layers) if "layer" in self.over else 1

    def places(self, pairs: Sequence[TokenPair]) -> tuple[Any, ...]:
        """Coordinates of the position axis: token numbers, or span names every pair has.

        Raises:
            DataError: a pair lacks the span that `at` names, or no span is shared by all.
        """
        if "pos" in self.over:
            return tuple(range(max(len(pair.clean) for pair in pairs)))
        if "span" not in self.over:
            _require_span(pairs, self.at)
            return (self.at,)
        shared = [name for name in pairs[0].spans if all(name in p.spans for p in pairs)]
        if not shared:
            raise DataError("these pairs share no named span; add `spans` or sweep over 'pos'.")
        return (*(place for name in shared for place in (name, f"{name}_last")), "last")

    def positions(self, pair: TokenPair, place: Any) -> tuple[int, ...]:
        """Token positions of one coordinate in one pair; empty beyond the prompt's end."""
        if isinstance(place, int):
            return (place,) if place < len(pair.clean) else ()
        return pair.positions(place)


def plan_sweep(
    model: Model,
    site: str,
    over: Sequence[str] | str,
    metric: AnyMetric,
    direction: str,
    at: str,
    layers: Sequence[int] | None,
    neurons: int | Sequence[Sequence[int]],
) -> Sweep:
    """Check a sweep's arguments against the model; arguments and errors as in `patch`."""
    if not model.arch.causal:
        raise PlanError(
            f"{model.name} attends in both directions and predicts no next token; use "
            "`interp.attribute` or `interp circuit validate` on compiled programs."
        )
    where, layer = model.site(site)
    axes = tuple(over.split(",")) if isinstance(over, str) else tuple(over)
    check_axes(where, axes, at)
    if direction not in ("denoise", "noise"):
        raise PlanError(f"unknown direction {direction!r}; choose 'denoise' or 'noise'.")
    if layers is not None:
        model.check_layers(layers)
    chosen = [layer] if layer is not None else layers
    units, labels = _unit_axis(model, where, axes, neurons)
    return Sweep(
        site=where,
        over=axes,
        metric=as_metric(metric),
        direction=direction,
        at=at,
        layers=tuple(range(model.arch.n_layers) if chosen is None else chosen),
        units=units,
        unit_labels=labels,
    )


def check_axes(site: Site, axes: Sequence[str], at: str) -> None:
    """Raise unless one can sweep a site over these axes, whatever the model.

    Raises:
        PlanError: as said.
    """
    for axis in axes:
        if axis not in AXES:
            raise PlanError(f"unknown axis {axis!r}; sweep over some of {', '.join(AXES)}.")
    if not axes or len(set(axes)) != len(axes):
        raise PlanError(f"cannot sweep over {list(axes)}; name each axis once.")
    if {"pos", "span"} <= set(axes):
        raise PlanError("'pos' and 'span' are both position axes; choose one.")
    if at != "all" and {"pos", "span"} & set(axes):
        raise PlanError(f"at={at!r} fixes the positions, so 'pos' or 'span' cannot be an axis.")
    has = {"head": ("head", "kv_head"), "neuron": ("neuron",)}
    for axis, kinds in has.items():
        if axis in axes and site.units not in kinds:
            raise PlanError(
                f"site {site.name!r} has no {axis}s; sweep over its layers and positions, or "
                f"choose a site with {axis}s ({'z, q, k, v' if axis == 'head' else 'mlp_post'})."
            )


def _unit_axis(
    model: Model, site: Site, axes: tuple[str, ...], neurons: int | Sequence[Sequence[int]]
) -> tuple[tuple[tuple[int, ...], ...] | None, tuple[Any, ...]]:
    """Which features each unit coordinate covers, and its label."""
    n = model.n_units(site)
    if "head" in axes:
        d = model.arch.d_head
        return tuple(tuple(range(h * d, (h + 1) * d)) for h in range(n)), tuple(range(n))
    if "neuron" not in axes:
        return None, ("all",)
    if isinstance(neurons, int):
        if neurons < 1:
            raise PlanError(f"neurons={neurons}: a group holds at least one neuron.")
        groups = tuple(tuple(range(i, min(i + neurons, n))) for i in range(0, n, neurons))
    else:
        groups = tuple(tuple(group) for group in neurons)
    wrong = [i for group in groups for i in group if not 0 <= i < n]
    if wrong or not all(groups):
        raise PlanError(f"neuron {wrong[0] if wrong else '(none)'}: this model has 0 to {n - 1}.")
    first = [g[0] for g in groups]
    labels = first if all(len(g) == 1 for g in groups) else [f"{g[0]}-{g[-1]}" for g in groups]
    return groups, tuple(labels)


def _require_span(pairs: Sequence[TokenPair], place: str) -> None:
    for pair in pairs if place not in ("all", "last") else ():
        if place not in pair.spans and place.removesuffix("_last") not in pair.spans:
            raise DataError(
                f"{pair.pair.where}: no span {place!r}; this pair has "
                f"{', '.join(pair.spans) or 'none'} (and 'all', 'last')."
            )


# --- the cells of a set of pairs ---------------------------------------------------------------


def live_positions(
    sweep: Sweep, pairs: Sequence[TokenPair], places: Sequence[Any]
) -> list[list[tuple[int, ...]]]:
    """Positions each (pair, place) patches, leaving out those before the prompts differ.

    Both prompts compute the same there, so the patch would change nothing.
    """
    return [
        [
            tuple(p for p in sweep.positions(pair, place) if p >= pair.first_difference)
            for place in places
        ]
        for pair in pairs
    ]


@brief
@dataclass(frozen=True)
class Cells:
    """Cells as columns of indices, ordered by the layer in which their row joins the walk.

    Attributes:
        pair, layer, place, unit: where in the values array each cell belongs.
        entry: first layer patched.
        start: first position patched.
    """

    pair: np.ndarray
    layer: np.ndarray
    place: np.ndarray
    unit: np.ndarray
    entry: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, rows: slice | np.ndarray) -> "Cells":
        return Cells(*(column[rows] for column in self.columns()))

    def columns(self) -> tuple[np.ndarray, ...]:
        """The columns, in order."""
        return (self.pair, self.layer, self.place, self.unit, self.entry, self.start)


def cells_of(sweep: Sweep, live: list[list[tuple[int, ...]]]) -> Cells:
    """Every cell that patches some live position; the others hold the unpatched value."""
    start = np.array([[ps[0] if ps else -1 for ps in by_place] for by_place in live])
    axes = (sweep.n_layer_cells, *start.shape, len(sweep.unit_labels))
    layer, pair, place, unit = (axis.ravel() for axis in np.indices(axes))
    entry = np.array(sweep.layers if "layer" in sweep.over else [min(sweep.layers)])[layer]
    cells = Cells(pair, layer, place, unit, entry, start[pair, place])
    order = np.argsort(cells.entry, kind="stable")
    return cells[order][cells.start[order] >= 0]
