"""Random circuits for a circuit: of its shape, of its depth, of its output norms, of any place.

Sets with as many heads in each layer are the strictest control, but a layer of four heads holds few
of them. Where there are fewer than asked for, all are taken, and beside them as many as were asked
for from layers as near by as so many need.
"""

from collections.abc import Callable, Mapping
from math import comb

import numpy as np

from circuits.recall_reasoning.scores import AbilityCircuit as Circuit
from interp.ablation import Component, ComponentSet
from interp.ablation.components import everything
from interp.ablation.controls import Norms, random_sets, write_norms
from interp.data.pairs import PromptPairs, tokenise
from interp.data.prompts import prompts_of
from interp.errors import StatisticsError
from interp.model.model import Model

Draw = Callable[[np.random.Generator], list[Component]]

DECIDING = ("layer", "near", "anywhere")
"""Controls that a circuit must be beyond; `controls_of` says what they are."""


def controls_of(
    model: Model, circuit: Circuit, n: int, seed: int, pairs: PromptPairs
) -> dict[str, list[ComponentSet]]:
    """Random sets for a circuit by kind of control, none of which holds a unit of the circuit.

    Args:
        model: the model.
        circuit: what to control for.
        n: at most so many different sets of a kind.
        seed: of the draws.
        pairs: prompts whose norms are matched.

    Returns:
        ``layer``: as many units in each layer; ``near``, only where those are fewer than `n`: each
        unit from a layer nearby; ``norm``: as ``layer``, matched by output norm, too;
        ``anywhere``: any units. A kind is missing where no set matches.
    """
    prompts = prompts_of(tokenise(model, pairs)[0])[:16]
    norms = write_norms(model, [circuit.kind], prompts)
    found = {"layer": _of_its_layers(model, circuit, n, seed, {})}
    if len(found["layer"]) < n:
        found["near"] = _near(model, circuit, n, seed)
    found["norm"] = _of_its_layers(model, circuit, n, seed, norms)
    found["anywhere"] = _anywhere(model, circuit, n, seed)
    return {kind: sets for kind, sets in found.items() if sets}


def n_others(model: Model, circuit: Circuit) -> int:
    """How many different sets of as many units there are that hold none of the circuit's."""
    size = len(circuit.components)
    return comb(len(everything(model, circuit.kind)) - size, size)


def _of_its_layers(
    model: Model, circuit: Circuit, n: int, seed: int, norms: Norms
) -> list[ComponentSet]:
    try:
        return random_sets(model, circuit.set, n, seed, norms)
    except StatisticsError:  # a layer has too few other units
        return []


def _near(model: Model, circuit: Circuit, n: int, seed: int) -> list[ComponentSet]:
    """`n` sets of units from as few layers away as so many need; fewer where no more exist."""
    rest = _rest(model, circuit)
    found: list[ComponentSet] = []
    for reach in range(1, model.arch.n_layers):
        near = {
            layer: [c for c in rest if abs(c.layer - layer) <= reach]
            for layer in {c.layer for c in circuit.components}
        }
        found = _different(lambda rng, near=near: _draw(circuit, near, rng), n, seed)
        if len(found) == n:
            break
    return found


def _anywhere(model: Model, circuit: Circuit, n: int, seed: int) -> list[ComponentSet]:
    rest, size = _rest(model, circuit), len(circuit.components)
    if len(rest) < size:
        return []
    return _different(lambda rng: [rest[i] for i in rng.choice(len(rest), size, False)], n, seed)


def _rest(model: Model, circuit: Circuit) -> list[Component]:
    taken = set(circuit.components)
    return [c for c in everything(model, circuit.kind) if c not in taken]


def _different(draw: Draw, n: int, seed: int) -> list[ComponentSet]:
    """At most `n` different sets; where so many exist at all, 20 draws a set find them."""
    rng = np.random.default_rng(seed)
    found: dict[frozenset[Component], ComponentSet] = {}
    for _ in range(20 * n):
        drawn = draw(rng)
        if drawn:
            found.setdefault(frozenset(drawn), ComponentSet(tuple(drawn)))
        if len(found) == n:
            break
    return list(found.values())


def _draw(
    circuit: Circuit, near: Mapping[int, list[Component]], rng: np.random.Generator
) -> list[Component]:
    """A unit for each of the circuit's; none where those drawn first leave it none."""
    drawn: list[Component] = []
    # in random order, so that no unit always has the first pick
    for index in rng.permutation(len(circuit.components)):
        free = [c for c in near[circuit.components[int(index)].layer] if c not in drawn]
        if not free:
            return []
        drawn.append(free[int(rng.integers(len(free)))])
    return drawn
