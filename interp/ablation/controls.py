"""Matched random controls of component sets: as many in each layer, and none of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, prod

import numpy as np
import torch
from jaxtyping import Float

from interp.ablation.components import KINDS, SITE_OF, Component, Kind, n_units
from interp.ablation.sets import ComponentSet, Sets
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import StatisticsError
from interp.forward.blocks import head_writes, weight_of
from interp.interventions.recording import site_values
from interp.model.model import Model
from interp.statistics import matched_random_sets
from interp.statistics.random_sets import LEAST_NEIGHBOURS

Norms = dict[Kind, Float[np.ndarray, "layer unit"]]


@brief
@dataclass(frozen=True)
class Design:
    """Sets and their random controls.

    Attributes:
        sets: by name.
        controls: the random sets of each.
        uncontrolled: why a set has none.
    """

    sets: Sets
    controls: Mapping[str, Sequence[ComponentSet]]
    uncontrolled: Mapping[str, str]

    @property
    def distinct(self) -> list[ComponentSet]:
        """Every set and control once: a control of one set may be another set."""
        every = [*self.sets.values(), *(one for many in self.controls.values() for one in many)]
        return list({one.key: one for one in every}.values())


def design(model: Model, sets: Sets, n: int, seed: int, norms: Norms) -> Design:
    """Draw at most `n` matched random sets for each set; arguments as in `random_sets`."""
    controls: dict[str, list[ComponentSet]] = {}
    uncontrolled: dict[str, str] = {}
    for name, one in sets.items():
        try:
            controls[name] = random_sets(model, one, n, seed, norms) if n else []
        except StatisticsError as error:
            controls[name], uncontrolled[name] = [], str(error)
    return Design(sets, controls, uncontrolled)


def random_sets(
    model: Model, chosen: ComponentSet, n: int, seed: int, norms: Norms
) -> list[ComponentSet]:
    """At most `n` different random sets that match a set; fewer where there are no more.

    Heads and neurons are replaced within their layer, MLPs by those of other layers.

    Args:
        model: the model.
        chosen: the set to control for; where it is kept, the random ones are.
        n: how many sets.
        seed: of the draws.
        norms: size of each unit, of the kinds to be matched by it.

    Raises:
        StatisticsError: a layer has too few other units.
    """
    drawn: list[list[list[Component]]] = []
    for kind in KINDS:
        own = [c for c in chosen.components if c.kind == kind]
        if own:
            drawn.append(_drawn(model, kind, own, n, seed, norms))
    sizes = [len(sets) for sets in drawn]
    if not drawn:
        return []
    rng = np.random.default_rng(seed)
    which = rng.choice(prod(sizes), min(n, prod(sizes)), replace=False)
    combined = np.stack(np.unravel_index(which, sizes), 1)
    return [
        ComponentSet(
            tuple(c for sets, i in zip(drawn, row, strict=True) for c in sets[i]), chosen.among
        )
        for row in combined
    ]


def _drawn(
    model: Model, kind: Kind, own: Sequence[Component], n: int, seed: int, norms: Norms
) -> list[list[Component]]:
    """Random sets of one kind. An MLP has no other in its layer: all of them are one layer."""
    if kind == "mlp":
        places, per_layer = [(0, c.layer) for c in own], model.arch.n_layers
    else:
        places, per_layer = [(c.layer, c.unit) for c in own], n_units(model, kind)
    size = norms.get(kind)
    most = min(n, _n_different(places, per_layer, size is not None))
    sets = matched_random_sets(places, per_layer, most, seed, size)
    if kind == "mlp":
        return [[Component(unit, kind) for _, unit in one] for one in sets]
    return [[Component(layer, kind, unit) for layer, unit in one] for one in sets]


def _n_different(places: Sequence[tuple[int, int]], per_layer: int, by_norm: bool) -> int:
    """How many different sets there are; with norms, how many there are at least."""
    total = 1
    for needed in Counter(layer for layer, _ in places).values():
        free = per_layer - needed
        near = max(LEAST_NEIGHBOURS, free // 10, needed) if by_norm else free
        total *= comb(min(free, near), needed)
    return max(1, total)


def write_norms(model: Model, kinds: Sequence[Kind], prompts: Sequence[TokenPrompt]) -> Norms:
    """Mean norm over tokens of what each head (z W_O) and neuron writes, before a post-norm."""
    real = torch.zeros(len(prompts), max(len(p.ids) for p in prompts), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        real[row, : len(prompt.ids)] = True
    norms: Norms = {}
    sized: set[Kind] = set(kinds) - {"mlp"}
    for kind in sized:
        layers: list[np.ndarray] = []
        for layer, kept in site_values(model, prompts, SITE_OF[kind]).items():
            weight = weight_of(model, SITE_OF[kind], layer)
            tokens = kept[real].to(weight)
            if kind == "head":
                size = head_writes(model, layer, tokens[None])[0].norm(dim=-1).mean(-1)
            else:
                size = tokens.abs().mean(0) * weight.norm(dim=0)
            layers.append(size.detach().float().cpu().numpy())
        norms[kind] = np.stack(layers)
    return norms
