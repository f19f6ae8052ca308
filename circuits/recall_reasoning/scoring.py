"""How much each head, MLP or neuron matters to each cell, and circuits made of the differences.

A score is the part of a cell's total effect, m(clean) - m(corrupt), that is lost when the
component alone takes its value on the corrupt prompt: exact, by one sweep a kind of component.
Positive: the component supports the answer. Negative: it works against it.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import xarray as xr
from jaxtyping import Float

from circuits.recall_reasoning.cells import Ability
from interp.ablation import Component, ComponentSet
from interp.attribution import attribute
from interp.attribution.scores import UnitScores
from interp.brief import brief
from interp.data.pairs import PromptPairs
from interp.errors import PlanError, did_you_mean
from interp.model.model import Model
from interp.patching.patch import patch
from interp.results.run_folder import RunFolder
from interp.results.run_key import identity, names_of

Kind = Literal["head", "mlp", "neuron"]
Scores = dict[str, xr.DataArray]
"""Kind -> scores with dims (cell, layer, unit)."""

SPARED = 0.01
"""Part of the other ability's total effect; ten such heads stay within a margin of 10 %."""

RULES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    # own - other: also takes what holds the other ability back
    "difference": lambda own, other: own - other,
    # the same with negative heads counted as none, on either side
    "clipped": lambda own, other: own.clip(0) - other.clip(0),
    # what matters to the other ability in either direction is left alone
    "absolute": lambda own, other: own - np.abs(other),
    # own alone, of what next to nothing of the other ability hangs on
    "exclusive": lambda own, other: np.where(np.abs(other) <= SPARED, own, 0),
}
"""How a component is ranked for an ability, from its scores on its own and on the other cells."""


def scores_of(
    model: Model,
    cells: Mapping[str, PromptPairs],
    kind: Kind,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    among: Set[str] | None = None,
) -> Float[xr.DataArray, "cell layer unit"]:
    """Score every component of a kind on every cell; finished cells are read back from `out`.

    Args:
        model: the model.
        cells: the selection split's pairs.
        kind: heads and MLPs are patched one by one; neurons, of which there are too many, are
            attributed (`eap-dg`).
        out: folder of the parts.
        progress: called with (pairs done, pairs in all) of each cell.
        among: ids of the pairs that count; by default all do. All are patched in either case.
    """
    found: list[xr.DataArray] = []
    for cell, pairs in cells.items():
        if kind == "neuron":
            found.append(_attributed(model, pairs, "mlp_post", out / f"neuron-{cell}"))
            continue
        site, over = ("z", "layer,head") if kind == "head" else ("mlp_out", "layer")
        result = patch(
            model,
            pairs,
            site,
            over,
            direction="noise",
            progress=progress or False,
            out=out / f"{kind}-{cell}",
        )
        which = [among is None or name in among for name in result.values["pair"].values]
        clean, corrupt, patched = (
            one[which].mean("pair") for one in (result.clean, result.corrupt, result.values)
        )
        share = (clean - patched) / (clean - corrupt)
        share = share.rename(head="unit") if kind == "head" else share.expand_dims(unit=[0], axis=1)
        found.append(share.transpose("layer", "unit"))
    joined = np.stack([one.values for one in found])
    coords = {"cell": list(cells), "layer": range(joined.shape[1]), "unit": range(joined.shape[2])}
    return xr.DataArray(joined, coords, ("cell", "layer", "unit"), name=kind)


def _attributed(model: Model, pairs: PromptPairs, site: str, file: Path) -> xr.DataArray:
    """Attribution of every unit of a site, as a part of the total effect; kept in a file."""
    unit = "neuron" if site == "mlp_post" else "head"
    axes = ("layer", unit)
    named = {"site": site, "over": axes} | names_of(pairs) | identity(model)
    with RunFolder.open(file, "attribute", named, unit="pairs") as run:
        if not run.finished:
            run.finish(attribute(model, pairs, site, axes).save)
    result = UnitScores.load(file)
    effect = float((result.clean - result.corrupt).mean())
    return result.mean().rename({unit: "unit"}) / effect


def attributed_heads(model: Model, pairs: PromptPairs, file: Path) -> xr.DataArray:
    """Scores of heads by attribution, to be laid beside the exact ones."""
    return _attributed(model, pairs, "z", file)


@brief
@dataclass(frozen=True)
class Circuit:
    """A set of components that is claimed to serve one ability.

    Attributes:
        ability: which.
        kind: of what components.
        rule: how they were ranked.
        components: the best first.
        scores: by the rule.
    """

    ability: str
    kind: Kind
    rule: str
    components: tuple[Component, ...]
    scores: tuple[float, ...]

    @property
    def name(self) -> str:
        """A name for tables: ability, kind, rule and size."""
        return f"{self.ability}/{self.kind}/{self.rule}/{len(self.components)}"

    @property
    def size(self) -> int:
        """How many components."""
        return len(self.components)

    @property
    def set(self) -> ComponentSet:
        """What to ablate."""
        return ComponentSet(self.components)


def circuits_of(
    scores: xr.DataArray, ability: Ability, rule: str, sizes: Sequence[int]
) -> list[Circuit]:
    """The components that matter most to an ability's own cells and not to the others.

    Args:
        scores: of one kind, with dims (cell, layer, unit).
        ability: whose cells.
        rule: a name in `RULES`.
        sizes: of the circuits. A circuit holds only components with a positive score, so it is
            smaller where there are too few; sizes that give the same circuit give it once.

    Raises:
        PlanError: unknown rule.
    """
    if rule not in RULES:
        raise PlanError(f"unknown rule {rule!r}. {did_you_mean(rule, RULES)}")
    own, other = (
        scores.sel(cell=list(cells)).mean("cell").values for cells in (ability.own, ability.others)
    )
    ranked = RULES[rule](own, other)
    kind = cast(Kind, scores.name)
    order = np.argsort(-ranked, axis=None, kind="stable")
    order = order[ranked.ravel()[order] > 0]
    width = ranked.shape[1]
    found: dict[int, Circuit] = {}
    for size in sizes:
        top = order[:size]
        components = tuple(Component(int(i // width), kind, int(i % width)) for i in top)
        if components:
            values = tuple(float(ranked.ravel()[i]) for i in top)
            found[len(top)] = Circuit(ability.name, kind, rule, components, values)
    return list(found.values())
