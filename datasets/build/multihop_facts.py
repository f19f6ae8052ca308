"""The hand-written facts of the multi-hop set, and how they are put into words.

knowledge = load_knowledge()
knowledge.of["France", "capital"].object  # "Paris"
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent
FACTS = FOLDER / "multihop_facts.json"

# --- facts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relation:
    """A single-valued relation and how it is put into words.

    Attributes:
        name: its identifier.
        source: kind of the subjects.
        target: kind of the objects.
        home: whether its objects may be the last bridge of a three-hop chain.
        keep: chains kept for one last bridge where this is the last relation.
        cloze: a sentence that the object completes, ``{}`` for the subject.
        question: the question for the object of a subject that is named.
        asks: three questions for the object that also take a long noun phrase.
        phrases: three noun phrases that mean the object.
    """

    name: str
    source: str
    target: str
    home: bool
    keep: int
    cloze: str
    question: str
    asks: tuple[str, str, str]
    phrases: tuple[str, str, str]


@dataclass(frozen=True)
class Fact:
    """A triple."""

    subject: str
    relation: Relation
    object: str


Chain = tuple[Fact, ...]


@dataclass(frozen=True)
class Knowledge:
    """All facts, best-known subjects of a relation first.

    Attributes:
        facts: the triples in the file's order.
        texts: each entity's noun phrase with ``{}`` for its name: ``"the {}"``.
        aliases: other names of an entity.
        of: the fact about a subject in a relation.
        about: the facts whose subject an entity is.
        to: the facts whose object an entity is.
        order: the relations in the order in which they give sources.
    """

    facts: tuple[Fact, ...]
    texts: dict[str, str]
    aliases: dict[str, tuple[str, ...]]
    of: dict[tuple[str, str], Fact]
    about: dict[str, list[Fact]]
    to: dict[str, list[Fact]]
    order: tuple[str, ...]

    def text(self, entity: str) -> str:
        """The entity as it stands inside a sentence."""
        return self.texts[entity].replace("{}", entity)

    def names(self, entity: str) -> tuple[str, ...]:
        """The entity's name and aliases."""
        return (entity, *self.aliases.get(entity, ()))


def load_knowledge(path: Path = FACTS) -> Knowledge:
    """Read and check the hand-written facts.

    Raises:
        ValueError: an entity of two kinds, a relation with two objects for one subject, or an
            alias of an unknown entity.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    relations = {
        name: Relation(name, r["from"], r["to"], r["home"], r["keep"], r["cloze"], *_questions(r))
        for name, r in raw["relations"].items()
    }
    facts: list[Fact] = []
    articles: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for name, by_object in raw["facts"].items():
        relation = relations[name]
        for written, subjects in by_object.items():
            entities = [(written, relation.target)]
            entities += [(subject, relation.source) for subject in subjects.split("; ")]
            bare = []
            for entity, kind in entities:
                article, label = _article(entity)
                if kinds.setdefault(label, kind) != kind:
                    raise ValueError(f"{label!r} is a {kinds[label]} and, in {name}, a {kind}")
                articles[label] = articles.get(label) or article
                bare.append(label)
            facts += [Fact(subject, relation, bare[0]) for subject in bare[1:]]
    texts = {
        label: _pattern(label, articles[label], raw["kinds"].get(kinds[label], "{}"))
        for label in kinds
    }
    aliases = {label: tuple(a.split("; ")) for label, a in raw["aliases"].items()}
    if unknown := sorted(aliases.keys() - kinds.keys()):
        raise ValueError(f"aliases of entities that no fact has: {unknown}")
    return Knowledge(tuple(facts), texts, aliases, *_indices(facts), tuple(raw["sources"]))


def _questions(raw: dict[str, Any]) -> tuple[str, tuple[str, str, str], tuple[str, str, str]]:
    (a, b, c), (d, e, f) = raw["asks"], raw["phrases"]
    return raw.get("question", a), (a, b, c), (d, e, f)


def _article(entity: str) -> tuple[str, str]:
    for article in ("the", "a", "an"):
        if entity.startswith(f"{article} "):
            return article, entity[len(article) + 1 :]
    return "", entity


def _pattern(label: str, article: str, of_kind: str) -> str:
    """The noun phrase of an entity: its own article, or what its kind asks for."""
    pattern = f"{article} {{}}" if article else of_kind
    return f"an {pattern[2:]}" if pattern.startswith("a ") and label[0] in "aeiou" else pattern


def _indices(facts: Sequence[Fact]) -> tuple[dict[Any, Fact], dict[str, Any], dict[str, Any]]:
    of: dict[tuple[str, str], Fact] = {}
    about: dict[str, list[Fact]] = defaultdict(list)
    to: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        key = fact.subject, fact.relation.name
        if key in of:
            raise ValueError(f"{key} has two objects: {of[key].object!r} and {fact.object!r}")
        of[key] = fact
        about[fact.subject].append(fact)
        to[fact.object].append(fact)
    return of, dict(about), dict(to)


# --- words -------------------------------------------------------------------------------------


def fill(template: str, noun: str) -> str:
    """Put a noun phrase (or a phrase with a slot) into a template and start with a capital."""
    sentence = template.replace("{}", noun)
    return sentence[0].upper() + sentence[1:]


@cache
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name.casefold())}(?!\w)")


@cache
def mentions(text: str, names: tuple[str, ...]) -> bool:
    """Whether a text has one of the names as whole words, whatever their case."""
    folded = text.casefold()
    return any(_word(name).search(folded) for name in names)


def description(knowledge: Knowledge, facts: Chain, form: int) -> str:
    """A noun phrase that means the last object and names the first subject alone."""
    noun = knowledge.text(facts[0].subject)
    for fact in facts:
        noun = fact.relation.phrases[form].replace("{}", noun)
    return noun


def questions(knowledge: Knowledge, chain: Chain) -> list[str]:
    """Three composed questions."""
    return [
        fill(chain[-1].relation.asks[form], description(knowledge, chain[:-1], form))
        for form in range(3)
    ]


def hop(knowledge: Knowledge, fact: Fact) -> dict[str, Any]:
    """One fact as MQuAKE writes a single hop."""
    noun = knowledge.text(fact.subject)
    return {
        "question": fill(fact.relation.question, noun),
        "cloze": fill(fact.relation.cloze, noun),
        "answer": fact.object,
        "answer_alias": list(knowledge.aliases.get(fact.object, ())),
    }
