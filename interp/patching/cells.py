"""Run a sweep: its cells laid out as rows of packed batches, and the metric read of each row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.answers import AnswerTree
from interp.data.pairs import TokenPair
from interp.data.token_batch import batch
from interp.forward.alias_runs import by_alias
from interp.forward.budget import default_budget, halved
from interp.forward.continuations import record_batch, unread
from interp.forward.packed import Pack, Rows, Write, final_resid_of_rows
from interp.forward.readout import measure
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.sweep import Sweep

Live = list[list[tuple[tuple[int, int], ...]]]
"""For each pair and place the (position, source position) of the tokens it patches."""


@brief
@dataclass(frozen=True)
class SweepArrays:
    """What a sweep measured: values of cells, NaN where a pair has no partners; baselines."""

    values: Float[np.ndarray, "pair layer place unit"]
    clean: Float[np.ndarray, " pair"]
    corrupt: Float[np.ndarray, " pair"]


@brief
@dataclass(frozen=True)
class Cells:
    """Cells as columns of indices, ordered by the layer in which their row joins the batch.

    `entry` and `start` are the first layer and position patched, of the prompt that is run; the
    others say where in the values array each cell belongs.
    """

    pair: np.ndarray
    layer: np.ndarray
    place: np.ndarray
    unit: np.ndarray
    entry: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, sweep: Sweep, live: Live) -> "Cells":
        """Every cell that patches some live position; the others hold the unpatched value."""
        start = np.array([[ps[0][0] if ps else -1 for ps in by_place] for by_place in live])
        axes = (sweep.n_layer_cells, *start.shape, len(sweep.unit_labels))
        layer, pair, place, unit = (axis.ravel() for axis in np.indices(axes))
        entry = np.array(sweep.layers if "layer" in sweep.over else [min(sweep.layers)])[layer]
        cells = cls(pair, layer, place, unit, entry, start[pair, place])
        order = np.argsort(cells.entry, kind="stable")
        return cells[order][cells.start[order] >= 0]

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, rows: slice | np.ndarray) -> "Cells":
        return Cells(*(getattr(self, column.name)[rows] for column in fields(self)))


def run_sweep(
    model: Model,
    sweep: Sweep,
    pairs: Sequence[TokenPair],
    places: Sequence[Any],
    tokens_at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SweepArrays:
    """Measure every cell of every pair, splitting the batch where memory asks for it.

    Models that cannot read several answers in one row run once per alias.
    """
    if unread(model, pairs, sweep.metric.n_answers):

        def run(alone: list[TokenPair], metric: Metric) -> list[np.ndarray]:
            own = replace(sweep, metric=metric)
            arrays = run_sweep(model, own, alone, places, tokens_at_once)
            return [arrays.values, arrays.clean, arrays.corrupt]

        return SweepArrays(*by_alias(sweep.metric, pairs, run))
    n = len(pairs)
    out = SweepArrays(np.full(sweep.shape(n, places), np.nan), np.zeros(n), np.zeros(n))
    budget = tokens_at_once or default_budget(model)
    by_length = sorted(range(n), key=lambda i: _longest(pairs[i]))
    done = 0
    while done < n:
        group = _fitting(sweep, pairs, places, by_length[done:], budget)
        try:
            part = _Group(model, sweep, [pairs[i] for i in group], places).run(budget)
        except torch.OutOfMemoryError as error:
            budget = halved(budget, model, _longest(pairs[group[-1]]), error)
            continue
        out.values[group], out.clean[group], out.corrupt[group] = part
        done += len(group)
        if progress:
            progress(done, n)
    return out


def _longest(pair: TokenPair) -> int:
    return max(len(pair.clean), len(pair.corrupt))


def _fitting(
    sweep: Sweep,
    pairs: Sequence[TokenPair],
    places: Sequence[Any],
    waiting: Sequence[int],
    budget: int,
) -> list[int]:
    """As many of the waiting pairs as fill the budget with all their cells; at least one."""
    group, tokens = [], 0
    cells = sweep.n_layer_cells * len(sweep.unit_labels)
    for i in waiting:
        lengths = len(pairs[i].clean), len(pairs[i].corrupt)
        behind = len(AnswerTree.of(pairs[i].answers[: sweep.metric.n_answers]).tokens)
        live = sweep.live([pairs[i]], places)[0]
        held = [lengths[sweep.base] + behind - ps[0][0] for ps in live if ps]
        tokens += sum(lengths) + 2 * behind + cells * sum(held)
        if group and tokens > budget:
            break
        group.append(i)
    return group


class _Group:
    """Pairs that are run in the same batches, whose prompts alternate: clean, corrupt."""

    def __init__(
        self, model: Model, sweep: Sweep, pairs: Sequence[TokenPair], places: Sequence[Any]
    ):
        self.model, self.sweep, self.pairs, self.places = model, sweep, pairs, places
        self.tokens = batch(model, pairs, sweep.metric.n_answers)
        self.calls = record_batch(model, self.tokens)
        self.live = sweep.live(pairs, places)

    def run(self, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(values, clean, corrupt); cells beyond the budget go into further batches."""
        sweep, cells = self.sweep, Cells.of(self.sweep, self.live)
        prompts, patched = np.zeros(len(self.tokens.left)), []
        for part in self._slices(cells, budget):
            prompts, values = self._measured(cells[part])
            patched.append(values)
        # a cell that changes nothing has the value of the run it would be patched into
        present = [[bool(pair.matched(place)) for place in self.places] for pair in self.pairs]
        by_place = np.where(np.array(present), prompts[sweep.base :: 2, None], np.nan)
        shape = sweep.shape(len(self.pairs), self.places)
        out = np.broadcast_to(by_place[:, None, :, None], shape).copy()
        out[cells.pair, cells.layer, cells.place, cells.unit] = np.concatenate(patched)
        return out, prompts[0::2], prompts[1::2]

    def _slices(self, cells: Cells, budget: int) -> Iterator[slice]:
        """Consecutive cells, each slice within the budget beside the base rows; at least one."""
        length = self.tokens.mask.sum(-1).cpu().numpy()
        ends = (length[2 * cells.pair + self.sweep.base] - cells.start).cumsum()
        room = max(1, budget - int(length.sum()))
        lo = 0
        while lo == 0 or lo < len(cells):
            before = ends[lo - 1] if lo else 0
            hi = max(lo + 1, int(np.searchsorted(ends, before + room, side="right")))
            yield slice(lo, hi)
            lo = hi

    def _measured(
        self, cells: Cells
    ) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " cell"]]:
        """The metric of every prompt unpatched, and of every cell."""
        model, tokens, columns = self.model, self.tokens, (cells.pair, cells.start, cells.entry)
        of_pair, start, entry = map(torch.from_numpy, columns)
        joins = entry + (self.sweep.site.name == "resid_post")
        base = 2 * of_pair + self.sweep.base
        rows = Rows.beside(model, tokens.mask, base, start, joins, tokens.columns)
        writes = self._writes(cells, Pack(rows, tokens.ids.shape[1]))
        with torch.no_grad():
            resid = final_resid_of_rows(model, self.calls, rows, writes)
            clean = resid[(rows.prompt // 2 * 2).to(resid.device), 0]
            values = measure(model, self.sweep.metric, resid, tokens.answers[rows.prompt], clean)
        values = values.double().numpy()
        return values[: rows.n_base], values[rows.n_base :]

    def _writes(self, cells: Cells, pack: Pack) -> list[Write]:
        """Copy the other prompt's activations into each cell's row, layer by layer."""
        sweep = self.sweep
        positions = [self.live[i][j] for i, j in zip(cells.pair, cells.place, strict=True)]
        cell = np.repeat(np.arange(len(cells)), [len(ps) for ps in positions])
        base = torch.from_numpy(2 * cells.pair[cell] + sweep.base)
        other = torch.from_numpy(2 * cells.pair[cell] + 1 - sweep.base)
        both = torch.tensor([p for ps in positions for p in ps], dtype=torch.long).view(-1, 2)
        at = both[:, 0] + self.tokens.left[base], both[:, 1] + self.tokens.left[other]
        into = pack.token(torch.from_numpy(cell) + pack.rows.n_base, at[0])
        source = pack.token(other, at[1])
        features = _features(sweep, cells.unit[cell])
        writes = []
        for layer in sweep.layers:
            here = cells.entry[cell] == layer if "layer" in sweep.over else np.full(len(cell), True)
            chosen = torch.from_numpy(np.flatnonzero(here))
            if len(chosen):
                of_unit = None if features is None else features[chosen]
                writes.append(Write(sweep.site, layer, into[chosen], source[chosen], of_unit))
        return writes


def _features(sweep: Sweep, unit: np.ndarray) -> Int[Tensor, "n width"] | None:
    """Features of each unit; short groups repeat their last, which copies it twice."""
    if sweep.units is None:
        return None
    width = max(map(len, sweep.units))
    table = [list(features) + [features[-1]] * (width - len(features)) for features in sweep.units]
    return torch.tensor(table)[torch.from_numpy(unit)]
