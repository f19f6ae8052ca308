"""Scores of heads, MLPs and neurons on each cell, circuits of them, and random sets beside those.

A score is the fraction of a cell's total effect, m(clean) - m(corrupt), that is lost when the
component alone takes its value on the corrupt prompt: exact, by one sweep per kind of component.
Positive: the component supports the answer. Negative: it works against it.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from jaxtyping import Float

from circuits.recall_reasoning.designs import Ability
from interp.ablation.controls import matched_sets, write_norms
from interp.attribution.attribute import attribute
from interp.attribution.scores import UnitScores
from interp.brief import brief
from interp.data.pairs import PromptPairs, tokenise
from interp.data.prompts import prompts_of
from interp.errors import StatisticsError
from interp.model.components import SITE_OF, Component, ComponentKind, ComponentSet, everything
from interp.model.model import Model
from interp.patching.patch import patch
from interp.results.run_folder import RunFolder, identity, names_of

SPARED = 0.01
"""Fraction of the other ability's total effect; ten such heads stay within a margin of 10 %."""

RULES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    # own - other: also takes what holds the other ability back
    "difference": lambda own, other: own - other,
    # the same with negative heads counted as zero, on either side
    "clipped": lambda own, other: own.clip(0) - other.clip(0),
    # what matters to the other ability in either direction is left alone
    "absolute": lambda own, other: own - np.abs(other),
    # own alone, of components that the other ability hardly depends on
    "exclusive": lambda own, other: np.where(np.abs(other) <= SPARED, own, 0),
}
"""How a component is ranked for an ability, from its scores on its own and on the other cells."""


def scores_of(
    model: Model,
    cells: Mapping[str, PromptPairs],
    kind: ComponentKind,
    out: Path,
    among: Set[str] | None = None,
) -> Float[xr.DataArray, "cell layer unit"]:
    """Score every component of a kind on every cell; finished cells are read back from `out`.

    Heads and MLPs are patched one by one; neurons are attributed (`eap-dg`). `among` has the ids of
    the pairs that count; all are patched in any case.
    """
    score = _attributed if kind == "neuron" else _patched
    found = [score(model, pairs, kind, out / f"{kind}-{c}", among) for c, pairs in cells.items()]
    joined = np.stack(found)
    coords = {"cell": list(cells), "layer": range(joined.shape[1]), "unit": range(joined.shape[2])}
    return xr.DataArray(joined, coords, ("cell", "layer", "unit"), name=kind)


def _patched(
    model: Model, pairs: PromptPairs, kind: ComponentKind, out: Path, among: Set[str] | None
) -> Float[np.ndarray, "layer unit"]:
    over = "layer,head" if kind == "head" else "layer"
    result = patch(model, pairs, SITE_OF[kind], over, direction="noise", out=out)
    which = [among is None or name in among for name in result.values["pair"].values]
    clean, corrupt, patched = (
        one[which].mean("pair") for one in (result.clean, result.corrupt, result.values)
    )
    values = ((clean - patched) / (clean - corrupt)).values
    return values if kind == "head" else values[:, None]


def _attributed(
    model: Model, pairs: PromptPairs, kind: ComponentKind, out: Path, _: object
) -> Float[np.ndarray, "layer unit"]:
    axes = ("layer", kind)
    named = {"site": SITE_OF[kind], "over": axes} | names_of(pairs) | identity(model)
    with RunFolder.open(out, "attribute", named, unit="pairs") as run:
        if not run.finished:
            run.finish(attribute(model, pairs, SITE_OF[kind], axes).save)
    result = UnitScores.load(out)
    return (result.mean() / float((result.clean - result.corrupt).mean())).values


@brief
@dataclass(frozen=True)
class AbilityCircuit:
    """Components that are claimed to serve one ability, best first, with scores by a rule."""

    ability: Ability
    kind: ComponentKind
    rule: str
    components: tuple[Component, ...]
    scores: tuple[float, ...]

    @property
    def name(self) -> str:
        """Ability, kind, rule and size."""
        return f"{self.ability.name}/{self.kind}/{self.rule}/{len(self.components)}"

    @property
    def labels(self) -> dict[str, Any]:
        """What names it in tables."""
        names = {"circuit": self.name, "ability": self.ability.name, "components": self.kind}
        return names | {"rule": self.rule, "size": len(self.components)}

    @property
    def set(self) -> ComponentSet:
        """What to ablate."""
        return ComponentSet(self.components)


def circuits_of(
    scores: xr.DataArray, ability: Ability, rule: str, sizes: Sequence[int]
) -> list[AbilityCircuit]:
    """The components that matter most to an ability's own cells and not to the others.

    A circuit has only components with a positive score by the rule, so it is smaller where there
    are too few; sizes that give the same circuit give it once.
    """
    own, other = (scores.sel(cell=list(side)).mean("cell").values for side in ability.sides)
    ranked = RULES[rule](own, other)
    kind = cast(ComponentKind, scores.name)
    order = np.argsort(-ranked, axis=None, kind="stable")
    order = order[ranked.ravel()[order] > 0]
    found: dict[int, AbilityCircuit] = {}
    for top in (order[:size] for size in sizes):
        places = [divmod(int(i), ranked.shape[1]) for i in top]
        if places:
            components = tuple(Component(layer, kind, unit) for layer, unit in places)
            values = tuple(float(ranked[place]) for place in places)
            found[len(top)] = AbilityCircuit(ability, kind, rule, components, values)
    return list(found.values())


def controls_of(
    model: Model, circuit: AbilityCircuit, n: int, seed: int, pairs: PromptPairs
) -> dict[str, list[ComponentSet]]:
    """At most `n` random sets of each kind for a circuit, which have none of its units.

    ``layer``: as many units in each layer; ``near``, only where those are fewer than `n`: each unit
    from a layer nearby; ``norm``: as ``layer``, matched by output norm on `pairs`, too;
    ``anywhere``: any units. A kind is missing where no set matches.
    """
    norms = write_norms(model, [circuit.kind], prompts_of(tokenise(model, pairs)[0])[:16])
    found: dict[str, list[ComponentSet]] = {"layer": [], "near": [], "norm": []}
    with contextlib.suppress(StatisticsError):  # a layer has too few other units
        found["layer"] = matched_sets(model, circuit.set, n, seed)
        found["norm"] = matched_sets(model, circuit.set, n, seed, norms=norms)
    if len(found["layer"]) < n:
        found["near"] = matched_sets(model, circuit.set, n, seed, "near")
    found["anywhere"] = matched_sets(model, circuit.set, n, seed, "anywhere")
    return {kind: sets for kind, sets in found.items() if sets}


def n_others(model: Model, circuit: AbilityCircuit) -> int:
    """How many different sets of as many units there are that hold none of the circuit's."""
    size = len(circuit.components)
    return comb(len(everything(model, circuit.kind)) - size, size)
