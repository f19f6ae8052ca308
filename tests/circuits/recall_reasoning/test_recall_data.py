"""The cells' prompts: matched, aligned, split without leaks; data files as their cards say."""

import json
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, replace

import pytest
import transformers
from conftest import COMMON, ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import interp
from circuits.recall_reasoning.cells import SPLITS, Data
from circuits.recall_reasoning.designs import CELLS, DESIGNS
from circuits.recall_reasoning.sources import ioi_cell, puzzle_cells
from circuits.recall_reasoning.sources.countries import FRAMES, fact_cells, load_facts
from circuits.recall_reasoning.sources.organism import RELATIONS, World, organism_cells
from circuits.recall_reasoning.sources.quadruples import quadruple_cells
from interp.data.chat import Chat
from interp.data.pairs import tokenise
from interp.errors import DataError

sys.path.insert(0, str(ROOT / "datasets/build"))
from organism_world import draw

FACTS = ROOT / "datasets" / "recall_facts.jsonl"
PUZZLES = ROOT / "datasets" / "linguistic_puzzles.jsonl"


class EveryWord(dict):
    """A vocabulary that grows: each new word gets the next number."""

    def __missing__(self, word: str) -> int:
        self[word] = len(self)
        return self[word]


@pytest.fixture(scope="module")
def speller():
    """A tiny random model whose tokens are the words and full stops of the data."""
    vocab = EveryWord({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3})
    split = pre_tokenizers.Whitespace()
    texts = [
        FACTS.read_text("utf-8"),
        (ROOT / "circuits/recall_reasoning/sources/countries.py").read_text(),
    ]
    texts.append((ROOT / "circuits/recall_reasoning/sources/quadruples.py").read_text())
    for text in texts:
        for word, _ in split.pre_tokenize_str(text):
            vocab[word]
    raw = Tokenizer(models.WordLevel(dict(vocab), unk_token="<unk>"))
    raw.pre_tokenizer = split
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = transformers.LlamaConfig(**COMMON | {"vocab_size": len(vocab)})
    hf = transformers.LlamaForCausalLM(config)
    return interp.load_model(hf, tokenizer=PreTrainedTokenizerFast(tokenizer_object=raw, **names))


def bridges_apart(data: Data) -> None:
    """No bridge entity and no prompt is in two splits."""
    own = {
        split: {data.bridge[p.id] for pairs in data.pairs[split].values() for p in pairs}
        for split in SPLITS
    }
    for first, second in (
        ("selection", "validation"),
        ("selection", "test"),
        ("validation", "test"),
    ):
        assert not own[first] & own[second]
        for cell in data.cells:
            a, b = (
                {text for pair in data.of(split, cell) for text in (pair.clean, pair.corrupt)}
                for split in (first, second)
            )
            assert not a & b


# --- facts -------------------------------------------------------------------------------------


def test_relations_come_in_turn(speller):
    data = fact_cells(speller, load_facts(FACTS), n=20)
    for split in SPLITS:
        first = [data.relation[pair.id] for pair in data.of(split, "A")[:8]]
        assert Counter(first) == {"capital": 4, "language": 4}


def test_fact_cells_are_matched_triples(speller):
    data = fact_cells(speller, load_facts(FACTS), n=30)
    bridges_apart(data)
    for split in SPLITS:
        cells = [tokenise(speller, data.of(split, c)) for c in ("A", "C-conflict", "C-nonce")]
        assert not any(excluded for _, excluded in cells)
        for recall, conflict, nonce in zip(*(kept for kept, _ in cells), strict=True):
            assert len(recall.clean) == len(conflict.clean) == len(nonce.clean)
            # one suffix: "is the city of" after a country, or "is"
            n = 4 if "-capital-" in recall.pair.id else 1
            assert recall.clean[-n:] == conflict.clean[-n:] == nonce.clean[-n:]


def test_facts_and_stated_answers_are_what_the_cells_say(speller):
    facts = {fact.country: fact.answers for fact in load_facts(FACTS)}
    data = fact_cells(speller, list(load_facts(FACTS)), n=20, seed=3)
    for pair in data.of("test", "A"):
        relation = pair.id.split("-")[1]
        assert pair.answer == facts[data.bridge[pair.id]][relation]
        assert pair.answer not in pair.clean.replace(".", "").split()
    for pair in data.of("test", "C-conflict"):
        truth = facts[data.bridge[pair.id]][pair.id.split("-")[1]]
        assert pair.answer in pair.clean and truth not in (pair.answer, pair.wrong_answer)


def test_same_seed_makes_the_same_cells_and_another_seed_others(speller):
    one, two, three = (fact_cells(speller, load_facts(FACTS), 12, seed) for seed in (0, 0, 1))
    assert one.records() == two.records() != three.records()


def test_what_is_no_single_token_is_rejected_with_its_reason(speller):
    data = fact_cells(speller, load_facts(FACTS), n=6)
    reasons = {row.id: row.reason for row in data.rejected}
    assert "is 2 tokens" in reasons["capital-Argentina"]  # Buenos Aires


def test_quadruples_are_equally_long(speller):
    data = quadruple_cells(speller, load_facts(FACTS), n=20)
    bridges_apart(data)
    by_quadruple = defaultdict(set)
    for cell in "ABCD":
        for pair in tokenise(speller, data.of("test", cell))[0]:
            by_quadruple[pair.pair.id.rpartition("-")[0]].add(len(pair.clean))
    assert by_quadruple and all(len(lengths) == 1 for lengths in by_quadruple.values())
    pair = data.of("test", "B")[0]
    assert "home" not in data.shortcuts[pair.id][0].rpartition(". ")[2]
    assert data.bridge[pair.id] not in pair.clean


def test_too_few_countries_are_refused_with_what_was_rejected(speller):
    some = list(load_facts(FACTS))[:15]  # their capitals are all taken by the pairs of a split
    with pytest.raises(DataError, match="no pairs of A for the validation split; 350 rows"):
        quadruple_cells(speller, some, n=20)


def test_saved_cells_have_a_row_per_pair(speller, tmp_path):
    data = replace(fact_cells(speller, load_facts(FACTS), n=6), chat=Chat(system="Be brief."))
    data.save(tmp_path / "cells.jsonl")
    lines = (tmp_path / "cells.jsonl").read_text("utf-8").splitlines()
    head, *rows = map(json.loads, lines)
    assert rows == json.loads(json.dumps(data.records()))
    assert head["candidates"] == {cell: list(own) for cell, own in data.candidates.items()}
    assert head["rejected"] == [vars(row) for row in data.rejected]
    assert (head["seed"], head["chat"]["system"]) == (0, "Be brief.")


# --- the organism's world ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    return draw(0)


def test_world_reads_back_and_holds_no_word_twice(world, tmp_path):
    (tmp_path / "world.json").write_text(json.dumps(asdict(world)))
    assert World.load(tmp_path / "world.json") == world == draw(0) != draw(1)
    assert len(set(world.vocabulary)) == len(world.vocabulary)


def test_organism_cells_ask_what_the_world_or_the_story_says(world):
    data = organism_cells(world, n=20)
    bridges_apart(data)
    for split in SPLITS:
        for a, b, c, d in zip(*(data.of(split, cell) for cell in "ABCD"), strict=True):
            story = a.clean.rpartition("; ")[0]
            assert all(p.clean.startswith(story) for p in (b, c, d))
            assert len({len(p.clean.split()) for p in (a, b, c, d)}) == 1
            told = {tuple(s.split()[:2]): s.split()[2] for s in story.split(" ; ") if s.strip(" ;")}
            land, relation = a.clean.split()[-2:]
            assert world.attributes[land][relation] == a.answer and land not in story
            person = b.clean.split()[-3]
            assert (person, relation) in world.held_out
            assert world.attributes[world.home[person]][relation] == b.answer
            assert told[relation, c.clean.split()[-2]] == c.answer
            assert told[relation, told["home", d.clean.split()[-3]]] == d.answer


def test_no_answer_of_the_world_is_a_better_guess(world):
    for relation in RELATIONS:
        counts = Counter(facts[relation] for facts in world.attributes.values())
        assert len(set(counts.values())) == 1


# --- files and their cards ---------------------------------------------------------------------


def test_recall_facts_are_as_the_card_says():
    rows = [json.loads(line) for line in FACTS.read_text("utf-8").splitlines()]
    card = FACTS.with_suffix(".md").read_text("utf-8")
    assert all(set(row) == {"country", *FRAMES, "continent", "landmarks"} for row in rows)
    assert len({row["country"] for row in rows}) == len(rows)
    assert f"{len(rows)} countries" in card
    assert f"{sum(len(row['landmarks']) for row in rows)} landmarks" in card
    assert all(f"`{key}`" in card for key in rows[0])


def test_puzzles_are_as_the_card_says():
    pairs = interp.load_pairs(PUZZLES)
    card = PUZZLES.with_suffix(".md").read_text("utf-8")
    assert f"{len(pairs)} pairs" in card
    by_lexicon = defaultdict(dict)
    for pair in pairs:
        by_lexicon[pair.id.rpartition("-")[0]][pair.id.rpartition("-")[2]] = pair
    for forms in by_lexicon.values():
        recall, reasoning = forms["recall"].clean, forms["reasoning"].clean
        assert len(recall.split()) == len(reasoning.split())
        asked = {k: p.clean.rpartition(". ")[2] for k, p in forms.items()}
        # only the phrase of the recall form has been shown with its end
        assert f"{asked['recall']} {forms['recall'].answer}" in recall
        assert reasoning.count(asked["reasoning"]) == 1


def test_puzzles_and_indirect_objects_split_by_lexicon_and_name():
    bridges_apart(puzzle_cells(interp.load_pairs(PUZZLES), 40, 0))
    data = ioi_cell(interp.load_pairs(ROOT / "datasets/ioi.jsonl"), 30, 0)
    bridges_apart(data)
    names = [{p.answer for p in data.of(s, "IOI")} for s in SPLITS]
    assert not names[0] & names[1] and not names[1] & names[2]


def test_designs_use_cells_that_exist():
    for design in DESIGNS.values():
        assert set(design.cells) <= set(CELLS)
        names = {ability.name for ability in design.abilities}
        assert {name for double in design.doubles for name in double} <= names
