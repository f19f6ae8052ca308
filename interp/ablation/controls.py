"""Random control sets of component sets in a model, and the norms that they may be matched by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import StatisticsError
from interp.forward.blocks import head_writes, weight_of
from interp.interventions.recording import site_values
from interp.model.components import SITE_OF, ComponentKind, ComponentSet, Sets, layers_of, shapes
from interp.model.model import Model
from interp.model.sites import SITES
from interp.statistics.random_sets import Match, Sizes, random_sets


@brief
@dataclass(frozen=True)
class ControlledSets:
    """Sets by name, the random sets of each, and why a set has none."""

    sets: Sets
    controls: Mapping[str, Sequence[ComponentSet]]
    uncontrolled: Mapping[str, str]

    @property
    def distinct(self) -> list[ComponentSet]:
        """Every set and control once: a control of one set may be another set."""
        every = [*self.sets.values(), *(one for many in self.controls.values() for one in many)]
        return list({one.key: one for one in every}.values())


def controlled(model: Model, sets: Sets, n: int, seed: int, norms: Sizes) -> ControlledSets:
    """At most `n` random sets of the same layers for each set, where there are such."""
    controls: dict[str, list[ComponentSet]] = {}
    uncontrolled: dict[str, str] = {}
    for name, one in sets.items():
        try:
            controls[name] = matched_sets(model, one, n, seed, norms=norms)
        except StatisticsError as error:
            controls[name], uncontrolled[name] = [], str(error)
    return ControlledSets(sets, controls, uncontrolled)


def matched_sets(
    model: Model,
    chosen: ComponentSet,
    n: int,
    seed: int = 0,
    match: Match = "layer",
    norms: Sizes | None = None,
) -> list[ComponentSet]:
    """Random sets for a set of a model, as `random_sets`; kept where the set is kept."""
    known = shapes(model, {one.kind for one in chosen.components})
    every = set(range(model.arch.n_layers))
    lacking: dict[ComponentKind, Sequence[int]] = {
        kind: sorted(every - set(layers_of(model, kind))) for kind in known
    }
    drawn = random_sets(chosen.components, known, n, seed, match, norms, lacking)
    return [ComponentSet(one, chosen.among) for one in drawn]


def write_norms(
    model: Model, kinds: Iterable[ComponentKind], prompts: Sequence[TokenPrompt]
) -> dict[ComponentKind, Float[np.ndarray, "layer unit"]]:
    """Mean norm over tokens of what each head (z W_O), neuron and expert writes.

    Before a post-norm; 0 in layers without such components.
    """
    length = torch.tensor([len(prompt.ids) for prompt in prompts])
    real = torch.arange(int(length.max())) < length[:, None]
    norms: dict[ComponentKind, np.ndarray] = {}
    sized: set[ComponentKind] = set(kinds) - {"mlp"}
    for kind in sized:
        norms[kind] = np.zeros(shapes(model, [kind])[kind])
        for layer, kept in site_values(model, prompts, SITE_OF[kind]).items():
            size = _sizes(model, kind, layer, kept[real])
            norms[kind][layer] = size.detach().float().cpu().numpy()
    return norms


def _sizes(
    model: Model, kind: ComponentKind, layer: int, tokens: Float[Tensor, "token width"]
) -> Float[Tensor, " unit"]:
    if kind == "expert":
        n = model.n_units(SITES[SITE_OF[kind]], layer)
        return tokens.unflatten(-1, (n, -1)).norm(dim=-1).mean(0)
    weight = weight_of(model, SITE_OF[kind], layer)
    tokens = tokens.to(weight)
    if kind == "head":
        return head_writes(model, layer, tokens[None])[0].norm(dim=-1).mean(-1)
    return tokens.abs().mean(0) * weight.norm(dim=0)
