"""Editing every case of a benchmark by several methods, and asking what became of the model.

Each case is edited on its own and asked under its own edit alone, many side by side; or the edits
are made one on top of the other, and all questions asked after the last.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from circuits.editing.asking import Ask, asking, generations
from circuits.editing.change import Changes
from circuits.editing.drift import drift
from circuits.editing.evaluation import (
    Asked,
    Case,
    Pool,
    Shots,
    asked,
    draw_probes,
    ngram_entropy,
    pools_apart,
    preservation,
    row,
    short_answer,
)
from circuits.editing.evaluation.probes import Known, ProbeKind
from circuits.editing.fact import PreservedQuestion
from circuits.editing.fact_prompts import BARE, preserved_of
from circuits.editing.methods import Method
from circuits.editing.moments import Moments
from circuits.editing.writing import Request, Written, write
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.forward.budget import peak_memory
from interp.model.model import Model
from interp.results.run_folder import TABLES, Steps

SHARD = 12
"""Cases that run side by side, and that a killed run loses at most."""

N_FLUENCY = 50
"""Tokens that an edited model writes on from its edited cloze, for fluency."""


@dataclass(frozen=True)
class Arm:
    """One way to change a model, or none.

    Attributes:
        name: of the arm.
        method: how weights are edited; ``None`` leaves them.
        told: demonstrations of how facts are used that are told in the prompt, possibly none
            (``""``); the edits are then told so. ``None`` tells nothing.
        strength: how much of every change is made; a closed form at less of its strength reaches
            less and breaks less. Not for ``ace``, whose neurons fire otherwise when scaled: its
            placement's threshold is what trades the two.
    """

    name: str
    method: Method | None = None
    told: str | None = None
    strength: float = 1.0


@brief
@dataclass(frozen=True)
class Protocol:
    """What all arms have in common.

    Attributes:
        shots: demonstrations before each question.
        pool: known questions, from which controls are drawn.
        n_probes: control questions of a kind, at most.
        n_kept: preserved questions of a kind that editors may see.
        seed: of the draws.
        neutral: passages on which drift is measured; without any it is not.
        sequential: whether edits are made one on top of the other and all questions asked after
            the last; the cases must stand side by side (`side_by_side`).
    """

    shots: Shots
    pool: Pool
    n_probes: int = 2
    n_kept: int = 8
    seed: int = 0
    neutral: tuple[TokenPrompt, ...] = ()
    sequential: bool = False


def evaluate_arm(
    model: Model,
    arm: Arm,
    cases: Sequence[Case],
    protocol: Protocol,
    moments: Moments,
    templates: Sequence[str] = BARE,
    steps: Steps | None = None,
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
        steps: where finished shards are kept, which are not computed again.
        progress: called with (cases done, cases in all).

    Returns:
        The answers (rows of `circuits.editing.evaluation.metrics`), and one line a case: seconds
        of the edit; peak memory above that before, in GB, of all edits made side by side; the
        target's probability reached in each stage; what a stage left out; and what became of
        other text (`circuits.editing.evaluation.metrics.DAMAGE`).
    """
    found: list[dict[str, pd.DataFrame]] = []
    at_once = len(cases) if protocol.sequential else SHARD
    kept = steps or Steps()
    say = progress or (lambda done, total: None)
    say(0, len(cases))
    for lo in range(0, len(cases), at_once):
        shard = cases[lo : lo + at_once]
        evaluated = partial(_evaluated, model, arm, shard, protocol, moments, templates)
        found.append(kept.step(f"{arm.name}.{protocol.seed}/{lo:06d}", evaluated, TABLES))
        say(lo + len(shard), len(cases))
    answers, edits = (
        pd.concat([shard[name] for shard in found], ignore_index=True).assign(
            arm=arm.name, seed=protocol.seed
        )
        for name in ("answers", "edits")
    )
    return answers, edits


def _evaluated(
    model: Model,
    arm: Arm,
    cases: Sequence[Case],
    protocol: Protocol,
    moments: Moments,
    templates: Sequence[str],
) -> dict[str, pd.DataFrame]:
    drawn, kept = _controls(cases, protocol)
    requests = [Request(c.facts, k) for c, k in zip(cases, kept, strict=True)]
    started = time.perf_counter()
    with peak_memory(model.device) as peak:
        written = _written(model, arm, requests, moments, templates, protocol.sequential)
        peak_gb = peak()
    seconds = (time.perf_counter() - started) / len(cases)
    edits, owner = _models(written, protocol.sequential)
    questions = [
        (i, question)
        for i, (case, scored) in enumerate(zip(cases, drawn, strict=True))
        for question in asked(case, scored)
    ]
    asks = [_ask(owner[i], q, cases[i], protocol.shots, arm.told) for i, q in questions]
    said = generations(model, asks, edits)
    rows = [
        _row(question, cases[i], text, protocol.shots)
        for (i, question), text in zip(questions, said, strict=True)
    ]
    lines = pd.DataFrame(
        {
            "case": [case.id for case in cases],
            "seconds": seconds,
            "peak_gb": peak_gb,
            "p": [json.dumps(one.p) for one in written],
            "skipped": [json.dumps(one.skipped) for one in written],
            **_damage(model, cases, edits, owner, protocol.neutral),
        }
    )
    return {"answers": pd.DataFrame(rows), "edits": lines}


def _controls(
    cases: Sequence[Case], protocol: Protocol
) -> tuple[list[Mapping[ProbeKind, Sequence[Known]]], list[tuple[PreservedQuestion, ...]]]:
    """Each case's control questions, and the questions that its editor may see to preserve."""
    pools = [protocol.pool] * len(cases)
    if protocol.sequential:
        pools = pools_apart(protocol.pool, cases)
    drawn: list[Mapping[ProbeKind, Sequence[Known]]] = []
    kept: list[tuple[PreservedQuestion, ...]] = []
    for case, pool in zip(cases, pools, strict=True):
        probes = draw_probes(case, pool, protocol.n_probes, protocol.seed)
        drawn.append(probes)
        kept.append(preserved_of(preservation(case, pool, probes, protocol.n_kept, protocol.seed)))
    return drawn, kept


def _written(
    model: Model,
    arm: Arm,
    requests: Sequence[Request],
    moments: Moments,
    templates: Sequence[str],
    sequential: bool,
) -> list[Written]:
    """Every edit on its own, or on top of those before it, whose changes it then contains."""
    if arm.method is None:
        return [Written((), ())] * len(requests)
    if not sequential:
        written = write(model, requests, arm.method, moments, templates)
        return [replace(one, changes=_times(one.changes, arm.strength)) for one in written]
    piled: list[Written] = []
    before: Changes = ()
    for request in requests:
        (one,) = write(model, [request], arm.method, moments, templates, [before])
        before += _times(one.changes[len(before) :], arm.strength)
        piled.append(replace(one, changes=before))
    return piled


def _times(changes: Changes, strength: float) -> Changes:
    return tuple(one.times(strength) for one in changes)


def _models(written: Sequence[Written], sequential: bool) -> tuple[list[Changes], list[int]]:
    """The edited models there are, and under which each case is asked."""
    if sequential:
        return [written[-1].changes], [0] * len(written)
    return [one.changes for one in written], list(range(len(written)))


def _damage(
    model: Model,
    cases: Sequence[Case],
    edits: Sequence[Changes],
    owner: Sequence[int],
    neutral: Sequence[TokenPrompt],
) -> dict[str, list[float]]:
    asks = [
        Ask(i, case.facts[0].cloze, stop=None, n_tokens=N_FLUENCY)
        for i, case in zip(owner, cases, strict=True)
    ]
    out = {"fluency": [ngram_entropy(text) for text in generations(model, asks, edits)]}
    if neutral:
        found = drift(model, neutral, edits)
        out["kl"] = [float(found.kl[i]) for i in owner]
        out["perplexity"] = [float(found.perplexity[i]) for i in owner]
    return out


def _ask(number: int, question: Asked, case: Case, shots: Shots, told: str | None) -> Ask:
    """A question as the model sees it; in-context editing states the new facts first."""
    new = [] if told is None else zip(case.facts, case.targets, strict=True)
    facts = "".join(f"{fact.cloze} {target.text}.\n" for fact, target in new)
    examples = told or ""
    if question.cloze:
        return Ask(number, f"{examples}{facts}{question.text}", f"{examples}{facts}")
    return asking(replace(shots, prefix=examples + shots.prefix), question.text, number, facts)


def _row(question: Asked, case: Case, said: str, shots: Shots) -> dict[str, Any]:
    return row(case, question, short_answer(said) if question.cloze else shots.read(said))
