"""The 2 x 2 on a real model: one story and four questions, equally long in its tokens.

    story  Maria lives in Atlantis. The capital of Atlantis is the city of Oslo. Peter …  (mixed)
    A      The capital of the land called Spain is the city of
    B      The capital of the home of Mount Fuji is the city of
    C      The capital of the land of Atlantis is the city of
    D      The capital of the home of Maria is the city of

Questions of one and of two hops differ in how they name the country; of several phrases the
matcher takes those of one length.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, Record, data_of, record_of
from circuits.recall_reasoning.sources.countries import FRAMES, NONCE, Country, one_token
from interp.data.pairs import Excluded
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
    "Alice", "Amy", "Anna", "Claire", "Diana", "Emily", "Emma", "Hannah", "Helen", "Jane",
    "Jessica", "Julia", "Kate", "Laura", "Lisa", "Lucy", "Maria", "Martha", "Mary", "Rachel",
    "Adam", "Andrew", "Brian", "Daniel", "David", "Eric", "George", "Henry", "Jack", "James",
    "John", "Kevin", "Luke", "Martin", "Matthew", "Michael", "Oliver", "Paul", "Peter", "Robert",
]  # fmt: skip
QUESTION = FRAMES["capital"]


class Phrase(NamedTuple):
    """A way to name a country in a question: the name (`subject`) and the whole phrase (`text`).

    `answer` is the capital that it leads to, or the subject itself where a story states the
    capital; `land` the country, empty where a story says which.
    """

    subject: str
    text: str
    answer: str
    land: str

    @property
    def frame(self) -> str:
        """The phrase without the name."""
        return self.text.replace(self.subject, "")


Phrases = Mapping[int, list[Phrase]]
"""Tokens of the question -> the phrases that make one that long."""


def quadruple_cells(model: Model, facts: Sequence[Country], n: int = 100, seed: int = 0) -> Data:
    """At most `n` quadruples for each split, of one length in tokens; `DataError` where none is."""
    rng = np.random.default_rng(seed)
    rejected: list[Excluded] = []
    usable = one_token(model, facts, "capital", rejected, asked="Spain")
    order = rng.permutation(len(usable))
    records: list[Record] = []
    for at, split in enumerate(SPLITS):
        own = [usable[i] for i in order[at :: len(SPLITS)]]
        cells = _cells(model, own, PEOPLE[at :: len(SPLITS)], NONCE[at :: len(SPLITS)])
        lengths = _common(cells, split, rejected)
        for number in range(n if lengths else 0):
            length = lengths[int(rng.integers(len(lengths)))]
            row = _draw({cell: phrases[length] for cell, phrases in cells.items()}, own, rng)
            if not row:
                why = "no two capitals of the split are left for its story"
                rejected.append(Excluded(f"{split}-{number:03d}", "quadruples", why))
            for record in row:
                record |= {"id": f"{split}-{number:03d}-{record['cell']}", "split": split}
            records += row
    # a story's length depends on its names; questions alone are matched so far
    matched = _equally_long(model, records, rejected)
    answers = tuple(sorted({fact.capital for fact in usable}))
    return data_of(matched, dict.fromkeys("ABCD", answers), tuple(rejected), "quadruples", seed)


def _cells(
    model: Model, own: Sequence[Country], people: Sequence[str], nonce: Sequence[str]
) -> dict[str, Phrases]:
    def phrases(frames: Iterable[str], named: Sequence[tuple[str, str, str, str]]) -> Phrases:
        found: dict[int, list[Phrase]] = defaultdict(list)
        for frame in frames:
            for subject, mention, answer, land in named:
                text = frame.format(mention)
                length = len(model.encode(QUESTION.format(text)))
                found[length].append(Phrase(subject, text, answer, land))
        return found

    landmarks = [
        (name.removeprefix("the "), name, f.capital, f.country) for f in own for name in f.landmarks
    ]
    return {
        "A": phrases(ONE_HOP, [(f.country, f.country, f.capital, f.country) for f in own]),
        "B": phrases(TWO_HOPS, landmarks),
        "C": phrases(ONE_HOP, [(name, name, name, "") for name in nonce]),
        "D": phrases(PERSON, [(name, name, name, "") for name in people]),
    }


def _common(cells: Mapping[str, Phrases], split: str, rejected: list[Excluded]) -> list[int]:
    """Lengths at which every cell has two phrases of one frame with different answers."""

    def enough(phrases: Sequence[Phrase]) -> bool:
        by_frame: dict[str, set[str]] = defaultdict(set)
        for one in phrases:
            by_frame[one.frame].add(one.answer)
        return max(map(len, by_frame.values()), default=0) >= 2

    lengths = sorted({length for phrases in cells.values() for length in phrases})
    common = [x for x in lengths if all(enough(phrases.get(x, [])) for phrases in cells.values())]
    for cell, phrases in cells.items():
        for length in set(phrases) - set(common):
            rejected += [
                Excluded(f"{cell}-{one.subject}", split, f"no quadruple of {length} tokens")
                for one in phrases[length]
            ]
    return common


def _draw(
    phrases: Mapping[str, list[Phrase]], own: Sequence[Country], rng: np.random.Generator
) -> list[Record]:
    """One story and the pairs of the four cells; none without two capitals that no pair has."""
    pairs = {cell: _two(some, rng) for cell, some in phrases.items()}
    unused = sorted({f.capital for f in own} - {one.answer for c in "AB" for one in pairs[c]})
    if len(unused) < 2:
        return []
    first, second = (unused[int(i)] for i in rng.choice(len(unused), 2, replace=False))
    lands, people = ([one.subject for one in pairs[c]] for c in "CD")
    facts = [f"{p} lives in {c}." for p, c in zip(people, lands, strict=True)]
    facts += [f"{QUESTION.format(c)} {v}." for c, v in zip(lands, (first, second), strict=True)]
    story = " ".join(facts[int(i)] for i in rng.permutation(4))
    rows: list[Record] = []
    for cell, (one, other) in pairs.items():
        answers = (one.answer, other.answer) if cell in "AB" else (first, second)
        clean, corrupt = (f"{story} {QUESTION.format(phrase.text)}" for phrase in (one, other))
        subjects, bridge = (one.subject, other.subject), one.land or lands[0]
        row = record_of(cell, bridge, (clean, corrupt), subjects, answers, "capital")
        if cell == "B":
            named = one.text[one.text.index(one.subject) :]
            row["shortcuts"] = [f"{story} {QUESTION.format(named)}"]
        rows.append(row)
    return rows


def _two(phrases: Sequence[Phrase], rng: np.random.Generator) -> tuple[Phrase, Phrase]:
    """Two phrases of one frame with different answers, so that only the name differs."""
    while True:
        one, other = (phrases[int(i)] for i in rng.integers(len(phrases), size=2))
        if one.frame == other.frame and one.answer != other.answer:
            return one, other


def _equally_long(
    model: Model, records: Sequence[Record], rejected: list[Excluded]
) -> list[Record]:
    """Whole quadruples whose eight prompts have one length."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["id"].rpartition("-")[0]].append(record)
    matched: list[Record] = []
    for name, rows in groups.items():
        lengths = {len(model.encode(row[side])) for row in rows for side in ("clean", "corrupt")}
        if len(lengths) == 1:
            matched += rows
        else:
            rejected.append(Excluded(name, "quadruples", f"lengths {sorted(lengths)} in tokens"))
    return matched
