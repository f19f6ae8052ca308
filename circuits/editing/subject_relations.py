"""Relations that lead to a subject: what is asked of it, and the phrase that means it instead.

Numbers are Wikidata's, as in MQuAKE (arXiv 2305.14795); ``^`` marks the inverse of one. Those
without a number are further ones of the same kinds of subjects. ``subject_relations.txt`` has one
per line, its fields in the order of `SubjectRelation`.
"""

from dataclasses import dataclass
from pathlib import Path

from interp.data.records import read_text


@dataclass(frozen=True)
class SubjectRelation:
    """A relation between a source and a subject.

    Attributes:
        id: Wikidata's number, or a name.
        kind: of its subjects, as ``"France is a"`` is continued by.
        elicit: asks for sources, with ``{}`` for the subject.
        phrase: means the subject, with ``{}`` for a source.
        question: asks for the subject, with ``{}`` for a source.
    """

    id: str
    kind: str
    elicit: str
    phrase: str
    question: str


SUBJECT_RELATIONS = tuple(
    SubjectRelation(*line.split(" | "))
    for line in read_text(Path(__file__).with_suffix(".txt")).splitlines()
)
KINDS = tuple(dict.fromkeys(relation.kind for relation in SUBJECT_RELATIONS))
