"""Everything that is asked about a multi-hop case, the same under every condition."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case
from circuits.editing.evaluation.control_questions import CONTROLS, ControlKind, KnownQuestion

QuestionKind = Literal["efficacy", "paraphrase", "multi_hop", "hop"] | ControlKind
KINDS = ("efficacy", "paraphrase", "multi_hop", "hop", *CONTROLS)
"""``efficacy``: the edited cloze, without demonstrations; ``paraphrase``: the edited fact's
question; ``multi_hop``: the case's questions; ``hop``: each hop of the new chain; then controls."""


@dataclass(frozen=True)
class CaseQuestion:
    """One question of a case, or a cloze to be continued without demonstrations.

    `index` is of the edit, wording, hop or control; `expected` and `original` are the right answers
    after and before the edit.
    """

    kind: QuestionKind
    index: int
    text: str
    expected: Answer
    original: Answer
    cloze: bool = False


def case_questions(
    case: Case, controls: Mapping[ControlKind, Sequence[KnownQuestion]]
) -> list[CaseQuestion]:
    """What is asked about a case after its edit.

    The edited cloze and its question for each edit, the case's questions, each hop of the new
    chain (edited ones by cloze, others by question: MQuAKE's instance-wise), and the controls.
    """
    return [*_about_edits(case), *_about_chain(case), *_about_others(controls)]


def _about_edits(case: Case) -> Iterator[CaseQuestion]:
    rows = zip(case.facts, case.paraphrases, case.targets, case.originals, strict=True)
    for i, (fact, question, new, original) in enumerate(rows):
        yield CaseQuestion("efficacy", i, fact.cloze, new, original, cloze=True)
        yield CaseQuestion("paraphrase", i, question, new, original)


def _about_chain(case: Case) -> Iterator[CaseQuestion]:
    for i, text in enumerate(case.questions):
        yield CaseQuestion("multi_hop", i, text, case.new_answer, case.answer)
    originals = dict(zip(case.edited_hops, case.originals, strict=True))
    for i, hop in enumerate(case.new_hops):
        edited = i in originals
        text = hop.cloze if edited else hop.question
        yield CaseQuestion("hop", i, text, hop.answer, originals.get(i, hop.answer), edited)


def _about_others(
    controls: Mapping[ControlKind, Sequence[KnownQuestion]],
) -> Iterator[CaseQuestion]:
    for kind, questions in controls.items():
        for i, known in enumerate(questions):
            yield CaseQuestion(kind, i, known.text, known.answer, known.answer)
