"""Random circuits for a circuit: of its shape, of its depth, of its output norms, of any place.

Sets with as many heads in each layer are the strictest control, but a layer of four heads holds few
of them. Where there are fewer than asked for, all are taken, and beside them as many as were asked
for from layers as near by as so many need.
"""

from math import comb

from circuits.recall_reasoning.scoring import Circuit
from interp.ablation import ComponentSet
from interp.ablation.controls import matched_sets, write_norms
from interp.data.pairs import PromptPairs, tokenise
from interp.data.prompts import prompts_of
from interp.errors import StatisticsError
from interp.model.components import everything
from interp.model.model import Model
from interp.statistics.random_sets import Sizes

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
        found["near"] = matched_sets(model, circuit.set, n, seed, "near")
    found["norm"] = _of_its_layers(model, circuit, n, seed, norms)
    found["anywhere"] = matched_sets(model, circuit.set, n, seed, "anywhere")
    return {kind: sets for kind, sets in found.items() if sets}


def n_others(model: Model, circuit: Circuit) -> int:
    """How many different sets of as many units there are that hold none of the circuit's."""
    size = len(circuit.components)
    return comb(len(everything(model, circuit.kind)) - size, size)


def _of_its_layers(
    model: Model, circuit: Circuit, n: int, seed: int, norms: Sizes
) -> list[ComponentSet]:
    try:
        return matched_sets(model, circuit.set, n, seed, norms=norms)
    except StatisticsError:  # a layer has too few other units
        return []
