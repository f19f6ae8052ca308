"""`AblationResult`: what is lost with each set, beside its random controls."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.ablation.controls import ControlledSets
from interp.data.pairs import Excluded
from interp.data.prompts import unpaired_tokens
from interp.errors import PlanError, did_you_mean
from interp.model.components import ComponentSet, nested
from interp.results.result import Result
from interp.statistics import benjamini_hochberg, bootstrap_mean, empirical_p

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.results.report import Report

BARS = 40
"""Bars drawn at most: those of the largest effects."""
VARIABLES = ("baseline", "ablated", "random")

Columns = dict[str, tuple[np.ndarray, np.ndarray]]
"""readout -> (unablated values [example], ablated values [example, distinct set])."""


@dataclass(frozen=True, repr=False)
class AblationResult(Result):
    """What `ablate` measured.

    Attributes:
        readings: readout -> data set with variables ``baseline`` (example), ``ablated``
            (example, set) and ``random`` (example, set, draw), one value per example: a ``pair``,
            or for ``nll`` a ``window`` of neutral text. NaN where a set has fewer draws.
        sets: name -> what was ablated, or kept.
        controls: name -> its matched random sets, in the order of ``draw``.
        uncontrolled: name -> why a set has no control.
        clusters: each pair's entity; empty where every pair stands for itself.
        excluded: refused rows with reasons.
        units: readout -> unit of its values.
        answers: how much of the answers was read.
        unpaired: where tokens were resampled, how many of each pair's clean and corrupt prompt have
            no partner in the other: they stay as they are. Empty where all have.
        seconds: wall time of the runs.
    """

    KIND = "ablation"

    readings: dict[str, xr.Dataset]
    sets: dict[str, ComponentSet]
    controls: dict[str, tuple[ComponentSet, ...]]
    uncontrolled: dict[str, str]
    clusters: tuple[str, ...]
    excluded: tuple[Excluded, ...]
    model: str
    kind: str
    mean_over: str
    source: str
    seed: int
    seconds: float
    units: dict[str, str]
    answers: str
    unpaired: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, data in self.readings.items():
            data.attrs["unit"] = self.unit_of(name)

    def unit_of(self, readout: str) -> str:
        """The unit of a readout's values."""
        return self.units.get(readout, "nats per token")

    @property
    def readouts(self) -> tuple[str, ...]:
        """What was read, in the order asked for."""
        return tuple(self.readings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to mind when reading the result; empty where there is nothing."""
        return unpaired_tokens(self.unpaired)

    @property
    def n_pairs(self) -> int:
        """How many pairs were measured."""
        return self.reading().sizes["pair"]

    def reading(self, readout: str | None = None) -> xr.Dataset:
        """The values of one readout; the first by default."""
        name = readout or self.readouts[0]
        if name not in self.readings:
            raise PlanError(f"{name!r} was not read. {did_you_mean(name, self.readouts)}")
        return self.readings[name]

    def table(self, readout: str | None = None) -> pd.DataFrame:
        """One row per set: its effect, with interval, beside the effects of its random sets.

        ``effect`` = ablated - baseline, mean over examples, with its 95 % bootstrap interval
        ``low`` to ``high`` over examples or clusters; ``random``, ``random_low`` and
        ``random_high``: mean and central 95 % of the random sets' effects; ``p``: how often
        a random set does at least as much (as little, where the set is kept), counting the
        set itself; ``p_adjusted``: the same over all sets (Benjamini-Hochberg). NaN where
        there is no control; `PlanError` where `readout` (by default the first) was not read.
        """
        data = self.reading(readout)
        baseline, ablated, random = (data[k].values for k in VARIABLES)
        clusters = self.clusters if self.clusters and "pair" in data.dims else None
        effect = bootstrap_mean(ablated - baseline[:, None], self.seed, clusters=clusters)
        rows: list[dict[str, Any]] = []
        for i, (name, one) in enumerate(self.sets.items()):
            null = (random[:, i] - baseline[:, None]).mean(0)[: len(self.controls[name])]
            row = {"set": name, "size": len(one.components), "baseline": baseline.mean()}
            row |= {"ablated": ablated[:, i].mean(), "effect": effect.value[i]}
            row |= {"low": effect.low[i], "high": effect.high[i], **_control(one, row, null)}
            rows.append(row | {"n": len(baseline)})
        table = pd.DataFrame(rows)
        return table.assign(p_adjusted=benjamini_hochberg(table["p"].to_numpy()))

    def top(self, n: int = 10, readout: str | None = None) -> pd.DataFrame:
        """The sets with the largest absolute effect, as in `table`."""
        found = self.table(readout)
        order = np.argsort(-found["effect"].abs().to_numpy(), kind="stable")
        return found.iloc[order[:n]].reset_index(drop=True)

    def perplexity(self) -> pd.DataFrame:
        """Perplexity on neutral text: unablated, ablated, and the factor with its 95 % interval."""
        nll = self.table("nll").set_index("set").rename(columns={"effect": "factor"})
        columns = ["baseline", "ablated", "factor", "low", "high", "random"]
        return nll[columns].apply(np.exp).reset_index()

    def to_frame(self) -> pd.DataFrame:
        """One row per example, set and readout: baseline and ablated value."""
        frames: list[pd.DataFrame] = []
        for name, data in self.readings.items():
            frame: Any = data[["baseline", "ablated"]].to_dataframe().reset_index()
            frame = frame.rename(columns={_example(name): "example"}).assign(readout=name)
            frames.append(frame[["readout", "example", "set", "baseline", "ablated"]])
        return pd.concat(frames, ignore_index=True)

    def plot(self, readout: str | None = None) -> "go.Figure":
        """A curve over nested sets, bars over others, with 95 % intervals, beside random sets."""
        from interp.ablation.figures import plot_bars, plot_curve

        name = readout or self.readouts[0]
        said = f"{self.kind} ablation on {self.model}"
        if not nested(self.sets):
            return plot_bars(self.top(BARS, name), name, said)
        kept = any(one.among for one in self.sets.values())
        axis = "components kept, all others ablated" if kept else "components ablated"
        return plot_curve(self.table(name), name, self.unit_of(name), said, axis)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints: what was ablated and what was lost."""
        return {
            **self.named("model", "kind", "mean_over", "answers", "source", "seed", "n_pairs"),
            "n_clusters": len(set(self.clusters)) or None,
            "excluded": [asdict(row) for row in self.excluded],
            "warnings": list(self.warnings),
            "n_sets": len(self.sets),
            "n_random": max(map(len, self.controls.values())),
            "uncontrolled": dict(self.uncontrolled),
            "baseline": {k: float(v["baseline"].mean()) for k, v in self.readings.items()},
            "top": {k: self.top(10, k).to_dict("records") for k in self.readings},
            "seconds": round(self.seconds, 4),
        }

    def report(self) -> "Report":
        """Of each readout the figure and the sets of largest effect."""
        from interp.ablation.figures import readout_section, strongest
        from interp.results.report import Report, Section, Table, excluded_rows

        n, first = len(self.sets), self.readouts[0]
        without = f" {len(self.uncontrolled)} without random sets to compare."
        sections = [
            readout_section(self.top(15, name), name, self.unit_of(name), self.plot(name))
            for name in self.readouts
        ]
        if self.uncontrolled:
            rows = pd.DataFrame(self.uncontrolled.items(), columns=["set", "why"])
            table = Table("No random set could be matched", rows)
            sections.append(Section("Sets without random sets", [table]))
        return Report(
            title=f"{self.kind} ablation on {self.model}, {self.source}",
            lead=f"{n} set{'s' * (n != 1)} of components, {self.n_pairs} pairs of {self.source}."
            f"{without * bool(self.uncontrolled)} "
            f"{strongest(self.top(1, first), first, self.unit_of(first))}",
            sections=sections,
            method=(
                "Effect: ablated - baseline, mean over examples, with its 95 % bootstrap interval; "
                "random sets: the mean effect of matched random sets and the central 95 % of "
                "theirs. p: how often a random set does at least as much; adjusted over all sets "
                "(Benjamini-Hochberg).",
                f"Kind of ablation: {self.kind}"
                + (f", mean over {self.mean_over}" if self.mean_over else "")
                + f"; answers: {self.answers}; seed {self.seed}; "
                f"the runs took {self.seconds:.2f} s.",
            ),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance,
            warnings=self.warnings,
        )

    def __repr__(self) -> str:
        what = ", ".join(f"{k} {float(v['baseline'].mean()):.3f}" for k, v in self.readings.items())
        return (
            f"AblationResult({self.kind} ablation of {len(self.sets)} sets on {self.model}; "
            f"{self.n_pairs} pairs, {len(self.excluded)} excluded; unablated {what}; "
            f"{self.seconds:.2f} s)"
        )


def _control(one: ComponentSet, row: Mapping[str, Any], null: np.ndarray) -> dict[str, Any]:
    """What random sets do, and how often as much as this one."""
    names = ("random", "random_low", "random_high")
    if not len(null):
        return dict.fromkeys(names, np.nan) | {"n_random": 0, "p": np.nan}
    values = zip(names, (null.mean(), *np.quantile(null, [0.025, 0.975])), strict=True)
    side = "less" if one.among else "greater"
    p = float(empirical_p(abs(row["effect"]), np.abs(null), side))
    return dict(values) | {"n_random": len(null), "p": p}


def result_of(
    values: Columns, plan: ControlledSets, pairs: Sequence[str], **fields: Any
) -> AblationResult:
    """Label what was measured: a set's values and those of its controls, by readout."""
    column = {one.key: i for i, one in enumerate(plan.distinct)}
    own = [column[one.key] for one in plan.sets.values()]
    drawn = np.full((len(own), max(map(len, plan.controls.values()))), -1)
    for i, many in enumerate(plan.controls.values()):
        drawn[i, : len(many)] = [column[one.key] for one in many]
    readings: dict[str, xr.Dataset] = {}
    for name, (baseline, ablated) in values.items():
        example = _example(name)
        coords: dict[str, Any] = {
            example: list(range(len(baseline))) if name == "nll" else list(pairs),
            "set": list(plan.sets),
            "size": ("set", [len(one.components) for one in plan.sets.values()]),
            "n_random": ("set", [len(plan.controls[one]) for one in plan.sets]),
        }
        dims = (example,), (example, "set"), (example, "set", "draw")
        parts = baseline, ablated[:, own], np.where(drawn >= 0, ablated[:, drawn], np.nan)
        variables: Any = {k: (d, v) for k, d, v in zip(VARIABLES, dims, parts, strict=True)}
        readings[name] = xr.Dataset(variables, coords)
    return AblationResult(
        readings=readings,
        sets=dict(plan.sets),
        controls={name: tuple(many) for name, many in plan.controls.items()},
        uncontrolled=dict(plan.uncontrolled),
        **fields,
    )


def _example(readout: str) -> str:
    return "window" if readout == "nll" else "pair"
