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

import numpy as np
import pandas as pd
import xarray as xr

from circuits.recall_reasoning.building import build
from circuits.recall_reasoning.cells import Data, Design, design_named, load_data
from circuits.recall_reasoning.controls import DECIDING, controls_of, n_others
from circuits.recall_reasoning.dissociation import (
    control_table,
    doubles_table,
    effects_table,
    rating,
    singles_table,
)
from circuits.recall_reasoning.figures import study_report
from circuits.recall_reasoning.filtering import Filtered, filtered
from circuits.recall_reasoning.firing import firing_table
from circuits.recall_reasoning.measuring import Losses, losses
from circuits.recall_reasoning.relations import relations_table
from circuits.recall_reasoning.result import RecallReasoning
from circuits.recall_reasoning.scoring import (
    Circuit,
    Kind,
    circuits_of,
    scores_of,
)
from circuits.recall_reasoning.settings import Settings
from circuits.recall_reasoning.tables import (
    attribution_table,
    cells_table,
    circuits_table,
    cost_table,
    neutral_table,
)
from interp.ablation import ComponentSet
from interp.brief import brief
from interp.data.pairs import Excluded
from interp.errors import DataError
from interp.model.model import Model
from interp.results import folder
from interp.results.run_folder import Codec, RunFolder, fingerprint, identity

MINIMUM = 10
"""Pairs that every split of a cell must keep; below that the cell is reported as not feasible."""

Say = Callable[[str], None]


def study(
    model: Model,
    settings: Settings,
    out: str | Path,
    datasets: str | Path | None = None,
    neutral: str | None = None,
    data: Callable[[int], Data] | None = None,
    force: bool = False,
    say: Say | None = None,
) -> RecallReasoning:
    """Run a study into a run folder. A stopped one resumes there, a finished one is loaded.

    Args:
        model: from `interp.load_model`.
        settings: what to do.
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
    settings.checked()
    design, said = design_named(settings.design), say or (lambda _: None)
    files = None if datasets is None else Path(datasets)
    draw = data or (lambda seed: build(model, design, files, settings.n_drawn, seed))
    drawn = {seed: draw(seed) for seed in settings.seeds}
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
                parts.append(_once(model, design, settings, own, seed, run, neutral, said))
                run.count(len(parts), len(drawn))
            result = _joined(model, settings, parts, time.perf_counter() - started)
            run.finish(
                lambda at: result.save(at, {"weights": model.weights_hash}),
                page=lambda at: study_report(RecallReasoning.load(at)).write(at / "index.html"),
            )
    return RecallReasoning.load(out)


@brief
@dataclass(frozen=True)
class Part:
    """One seed's tables, and its scores by kind of component."""

    tables: Mapping[str, pd.DataFrame]
    scores: Mapping[str, xr.DataArray]


def _once(
    model: Model,
    design: Design,
    settings: Settings,
    drawn: Data,
    seed: int,
    run: RunFolder,
    neutral: str | None,
    say: Say,
) -> Part:
    out = run.work / f"seed-{seed}"
    asked = run.step(
        f"seed-{seed}/data", lambda: _filtered(model, design, settings, drawn), FILTERED
    )
    data = asked.data
    say(f"seed {seed}: " + ", ".join(f"{c} {asked.n(c)}" for c in data.cells) + " pairs kept")
    selection = {c: data.of("selection", c)[: settings.n_select] for c in data.cells}
    say(f"seed {seed}: scoring components")
    scores = {kind: scores_of(model, selection, kind, out) for kind in _kinds(settings)}
    circuits = _circuits(design, settings, scores)
    sets = {circuit.name: circuit.set for circuit in circuits}
    say(f"seed {seed}: choosing among {len(sets)} circuits")
    first = settings.ablations[0]
    tried = losses(model, data, "validation", sets, first, out, settings.n_validate)
    chosen = _chosen(model, design, settings, circuits, tried)
    say(f"seed {seed}: testing {', '.join(c.name for c in chosen)}")
    text = "mean" if "mean" in settings.ablations else first
    measured = {
        kind: losses(model, data, "test", sets, kind, out, settings.n_test)
        for kind in settings.ablations
    }
    # text is long, and what it costs is asked of the chosen circuits only
    read = losses(
        model, data, "test", {c.name: c.set for c in chosen}, text, out / "neutral", 4, neutral
    )
    say(f"seed {seed}: random sets")
    control, draws, backup, random = _controls(model, design, settings, chosen, data, seed, out)
    found = singles_table(design, circuits, measured, settings, seed)
    singles: Any = _judged(found, [c.name for c in chosen], control)
    deciding = singles[singles["chosen"] & (singles["ablation"] == first)]
    test = {cell: data.of("test", cell)[: settings.n_test] for cell in data.cells}
    tables = {
        "cells": cells_table(model, asked),
        "circuits": circuits_table(circuits, {c.name for c in chosen}),
        "effects": effects_table(circuits, measured, seed),
        "singles": singles,
        "doubles": doubles_table(design, deciding, measured[first], settings, seed),
        "control": control,
        "draws": draws,
        "backup": backup,
        "neutral": neutral_table(chosen, read, text),
        "firing": firing_table(model, design, circuits, test),
        "relations": relations_table(
            model, design, data, selection, chosen, first, out, settings.n_test
        ),
        "attribution": attribution_table(model, selection, scores["head"], out),
        "cost": cost_table(model, selection, [tried, *measured.values(), random]),
        "dropped": pd.DataFrame(
            [vars(row) for row in (*asked.dropped, *data.rejected)],
            columns=["id", "where", "reason"],
        ),
    }
    return Part({name: table.assign(seed=seed) for name, table in tables.items()}, scores)


def _kinds(settings: Settings) -> list[Kind]:
    wanted: list[tuple[Kind, bool]] = [
        ("head", True),
        # one sweep of MLPs costs little, and shows where they matter even where none is ablated
        ("mlp", True),
        ("neuron", bool(settings.neurons)),
    ]
    return [kind for kind, use in wanted if use]


def _filtered(model: Model, design: Design, settings: Settings, drawn: Data) -> Filtered:
    """The data that the model gets right.

    Raises:
        DataError: a cell keeps fewer than `MINIMUM` pairs in some split.
    """
    most = max(settings.n_select, settings.n_validate, settings.n_test)
    found = filtered(model, drawn, most)
    _check_feasible(found, design)
    return found


def _save_filtered(found: Filtered, path: Path) -> None:
    left = pd.DataFrame([vars(row) for row in found.dropped], columns=["id", "where", "reason"])
    folder.write(path, {"kind": "filtered"}, {"counts": found.counts, "dropped": left}, {})
    found.data.save(path / "data.jsonl")


def _load_filtered(path: Path) -> Filtered:
    _, tables, _ = folder.read(path, "filtered", ("counts", "dropped"))
    with folder.reading(path):
        dropped = [Excluded(**row) for row in tables["dropped"].to_dict("records")]
        return Filtered(load_data(path / "data.jsonl"), tables["counts"], tuple(dropped))


FILTERED: Codec[Filtered] = Codec(_save_filtered, _load_filtered)


def _check_feasible(asked: Filtered, design: Design) -> None:
    """Refuse a design whose cells the model cannot do.

    Raises:
        DataError: a cell keeps fewer than `MINIMUM` pairs in some split.
    """
    for cell in design.cells:
        if asked.n(cell) < MINIMUM:
            table: Any = asked.counts[asked.counts["cell"] == cell]
            right = ", ".join(
                f"{row['split']} {row['both_right']:.0%} of {row['asked']}"
                for row in table.to_dict("records")
            )
            raise DataError(
                f"cell {cell} is not feasible: the model is right on both prompts of a pair in "
                f"{right}, and {asked.n(cell)} pairs are left in the smallest split (at least "
                f"{MINIMUM} are needed); study a design without it."
            )


def _circuits(
    design: Design, settings: Settings, scores: Mapping[str, xr.DataArray]
) -> list[Circuit]:
    sizes = {"head": settings.sizes, "mlp": settings.mlps, "neuron": settings.neurons}
    return [
        circuit
        for kind, of in scores.items()
        for ability in design.abilities
        for rule in settings.rules
        for circuit in circuits_of(of, ability, rule, sizes[kind])
    ]


def _chosen(
    model: Model,
    design: Design,
    settings: Settings,
    circuits: Sequence[Circuit],
    tried: Losses,
) -> list[Circuit]:
    """For each ability the circuit that loses most of its own and moves the other least.

    It is one of heads or of neurons: MLPs have no counterpart in their layer. Circuits so small
    that the model holds too few other sets of their size are chosen only where no other is left.
    """
    chosen: list[Circuit] = []
    for ability in design.abilities:
        own = [c for c in circuits if c.ability == ability.name and c.kind != "mlp"]
        enough = [c for c in own if n_others(model, c) >= settings.n_random]
        rated = {c.name: rating(ability, tried, tried.column(c.name)) for c in own}
        if own:
            chosen.append(max(enough or own, key=lambda c: rated[c.name]))
    return chosen


def _controls(
    model: Model,
    design: Design,
    settings: Settings,
    chosen: Sequence[Circuit],
    data: Data,
    seed: int,
    out: Path,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, Losses]:
    """The chosen circuits, their heads one by one, and their random sets, on the same pairs."""
    of = {ability.name: ability for ability in design.abilities}
    sets: dict[str, ComponentSet] = {}
    drawn: dict[str, dict[str, list[str]]] = {}
    reference = data.of("selection", data.cells[0])
    for circuit in chosen:
        sets[circuit.name] = circuit.set
        if circuit.kind == "head":
            sets |= {f"{circuit.name}:{c}": ComponentSet((c,)) for c in circuit.components}
        drawn[circuit.name] = {}
        found = controls_of(model, circuit, settings.n_random, seed, reference)
        for kind, many in found.items():
            names = {f"{circuit.name}~{kind}-{i}": one for i, one in enumerate(many)}
            sets |= names
            drawn[circuit.name][kind] = list(names)
    first = settings.ablations[0]
    measured = losses(model, data, "test", sets, first, out / "random", settings.n_control)
    tables = [
        control_table(of[c.ability], c, measured, drawn[c.name]) for c in chosen if drawn[c.name]
    ]
    backup = [_backup(of[c.ability], c, measured) for c in chosen if c.kind == "head"]
    control, draws = (
        pd.concat([pair[i] for pair in tables], ignore_index=True) if tables else pd.DataFrame()
        for i in (0, 1)
    )
    return control, draws, pd.DataFrame(backup, columns=BACKUP), measured


BACKUP = ["circuit", "ability", "together", "sum_of_single", "ratio"]


def _backup(ability: Any, circuit: Circuit, measured: Losses) -> dict[str, Any]:
    """What the heads lose one by one and together: others step in where together is much more."""
    own = {
        name: float(
            np.mean([measured.effect[c][:, measured.column(name)].mean() for c in ability.own])
        )
        for name in (circuit.name, *(f"{circuit.name}:{c}" for c in circuit.components))
    }
    together = own.pop(circuit.name)
    alone = sum(own.values())
    return {
        "circuit": circuit.name,
        "ability": ability.name,
        "together": together,
        "sum_of_single": alone,
        "ratio": together / alone if alone else float("nan"),
    }


def _judged(singles: pd.DataFrame, chosen: Sequence[str], control: pd.DataFrame) -> pd.DataFrame:
    """Mark the chosen circuits, and whether random sets do as much.

    A layer may hold only few other sets, so a circuit must be beyond sets of heads from nearby
    layers and of any heads, too.
    """
    beyond: dict[str, bool] = {}
    if len(control):
        deciding = [kind in DECIDING for kind in control["control"]]
        by = control[np.array(deciding) & (control["reading"] == "effect")].groupby("circuit")
        # sets of any heads alone are no control of depth
        beyond = {str(name): len(part) > 1 and bool(part["beyond"].all()) for name, part in by}
    table = singles.assign(
        chosen=singles["circuit"].isin(chosen),
        specific=[beyond.get(name, False) for name in singles["circuit"]],
    )
    return table.assign(holds=table["needed"] & table["intact"] & table["specific"])


def _joined(
    model: Model, settings: Settings, parts: Sequence[Part], seconds: float
) -> RecallReasoning:
    tables = {
        name: pd.concat([part.tables[name] for part in parts], ignore_index=True)
        for name in parts[0].tables
    }
    scores = {
        kind: xr.concat([p.scores[kind] for p in parts], dim=pd.Index(settings.seeds, name="seed"))
        for kind in parts[0].scores
    }
    return RecallReasoning(
        tables=tables,
        scores=scores,
        settings=settings,
        model=model.name,
        seconds=seconds,
    )
