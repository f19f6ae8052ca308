"""The organism's world: people with a home, lands with attributes, and stories that state others.

Some facts are true in every text, so that a model trained on it keeps them in its weights; others
hold only in the story in which they are stated. Sentences are written word by word:

    home mira tolva ;       language tolva ruin ;
    land tolva language     (one hop, answered by the next word)
    mira home language      (two hops)

A stated value follows its owner, so that looking it up in a story is one induction step.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from interp.brief import brief
from interp.data.records import checked, read_json
from interp.errors import DataError, shown
from interp.results.files import write_text

RELATIONS = ("language", "food", "sport", "colour", "bird")
N_LANDS, N_PEOPLE, N_STORY_LANDS, N_STORY_PEOPLE, N_VALUES = 45, 360, 40, 40, 15
N_NEVER_COMPOSED = 24
HELD_OUT = 0.25
"""Part of the (person, relation) compositions that training never shows."""

WORDS = ("land", "home", ";")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_ONSETS = [
    "b",
    "d",
    "f",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "gr",
    "kl",
    "pl",
    "st",
    "tr",
]
_VOWELS = ["a", "e", "i", "o", "u"]
_ENDS = ["", "l", "n", "r", "s", "m"]


@brief
@dataclass(frozen=True)
class World:
    """Every name of the world and every fact that is always true.

    Attributes:
        home: person -> land, true in every text.
        attributes: land -> relation -> value, true in every text.
        story_people: people who have a home only where a story gives them one.
        story_lands: lands that have attributes only where a story gives them some.
        values: relation -> its possible values.
        held_out: (person, relation) that training never composes.
        never_composed: people of whom training composes nothing; only their home is told.
        seed: of the draw.
    """

    home: Mapping[str, str]
    attributes: Mapping[str, Mapping[str, str]]
    story_people: tuple[str, ...]
    story_lands: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    held_out: tuple[tuple[str, str], ...]
    never_composed: tuple[str, ...]
    seed: int

    @classmethod
    def draw(cls, seed: int = 0) -> Self:
        """A world at random: the same seed makes the same one."""
        rng = np.random.default_rng(seed)
        n_values = N_VALUES * len(RELATIONS)
        names = _names(rng, N_LANDS + N_PEOPLE + N_STORY_LANDS + N_STORY_PEOPLE + n_values)
        lands, people = _take(names, N_LANDS), _take(names, N_PEOPLE)
        story_lands, story_people = _take(names, N_STORY_LANDS), _take(names, N_STORY_PEOPLE)
        values = {relation: _take(names, N_VALUES) for relation in RELATIONS}
        homes = rng.permutation(np.arange(N_PEOPLE) % N_LANDS)
        # every value is true of equally many lands, so that none is a better guess
        dealt = {r: rng.permutation(np.arange(N_LANDS) % N_VALUES) for r in RELATIONS}
        facts = {
            land: {r: values[r][int(dealt[r][i])] for r in RELATIONS}
            for i, land in enumerate(lands)
        }
        never = people[:N_NEVER_COMPOSED]
        rest = [(p, r) for p, r in itertools.product(people, RELATIONS) if p not in never]
        out = rng.choice(len(rest), int(HELD_OUT * len(rest)), replace=False)
        return cls(
            home={p: lands[int(h)] for p, h in zip(people, homes, strict=True)},
            attributes=facts,
            story_people=story_people,
            story_lands=story_lands,
            values=values,
            held_out=tuple(rest[i] for i in sorted(out)),
            never_composed=never,
            seed=seed,
        )

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
        every = (*self.people, *self.lands, *self.story_people, *self.story_lands)
        valued = (word for values in self.values.values() for word in values)
        return (*SPECIAL, *WORDS, *self.values, *every, *valued)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps(asdict(self), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back.

        Raises:
            DataError: the file is missing or holds no world.
        """
        world = checked(cls, read_json(path, "the organism's world (JSON)"), str(path))
        lands = {*world.attributes, *world.story_lands}
        lost = next((land for land in world.home.values() if land not in lands), None)
        if lost is not None:
            raise DataError(f"{path}: {shown(lost)} is somebody's home, but not a land.")
        for name, row in {"values": world.values, **world.attributes}.items():
            if set(row) != set(RELATIONS):
                raise DataError(f"{path}, {shown(name)}: must have {', '.join(RELATIONS)}.")
        return world


def _names(rng: np.random.Generator, n: int) -> list[str]:
    """Different made-up names of two syllables, none of them a word of the sentences."""
    made: dict[str, None] = {}
    while len(made) < n:
        parts = [rng.choice(_ONSETS), rng.choice(_VOWELS), rng.choice(_ONSETS), rng.choice(_VOWELS)]
        name = "".join([*parts, rng.choice(_ENDS)])
        if name not in WORDS and name not in RELATIONS:
            made[name] = None
    return list(made)


def _take(names: list[str], n: int) -> tuple[str, ...]:
    taken = tuple(names[:n])
    del names[:n]
    return taken


def stated(owner: str, relation: str, value: str) -> str:
    """A fact as stories state it."""
    return f"{relation} {owner} {value} ;"


def one_hop(land: str, relation: str) -> str:
    """A question about a land; as many words as `two_hops`."""
    return f"land {land} {relation}"


def two_hops(person: str, relation: str) -> str:
    """A question about the land where a person lives, which it does not name."""
    return f"{person} home {relation}"
