"""`RecallReasoning`: a study's tables and scores, its verdict, its figures and its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from circuits.recall_reasoning.cells import design_named
from circuits.recall_reasoning.settings import Settings
from circuits.recall_reasoning.verdict import verdict_of
from interp.results import folder
from interp.statistics import jaccard

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND = "recall_reasoning"
TABLES = (
    "cells",
    "circuits",
    "effects",
    "singles",
    "doubles",
    "control",
    "draws",
    "backup",
    "neutral",
    "attribution",
    "firing",
    "relations",
    "cost",
    "dropped",
)


@dataclass(frozen=True)
class RecallReasoning:
    """What a study measured.

    Attributes:
        tables: by name, each with a column ``seed``: ``cells`` (drawn, right and kept pairs),
            ``circuits`` (a row a component), ``effects`` (what each cell loses), ``singles`` and
            ``doubles`` (dissociations), ``control`` and ``draws`` (random sets), ``backup``,
            ``neutral`` (perplexity), ``attribution`` (beside exact scores), ``firing`` (of
            neurons), ``relations`` (circuits of one relation each), ``cost``, and ``dropped``
            (pairs that were left out, with reasons).
        scores: kind of component -> scores with dims (seed, cell, layer, unit), in parts of each
            cell's total effect.
        settings: what was asked for.
        model: which model.
        seconds: wall time, of the last call where a study was resumed.
        provenance: hashes, versions and command line, filled when saved.
    """

    tables: Mapping[str, pd.DataFrame] = field(repr=False)
    scores: Mapping[str, xr.DataArray] = field(repr=False)
    settings: Settings
    model: str
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def chosen(self) -> pd.DataFrame:
        """The single dissociations that were decided beforehand: one a seed and ability."""
        table: Any = self.tables["singles"]
        return table[table["chosen"] & (table["ablation"] == self.settings.ablations[0])]

    @property
    def verdict(self) -> list[str]:
        """What holds and what does not, in sentences."""
        return verdict_of(self)

    def overlap(self) -> pd.DataFrame:
        """How far the circuits of different split seeds agree: mean Jaccard index over pairs."""
        table = self.tables["circuits"]
        rows: list[dict[str, Any]] = []
        for name, part in table.groupby("circuit", sort=False):
            by_seed = [set(one["component"]) for _, one in part.groupby("seed")]
            pairs = [jaccard(a, b) for a, b in combinations(by_seed, 2)]
            rows.append(
                {
                    "circuit": name,
                    "seeds": len(by_seed),
                    "jaccard": float(np.mean(pairs)) if pairs else float("nan"),
                }
            )
        return pd.DataFrame(rows, columns=["circuit", "seeds", "jaccard"])

    def plot(self) -> "go.Figure":
        """Own against other loss of every circuit; see `figures`."""
        from circuits.recall_reasoning.figures import plot_dissociation

        return plot_dissociation(self)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        circuits: Any = self.tables["circuits"]
        of_chosen = circuits[circuits["chosen"]]
        return {
            "model": self.model,
            "design": self.settings.design,
            "settings": self.settings.record(),
            "cells": self.tables["cells"].to_dict("records"),
            "circuits": [
                {
                    "seed": int(str(seed)),
                    "circuit": str(name),
                    "components": list(part["component"]),
                }
                for (seed, name), part in of_chosen.groupby(["seed", "circuit"])
            ],
            "single_dissociations": self.chosen.to_dict("records"),
            "double_dissociation": self.tables["doubles"].to_dict("records"),
            "random_control": self.tables["control"].to_dict("records"),
            "neutral_perplexity": self._of_chosen("neutral"),
            "backup": self._of_chosen("backup"),
            "attribution": self.tables["attribution"].to_dict("records"),
            "relations": self.tables["relations"].to_dict("records"),
            "overlap": self.overlap().to_dict("records"),
            "cost": self.tables["cost"].to_dict("records"),
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
        }

    def _of_chosen(self, table: str) -> list[dict[str, Any]]:
        names = set(self.chosen["circuit"])
        found: Any = self.tables[table]
        return found[found["circuit"].isin(names)].to_dict("records")

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder: manifest.json, Parquet tables, safetensors values.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": KIND,
            "model": self.model,
            "seconds": self.seconds,
            "settings": self.settings.record(),
            "coords": {
                kind: {str(d): np.asarray(v[d]).tolist() for d in v.dims}
                for kind, v in self.scores.items()
            },
            "provenance": folder.provenance() | self.provenance | (provenance or {}),
        }
        arrays = {kind: values.values for kind, values in self.scores.items()}
        return folder.write(Path(path), manifest, self.tables, arrays)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "RecallReasoning":
        """Read a run folder back.

        Raises:
            RunFolderError: missing, incomplete or damaged folder; the message names the file.
        """
        manifest, tables, arrays = folder.read(path, KIND, TABLES)
        scores = {
            kind: xr.DataArray(arrays[kind], coords, tuple(coords), name=kind)
            for kind, coords in manifest["coords"].items()
        }
        return cls(
            tables=tables,
            scores=scores,
            settings=Settings.of(manifest["settings"]),
            model=manifest["model"],
            seconds=manifest["seconds"],
            provenance=manifest["provenance"],
        )

    def __repr__(self) -> str:
        design = design_named(self.settings.design)
        return (
            f"RecallReasoning({self.model}, {self.settings.design}: {', '.join(design.cells)}; "
            f"{len(self.settings.seeds)} split seeds; {self.verdict[0]})"
        )

    def _repr_html_(self) -> str:
        from circuits.recall_reasoning.figures import study_report

        return study_report(self).fragment()
