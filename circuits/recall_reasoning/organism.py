"""The four cells on the organism: one story, four questions of equally many words.

A and B ask what is true in every text, C and D what the story states; A and C take one hop, B and
D two. B asks only compositions that training never showed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, data_of
from circuits.recall_reasoning.world import RELATIONS, World, one_hop, stated, two_hops
from interp.loading.organisms import folder_of
from interp.model.model import Model

Record = dict[str, Any]


def world_of(model: Model) -> World:
    """The world that a shipped organism was trained on.

    Raises:
        ModelError: the model is no shipped organism.
        DataError: its world is missing.
    """
    return World.load(Path(folder_of(model.name)) / "world.json")


def organism_cells(world: World, n: int = 100, seed: int = 0) -> Data:
    """Draw `n` quadruples for each split; no land or person occurs in two splits.

    Args:
        world: the organism's.
        n: quadruples a split, so pairs a cell.
        seed: of the splits and the draws.

    Raises:
        DataError: a split is left without a cell.
    """
    rng = np.random.default_rng(seed)
    parts = {
        "land": _dealt(world.lands, rng),
        "story_land": _dealt(world.story_lands, rng),
        "story_person": _dealt(world.story_people, rng),
    }
    records: list[Record] = []
    for at, split in enumerate(SPLITS):
        own = {name: part[at] for name, part in parts.items()}
        composed = [(p, r) for p, r in world.held_out if world.home[p] in own["land"]]
        for number in range(n):
            quadruple = _quadruple(world, own, composed, rng)
            records += [
                {"id": f"{split}-{number:03d}-{row['cell']}", "split": split, **row}
                for row in quadruple
            ]
    values = tuple(v for listed in world.values.values() for v in listed)
    return data_of(records, dict.fromkeys("ABCD", values), (), "the organism's world", seed)


def story_text(world: World, n: int = 40, seed: int = 0) -> str:
    """Stories and nothing else: the organism's text that has to do with no cell."""
    rng = np.random.default_rng(seed)
    facts: list[str] = []
    for _ in range(n):
        people, lands = _two(list(world.story_people), rng), _two(list(world.story_lands), rng)
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        values = _two(list(world.values[relation]), rng)
        told = [stated(p, "home", c) for p, c in zip(people, lands, strict=True)]
        told += [stated(c, relation, v) for c, v in zip(lands, values, strict=True)]
        facts += [told[i] for i in rng.permutation(4)]
    return " ".join(facts)


def _dealt(names: tuple[str, ...], rng: np.random.Generator) -> list[list[str]]:
    """Names dealt to the splits in equal parts."""
    order = [names[i] for i in rng.permutation(len(names))]
    return [order[at :: len(SPLITS)] for at in range(len(SPLITS))]


def _quadruple(
    world: World,
    own: dict[str, list[str]],
    composed: list[tuple[str, str]],
    rng: np.random.Generator,
) -> list[Record]:
    """One story and the four questions after it."""
    person, relation = composed[int(rng.integers(len(composed)))]
    people, lands = (_two(own[name], rng) for name in ("story_person", "story_land"))
    values = _two(list(world.values[relation]), rng)
    facts = [stated(p, "home", c) for p, c in zip(people, lands, strict=True)]
    facts += [stated(c, relation, v) for c, v in zip(lands, values, strict=True)]
    story = " ".join(facts[i] for i in rng.permutation(4))

    def value(land: str) -> str:
        return world.attributes[land][relation]

    land = own["land"][int(rng.integers(len(own["land"])))]
    other_land = _other([c for c in own["land"] if value(c) != value(land)], rng)
    answer = value(world.home[person])
    other = _other(
        [p for p, r in composed if r == relation and value(world.home[p]) != answer], rng
    )
    asked = {
        "A": (one_hop, (land, other_land), (value(land), value(other_land)), land),
        "B": (two_hops, (person, other), (answer, value(world.home[other])), world.home[person]),
        "C": (one_hop, lands, values, lands[0]),
        "D": (two_hops, people, values, lands[0]),
    }
    rows: list[Record] = []
    for cell, (ask, subjects, answers, bridge) in asked.items():
        row = _record(cell, story, [ask(s, relation) for s in subjects], subjects, answers, bridge)
        row["relation"] = relation
        if cell == "B":
            row["shortcuts"] = [f"{story} {person} {relation}"]
        rows.append(row)
    return rows


def _record(
    cell: str,
    story: str,
    questions: list[str],
    subjects: tuple[str, str],
    answers: tuple[str, str],
    bridge: str,
) -> Record:
    prompts = [f"{story} {question}" for question in questions]
    starts = [
        len(story) + 1 + question.index(subject)
        for question, subject in zip(questions, subjects, strict=True)
    ]
    ends = [at + len(subject) for at, subject in zip(starts, subjects, strict=True)]
    spans = {"subject": [[at, end] for at, end in zip(starts, ends, strict=True)]}
    if cell in ("B", "D"):  # the first hop is asked for by the word after the person
        spans["hop"] = [[end + 1, end + 1 + len("home")] for end in ends]
    return {
        "cell": cell,
        "bridge": bridge,
        "clean": prompts[0],
        "corrupt": prompts[1],
        "answer": answers[0],
        "wrong_answer": answers[1],
        "spans": spans,
    }


def _two(names: list[str], rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(len(names), 2, replace=False)
    return names[int(first)], names[int(second)]


def _other(names: list[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]
