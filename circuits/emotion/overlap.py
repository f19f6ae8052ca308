"""How much two texts share, by their word n-grams."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

_WORD = re.compile(r"[\w']+")


@dataclass(frozen=True)
class Overlap:
    """Two texts that share much.

    Attributes:
        left: the one text.
        right: the other.
        jaccard: shared n-grams over all n-grams of the two, 0 to 1.
    """

    left: str
    right: str
    jaccard: float


def overlaps(
    left: Sequence[str], right: Sequence[str] | None = None, *, n: int = 3, least: float = 0.0
) -> list[Overlap]:
    """Pairs of texts by the Jaccard index of their sets of word n-grams, highest first.

    Args:
        left: texts.
        right: texts to compare them with; the other texts of `left` by default.
        n: words in an n-gram; 1 compares vocabularies, 3 compares phrases.
        least: leave out pairs below this index; pairs that share nothing are never listed.
    """
    others = left if right is None else right
    grams = [[ngrams(text, n) for text in texts] for texts in (left, others)]
    column = {
        gram: i for i, gram in enumerate({g for side in grams for text in side for g in text})
    }
    own, other = (_incidence(side, column) for side in grams)
    shared = (own @ other.T).tocoo()
    rows, columns = shared.coords
    sizes = np.array([len(text) for text in grams[0]]), np.array([len(text) for text in grams[1]])
    index = shared.data / (sizes[0][rows] + sizes[1][columns] - shared.data)
    keep = (index >= least) & ((rows < columns) if right is None else True)
    found = [
        Overlap(left[int(i)], others[int(j)], float(value))
        for i, j, value in zip(rows[keep], columns[keep], index[keep], strict=True)
    ]
    return sorted(found, key=lambda pair: -pair.jaccard)


def _incidence(
    texts: Sequence[set[tuple[str, ...]]], column: dict[tuple[str, ...], int]
) -> csr_array:
    """Which text has which n-gram: [text, n-gram], 0 or 1."""
    cells = [(row, column[gram]) for row, text in enumerate(texts) for gram in text]
    rows, columns = np.array(cells, dtype=int).reshape(-1, 2).T
    return csr_array((np.ones(len(cells)), (rows, columns)), shape=(len(texts), len(column)))


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The set of a text's runs of `n` words, lower case."""
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def words(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation."""
    return _WORD.findall(text.lower())
