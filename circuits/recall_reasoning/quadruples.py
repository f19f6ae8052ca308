"""The 2 x 2 on a real model: one story and four questions, equally long in its tokens.

    story  Maria lives in Atlantis. The capital of Atlantis is the city of Oslo. Peter …  (mixed)
    A      The capital of the land called Spain is the city of
    B      The capital of the home of Mount Fuji is the city of
    C      The capital of the land of Atlantis is the city of
    D      The capital of the home of Maria is the city of

Questions of one and of two hops differ in how they name the country; of several ways to say it the
matcher takes those of one length.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, data_of
from circuits.recall_reasoning.facts import NONCE, Fact, Record
from interp.data.pairs import Excluded, single_token
from interp.errors import DataError
from interp.model.model import Model

ONE_HOP = (
    "the land of {}",
    "the land called {}",
    "the land that is called {}",
    "the land that people call {}",
    "the land that most people call {}",
)
TWO_HOPS = ("the home of {}", "the land of {}", "the home country of {}", "the land that has {}")
PERSON = ("the home of {}", "the home country of {}", "the land that is home to {}")
PEOPLE = [
    "Alice",
    "Amy",
    "Anna",
    "Claire",
    "Diana",
    "Emily",
    "Emma",
    "Hannah",
    "Helen",
    "Jane",
    "Jessica",
    "Julia",
    "Kate",
    "Laura",
    "Lisa",
    "Lucy",
    "Maria",
    "Martha",
    "Mary",
    "Rachel",
    "Adam",
    "Andrew",
    "Brian",
    "Daniel",
    "David",
    "Eric",
    "George",
    "Henry",
    "Jack",
    "James",
    "John",
    "Kevin",
    "Luke",
    "Martin",
    "Matthew",
    "Michael",
    "Oliver",
    "Paul",
    "Peter",
    "Robert",
]
QUESTION = "The capital of {} is the city of"


@dataclass(frozen=True)
class Way:
    """A way to ask: what is named, how, and what the answer hangs on.

    Attributes:
        subject: the name in the question.
        phrase: how the question puts it.
        land: the country that it leads to; empty where a story says which.
    """

    subject: str
    phrase: str
    land: str


Ways = Mapping[int, list[Way]]
"""Tokens of the question -> the ways to ask one that long."""


def quadruple_cells(model: Model, facts: Sequence[Fact], n: int = 100, seed: int = 0) -> Data:
    """Draw at most `n` quadruples for each split.

    Args:
        model: whose tokens.
        facts: countries with capitals and landmarks.
        n: quadruples a split.
        seed: of the splits and draws.

    Raises:
        DataError: a split is left without pairs.
    """
    rng = np.random.default_rng(seed)
    rejected: list[Excluded] = []
    capital = _capitals(model, facts, rejected)
    usable = [fact for fact in facts if fact.country in capital]
    order = rng.permutation(len(usable))
    records: list[Record] = []
    for at, split in enumerate(SPLITS):
        own = [usable[i] for i in order[at :: len(SPLITS)]]
        names = PEOPLE[at :: len(SPLITS)], NONCE[at :: len(SPLITS)]
        cells = _cells(model, own, *names)
        lengths = _common(cells, capital, split, rejected)
        for number in range(n if lengths else 0):
            length = lengths[int(rng.integers(len(lengths)))]
            row = _draw({cell: ways[length] for cell, ways in cells.items()}, capital, own, rng)
            for record in row:
                record |= {"id": f"{split}-{number:03d}-{record['cell']}", "split": split}
            records += row
    # a story's lengths depend on its names; questions alone are matched so far
    kept = _equally_long(model, records, rejected)
    answers = tuple(sorted(set(capital.values())))
    return data_of(kept, dict.fromkeys("ABCD", answers), tuple(rejected), "quadruples", seed)


def _capitals(model: Model, facts: Sequence[Fact], rejected: list[Excluded]) -> dict[str, str]:
    found: dict[str, str] = {}
    prompt = QUESTION.format("Spain")
    for fact in facts:
        try:
            single_token(model, prompt, model.encode(prompt), fact.answers["capital"], "capital")
        except DataError as error:
            rejected.append(Excluded(f"capital-{fact.country}", "facts", str(error)))
        else:
            found[fact.country] = fact.answers["capital"]
    return found


def _cells(
    model: Model, own: Sequence[Fact], people: Sequence[str], nonce: Sequence[str]
) -> dict[str, Ways]:
    landmarks = [(mark.removeprefix("the "), f.country, mark) for f in own for mark in f.landmarks]
    return {
        "A": _ways(model, ONE_HOP, [(f.country, f.country, f.country) for f in own]),
        "B": _ways(model, TWO_HOPS, landmarks),
        "C": _ways(model, ONE_HOP, [(name, "", name) for name in nonce]),
        "D": _ways(model, PERSON, [(name, "", name) for name in people]),
    }


def _ways(
    model: Model, frames: Iterable[str], named: Sequence[tuple[str, str, str]]
) -> dict[int, list[Way]]:
    found: dict[int, list[Way]] = defaultdict(list)
    for frame in frames:
        for subject, land, said in named:
            phrase = frame.format(said)
            length = len(model.encode(QUESTION.format(phrase)))
            found[length].append(Way(subject, phrase, land))
    return found


def _common(
    cells: Mapping[str, Ways],
    capital: Mapping[str, str],
    split: str,
    rejected: list[Excluded],
) -> list[int]:
    """Lengths that every cell can take, with two answers or two names each."""

    def enough(cell: str, ways: Sequence[Way]) -> bool:
        frames = {w.phrase.replace(w.subject, "") for w in ways}
        by_frame = [[w for w in ways if w.phrase.replace(w.subject, "") == f] for f in frames]
        many = [len({capital[w.land] if w.land else w.subject for w in ws}) for ws in by_frame]
        return max(many, default=0) >= 2

    lengths = sorted({length for ways in cells.values() for length in ways})
    common = [x for x in lengths if all(enough(c, ways.get(x, [])) for c, ways in cells.items())]
    for cell, ways in cells.items():
        for length in set(ways) - set(common):
            rejected += [
                Excluded(f"{cell}-{w.subject}", f"{split}", f"no quadruple of {length} tokens")
                for w in ways[length]
            ]
    return common


def _draw(
    ways: Mapping[str, list[Way]],
    capital: Mapping[str, str],
    own: Sequence[Fact],
    rng: np.random.Generator,
) -> list[Record]:
    def value(way: Way) -> str:
        return capital[way.land] if way.land else way.subject

    pairs = {cell: _two(some, value, rng) for cell, some in ways.items()}
    told = sorted({capital[f.country] for f in own} - {value(w) for c in "AB" for w in pairs[c]})
    first, second = (told[int(i)] for i in rng.choice(len(told), 2, replace=False))
    lands, people = ([w.subject for w in pairs[c]] for c in "CD")
    facts = [f"{p} lives in {c}." for p, c in zip(people, lands, strict=True)]
    facts += [f"{QUESTION.format(c)} {v}." for c, v in zip(lands, (first, second), strict=True)]
    story = " ".join(facts[int(i)] for i in rng.permutation(4))
    rows: list[Record] = []
    for cell, (one, other) in pairs.items():
        answers = (value(one), value(other)) if cell in "AB" else (first, second)
        rows.append(_record(cell, story, (one, other), answers, one.land or lands[0]))
    return rows


def _two(ways: Sequence[Way], value: Any, rng: np.random.Generator) -> tuple[Way, Way]:
    """Two ways of one frame with different answers, so that only the name differs."""
    while True:
        one, other = (ways[int(i)] for i in rng.integers(len(ways), size=2))
        same = one.phrase.replace(one.subject, "") == other.phrase.replace(other.subject, "")
        if same and value(one) != value(other):
            return one, other


def _record(
    cell: str, story: str, ways: tuple[Way, Way], answers: tuple[str, str], bridge: str
) -> Record:
    prompts = [f"{story} {QUESTION.format(way.phrase)}" for way in ways]
    starts = [p.rindex(w.subject) for p, w in zip(prompts, ways, strict=True)]
    row: Record = {
        "cell": cell,
        "bridge": bridge,
        "relation": "capital",
        "clean": prompts[0],
        "corrupt": prompts[1],
        "answer": answers[0],
        "wrong_answer": answers[1],
        "spans": {"subject": [[s, s + len(w.subject)] for s, w in zip(starts, ways, strict=True)]},
    }
    if cell == "B":
        named = ways[0].phrase[ways[0].phrase.index(ways[0].subject) :]
        row["shortcuts"] = [f"{story} The capital of {named} is the city of"]
    return row


def _equally_long(
    model: Model, records: Sequence[Record], rejected: list[Excluded]
) -> list[Record]:
    """Whole quadruples whose eight prompts have one length."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["id"].rpartition("-")[0]].append(record)
    kept: list[Record] = []
    for name, rows in groups.items():
        lengths = {len(model.encode(row[side])) for row in rows for side in ("clean", "corrupt")}
        if len(lengths) == 1:
            kept += rows
        else:
            rejected.append(Excluded(name, "quadruples", f"lengths {sorted(lengths)} in tokens"))
    return kept
