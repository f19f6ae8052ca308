"""Values as sealed folders: the type of each part says how it is stored, and how it is read back.

Frames become Parquet tables; arrays, tensors and xarray values go into one safetensors file; all
else (numbers, text, tuples, mappings, frozen dataclasses, pydantic models) into the manifest.
"""

import dataclasses
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import BaseModel, ConfigDict, TypeAdapter

from interp.results import folder

T = TypeVar("T")
MARK = "$stored"
LONG = 1000
"""Texts of one axis that still go into the manifest, at most."""
HALF = ("torch.bfloat16", "torch.float16")


def store(value: Any, path: Path, kind: str, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write dataclasses, containers, frames, arrays and JSON's types into a new folder of a kind.

    `provenance` is added to versions, machine and command line. `RunFolderError` where the path
    holds something else, `TypeError` where a part cannot be stored.
    """
    parts = _Parts()
    manifest = {
        "kind": kind,
        "value": parts.pack(value, ""),
        "provenance": folder.provenance() | dict(provenance or {}),
    }
    return folder.write(path, manifest, parts.tables, parts.arrays)


def restore(path: Path, kind: str, hint: type[T] | Any) -> T:
    """Read a value that `store` wrote, checked against its type; errors are `RunFolderError`."""
    with folder.reading(path):
        manifest, frames, arrays = folder.read(path, kind)
        return checked(_unpack(manifest["value"], frames, arrays), hint)


def checked(value: Any, hint: Any) -> Any:
    """A value of JSON's types, frames and arrays as the type that a hint names, checked."""
    return _adapter(hint).validate_python((value,))[0]


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    # the tuple carries the configuration: pydantic takes none beside a bare dataclass
    one: Any = GenericAlias(tuple, (hint,))
    return TypeAdapter(one, config=ConfigDict(arbitrary_types_allowed=True))


class _Parts:
    """The tables and arrays of a value, by name, while it is taken apart."""

    def __init__(self) -> None:
        self.tables: dict[str, pd.DataFrame] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def pack(self, value: Any, name: str) -> Any:
        """A value as JSON, with marks where a table or an array stands."""
        if isinstance(value, pd.DataFrame):
            return {MARK: "table", "name": self._add(self.tables, name, value)}
        if isinstance(value, xr.Dataset):
            parts = {str(k): self.pack(v, _join(name, k)) for k, v in value.data_vars.items()}
            return {MARK: "dataset", "variables": parts}
        if isinstance(value, xr.DataArray):
            coords = {
                str(k): [list(v.dims), self.pack(v.values, _join(name, k))]
                for k, v in value.coords.items()
            }
            values = self.pack(value.values, name)
            return {MARK: "dataarray", "values": values, "dims": value.dims, "coords": coords}
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":  # text
                if value.ndim == 1 and len(value) > LONG:
                    column = pd.DataFrame({"text": value.astype(object)})
                    return {MARK: "texts", "name": self._add(self.tables, name, column)}
                return {MARK: "text", "values": value.tolist()}
            return {MARK: "array", "name": self._add(self.arrays, name, value)}
        if hasattr(value, "detach"):
            array = value.detach().cpu()
            array = array.float() if str(array.dtype) in HALF else array  # NumPy has no bfloat16
            dtype = str(value.dtype).removeprefix("torch.")
            found = self._add(self.arrays, name, array.numpy())
            return {MARK: "tensor", "name": found, "dtype": dtype}
        return self._pack_plain(value, name)

    def _pack_plain(self, value: Any, name: str) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        if dataclasses.is_dataclass(value):
            fields = [f.name for f in dataclasses.fields(value) if f.init]
            return {f: self.pack(getattr(value, f), _join(name, f)) for f in fields}
        if isinstance(value, Mapping):
            return {str(k): self.pack(v, _join(name, k)) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            parts = sorted(value) if isinstance(value, set | frozenset) else value
            return [self.pack(one, _join(name, i)) for i, one in enumerate(parts)]
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{name} is of type {type(value).__name__}, which cannot be stored")

    def _add(self, where: dict[str, Any], name: str, value: Any) -> str:
        own = re.sub(r"[^\w.-]", "_", name)[:80] or "value"
        own = own if own not in where else f"{own}.{len(where)}"
        where[own] = value
        return own


def _join(name: str, part: Any) -> str:
    return f"{name}.{part}" if name else str(part)


def _unpack(packed: Any, tables: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
    if isinstance(packed, list):
        return [_unpack(one, tables, arrays) for one in packed]
    if not isinstance(packed, dict):
        return packed
    match packed.get(MARK):
        case None:
            return {key: _unpack(one, tables, arrays) for key, one in packed.items()}
        case "table":
            return tables[packed["name"]]
        case "array":
            return arrays[packed["name"]]
        case "texts":
            return np.array(tables[packed["name"]]["text"].tolist())
        case "text":
            return np.array(packed["values"])
        case "tensor":
            import torch

            return torch.from_numpy(arrays[packed["name"]]).to(getattr(torch, packed["dtype"]))
        case "dataarray":
            values = _unpack(packed["values"], tables, arrays)
            coords = {
                name: (dims, _unpack(at, tables, arrays))
                for name, (dims, at) in packed["coords"].items()
            }
            return xr.DataArray(values, coords, packed["dims"])
        case _:
            return xr.Dataset(_unpack(packed["variables"], tables, arrays))
