"""What ablated activations are replaced by: zero, a mean, another prompt's, or noise on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args
from zlib import crc32

import torch
from torch import Tensor

from interp.brief import brief
from interp.data.alignment import Partner
from interp.data.prompts import TokenPrompt
from interp.data.token_batch import TokenBatch
from interp.errors import PlanError, did_you_mean
from interp.forward.continuations import activations_in
from interp.interventions.batch_run import Rewrite
from interp.interventions.values import mean_activations
from interp.model.model import Model
from interp.model.sites import SITES

AblateKind = Literal["zero", "mean", "resample", "noise"]

SIGMAS = 3.0
"""Standard deviations of noise; Meng et al., arXiv 2202.05262."""

Rewrites = Mapping[tuple[str, int], Rewrite]
"""(site, layer) -> what happens to all its units; which of them it happens to, the sets say."""


@brief
@dataclass(frozen=True)
class Replacement:
    """How ablated activations are made up, at some `layers` of sites.

    Zero; mean over `reference`, `by_position` or over all tokens, as at the up to `n_behind` tokens
    of answers; resample: the counterpart prompt's; or noise added, by `seed`.
    """

    model: Model
    kind: AblateKind
    layers: Mapping[str, Sequence[int]]
    reference: Sequence[TokenPrompt]
    seed: int
    by_position: bool = False
    n_behind: int = 0

    def of(
        self, tokens: TokenBatch, counterparts: TokenBatch, partners: Sequence[Partner], block: int
    ) -> Rewrites:
        """The replacements for some prompts and the answers behind them.

        They are resampled from `counterparts`; `partners` has for each token its partner there.
        `block` is where these prompts begin among all, so that each block has its own noise.
        """
        if self.kind == "mean":
            return self._means
        if self.kind == "resample":
            return self._resampled(counterparts, partners)
        if self.kind == "noise":
            return self._noise(tokens, block)
        return {point: Rewrite(0.0) for point in self._points}

    @property
    def _points(self) -> list[tuple[str, int]]:
        return [(site, layer) for site, layers in self.layers.items() for layer in layers]

    def _recorded(self, tokens: TokenBatch) -> dict[tuple[str, int], Tensor]:
        points = [(SITES[site], layer) for site, layer in self._points]
        return dict(zip(self._points, activations_in(self.model, tokens, points), strict=True))

    def _noise(self, tokens: TokenBatch, block: int) -> Rewrites:
        real, found = tokens.mask.sum(-1).cpu(), dict[tuple[str, int], Rewrite]()
        seeds = {site: crc32(f"{self.seed} {block} {site}".encode()) for site in self.layers}
        generators = {site: torch.Generator().manual_seed(seed) for site, seed in seeds.items()}
        for (site, layer), x in self._recorded(tokens).items():
            there = torch.arange(x.shape[1]) < real[:, None]
            drawn = torch.randn(x.shape, generator=generators[site])
            found[site, layer] = Rewrite(add=SIGMAS * float(x[there].double().std()) * drawn)
        return found

    def _resampled(self, counterparts: TokenBatch, partners: Sequence[Partner]) -> Rewrites:
        """Of each token its partner's activation; one without is not replaced at all."""
        width = max(map(len, partners))
        at = torch.zeros(len(partners), width, 1, dtype=torch.long)
        for row, partner in zip(at, partners, strict=True):
            row[: len(partner), 0] = torch.tensor([j or 0 for j in partner])
        return {
            point: Rewrite(0.0, x.gather(1, at.expand(-1, -1, x.shape[-1])))
            for point, x in self._recorded(counterparts).items()
        }

    @property
    def mean_over(self) -> str:
        """What a mean was taken over, for the record."""
        if self.kind != "mean":
            return ""
        each = "each position" if self.by_position else "all tokens"
        return f"{each} of {len(self.reference)} reference prompts"

    @cached_property
    def _means(self) -> Rewrites:
        found: dict[tuple[str, int], Rewrite] = {}
        for site, layers in self.layers.items():
            means = mean_activations(self.model, self.reference, site, layers)
            if self.by_position:
                at = mean_activations(self.model, self.reference, site, layers, per="position")
                for layer, mean in means.items():
                    behind = mean.expand(self.n_behind, -1)
                    means[layer] = torch.cat([at[layer], behind])
            found |= {(site, layer): Rewrite(0.0, mean) for layer, mean in means.items()}
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
