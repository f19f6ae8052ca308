"""Wang et al.'s criteria for a circuit: faithfulness, completeness, minimality."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuits.discovery.circuit import Circuit, whole
from circuits.discovery.running import Bench
from interp.brief import brief
from interp.errors import PlanError


@brief
@dataclass(frozen=True)
class Criteria:
    """How a circuit stands up, in the metric's unit (means over pairs).

    Attributes:
        faithfulness: (m(C) - m(nothing)) / (m(M) - m(nothing)).
        incompleteness: |m(C without K) - m(M without K)| of each sampled set K.
        sets: the sampled sets K.
        minimality: for each node v, the largest |m(C without K and v) - m(C without K)| over the
            sets tried; a node with little is not needed.
    """

    faithfulness: float
    incompleteness: tuple[float, ...]
    sets: tuple[tuple[str, ...], ...]
    minimality: dict[str, float]


def criteria(test: Bench, circuit: Circuit, n_sets: int = 20, seed: int = 0) -> Criteria:
    """Measure the three criteria on test prompts.

    Completeness draws sets K of the circuit's nodes, each node with probability one half.
    Minimality tries K = nothing and three of those sets for each node, so a node that only backs
    another up can still prove itself.

    Args:
        test: test prompts, from `bench`.
        circuit: at least one head or MLP.
        n_sets: how many sets K.
        seed: of the draws.

    Raises:
        PlanError: a circuit without nodes besides the input.

    Source: Wang et al., arXiv 2211.00593, section 4.
    """
    nodes = [name for name in circuit.nodes if name != "input"]
    if not nodes:
        raise PlanError(f"{circuit!r} has no heads or MLPs whose removal could be tried.")
    rng = np.random.default_rng(seed)
    sets = [tuple(np.array(nodes)[rng.random(len(nodes)) < 0.5].tolist()) for _ in range(n_sets)]
    model = whole(circuit.graph)
    full = test.metric_of(circuit)
    alone = {k: _mean(test, circuit.without(k)) for k in sets}
    gaps = tuple(abs(alone[k] - _mean(test, model.without(k))) for k in sets)
    return Criteria(
        faithfulness=test.faithfulness(full),
        incompleteness=gaps,
        sets=tuple(sets),
        minimality={v: _need(test, circuit, v, sets[:3], alone, float(full.mean())) for v in nodes},
    )


def _need(
    test: Bench,
    circuit: Circuit,
    node: str,
    sets: Sequence[tuple[str, ...]],
    alone: dict[tuple[str, ...], float],
    full: float,
) -> float:
    drops = [abs(full - _mean(test, circuit.without([node])))]
    for k in sets:
        if node not in k:
            drops.append(abs(alone[k] - _mean(test, circuit.without([*k, node]))))
    return max(drops)


def _mean(test: Bench, circuit: Circuit) -> float:
    return float(test.metric_of(circuit).mean())
