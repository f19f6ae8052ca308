"""`Result`: what is saved is what is loaded, whatever its fields hold; damage is told."""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from interp.data.records import Row
from interp.errors import RunFolderError
from interp.results import folder
from interp.results.result import Result


@dataclass(frozen=True)
class Part:
    layer: int
    up: torch.Tensor
    names: tuple[str, ...] = ()


class Asked(Row):
    size: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sample(Result):
    KIND = "sample"
    table: pd.DataFrame
    values: xr.DataArray
    scores: xr.Dataset
    parts: tuple[Part, ...]
    by_layer: dict[int, np.ndarray]
    tables: dict[str, pd.DataFrame]
    asked: Asked
    p: tuple[tuple[float, ...], ...]
    note: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)


def sample() -> Sample:
    values = xr.DataArray(
        np.arange(6.0).reshape(2, 3),
        {
            "run": 3,
            "pair": ["a", "b"],
            "layer": [0, 4, 9],
            "token": (("pair", "layer"), [["x"] * 3] * 2),
        },
        ("pair", "layer"),
    )
    up = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    return Sample(
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        values,
        xr.Dataset({"one": values, "two": ("layer", np.array([1, 2, 3]))}),
        (Part(3, up, ("q",)), Part(4, up.bfloat16())),
        {7: np.array([True, False])},
        {"left out": pd.DataFrame({"n": [1.5]})},
        Asked(size=3, names=("a", "b")),
        ((0.5, math.nan), ()),
        sizes={"x": 1},
    )


def test_what_is_saved_is_loaded(tmp_path):
    first = sample()
    second = Sample.load(first.save(tmp_path / "run", {"seed": 3}))
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.tables["left out"], second.tables["left out"])
    xr.testing.assert_identical(first.values, second.values)
    xr.testing.assert_identical(first.scores, second.scores)
    assert [p.layer for p in second.parts] == [3, 4]
    assert second.parts[0].names == ("q",)
    for a, b in zip(first.parts, second.parts, strict=True):
        assert torch.equal(a.up, b.up)
        assert a.up.dtype == b.up.dtype
    assert second.by_layer[7].tolist() == [True, False]
    assert second.asked == first.asked
    assert second.p[0][0] == 0.5
    assert math.isnan(second.p[0][1])
    assert second.p[1] == ()
    assert (second.note, second.sizes) == (None, {"x": 1})
    assert second.provenance["seed"] == 3
    assert second.save(tmp_path / "again").is_dir()


def test_another_kind_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Other(Result):
        KIND = "other"
        n: int

    Other(3).save(tmp_path / "run")
    assert Other.load(tmp_path / "run").n == 3
    with pytest.raises(RunFolderError, match=r"holds a 'other' run, not sample\."):
        Sample.load(tmp_path / "run")


def test_a_field_of_another_type_is_damage(tmp_path):
    path = sample().save(tmp_path / "run")
    manifest = folder.read_manifest(path)
    manifest["value"]["asked"]["size"] = "many"
    folder.seal(path, manifest)
    with pytest.raises(RunFolderError, match="is damaged"):
        Sample.load(path)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match="seal"):
        Sample.load(path)
