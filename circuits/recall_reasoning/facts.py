"""Cells A, C-conflict and C-nonce on a real model: one template, one length, one suffix.

    A           The capital of Peru is the city of Lima. The capital of Spain is the city of
    C-conflict  The capital of Spain is the city of Oslo. The capital of Spain is the city of
    C-nonce     The capital of Eden is the city of Oslo. The capital of Eden is the city of

In every cell the first sentence states one fact. Only where it is about the country asked for
does it hold the answer. The matcher draws triples in a model's own tokens and says what it leaves.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, data_of
from interp.brief import brief
from interp.data.pairs import Excluded, single_token
from interp.data.records import Row, Text, checked, placed_rows
from interp.errors import DataError, shown
from interp.model.model import Model

FRAMES = {
    "capital": "The capital of {} is the city of",
    "language": "The main language of {} is",
}
NONCE = [
    "Atlantis",
    "Eden",
    "Aurora",
    "Nova",
    "Orion",
    "Zion",
    "Haven",
    "Terra",
    "Luna",
    "Titan",
    "Utopia",
    "Avalon",
    "Tulmar",
    "Borland",
    "Velden",
    "Gondor",
    "Asgard",
    "Cascadia",
    "Mercia",
    "Hyrule",
    "Azeroth",
    "Sylvania",
    "Amazonia",
    "Oberon",
    "Zorvia",
    "Kestan",
    "Narnia",
    "Elysium",
    "Calypso",
    "Hyperion",
]
"""Names of no country, of one, two and more tokens, for each split some."""

Record = dict[str, Any]


@brief
@dataclass(frozen=True)
class Fact:
    """A country with what holds of it.

    Attributes:
        country: its name.
        answers: relation -> answer.
        landmarks: what lies there.
    """

    country: str
    answers: Mapping[str, str]
    landmarks: tuple[str, ...]


def load_facts(path: str | Path) -> list[Fact]:
    """Read facts of the form of the shipped ``recall_facts``.

    Raises:
        DataError: the file is missing or malformed.
    """
    rows = placed_rows(path, "country, capital, language and landmarks")
    if not rows:
        raise DataError(f"{path} holds no facts; give at least one line.")
    seen: dict[str, str] = {}
    found: list[Fact] = []
    for where, record in rows:
        row = checked(_FactRow, record, where)
        if row.country in seen:  # it could come into two splits
            raise DataError(
                f"{where}: {shown(row.country)} was there before, in {seen[row.country]}; keep one."
            )
        seen[row.country] = where
        answers = {"capital": row.capital, "language": row.language}
        found.append(Fact(row.country, answers, tuple(row.landmarks)))
    return found


class _FactRow(Row):
    country: Text
    capital: Text
    language: Text
    landmarks: list[Text]


@dataclass(frozen=True)
class Usable:
    """A country and its answer to one relation, in a model's tokens.

    Attributes:
        name: the country; made up where it has no answer.
        answer: one token.
        width: tokens of the question, by which it is matched.
    """

    name: str
    answer: str
    width: int


def fact_cells(
    model: Model,
    facts: Sequence[Fact],
    n: int = 100,
    seed: int = 0,
    relations: Sequence[str] = tuple(FRAMES),
) -> Data:
    """Draw matched triples of A, C-conflict and C-nonce for each split.

    Args:
        model: whose tokens.
        facts: the countries.
        n: triples a split, shared by the relations; fewer where a length has no counterpart.
        seed: of the splits and draws.
        relations: which.

    Raises:
        DataError: a split is left without pairs.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(facts))
    rejected: list[Excluded] = []
    records: list[Record] = []
    for at, split in enumerate(SPLITS):
        own = [facts[i] for i in order[at :: len(SPLITS)]]
        drawn: list[Record] = []
        for which, relation in enumerate(relations):
            known = _usable(model, relation, own, rejected)
            nonce = [_width(model, relation, name, "") for name in NONCE[at :: len(SPLITS)]]
            wanted = n * (which + 1) // len(relations) - n * which // len(relations)
            drawn += _triples(split, relation, known, nonce, wanted, rng, rejected)
        # relations in turn: where only the first pairs are kept, all should be among them
        records += sorted(drawn, key=lambda record: record["id"].split("-")[2])
    cells = ("A", "C-conflict", "C-nonce")
    answers = tuple(dict.fromkeys(r[k] for r in records for k in ("answer", "wrong_answer")))
    return data_of(records, dict.fromkeys(cells, answers), tuple(rejected), "facts", seed)


def _usable(
    model: Model, relation: str, facts: Sequence[Fact], rejected: list[Excluded]
) -> list[Usable]:
    """The countries whose answer is one token; the others go to `rejected`."""
    found: list[Usable] = []
    for fact in facts:
        prompt = FRAMES[relation].format(fact.country)
        try:
            single_token(model, prompt, model.encode(prompt), fact.answers[relation], relation)
        except DataError as error:
            rejected.append(Excluded(f"{relation}-{fact.country}", "facts", str(error)))
            continue
        found.append(_width(model, relation, fact.country, fact.answers[relation]))
    return found


def _width(model: Model, relation: str, name: str, answer: str) -> Usable:
    return Usable(name, answer, len(model.encode(FRAMES[relation].format(name))))


def _triples(
    split: str,
    relation: str,
    known: Sequence[Usable],
    nonce: Sequence[Usable],
    n: int,
    rng: np.random.Generator,
    rejected: list[Excluded],
) -> list[Record]:
    """At most `n` triples; each country is asked for in turn, in a new order each time around."""
    by_width: dict[int, list[Usable]] = defaultdict(list)
    for one in known:
        by_width[one.width].append(one)
    made_up: dict[int, list[str]] = defaultdict(list)
    for one in nonce:
        made_up[one.width].append(one.name)
    asked: list[Usable] = []
    for width, group in by_width.items():
        reason = _unmatched(group, made_up[width])
        if reason is None:
            asked += group
        else:
            rejected += [Excluded(f"{relation}-{u.name}", f"facts, {split}", reason) for u in group]
    records: list[Record] = []
    turn: list[Usable] = []
    for number in range(n if asked else 0):
        turn = turn or [asked[i] for i in rng.permutation(len(asked))]
        one = turn.pop()
        # stated answers come from all usable countries of the split, and are never the true one
        row = _draw(one, by_width[one.width], made_up[one.width], known, rng)
        records += _records(f"{split}-{relation}-{number:03d}", split, relation, *row)
    return records


def _unmatched(group: Sequence[Usable], made_up: Sequence[str]) -> str | None:
    """Why countries of one length cannot be used; None where they can."""
    if len({u.answer for u in group}) < 3:
        return "fewer than three answers among the countries of its length in tokens"
    return None if made_up else "no made-up country has its length in tokens"


Drawn = tuple[Usable, Usable, Usable, str, tuple[str, str]]


def _draw(
    one: Usable,
    group: Sequence[Usable],
    made_up: Sequence[str],
    known: Sequence[Usable],
    rng: np.random.Generator,
) -> Drawn:
    """(country asked for, its counterpart, the country stated, a made-up one, two answers)."""

    def pick(among: Sequence[Any]) -> Any:
        return among[int(rng.integers(len(among)))]

    other = pick([u for u in group if u.answer != one.answer])
    stated = pick([u for u in group if u.answer not in (one.answer, other.answer)])
    pool = sorted({u.answer for u in known} - {one.answer})
    first, second = rng.choice(len(pool), 2, replace=False)
    return one, other, stated, pick(made_up), (pool[int(first)], pool[int(second)])


def _records(
    name: str,
    split: str,
    relation: str,
    one: Usable,
    other: Usable,
    stated: Usable,
    nonce: str,
    values: tuple[str, str],
) -> list[Record]:
    frame = FRAMES[relation]
    told = f"{frame.format(stated.name)} {stated.answer}. "
    rows: dict[str, tuple[list[str], tuple[str, str], list[list[int]]]] = {
        "A": (
            [told + frame.format(u.name) for u in (one, other)],
            (one.answer, other.answer),
            [_range(told, frame, u.name) for u in (one, other)],
        )
    }
    for cell, country in (("C-conflict", one.name), ("C-nonce", nonce)):
        said = frame.format(country)
        prompts = [f"{said} {value}. {said}" for value in values]
        # the prompts differ in the stated value; the country asked for stands in the second half
        spans = [_range(f"{said} {value}. ", frame, country) for value in values]
        rows[cell] = (prompts, values, spans)
    return [
        {
            "id": f"{name}-{cell}",
            "split": split,
            "cell": cell,
            "bridge": one.name,
            "relation": relation,
            "clean": prompts[0],
            "corrupt": prompts[1],
            "answer": answers[0],
            "wrong_answer": answers[1],
            "spans": {"subject": spans},
        }
        for cell, (prompts, answers, spans) in rows.items()
    ]


def _range(before: str, frame: str, name: str) -> list[int]:
    start = len(before) + frame.index("{}")
    return [start, start + len(name)]
