"""Circuits of one relation each: is a capital recalled by the heads that a language is?

A circuit that was found on all relations may serve one of them only. So the heads are ranked again
on the pairs of one relation, by the rule and the size that were chosen, and every relation's
circuit is ablated on the test pairs of each.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.cells import Data, Design
from circuits.recall_reasoning.measuring import Losses, losses
from circuits.recall_reasoning.scoring import Circuit, circuits_of, scores_of
from interp.data.pairs import PromptPairs
from interp.model.model import Model
from interp.statistics import bootstrap_mean, jaccard

_LOST = [f"{key}{bound}" for key in ("accuracy", "effect") for bound in ("", "_low", "_high")]
COLUMNS = ["circuit", "ability", "found_on", "jaccard", "cell", "relation", "n", *_LOST]


def relations_table(
    model: Model,
    design: Design,
    data: Data,
    selection: Mapping[str, PromptPairs],
    chosen: Sequence[Circuit],
    ablation: str,
    out: Path,
    most: int,
) -> pd.DataFrame:
    """What each relation's circuit costs on each relation; no row where there are not two.

    Args:
        model: the model.
        design: its abilities.
        data: what the model gets right.
        selection: the pairs that heads were scored on, whose scores lie in `out`.
        chosen: circuits of all relations; those of heads are taken apart.
        ablation: kind.
        out: folder of the parts.
        most: at most so many test pairs a cell.

    Returns:
        A row a circuit (``found_on`` a relation; ``jaccard`` with that of all relations), cell and
        relation tested: accuracy and effect lost with 95 % intervals over bridges.
    """
    names = sorted({data.relation[p.id] for pairs in selection.values() for p in pairs} - {""})
    found: dict[str, tuple[Circuit, str, Circuit]] = {}
    for whole in (c for c in chosen if c.kind == "head" and len(names) > 1):
        ability = next(a for a in design.abilities if a.name == whole.ability)
        for name in names:
            ids = {p.id for ps in selection.values() for p in ps if data.relation[p.id] == name}
            scores = scores_of(model, selection, "head", out, among=ids)
            for part in circuits_of(scores, ability, whole.rule, (len(whole.components),)):
                found[f"{whole.name}@{name}"] = (whole, name, part)
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    sets = {key: part.set for key, (_, _, part) in found.items()}
    measured = losses(model, data, "test", sets, ablation, out / "relations", most)
    rows: list[dict[str, Any]] = []
    for key, (whole, name, part) in found.items():
        shared = jaccard(set(whole.components), set(part.components))
        row = {"circuit": key, "ability": whole.ability, "found_on": name, "jaccard": shared}
        rows += [row | lost for lost in _lost(data, measured, measured.column(key), names, most)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _lost(
    data: Data, measured: Losses, at: int, names: Sequence[str], most: int
) -> list[dict[str, Any]]:
    """A row a cell and relation of the test split."""
    rows: list[dict[str, Any]] = []
    for cell, clusters in measured.clusters.items():
        relation = np.array([data.relation[pair.id] for pair in data.of("test", cell)[:most]])
        for name in names:
            which = np.flatnonzero(relation == name)
            if not len(which):
                continue
            row: dict[str, Any] = {"cell": cell, "relation": name, "n": len(which)}
            bounds = [
                float(bound)
                for lost in (measured.accuracy, measured.effect)
                for bound in bootstrap_mean(
                    lost[cell][which, at], clusters=[clusters[i] for i in which]
                )
            ]
            rows.append(row | dict(zip(_LOST, bounds, strict=True)))
    return rows
