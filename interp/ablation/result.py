"""`AblationResult`: what is lost with each set, beside its random controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.ablation.controls import ControlledSets
from interp.ablation.readouts import unit_of
from interp.data.pairs import Excluded
from interp.errors import PlanError, did_you_mean
from interp.model.components import Component, ComponentSet, Sets
from interp.patching.result import vars_of
from interp.results import folder
from interp.statistics import Estimate, benjamini_hochberg, bootstrap_mean, empirical_p

if TYPE_CHECKING:
    import plotly.graph_objects as go

FIELDS = ("model", "kind", "mean_over", "source", "seed", "seconds")
SETS_AT_ONCE = 4096

VARIABLES = ("baseline", "ablated", "random")

Columns = dict[str, tuple[np.ndarray, np.ndarray]]
"""readout -> (unablated values [example], ablated values [example, distinct set])."""


@dataclass(frozen=True)
class AblationResult:
    """What `ablate` measured.

    Attributes:
        readings: readout -> data set with variables ``baseline`` (example), ``ablated``
            (example, set) and ``random`` (example, set, draw), one value an example: a ``pair``,
            or for ``nll`` a ``window`` of neutral text. NaN where a set has fewer draws.
        sets: name -> what was ablated, or kept.
        controls: name -> its matched random sets, in the order of ``draw``.
        uncontrolled: name -> why a set has no control.
        clusters: each pair's entity; empty where every pair stands for itself.
        excluded: refused rows with reasons.
        model, kind, mean_over, source: what was ablated how, on what.
        seed: of random sets, noise and bootstrap.
        seconds: wall time of the runs.
        provenance: hashes, versions and command line, filled when saved.
    """

    readings: Mapping[str, xr.Dataset] = field(repr=False)
    sets: Sets = field(repr=False)
    controls: Mapping[str, Sequence[ComponentSet]] = field(repr=False)
    uncontrolled: Mapping[str, str] = field(repr=False)
    clusters: tuple[str, ...] = field(repr=False)
    excluded: tuple[Excluded, ...] = field(repr=False)
    model: str
    kind: str
    mean_over: str
    source: str
    seed: int
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def readouts(self) -> tuple[str, ...]:
        """What was read, in the order asked for."""
        return tuple(self.readings)

    @property
    def n_pairs(self) -> int:
        """How many pairs were measured."""
        return self.reading().sizes["pair"]

    def reading(self, readout: str | None = None) -> xr.Dataset:
        """The values of one readout; the first by default.

        Raises:
            PlanError: it was not read.
        """
        name = readout or self.readouts[0]
        if name not in self.readings:
            raise PlanError(f"{name!r} was not read. {did_you_mean(name, self.readouts)}")
        return self.readings[name]

    def table(self, readout: str | None = None) -> pd.DataFrame:
        """One row a set: its effect, with interval, beside the effects of its random sets.

        Args:
            readout: which; the first by default.

        Returns:
            ``effect`` = ablated - baseline, mean over examples, with its 95 % bootstrap interval
            ``low`` to ``high`` over examples or clusters; ``random``, ``random_low`` and
            ``random_high``: mean and central 95 % of the random sets' effects; ``p``: how often
            a random set does at least as much (as little, where the set is kept), counting the
            set itself; ``p_adjusted``: the same over all sets (Benjamini-Hochberg). NaN where
            there is no control.

        Raises:
            PlanError: it was not read.
        """
        data = self.reading(readout)
        baseline, ablated, random = (data[k].values for k in VARIABLES)
        clusters = self.clusters if self.clusters and "pair" in data.dims else None
        effect = _means(ablated - baseline[:, None], self.seed, clusters)
        rows: list[dict[str, Any]] = []
        for i, (name, one) in enumerate(self.sets.items()):
            null = (random[:, i] - baseline[:, None]).mean(0)[: len(self.controls[name])]
            row = {"set": name, "size": len(one.components), "baseline": baseline.mean()}
            row |= {"ablated": ablated[:, i].mean(), "effect": effect.value[i]}
            row |= {"low": effect.low[i], "high": effect.high[i], **_control(one, row, null)}
            rows.append(row | {"n": len(baseline)})
        adjusted = benjamini_hochberg(np.array([row["p"] for row in rows]))
        return pd.DataFrame(
            [row | {"p_adjusted": p} for row, p in zip(rows, adjusted, strict=True)]
        )

    def top(self, n: int = 10, readout: str | None = None) -> pd.DataFrame:
        """The sets with the largest absolute effect, as in `table`."""
        found = self.table(readout)
        order = np.argsort(-found["effect"].abs().to_numpy(), kind="stable")
        return found.iloc[order[:n]].reset_index(drop=True)

    def perplexity(self) -> pd.DataFrame:
        """Perplexity on neutral text: unablated, ablated, and the factor with its 95 % interval.

        Raises:
            PlanError: no neutral text was given.
        """
        nll = self.table("nll")
        shown = {name: np.exp(nll[name]) for name in ("baseline", "ablated")}
        factors = {"factor": "effect", "low": "low", "high": "high", "random": "random"}
        shown |= {name: np.exp(nll[column]) for name, column in factors.items()}
        return pd.DataFrame({"set": nll["set"], **shown})

    def to_frame(self) -> pd.DataFrame:
        """One row an example, set and readout: baseline and ablated value."""
        frames: list[pd.DataFrame] = []
        for name, data in self.readings.items():
            frame: Any = data[["baseline", "ablated"]].to_dataframe().reset_index()
            frame = frame.rename(columns={_example(name): "example"})
            frame.insert(0, "readout", name)
            frames.append(frame[["readout", "example", "set", "baseline", "ablated"]])
        return pd.concat(frames, ignore_index=True)

    def plot(self, readout: str | None = None) -> "go.Figure":
        """A curve over nested sets, bars over others, with what random sets do; see figures."""
        from interp.ablation.figures import plot_ablation

        return plot_ablation(self, readout or self.readouts[0])

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints: what was ablated and what was lost."""
        shared = {name: getattr(self, name) for name in FIELDS if name != "seconds"}
        return shared | {
            "n_pairs": self.n_pairs,
            "n_clusters": len(set(self.clusters)) or None,
            "excluded": [vars_of(row) for row in self.excluded],
            "n_sets": len(self.sets),
            "n_random": max(map(len, self.controls.values())),
            "uncontrolled": dict(self.uncontrolled),
            "baseline": {k: float(v["baseline"].mean()) for k, v in self.readings.items()},
            "top": {k: self.top(10, k).to_dict("records") for k in self.readings},
            "seconds": round(self.seconds, 4),
        }

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder: manifest.json, Parquet tables, safetensors values.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": "ablation",
            "fields": {name: getattr(self, name) for name in FIELDS},
            "readouts": list(self.readouts),
            "uncontrolled": dict(self.uncontrolled),
            "provenance": folder.provenance() | self.provenance | (provenance or {}),
        }
        ids = self.reading()["pair"].values
        pairs = pd.DataFrame({"pair": ids, "cluster": list(self.clusters) or [""] * len(ids)})
        drawn = [(n, one) for n, many in self.controls.items() for one in many]
        columns = list(vars_of(Excluded("", "", "")))
        tables = {
            "pairs": pairs,
            "sets": _set_table(list(self.sets.items())),
            "controls": _set_table(drawn),
            "excluded": pd.DataFrame([vars_of(row) for row in self.excluded], columns=columns),
            **{f"table-{name}": self.table(name) for name in self.readouts},
        }
        arrays = {
            f"{name}.{variable}": data[variable].values
            for name, data in self.readings.items()
            for variable in VARIABLES
        }
        return folder.write(Path(path), manifest, tables, arrays)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "AblationResult":
        """Read a run folder back, exactly.

        Raises:
            RunFolderError: missing, incomplete or damaged folder; the message names the file.
        """
        names = ("pairs", "sets", "controls", "excluded")
        manifest, tables, arrays = folder.read(path, "ablation", names)
        pairs, sets = tables["pairs"], dict(_sets(tables["sets"]))
        controls: dict[str, list[ComponentSet]] = {name: [] for name in sets}
        for name, one in _sets(tables["controls"]):
            controls[name].append(one)
        ids, clusters = pairs["pair"].tolist(), [c for c in pairs["cluster"].tolist() if c]
        readings = {
            name: _dataset(name, [arrays[f"{name}.{k}"] for k in VARIABLES], sets, controls, ids)
            for name in manifest["readouts"]
        }
        return cls(
            readings=readings,
            sets=sets,
            controls=controls,
            uncontrolled=manifest["uncontrolled"],
            clusters=tuple(clusters),
            excluded=tuple(Excluded(**row) for row in tables["excluded"].to_dict("records")),
            **manifest["fields"],
            provenance=manifest["provenance"],
        )

    def __repr__(self) -> str:
        what = ", ".join(f"{k} {float(v['baseline'].mean()):.3f}" for k, v in self.readings.items())
        return (
            f"AblationResult({self.kind} ablation of {len(self.sets)} sets on {self.model}; "
            f"{self.n_pairs} pairs, {len(self.excluded)} excluded; unablated {what}; "
            f"{self.seconds:.2f} s)"
        )

    def _repr_html_(self) -> str:
        from interp.ablation.figures import report

        return report(self).fragment()


def _means(effects: np.ndarray, seed: int, clusters: Sequence[str] | None) -> Estimate:
    """Means with intervals, of a part of the sets at a time: a resample holds them all."""
    parts = [
        bootstrap_mean(effects[:, i : i + SETS_AT_ONCE], seed, clusters=clusters)
        for i in range(0, effects.shape[1], SETS_AT_ONCE)
    ]
    return Estimate(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _control(one: ComponentSet, row: Mapping[str, Any], null: np.ndarray) -> dict[str, Any]:
    """What random sets do, and how often as much as this one."""
    names = ("random", "random_low", "random_high")
    if not len(null):
        return dict.fromkeys(names, np.nan) | {"n_random": 0, "p": np.nan}
    low, high = np.quantile(null, [0.025, 0.975])
    side = "less" if one.among else "greater"
    p = float(empirical_p(abs(row["effect"]), np.abs(null), side))
    values = zip(names, (null.mean(), low, high), strict=True)
    return dict(values) | {"n_random": len(null), "p": p}


def result_of(
    values: Columns, controlled: ControlledSets, pairs: Sequence[str], **fields: Any
) -> AblationResult:
    """Label what was measured: a set's values and those of its controls, by readout."""
    column = {one.key: i for i, one in enumerate(controlled.distinct)}
    own = [column[one.key] for one in controlled.sets.values()]
    n_draws = max(map(len, controlled.controls.values()))
    drawn = np.full((len(own), n_draws), -1)
    for i, many in enumerate(controlled.controls.values()):
        drawn[i, : len(many)] = [column[one.key] for one in many]
    readings: dict[str, xr.Dataset] = {}
    for name, (baseline, ablated) in values.items():
        random = np.where(drawn >= 0, ablated[:, drawn], np.nan)
        parts = baseline, ablated[:, own], random
        readings[name] = _dataset(name, parts, controlled.sets, controlled.controls, pairs)
    return AblationResult(
        readings=readings,
        sets=controlled.sets,
        controls=controlled.controls,
        uncontrolled=controlled.uncontrolled,
        **fields,
    )


def _dataset(
    name: str,
    values: Sequence[np.ndarray],
    sets: Sets,
    controls: Mapping[str, Sequence[ComponentSet]],
    pairs: Sequence[str],
) -> xr.Dataset:
    example = _example(name)
    coords: dict[str, Any] = {
        example: list(range(len(values[0]))) if name == "nll" else list(pairs),
        "set": list(sets),
        "size": ("set", [len(one.components) for one in sets.values()]),
        "n_random": ("set", [len(controls[one]) for one in sets]),
    }
    dims = (example,), (example, "set"), (example, "set", "draw")
    variables: Any = {k: (d, v) for k, d, v in zip(VARIABLES, dims, values, strict=True)}
    return xr.Dataset(variables, coords, {"unit": unit_of(name)})


def _example(readout: str) -> str:
    return "window" if readout == "nll" else "pair"


def _set_table(named: Sequence[tuple[str, ComponentSet]]) -> pd.DataFrame:
    rows = [
        {"set": name, "components": list(map(str, one.components)), "kept_among": list(one.among)}
        for name, one in named
    ]
    return pd.DataFrame(rows, columns=["set", "components", "kept_among"])


def _sets(table: pd.DataFrame) -> list[tuple[str, ComponentSet]]:
    return [
        (
            str(row["set"]),
            ComponentSet(tuple(map(Component.parse, row["components"])), tuple(row["kept_among"])),
        )
        for row in table.to_dict("records")
    ]
