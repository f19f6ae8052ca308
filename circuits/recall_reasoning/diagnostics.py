"""A study's tables of what was asked, found and spent; `dissociation` holds those of effects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from circuits.recall_reasoning.filtering import Filtered, length_auc
from circuits.recall_reasoning.measuring import Losses
from circuits.recall_reasoning.scoring import Circuit, attributed_heads
from interp.data.pairs import PromptPairs, tokenise
from interp.model.model import Model
from interp.statistics import spearman


def cells_table(model: Model, asked: Filtered) -> pd.DataFrame:
    """Counts, and how well prompt length alone tells each cell from the first one."""
    data = asked.data
    rows: list[dict[str, Any]] = []
    for row in asked.counts.to_dict("records"):
        first, own = (
            tokenise(model, data.of(row["split"], cell))[0] for cell in (data.cells[0], row["cell"])
        )
        rows.append({**row, "length_auc": length_auc(first, own)})
    return pd.DataFrame(rows)


def circuits_table(circuits: Sequence[Circuit], chosen: set[str]) -> pd.DataFrame:
    """A row a component of every circuit, best first, and whether its circuit was chosen."""
    rows = [
        {
            "circuit": c.name,
            "ability": c.ability,
            "components": c.kind,
            "rule": c.rule,
            "rank": rank,
            "component": str(component),
            "score": score,
            "chosen": c.name in chosen,
        }
        for c in circuits
        for rank, (component, score) in enumerate(zip(c.components, c.scores, strict=True))
    ]
    return pd.DataFrame(rows)


def neutral_table(circuits: Sequence[Circuit], found: Losses, ablation: str) -> pd.DataFrame:
    """The factor by which each circuit's ablation raises the perplexity of neutral text."""
    if found.nll is None:
        return pd.DataFrame(columns=["circuit", "ability", "ablation", "factor"])
    factors = np.exp(found.nll.mean(0))
    rows = [
        {
            "circuit": c.name,
            "ability": c.ability,
            "ablation": ablation,
            "factor": float(factors[found.column(c.name)]),
        }
        for c in circuits
    ]
    return pd.DataFrame(rows)


def attribution_table(
    model: Model, selection: Mapping[str, PromptPairs], exact: xr.DataArray, out: Path
) -> pd.DataFrame:
    """Rank correlation of attributed with exact head scores, by cell."""
    rows: list[dict[str, Any]] = []
    for cell, pairs in selection.items():
        found = attributed_heads(model, pairs, out / f"attributed-{cell}")
        value, low, high = spearman(exact.sel(cell=cell).values.ravel(), found.values.ravel())
        rows.append({"cell": cell, "spearman": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def cost_table(
    model: Model, selection: Mapping[str, PromptPairs], runs: Sequence[Losses]
) -> pd.DataFrame:
    """What one forward pass a cell or set would have taken."""
    n = sum(len(pairs) for pairs in selection.values())
    sweeps = n * (model.arch.n_layers * (model.arch.n_heads + 1))
    ablated = sum(one.runs for one in runs)
    return pd.DataFrame(
        [{"forwards_patching": sweeps, "forwards_ablation": ablated, "all": sweeps + ablated}]
    )
