"""The organism's world at random: names, homes, attributes, and what training never composes."""

import itertools

import numpy as np

from circuits.recall_reasoning.sources.organism import RELATIONS, WORDS, World

N_LANDS, N_PEOPLE, N_STORY_LANDS, N_STORY_PEOPLE, N_VALUES = 45, 360, 40, 40, 15
N_NEVER_COMPOSED = 24
HELD_OUT = 0.25
"""Fraction of the (person, relation) compositions that training never shows."""

_ONSETS = [*"bdfghklmnprstvz", "br", "dr", "gr", "kl", "pl", "st", "tr"]
_VOWELS = ["a", "e", "i", "o", "u"]
_ENDS = ["", "l", "n", "r", "s", "m"]


def draw(seed: int = 0) -> World:
    """A world at random: the same seed makes the same one."""
    rng = np.random.default_rng(seed)
    sizes = [N_LANDS, N_PEOPLE, N_STORY_LANDS, N_STORY_PEOPLE, *[N_VALUES] * len(RELATIONS)]
    names = iter(_names(rng, sum(sizes)))
    lands, people, story_lands, story_people, *dealt = (
        tuple(itertools.islice(names, size)) for size in sizes
    )
    values: dict[str, tuple[str, ...]] = dict(zip(RELATIONS, dealt, strict=True))
    homes = rng.permutation(np.arange(N_PEOPLE) % N_LANDS)
    # every value is true of equally many lands, so that none is a better guess
    which = {r: rng.permutation(np.arange(N_LANDS) % N_VALUES) for r in RELATIONS}
    never = people[:N_NEVER_COMPOSED]
    rest = [(p, r) for p, r in itertools.product(people, RELATIONS) if p not in never]
    out = rng.choice(len(rest), int(HELD_OUT * len(rest)), replace=False)
    return World(
        home={p: lands[int(h)] for p, h in zip(people, homes, strict=True)},
        attributes={
            land: {r: values[r][int(which[r][i])] for r in RELATIONS}
            for i, land in enumerate(lands)
        },
        story_people=story_people,
        story_lands=story_lands,
        values=values,
        held_out=tuple(rest[i] for i in sorted(out)),
        never_composed=never,
        seed=seed,
    )


def _names(rng: np.random.Generator, n: int) -> list[str]:
    """Different made-up names of two syllables, none of them a word of the sentences."""
    made: dict[str, None] = {}
    while len(made) < n:
        parts = (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _ENDS)
        name = "".join([str(rng.choice(part)) for part in parts])
        if name not in WORDS and name not in RELATIONS:
            made[name] = None
    return list(made)
