"""Edges and probes of `circuits.recall_reasoning` on a language model, beside its study.

    python -m benchmarks.recall_parts edges --model gemma-3-270m --out runs/recall/gemma-edges
    python -m benchmarks.recall_parts probes --model gemma-3-270m --out runs/recall/gemma-probes

Each writes its tables as CSV and prints them. Pairs are those of the study with this seed.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from circuits.recall_reasoning.edges import edges_table
from circuits.recall_reasoning.facts import load_facts
from circuits.recall_reasoning.filtering import filtered

import interp
from circuits.recall_reasoning import Data, Settings, build
from circuits.recall_reasoning.cells import design_named
from circuits.recall_reasoning.probes import (
    back_patching,
    bridge_readout,
    knock_out,
    memory_heads,
    readout_table,
)
from circuits.recall_reasoning.settings import load_recipe
from interp.model.model import Model
from interp.statistics import wilson

DATASETS = Path(__file__).resolve().parent.parent / "datasets"
RECIPES = Path(__file__).resolve().parent.parent / "circuits/recall_reasoning/recipes"
RAW = argparse.RawDescriptionHelpFormatter
Tables = dict[str, pd.DataFrame]


def edges(model: Model, settings: Settings, seed: int) -> Tables:
    """Edges of either ability cut, each beside random circuits."""
    design = design_named(settings.design)
    singles, control = edges_table(model, kept(model, settings, seed), design, settings, seed=seed)
    return {"singles": singles, "control": control}


def kept(model: Model, settings: Settings, seed: int) -> Data:
    """The pairs of the study that the model gets right."""
    design = design_named(settings.design)
    drawn = build(model, design, DATASETS, settings.n_drawn, seed)
    return filtered(model, drawn, max(settings.n_select, settings.n_validate, settings.n_test)).data


def probes(model: Model, settings: Settings, seed: int) -> Tables:
    """Bridge read-out, knock-out, back-patching, memory heads; the sets are small."""
    data = kept(model, settings, seed)
    tables: Tables = {}
    for cell in data.cells:
        pairs = data.of("test", cell)[:30]
        clusters = data.clusters(pairs)
        tables[f"knock_out_{cell}"] = knock_out(model, pairs, window=3, clusters=clusters)
    two_hops = build(model, design_named("2x2"), DATASETS, 60, seed)
    pairs = two_hops.of("test", "B")[:60]
    clusters = two_hops.clusters(pairs)
    read = bridge_readout(model, pairs, two_hops.bridge)
    by_id = dict(zip([pair.id for pair in pairs], clusters, strict=True))
    tables["bridge"] = readout_table(read, [by_id[name] for name in read["pair"].values])
    layers = range(0, model.arch.n_layers, max(1, model.arch.n_layers // 6))
    tables["back_patching"] = mended(back_patching(model, pairs[:30], layers, layers))
    if "C-conflict" in data.cells:
        conflict = data.of("test", "C-conflict")[:40]
        known = {fact.country: fact.answers for fact in load_facts(DATASETS / "recall_facts.jsonl")}
        stored = {p.id: known[data.bridge[p.id]][data.relation[p.id]] for p in conflict}
        tables["memory_heads"] = memory_heads(model, conflict, stored)
    return tables


def mended(right: xr.DataArray) -> pd.DataFrame:
    """How many answers that were wrong are right after back-patching, by source and target."""
    wrong = ~right["unpatched"].values
    rows: list[dict[str, Any]] = []
    for source in right["source"].values:
        for target in right["target"].values:
            values = right.sel(source=source, target=target).values[wrong]
            if target < source and len(values):
                share = wilson(int(values.sum()), len(values))
                row = {"source": int(source), "target": int(target), "mended": share.value}
                rows.append(row | {"low": share.low, "high": share.high, "n": len(values)})
    return pd.DataFrame(rows)


PARTS: dict[str, Callable[[Model, Settings, int], Tables]] = {"edges": edges, "probes": probes}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part and keep its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", required=True, help="one that has a recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    _, settings = load_recipe(RECIPES / f"{asked.model}.json")
    model = interp.load_model(asked.model, device="cpu", dtype="float32")
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, table in PARTS[asked.part](model, settings, asked.seed).items():
        table.to_csv(asked.out / f"{name}.csv", index=False)
        print(f"{name}\n{table.to_string(index=False, float_format='%.3f')}\n")


if __name__ == "__main__":
    main()
