"""Answers of several tokens and several texts: which are kept, their tree, their batch."""

import dataclasses

import pytest
import torch
from conftest import tiny, word_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from interp.data.answers import AnswerTree, without_extensions
from interp.data.pairs import PromptPairs, tokenise
from interp.data.token_batch import batch
from interp.errors import DataError

ROW = {"clean": "w1 w2 w3", "corrupt": "w4 w2 w3"}


def kept(answer, wrong, mode="whole", **changes):
    record = ROW | {"answer": answer, "wrong_answer": wrong} | changes
    (pair,), _ = tokenise(tiny("llama"), PromptPairs.from_records([record]), mode)
    return pair


def words(*numbers: int) -> tuple[int, ...]:
    return tuple(n + 4 for n in numbers)


def test_aliases_are_kept_in_order_without_those_that_extend_another():
    pair = kept(["w5 w6", "w7", "w5 w6 w8", "w7", "w5 w9"], "w10 w11")
    assert (pair.pair.answer, pair.pair.aliases) == ("w5 w6", ("w7", "w5 w6 w8", "w7", "w5 w9"))
    assert pair.answers == ((words(5, 6), words(7), words(5, 9)), (words(10, 11),))
    assert (pair.answer, pair.wrong_answer) == (9, 14)
    first = kept(["w5 w6", "w7", "w5 w8"], ["w10 w11", "w12"], "first")
    assert first.answers == ((words(5), words(7)), (words(10), words(12)))


@pytest.mark.parametrize(
    ("answer", "wrong", "mode", "says"),
    [
        ("w5 w6", "w5 w6", "whole", "answer and wrong_answer do not exclude each other"),
        ("w5", "w5 w6", "whole", "'w5' and 'w5w6' begin with the same 1 tokens, which is all of"),
        (["w8", "w5 w6"], ["w9", "w5"], "whole", "begin with the same 1 tokens"),
        ("w5 w6", "w5 w7", "first", "are the same token 'w5'."),
        (["w5", "w6"], "w7", "single", "answer has 2 accepted texts; this method reads only one."),
    ],
)
def test_answers_must_be_told_apart(answer, wrong, mode, says):
    with pytest.raises(DataError) as error:
        kept(answer, wrong, mode)
    assert says in str(error.value)


@pytest.mark.parametrize("answer", [[], ["w5", " "], ["w5", 3], {"a": "w5"}, None])
def test_what_is_no_text_is_named(answer):
    with pytest.raises(DataError, match="'answer' is .*; it must be (non-empty )?text, or a list"):
        PromptPairs.from_records([ROW | {"answer": answer, "wrong_answer": "w6"}])


def test_prompts_that_end_differently_spell_answers_alike_or_are_refused():
    assert kept("w5", "w6", corrupt="w1 w2 w4").answers == ((words(5),), (words(6),))


answers = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1)


@given(st.lists(answers, min_size=1, max_size=3))
def test_a_tree_reads_each_beginning_once_and_finds_its_way_back(given_aliases):
    own = [without_extensions(aliases) for aliases in given_aliases]
    for before, after in zip(given_aliases, own, strict=True):
        assert all(any(a[: len(b)] == b for b in after) for a in before)
    tree = AnswerTree.of(own)
    parents = (0, *tree.parents)

    def text(node: int) -> tuple[int, ...]:
        return (*text(parents[node]), tree.tokens[node - 1]) if node else ()

    beginnings = {alias[:n] for aliases in own for alias in aliases for n in range(1, len(alias))}
    assert sorted(text(i + 1) for i in range(len(tree.tokens))) == sorted(beginnings)
    for aliases, paths in zip(own, tree.paths, strict=True):
        for alias, path in zip(aliases, paths, strict=True):
            assert [text(node) for node in path] == [alias[:n] for n in range(len(alias))]
    assert tree.depths == tuple(len(text(i + 1)) for i in range(len(tree.tokens)))
    for i, row in enumerate(tree.visible):
        seen = {text(i + 1)[:n] for n in range(1, tree.depths[i] + 1)}
        assert {text(j + 1) for j in row.nonzero()[:, 0].tolist()} == seen
    assert tree.branches == any(parent != i for i, parent in enumerate(tree.parents))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_by_hand(side: str):
    model = dataclasses.replace(tiny("llama"), tokenizer=word_tokenizer(side))
    rows = [
        ROW | {"answer": "w5 w6 w7", "wrong_answer": ["w5 w8 w9", "w10 w11"]},
        {"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w5", "wrong_answer": "w6"},
    ]
    pairs, _ = tokenise(model, PromptPairs.from_records(rows))
    tokens = batch(model, pairs)
    # w5, w5 w6, w5 w8, w10 behind the first pair's prompts, nothing behind the second's
    assert tokens.ids[0].tolist() == list(words(1, 2, 3, 5, 6, 8, 10))
    last = 6 if side == "left" else 1
    assert tokens.columns.tolist() == [[2, 3, 4, 5, 6]] * 2 + [[last] * 5] * 2
    assert tokens.tree is not None
    assert tokens.tree.position[1].tolist() == [0, 1, 2, 3, 4, 4, 3]
    wanted = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert tokens.tree.visible[1, 3:, 3:].int().tolist() == wanted
    assert tokens.tree.visible[1, 3:, :3].all() and tokens.tree.visible[2:].all()
    assert tokens.answers.node[0].tolist() == [[[0, 1, 2], [0, 0, 0]], [[0, 1, 3], [0, 4, 0]]]
    assert tokens.answers.real[0].sum(-1).tolist() == [[3, 0], [3, 2]]
    assert torch.equal(tokens.answers.first, torch.tensor([[9, 9]] * 2 + [[9, 10]] * 2))
    one = batch(model, pairs, 1)
    assert one.ids[0, -6:].tolist()[: 6 if side == "left" else 5][-2:] == list(words(5, 6))
    assert one.tree is None  # the right answer alone does not branch
    assert batch(model, pairs, 0).ids.shape == (4, 3)
