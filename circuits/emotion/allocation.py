"""How many neurons and heads of each layer a circuit gets: a budget shared out by influence.

Source: Wang et al. 2025 (arXiv 2510.11328), global circuit assembly; the order of the steps and the
treatment of caps are those of the released code, whose circuit for anger they reproduce exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from interp.errors import PlanError
from interp.model.components import Component

Allotted = Literal["neuron", "head"]
KINDS: tuple[Allotted, ...] = get_args(Allotted)
PER_SUBLAYER = 10
NEURON_SHARE = 0.7
"""The paper's circuit: components for each attention and MLP sublayer, and how many are neurons."""


@dataclass(frozen=True)
class Budget:
    """The size of a circuit and its bounds in each layer; the bounds' defaults are the paper's.

    Attributes:
        neurons: neurons in all layers together.
        heads: heads in all layers together.
        least_neurons: fewest in a layer; 1, or 0, where so many are not to be had.
        least_heads: the same of heads.
        cap: largest part of `neurons`, and of `heads`, that one layer gets.
    """

    neurons: int
    heads: int
    least_neurons: int = 4
    least_heads: int = 2
    cap: float = 0.4

    def __post_init__(self) -> None:
        counts = (self.neurons, self.heads, self.least_neurons, self.least_heads)
        if min(counts) < 0 or not 0 < self.cap <= 1:
            raise PlanError(
                f"{self} cannot be met; give counts of at least 0 and a cap above 0 and up to 1."
            )

    @classmethod
    def paper(cls, n_layers: int) -> "Budget":
        """The paper's: ten components a sublayer, 392 neurons and 168 heads for 28 layers."""
        total = PER_SUBLAYER * 2 * n_layers
        neurons = round(NEURON_SHARE * total)
        return cls(neurons, total - neurons)

    def of(self, kind: Allotted) -> tuple[int, int]:
        """A kind's number of components, and the fewest in a layer."""
        if kind == "neuron":
            return self.neurons, self.least_neurons
        return self.heads, self.least_heads


def quotas(
    influence: Float[np.ndarray, " layer"], budget: int, least: int, cap: int
) -> Int[np.ndarray, " layer"]:
    """Share components out to layers in proportion to influence, within bounds.

    Every layer gets `least`; the rest is shared by influence, rounded down and capped; what is
    left goes to the largest remainders, and what caps leave over to the layers that were due most.
    Equal claims are served from the first layer on.

    Args:
        influence: of each layer's sublayer on the final state; below zero counts as zero.
        budget: components to share out.
        least: fewest in a layer; 1 or 0 where the budget does not reach.
        cap: most in a layer.

    Returns:
        Components in each layer, which sum to `budget`.

    Raises:
        PlanError: all layers at their cap hold fewer than `budget`, or an influence is not
            finite.
    """
    n = len(influence)
    if not np.isfinite(influence).all():
        raise PlanError(f"the influences {influence.tolist()} must all be finite.")
    if cap * n < budget:
        raise PlanError(
            f"{n} layers of at most {cap} cannot hold {budget} components; "
            "lower the budget or raise the cap."
        )
    least = next(m for m in (least, 1, 0) if m * n <= budget and m <= cap)
    weight = np.maximum(influence, 0)
    weight = weight / weight.sum() if weight.any() else np.full(n, 1 / n)
    planned = (budget - least * n) * weight
    quota = np.minimum(least + np.floor(planned).astype(int), cap)
    remainder = planned - np.floor(planned)
    left = budget - int(quota.sum())
    for layer in np.argsort(-remainder, kind="stable")[:left]:
        quota[layer] += quota[layer] < cap
    for layer in np.argsort(-planned, kind="stable"):
        quota[layer] += min(cap - quota[layer], budget - int(quota.sum()))
    return quota


def allocate(
    influence: Mapping[Allotted, Float[np.ndarray, " layer"]],
    scores: Mapping[Allotted, Float[np.ndarray, "layer unit"]],
    budget: Budget,
) -> tuple[Component, ...]:
    """Choose a circuit: each layer's best neurons and heads, as many as its influence is worth.

    Args:
        influence: kind -> influence of the sublayer that holds this kind (MLP: neurons,
            attention: heads) in each layer.
        scores: kind -> score of every component; larger is better.
        budget: the size of the circuit.

    Returns:
        Components by layer, neurons before heads, best first; of equal scores the first unit wins.

    Raises:
        PlanError: influences and scores differ in layers, a score is not finite, or the
            budget cannot be met.
    """
    chosen: list[Component] = []
    for kind in KINDS:
        n, table = len(influence[kind]), scores[kind]
        if len(table) != n or not np.isfinite(table).all():
            raise PlanError(
                f"the {kind} scores have {len(table)} layers and the influences {n}; they must "
                "be as many, and every score finite."
            )
        size, least = budget.of(kind)
        most = min(int(budget.cap * size), table.shape[1])
        for layer, count in enumerate(quotas(influence[kind], size, least, most)):
            best = np.argsort(-table[layer], kind="stable")[:count]
            chosen += [Component(layer, kind, int(unit)) for unit in best]
    return tuple(sorted(chosen, key=lambda c: (c.layer, KINDS.index(c.kind))))
