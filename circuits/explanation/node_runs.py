"""A prompt run many times with some of its nodes replaced, as rows of one batch.

Nodes are heads, neurons and whole MLPs by position. A replaced node has its activation in a
reference: the corrupt prompt, a mean, or zero; all others are computed from what reaches them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.explanation.assembly import Node
from circuits.explanation.attribution import LinearRun
from interp.attribution.contrast import run
from interp.brief import brief
from interp.data.prompts import Prompts
from interp.forward.hooks import hooked
from interp.interventions.values import mean_activations
from interp.model.sites import SITES

TOKENS_AT_ONCE = 512
"""Tokens in a batch of rows."""


@brief
@dataclass(frozen=True)
class RowEdit:
    """What one row replaces.

    Attributes:
        nodes: with `keep`, the only nodes that are not replaced; else those that are.
        factor: of a replaced node's distance to the reference that is left: 0 replaces it.
        value: what the one node is given instead of the reference.
        denoise: the row runs the corrupt prompt, and its nodes have their activation in the clean
            one.
    """

    nodes: Sequence[Node]
    keep: bool = False
    factor: float = 0.0
    value: Float[Tensor, " unit"] | None = None
    denoise: bool = False


@brief
@dataclass(frozen=True)
class NodeRuns:
    """A linearised prompt, and the reference that replaced nodes are given, by site and layer."""

    of: LinearRun
    reference: dict[tuple[str, int], Float[Tensor, "pos width"]]
    what: str

    @classmethod
    def against(cls, of: LinearRun, means_over: Prompts | None = None) -> "NodeRuns":
        """With the corrupt prompt as reference; of a prompt alone means over prompts, or zero."""
        reference, means = dict[tuple[str, int], Tensor](), {}
        for site in ("z", "mlp_post", "mlp_out"):
            layers = of.model.arch.layers_with(site)
            if means_over is not None and layers:
                means = mean_activations(of.model, means_over, site)
            for place, layer in enumerate(layers):
                low = of.low(site, place)
                own = low if means_over is None else means[layer].to(low).expand_as(low)
                reference[site, layer] = own
        named = "corrupt prompt" if of.prompt.paired else "zero"
        return cls(of, reference, named if means_over is None else "mean over prompts")

    def predicted(self, node: Node, factor: float = 0.0) -> float:
        """What attribution says a replaced node takes from the metric."""
        kind, layer, unit, pos = node
        site, place = self._site(kind, layer)
        moved = self.of.high(site, place)[pos] - self.reference[site, layer][pos]
        to = self.of.multipliers[site][place][pos]
        score = (moved * to).unflatten(-1, (self._units(kind, layer), -1)).sum(-1)
        return float(score[max(unit, 0)]) * (1 - factor)

    def values(self, edits: Sequence[RowEdit]) -> Float[np.ndarray, " row"]:
        """The metric of each row."""
        contrast = self.of.prompt.contrast
        clean, corrupt = contrast.embeddings
        step, found = max(1, TOKENS_AT_ONCE // clean.shape[1]), list[Tensor]()
        for first in range(0, len(edits), step):
            some = edits[first : first + step]
            rows = torch.zeros(len(some), dtype=torch.long)
            start = torch.cat([corrupt if one.denoise else clean for one in some])
            with torch.no_grad(), hooked(self.of.model, list(self._hooks(some))):
                done = run(self.of.model, contrast, start, rows, [])
                found.append(contrast.read(done.final, rows).double().cpu())
        return torch.cat(found).numpy()

    def _site(self, kind: str, layer: int) -> tuple[str, int]:
        if kind == "head":
            return "z", layer
        neurons = self.of.neurons
        return ("mlp_post", neurons[layer]) if layer in neurons else ("mlp_out", layer)

    def _units(self, kind: str, layer: int) -> int:
        own = self.of.model.arch.layers[layer]
        if kind == "head":
            return own.n_heads
        return own.d_mlp if layer in self.of.neurons else 1

    def _hooks(self, edits: Sequence[RowEdit]):
        for layer in range(self.of.model.arch.n_layers):
            for kind in ("head", "mlp"):
                site, place = self._site(kind, layer)
                yield SITES[site], layer, self._edit(edits, kind, layer, site, place)

    def _edit(
        self, edits: Sequence[RowEdit], kind: str, layer: int, site: str, place: int
    ) -> Callable[[Tensor], None]:
        """Replace a site's activations in every row, in place."""
        heads = kind == "head"
        own = [
            [(u, p) for k, at, u, p in one.nodes if at == layer and (k == "head") == heads]
            for one in edits
        ]
        columns, units = self.of.prompt.columns, self._units(kind, layer)
        low = self.reference[site, layer].unflatten(-1, (units, -1))
        high = self.of.high(site, place).unflatten(-1, (units, -1))

        def edit(x: Float[Tensor, "row pos width"]) -> None:
            by_unit = x.unflatten(-1, (units, -1))
            for row, (one, places) in enumerate(zip(edits, own, strict=True)):
                u, p = (torch.tensor(v) for v in zip(*places, strict=True)) if places else ([], [])
                if one.keep:
                    new = low.to(x).clone()
                    if places:
                        new[p, u] = by_unit[row, columns[p], u]
                    x[row, columns] = new.flatten(-2)
                elif places:
                    moved = torch.lerp(low[p, u], high[p, u], 1.0 if one.denoise else one.factor)
                    new = moved if one.value is None else one.value[None]
                    by_unit[row, columns[p], u] = new.to(x)

        return edit
