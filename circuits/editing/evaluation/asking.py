"""Everything that is asked about a case, in one list, so that every arm is asked the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case
from circuits.editing.evaluation.probes import Known, ProbeKind

Kind = Literal["efficacy", "paraphrase", "multi_hop", "hop"] | ProbeKind
KINDS = (
    "efficacy",
    "paraphrase",
    "multi_hop",
    "hop",
    "same_relation",
    "same_answer",
    "neighbour",
    "control_two_hop",
)
"""``efficacy``: the edited cloze, without demonstrations; ``paraphrase``: the edited fact's
question; ``multi_hop``: the case's questions; ``hop``: each hop of the new chain; the others:
control questions."""


@dataclass(frozen=True)
class Asked:
    """One question of a case.

    Attributes:
        kind: of question, as in the table of answers.
        index: of the edit, wording, hop or probe.
        text: the question, or a cloze to be continued as it stands.
        expected: the right answer after the edit.
        original: the right answer before it.
        cloze: whether it is a cloze, asked without demonstrations.
        relation: of a single fact; for demonstrations of its relation.
    """

    kind: Kind
    index: int
    text: str
    expected: Answer
    original: Answer
    cloze: bool = False
    relation: str = ""


def asked(case: Case, probes: Mapping[ProbeKind, Sequence[Known]]) -> list[Asked]:
    """What is asked about a case after its edit.

    The edited cloze and its question for each edit, the case's questions, each hop of the new
    chain (edited ones by cloze, others by question: MQuAKE's instance-wise), and the probes.
    """
    return [*_about_edits(case), *_about_chain(case), *_about_others(probes)]


def _about_edits(case: Case) -> Iterator[Asked]:
    rows = zip(case.facts, case.paraphrases, case.originals, strict=True)
    for i, (fact, question, original) in enumerate(rows):
        new = question.answer
        yield Asked("efficacy", i, fact.cloze, new, original, True, fact.relation)
        yield Asked("paraphrase", i, question.text, new, original, False, fact.relation)


def _about_chain(case: Case) -> Iterator[Asked]:
    for i, text in enumerate(case.questions):
        yield Asked("multi_hop", i, text, case.new_answer, case.answer)
    originals = dict(zip(case.edited_hops, case.originals, strict=True))
    for i, (hop, relation) in enumerate(zip(case.new_hops, case.relations, strict=True)):
        edited = i in originals
        text = hop.cloze if edited else hop.question
        yield Asked("hop", i, text, hop.answer, originals.get(i, hop.answer), edited, relation)


def _about_others(probes: Mapping[ProbeKind, Sequence[Known]]) -> Iterator[Asked]:
    for kind, questions in probes.items():
        for i, known in enumerate(questions):
            relation = known.relations[0] if len(known.relations) == 1 else ""
            yield Asked(kind, i, known.text, known.answer, known.answer, relation=relation)
