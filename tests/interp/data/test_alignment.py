"""Which token is the counterpart of which: hand-made cases, and what holds of any two prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.data.alignment import align
from interp.errors import DataError

N = None


def positions(text: str) -> tuple[list[int], dict[str, tuple[int, ...]]]:
    """Tokens of words, and the words in [brackets] as the spans a, b, … in order."""
    ids, spans, start = [], {}, 0
    for word in text.split():
        if word.startswith("["):
            start = len(ids)
        ids.append(sum(ord(c) * 31**i for i, c in enumerate(word.strip("[]"))))
        if word.endswith("]"):
            spans["abc"[len(spans)]] = tuple(range(start, len(ids)))
    return ids, spans


CASES = {
    "a longer span": ("the capital of [New Zealand] is", "the capital of [France] is",
                      (0, 1, 2, N, 3, 4)),
    "a shorter span": ("the capital of [France] is", "the capital of [New Zealand] is",
                       (0, 1, 2, 4, 5)),
    "no span": ("the Eiffel Tower is in", "the Louvre is in", (0, N, 1, 2, 3)),
    "a word more": ("the dog sat", "the old dog sat", (0, 2, 3)),
    "another word more": ("the fat dog sat down", "the very old dog sat down", (0, 2, 3, 4, 5)),
    "equal lengths": ("a b c d", "b c d e", (0, 1, 2, 3)),
    "equal between spans": ("x [a] p q r [b] z", "x y [a a] q r p [b] z", (0, 3, 4, 5, 6, 7, 8)),
    "common text of a span": ("[the old king] of x is", "[the king] of y is", (0, N, 1, 2, 3, 4)),
    "not across spans": ("a [b] c", "b [a c] c", (0, 2, 3)),
    "a word apart": ("[a] b", "a [c] b", (1, 2)),
    "the last token whatever it is": ("x y", "y z w", (1, 2)),
    "last, then common text": ("q r x", "y q z", (0, 1, 2)),
    "one token": ("x", "y z", (1,)),
    "a span that ends one prompt": ("of [New Zealand]", "of [France] is", (0, 1, 2)),
    "a span that ends both": ("in [New Zealand]", "in [France]", (0, N, 1)),
    "two spans": ("[a b] to [c]", "[d] to [e f g]", (N, 0, 1, 4)),
    "first of several runs": ("a x a", "a a a a a a", (0, 4, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_partners_by_hand(name: str):
    first, second, want = CASES[name]
    (clean, a), (corrupt, b) = positions(first), positions(second)
    assert align(clean, corrupt, a, b) == want


def test_the_last_tokens_of_nested_spans():
    """The inner span's last token is the outer's in one prompt and not in the other."""
    outer, inner = {"a": (0, 1, 2), "b": (2,)}, {"a": (0, 1, 2, 3), "b": (2,)}
    assert align([5, 6, 7, 1], [5, 6, 7, 8, 1], outer, inner) == (0, 1, N, 4)
    assert align([5, 6, 7, 1], [8, 5, 6, 7, 1], outer, {"a": (0, 1, 2, 3), "b": (3,)}) == (
        1,
        2,
        3,
        4,
    )


def test_spans_in_another_order_are_refused():
    with pytest.raises(DataError, match=r"spans 'a' and 'b' are in another order"):
        align([1, 2, 3], [2, 1, 3], {"a": (0,), "b": (1,)}, {"a": (1,), "b": (0,)})


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@st.composite
def two_prompts(draw):
    """Two prompts of few different tokens, with up to two spans in the same order in both."""
    sides = [draw(TOKENS), draw(TOKENS)]
    n = draw(st.integers(0, 2))
    spans = []
    for tokens in sides:
        places = st.integers(0, len(tokens))
        ends = sorted(draw(st.lists(places, min_size=2 * n, max_size=2 * n)))
        spans.append([tuple(range(*ends[2 * i : 2 * i + 2])) for i in range(n)])
    both = [i for i in range(n) if spans[0][i] and spans[1][i]]
    return (*sides, *({"ab"[i]: side[i] for i in both} for side in spans))


@given(two_prompts())
def test_one_to_one_in_order_and_the_same_from_either_side(given):
    clean, corrupt, a, b = given
    partner = align(clean, corrupt, a, b)
    assert len(partner) == len(clean)
    found = [j for j in partner if j is not None]
    assert found == sorted(set(found))
    assert all(0 <= j < len(corrupt) for j in found)
    assert partner[-1] == len(corrupt) - 1
    back = {j: i for i, j in enumerate(partner)}
    assert align(corrupt, clean, b, a) == tuple(back.get(j) for j in range(len(corrupt)))
    for name, span in a.items():
        ends = span[-1] + 1 == len(clean), b[name][-1] + 1 == len(corrupt)
        if ends in ((False, False), (True, True)):
            assert partner[span[-1]] == b[name][-1]
        for i in span[:-1]:
            assert partner[i] is None or partner[i] in b[name]


@given(two_prompts())
def test_equal_lengths_and_spans_are_aligned_token_by_token(given):
    clean, other, a, _ = given
    n = len(clean)
    corrupt = (other * n)[:n]
    assert align(clean, corrupt, a, a) == tuple(range(n))
    assert align(clean, clean, a, a) == tuple(range(n))
