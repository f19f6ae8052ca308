"""Which token of a corrupt prompt is the counterpart of which token of its clean prompt.

Prompts of a pair may differ in length. Their last tokens, from which the answer is predicted, are
partners, and so are the last tokens of each named span, whose tokens find partners inside the span
alone. What lies between is aligned by the text that both prompts share::

    clean     The capital of [New Zealand] is          spans in brackets
               |     |     |         |      |
    corrupt   The capital of    [France]    is         "New" has no partner
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from interp.errors import DataError, shown

Tokens = Sequence[int]
Spans = Mapping[str, tuple[int, ...]]
"""Name -> the token positions of a span, ascending."""
Partner = tuple[int | None, ...]
"""For each token of a prompt the position of its partner in the other prompt, or ``None``."""


def align(clean: Tokens, corrupt: Tokens, clean_spans: Spans, corrupt_spans: Spans) -> Partner:
    """The partner of each clean token: one to one, and in the same order in both prompts.

    Spans that both prompts have divide them into stretches. A stretch of equal length is aligned
    token by token; otherwise its longest common run of tokens is, and in the same way what is left
    on either side, until two stretches have no token in common, which are aligned from their ends.
    Prompts of equal length whose spans are at the same positions are thus aligned token by token,
    and ``align(corrupt, clean, …)`` is the inverse.

    Raises:
        DataError: two spans are in another order in `corrupt` than in `clean`.
    """
    found: list[int | None] = [None] * len(clean)
    lengths = len(clean), len(corrupt)
    for (i, j), (stop_i, stop_j) in _stretches(lengths, clean_spans, corrupt_spans):
        for a, b in _matched(clean[i:stop_i], corrupt[j:stop_j]):
            found[i + a] = j + b
    return tuple(found)


Cut = tuple[int, int]
"""A boundary between tokens, in both prompts: so many tokens lie before it."""


def _stretches(lengths: tuple[int, int], first: Spans, second: Spans) -> Iterator[tuple[Cut, Cut]]:
    """The stretches between boundaries of spans; the prompts' last tokens are one of their own."""
    last = lengths[0] - 1, lengths[1] - 1
    cuts: list[tuple[Cut, str]] = [((0, 0), ""), (last, ""), (lengths, "")]
    for name in first.keys() & second.keys():
        start = first[name][0], second[name][0]
        # a span that ends in the prompt's last token ends before it here
        stop = min(first[name][-1] + 1, last[0]), min(second[name][-1] + 1, last[1])
        start = min(start[0], last[0]), min(start[1], last[1])
        cuts += [(start, name), (stop, name)]
        if start[0] < stop[0] and start[1] < stop[1]:
            cuts.append(((stop[0] - 1, stop[1] - 1), name))
    cuts.sort()
    for (before, one), (after, other) in zip(cuts, cuts[1:], strict=False):
        if before[1] > after[1]:
            raise DataError(
                f"spans {shown(one)} and {shown(other)} are in another order in the corrupt prompt "
                "than in the clean one, so their tokens cannot be aligned; name one of them only."
            )
        yield before, after


def _matched(clean: Tokens, corrupt: Tokens) -> Iterator[tuple[int, int]]:
    """Partners in two stretches."""
    n, m = len(clean), len(corrupt)
    length, i, j = (0, 0, 0) if n == m or not n or not m else _longest_common(clean, corrupt)
    if length:
        yield from _matched(clean[:i], corrupt[:j])
        yield from ((i + k, j + k) for k in range(length))
        i, j = i + length, j + length
        yield from ((i + a, j + b) for a, b in _matched(clean[i:], corrupt[j:]))
    else:  # from the ends; of equal length, token by token
        both = min(n, m)
        yield from ((n - both + k, m - both + k) for k in range(both))


def _longest_common(clean: Tokens, corrupt: Tokens) -> tuple[int, int, int]:
    """(length, start in `clean`, start in `corrupt`) of the longest common run of tokens.

    Of several the first, then the one nearest to the same place in both, then that of the smaller
    token ids: whichever prompt is called the clean one, the same run is found.
    """
    a, b = np.asarray(clean), np.asarray(corrupt)
    run, longest = np.zeros(len(b) + 1, dtype=int), 0
    ends: list[tuple[int, int]] = []
    for i, token in enumerate(a, 1):  # run[j]: length of the common run that ends in a[i], b[j]
        run[1:] = np.where(b == token, run[:-1] + 1, 0)
        top = int(run.max())
        if top > longest:
            longest, ends = top, []
        if top == longest and longest:
            ends += [(i, int(j)) for j in np.flatnonzero(run == top)]

    def order(end: tuple[int, int]) -> tuple[int, int, list[int]]:
        i, j = end
        return i + j, abs(i - j), list(clean[i - longest : i])

    i, j = min(ends, key=order, default=(0, 0))
    return longest, i - longest, j - longest
