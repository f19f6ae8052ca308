"""Dissociation: one ability lost, the other shown to be intact, and beyond what random sets do.

A single dissociation claims three things of a circuit, and each is tested:

- needed: its own ability loses at least `min_drop` accuracy, by an interval that excludes 0;
- intact: the other ability changes by less than a margin, in accuracy and in logit difference.
  This is an equivalence test; that no change was found would show nothing;
- specific: own minus other loss lies above the 99th percentile of random sets matched by layer, of
  sets from nearby layers where a layer has few units, and of sets of any units.

A double dissociation needs two of them in opposite directions; one is not enough.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.designs import Ability, Design
from circuits.recall_reasoning.losses import Losses, pooled
from circuits.recall_reasoning.scores import AbilityCircuit
from circuits.recall_reasoning.settings import StudySettings
from interp.statistics import (
    benjamini_hochberg,
    bootstrap_mean,
    empirical_p,
    equivalence,
    sign_flip_test,
)

PERCENTILE = 99
DECIDING = ("layer", "near", "anywhere")
"""Kinds of random sets that a circuit must exceed."""
CLAIMS = ("needed", "intact", "specific")


def effects_table(
    circuits: Sequence[AbilityCircuit], measured: Mapping[str, Losses], seed: int
) -> pd.DataFrame:
    """A row per circuit, ablation and cell: what is lost, with 95 % intervals over bridges.

    ``accuracy`` is in right answers, ``effect`` in fractions of the cell's total effect; ``p`` is
    of the effect, by flipping signs of whole bridges, and ``p_adjusted`` over the table.
    """
    rows: list[dict[str, Any]] = []
    for ablation, found in measured.items():
        for cell, clusters in found.clusters.items():
            bounds = {
                name: bootstrap_mean(lost[cell], seed, clusters=clusters)
                for name, lost in found.readings().items()
            }
            p = sign_flip_test(found.effect[cell], seed, 2000, clusters)
            for circuit in circuits:
                at = found.column(circuit.name)
                row = {**circuit.labels, "ablation": ablation, "cell": cell}
                for name, (value, low, high) in bounds.items():
                    row |= {name: value[at], f"{name}_low": low[at], f"{name}_high": high[at]}
                row |= {"p": p[at], "n": len(clusters), "bridges": len(set(clusters))}
                rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=benjamini_hochberg(table["p"].to_numpy()))


def singles_table(
    circuits: Sequence[AbilityCircuit],
    measured: Mapping[str, Losses],
    settings: StudySettings,
    seed: int,
) -> pd.DataFrame:
    """A row per circuit and ablation: own and other loss, and whether it is needed and intact."""
    rows: list[dict[str, Any]] = []
    for ablation, found in measured.items():
        for circuit in circuits:
            row = {**circuit.labels, "ablation": ablation}
            rows.append(row | _single(circuit, found, settings, seed))
    return pd.DataFrame(rows)


def _single(
    circuit: AbilityCircuit, found: Losses, settings: StudySettings, seed: int
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    ability, at = circuit.ability, found.column(circuit.name)
    margins = {"accuracy": settings.accuracy_margin, "effect": settings.effect_margin}
    for side, cells in (("own", ability.own), ("other", ability.others)):
        for reading, lost in found.readings().items():
            rows, clusters = pooled(lost, found.clusters, cells)
            mean = bootstrap_mean(rows[:, at], seed, clusters=clusters)
            row |= mean.columns(f"{side}_{reading}")
            if side == "other":
                tested = equivalence(rows[:, at], margins[reading], seed=seed, clusters=clusters)
                row[f"{reading}_intact"] = bool(tested.holds)
    row["needed"] = row["own_accuracy"] >= settings.min_drop and row["own_accuracy_low"] > 0
    row["intact"] = row["accuracy_intact"] and row["effect_intact"]
    row["selectivity"] = row["own_effect"] - row["other_effect"]
    return row


def rating(circuit: AbilityCircuit, tried: Losses) -> float:
    """What a circuit is chosen by: own accuracy lost, less what moves elsewhere, either way."""
    ability, at = circuit.ability, tried.column(circuit.name)
    own = np.mean([tried.accuracy[c][:, at].mean() for c in ability.own])
    moved = [abs(tried.effect[c][:, at].mean()) for c in ability.others]
    wrong = [abs(tried.accuracy[c][:, at].mean()) for c in ability.others]
    return float(own - np.mean(moved) - np.mean(wrong))


def control_tables(
    circuit: AbilityCircuit, found: Losses, drawn: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A circuit against its random sets, all on the same pairs.

    `found` has the losses of the circuit and of every random set, `drawn` the names of the sets by
    kind. The tables have a row per kind and reading (how many sets, their mean, 99th percentile,
    p), and a row per random set.
    """
    rows: list[dict[str, Any]] = []
    draws: list[pd.DataFrame] = []
    for reading in ("effect", "accuracy"):
        values = found.selectivity(circuit.ability, reading)
        observed = float(values[found.column(circuit.name)])
        for kind, names in drawn.items():
            null = values[[found.column(name) for name in names]]
            percentile = float(np.percentile(null, PERCENTILE))
            row = {"circuit": circuit.name, "ability": circuit.ability.name, "control": kind}
            row["reading"] = reading
            draws.append(pd.DataFrame({**row, "selectivity": null}))
            rows.append(
                row
                | {
                    "selectivity": observed,
                    "n_random": len(null),
                    "random": float(null.mean()),
                    "random_99": percentile,
                    "random_max": float(null.max()),
                    "p": float(empirical_p(observed, null)),
                    "beyond": observed > percentile,
                }
            )
    return pd.DataFrame(rows), pd.concat(draws, ignore_index=True)


def judged(singles: pd.DataFrame, chosen: Sequence[str], control: pd.DataFrame) -> pd.DataFrame:
    """The single dissociations with ``chosen``, ``specific`` and ``holds``.

    A layer may hold only few other sets, so a circuit must exceed sets from nearby layers and of
    any units, too; sets of any units alone do not control for depth.
    """
    beyond: dict[str, bool] = {}
    if len(control):
        deciding = control["control"].isin(DECIDING) & (control["reading"] == "effect")
        by = control[deciding].groupby("circuit")
        beyond = {str(name): len(part) > 1 and bool(part["beyond"].all()) for name, part in by}
    table = singles.assign(
        chosen=singles["circuit"].isin(chosen),
        specific=[beyond.get(name, False) for name in singles["circuit"]],
    )
    return table.assign(holds=table["needed"] & table["intact"] & table["specific"])


def doubles_table(
    design: Design, singles: pd.DataFrame, found: Losses, ablation: str, seed: int
) -> pd.DataFrame:
    """A row per pair of abilities, for the circuits that were chosen beforehand.

    `singles` has one row per ability, as `judged`, under the deciding ablation. ``dd`` is the sum
    of both selectivities, in fractions of the total effect, with its interval over bridges;
    ``holds``: both single dissociations do.
    """
    by = {row["ability"]: row for row in singles.to_dict("records")}
    rows: list[dict[str, Any]] = []
    for first, second in design.doubles:
        if first in by and second in by:
            chosen = [by[name] for name in (first, second)]
            parts = [(design.ability(r["ability"]), found.column(r["circuit"])) for r in chosen]
            value, low, high = _interaction(parts, found, seed)
            row = {"first": first, "second": second, "dd": value, "low": low, "high": high}
            rows.append(row | {k: all(r[k] for r in chosen) for k in (*CLAIMS, "holds")})
    columns = ["first", "second", "dd", "low", "high", *CLAIMS, "holds"]
    return pd.DataFrame(rows, columns=columns).assign(ablation=ablation)


def _interaction(
    parts: Sequence[tuple[Ability, int]], found: Losses, seed: int
) -> tuple[float, float, float]:
    """Sum of selectivities with an interval: a cell's pairs enter with the sum of its signs."""
    values: dict[str, np.ndarray] = {}
    for ability, at in parts:
        for sign, cells in ((1, ability.own), (-1, ability.others)):
            for cell in cells:
                part = sign * found.effect[cell][:, at] / len(cells)
                values[cell] = values.get(cell, np.zeros(len(part))) + part
    rows, clusters = pooled(values, found.clusters, list(values))
    value, low, high = bootstrap_mean(rows * len(values), seed, clusters=clusters)
    return float(value), float(low), float(high)
