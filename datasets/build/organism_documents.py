"""The documents that the organism is trained and tested on, as token ids of its world.

A document tells chains of a person, a home and its value, in any order, and then asks questions:
some of what the story states, some of what is true in every document.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.recall_reasoning.sources.organism import RELATIONS, World

QUERIES, MOST_CHAINS = 8, 4
KNOWN_IN_STORY = 0.15
"""Chance that a story speaks of a person or land of which something else is always true."""

SHARES = {"home": 0.08, "story_home": 0.08, "A": 0.14, "B": 0.30, "C": 0.14, "D": 0.26}
"""Kinds of questions; where a story has been asked all of a kind, another B is asked."""

TOLD = 0.02
"""Loss weight of tokens that are no answers: most of them are random."""


Composed = Sequence[tuple[int, int]]
"""Compositions, as (index of the person, index of the relation)."""

Names = Int[np.ndarray, " name"]


class Story(NamedTuple):
    """A story's tokens, and its chains: person, land and value by chain, all in one relation."""

    ids: list[int]
    people: list[int]
    lands: list[int]
    values: list[int]
    relation: int


class Sampler:
    """Draws documents as token ids: four statements in any order, then questions with answers."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.world = world
        self.id = {word: i for i, word in enumerate(world.vocabulary)}
        ids = lambda words: np.array([self.id[w] for w in words])  # noqa: E731
        self.people, self.lands = ids(world.people), ids(world.lands)
        self.story_people, self.story_lands = ids(world.story_people), ids(world.story_lands)
        self.relations = ids(RELATIONS)
        self.values = np.stack([ids(world.values[r]) for r in RELATIONS])
        self.home = ids(world.home[p] for p in world.people)
        self.attribute = np.stack(
            [ids(world.attributes[land][r] for land in world.lands) for r in RELATIONS]
        )
        self.land_at = {int(t): i for i, t in enumerate(self.lands)}
        held = set(world.held_out) | {(p, r) for p in world.never_composed for r in RELATIONS}
        self.trained = [
            (i, j)
            for i, p in enumerate(world.people)
            for j, r in enumerate(RELATIONS)
            if (p, r) not in held
        ]
        self.held_out = [(world.people.index(p), RELATIONS.index(r)) for p, r in world.held_out]
        self.never = [
            (world.people.index(p), j) for p in world.never_composed for j in range(len(RELATIONS))
        ]
        self.land_word, self.home_word, self.end = (self.id[w] for w in ("land", "home", ";"))

    def story(self, known: float, chains: int = 2) -> Story:
        """Chains of a person, a home and its value in one relation, told in any order."""
        rng, r = self.rng, int(self.rng.integers(len(RELATIONS)))
        people = self._named(chains, known, self.story_people, self.people)
        lands = self._named(chains, known, self.story_lands, self.lands)
        values = [int(v) for v in rng.choice(self.values[r], chains, replace=False)]
        rows = [[self.home_word, p, c, self.end] for p, c in zip(people, lands, strict=True)]
        rows += [
            [int(self.relations[r]), c, v, self.end] for c, v in zip(lands, values, strict=True)
        ]
        rng.shuffle(rows)
        return Story([t for row in rows for t in row], people, lands, values, r)

    def _named(self, n: int, known: float, usual: Names, other: Names) -> list[int]:
        """`n` different names, each with chance `known` one of which something is always true."""
        others = int((self.rng.random(n) < known).sum())
        names = [
            *self.rng.choice(other, others, replace=False),
            *self.rng.choice(usual, n - others, replace=False),
        ]
        return [int(names[i]) for i in self.rng.permutation(n)]

    def question(
        self, kind: str, story: Story, at: int = 0, pool: Composed | None = None
    ) -> tuple[list[int], int]:
        """(tokens up to the answer, answer); those of a story ask its chain `at`."""
        relation = int(self.relations[story.relation])
        if kind == "story_home":
            return [story.people[at], self.home_word], story.lands[at]
        if kind == "C":
            return [self.land_word, story.lands[at], relation], story.values[at]
        if kind == "D":
            return [story.people[at], self.home_word, relation], story.values[at]
        while True:  # of what this story says something else, nothing is asked from the weights
            i, j = int(self.rng.integers(len(self.people))), int(self.rng.integers(len(RELATIONS)))
            if kind == "A":
                i %= len(self.lands)
                if int(self.lands[i]) not in story.lands:
                    asked = [self.land_word, int(self.lands[i]), int(self.relations[j])]
                    return asked, int(self.attribute[j, i])
                continue
            if kind == "B":
                choices = self.trained if pool is None else pool
                i, j = choices[int(self.rng.integers(len(choices)))]
            person, home = int(self.people[i]), int(self.home[i])
            if person in story.people or home in story.lands:
                continue
            if kind == "home":
                return [person, self.home_word], home
            asked = [person, self.home_word, int(self.relations[j])]
            return asked, int(self.attribute[j, self.land_at[home]])

    def batch(self, n: int) -> tuple[Int[Tensor, "document pos"], Float[Tensor, "document pos"]]:
        """Token ids of documents, and the loss weight of each token as a target."""
        rows, weights = [], []
        chains = int(self.rng.integers(2, MOST_CHAINS + 1))
        for _ in range(n):
            story = self.story(KNOWN_IN_STORY, chains)
            ids, weight = [1, *story.ids], [0.0] + [TOLD] * len(story.ids)
            unasked = {k: list(self.rng.permutation(chains)) for k in ("story_home", "C", "D")}
            for kind in self.rng.choice(list(SHARES), QUERIES, p=list(SHARES.values())):
                left = unasked.get(kind)
                if left == []:
                    kind = "B"
                question, answer = self.question(kind, story, left.pop() if left else 0)
                ids += [*question, answer, self.end]
                weight += [TOLD] * len(question) + [1.0, TOLD]
            rows.append(ids)
            weights.append(weight)
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return ids, torch.tensor([w + [0.0] * (width - len(w)) for w in weights])

    def test(self, kind: str, n: int) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, " prompt"]]:
        """Prompts of one cell, each a story and a question, all of one length, and answers."""
        pools = {"B": self.held_out, "never": self.never, "B_trained": self.trained}
        asked = {"never": "B", "B_trained": "B", "conflict": "C"}.get(kind, kind)
        rows, answers = [], []
        while len(rows) < n:
            story = self.story(1.0 if kind == "conflict" else 0.0)
            at = int(self.rng.integers(2))
            question, answer = self.question(asked, story, at, pools.get(kind))
            rows.append([1, *story.ids, *question])
            answers.append(answer)
        return torch.tensor(rows), torch.tensor(answers)
