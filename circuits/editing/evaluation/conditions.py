"""Editing every case under a condition, and asking what became of the model.

Each case is edited on its own and asked under its own edit alone, many side by side; or the edits
are made one on top of the other, and all questions asked after the last.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from circuits.editing.change import Changes
from circuits.editing.evaluation.answers import short_answer, thoughts
from circuits.editing.evaluation.card_questions import ChainFacts
from circuits.editing.evaluation.cases import MULTI_HOP_FORMATS, Case
from circuits.editing.evaluation.control_questions import (
    QuestionPool,
    control_questions,
    pools_apart,
    preservation_set,
    preserved_of,
)
from circuits.editing.evaluation.demonstrations import SHOTS, Shots
from circuits.editing.evaluation.edited_models import Ask, asking, drift, generations, ngram_entropy
from circuits.editing.evaluation.fact_questions import EditedFact, ask_facts, fact_scores
from circuits.editing.evaluation.multihop_metrics import CaseQuestion, case_questions, row
from circuits.editing.evaluation.single_edits import ASK, N_OTHERS, N_TOKENS, EditedModels
from circuits.editing.fact import PreservedQuestion
from circuits.editing.fact_prompts import BARE
from circuits.editing.methods import Method
from circuits.editing.moments import Moments
from circuits.editing.writing import Request, Written, write
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.forward.budget import peak_memory
from interp.model.model import Model
from interp.results.run_folder import TABLES, Steps

SHARD = 32
"""Cases that run side by side, and that a killed run loses at most."""
N_FLUENCY = 50
"""Tokens that an edited model continues each prompt by, for fluency."""
N_CONTROLS, N_PRESERVED = 2, 8
"""Control and preserved questions of a kind, at most."""
Writer = Callable[..., list[Written]]
"""`write`, given all but the requests and the changes that they start with."""


@dataclass(frozen=True)
class EditCondition:
    """One way to change a model, or none.

    Attributes:
        method: how weights are edited; ``None`` leaves them.
        in_prompt: the edits are stated in the prompt, behind these demonstrations of how stated
            facts are used, possibly none (``""``); ``None`` states nothing.
        strength: how much of every change is made; a closed form at less of its strength
            propagates less and breaks less. Not for ``ace``, whose neurons fire otherwise when
            scaled: the threshold of its layer selection trades the two.
    """

    name: str
    method: Method | None = None
    in_prompt: str | None = None
    strength: float = 1.0


@brief
@dataclass(frozen=True)
class Protocol:
    """What all conditions have in common.

    Attributes:
        format: of the cases, a name in `circuits.editing.evaluation.formats.FORMATS`.
        plain: for single edits, replies of the unedited model by prompt.
        shots, pool: for multi-hop cases, the demonstrations before each question and the known
            questions, from which controls and preserved questions are drawn.
        neutral: passages on which drift is measured; without any it is not.
        sequential: whether edits are made one on top of the other and all questions asked after
            the last; the cases must stand side by side (`cases.side_by_side`).
        fact_questions: whether each edited fact is denied, checked and turned round, too.
    """

    shots: Shots = SHOTS
    pool: QuestionPool = QuestionPool({}, {})
    format: str = "mquake"
    seed: int = 0
    neutral: tuple[TokenPrompt, ...] = ()
    sequential: bool = False
    fact_questions: bool = True
    plain: Mapping[str, str] = field(default_factory=dict)


def evaluate_condition(
    model: Model,
    condition: EditCondition,
    cases: Sequence[Any],
    protocol: Protocol,
    moments: Moments,
    templates: Sequence[str] = BARE,
    steps: Steps | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Edit every case, of those that the model knows, and ask its questions.

    The model's weights are not touched. `moments` are of the projections that the method writes
    to, `templates` contexts of clozes; `steps` keeps finished shards, which are not computed
    again; `progress` is called with (cases done, cases in all).

    Returns:
        The answers (rows of `multihop_metrics` or `single_edits`), and one line per case: seconds
        of the edit; peak memory above that before, in GB, of all edits made side by side; the
        target's probability reached in each stage; what a stage left out; `SIDE_EFFECTS`; and
        `FACT_METRICS` with what could not be asked.
    """
    found: list[dict[str, pd.DataFrame]] = []
    at_once = len(cases) if protocol.sequential else SHARD
    report, kept = progress or (lambda done, total: None), steps or Steps()
    report(0, len(cases))
    method: Any = condition.method
    writer = partial(write, model, method=method, moments=moments, templates=templates)
    for lo in range(0, len(cases), at_once):
        shard = cases[lo : lo + at_once]
        make = partial(_evaluated, model, condition, shard, protocol, writer)
        name = f"{condition.name}.{protocol.seed}/{lo:06d}+{len(shard)}"
        found.append(kept.step(name, make, TABLES))
        report(lo + len(shard), len(cases))
    answers, edits = (
        pd.concat([shard[name] for shard in found], ignore_index=True).assign(
            condition=condition.name, seed=protocol.seed
        )
        for name in ("answers", "edits")
    )
    return answers, edits


def _evaluated(
    model: Model, condition: EditCondition, cases: Sequence[Any], protocol: Protocol, writer: Writer
) -> dict[str, pd.DataFrame]:
    multi_hop = protocol.format in MULTI_HOP_FORMATS
    questions, preserved = _questions(cases, protocol) if multi_hop else ([], [()] * len(cases))
    requests = [Request(c.facts, k) for c, k in zip(cases, preserved, strict=True)]
    started = time.perf_counter()
    with peak_memory(model.device) as peak:
        written = _written(condition, requests, writer, protocol.sequential)
        peak_gb = peak()
    seconds = (time.perf_counter() - started) / len(cases)
    edits, owner = [one.changes for one in written], list(range(len(cases)))
    if protocol.sequential:
        edits, owner = edits[-1:], [0] * len(cases)
    before = [stated(case, condition.in_prompt) for case in cases]
    n_tokens = N_TOKENS.get(protocol.format, N_OTHERS)
    models = EditedModels(model, edits, owner, before, dict(protocol.plain), n_tokens)
    if multi_hop:
        asks = [_ask(owner[i], q, cases[i], protocol.shots, condition) for i, q in questions]
        texts = generations(model, asks, edits)
        rows = [
            row(cases[i], q, *_read(q, text, protocol.shots))
            for (i, q), text in zip(questions, texts, strict=True)
        ]
    else:
        rows = ASK[protocol.format](models, cases)
    lines = {
        "case": [case.id for case in cases],
        "seconds": seconds,
        "peak_gb": peak_gb,
        "p": [json.dumps(one.p) for one in written],
        "skipped": [json.dumps(one.skipped) for one in written],
        **_side_effects(models, cases, protocol.neutral),
        **(_of_facts(models, cases, protocol.pool) if protocol.fact_questions else {}),
    }
    return {"answers": pd.DataFrame(rows), "edits": pd.DataFrame(lines)}


def _questions(
    cases: Sequence[Case], protocol: Protocol
) -> tuple[list[tuple[int, CaseQuestion]], list[tuple[PreservedQuestion, ...]]]:
    """What is asked about each case, by its number; and what its editor may see to preserve."""
    pools, taken = [protocol.pool] * len(cases), set[str]()
    if protocol.sequential:
        pools = pools_apart(protocol.pool, cases)
    pairs = zip(cases, pools, strict=True)
    controls = [control_questions(case, pool, N_CONTROLS, protocol.seed) for case, pool in pairs]
    if protocol.sequential:  # one model is edited: what one case is scored by no other may preserve
        known = (q for own in controls for drawn in own.values() for q in drawn)
        taken = {name for one in (*known, *cases) for name in one.subjects}
        taken |= {name for case in cases for name in case.new_subjects}
    questions: list[tuple[int, CaseQuestion]] = []
    preserved: list[tuple[PreservedQuestion, ...]] = []
    for i, (case, pool, own) in enumerate(zip(cases, pools, controls, strict=True)):
        questions += [(i, question) for question in case_questions(case, own)]
        drawn = preservation_set(case, pool, own, N_PRESERVED, protocol.seed, taken)
        preserved.append(preserved_of(drawn))
    return questions, preserved


def _written(
    condition: EditCondition, requests: Sequence[Request], writer: Writer, sequential: bool
) -> list[Written]:
    """Every edit on its own, or on top of those before it, whose changes it then contains."""
    if condition.method is None:
        return [Written((), ())] * len(requests)

    def scaled(changes: Changes) -> Changes:
        return tuple(replace(one, up=condition.strength * one.up) for one in changes)

    if not sequential:
        return [replace(one, changes=scaled(one.changes)) for one in writer(requests)]
    piled: list[Written] = []
    before: Changes = ()
    for request in requests:
        seen = tuple(statistics for one in piled for statistics in one.statistics)
        (one,) = writer([replace(request, seen=seen)], start=[before])
        before += scaled(one.changes[len(before) :])
        piled.append(replace(one, changes=before))
    return piled


def _side_effects(
    models: EditedModels, cases: Sequence[Any], neutral: Sequence[TokenPrompt]
) -> dict[str, list[float]]:
    asks = [
        [Ask(i, text, stop=None, n_tokens=N_FLUENCY) for text in case.continued]
        for i, case in zip(models.owner, cases, strict=True)
    ]
    texts = iter(generations(models.model, [ask for own in asks for ask in own], models.edits))
    out = {"fluency": [float(np.mean([ngram_entropy(next(texts)) for _ in own])) for own in asks]}
    if neutral:
        kl, ratio = drift(models.model, neutral, models.edits)
        out["kl"] = [float(kl[i]) for i in models.owner]
        out["perplexity_ratio"] = [float(ratio[i]) for i in models.owner]
    return out


def _read(question: CaseQuestion, text: str, shots: Shots) -> tuple[str, str | None]:
    """The answer in a generated text, and the thoughts before it, if it was to have any."""
    if question.cloze:
        return short_answer(text), None
    return shots.read(text), thoughts(text) if shots.reasoned else None


def _of_facts(
    models: EditedModels, cases: Sequence[Any], pool: QuestionPool
) -> dict[str, list[Any]]:
    """`FACT_METRICS` of each case, and as JSON the wordings that could not be formed."""
    known = ChainFacts(pool)
    facts: list[EditedFact] = []
    case_of: list[int] = []
    for i, case in enumerate(cases):
        about = (case.facts, case.targets, case.originals, case.edited_subjects)
        for one in map(EditedFact, *about):
            facts.append(replace(one, implying=known.implying(one.fact.relation, one)))
            case_of.append(i)
    owner, before = [models.owner[i] for i in case_of], [models.before[i] for i in case_of]
    rows, missing = ask_facts(models.model, facts, models.edits, owner, before)
    scores: Any = fact_scores(rows.assign(case=[case_of[i] for i in rows["fact"]]), ["case"])
    unformed = [Counter[str]() for _ in cases]
    for i, counts in zip(case_of, missing, strict=True):
        unformed[i] += counts
    return {
        **scores.reindex(range(len(cases))).to_dict("list"),
        "unformed": [json.dumps(counts) for counts in unformed],
    }


def stated(case: Any, demonstrations: str | None) -> str:
    """The text that states a case's edits in the prompt, behind demonstrations; or nothing."""
    if demonstrations is None:
        return ""
    edits = zip(case.facts, case.targets, strict=True)
    return demonstrations + "".join(f"{fact.cloze} {target.text}.\n" for fact, target in edits)


def _ask(
    number: int, question: CaseQuestion, case: Case, shots: Shots, condition: EditCondition
) -> Ask:
    """A question as the model sees it; in-context editing states the new facts first."""
    examples, before = condition.in_prompt or "", stated(case, condition.in_prompt)
    if question.cloze:
        return Ask(number, before + question.text, before, chat=shots.chat)
    behind = replace(shots, prefix=examples + shots.prefix)
    return asking(behind, question.text, number, before.removeprefix(examples))
