"""Random component sets that match a circuit in all but being one."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from interp.errors import StatisticsError

Component = tuple[int, int]  # (layer, unit)
LEAST_NEIGHBOURS = 4


def matched_random_sets(
    chosen: Sequence[Component],
    n_units_per_layer: int,
    n_sets: int = 100,
    seed: int = 0,
    norms: Float[np.ndarray, "layer unit"] | None = None,
) -> list[list[Component]]:
    """Random sets with as many units in each layer as the chosen set, and none of its units.

    With `norms`, a unit is replaced by one of the free units of its layer that are nearest to
    it in rank of norm: a tenth of them, at least four. In a layer with few units that is any.

    Args:
        chosen: (layer, unit) of the components to be controlled for.
        n_units_per_layer: heads or neurons in a layer.
        n_sets: how many sets, all different.
        seed: of the draws.
        norms: size of each unit, such as the mean norm of what it writes.

    Returns:
        Sets in the order of `chosen`: the i-th unit of each stands for the i-th chosen one.

    Raises:
        StatisticsError: a layer has too few units left, or there are fewer different sets.
    """
    ranks = None if norms is None else rankdata(norms, axis=1)
    free = _free_units(chosen, n_units_per_layer, norms)
    rng = np.random.default_rng(seed)
    sets: dict[frozenset[Component], list[Component]] = {}
    for _ in range(100 * n_sets):
        drawn = _draw(chosen, free, ranks, rng)
        sets.setdefault(frozenset(drawn), drawn)
        if len(sets) == n_sets:
            return list(sets.values())
    raise StatisticsError(
        f"only {len(sets)} different random sets match these {len(chosen)} components, of "
        f"{n_sets} asked for; ask for fewer, or control for a smaller set."
    )


def _free_units(
    chosen: Sequence[Component], n_units: int, norms: np.ndarray | None
) -> dict[int, list[int]]:
    """The units of each layer that are not chosen, checked to be enough."""
    if len(set(chosen)) < len(chosen):
        raise StatisticsError("a component is chosen twice; name each one once.")
    if norms is not None and norms.shape[1] != n_units:
        raise StatisticsError(
            f"norms are of {norms.shape[1]} units a layer, not {n_units}; give [layer, unit]."
        )
    taken = {layer: {u for at, u in chosen if at == layer} for layer, _ in chosen}
    free = {layer: sorted(set(range(n_units)) - units) for layer, units in taken.items()}
    for layer, needed in Counter(layer for layer, _ in chosen).items():
        if not taken[layer] <= set(range(n_units)):
            raise StatisticsError(
                f"layer {layer} has units 0 to {n_units - 1}, and {max(taken[layer])} is chosen; "
                "correct n_units_per_layer or the component."
            )
        if len(free[layer]) < needed:
            raise StatisticsError(
                f"layer {layer} has {n_units} units and {needed} are chosen, which leaves "
                f"{len(free[layer])} for a control of {needed}; choose fewer there."
            )
    return free


def _draw(
    chosen: Sequence[Component],
    free: dict[int, list[int]],
    ranks: np.ndarray | None,
    rng: np.random.Generator,
) -> list[Component]:
    left = {layer: list(units) for layer, units in free.items()}
    drawn: dict[int, Component] = {}
    # in random order, so that no chosen unit always has the first pick of its neighbours
    for index in rng.permutation(len(chosen)):
        layer, unit = chosen[index]
        candidates = left[layer]
        if ranks is not None:
            n = max(LEAST_NEIGHBOURS, len(free[layer]) // 10)
            candidates = sorted(
                candidates, key=lambda u: abs(ranks[layer, u] - ranks[layer, unit])
            )[:n]
        pick = int(rng.choice(candidates))
        left[layer].remove(pick)
        drawn[int(index)] = (layer, pick)
    return [drawn[index] for index in range(len(chosen))]
