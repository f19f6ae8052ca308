"""The world that the organism was trained on, and the four cells asked about it.

People have a home and lands have attributes. Some facts are true in every text, so that a model
trained on it keeps them in its weights; others hold only in the story in which they are stated.

    home mira tolva ;       language tolva ruin ;
    land tolva language     (one hop, answered by the next word)
    mira home language      (two hops)

A stated value follows its owner, so that looking it up in a story is one induction step. A and B
ask what is true in every text, C and D what the story states; A and C take one hop, B and D two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, Record, data_of, record_of
from interp.brief import brief
from interp.data.records import checked, read_json
from interp.errors import DataError, shown
from interp.loading.organisms import folder_of
from interp.model.model import Model

RELATIONS = ("language", "food", "sport", "colour", "bird")
WORDS = ("land", "home", ";")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


@brief
@dataclass(frozen=True)
class World:
    """Every name of the world and every fact that is always true.

    Attributes:
        home: person -> land.
        attributes: land -> relation -> value.
        story_people: people who have a home only where a story gives them one.
        story_lands: lands that have attributes only where a story gives them some.
        values: relation -> its possible values.
        held_out: (person, relation) that training never composes.
        never_composed: people of whom training composes nothing; it only states their home.
    """

    home: Mapping[str, str]
    attributes: Mapping[str, Mapping[str, str]]
    story_people: tuple[str, ...]
    story_lands: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    held_out: tuple[tuple[str, str], ...]
    never_composed: tuple[str, ...]
    seed: int

    @property
    def people(self) -> tuple[str, ...]:
        """People whose home is true in every text."""
        return tuple(self.home)

    @property
    def lands(self) -> tuple[str, ...]:
        """Lands whose attributes are true in every text."""
        return tuple(self.attributes)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word, in the order of its token id."""
        named = (*self.people, *self.lands, *self.story_people, *self.story_lands)
        valued = (word for values in self.values.values() for word in values)
        return (*SPECIAL, *WORDS, *self.values, *named, *valued)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back; `DataError` where the file is missing or holds no world."""
        world = checked(cls, read_json(path, "the organism's world (JSON)"), str(path))
        lands = {*world.attributes, *world.story_lands}
        lost = next((land for land in world.home.values() if land not in lands), None)
        if lost is not None:
            raise DataError(f"{path}: {shown(lost)} is somebody's home, but not a land.")
        for name, row in {"values": world.values, **world.attributes}.items():
            if set(row) != set(RELATIONS):
                raise DataError(f"{path}, {shown(name)}: must have {', '.join(RELATIONS)}.")
        return world


def world_of(model: Model) -> World:
    """The world that a shipped organism was trained on; `ModelError` for any other model."""
    return World.load(folder_of(model.name) / "world.json")


def stated(owner: str, relation: str, value: str) -> str:
    """A fact as stories state it."""
    return f"{relation} {owner} {value} ;"


def one_hop(land: str, relation: str) -> str:
    """A question about a land; as many words as `two_hops`."""
    return f"land {land} {relation}"


def two_hops(person: str, relation: str) -> str:
    """A question about the land where a person lives, which it does not name."""
    return f"{person} home {relation}"


def story_text(world: World, n: int = 40, seed: int = 0) -> str:
    """Stories and nothing else: the organism's text that has to do with no cell."""
    rng = np.random.default_rng(seed)
    stories: list[str] = []
    for _ in range(n):
        people, lands = _two(world.story_people, rng), _two(world.story_lands, rng)
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        stories.append(_story(people, lands, relation, _two(world.values[relation], rng), rng))
    return " ".join(stories)


def organism_cells(world: World, n: int = 100, seed: int = 0) -> Data:
    """Draw `n` quadruples for each split; no land or person occurs in two splits.

    B asks only compositions that training never showed. `DataError` where a split lacks a cell.
    """
    rng = np.random.default_rng(seed)
    named = (world.lands, world.story_lands, world.story_people)
    mixed = [[names[i] for i in rng.permutation(len(names))] for names in named]
    records: list[Record] = []
    for at, split in enumerate(SPLITS):
        lands, story_lands, people = (names[at :: len(SPLITS)] for names in mixed)
        composed = [(p, r) for p, r in world.held_out if world.home[p] in lands]
        for number in range(n):
            for row in _quadruple(world, lands, story_lands, people, composed, rng):
                place = {"id": f"{split}-{number:03d}-{row['cell']}", "split": split}
                records.append(row | place)
    values = tuple(v for listed in world.values.values() for v in listed)
    return data_of(records, dict.fromkeys("ABCD", values), (), "the organism's world", seed)


def _quadruple(
    world: World,
    own: list[str],
    story_lands: list[str],
    story_people: list[str],
    composed: list[tuple[str, str]],
    rng: np.random.Generator,
) -> list[Record]:
    """One story and the four questions after it."""

    def value(land: str) -> str:
        return world.attributes[land][relation]

    person, relation = composed[int(rng.integers(len(composed)))]
    people, lands = _two(story_people, rng), _two(story_lands, rng)
    values = _two(world.values[relation], rng)
    story = _story(people, lands, relation, values, rng)
    land = own[int(rng.integers(len(own)))]
    other_land = _one([c for c in own if value(c) != value(land)], rng)
    home = world.home[person]
    others = [p for p, r in composed if r == relation and value(world.home[p]) != value(home)]
    other = _one(others, rng)
    asked = {
        "A": (one_hop, (land, other_land), (value(land), value(other_land)), land),
        "B": (two_hops, (person, other), (value(home), value(world.home[other])), home),
        "C": (one_hop, lands, values, lands[0]),
        "D": (two_hops, people, values, lands[0]),
    }
    rows: list[Record] = []
    for cell, (ask, subjects, answers, bridge) in asked.items():
        clean, corrupt = (f"{story} {ask(subject, relation)}" for subject in subjects)
        row = record_of(cell, bridge, (clean, corrupt), subjects, answers, relation)
        if cell in ("B", "D"):  # the first hop is asked for by the word after the person
            ends = [end for _, end in row["spans"]["subject"]]
            row["spans"]["hop"] = [[end + 1, end + 1 + len("home")] for end in ends]
        if cell == "B":
            row["shortcuts"] = [f"{story} {person} {relation}"]
        rows.append(row)
    return rows


def _story(
    people: tuple[str, str],
    lands: tuple[str, str],
    relation: str,
    values: tuple[str, str],
    rng: np.random.Generator,
) -> str:
    """Two people's homes and an attribute of each home, in random order."""
    facts = [stated(p, "home", c) for p, c in zip(people, lands, strict=True)]
    facts += [stated(c, relation, v) for c, v in zip(lands, values, strict=True)]
    return " ".join(facts[i] for i in rng.permutation(4))


def _two(names: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(len(names), 2, replace=False)
    return names[int(first)], names[int(second)]


def _one(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]
