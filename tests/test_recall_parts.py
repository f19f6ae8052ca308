"""`benchmarks.recall_parts`: its table of back-patching, counted by hand."""

import numpy as np
import pytest
import xarray as xr

from benchmarks.recall_parts import mended


def test_only_answers_that_were_wrong_can_be_mended():
    right = np.full((4, 2, 2), np.nan)
    right[:, 1, 0] = [1, 0, 1, 1]  # layer 6 into layer 0; the last pair was right before
    coords = {
        "pair": list("abcd"),
        "source": [0, 6],
        "target": [0, 6],
        "unpatched": ("pair", [False, False, False, True]),
    }
    (row,) = mended(xr.DataArray(right, coords, ("pair", "source", "target"))).to_dict("records")
    assert (row["source"], row["target"], row["n"]) == (6, 0, 3)
    assert row["mended"] == pytest.approx(2 / 3) and row["low"] < 2 / 3 < row["high"]
