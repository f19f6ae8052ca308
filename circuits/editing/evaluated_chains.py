"""`EvaluatedChain`: what an evaluation asks, and whether a description shows any of it."""

from dataclasses import dataclass

from circuits.editing.evaluation.answers import Answer
from interp.brief import brief

TESTED_ENTITY = "it is about an entity of the tested chain"
TESTED_RELATION = "it takes the tested relation"
TESTED_WORDING = "it is worded as a tested question"
"""Why an evaluation forbids a description."""


@brief
@dataclass(frozen=True)
class EvaluatedChain:
    """What an evaluation asks about a fact, of which no implicit subject may show anything.

    Attributes:
        questions: the tested questions.
        entities: of the tested chain, before and after the edit, but the edited subject.
        relations: that lead to the edited subject there, by the ids of `SUBJECT_RELATIONS`.
        aliases: other names of the edited subject, which count as its name everywhere.
    """

    questions: tuple[str, ...] = ()
    entities: tuple[Answer, ...] = ()
    relations: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """A phrase for a subject: a relation's, with a source, or the model's own, without."""

    phrase: str
    question: str
    relation: str = "description"
    source: str = ""

    def leaks(self, tested: EvaluatedChain) -> str:
        """Why an evaluation forbids it; empty where it does not."""
        about = any(entity.lenient(self.phrase) for entity in tested.entities)
        source = Answer(self.source)
        if about or (self.source and any(source.lenient(text) for text in tested.questions)):
            return TESTED_ENTITY
        if self.relation in tested.relations:
            return TESTED_RELATION
        head, _, tail = self.phrase.partition(self.source) if self.source else (self.phrase, "", "")
        names = [name for entity in tested.entities for name in entity.names]
        worded = [f"{head}{name}{tail}" for name in (names if self.source else [""])]
        if any(Answer(text).lenient(asked) for text in worded for asked in tested.questions):
            return TESTED_WORDING
        return ""
