"""Patch results made by hand, which several tests share."""

import dataclasses

import numpy as np
import xarray as xr

from interp.data.pairs import Excluded
from interp.patching.result import PatchResult
from interp.results.result import Result

NAN = np.nan
CLEAN, CORRUPT = [4.0, 2.0], [0.0, -2.0]
TOKENS = (("The", " cat", " sat"), ("The", " dog"))
LEFT_OUT = (Excluded("bad", "p.jsonl, row 3", "answer <b>x</b> is 2 tokens ['a', 'b'] & more"),)


def made(values, over: tuple[str, ...], direction: str = "denoise", **coords) -> PatchResult:
    """Two pairs, of three tokens and of two."""
    labels = {
        axis: coords.get(axis, list(range(n)))
        for axis, n in zip(over, np.shape(values)[1:], strict=True)
    }
    if "pos" in over:
        padded = [list(t) + [""] * (3 - len(t)) for t in TOKENS]
        labels["token"] = (("pair", "pos"), padded)
    ids = ["a", "b"]
    by_pair = {"dims": "pair", "coords": {"pair": ids}}
    return PatchResult(
        values=xr.DataArray(np.array(values), dims=("pair", *over), coords={"pair": ids, **labels}),
        clean=xr.DataArray(CLEAN, **by_pair),
        corrupt=xr.DataArray(CORRUPT, **by_pair),
        excluded=LEFT_OUT,
        model="a model",
        site="resid_pre",
        metric="logit_diff",
        unit="logits",
        direction=direction,
        at="all",
        source="p.jsonl",
        tokens=TOKENS,
        seconds=1.23456,
    )


def small(direction: str = "denoise") -> PatchResult:
    """Layers 0 and 5 by three positions, of which pair b lacks the last."""
    values = [[[0.0, 1.0, 4.0], [2.0, 0.5, 3.0]], [[-2.0, 0.0, NAN], [2.0, -1.5, NAN]]]
    return made(values, ("layer", "pos"), direction, layer=[0, 5])


def same(a: Result, b: Result, *but: str) -> None:
    """Two results are alike to the last bit, provenance and some other fields aside."""
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("provenance", *but):
            continue
        if isinstance(x, xr.DataArray):
            xr.testing.assert_identical(x, y)
            assert (x.values.tobytes(), x.dtype) == (y.values.tobytes(), y.dtype)
        elif field.name == "readings":
            assert list(x) == list(y)
            for name in x:
                xr.testing.assert_identical(x[name], y[name])
        else:
            assert x == y, field.name
