"""The shipped organism does all four cells, and is refused where it is not what its card says."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import interp
from circuits.cli.app import app
from circuits.query_value import find, validate
from circuits.recall_reasoning.filter import candidates, filtered, right
from circuits.recall_reasoning.probes import knock_out
from circuits.recall_reasoning.sources.organism import (
    RELATIONS,
    one_hop,
    organism_cells,
    stated,
    story_text,
    world_of,
)
from interp.ablation.readouts import spelt
from interp.data.pairs import tokenise
from interp.data.prompts import TokenPrompt, prompts_of
from interp.errors import ModelError
from interp.loading import organisms

NAME = "two-hop-organism"


@pytest.fixture(scope="module")
def organism():
    return interp.load_model(NAME)


@pytest.fixture(scope="module")
def world(organism):
    return world_of(organism)


def test_each_cell_is_right_on_fresh_prompts(organism, world):
    found = filtered(organism, organism_cells(world, n=60, seed=11))
    for cell, part in found.counts.groupby("cell"):
        assert part["asked"].sum() == 180
        assert np.average(part["clean_right"], weights=part["asked"]) >= 0.95, cell
        # the answer leads all words, not only the values
        assert np.average(part["vocabulary_right"], weights=part["asked"]) >= 0.95, cell
    shortcuts = found.counts.loc[found.counts["cell"] == "B", "by_shortcut"]
    assert shortcuts.sum() <= 0.25 * 180


def test_story_overrules_what_is_always_true(organism, world):
    rng = np.random.default_rng(5)
    prompts, answers = [], []
    for _ in range(60):
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        first, second = (world.lands[i] for i in rng.choice(len(world.lands), 2, replace=False))
        people = rng.choice(world.story_people, 2, replace=False)
        others = [v for v in world.values[relation] if v != world.attributes[first][relation]]
        told, other = rng.choice(others, 2, replace=False)
        facts = [stated(people[0], "home", first), stated(people[1], "home", second)]
        facts += [stated(first, relation, told), stated(second, relation, other)]
        story = " ".join(facts[i] for i in rng.permutation(4))
        prompts.append(TokenPrompt(tuple(organism.encode(f"{story} {one_hop(first, relation)}"))))
        answers.append(((organism.encode(str(told))[-1],),))
    pairs = organism_cells(world, n=2).of("test", "A")
    (first, *_), _ = tokenise(organism, pairs)
    texts = candidates(pairs, [v for r in RELATIONS for v in world.values[r]])
    among = [spelt(organism, first, text) for text in texts]
    lead, _ = right(organism, prompts, answers, among)
    assert lead.mean() >= 0.95


def test_every_word_of_the_world_is_one_token(organism, world):
    assert organism.arch.n_layers == 5 and len(organism.tokenizer) == len(world.vocabulary)
    text = story_text(world, n=2)
    ids = organism.encode(text)
    assert [organism.token(i).strip() for i in ids] == ["<s>", *text.split()]


def test_other_weights_than_the_card_speaks_of_are_refused(monkeypatch):
    monkeypatch.setitem(organisms.WEIGHTS, NAME, "0" * 64)
    with pytest.raises(ModelError, match="not the organism that its card speaks of"):
        organisms.folder_of(NAME)
    with pytest.raises(ModelError, match=f"Did you mean '{NAME}'"):
        organisms.folder_of("two-hop-organisms")


def test_models_lists_it_and_it_is_small(organism):
    found = CliRunner().invoke(app, ["models", "--json"])
    assert NAME in [row["name"] for row in json.loads(found.stdout)["models"]]
    weights = organisms.folder_of(NAME) / "model.safetensors"
    assert weights.stat().st_size <= 12e6


def test_query_neurons_of_one_person_serve_others_of_the_same_land(organism, world):
    """Every fact being known, neurons found on one person's home are asked of other people's."""
    people: dict[str, list[str]] = {}
    for person, land in world.home.items():
        people.setdefault(land, []).append(person)
    lands = list(people)[:8]
    story = story_text(world, n=1)

    def ask(person: str) -> TokenPrompt:
        return interp.prompt(organism, f"{story} {person} home", subject=person)

    found = find(organism, [ask(people[c][0]) for c in lands], lands, clusters=lands)
    new = [(ask(people[c][i]), c) for c in lands for i in (1, 2)]
    answers = [land for _, land in new]
    tested = validate(
        organism, found, [one for one, _ in new], answers, clusters=answers, kind="zero"
    )
    row = tested.table().set_index("readout").loc["logprob"]
    assert row["n"] == 16 and row["high"] < -0.1
    assert abs(row["random"]) < 0.05 and row["p"] == pytest.approx(1 / 21)


@pytest.mark.parametrize(("cell", "first"), [("B", 0), ("D", 1)])
def test_bridge_is_read_where_the_first_hop_is_asked_for(organism, world, cell, first):
    """From the weights after the first MLP, from the story after the first match."""
    data = organism_cells(world, n=24, seed=2)
    pairs = data.of("test", cell)
    clusters = data.clusters(pairs)
    rows, lands = tokenise(organism, pairs)[0], sorted(set(data.bridge.values()))
    log_p = []
    for side in ("clean", "corrupt"):
        prompts = prompts_of(rows, side)
        read = interp.logit_lens(organism, prompts, at="hop_last", tokens=lands).of_tokens
        own = [lands.index(data.bridge[row.pair.id]) for row in rows]
        log_p.append(read["log_p"].values[np.arange(len(rows)), 1:, 0, own])
    higher = (log_p[0] > log_p[1]).mean(0)
    assert (higher[first:] >= 0.95).all()
    assert first == 0 or higher[0] < 0.8
    change = knock_out(organism, pairs, window=1, span="hop", clusters=clusters)["change"]
    assert change.idxmin() == 2 and change[2] < -0.2  # then it moves to the last token
