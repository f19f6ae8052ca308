"""Editing every case of a benchmark by several methods, and asking what became of the model.

Each case is edited on its own and asked under its own edit alone; many run side by side.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.editing.asking import Ask, asking, generations
from circuits.editing.changes import Changes
from circuits.editing.evaluation import (
    Asked,
    Case,
    Pool,
    Shots,
    asked,
    draw_probes,
    preservation,
    row,
    short_answer,
)
from circuits.editing.methods import Method
from circuits.editing.moments import Moments
from circuits.editing.prompting import BARE, kept_of
from circuits.editing.writing import Request, write
from interp.errors import RunFolderError
from interp.model import Model

SHARD = 12
"""Cases that run side by side, and that a killed run loses at most."""


@dataclass(frozen=True)
class Arm:
    """One way to change a model, or none.

    Attributes:
        name: of the arm.
        method: how weights are edited; ``None`` leaves them.
        told: whether the edits are told in the prompt instead.
        strength: how much of every change is made; a closed form at less of its strength reaches
            less and breaks less.
    """

    name: str
    method: Method | None = None
    told: bool = False
    strength: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """What all arms have in common.

    Attributes:
        shots: demonstrations before each question.
        pool: known questions, from which controls are drawn.
        n_probes: control questions of a kind, at most.
        n_kept: preserved questions of a kind that editors may see.
        seed: of the draws.
    """

    shots: Shots
    pool: Pool
    n_probes: int = 2
    n_kept: int = 8
    seed: int = 0


def evaluate_arm(
    model: Model,
    arm: Arm,
    cases: Sequence[Case],
    protocol: Protocol,
    moments: Moments,
    templates: Sequence[str] = BARE,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Edit every case and ask its questions.

    Args:
        model: the model; its weights are not touched.
        arm: how to edit.
        cases: already filtered by what the model knows.
        protocol: shared by all arms.
        moments: of the projections that the arm writes to.
        templates: contexts of clozes.
        out: folder of finished shards, which are not computed again.
        progress: called with (cases done, cases in all).

    Returns:
        The answers (rows of `circuits.editing.evaluation.metrics`), and one line a case: seconds
        of the edit, the target's probability reached in each stage, what a stage left out.
    """
    answers: list[pd.DataFrame] = []
    edits: list[pd.DataFrame] = []
    for lo in range(0, len(cases), SHARD):
        shard = cases[lo : lo + SHARD]
        done = None if out is None else _read(out, lo, shard)
        if done is None:
            done = _evaluated(model, arm, shard, protocol, moments, templates)
            if out is not None:
                _write(out, lo, *done)
        answers.append(done[0])
        edits.append(done[1])
        if progress:
            progress(min(lo + SHARD, len(cases)), len(cases))
    labels = {"arm": arm.name, "seed": protocol.seed}
    return (
        pd.concat(answers, ignore_index=True).assign(**labels),
        pd.concat(edits, ignore_index=True).assign(**labels),
    )


def _evaluated(
    model: Model,
    arm: Arm,
    cases: Sequence[Case],
    protocol: Protocol,
    moments: Moments,
    templates: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    drawn = [draw_probes(c, protocol.pool, protocol.n_probes, protocol.seed) for c in cases]
    kept = [
        kept_of(preservation(c, protocol.pool, scored, protocol.n_kept, protocol.seed))
        for c, scored in zip(cases, drawn, strict=True)
    ]
    started = time.perf_counter()
    requests = [Request(c.facts, k) for c, k in zip(cases, kept, strict=True)]
    changes: list[Changes] = [()] * len(cases)
    p: list[Any] = [()] * len(cases)
    skipped: list[tuple[str, ...]] = [()] * len(cases)
    if arm.method is not None:
        written = write(model, requests, arm.method, moments, templates)
        changes = [tuple(one.times(arm.strength) for one in w.changes) for w in written]
        p, skipped = [w.p for w in written], [w.skipped for w in written]
    seconds = (time.perf_counter() - started) / len(cases)
    questions = [
        (i, question)
        for i, (case, scored) in enumerate(zip(cases, drawn, strict=True))
        for question in asked(case, scored)
    ]
    asks = [_ask(i, q, cases[i], protocol.shots, arm.told) for i, q in questions]
    said = generations(model, asks, changes)
    rows = [
        _row(question, cases[i], text, protocol.shots)
        for (i, question), text in zip(questions, said, strict=True)
    ]
    lines = pd.DataFrame(
        {
            "case": [c.id for c in cases],
            "seconds": seconds,
            "p": [json.dumps(stages) for stages in p],
            "skipped": [json.dumps(s) for s in skipped],
        }
    )
    return pd.DataFrame(rows), lines


def _ask(number: int, question: Asked, case: Case, shots: Shots, told: bool) -> Ask:
    """A question as the model sees it; in-context editing states the new facts first."""
    new = zip(case.facts, case.targets, strict=True)
    facts = "".join(f"{fact.cloze} {target.text}.\n" for fact, target in new) if told else ""
    if question.cloze:
        return Ask(number, f"{facts}{question.text}")
    return asking(shots, question.text, number, facts)


def _row(question: Asked, case: Case, said: str, shots: Shots) -> dict[str, Any]:
    return row(case, question, short_answer(said) if question.cloze else shots.read(said))


def _file(out: Path, first: int, what: str) -> Path:
    return out / f"{first:06d}.{what}.parquet"


def _read(out: Path, first: int, cases: Sequence[Case]) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """A finished shard; the lines are written last, so that their file means it is whole."""
    if not _file(out, first, "edits").is_file():
        return None
    answers, edits = (pd.read_parquet(_file(out, first, w)) for w in ("answers", "edits"))
    if list(edits["case"]) != [case.id for case in cases]:
        raise RunFolderError(f"{out} holds other cases; choose another --out.")
    return answers, edits


def _write(out: Path, first: int, answers: pd.DataFrame, edits: pd.DataFrame) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for what, frame in (("answers", answers), ("edits", edits)):
        beside = _file(out, first, what).with_suffix(".half")
        frame.to_parquet(beside, index=False)
        beside.replace(_file(out, first, what))
