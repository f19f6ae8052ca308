"""Ablated runs as rows of one walk: a row is a prompt and a set, from its first layer on."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.ablation.values import Rewrites
from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.forward.budget import default_budget, halved
from interp.forward.layer_calls import LayerCalls, record_layer_calls
from interp.forward.packed import Pack, Rows, shares_prefixes, walk_tokens
from interp.interventions.rewrite import Rewrite
from interp.model.components import SITE_OF, Component, ComponentKind, n_units
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
class Units:
    """Which units of a site each set ablates in one layer."""

    site: Site
    layer: int
    chosen: Bool[Tensor, "set unit"]


@brief
@dataclass(frozen=True)
class Removal:
    """Replaces the units that each row's set ablates, at one site of one layer.

    Attributes:
        units: by set.
        rewrite: what becomes of a unit.
        into: flat indices of the tokens changed.
        prompt, pos, set: which prompt, which of its positions, and which set each belongs to.
    """

    units: Units
    rewrite: Rewrite
    into: Int[Tensor, " n"]
    prompt: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    set: Int[Tensor, " n"]

    @property
    def site(self) -> Site:
        """Where."""
        return self.units.site

    @property
    def layer(self) -> int:
        """In which block."""
        return self.units.layer

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        """Apply to the activation of the whole batch, in place."""
        flat = activation.view(-1, activation.shape[-1])
        into = self.into.to(flat.device)
        x = flat[into]
        chosen = self.units.chosen[self.set].to(flat.device)  # (n, unit)
        features = chosen.repeat_interleave(x.shape[-1] // chosen.shape[-1], -1)
        flat[into] = torch.where(features, self.rewrite(x, self.prompt, self.pos), x)


@brief
@dataclass(frozen=True)
class Cells:
    """Rows beside the unablated ones, ordered by the layer in which they join the walk."""

    prompt: Int[Tensor, " cell"]
    set: Int[Tensor, " cell"]
    entry: Int[Tensor, " cell"]

    def __len__(self) -> int:
        return len(self.prompt)

    def __getitem__(self, part: slice) -> "Cells":
        return Cells(self.prompt[part], self.set[part], self.entry[part])


def run_sets(
    model: Model,
    prompts: Sequence[TokenPrompt],
    starts: Sequence[int],
    ablated: Sequence[Sequence[Component]],
    rewrites: Rewrites,
    read: Read,
) -> Measured:
    """Run each prompt with each set ablated, and unablated, and read the results.

    Args:
        model: the model.
        prompts: the prompts.
        starts: for each, the first position that a replacement can change.
        ablated: the components that each set replaces.
        rewrites: by what.
        read: what is measured.

    Raises:
        OutOfMemory: two prompts alone do not fit.
    """
    units = _units(model, ablated)
    cells = _cells(model, len(prompts), len(ablated), units)
    length = torch.tensor([len(p.ids) for p in prompts])
    held = (length - torch.tensor(starts))[cells.prompt].cumsum(0).numpy()
    budget, out, lo = default_budget(model), {}, 0
    with torch.no_grad():
        ids, mask = pad(model, prompts)
        calls = record_layer_calls(model, ids, mask)
        while lo < len(cells) or not out:
            room = max(1, budget - int(length.sum())) + (held[lo - 1] if lo else 0)
            hi = max(lo + 1, int(np.searchsorted(held, room, side="right")))
            part = cells[lo:hi]
            try:
                found = _walk(
                    model, calls, length, torch.tensor(starts), part, units, rewrites, read
                )
            except torch.OutOfMemoryError as error:
                budget = halved(budget, model, int(length.max()), error)
                continue
            _fill(out, found, part, len(prompts), len(ablated))
            lo = hi
    return out


def _fill(
    out: Measured, found: Mapping[str, np.ndarray], cells: Cells, n_prompts: int, n_sets: int
) -> None:
    for name, values in found.items():
        base, own = values[:n_prompts], values[n_prompts:]
        if name not in out:
            # a set that ablates nothing has no row: it is the unablated run
            out[name] = base, np.repeat(base[:, None], n_sets, 1)
        out[name][1][cells.prompt.numpy(), cells.set.numpy()] = own


def _units(model: Model, ablated: Sequence[Sequence[Component]]) -> list[Units]:
    """The units of each site and layer that any set ablates, by layer."""
    rows: dict[tuple[int, ComponentKind], list[tuple[int, int]]] = defaultdict(list)
    for i, components in enumerate(ablated):
        for one in components:
            rows[one.layer, one.kind].append((i, one.unit))
    units: list[Units] = []
    for (layer, kind), places in sorted(rows.items()):
        chosen = torch.zeros(len(ablated), n_units(model, kind), dtype=torch.bool)
        chosen[tuple(torch.tensor(places).T)] = True
        units.append(Units(SITES[SITE_OF[kind]], layer, chosen))
    return units


def _cells(model: Model, n_prompts: int, n_sets: int, units: Sequence[Units]) -> Cells:
    entry = torch.full((n_sets,), model.arch.n_layers)
    for one in reversed(units):
        entry[one.chosen.any(1)] = one.layer
    which = torch.argsort(entry, stable=True)
    which = which[entry[which] < model.arch.n_layers]
    chosen = which.repeat_interleave(n_prompts)
    return Cells(torch.arange(n_prompts).repeat(len(which)), chosen, entry[chosen])


def _walk(
    model: Model,
    calls: LayerCalls,
    length: Int[Tensor, " prompt"],
    starts: Int[Tensor, " prompt"],
    cells: Cells,
    units: Sequence[Units],
    rewrites: Rewrites,
    read: Read,
) -> Mapping[str, Float[np.ndarray, " row"]]:
    rows = _rows(model, calls, length, starts, cells)
    pack = Pack(rows, calls.mask.shape[1])
    n = (length - starts)[cells.prompt]
    cell = torch.arange(len(cells)).repeat_interleave(n)
    prompt, chosen = cells.prompt[cell], cells.set[cell]
    pos = torch.arange(len(cell)) - (n.cumsum(0) - n)[cell] + starts[prompt]
    left = calls.mask.shape[1] - length
    into = pack.token(cell + rows.n_base, pos + left[prompt])
    writes: list[Removal] = []
    for one in units:
        here = one.chosen.any(1)[chosen].nonzero()[:, 0]
        if len(here):
            tokens = (column[here] for column in (into, prompt, pos, chosen))
            writes.append(Removal(one, rewrites[one.site.name, one.layer], *tokens))
    # a walk only asks a write for its site and layer, and calls it
    hidden, tables = walk_tokens(model, calls, rows, writes)
    return read(hidden, tables, rows.prompt)


def _rows(
    model: Model,
    calls: LayerCalls,
    length: Int[Tensor, " prompt"],
    starts: Int[Tensor, " prompt"],
    cells: Cells,
) -> Rows:
    """The prompts themselves, then one row a cell; prompts are padded on the left."""
    base, width = torch.arange(len(length)), calls.mask.shape[1]
    prompt = torch.cat([base, cells.prompt])
    first = torch.cat([0 * base, starts[cells.prompt]])
    start, stop = width - length[prompt] + first, torch.full_like(prompt, width)
    if not shares_prefixes(model):
        start = torch.zeros_like(start)
    present = [int((cells.entry <= layer).sum()) for layer in range(model.arch.n_layers + 1)]
    return Rows(prompt, start, stop, stop - 1, [len(base) + n for n in present], len(base))
