"""The study: filter, score, choose and test circuits on disjoint pairs, once for each split seed.

    selection split   score every head on every cell, rank them for each ability
    validation split  ablate all candidate circuits, choose one for each ability
    test split        ablate every circuit, and the chosen ones beside matched random sets

What is chosen is fixed before the test split is run; all other circuits are reported beside it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from circuits.recall_reasoning import diagnostics
from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.designs import DESIGNS, Design
from circuits.recall_reasoning.dissociation import (
    control_tables,
    doubles_table,
    effects_table,
    judged,
    rating,
    singles_table,
)
from circuits.recall_reasoning.filter import Filtered, answered
from circuits.recall_reasoning.losses import Losses, losses
from circuits.recall_reasoning.result import RecallReasoning
from circuits.recall_reasoning.scores import (
    AbilityCircuit,
    circuits_of,
    controls_of,
    n_others,
    scores_of,
)
from circuits.recall_reasoning.settings import StudySettings
from circuits.recall_reasoning.sources import build
from interp.errors import DataError
from interp.model.components import ComponentKind, ComponentSet, Sets
from interp.model.model import Model
from interp.results.run_folder import TABLES, RunFolder, fingerprint, identity, page_of

MINIMUM = 10
"""Pairs that every split of a cell must keep; below that the cell is reported as not feasible."""

Part = tuple[Mapping[str, pd.DataFrame], Mapping[str, xr.DataArray]]
"""Tables and scores of one split seed."""


def study(
    model: Model,
    settings: StudySettings,
    out: str | Path,
    datasets: str | Path | None = None,
    neutral: str | None = None,
    data: Callable[[int], Data] | None = None,
    force: bool = False,
    say: Callable[[str], None] | None = None,
) -> RecallReasoning:
    """Run a study into a run folder. A stopped one resumes there, a finished one is loaded.

    Args:
        model: from `interp.load_model`.
        settings: sizes, ablations, margins, seeds.
        out: the run folder.
        datasets: folder of the data files, for models other than organisms; by default the
            shipped ones.
        neutral: a text unrelated to the cells; its perplexity shows damage in general.
        data: the data of a seed, where it is not to be built from the design.
        force: replace another run, or a damaged one, that `out` holds.
        say: called with a line at each step.

    Raises:
        RunFolderError: `out` holds another run.
        DataError: a cell of the design keeps too few pairs that the model gets right.
    """
    design = DESIGNS[settings.design]
    files = None if datasets is None else Path(datasets)
    draw = data or (lambda seed: build(model, design, files, settings.n_drawn, seed, settings.chat))
    drawn = {seed: draw(seed) for seed in settings.seeds}
    if any(own.chat != settings.chat for own in drawn.values()):
        raise DataError("the data have other options of a chat than the settings; give both one.")
    named = settings.record() | {
        "neutral": neutral and fingerprint(neutral),
        "data": fingerprint(list(drawn.values())),
    }
    with RunFolder.open(
        out, "recall-reasoning", named | identity(model), unit="seeds", force=force
    ) as run:
        if not run.finished:
            started = time.perf_counter()
            parts: list[Part] = []
            for seed, own in drawn.items():
                asked = _filtered(model, design, settings, own, seed, run)
                one = _Seed(model, design, settings, asked, seed, run.work / f"seed-{seed}")
                parts.append(one.part(neutral, say or (lambda _: None)))
                run.count(len(parts), len(drawn))
            result = _joined(model, settings, parts, time.perf_counter() - started)
            note = {"weights": model.weights_hash}
            run.finish(lambda at: result.save(at, note), page=page_of(RecallReasoning))
    return RecallReasoning.load(out)


def _filtered(
    model: Model, design: Design, settings: StudySettings, drawn: Data, seed: int, run: RunFolder
) -> Filtered:
    """The data that the model gets right; `DataError` where a cell keeps too little of it."""
    most = max(settings.n_select, settings.n_validate, settings.n_test)
    tables = run.step(f"seed-{seed}/data", lambda: answered(model, drawn, most), TABLES)
    found = Filtered.of(drawn, tables, most)
    for cell in design.cells:
        if found.n(cell) < MINIMUM:
            rows: Any = found.counts[found.counts["cell"] == cell]
            right = ", ".join(
                f"{r['split']} {r['both_right']:.0%} of {r['asked']}"
                for r in rows.to_dict("records")
            )
            raise DataError(
                f"cell {cell} is not feasible: the model is right on both prompts of a pair in "
                f"{right}, and {found.n(cell)} pairs are left in the smallest split (at least "
                f"{MINIMUM} are needed); study a design without it."
            )
    return found


@dataclass(frozen=True)
class _Seed:
    """The study of one split seed, whose parts lie in `out`."""

    model: Model
    design: Design
    settings: StudySettings
    asked: Filtered
    seed: int
    out: Path

    @property
    def first(self) -> str:
        """The ablation that decides."""
        return self.settings.ablations[0]

    def losses(
        self, split: str, sets: Sets, ablation: str, most: int, part: str = "", text: Any = None
    ) -> Losses:
        """What sets cost on a split."""
        out, data = self.out / part, self.asked.data
        return losses(self.model, data, split, sets, ablation, out, most, text)

    def part(self, neutral: str | None, say: Callable[[str], None]) -> Part:
        """All tables, and scores by kind of component."""
        model, design, settings, seed = self.model, self.design, self.settings, self.seed
        data, first = self.asked.data, self.first
        counts = ", ".join(f"{c} {self.asked.n(c)}" for c in data.cells)
        say(f"seed {seed}: {counts} pairs kept")
        selection = {c: data.of("selection", c, settings.n_select) for c in data.cells}
        say(f"seed {seed}: scoring components")
        # MLPs show where the abilities are even where no circuit is made of them
        kinds: list[ComponentKind] = ["head", "mlp", *(["neuron"] if settings.neurons else [])]
        scores = {k: scores_of(model, selection, k, self.out) for k in kinds}
        circuits = self.circuits(scores)
        sets = {circuit.name: circuit.set for circuit in circuits}
        say(f"seed {seed}: choosing among {len(sets)} circuits")
        tried = self.losses("validation", sets, first, settings.n_validate)
        chosen = chosen_of(model, circuits, tried, settings.n_random)
        names = [circuit.name for circuit in chosen]
        say(f"seed {seed}: testing {', '.join(names)}")
        measured = {
            kind: self.losses("test", sets, kind, settings.n_test) for kind in settings.ablations
        }
        # text is long, and what it costs is asked of the chosen circuits only
        on_text = "mean" if "mean" in settings.ablations else first
        read = self.losses(
            "test", {name: sets[name] for name in names}, on_text, 4, "neutral", neutral
        )
        say(f"seed {seed}: random sets")
        control, draws, backup = self.controls(chosen)
        singles = judged(singles_table(circuits, measured, settings, seed), names, control)
        deciding: Any = singles[singles["chosen"] & (singles["ablation"] == first)]
        test = {cell: data.of("test", cell, settings.n_test) for cell in data.cells}
        rejected = pd.DataFrame([vars(row) for row in data.rejected])
        tables = {
            "cells": self.asked.counts,
            "circuits": diagnostics.circuits_table(circuits, set(names)),
            "effects": effects_table(circuits, measured, seed),
            "singles": singles,
            "doubles": doubles_table(design, deciding, measured[first], first, seed),
            "control": control,
            "draws": draws,
            "backup": backup,
            "neutral": diagnostics.neutral_table(chosen, read, on_text),
            "firing": diagnostics.firing_table(model, circuits, test),
            "relations": diagnostics.relations_table(
                model, data, selection, chosen, first, self.out, settings.n_test
            ),
            "dropped": pd.concat([self.asked.dropped, rejected], ignore_index=True),
        }
        return {name: table.assign(seed=seed) for name, table in tables.items()}, scores

    def circuits(self, scores: Mapping[str, xr.DataArray]) -> list[AbilityCircuit]:
        """The circuits of every kind, ability, rule and size."""
        settings = self.settings
        sizes = {"head": settings.sizes, "mlp": settings.mlps, "neuron": settings.neurons}
        return [
            circuit
            for kind, found in scores.items()
            for ability in self.design.abilities
            for rule in settings.rules
            for circuit in circuits_of(found, ability, rule, sizes[kind])
        ]

    def controls(
        self, chosen: Sequence[AbilityCircuit]
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The chosen circuits, their heads one by one, and their random sets, on the same pairs."""
        sets: Sets = {}
        drawn: dict[str, dict[str, list[str]]] = {}
        data, settings = self.asked.data, self.settings
        reference = data.of("selection", data.cells[0])
        for circuit in chosen:
            sets[circuit.name] = circuit.set
            if circuit.kind == "head":
                sets |= {f"{circuit.name}:{c}": ComponentSet((c,)) for c in circuit.components}
            drawn[circuit.name] = {}
            found = controls_of(self.model, circuit, settings.n_random, self.seed, reference)
            for kind, many in found.items():
                named = {f"{circuit.name}~{kind}-{i}": one for i, one in enumerate(many)}
                sets |= named
                drawn[circuit.name][kind] = list(named)
        measured = self.losses("test", sets, self.first, settings.n_control, "random")
        tables = [control_tables(c, measured, drawn[c.name]) for c in chosen if drawn[c.name]]
        control, draws = (
            pd.concat([pair[i] for pair in tables], ignore_index=True) if tables else pd.DataFrame()
            for i in (0, 1)
        )
        backup = [diagnostics.backup_row(c, measured) for c in chosen if c.kind == "head"]
        return control, draws, pd.DataFrame(backup, columns=diagnostics.BACKUP)


def chosen_of(
    model: Model, circuits: Sequence[AbilityCircuit], tried: Losses, n_random: int
) -> list[AbilityCircuit]:
    """For each ability the circuit that loses most of its own and moves the other least.

    It is one of heads or of neurons: MLPs have no counterpart in their layer. Circuits so small
    that the model has fewer than `n_random` other sets of their size are chosen only where no
    other is left.
    """
    chosen: list[AbilityCircuit] = []
    for ability in dict.fromkeys(c.ability for c in circuits):
        own = [c for c in circuits if c.ability == ability and c.kind != "mlp"]
        enough = [c for c in own if n_others(model, c) >= n_random]
        if own:
            chosen.append(max(enough or own, key=lambda c: rating(c, tried)))
    return chosen


def _joined(
    model: Model, settings: StudySettings, parts: Sequence[Part], seconds: float
) -> RecallReasoning:
    tables, scores = parts[0]
    by_seed = pd.Index(settings.seeds, name="seed")
    return RecallReasoning(
        {name: pd.concat([part[0][name] for part in parts], ignore_index=True) for name in tables},
        {kind: xr.concat([part[1][kind] for part in parts], dim=by_seed) for kind in scores},
        settings,
        model.name,
        seconds,
    )
