"""Query-value results as run folders."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from circuits.query_value.questions import Question
from interp.data.pairs import Excluded
from interp.data.prompts import TokenPrompt
from interp.results import folder

if TYPE_CHECKING:
    from circuits.query_value.result import QueryValue

KIND = "query_value"
FIELDS = ("model", "weights_hash", "key", "top", "flops", "seconds")


def save(result: "QueryValue", path: Path, provenance: dict[str, Any] | None) -> Path:
    """Write a run folder: manifest.json, Parquet tables, safetensors scores.

    Raises:
        RunFolderError: the path holds something that is not a run folder.
    """
    scores = result.scores
    manifest = {
        "kind": KIND,
        **{name: getattr(result, name) for name in FIELDS},
        "layers_searched": list(result.layers_searched),
        "dims": {str(name): list(array.dims) for name, array in scores.data_vars.items()},
        "coords": {str(name): array.values.tolist() for name, array in scores.coords.items()},
        "questions": [_record(one) for one in result.questions],
        "tokens": [list(row) for row in result.tokens],
        "provenance": folder.provenance() | result.provenance | (provenance or {}),
    }
    excluded = pd.DataFrame(
        [asdict(row) for row in result.excluded], columns=["id", "where", "reason"]
    )
    tables = {"values": result.values, "queries": result.queries, "excluded": excluded}
    arrays = {str(name): array.values for name, array in scores.data_vars.items()}
    return folder.write(path, manifest, tables, arrays)


def load(path: Path) -> "QueryValue":
    """Read what `save` wrote; errors as in `interp.results.folder.read`."""
    from circuits.query_value.result import QueryValue

    with folder.reading(path):
        manifest, tables, arrays = folder.read(path, KIND, ("values", "queries", "excluded"))
        variables = {name: (dims, arrays[name]) for name, dims in manifest["dims"].items()}
        return QueryValue(
            scores=xr.Dataset(variables, manifest["coords"]),
            values=tables["values"],
            queries=tables["queries"],
            questions=tuple(_question(record) for record in manifest["questions"]),
            tokens=tuple(tuple(row) for row in manifest["tokens"]),
            excluded=tuple(Excluded(**row) for row in tables["excluded"].to_dict("records")),
            layers_searched=tuple(manifest["layers_searched"]),
            provenance=manifest["provenance"],
            **{name: manifest[name] for name in FIELDS},
        )


def _record(one: Question) -> dict[str, Any]:
    spans = {name: list(at) for name, at in one.prompt.spans.items()}
    prompt = {"ids": list(one.prompt.ids), "spans": spans}
    return {**{k: v for k, v in vars(one).items() if k != "prompt"}, "prompt": prompt}


def _question(record: dict[str, Any]) -> Question:
    given = record["prompt"]
    spans = {name: tuple(at) for name, at in given["spans"].items()}
    fields: dict[str, Any] = record | {"prompt": TokenPrompt(tuple(given["ids"]), spans)}
    return Question(**fields)
