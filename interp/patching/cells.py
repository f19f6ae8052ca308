"""Run a sweep: group pairs, lay cells out as rows of one walk, read the metric of each row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.pairs import TokenBatch, TokenPair, batch
from interp.forward.budget import default_budget, halved
from interp.forward.layer_calls import LayerCalls, record_layer_calls
from interp.forward.packed import Pack, Rows, Write, shares_prefixes, walk
from interp.forward.readout import measure
from interp.model.model import Model
from interp.patching.sweep import Cells, Sweep, cells_of, live_positions


@brief
@dataclass(frozen=True)
class SweepArrays:
    """What a sweep measured.

    Attributes:
        values: by pair, layer, place and unit; NaN where a pair lacks the position.
        clean: each clean prompt, unpatched.
        corrupt: each corrupt prompt, unpatched.
    """

    values: Float[np.ndarray, "pair layer place unit"]
    clean: Float[np.ndarray, " pair"]
    corrupt: Float[np.ndarray, " pair"]


def run_sweep(
    model: Model,
    sweep: Sweep,
    pairs: Sequence[TokenPair],
    places: Sequence[Any],
    tokens_at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SweepArrays:
    """Measure every cell of every pair, splitting the batch where memory asks for it.

    Args:
        model: the model.
        sweep: what to patch.
        pairs: the prompts.
        places: coordinates of the position axis (`Sweep.places`).
        tokens_at_once: most tokens in a batch; by default what `default_budget` says.
        progress: called with (pairs done, pairs in all).

    Raises:
        OutOfMemory: two prompts alone do not fit.
    """
    shape = (len(pairs), sweep.n_layer_cells, len(places), len(sweep.unit_labels))
    out = SweepArrays(np.full(shape, np.nan), np.zeros(len(pairs)), np.zeros(len(pairs)))
    budget = tokens_at_once or default_budget(model)
    by_length = sorted(range(len(pairs)), key=lambda i: len(pairs[i].clean))
    done = 0
    while done < len(pairs):
        group = _fitting(sweep, pairs, places, by_length[done:], budget)
        try:
            part = _run_group(model, sweep, [pairs[i] for i in group], places, budget)
        except torch.OutOfMemoryError as error:
            budget = halved(budget, model, len(pairs[group[-1]].clean), error)
            continue
        out.values[group], out.clean[group], out.corrupt[group] = part
        done += len(group)
        if progress:
            progress(done, len(pairs))
    return out


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
        length = len(pairs[i].clean)
        held = [length - ps[0] for ps in live_positions(sweep, [pairs[i]], places)[0] if ps]
        tokens += 2 * length + cells * sum(held)
        if group and tokens > budget:
            break
        group.append(i)
    return group


def _run_group(
    model: Model, sweep: Sweep, pairs: Sequence[TokenPair], places: Sequence[Any], budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, clean, corrupt) of a group; cells beyond the budget go into further walks."""
    tokens = batch(model, pairs)
    calls = record_layer_calls(model, tokens.ids, tokens.mask)
    live = live_positions(sweep, pairs, places)
    cells = cells_of(sweep, live)
    prompts, patched = np.zeros(len(tokens.left)), []
    for part in _slices(cells, tokens, budget):
        prompts, values = _walk_cells(model, sweep, tokens, live, calls, cells[part])
        patched.append(values)
    clean, corrupt = prompts[0::2], prompts[1::2]
    out = _unpatched(sweep, pairs, places, corrupt if sweep.direction == "denoise" else clean)
    out[cells.pair, cells.layer, cells.place, cells.unit] = np.concatenate(patched)
    return out, clean, corrupt


def _unpatched(
    sweep: Sweep, pairs: Sequence[TokenPair], places: Sequence[Any], base: np.ndarray
) -> Float[np.ndarray, "pair layer place unit"]:
    """The value of cells that change nothing: the base run's, NaN beyond a prompt's end."""
    present = [[bool(sweep.positions(pair, place)) for place in places] for pair in pairs]
    by_place = np.where(np.array(present), base[:, None], np.nan)[:, None, :, None]
    shape = (len(pairs), sweep.n_layer_cells, len(places), len(sweep.unit_labels))
    return np.broadcast_to(by_place, shape).copy()


def _slices(cells: Cells, tokens: TokenBatch, budget: int) -> Iterator[slice]:
    """Consecutive cells, each slice within the budget beside the base rows; at least one."""
    length = tokens.mask.sum(-1).cpu().numpy()
    ends = (length[2 * cells.pair] - cells.start).cumsum()
    room = max(1, budget - int(length.sum()))
    lo = 0
    while lo == 0 or lo < len(cells):
        before = ends[lo - 1] if lo else 0
        hi = max(lo + 1, int(np.searchsorted(ends, before + room, side="right")))
        yield slice(lo, hi)
        lo = hi


def _walk_cells(
    model: Model,
    sweep: Sweep,
    tokens: TokenBatch,
    live: list[list[tuple[int, ...]]],
    calls: LayerCalls,
    cells: Cells,
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " cell"]]:
    """One walk: the metric of every prompt unpatched, and of every cell."""
    rows = _rows(model, sweep, tokens, cells)
    writes = _writes(sweep, tokens, live, cells, Pack(rows, tokens.ids.shape[1]))
    pair = rows.prompt // 2
    with torch.no_grad():
        resid = walk(model, calls, rows, writes)
        clean = resid[(2 * pair).to(resid.device)]
        values = measure(model, sweep.metric, resid, tokens.answers[pair], clean).double().numpy()
    return values[: rows.n_base], values[rows.n_base :]


def _rows(model: Model, sweep: Sweep, tokens: TokenBatch, cells: Cells) -> Rows:
    """The prompts themselves, then one row a cell, continuing the prompt it is patched into."""
    length = tokens.mask.sum(-1).cpu()
    base = torch.arange(len(length))
    prompt = torch.cat([base, torch.from_numpy(2 * cells.pair + _base_of(sweep))])
    start = tokens.left[prompt] + torch.cat([0 * base, torch.from_numpy(cells.start)])
    stop = tokens.left[prompt] + length[prompt]
    read = stop - 1
    if not shares_prefixes(model):
        start, stop = torch.zeros_like(start), torch.full_like(stop, tokens.ids.shape[1])
    joins = cells.entry + (sweep.site.name == "resid_post")
    present = [int((joins <= layer).sum()) for layer in range(model.arch.n_layers + 1)]
    return Rows(prompt, start, stop, read, [len(base) + n for n in present], len(base))


def _base_of(sweep: Sweep) -> int:
    """Which prompt of a pair is patched: 0 the clean one, 1 the corrupt one."""
    return 1 if sweep.direction == "denoise" else 0


def _writes(
    sweep: Sweep,
    tokens: TokenBatch,
    live: list[list[tuple[int, ...]]],
    cells: Cells,
    pack: Pack,
) -> list[Write]:
    """Copy the other prompt's activations into each cell's row, layer by layer."""
    positions = [live[i][j] for i, j in zip(cells.pair, cells.place, strict=True)]
    cell = np.repeat(np.arange(len(cells)), [len(ps) for ps in positions])
    other = torch.from_numpy(2 * cells.pair[cell] + 1 - _base_of(sweep))
    pos = torch.tensor([p for ps in positions for p in ps], dtype=torch.long) + tokens.left[other]
    into = pack.token(torch.from_numpy(cell) + pack.rows.n_base, pos)
    source = pack.token(other, pos)
    features = _features(sweep, cells.unit[cell])
    by_layer = "layer" in sweep.over
    writes = []
    for layer in sweep.layers:
        here = cells.entry[cell] == layer if by_layer else np.full(len(cell), True)
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
