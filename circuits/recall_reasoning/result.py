"""`RecallReasoning`: a study's tables and scores, its verdict and its page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from circuits.recall_reasoning import figures
from circuits.recall_reasoning.designs import CELLS, DESIGNS, Ability, Design
from circuits.recall_reasoning.dissociation import CLAIMS
from circuits.recall_reasoning.scores import RULES
from circuits.recall_reasoning.settings import StudySettings
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result
from interp.statistics import jaccard

READINGS = [f"{side}_{reading}" for side in ("own", "other") for reading in ("accuracy", "effect")]
HEADINGS = {name: f"{name.replace('_', ' ')} lost [95 % interval]" for name in READINGS}
BOUNDED = [f"{name}{bound}" for name in READINGS for bound in ("", "_low", "_high")]


@dataclass(frozen=True)
class RecallReasoning(Result):
    """What a study measured.

    Attributes:
        tables: by name, each with a column ``seed``: ``cells`` (drawn, right and kept pairs),
            ``circuits`` (a row per component), ``effects`` (what each cell loses), ``singles`` and
            ``doubles`` (dissociations), ``control`` and ``draws`` (random sets), ``backup``,
            ``neutral`` (perplexity), ``firing`` (of neurons), ``relations`` (circuits of one
            relation each), and ``dropped`` (pairs that were left out, with reasons).
        scores: kind of component -> scores with dims (seed, cell, layer, unit), as fractions of
            each cell's total effect.
        seconds: wall time, of the last call where a study was resumed.
    """

    KIND: ClassVar[str] = "recall_reasoning"
    tables: dict[str, pd.DataFrame] = field(repr=False)
    scores: dict[str, xr.DataArray] = field(repr=False)
    settings: StudySettings
    model: str
    seconds: float

    @property
    def design(self) -> Design:
        """What was contrasted."""
        return DESIGNS[self.settings.design]

    @property
    def deciding(self) -> pd.DataFrame:
        """The single dissociations under the ablation that decides, of every circuit."""
        table: Any = self.tables["singles"]
        return table[table["ablation"] == self.settings.ablations[0]]

    @property
    def chosen(self) -> pd.DataFrame:
        """The single dissociations that were decided beforehand: one per seed and ability."""
        table: Any = self.deciding
        return table[table["chosen"]]

    @property
    def verdict(self) -> list[str]:
        """What holds in how many seeds, in sentences: double dissociations, then each ability."""
        doubles: Any = self.tables["doubles"]
        chosen, seeds = self.chosen, len(self.settings.seeds)
        pairs = [
            _double(a, b, doubles[(doubles["first"] == a) & (doubles["second"] == b)], seeds)
            for a, b in self.design.doubles
        ]
        abilities = self.design.abilities
        return pairs + [_single(one, chosen[chosen["ability"] == one.name]) for one in abilities]

    def overlap(self) -> pd.DataFrame:
        """How far the circuits of different split seeds agree: mean Jaccard index over pairs."""
        rows: list[dict[str, Any]] = []
        for name, part in self.tables["circuits"].groupby("circuit", sort=False):
            by_seed = [set(one["component"]) for _, one in part.groupby("seed")]
            pairs = [jaccard(a, b) for a, b in combinations(by_seed, 2)]
            mean = float(np.mean(pairs)) if pairs else float("nan")
            rows.append({"circuit": name, "seeds": len(by_seed), "jaccard": mean})
        return pd.DataFrame(rows, columns=["circuit", "seeds", "jaccard"])

    def plot(self) -> go.Figure:
        """Own against other loss of every circuit."""
        settings = self.settings
        note = f"{settings.ablations[0]} ablation, test split, split seeds "
        note += f"{', '.join(map(str, settings.seeds))}; bars: 95 % over bridge entities"
        title, margin = f"Dissociation on {self.model}", settings.effect_margin
        abilities = self.design.abilities
        return figures.plot_dissociation(self.deciding, abilities, margin, title, note)

    def plot_scores(self, rule: str = "difference") -> go.Figure:
        """A map of layer x head for each ability: its heads' scores by a rule, mean over seeds."""
        title = f"Where heads matter to one ability more than to the other, {self.model}"
        maps = {
            f"{a.name}: {'+'.join(a.own)} − {'+'.join(a.others)}": self.head_scores(a, rule)
            for a in self.design.abilities
        }
        return figures.plot_scores(maps, title)

    def head_scores(self, ability: Ability, rule: str = "difference") -> np.ndarray:
        """Scores [layer, head] of an ability by a rule, mean over seeds."""
        scores = self.scores["head"].mean("seed")
        own, other = (scores.sel(cell=list(side)).mean("cell").values for side in ability.sides)
        return RULES[rule](own, other)

    def plot_control(self) -> go.Figure:
        """Selectivity of each chosen circuit and of its random sets of the same depth."""
        return figures.plot_control(self._of_depth("draws"), self._of_depth("control"))

    def _of_depth(self, name: str) -> Any:
        table: Any = self.tables[name]
        return table[(table["reading"] == "effect") & table["control"].isin(["layer", "near"])]

    def _of_chosen(self, name: str) -> Any:
        table: Any = self.tables[name]
        return table[table["circuit"].isin(self.chosen["circuit"])]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        circuits: Any = self.tables["circuits"]
        by_circuit = circuits[circuits["chosen"]].groupby(["seed", "circuit"])["component"]
        frames = {
            "cells": self.tables["cells"],
            "single_dissociations": self.chosen,
            "double_dissociation": self.tables["doubles"],
            "random_control": self.tables["control"],
            "neutral_perplexity": self._of_chosen("neutral"),
            "backup": self._of_chosen("backup"),
            "relations": self.tables["relations"],
            "overlap": self.overlap(),
        }
        return {
            "model": self.model,
            "design": self.settings.design,
            "settings": self.settings.record(),
            "circuits": [
                {"seed": seed, "circuit": name, "components": list(components)}
                for (seed, name), components in by_circuit
            ],
            **{name: frame.to_dict("records") for name, frame in frames.items()},
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
        }

    def __repr__(self) -> str:
        cells, seeds = ", ".join(self.design.cells), len(self.settings.seeds)
        return (
            f"RecallReasoning({self.model}, {self.settings.design}: {cells}; {seeds} split seeds; "
            f"{self.verdict[0]})"
        )

    def report(self) -> Report:
        """The verdict, the figures and the tables."""
        chosen: Any = self.chosen
        columns = ["seed", "ability", "circuit", *BOUNDED, *CLAIMS, "holds"]
        cells = [f"{name}: {CELLS[name]}" for name in self.design.cells]
        firing: Any = self.tables["firing"].groupby(["seed", "circuit"], sort=False)
        rates = firing[["own", "other", "specificity"]].mean().reset_index()
        outcomes = {
            "Single dissociations of the chosen circuits": chosen[columns],
            "Double dissociations": self.tables["doubles"],
            "Cells: what the model gets right": self.tables["cells"],
        }
        controls = {
            "Random controls": self.tables["control"],
            "Perplexity of neutral text": self._of_chosen("neutral"),
        }
        parts = {
            "Heads one by one and together": self.tables["backup"],
            "Circuits of one relation each": self.tables["relations"],
            "Firing of neurons, mean per circuit": rates,
            "Overlap of circuits over split seeds": self.overlap(),
        }
        ablated, random, maps = self._figures()
        dropped: Any = self.tables["dropped"].groupby("reason", sort=False).size()
        return Report(
            title=f"Recall versus reasoning on {self.model}",
            lead=self.verdict[0],
            sections=[
                Section("Verdict", [self.verdict, "Cells:", cells]),
                Section("Dissociation", [ablated, *_tables(outcomes)]),
                Section("Random controls", [random, *_tables(controls)]),
                Section("Where the heads are", [maps, *_tables(parts)]),
            ],
            method=self._method(),
            excluded=excluded_counts(dropped.to_dict()),
            provenance=self.provenance,
        )

    def _figures(self) -> tuple[Figure, Figure, Figure]:
        by = self._of_depth("control").groupby("ability", sort=False)["selectivity"]
        means = ", ".join(f"{name} {100 * values.mean():.0f} %" for name, values in by)
        largest: list[str] = []
        for ability in self.design.abilities:
            z = 100 * self.head_scores(ability)
            layer, head = np.unravel_index(np.argmax(z), z.shape)
            largest.append(f"{ability.name}: layer {layer}, head {head} ({z[layer, head]:.1f} %)")
        ablated = (
            "Right: the circuit's own ability is lost; within the grey band the other is intact. "
            f"Large points are the chosen circuits: {sum(self.chosen['holds'])} of "
            f"{len(self.chosen)} dissociate."
        )
        random = "Diamonds: chosen circuits; violins: random sets. Mean of the chosen circuits: "
        random += means or "none"
        maps = f"Blue: matters more to the map's own ability. Largest: {'; '.join(largest)}."
        return (
            Figure("What each circuit's ablation costs", ablated, self.plot()),
            Figure("Selectivity beside random sets", f"{random}.", self.plot_control()),
            Figure("Heads that one ability needs more than the other", maps, self.plot_scores()),
        )

    def _method(self) -> tuple[str, ...]:
        s = self.settings
        return (
            f"Needed: at least {100 * s.min_drop:.0f} points of accuracy lost, interval above 0. "
            f"Intact: accuracy within ±{100 * s.accuracy_margin:.0f} points and logit difference "
            f"within ±{100 * s.effect_margin:.0f} % of the total effect, by equivalence tests. "
            "Specific: above the 99th percentile of random sets: those of as many units per layer, "
            "of nearby layers where a layer holds few units, and of any.",
            f"Settings: {cell_text(s.record())}. {self.seconds:.0f} s.",
        )


def _tables(frames: Mapping[str, Any]) -> list[Table]:
    return [Table(caption, f, names=HEADINGS) for caption, f in frames.items() if len(f)]


def _double(first: str, second: str, rows: Any, seeds: int) -> str:
    claim = f"double dissociation of {first} and {second}"
    if not len(rows):
        return f"No {claim}: a circuit is missing."
    n, dd = int(rows["holds"].sum()), f"interaction {rows['dd'].mean():.2f} of the total effect"
    if n:
        return f"There is a {claim} in {n} of {seeds} split seeds ({dd})."
    failed = [name for name in CLAIMS if not rows[name].all()]
    return f"No {claim} ({dd}): not {', not '.join(failed)} in both directions."


def _single(ability: Ability, rows: Any) -> str:
    name, (own, others) = ability.name, ability.sides
    if not len(rows):
        return f"{name}: no component matters more to {', '.join(own)} than to {', '.join(others)}."
    mean = 100 * rows[READINGS].mean()
    claims = ", ".join(f"{one} in {int(rows[one].sum())} of {len(rows)}" for one in CLAIMS)
    return (
        f"{name} ({'+'.join(own)}): ablating its circuit costs {mean['own_accuracy']:.0f} points "
        f"of accuracy and {mean['own_effect']:.0f} % of the total effect, on {'+'.join(others)} "
        f"{mean['other_accuracy']:.0f} points and {mean['other_effect']:.0f} %; {claims} seeds."
    )
