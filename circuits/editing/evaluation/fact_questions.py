"""What is asked about an edited fact beyond its prompt: denied, checked, and turned round.

Questions are made of the fact's own words by the templates of `statements`; a wording that a
prompt does not allow is counted, never dropped unseen. `ask_facts` asks them of edited models and
gives a row per question; `metric_definitions` says what each kind measures.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuits.editing.change import Changes
from circuits.editing.evaluation.answers import Answer, short_answer
from circuits.editing.evaluation.control_questions import KnownQuestion
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.edited_models import Ask, can_compare, generations, option_log_p
from circuits.editing.evaluation.statements import (
    BLANK,
    blanked,
    inside,
    negated,
    opening,
    statement,
    turned_round,
)
from circuits.editing.fact import SLOT, Fact
from interp.brief import brief
from interp.model.model import Model

PAIRED = {
    "negation_shift": ("affirmation", "negation"),
    "fact_check": ("affirms_new", "denies_old"),
    "reversal_shift": ("subject_by_new", "subject_by_old"),
}
"""Kinds that are made of two others, wording by wording: their margins are added."""
FACT_KINDS = (
    *("affirmation", "negation", "negation_shift"),
    *("fact_check", "affirms_new", "denies_old"),
    *("reversal", "reversal_shift", "leakage"),
)
MARGINS = tuple(f"{name}_margin" for name in PAIRED)
FACT_METRICS = (*FACT_KINDS, *MARGINS)
"""Columns of `fact_scores`: by kind the share of a case's questions that are a hit; margins in nats
of what is made of two kinds."""
FRAMES = (
    ("It is true that {}", "It is not true that {}"),
    ("It is right to say that {}", "It is wrong to say that {}"),
)
"""An affirmation and its denial, beside the fact's own prompt and that with ``not``."""
CHECKS = ("Is it true that {}?", "{}. Is that right?", "Is it correct to say that {}?")
YES_NO = ("Yes", "No")
CHECKED = (
    "Q: Is it true that the Minotaur was killed by Theseus?\nA: Yes\n\n"
    "Q: Spectacles rest on the elbow. Is that right?\nA: No\n\n"
    "Q: Is it correct to say that the organ that pumps the blood is the heart?\nA: Yes\n\n"
    "Q: Is it true that a word of opposite meaning is called a riddle?\nA: No\n\n"
)
"""Demonstrations of checks, as many right as wrong, of entities that no case is about."""
FILLED = (
    f"Sentence: {BLANK} was killed by Theseus.\nBlank: The Minotaur\n\n"
    f"Sentence: The organ that pumps the {BLANK} is the heart.\nBlank: blood\n\n"
    f"Sentence: A word of {BLANK} meaning is called an antonym.\nBlank: opposite\n\n"
)
COLUMNS = ("fact", "kind", "index", "text", "expected", "reply", "margin", "hit")
N_REVERSED = 8
"""Tokens of a subject that is asked for, at most."""


@brief
@dataclass(frozen=True)
class EditedFact:
    """A fact with the names of its subject and of its object after and before the edit.

    `old` is ``None`` where no object before is known. `implying` are known questions about the old
    object whose answer is the subject, from which the old fact follows.
    """

    fact: Fact
    new: Answer
    old: Answer | None
    subject: Answer
    implying: tuple[KnownQuestion, ...] = ()


@brief
@dataclass(frozen=True)
class FactQuestion:
    """A text behind demonstrations, and two options of which the first is right after the edit.

    Or one option, whose own likelihood is read. Without options the subject is what is asked for,
    and the reply is generated.
    """

    kind: str
    index: int
    text: str
    shown: str = ""
    options: tuple[str, ...] = ()

    def ask(self, edit: int, before: str, fact: Fact) -> Ask:
        """The question under the edit of a number, behind text that states it in the prompt."""
        prefix = self.shown + before
        return Ask(edit, prefix + self.text, prefix, n_tokens=N_REVERSED, chat=fact.chat)


def fact_questions(one: EditedFact) -> tuple[list[FactQuestion], Counter[str]]:
    """The questions about a fact, and how many wordings could not be formed, by reason."""
    fact, missing = one.fact, Counter[str]()
    found = _turned(one, one.new, "reversal", missing)
    if one.old is None:
        missing["negation, checks, leakage: the old object is not known"] += 1
        return found, missing
    found += _turned(one, one.old, "leakage", missing)
    found += [
        FactQuestion("leakage", 2 + i, SHOTS.suffix(known.text), SHOTS.prefix)
        for i, known in enumerate(one.implying)
    ]
    sentence = opening(fact).replace(SLOT, fact.subject)
    begun = inside(sentence)
    framed = ((yes.replace(SLOT, begun), no.replace(SLOT, begun)) for yes, no in FRAMES)
    frames = [(sentence, negated(fact)), *framed]
    if not frames[0][1]:
        missing["negation in place: no copula in the prompt"] += 1
    new_old = (one.new.text, one.old.text)
    for i, (affirmed, denied) in enumerate(frames):
        found.append(FactQuestion("affirmation", i, affirmed, options=new_old))
        if denied:
            found.append(FactQuestion("negation", i, denied, options=new_old[::-1]))
    checks = (("affirms_new", one.new, YES_NO), ("denies_old", one.old, YES_NO[::-1]))
    for i, form in enumerate(CHECKS):
        for kind, name, options in checks:
            sentence = statement(fact, name.text)
            text = form.replace(SLOT, sentence if form.startswith(SLOT) else inside(sentence))
            found.append(FactQuestion(kind, i, f"Q: {text}\nA:", CHECKED, options))
    return found, missing


def _turned(
    one: EditedFact, named: Answer, kind: Literal["reversal", "leakage"], missing: Counter[str]
) -> list[FactQuestion]:
    """The subject asked for by a sentence with a blank, and by one that is turned round."""
    asked = [(f"Sentence: {blanked(one.fact, named.text)}.\nBlank:", FILLED)]
    if turned := turned_round(one.fact, named.text):
        asked.append((turned, ""))
    else:
        missing[f"{kind} as a sentence turned round: the prompt is not '… {{}} is'"] += 1
    by = "subject_by_new" if kind == "reversal" else "subject_by_old"
    own = (one.fact.subject,)
    return [
        question
        for i, (text, shown) in enumerate(asked)
        for question in (FactQuestion(kind, i, text, shown), FactQuestion(by, i, text, shown, own))
    ]


def ask_facts(
    model: Model,
    facts: Sequence[EditedFact],
    edits: Sequence[Changes],
    owner: Sequence[int],
    before: Sequence[str],
) -> tuple[pd.DataFrame, list[Counter[str]]]:
    """Ask every fact's questions, each fact under its own edit and behind its own text.

    Returns:
        A row per question: ``fact`` (its number), ``kind``, ``index`` (the wording), ``text``,
        ``expected``, ``reply``, ``margin`` (by how much the first option is likelier, in nats; NaN
        of generated replies) and ``hit``, what the metric counts. And per fact the wordings that
        could not be formed, by reason.
    """
    formed = [fact_questions(one) for one in facts]
    missing = [Counter(counts) for _, counts in formed]
    asked: list[tuple[int, FactQuestion, Ask]] = []
    for i, (questions, _) in enumerate(formed):
        for question in questions:
            ask = question.ask(owner[i], before[i], facts[i].fact)
            if can_compare(model, ask, question.options):
                asked.append((i, question, ask))
            else:
                missing[i][f"{question.kind}: an option merges with the end of the question"] += 1
    compared = [one for one in asked if one[1].options]
    options = [question.options for _, question, _ in compared]
    rows: list[dict[str, Any]] = []
    log_p = option_log_p(model, [ask for *_, ask in compared], options, edits)
    for (i, question, ask), values in zip(compared, log_p, strict=True):
        margin = values[0] - values[1] if len(values) > 1 else values[0]
        margin *= -1 if question.kind == "subject_by_old" else 1
        reply = question.options[-1 if margin <= 0 else 0]
        rows.append(_row(i, question, ask, question.options[0], reply, margin, margin > 0))
    rows += _paired(rows)
    open_ended = [one for one in asked if not one[1].options]
    replies = generations(model, [ask for *_, ask in open_ended], edits)
    for (i, question, ask), text in zip(open_ended, replies, strict=True):
        reply, subject = short_answer(text), facts[i].subject
        rows.append(_row(i, question, ask, subject.text, reply, np.nan, subject.lenient(reply)))
    return pd.DataFrame(rows, columns=list(COLUMNS)), missing


def _row(
    fact: int, question: FactQuestion, ask: Ask, expected: str, reply: str, margin: float, hit: bool
) -> dict[str, Any]:
    text = ask.text.removeprefix(ask.prefix)
    values = (fact, question.kind, question.index, text, expected, reply, margin, bool(hit))
    return dict(zip(COLUMNS, values, strict=True))


def _paired(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `PAIRED`: a bias to one option, whatever is asked, is in both margins and cancels."""
    at = {(row["fact"], row["kind"], row["index"]): row for row in rows}
    found: list[dict[str, Any]] = []
    for name, (first, second) in PAIRED.items():
        for (fact, kind, index), one in at.items():
            other = at.get((fact, second, index))
            if kind == first and other is not None:
                margin = one["margin"] + other["margin"]
                text = f"{one['text']} / {other['text']}"
                about = {"kind": name, "text": text, "expected": "", "reply": ""}
                found.append({**one, **about, "margin": margin, "hit": bool(margin > 0)})
    return found


def fact_scores(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Columns `FACT_METRICS`, one line per group: shares of hits, and mean margins in nats.

    NaN where a group has no question of a kind.
    """
    valued: Any = rows.assign(hit=rows["hit"].astype(float))
    means = valued.groupby([*by, "kind"])[["hit", "margin"]].mean().unstack()
    shares = means["hit"].reindex(columns=list(FACT_KINDS))
    margins = means["margin"].reindex(columns=[name.removesuffix("_margin") for name in MARGINS])
    margins.columns = list(MARGINS)
    return pd.concat([shares, margins], axis=1)


def unformed(edits: pd.DataFrame) -> dict[str, int]:
    """How many questions could not be formed, by reason, of a table with a line per case."""
    if "unformed" not in edits:
        return {}
    first: Any = edits.drop_duplicates("case")["unformed"]  # alike under all conditions
    return dict(sum(map(Counter, map(json.loads, first)), Counter()))
