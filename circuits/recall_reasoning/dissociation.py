"""Dissociation: one ability lost, the other shown to be intact, and beyond what random sets do.

A single dissociation claims three things of a circuit, and each is tested:

- needed: its own ability loses at least `min_drop` accuracy, by an interval that excludes 0;
- intact: the other ability changes by less than a margin, in accuracy and in logit difference.
  This is an equivalence test; that no change was found would show nothing;
- specific: own minus other loss lies above the 99th percentile of random sets matched
  by layer, and of sets of any heads.

A double dissociation is two of them in opposite directions. One large and one null effect is none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from circuits.recall_reasoning.cells import Ability, Design
from circuits.recall_reasoning.measuring import Losses, pooled
from circuits.recall_reasoning.settings import Settings
from interp.statistics import (
    benjamini_hochberg,
    bootstrap_mean,
    empirical_p,
    equivalence,
    sign_flip_test,
)

PERCENTILE = 99


class Named(Protocol):
    """A circuit as tables name it: of heads, MLPs or neurons (`Circuit`), or of edges."""

    @property
    def name(self) -> str:
        """Unique in a study."""
        ...

    @property
    def ability(self) -> str:
        """What it is claimed to serve."""
        ...

    @property
    def kind(self) -> str:
        """Of what components."""
        ...

    @property
    def rule(self) -> str:
        """How these were ranked."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...


def effects_table(
    circuits: Sequence[Named], measured: Mapping[str, Losses], seed: int
) -> pd.DataFrame:
    """A row a circuit, ablation and cell: what is lost, with 95 % intervals over bridges.

    ``accuracy`` is in right answers, ``effect`` in parts of the cell's total effect; ``p`` is of
    the effect, by flipping signs of whole bridges, and ``p_adjusted`` over the table.
    """
    rows: list[dict[str, Any]] = []
    for ablation, found in measured.items():
        for cell in found.accuracy:
            lost = {k: getattr(found, k)[cell] for k in ("accuracy", "effect")}
            clusters = found.clusters[cell]
            bounds = {k: bootstrap_mean(v, seed, clusters=clusters) for k, v in lost.items()}
            p = sign_flip_test(lost["effect"], seed, 2000, clusters)
            for circuit in circuits:
                at = found.column(circuit.name)
                row = {**_named(circuit), "ablation": ablation, "cell": cell}
                for k, (value, low, high) in bounds.items():
                    row |= {k: value[at], f"{k}_low": low[at], f"{k}_high": high[at]}
                row |= {"p": p[at], "n": len(clusters), "bridges": len(set(clusters))}
                rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=benjamini_hochberg(table["p"].to_numpy()))


def _named(circuit: Named) -> dict[str, Any]:
    return {
        "circuit": circuit.name,
        "ability": circuit.ability,
        "components": circuit.kind,
        "rule": circuit.rule,
        "size": circuit.size,
    }


def singles_table(
    design: Design,
    circuits: Sequence[Named],
    measured: Mapping[str, Losses],
    settings: Settings,
    seed: int,
) -> pd.DataFrame:
    """A row a circuit and ablation: own and other loss, and which parts of the claim hold.

    ``intact`` needs both equivalence tests, at the margins of the settings. Whether it is
    ``specific``, random sets tell: see `control_table`.
    """
    of = {ability.name: ability for ability in design.abilities}
    rows = [
        {
            **_named(circuit),
            "ablation": ablation,
            **_single(of[circuit.ability], found, found.column(circuit.name), settings, seed),
        }
        for ablation, found in measured.items()
        for circuit in circuits
    ]
    return pd.DataFrame(rows)


def _single(
    ability: Ability, found: Losses, at: int, settings: Settings, seed: int
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for side, cells in (("own", ability.own), ("other", ability.others)):
        for key in ("accuracy", "effect"):
            values, clusters = pooled(getattr(found, key), found.clusters, cells)
            margin = settings.accuracy_margin if key == "accuracy" else settings.effect_margin
            value, low, high = bootstrap_mean(values[:, at], seed, clusters=clusters)
            tested = equivalence(values[:, at], margin, seed=seed, clusters=clusters)
            name = f"{side}_{key}"
            row |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
            if side == "other":
                row[f"{key}_intact"] = bool(tested.holds)
    row["needed"] = row["own_accuracy"] >= settings.min_drop and row["own_accuracy_low"] > 0
    row["intact"] = row["accuracy_intact"] and row["effect_intact"]
    row["selectivity"] = row["own_effect"] - row["other_effect"]
    return row


def rating(ability: Ability, tried: Losses, at: int) -> float:
    """What a circuit is chosen by: own accuracy lost, less what moves elsewhere, either way."""
    own = np.mean([tried.accuracy[c][:, at].mean() for c in ability.own])
    moved = [abs(tried.effect[c][:, at].mean()) for c in ability.others]
    wrong = [abs(tried.accuracy[c][:, at].mean()) for c in ability.others]
    return float(own - np.mean(moved) - np.mean(wrong))


def selectivity(ability: Ability, found: Losses, key: str = "effect") -> np.ndarray:
    """Own minus other loss of every set, each cell counting as much."""
    lost = getattr(found, key)
    own, other = (
        np.mean([lost[cell].mean(0) for cell in cells], axis=0)
        for cells in (ability.own, ability.others)
    )
    return own - other


def control_table(
    ability: Ability,
    circuit: Named,
    found: Losses,
    drawn: Mapping[str, Sequence[str]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A circuit against its random sets, all on the same pairs.

    Args:
        ability: whose circuit.
        circuit: the circuit.
        found: losses of the circuit and of every random set.
        drawn: kind of control -> names of its sets.

    Returns:
        A row a kind of control and reading (how many sets, their mean, 99th percentile, p), and
        a row a random set.
    """
    rows: list[dict[str, Any]] = []
    draws: list[pd.DataFrame] = []
    for key in ("effect", "accuracy"):
        values = selectivity(ability, found, key)
        observed = values[found.column(circuit.name)]
        for kind, names in drawn.items():
            null = values[[found.column(name) for name in names]]
            percentile = float(np.percentile(null, PERCENTILE))
            row = {"circuit": circuit.name, "ability": ability.name, "control": kind}
            rows.append(
                row
                | {
                    "reading": key,
                    "selectivity": float(observed),
                    "n_random": len(null),
                    "random": float(null.mean()),
                    "random_99": percentile,
                    "random_max": float(null.max()),
                    "p": float(empirical_p(float(observed), null)),
                    "beyond": bool(observed > percentile),
                }
            )
            draws.append(pd.DataFrame({**row, "reading": key, "selectivity": null}))
    return pd.DataFrame(rows), pd.concat(draws, ignore_index=True)


def doubles_table(
    design: Design, singles: pd.DataFrame, losses: Losses, settings: Settings, seed: int
) -> pd.DataFrame:
    """A row a pair of abilities, for the circuits that were chosen beforehand.

    Args:
        design: its pairs of abilities.
        singles: one row an ability, with ``specific``.
        losses: under the deciding ablation.
        settings: unused margins are in `singles`.
        seed: of the bootstrap.

    Returns:
        ``dd``: the sum of both selectivities, in parts of the total effect, with its interval over
        bridges; ``holds``: both single dissociations do.
    """
    of = {ability.name: ability for ability in design.abilities}
    by = {row["ability"]: row for row in singles.to_dict("records")}
    rows: list[dict[str, Any]] = []
    for first, second in design.doubles:
        if first not in by or second not in by:
            continue
        chosen = [by[name] for name in (first, second)]
        value, low, high = _interaction(
            [(of[r["ability"]], losses.column(r["circuit"])) for r in chosen], losses, seed
        )
        rows.append(
            {
                "first": first,
                "second": second,
                "dd": value,
                "low": low,
                "high": high,
                **{k: all(r[k] for r in chosen) for k in ("needed", "intact", "specific", "holds")},
                "ablation": settings.ablations[0],
            }
        )
    columns = ["first", "second", "dd", "low", "high", "needed", "intact", "specific", "holds"]
    return pd.DataFrame(rows, columns=[*columns, "ablation"])


def _interaction(
    parts: Sequence[tuple[Ability, int]], losses: Losses, seed: int
) -> tuple[float, float, float]:
    """Sum of selectivities with an interval: a cell's pairs enter with the sum of its signs."""
    values: dict[str, np.ndarray] = {}
    for ability, at in parts:
        for sign, cells in ((1, ability.own), (-1, ability.others)):
            for cell in cells:
                part = sign * losses.effect[cell][:, at] / len(cells)
                values[cell] = values.get(cell, np.zeros(len(part))) + part
    cells = list(values)
    rows, clusters = pooled(values, losses.clusters, cells)
    found = bootstrap_mean(rows * len(cells), seed, clusters=clusters)
    return float(found.value), float(found.low), float(found.high)
