"""Random sets of components to lay beside a chosen set: alike in all but being it.

Each chosen component is replaced by another of its kind that is not chosen. The same layer is the
strictest control, but a layer of four heads holds few such sets.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import comb, prod
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from interp.errors import StatisticsError
from interp.model.components import KINDS, Component, ComponentKind

Match = Literal["layer", "near", "anywhere"]
Shapes = Mapping[ComponentKind, tuple[int, int]]
"""kind -> (layers, components per layer), from `interp.model.components.shapes`."""
Sizes = Mapping[ComponentKind, Float[np.ndarray, "layer unit"]]
"""kind -> size of each component."""

LEAST_NEIGHBOURS = 4
_DRAWS = 100  # per set asked for
_Place = tuple[int, int]  # (layer, unit)
_Window = Callable[[Bool[np.ndarray, "layer unit"], int], slice]
"""(free units, layer) -> the layers that a unit of this layer may be replaced from."""


def random_sets(
    chosen: Sequence[Component],
    shapes: Shapes,
    n: int,
    seed: int = 0,
    match: Match = "layer",
    sizes: Sizes | None = None,
    lacking: Mapping[ComponentKind, Sequence[int]] | None = None,
) -> list[tuple[Component, ...]]:
    """At most `n` different random sets that match a set; fewer where no more exist.

    `match` is ``layer``: as many heads and neurons in each layer, and as many MLPs (an error where
    a layer has too few others); ``near``: each from as few layers away as `n` different sets need;
    or ``anywhere``: of the same kinds. With `sizes` and ``layer``, a unit is drawn among the free
    ones of its layer that are nearest in rank of size: a tenth of them, at least four. `lacking`
    are the layers that have none of a kind.
    """
    places, none = _places(chosen, shapes, sizes or {}), lacking or {}
    if n < 1 or not chosen:
        return []
    if match == "layer":
        parts = [
            _of_layers(
                kind, places[kind], shapes[kind], n, seed, (sizes or {}).get(kind), none.get(kind)
            )
            for kind in KINDS
            if kind in places
        ]
        return _combined(parts, n, seed)
    free = {kind: _free(own, shapes[kind], none.get(kind)) for kind, own in places.items()}
    if any(free[kind].sum() < len(own) for kind, own in places.items()):
        return []

    def within(distance: int | None) -> list[tuple[Component, ...]]:
        def draw(rng: np.random.Generator) -> tuple[Component, ...]:
            window = None if distance is None else _around(distance)
            parts = [
                _named(kind, _draw(own, free[kind], rng, window)) for kind, own in places.items()
            ]
            return sum(parts, ()) if all(parts) else ()

        return _distinct(draw, n, seed)

    if match == "anywhere":
        return within(None)
    farthest = max(layers for layers, _ in shapes.values()) - 1
    found: list[tuple[Component, ...]] = []
    for distance in range(1, farthest + 1):
        if len(found) < n:
            found = within(distance)
    return found


def random_set(
    chosen: Sequence[Component],
    shapes: Shapes,
    rng: np.random.Generator,
    sizes: Sizes | None = None,
) -> tuple[Component, ...]:
    """One random set of as many components in the same layers, disjoint from the chosen ones.

    Where a layer has too few others, the nearest layers stand in. With `sizes`, a unit is drawn
    among the free ones that are nearest in size: as many as a tenth of the layer, at least four.
    """
    drawn: tuple[Component, ...] = ()
    for kind, own in _places(chosen, shapes, sizes or {}).items():
        free = _free(own, shapes[kind])
        if free.sum() < len(own):
            raise StatisticsError(
                f"{int(free.sum())} {kind}s are left for a random set of {len(own)}; choose fewer."
            )
        n_near = np.full(len(free), max(LEAST_NEIGHBOURS, free.shape[1] // 10))
        drawn += _named(kind, _draw(own, free, rng, _nearest, (sizes or {}).get(kind), n_near))
    return drawn


def _draw(
    chosen: Sequence[_Place],
    free: Bool[np.ndarray, "layer unit"],
    rng: np.random.Generator,
    window: _Window | None,
    sizes: Float[np.ndarray, "layer unit"] | None = None,
    n_near: Int[np.ndarray, " layer"] | None = None,
) -> list[_Place]:
    """Another unit for each chosen one, in order; none at all where one is left without a choice.

    `window` None is any layer; with `sizes`, a unit is one of the `n_near` nearest in size.
    """
    if window is None:
        places = np.argwhere(free)[rng.choice(int(free.sum()), len(chosen), replace=False)]
        return [(layer, unit) for layer, unit in places.tolist()]
    left, drawn = free.copy(), dict[int, _Place]()
    # in random order, so that no chosen unit always has the first pick
    for index in rng.permutation(len(chosen)).tolist():
        layer, unit = chosen[index]
        layers = window(left, layer)
        places = np.argwhere(left[layers]) + [layers.start, 0]
        if not len(places):
            return []
        if sizes is not None and n_near is not None:
            away = np.abs(sizes[tuple(places.T)] - sizes[layer, unit])
            places = places[np.argsort(away, kind="stable")[: n_near[places[0, 0]]]]
        row, column = places[rng.integers(len(places))].tolist()
        left[row, column] = False
        drawn[index] = (row, column)
    return [drawn[index] for index in range(len(chosen))]


def _own(free: np.ndarray, layer: int) -> slice:
    return slice(layer, layer + 1)


def _nearest(free: np.ndarray, layer: int) -> slice:
    return _own(free, int(min(np.flatnonzero(free.any(1)), key=lambda at: abs(at - layer))))


def _around(distance: int) -> _Window:
    return lambda free, layer: slice(max(0, layer - distance), layer + distance + 1)


def _distinct(
    draw: Callable[[np.random.Generator], tuple[Component, ...]], n: int, seed: int
) -> list[tuple[Component, ...]]:
    """At most `n` different sets; an empty draw is none."""
    rng = np.random.default_rng(seed)
    found: dict[frozenset[Component], tuple[Component, ...]] = {}
    for _ in range(_DRAWS * n):
        if drawn := draw(rng):
            found.setdefault(frozenset(drawn), drawn)
        if len(found) == n:
            break
    return list(found.values())


def _of_layers(
    kind: ComponentKind,
    chosen: Sequence[_Place],
    shape: tuple[int, int],
    n: int,
    seed: int,
    sizes: Float[np.ndarray, "layer unit"] | None,
    lacking: Sequence[int] | None,
) -> list[tuple[Component, ...]]:
    """Sets of one kind with as many in each layer; all MLPs count as one layer."""
    free = _free(chosen, shape, lacking)
    if kind == "mlp":
        chosen, free = [(0, layer) for layer, _ in chosen], free.T
    n_free, needed = free.sum(1), Counter(layer for layer, _ in chosen)
    for layer, k in needed.items():
        if n_free[layer] < k:
            raise StatisticsError(
                f"layer {layer} has {free.shape[1]} units and {k} are chosen, which leaves "
                f"{n_free[layer]} for a control of {k}; choose fewer there."
            )
    n_near = np.maximum(LEAST_NEIGHBOURS, n_free // 10)
    ranks = None if sizes is None else rankdata(sizes, axis=1)
    # how many different sets exist; of those matched by size at least so many
    pool = {at: n_free[at] if ranks is None else max(n_near[at], k) for at, k in needed.items()}
    exist = prod(comb(int(min(n_free[at], pool[at])), k) for at, k in needed.items())

    def draw(rng: np.random.Generator) -> tuple[Component, ...]:
        drawn = _draw(chosen, free, rng, _own, ranks, n_near)
        return _named(kind, [(layer, 0) for _, layer in drawn] if kind == "mlp" else drawn)

    return _distinct(draw, min(n, exist), seed)


def _combined(
    parts: Sequence[Sequence[tuple[Component, ...]]], n: int, seed: int
) -> list[tuple[Component, ...]]:
    """At most `n` different combinations of the sets of each kind."""
    sizes = [len(sets) for sets in parts]
    rng = np.random.default_rng(seed)
    which = rng.choice(prod(sizes), min(n, prod(sizes)), replace=False)
    rows = np.stack(np.unravel_index(which, sizes), 1)
    return [sum((sets[i] for sets, i in zip(parts, row, strict=True)), ()) for row in rows]


def _named(kind: ComponentKind, places: Sequence[_Place]) -> tuple[Component, ...]:
    return tuple(Component(layer, kind, unit) for layer, unit in places)


def _free(
    chosen: Sequence[_Place], shape: tuple[int, int], lacking: Sequence[int] | None = None
) -> Bool[np.ndarray, "layer unit"]:
    free = np.ones(shape, dtype=bool)
    free[list(lacking or ())] = False
    free[tuple(np.array(chosen).T)] = False
    return free


def _places(
    chosen: Sequence[Component], shapes: Shapes, sizes: Sizes
) -> dict[ComponentKind, list[_Place]]:
    """(layer, unit) of the components of each kind, checked to exist."""
    if len(set(chosen)) < len(chosen):
        raise StatisticsError("a component is chosen twice; name each one once.")
    for kind, size in sizes.items():
        if kind in shapes and size.shape != shapes[kind]:
            raise StatisticsError(
                f"sizes of {kind}s are {list(size.shape)}, not {list(shapes[kind])}; give [layer, "
                "unit]."
            )
    found: dict[ComponentKind, list[_Place]] = {}
    for one in chosen:
        n_layers, n_units = shapes[one.kind]
        if not (0 <= one.layer < n_layers and 0 <= one.unit < n_units):
            raise StatisticsError(
                f"there is no component {one} in {n_layers} layers of {n_units} {one.kind}s."
            )
        found.setdefault(one.kind, []).append((one.layer, one.unit))
    return found
