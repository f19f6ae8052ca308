"""Asking what an edit card shows: without the edit, with it, and with the fact in the prompt."""

import contextlib
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from circuits.editing.change import Changes
from circuits.editing.edit import Edit, ledger, refuse_unwritable
from circuits.editing.evaluation.answers import Answer, normalised, short_answer
from circuits.editing.evaluation.card_questions import (
    FIRST,
    LAST,
    ChainFacts,
    sampled,
    shipped_facts,
)
from circuits.editing.evaluation.comparison_settings import N_QUESTIONS, EvaluationSettings
from circuits.editing.evaluation.control_questions import KnownQuestion
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.edit_card import EditCard
from circuits.editing.evaluation.edited_models import (
    Ask,
    asking,
    can_compare,
    drift,
    generations,
    option_log_p,
)
from circuits.editing.evaluation.fact_questions import COLUMNS, EditedFact, ask_facts
from circuits.editing.evaluation.metric_definitions import (
    ABILITIES,
    CONDITIONS,
    EDITED,
    IN_PROMPT,
    UNEDITED,
)
from circuits.editing.evaluation.run_setup import passages_of
from circuits.editing.fact import SLOT, Fact
from circuits.editing.fact_prompts import contrasts
from interp.brief import brief
from interp.data.pairs import load_pairs
from interp.errors import DataError, shown
from interp.model.model import Model

N_ABILITY = 10
"""Pairs of each."""
CANDIDATES = 2
"""Questions drawn for each that is wanted, of which those are used that the model knows."""
ELSEWHERE = "It was a quiet afternoon in the library. {}"
COMPLETE = "Complete the sentence: {}"
LONGEST_NAME = 6
"""Words of an old object, at most, that is taken from what the model writes."""


@brief
@dataclass(frozen=True)
class CardQuestion:
    """A question whose reply is generated; `old` is the answer that must no longer follow.

    `before` is the unedited model's reply, if it was asked already.
    """

    fact: int
    kind: str
    index: int
    text: str
    prefix: str
    expected: Answer
    old: Answer | None = None
    before: str | None = None


def own_objects(model: Model, facts: Sequence[Fact], given: Sequence[str] | None) -> list[Answer]:
    """The old object of each fact: as given, or the unedited model's answer to its question.

    A fact without one asks to complete its sentence. `DataError` where the answer is no short name,
    or the new object.
    """
    if given:
        if not len(given) == len(facts) == sum(bool(normalised(name)) for name in given):
            raise DataError(
                f"{len(facts)} facts need as many old objects by name, not {shown(list(given))}."
            )
        return [Answer(name) for name in given]
    forms = [fact.asked or COMPLETE.replace(SLOT, fact.cloze) for fact in facts]
    shots = [replace(SHOTS, chat=fact.chat) for fact in facts]
    asks = [asking(one, text) for one, text in zip(shots, forms, strict=True)]
    found: list[Answer] = []
    for fact, text in zip(facts, generations(model, asks, [()]), strict=True):
        name = short_answer(text).rstrip(".")
        words = normalised(name)
        if not 0 < len(words) <= LONGEST_NAME or Answer(fact.target).lenient(name):
            raise DataError(
                f"{model.name} completes {shown(fact.cloze)} with {shown(short_answer(text))}, "
                "which is no old object; say what it is with `--old`, or old=."
            )
        found.append(Answer(name))
    return found


def paraphrased(fact: Fact) -> list[tuple[str, str]]:
    """A fact in other words, each with the demonstrations before it."""
    asked = [COMPLETE.replace(SLOT, fact.cloze), *([fact.asked] if fact.question else [])]
    questions = [(SHOTS.suffix(text), SHOTS.prefix) for text in asked]
    return [*questions, (ELSEWHERE.replace(SLOT, fact.cloze), "")]


def questions_of(
    model: Model, facts: Sequence[EditedFact], edit: Edit, data: ChainFacts, k: int, seed: int
) -> tuple[list[CardQuestion], list[EditedFact], Counter[str]]:
    """What is generated for the card, of what the unedited model knows.

    Returns also the facts with what implies them, and how many questions could not be formed, are
    not known, or ask about what else the edit was given (`why_unscored`), by reason.
    """
    missing: Counter[str] = Counter()
    fixed: list[CardQuestion] = []
    drawn: list[tuple[CardQuestion, list[tuple[str, Answer]], tuple[str, ...]]] = []
    implied: list[tuple[KnownQuestion, ...]] = []
    for i, one in enumerate(facts):
        fixed.append(CardQuestion(i, "efficacy", 0, one.fact.cloze, "", one.new, one.old))
        for n, (text, prefix) in enumerate(paraphrased(one.fact)):
            fixed.append(CardQuestion(i, "paraphrase", n, text, prefix, one.new, one.old))
        relation = data.relation(one)
        implied.append(data.implying(relation, one))
        if not relation:
            missing[f"same relation: {shown(one.fact.prompt)} is of no relation in the data"] += 1
        composed, absent = data.composed(one, relation)
        missing += absent
        for kind in (FIRST, LAST):
            for n, q in enumerate(sampled(composed, kind, CANDIDATES * k, seed)):
                made = CardQuestion(i, kind, n, SHOTS.suffix(q.text), SHOTS.prefix, q.new, q.old)
                drawn.append((made, [(q.text, q.old), *q.needs], ()))
        for kind, known in data.controls(one, relation, CANDIDATES * k, seed).items():
            for n, q in enumerate(known):
                made = CardQuestion(i, kind, n, SHOTS.suffix(q.text), SHOTS.prefix, q.answer)
                drawn.append((made, [(q.text, q.answer)], q.subjects))
    needed = {q.text: q.answer for questions in implied for q in questions}
    asked = {text: None for _, needs, _ in drawn for text, _ in needs} | dict.fromkeys(needed)
    shots = replace(SHOTS, chat=facts[0].fact.chat)
    replies = generations(model, [asking(shots, text) for text in asked], [()])
    said = {text: SHOTS.read(reply) for text, reply in zip(asked, replies, strict=True)}
    used: Counter[tuple[int, str]] = Counter()
    for question, needs, subjects in drawn:
        at = (question.fact, question.kind)
        if used[at] == k:
            continue
        why = why_unscored(question, [*dict(needs), *subjects], facts, edit)
        if not all(answer.lenient(said[text]) for text, answer in needs):
            why = "not answered rightly before the edit"
        if why:
            missing[f"{question.kind}: {why}"] += 1
            continue
        used[at] += 1
        fixed.append(replace(question, before=said[needs[0][0]]))
    known = [
        replace(one, implying=tuple(q for q in own if q.answer.lenient(said[q.text])))
        for one, own in zip(facts, implied, strict=True)
    ]
    return fixed, known, missing


def why_unscored(
    question: CardQuestion, texts: Sequence[str], facts: Sequence[EditedFact], edit: Edit
) -> str:
    """What else its edit was given bears on a drawn question; or nothing.

    `texts` are the question's own, then those it rests on and, of a control, its entities.
    """
    one = facts[question.fact]
    for other in (other for other in facts if other is not one):
        same = other.subject.overlaps(one.subject)  # which composed questions ask the fact of
        if question.kind == "neighbour" if same else any(map(other.subject.lenient, texts)):
            return "about the subject of another fact of the edit"
    beside = (q for fact in edit.facts for q in contrasts(fact, edit.preserve))
    for kept in (*edit.preserve, *beside):
        named = any(map(Answer(kept.subject).lenient, texts))
        about = named and not one.subject.lenient(kept.subject)
        if about or normalised(kept.text) == normalised(texts[0]):
            return "given to the edit to preserve"
    return ""


def replies_of(
    model: Model,
    questions: Sequence[CardQuestion],
    facts: Sequence[EditedFact],
    changes: Changes,
    stated: str,
) -> list[dict[str, Any]]:
    """Rows of what is generated, with `fact_questions.COLUMNS` and the ``condition``.

    A multi-hop question that gets its old answer, and not the new one, is a hit of
    ``leakage_multi_hop``, too.
    """
    asked: list[tuple[str, CardQuestion, Ask]] = []
    for condition in CONDITIONS:
        before = stated if condition == IN_PROMPT else ""
        for question in questions:
            if condition == UNEDITED and question.before is not None:
                continue
            prefix, chat = question.prefix + before, facts[question.fact].fact.chat
            options = (prefix, SHOTS.stop, SHOTS.n_tokens, chat)
            ask = Ask(int(condition == EDITED), prefix + question.text, *options)
            asked.append((condition, question, ask))
    replies = generations(model, [ask for *_, ask in asked], [(), changes])
    found = [(UNEDITED, q, q.before) for q in questions if q.before is not None]
    for (condition, question, _), text in zip(asked, replies, strict=True):
        found.append((condition, question, short_answer(text)))
    rows: list[dict[str, Any]] = []
    for condition, question, reply in found:
        expected, old = question.expected, question.old
        hit, at = expected.lenient(reply), {"condition": condition}
        rows.append(_row(question, question.kind, expected.text, reply, hit) | at)
        if question.kind in (FIRST, LAST) and old is not None:
            leaked = old.lenient(reply) and not hit
            rows.append(_row(question, "leakage_multi_hop", old.text, reply, leaked) | at)
    return rows


def _row(question: CardQuestion, kind: str, expected: str, reply: str, hit: bool) -> dict[str, Any]:
    index = question.index + (1000 if kind != question.kind and question.kind == LAST else 0)
    text = question.text.removeprefix("Q: ").removesuffix("\nA:")
    values = (question.fact, kind, index, text, expected, reply, np.nan, hit)
    return dict(zip(COLUMNS, values, strict=True))


def abilities(
    model: Model, subjects: Sequence[Answer], edits: Mapping[str, Changes]
) -> tuple[pd.DataFrame, Counter[str]]:
    """Whether the right answer of each pair is likelier than the wrong one, under each edit.

    Pairs that mention one of the subjects are left out and counted; ``kind`` names the pair set.
    """
    missing: Counter[str] = Counter()
    asked: list[tuple[str, int, Ask, tuple[str, str]]] = []
    for name in ABILITIES:
        n = 0
        for pair in load_pairs(name):
            if n == N_ABILITY:
                break
            ask, options = Ask(0, pair.clean), (pair.answer, pair.wrong_answer)
            if any(subject.lenient(pair.clean) for subject in subjects):
                missing[f"{name}: the pair mentions an edited or preserved subject"] += 1
            elif not can_compare(model, ask, options):
                missing[f"{name}: an answer merges with the end of the prompt"] += 1
            else:
                asked.append((name, n, ask, options))
                n += 1
    rows: list[dict[str, Any]] = []
    for number, condition in enumerate(edits):
        asks = [replace(ask, edit=number) for _, _, ask, _ in asked]
        log_p = option_log_p(model, asks, [own for *_, own in asked], list(edits.values()))
        for (name, n, ask, (answer, other)), (right, wrong) in zip(asked, log_p, strict=True):
            reply = answer if right > wrong else other
            values = (-1, name, n, ask.text, answer, reply, right - wrong, right > wrong)
            rows.append(dict(zip(COLUMNS, values, strict=True)) | {"condition": condition})
    return pd.DataFrame(rows), missing


def measured(
    model: Model, facts: Sequence[EditedFact], edit: Edit, data: ChainFacts, k: int, seed: int
) -> tuple[pd.DataFrame, Counter[str]]:
    """All questions of an edit's facts under `CONDITIONS`, and what was left out, by reason.

    Rows are those of `fact_questions.ask_facts` with their ``condition``.
    """
    questions, facts, missing = questions_of(model, facts, edit, data, k, seed)
    statements = "".join(f"{one.fact.cloze} {one.new.text}.\n" for one in facts)
    generated = pd.DataFrame(replies_of(model, questions, facts, edit.changes, statements))
    n = len(facts)
    compared, absent = ask_facts(
        model,
        [*facts] * len(CONDITIONS),
        [(), edit.changes],
        [int(name == EDITED) for name in CONDITIONS for _ in facts],
        [statements if name == IN_PROMPT else "" for name in CONDITIONS for _ in facts],
    )
    compared["condition"] = [CONDITIONS[i // n] for i in compared["fact"]]
    compared["fact"] %= n
    missing += sum(absent[:n], Counter[str]())  # the same wordings under every condition
    subjects = [*(one.subject for one in facts), *(Answer(q.subject) for q in edit.preserve)]
    able, left_out = abilities(model, subjects, {UNEDITED: (), EDITED: edit.changes})
    return pd.concat([generated, compared, able], ignore_index=True), missing + left_out


def card(
    model: Model, edit: Edit, *, old: Sequence[str] = (), n: int = N_QUESTIONS, seed: int = 0
) -> EditCard:
    """Measure what an edit does to a model: what a person should know before trusting it.

    Args:
        model: with or without the edit; it is left as it was.
        edit: made for this model as it is without the edit.
        old: the object of each fact before the edit; by default what the unedited model says.
        n: questions of each kind that are drawn from data, at most.
        seed: of what is drawn.

    Raises:
        DataError: the edit was made for other weights or on top of edits that the model lacks, or
            an old object is not given and the model says none.
        PlanError: the model's weights cannot be changed.
    """
    if n < 1:
        raise DataError(f"n is {n}; ask at least one question of each kind.")
    started = time.perf_counter()
    refuse_unwritable(model)
    with _without(model, edit):
        objects = own_objects(model, edit.facts, old)
        facts = [
            EditedFact(fact, Answer(fact.target), before, Answer(fact.subject))
            for fact, before in zip(edit.facts, objects, strict=True)
        ]
        rows, missing = measured(model, facts, edit, shipped_facts(), n, seed)
        passages = passages_of(
            model, EvaluationSettings.model_validate({"neutral": "neutral_text"})
        )
        moved = [drift(model, [passage], [edit.changes]) for passage in passages]
    return EditCard(
        rows,
        pd.DataFrame([{"kl": float(kl[0]), "nll": float(ratio[0].log())} for kl, ratio in moved]),
        edit.id,
        edit.method,
        model.name,
        edit.weights_hash,
        tuple(f"{fact.cloze} {fact.target}" for fact in edit.facts),
        tuple(answer.text for answer in objects),
        bool(old),
        dict(missing),
        _cost(model, edit),
        time.perf_counter() - started,
    )


@contextlib.contextmanager
def _without(model: Model, edit: Edit) -> Generator[None]:
    """The model without an edit, which it gets back if it carried it."""
    if any(one.id == edit.id for one in ledger(model).applied):
        edit.undo(model)
        try:
            yield
        finally:
            edit.apply(model)
        return
    with edit.applied(model):  # refused where it was made for other weights
        pass
    yield


def _cost(model: Model, edit: Edit) -> dict[str, float]:
    factors = [factor for change in edit.changes for factor in (change.up, change.down)]
    parameters = sum(p.numel() for p in model.hf.parameters())
    changed = sum(len(change.up) * len(change.down) for change in edit.changes)
    return {
        "seconds": round(edit.seconds, 1),
        "changed weight matrices": len(edit.changes),
        "rank, summed": sum(change.up.shape[1] for change in edit.changes),
        "bytes": sum(factor.numel() * factor.element_size() for factor in factors),
        "share of the weights in changed matrices": changed / parameters,
    }
