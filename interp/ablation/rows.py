"""Ablated runs as rows of one packed forward: a row is a prompt and a set, from its first layer."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.ablation.replacement import Rewrites
from interp.brief import brief
from interp.data.token_batch import TokenBatch
from interp.forward.budget import default_budget, halved
from interp.forward.continuations import record_batch
from interp.forward.layer_calls import LayerCalls
from interp.forward.packed import Pack, Rows, run_packed
from interp.interventions.batch_run import Rewrite
from interp.model.components import SITE_OF, Component, ComponentKind
from interp.model.model import Model
from interp.model.sites import SITES, Site

Read = Callable[
    [Float[Tensor, "token d_model"], Pack, Int[Tensor, " row"]],
    Mapping[str, Float[np.ndarray, " row"]],
]
"""(final residual stream of every token, tables, prompt of each row) -> readout -> values."""

Measured = dict[str, tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "prompt set"]]]
"""readout -> (unablated values, ablated values)."""


@brief
@dataclass(frozen=True)
class Removal:
    """Replaces the units that each row's set ablates, at one site of one layer.

    `chosen` are the units that each set ablates, `into` flat indices of the tokens changed, with
    the prompt, the position in it, and the set that each belongs to.
    """

    site: Site
    layer: int
    chosen: Bool[Tensor, "set unit"]
    rewrite: Rewrite
    into: Int[Tensor, " n"]
    prompt: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    set: Int[Tensor, " n"]

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        """Apply to the activation of the whole batch, in place."""
        flat = activation.view(-1, activation.shape[-1])
        into = self.into.to(flat.device)
        x = flat[into]
        chosen = self.chosen[self.set].to(flat.device)  # (n, unit)
        features = chosen.repeat_interleave(x.shape[-1] // chosen.shape[-1], -1)
        flat[into] = torch.where(features, self.rewrite(x, self.prompt, self.pos), x)


_Units = list[tuple[Site, int, Bool[Tensor, "set unit"]]]
"""The units of a site and layer that each set ablates, by layer."""


def run_sets(
    model: Model,
    tokens: TokenBatch,
    places: Sequence[Sequence[int]],
    ablated: Sequence[Sequence[Component]],
    rewrites: Rewrites,
    read: Read,
) -> Measured:
    """Run each prompt with each set of components ablated, and unablated, and read the results.

    `places`: positions of each prompt, and of the answers behind it, that are replaced, ascending.
    """
    units = _units(model, ablated)
    cells = _cells(model, len(tokens.ids), len(ablated), units)
    length = tokens.mask.sum(-1).cpu()
    start = torch.tensor([own[0] for own in places])
    held = (length - start)[cells[:, 0]].cumsum(0).numpy()
    budget, out, lo = default_budget(model), {}, 0
    with torch.no_grad():
        calls = record_batch(model, tokens)
        while lo < len(cells) or not out:
            room = max(1, budget - int(length.sum())) + (held[lo - 1] if lo else 0)
            hi = max(lo + 1, int(np.searchsorted(held, room, side="right")))
            prompt, _, entry = cells[lo:hi].T
            rows = Rows.beside(model, calls.mask, prompt, start[prompt], entry, tokens.columns)
            try:
                writes = _writes(calls, length, places, cells[lo:hi], units, rewrites, rows)
                hidden, pack = run_packed(model, calls, rows, writes)
                found = read(hidden, pack, rows.prompt)
            except torch.OutOfMemoryError as error:
                budget = halved(budget, model, int(length.max()), error)
                continue
            _fill(out, found, cells[lo:hi], len(length), len(ablated))
            lo = hi
    return out


def _fill(
    out: Measured, found: Mapping[str, np.ndarray], cells: Tensor, n_prompts: int, n_sets: int
) -> None:
    for name, values in found.items():
        base, own = values[:n_prompts], values[n_prompts:]
        if name not in out:
            # a set that ablates nothing has no row: it is the unablated run
            out[name] = base, np.repeat(base[:, None], n_sets, 1)
        out[name][1][cells[:, 0].numpy(), cells[:, 1].numpy()] = own


def _units(model: Model, ablated: Sequence[Sequence[Component]]) -> _Units:
    places: dict[tuple[int, ComponentKind], list[tuple[int, int]]] = defaultdict(list)
    for i, components in enumerate(ablated):
        for one in components:
            places[one.layer, one.kind].append((i, one.unit))
    units: _Units = []
    for (layer, kind), own in sorted(places.items()):
        site = SITES[SITE_OF[kind]]
        chosen = torch.zeros(len(ablated), model.n_units(site, layer), dtype=torch.bool)
        chosen[tuple(torch.tensor(own).T)] = True
        units.append((site, layer, chosen))
    return units


def _cells(model: Model, n_prompts: int, n_sets: int, units: _Units) -> Int[Tensor, "cell 3"]:
    """(prompt, set, layer of entry) of each row beside the unablated ones, by layer of entry."""
    entry = torch.full((n_sets,), model.arch.n_layers)
    for _, layer, chosen in reversed(units):
        entry[chosen.any(1)] = layer
    which = torch.argsort(entry, stable=True)
    which = which[entry[which] < model.arch.n_layers]
    sets = which.repeat_interleave(n_prompts)
    return torch.stack([torch.arange(n_prompts).repeat(len(which)), sets, entry[sets]], 1)


def _writes(
    calls: LayerCalls,
    length: Int[Tensor, " prompt"],
    places: Sequence[Sequence[int]],
    cells: Int[Tensor, "cell 3"],
    units: _Units,
    rewrites: Rewrites,
    rows: Rows,
) -> list[Removal]:
    pack = Pack(rows, calls.mask.shape[1])
    count = torch.tensor([len(own) for own in places])
    listed, first = torch.tensor([p for own in places for p in own]), count.cumsum(0) - count
    n = count[cells[:, 0]]
    cell = torch.arange(len(cells)).repeat_interleave(n)
    prompt, sets, _ = cells[cell].T
    pos = listed[first[prompt] + torch.arange(len(cell)) - (n.cumsum(0) - n)[cell]]
    left = calls.mask.int().argmax(-1).cpu()
    into = pack.token(cell + rows.n_base, pos + left[prompt])
    writes: list[Removal] = []
    for site, layer, chosen in units:
        here = chosen.any(1)[sets].nonzero()[:, 0]
        if len(here):
            tokens = (column[here] for column in (into, prompt, pos, sets))
            writes.append(Removal(site, layer, chosen, rewrites[site.name, layer], *tokens))
    return writes
