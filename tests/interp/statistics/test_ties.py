"""Orders of equal scores, and choices that the last bits could turn."""

import numpy as np
import pytest
import torch

from interp.statistics import near_ties
from interp.statistics.ties import ROUNDINGS, first_largest, rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_scores_the_first_are_taken_first(dtype: torch.dtype):
    drawn = torch.randint(0, 9, (7, 3, 500), generator=torch.Generator().manual_seed(0)).to(dtype)
    for n in (1, 60, 500):
        values, ids = first_largest(drawn, n)
        assert torch.equal(ids, drawn.argsort(dim=-1, descending=True, stable=True)[..., :n])
        assert torch.equal(values, drawn.gather(-1, ids))
    flat = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first_largest(flat, 20)[1], flat.topk(20).indices)
    tied = torch.tensor([-torch.inf, 1, torch.nan, 1, -torch.inf])
    assert first_largest(tied, 5)[1].tolist() == [2, 1, 3, 0, 4]


def test_scores_within_rounding_of_the_largest_are_named():
    scores = np.array([1.0, 3.0, 3.0 - 0.9 * rounding(3.0), np.nan, 3.0 - 1.1 * rounding(3.0)])
    assert near_ties("abcde", scores, rounding(3.0)) == "Within rounding of b: c."
    assert near_ties("abcde", scores, rounding(30.0)) == "Within rounding of b: c, e."
    assert near_ties("abcde", [1, 2, 3, 4, 5], rounding(5.0)) == ""
    assert near_ties("abcdef", [7.0] * 6, 0.0) == "Within rounding of a: b, c, d and 2 more."
    assert (
        near_ties("abc", [1.0, 1.01, 0], rounding(1.0, dtype="torch.bfloat16"))
        == "Within rounding of b: a."
    )
    assert near_ties("ab", [np.nan, np.nan], 1.0) == near_ties("", [], 1.0) == ""
    assert rounding(-2.0) == rounding(2.0) == ROUNDINGS * 2.0**-22
