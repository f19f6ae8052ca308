"""What ablated activations are replaced by: zero, a mean, another prompt's, or noise on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch

from interp.brief import brief
from interp.data.alignment import Partner
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError, did_you_mean
from interp.interventions.batch_run import Rewrite
from interp.interventions.plan import Ablate, Plan
from interp.interventions.recording import site_values
from interp.interventions.values import mean_ablation, noise_ablation
from interp.model.model import Model

AblateKind = Literal["zero", "mean", "resample", "noise"]

Rewrites = Mapping[tuple[str, int], Rewrite]
"""(site, layer) -> what happens to all its units; which of them it happens to, the sets say."""


@brief
@dataclass(frozen=True)
class Replacement:
    """How ablated activations are made up, at some `layers` of sites.

    Zero; mean over `reference`, `by_position` or over all tokens; resample: the counterpart
    prompt's; or noise added, by `seed`.
    """

    model: Model
    kind: AblateKind
    layers: Mapping[str, Sequence[int]]
    reference: Sequence[TokenPrompt]
    seed: int
    by_position: bool = False

    def of(
        self,
        prompts: Sequence[TokenPrompt],
        counterparts: Sequence[TokenPrompt],
        partners: Sequence[Partner],
        block: int,
    ) -> Rewrites:
        """The replacements for some prompts, each resampled from its counterpart.

        `partners` has for each token of a prompt its partner there, and `block` is where these
        prompts begin among all, so that each block has its own noise.
        """
        if self.kind == "mean":
            return self._means
        if self.kind == "resample":
            return self._resampled(counterparts, partners)
        plans: list[Plan] = []
        for site, layers in self.layers.items():
            if self.kind == "zero":
                plans.append(Plan.of(*(Ablate(site, layers=layer) for layer in layers)))
            else:
                seed = self.seed + block
                plans.append(noise_ablation(self.model, prompts, site, layers, seed=seed))
        return _rewrites(plans)

    def _resampled(
        self, counterparts: Sequence[TokenPrompt], partners: Sequence[Partner]
    ) -> Rewrites:
        """Of each token its partner's activation; one without is not replaced at all."""
        width = max(map(len, partners))
        at = torch.zeros(len(partners), width, 1, dtype=torch.long)
        for row, partner in zip(at, partners, strict=True):
            row[: len(partner), 0] = torch.tensor([j or 0 for j in partner])
        found: dict[tuple[str, int], Rewrite] = {}
        for site, layers in self.layers.items():
            for layer, x in site_values(self.model, counterparts, site, layers).items():
                values = x.gather(1, at.expand(-1, -1, x.shape[-1]))
                found[site, layer] = Rewrite(0.0, values)
        return found

    @property
    def mean_over(self) -> str:
        """What a mean was taken over, for the record."""
        if self.kind != "mean":
            return ""
        each = "each position" if self.by_position else "all tokens"
        return f"{each} of {len(self.reference)} reference prompts"

    @cached_property
    def _means(self) -> Rewrites:
        per = "position" if self.by_position else "all"
        sites = self.layers.items()
        return _rewrites([mean_ablation(self.model, self.reference, *at, per=per) for at in sites])


def _rewrites(plans: Sequence[Plan]) -> Rewrites:
    found: dict[tuple[str, int], Rewrite] = {}
    for plan in plans:
        for step in plan:
            assert isinstance(step, Ablate) and isinstance(step.layers, tuple)
            found[step.site, step.layers[0]] = step.rewrite(None)
    return found


def check_kind(kind: str, reference: Sequence[TokenPrompt]) -> AblateKind:
    """The kind of ablation by its name; a mean needs reference prompts."""
    kinds: tuple[AblateKind, ...] = get_args(AblateKind)
    if kind not in kinds:
        raise PlanError(f"unknown kind of ablation {kind!r}. {did_you_mean(kind, kinds)}")
    if kind == "mean" and not reference:
        raise PlanError(
            "kind='mean' needs reference prompts to take the mean over: others of the same task, "
            "best not those that are ablated."
        )
    return kinds[kinds.index(kind)]


def aligned(prompts: Sequence[TokenPrompt]) -> bool:
    """Whether all prompts have one length and their spans at the same positions."""
    first = prompts[0]
    return all(len(p.ids) == len(first.ids) and p.spans == first.spans for p in prompts)
