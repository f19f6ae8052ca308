"""Cells A, C-conflict and C-nonce on a real model: one template, one length, one suffix.

    A           The capital of Peru is the city of Lima. The capital of Spain is the city of
    C-conflict  The capital of Spain is the city of Oslo. The capital of Spain is the city of
    C-nonce     The capital of Eden is the city of Oslo. The capital of Eden is the city of

In every cell the first sentence states one fact. Only where it is about the country asked for
does it hold the answer. Triples are matched in a model's own tokens.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, Record, data_of, record_of
from interp.data.answers import single_token
from interp.data.pairs import Excluded
from interp.data.records import Row, Text, checked_rows
from interp.errors import DataError
from interp.model.model import Model

FRAMES = {"capital": "The capital of {} is the city of", "language": "The main language of {} is"}
NONCE = [
    "Atlantis", "Eden", "Aurora", "Nova", "Orion", "Zion", "Haven", "Terra", "Luna", "Titan",
    "Utopia", "Avalon", "Tulmar", "Borland", "Velden", "Gondor", "Asgard", "Cascadia", "Mercia",
    "Hyrule", "Azeroth", "Sylvania", "Amazonia", "Oberon", "Zorvia", "Kestan", "Narnia", "Elysium",
    "Calypso", "Hyperion",
]  # fmt: skip
"""Names of no country, of one, two and more tokens, for each split some."""


class Country(Row):
    """A row of ``recall_facts``: a country and what holds of it."""

    country: Text
    capital: Text
    language: Text
    landmarks: list[Text]

    @property
    def answers(self) -> Mapping[str, str]:
        """Relation -> answer."""
        return {"capital": self.capital, "language": self.language}

    @property
    def unnamed_landmarks(self) -> list[str]:
        """The landmarks that name neither the country nor its capital."""
        names = self.country.lower(), self.capital.lower()
        return [mark for mark in self.landmarks if not any(name in mark.lower() for name in names)]


def load_facts(path: str | Path) -> list[Country]:
    """Read facts as in ``recall_facts``; `DataError` for a malformed file or a country twice."""
    return checked_rows(Country, path, "facts", "country")  # one twice could be in two splits


@dataclass(frozen=True)
class _Named:
    """A name with its answer to one relation, and how many tokens the question has."""

    name: str
    answer: str
    width: int


def fact_cells(model: Model, facts: Sequence[Country], n: int = 100, seed: int = 0) -> Data:
    """Draw `n` matched triples of A, C-conflict and C-nonce for each split.

    The relations of `FRAMES` share the triples; a relation has fewer where no length of its
    questions has a counterpart. `DataError` where a split is left without pairs.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(facts))
    rejected: list[Excluded] = []
    records: list[Record] = []
    for at, split in enumerate(SPLITS):
        own = [facts[i] for i in order[at :: len(SPLITS)]]
        drawn: list[Record] = []
        for which, relation in enumerate(FRAMES):
            usable = one_token(model, own, relation, rejected)
            known = [_named(model, relation, f.country, f.answers[relation]) for f in usable]
            nonce = [_named(model, relation, name, "") for name in NONCE[at :: len(SPLITS)]]
            wanted = n * (which + 1) // len(FRAMES) - n * which // len(FRAMES)
            drawn += _triples(split, relation, known, nonce, wanted, rng, rejected)
        # relations in turn: where only the first pairs are used, all should be among them
        records += sorted(drawn, key=lambda record: record["id"].split("-")[2])
    cells = ("A", "C-conflict", "C-nonce")
    answers = tuple(dict.fromkeys(r[k] for r in records for k in ("answer", "wrong_answer")))
    return data_of(records, dict.fromkeys(cells, answers), tuple(rejected), "facts", seed)


def one_token(
    model: Model,
    facts: Sequence[Country],
    relation: str,
    rejected: list[Excluded],
    asked: str | None = None,
) -> list[Country]:
    """The countries whose answer is one token after the question about them, or about `asked`."""
    found: list[Country] = []
    for fact in facts:
        prompt = FRAMES[relation].format(asked or fact.country)
        try:
            single_token(model, prompt, model.encode(prompt), fact.answers[relation], relation)
        except DataError as error:
            rejected.append(Excluded(f"{relation}-{fact.country}", "facts", str(error)))
        else:
            found.append(fact)
    return found


def _named(model: Model, relation: str, name: str, answer: str) -> _Named:
    return _Named(name, answer, len(model.encode(FRAMES[relation].format(name))))


def _triples(
    split: str,
    relation: str,
    known: Sequence[_Named],
    nonce: Sequence[_Named],
    n: int,
    rng: np.random.Generator,
    rejected: list[Excluded],
) -> list[Record]:
    """At most `n` triples; each country is asked for in turn, in a new order each time around."""
    by_width, made_up = _by_width(known), _by_width(nonce)
    asked: list[_Named] = []
    for width, group in by_width.items():
        reason = ""
        if len({u.answer for u in group}) < 3:
            reason = "fewer than three answers among the countries of its length in tokens"
        elif width not in made_up:
            reason = "no made-up country has its length in tokens"
        if reason:
            rejected += [Excluded(f"{relation}-{u.name}", f"facts, {split}", reason) for u in group]
        else:
            asked += group
    records: list[Record] = []
    turn: list[_Named] = []
    for number in range(n if asked else 0):
        turn = turn or [asked[i] for i in rng.permutation(len(asked))]
        one = turn.pop()
        rows = _triple(one, by_width[one.width], made_up[one.width], known, relation, rng)
        for row in rows:
            row |= {"id": f"{split}-{relation}-{number:03d}-{row['cell']}", "split": split}
        records += rows
    return records


def _by_width(named: Iterable[_Named]) -> Mapping[int, list[_Named]]:
    found: dict[int, list[_Named]] = defaultdict(list)
    for one in named:
        found[one.width].append(one)
    return dict(found)


def _triple(
    one: _Named,
    group: Sequence[_Named],
    made_up: Sequence[_Named],
    known: Sequence[_Named],
    relation: str,
    rng: np.random.Generator,
) -> list[Record]:
    """The rows of the three cells that ask for one country."""

    def pick(among: Sequence[Any]) -> Any:
        return among[int(rng.integers(len(among)))]

    other = pick([u for u in group if u.answer != one.answer])
    stated = pick([u for u in group if u.answer not in (one.answer, other.answer)])
    # stated answers come from all usable countries of the split, and are never the true one
    pool = sorted({u.answer for u in known} - {one.answer})
    values = [pool[int(i)] for i in rng.choice(len(pool), 2, replace=False)]
    frame, nonce = FRAMES[relation], pick(made_up).name
    before = f"{frame.format(stated.name)} {stated.answer}. "
    asked = {"A": ((before, before), (one.name, other.name), (one.answer, other.answer))}
    for cell, name in (("C-conflict", one.name), ("C-nonce", nonce)):
        first, second = (f"{frame.format(name)} {value}. " for value in values)
        asked[cell] = ((first, second), (name, name), (values[0], values[1]))
    rows: list[Record] = []
    for cell, (statements, names, answers) in asked.items():
        clean, corrupt = (s + frame.format(name) for s, name in zip(statements, names, strict=True))
        rows.append(record_of(cell, one.name, (clean, corrupt), names, answers, relation))
    return rows
