"""What a sweep patches: axes resolved against a model, and the cells of a set of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from interp.brief import brief
from interp.data.pair_records import give_span, no_span
from interp.data.pairs import TokenPair
from interp.errors import DataError, PlanError, shown
from interp.metrics import AnyMetric, Metric, as_metric
from interp.model.model import Model
from interp.model.sites import AXES, AXES_OF, UNITS, Site, sites_along

Direction = Literal["denoise", "noise"]
Axes = Sequence[str] | str
Neurons = int | Sequence[Sequence[int]]


@brief
@dataclass(frozen=True)
class Sweep:
    """A sweep over cells, resolved against one model and independent of the prompts.

    `at` are the positions patched where no position axis is given, `layers` those patched, one by
    one or together, `units` the features of each unit (``None``: whole vectors are patched).
    """

    site: Site
    over: tuple[str, ...]
    metric: Metric
    direction: Direction
    at: str
    layers: tuple[int, ...]
    units: tuple[tuple[int, ...], ...] | None
    unit_labels: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        site: str,
        over: Axes,
        metric: AnyMetric,
        direction: Direction,
        at: str,
        layers: Sequence[int] | None,
        neurons: Neurons,
    ) -> "Sweep":
        """Check a sweep's arguments against the model; arguments and errors as in `patch`."""
        if not model.arch.causal:
            raise PlanError(
                f"{model.name} attends in both directions and predicts no next token; use "
                "`interp.attribute` or `interp circuit score-methods` on compiled programs."
            )
        where, layer = model.site(site)
        axes = tuple(over.split(",")) if isinstance(over, str) else tuple(over)
        check_axes(where, axes, at)
        if direction not in ("denoise", "noise"):
            raise PlanError(f"unknown direction {direction!r}; choose 'denoise' or 'noise'.")
        own = model.layers_with(where) if layer is None else (layer,)
        chosen = own if layers is None else tuple(layers)
        model.check_layers(chosen, where)
        if not chosen or (layer is not None and {*chosen} != {layer}):
            raise PlanError(f"layers={shown([*chosen])} do not fit site {site!r}; leave them out.")
        units = _unit_axis(model, where, axes, chosen, neurons)
        return cls(where, axes, as_metric(metric), direction, at, chosen, *units)

    @property
    def n_layer_cells(self) -> int:
        """Length of the layer axis; 1 where all layers are patched together."""
        return len(self.layers) if "layer" in self.over else 1

    @property
    def base(self) -> int:
        """Which prompt of a pair is patched: 0 the clean one, 1 the corrupt one."""
        return 1 if self.direction == "denoise" else 0

    def shape(self, n_pairs: int, places: Sequence[Any]) -> tuple[int, int, int, int]:
        """Lengths of the axes pair, layer, place and unit."""
        return n_pairs, self.n_layer_cells, len(places), len(self.unit_labels)

    def places(self, pairs: Sequence[TokenPair]) -> tuple[Any, ...]:
        """Coordinates of the position axis: token numbers, or names of spans that all pairs have.

        `DataError` where a pair lacks the span that `at` names, or no span is shared by all.
        """
        if "pos" in self.over:
            return tuple(range(max(len(pair.clean) for pair in pairs)))
        if "span" not in self.over:
            _require_span(pairs, self.at)
            return (self.at,)
        shared = [name for name in pairs[0].spans if all(name in p.spans for p in pairs)]
        if not shared:
            how = f"give one in each row: {give_span()}, or sweep over 'pos'"
            raise DataError(f"these pairs share no named span; {how}.")
        return (*(place for name in shared for place in (name, f"{name}_last")), "last")

    def live(
        self, pairs: Sequence[TokenPair], places: Sequence[Any]
    ) -> list[list[tuple[tuple[int, int], ...]]]:
        """What each (pair, place) patches: (position, source position in the other prompt).

        Tokens before the prompts differ are left out: both prompts compute the same there, so the
        patch would change nothing.
        """

        def of(pair: TokenPair, place: Any) -> tuple[tuple[int, int], ...]:
            same = pair.first_difference
            found = (both for both in pair.matched(place) if both[0] >= same or both[1] >= same)
            return tuple((both[self.base], both[1 - self.base]) for both in found)

        return [[of(pair, place) for place in places] for pair in pairs]


def check_axes(site: Site, axes: Sequence[str], at: str) -> None:
    """Raise `PlanError` unless one can sweep a site over these axes, whatever the model."""
    for axis in axes:
        if axis not in AXES:
            raise PlanError(f"unknown axis {axis!r}; sweep over some of {', '.join(AXES)}.")
    if not axes or len(set(axes)) != len(axes):
        raise PlanError(f"cannot sweep over {list(axes)}; name each axis once.")
    if {"pos", "span"} <= set(axes):
        raise PlanError("'pos' and 'span' are both position axes; choose one.")
    if at != "all" and {"pos", "span"} & set(axes):
        raise PlanError(f"at={at!r} fixes the positions, so 'pos' or 'span' cannot be an axis.")
    units = [axis for axis in axes if axis in UNITS]
    if len(units) > 1:
        raise PlanError(f"{' and '.join(map(repr, units))} are both unit axes; choose one.")
    for axis in units:
        if axis not in AXES_OF[site.units]:
            raise PlanError(
                f"site {site.name!r} has no {axis}s; sweep over its layers and positions, or "
                f"choose a site with {axis}s ({sites_along(axis)})."
            )


def _unit_axis(
    model: Model, site: Site, axes: tuple[str, ...], layers: Sequence[int], neurons: Neurons
) -> tuple[tuple[tuple[int, ...], ...] | None, tuple[Any, ...]]:
    """Which features each unit coordinate covers, and its label."""
    axis = next((axis for axis in axes if axis in UNITS), None)
    if axis != "neuron" and neurons != 1:
        raise PlanError(f"neurons={shown(neurons)} without a neuron axis; add it, or leave it out.")
    if axis is None:
        return None, ("all",)
    n = model.n_along(axis, site, layers)
    if axis != "neuron":
        d = model.width(site, layers) // n
        return tuple(tuple(range(h * d, (h + 1) * d)) for h in range(n)), tuple(range(n))
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
    named = [
        f"{g[0]}-{g[-1]}" if g == (*range(g[0], g[-1] + 1),) else ",".join(map(str, g))
        for g in groups
    ]
    return groups, tuple(first if all(len(g) == 1 for g in groups) else named)


def _require_span(pairs: Sequence[TokenPair], place: str) -> None:
    for pair in pairs if place not in ("all", "last") else ():
        if place not in pair.spans and place.removesuffix("_last") not in pair.spans:
            said = no_span(place, [*pair.spans, "all", "last"])
            raise DataError(f"{pair.pair.where}: {said}")
