"""Splits by entity: no entity and no prompt in two of them, and every lost row accounted for."""

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.data.pairs import Excluded, Pair, PromptPairs, load_pairs
from interp.data.splits import HALVES, split_by_entity
from interp.errors import DataError

THREE = {"discovery": 0.5, "validation": 0.2, "test": 0.3}


def linked(*links: tuple[str, str]) -> PromptPairs:
    rows = [
        {
            "clean": f"{a} is",
            "corrupt": f"{b} is",
            "answer": "x",
            "wrong_answer": "y",
            "subject": [a, b],
        }
        for a, b in links
    ]
    return PromptPairs.from_records(rows, "links")


def answers(pair: Pair) -> tuple[str, str]:
    return pair.answer, pair.wrong_answer


def texts(pair: Pair, *names: str) -> set[str]:
    both = (pair.clean, pair.corrupt)
    return {
        text[start:end]
        for name in names
        for text, (start, end) in zip(both, pair.spans[name], strict=True)
    }


def dataset(name: str) -> PromptPairs:
    return load_pairs(ROOT / "datasets" / f"{name}.jsonl")


# --- what must always hold ---------------------------------------------------------------------

LETTERS = list("ABCDEFGHIJKL")
LINKS = st.lists(
    st.lists(st.sampled_from(LETTERS), min_size=2, max_size=2, unique=True), min_size=1
)


@settings(deadline=None, max_examples=80)
@given(links=LINKS, seed=st.integers(0, 5), fractions=st.sampled_from([HALVES, THREE]))
def test_no_entity_is_in_two_splits_and_no_row_is_lost_untold(links, seed, fractions):
    pairs = linked(*map(tuple, links))
    try:
        splits = split_by_entity(pairs, fractions=fractions, seed=seed)
    except DataError as error:
        assert "so closely that one of the splits" in str(error)
        return
    assert list(splits) == list(fractions)
    every = [entity for name in splits for entity in splits.entities[name]]
    assert sorted(every) == sorted({entity for link in links for entity in link})
    for name, kept in splits.items():
        assert len(kept) > 0
        assert all(texts(pair, "subject") <= splits.entities[name] for pair in kept)
        assert [int(pair.id) for pair in kept] == sorted(int(pair.id) for pair in kept)
    ids = [pair.id for kept in splits.values() for pair in kept] + [r.id for r in splits.dropped]
    assert sorted(ids, key=int) == [pair.id for pair in pairs]
    for row in splits.dropped:
        pair = pairs[int(row.id) - 1]
        assert not any(texts(pair, "subject") <= own for own in splits.entities.values())


@pytest.mark.parametrize("fractions", [HALVES, THREE], ids=["halves", "three"])
@pytest.mark.parametrize(
    "name, by",
    [
        ("country_capitals", "subject"),
        ("country_capitals", answers),
        ("landmark_countries", "subject"),
        ("landmark_countries", answers),
        ("ioi", "io"),
        ("ioi", ("io", "s1")),
    ],
)
def test_the_data_sets_split_without_a_leak(name, by, fractions):
    pairs = dataset(name)
    splits = split_by_entity(pairs, by, fractions)
    assert sum(map(len, splits.values())) + len(splits.dropped) == len(pairs)
    # a pair lies in one split with chance sum of fractions squared; the deal does no worse
    assert sum(map(len, splits.values())) >= len(pairs) * sum(f**2 for f in fractions.values())
    n = sum(map(len, splits.entities.values()))
    for split, part in fractions.items():
        assert abs(len(splits.entities[split]) - part * n) <= 1
        assert len(splits[split]) >= 0.4 * part**2 * len(pairs)
    for one in splits:
        for other in splits:
            a, b = (
                {t for p in splits[name] for t in (p.clean, p.corrupt)} for name in (one, other)
            )
            assert bool(a & b) == (one == other)


# --- exact cases -------------------------------------------------------------------------------


def test_a_straddling_row_is_dropped_with_its_reason():
    pairs = linked(("a", "b"), ("c", "d"), ("b", "c"))
    splits = split_by_entity(pairs)
    assert {splits.entities[name] for name in splits} == {frozenset("ab"), frozenset("cd")}
    home = {entity: name for name in splits for entity in splits.entities[name]}
    (row,) = splits.dropped
    assert (row.id, row.where) == ("3", "links, row 3")
    assert row.reason == f"entities in different splits: 'b' ({home['b']}), 'c' ({home['c']})."
    assert splits[home["a"]].pairs == (pairs[0],)
    assert splits[home["c"]].source == f"links, {home['c']}"
    left_out = (Excluded("3", "links, row 3", "its entities are in different splits"),)
    assert [half[:1].as_chat().excluded for half in splits.values()] == [left_out, left_out]
    assert repr(splits) == (
        "Splits(discovery 1 pairs, 2 entities; test 1 pairs, 2 entities; 1 pairs dropped)"
    )


def test_the_seed_decides_the_deal():
    pairs = dataset("country_capitals")
    first, again, other = (split_by_entity(pairs, seed=seed) for seed in (1, 1, 2))
    assert first.entities == again.entities
    assert first.dropped == again.dropped
    assert first.entities != other.entities


def test_names_that_play_both_roles_need_both_spans():
    pairs = dataset("ioi")
    splits = split_by_entity(pairs, "io")
    assert not splits.dropped
    seen = {name for pair in splits["discovery"] for name in texts(pair, "s1")}
    assert seen & splits.entities["test"]
    splits = split_by_entity(pairs, ("io", "s1"))
    for name, kept in splits.items():
        assert all(texts(pair, "io", "s1", "s2") <= splits.entities[name] for pair in kept)


# --- what is refused ---------------------------------------------------------------------------


def test_halves_that_share_no_prompt_lose_only_rows_between_them():
    apart = linked(*((f"a{i}", f"b{i}") for i in range(9)))
    halves = split_by_entity(apart, None, {"scores": 0.5, "size": 0.5}, seed=1)
    assert sorted(map(len, halves.values())) == [4, 5] and not halves.dropped
    ring = linked(*((f"a{i}", f"a{(i + 1) % 40}") for i in range(40)))
    halves = split_by_entity(ring, None)
    kept = {name: {t for p in own for t in (p.clean, p.corrupt)} for name, own in halves.items()}
    assert not kept["discovery"] & kept["test"]
    assert min(map(len, halves.values())) >= 10
    assert sum(map(len, halves.values())) + len(halves.dropped) == 40
    assert {one.id for one in halves["test"].excluded} == {one.id for one in halves.dropped}
    star = linked(*((f"a{i}", "b") for i in range(9)))
    with pytest.raises(DataError, match="9 pairs share prompts so closely that one of the splits"):
        split_by_entity(star, None)


def test_refusals_say_what_to_do():
    pairs = linked(("a", "b"), ("a", "c"))
    with pytest.raises(DataError, match="2 pairs link their 3 entities so closely .* use fewer"):
        split_by_entity(pairs)
    with pytest.raises(DataError, match="row 1: no span 'subjet'. Did you mean 'subject'?"):
        split_by_entity(pairs, "subjet")
    how = r'give it in each row: "spans": {"noun": \["TEXT IN CLEAN", "TEXT IN CORRUPT"\]}'
    with pytest.raises(DataError, match=rf"row 1: no span 'noun'. Available: subject; {how}"):
        split_by_entity(pairs, "noun")
    with pytest.raises(DataError, match="row 1: `by` found no entity in 'a is'; return one"):
        split_by_entity(pairs, lambda pair: [])
    for fractions in ({"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {}):
        with pytest.raises(DataError, match="give each split a positive part, 1 in all"):
            split_by_entity(pairs, fractions=fractions)
