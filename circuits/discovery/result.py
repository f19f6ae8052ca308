"""`Evaluation` of one circuit and `Faithfulness` of circuits of every size, on test pairs.

f = (m(C) - m(empty)) / (m(full) - m(empty)),   a ratio of means over pairs
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from circuits.discovery.figures import plot_evaluation, plot_faithfulness
from interp.data.prompts import unpaired_tokens
from interp.errors import PlanError
from interp.results.report import Figure, Report, Section, Table, excluded_counts
from interp.results.result import Result
from interp.statistics import Estimate, bootstrap_ratio, empirical_p, resample_weights

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEFT_OUT = "entities in different halves, or not readable by this model"
F = "f = (circuit - all edges cut) / (full model - all edges cut), a ratio of means over pairs"


@dataclass(frozen=True)
class _OnTestPairs(Result):
    """What was measured, on what.

    Attributes:
        pairs: a row per test pair: ``pair`` (its id), ``full`` and ``empty`` (the metric of the
            full model and with all edges cut), and its entity ``cluster``, where given.
        n_excluded: rows that the split left out, and test rows refused.
        unpaired: how many tokens of each pair's clean and corrupt prompt have no partner in the
            other, so that no edge is cut there. Empty where all have.
        answers: how much of the answers was read.
    """

    pairs: pd.DataFrame = field(repr=False)
    model: str
    metric: str
    ablation: str
    source: str
    n_excluded: int
    unpaired: tuple[tuple[int, int], ...] = field(default=(), kw_only=True, repr=False)
    answers: str = field(default="whole (1 token)", kw_only=True)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to mind when reading the result; empty where there is nothing."""
        return unpaired_tokens(self.unpaired)

    @property
    def clusters(self) -> list[str] | None:
        """The entity of each pair, where given."""
        return self.pairs["cluster"].tolist() if "cluster" in self.pairs else None

    @property
    def seed(self) -> int:
        """The random seed of the intervals."""
        return self.provenance.get("seed", 0)

    def _of_pairs(self, name: str) -> Float[np.ndarray, " pair"]:
        return self.pairs[name].to_numpy(float)

    def _measured(self) -> dict[str, Any]:
        return {
            **self.named("model", "metric", "ablation", "source"),
            "n_pairs": len(self.pairs),
            "n_excluded": self.n_excluded,
            "warnings": list(self.warnings),
            "answers": self.answers,
            "full": float(self._of_pairs("full").mean()),
            "empty": float(self._of_pairs("empty").mean()),
        }

    def _report(self, title: str, lead: str, section: Section, method: str) -> Report:
        said = self._measured()
        return Report(
            title=title,
            lead=lead,
            sections=[section],
            method=(
                f"{F}. {self.metric}: {said['full']:.3f} of the full model, {said['empty']:.3f} "
                f"with all edges cut ({self.ablation} ablation). Answers: {self.answers}. "
                f"Test pairs: {self.source}.",
                method,
            ),
            excluded=excluded_counts({LEFT_OUT: self.n_excluded}),
            provenance=self.provenance,
            warnings=self.warnings,
        )


@dataclass(frozen=True)
class Evaluation(_OnTestPairs):
    """How well one circuit does the model's work.

    Attributes:
        pairs: also has ``circuit``, the metric with all else ablated.
        random: faithfulness of the random circuits, a column per kind; see `random_circuit`.
        circuit: how it was found.
        n_edges, of_edges: its edges, and all of the graph's.
    """

    KIND: ClassVar[str] = "evaluation"

    random: pd.DataFrame = field(repr=False)
    circuit: str
    n_edges: int
    of_edges: int

    def faithfulness(self, seed: int = 0) -> Estimate:
        """Faithfulness with its 95 % interval over pairs, or over clusters of pairs."""
        empty = self._of_pairs("empty")
        top, bottom = self._of_pairs("circuit") - empty, self._of_pairs("full") - empty
        return bootstrap_ratio(top, bottom, seed, clusters=self.clusters)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        f = self.faithfulness(self.seed)
        return {
            **self.named("circuit", "n_edges", "of_edges"),
            **self._measured(),
            "circuit_metric": float(self._of_pairs("circuit").mean()),
            "faithfulness": {name: float(x) for name, x in f._asdict().items()},
            "random": {
                str(kind): {
                    "n": len(drawn),
                    "mean": float(drawn.mean()),
                    "max": float(drawn.max()),
                    "p": float(empirical_p(f.value, drawn.to_numpy())),
                }
                for kind, drawn in self.random.items()
            },
        }

    def report(self) -> Report:
        """Faithfulness of the circuit, beside random ones."""
        said = self.summary()
        f, random = said["faithfulness"], said["random"]
        result = (
            f"Faithfulness {f['value']:.3f}, 95 % interval {f['low']:.3f} to {f['high']:.3f}, on "
            f"{said['n_pairs']} test pairs."
        )
        for kind, of in random.items():
            result += f" Random {kind}: {of['mean']:.3f} on average (p = {of['p']:.3f})."
        tables = [Table("Faithfulness", pd.DataFrame([{"circuit": self.circuit, **f}]))]
        if random:
            rows = pd.DataFrame(random).T.rename_axis("random").reset_index()
            rows = rows.astype({"n": int}).rename(columns={"max": "largest"})
            tables.append(Table("Faithfulness of random circuits", rows))
        drawn = plot_evaluation(said, self.random)
        figure = Figure("The circuit beside random circuits", result, drawn)
        return self._report(
            f"{self.circuit} on {self.model}: faithfulness",
            result,
            Section("Faithfulness", [figure, *tables]),
            f"{said['circuit_metric']:.3f} of the circuit, which has {self.n_edges} of "
            f"{self.of_edges} edges.",
        )


@dataclass(frozen=True)
class Faithfulness(_OnTestPairs):
    """Faithfulness of one method's circuits against their size, under two rankings.

        CPR  = integral of f dk        signed ranking: how good the supporting components are
        CMD  = integral of |1 - f| dk  ranking by size: how closely the model is reproduced

    on a grid of k, the part of the edges kept, by trapezoids (MIB, arXiv 2504.13151). CPR has no
    upper bound. 85 % of both comes from circuits of more than a fifth of all edges, so f at small k
    and the area on a logarithmic axis are always reported too.

    Attributes:
        curves: ``metric`` (ranking, k, pair) of each circuit, and its ``n_edges`` (ranking, k)
            after pruning; rankings are ``signed`` (for CPR) and ``absolute`` (for CMD).
        method: whose scores.
    """

    KIND: ClassVar[str] = "faithfulness"

    curves: xr.Dataset = field(repr=False)
    method: str

    def f(self) -> xr.DataArray:
        """Faithfulness by ranking and size."""
        n_edges = self.curves["n_edges"]
        return n_edges.astype(float).copy(data=self._f(np.ones((1, len(self.pairs))))[0])

    def _f(self, weights: Float[np.ndarray, "draw pair"]) -> Float[np.ndarray, "draw ranking k"]:
        empty, full = (weights @ self._of_pairs(name) for name in ("empty", "full"))
        values = self.curves["metric"].transpose("pair", "ranking", "k").values
        gap = (full - empty)[:, None, None]
        return (np.tensordot(weights, values, 1) - empty[:, None, None]) / gap

    def areas(self, seed: int = 0) -> dict[str, Estimate]:
        """CPR, CMD and their logarithmic versions, with 95 % intervals.

        The intervals resample test pairs, by cluster where clusters were given; the ranking is
        held fixed. ``log_CPR`` and ``log_CMD`` integrate over log k and divide by its range.
        """
        return {name: _estimate(area) for name, area in self._areas(seed).items()}

    def minus(self, *others: "Faithfulness", seed: int = 0) -> dict[str, Estimate]:
        """Differences of the areas to another method's, resampling the shared test pairs.

        Of several others to the mean of their areas.
        """
        measured = {
            (one.model, one.metric, one.ablation, *one.pairs["pair"]) for one in (self, *others)
        }
        if len(measured) > 1:
            raise PlanError(
                "differences need two methods measured on the same test pairs of the same model, "
                "with the same metric and ablation."
            )
        own, drawn = self._areas(seed), [other._areas(seed) for other in others]
        return {n: _estimate(own[n] - np.mean([one[n] for one in drawn], axis=0)) for n in own}

    def _areas(self, seed: int) -> dict[str, Float[np.ndarray, " area"]]:
        """Every area over all pairs, then over each of 2000 resamples."""
        member, names = pd.factorize(self.pairs["pair" if self.clusters is None else "cluster"])
        drawn = resample_weights(len(names), seed, 2000)[:, member]
        f = self._f(np.concatenate([np.ones((1, len(member))), drawn]))
        signed, absolute = (list(self.curves["ranking"].values).index(r) for r in RANKINGS)
        k = self.curves["k"].values
        out: dict[str, np.ndarray] = {}
        for name, height in (("CPR", f[:, signed]), ("CMD", np.abs(1 - f[:, absolute]))):
            out[name] = np.trapezoid(height, k, axis=1)
            out[f"log_{name}"] = np.trapezoid(height, np.log(k), axis=1) / np.log(k[-1] / k[0])
        return out

    def to_frame(self) -> pd.DataFrame:
        """One row per ranking and size: ``ranking``, ``k``, ``n_edges``, ``f``."""
        return self.curves[["n_edges"]].assign(f=self.f()).to_dataframe().reset_index()

    def plot(self) -> "go.Figure":
        """Faithfulness against circuit size."""
        note = f"{self.source}, {len(self.pairs)} test pairs, {self.ablation} ablation"
        return plot_faithfulness({self.method: self.to_frame()}, self.model, self.metric, note)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "method": self.method,
            **self._measured(),
            **{name: area._asdict() for name, area in self.areas(self.seed).items()},
            "curve": self.to_frame().to_dict("records"),
        }

    def report(self) -> Report:
        """Areas with intervals, the curves, and faithfulness at every size."""
        areas, table = self.areas(self.seed), self.to_frame()
        rows = [{"area": n.replace("_", " "), **area._asdict()} for n, area in areas.items()]
        half: Any = table[(table["ranking"] == "absolute") & (table["f"] >= 0.5)]
        reached = "By size of score, no circuit reaches f of .5."
        if len(half):
            n = int(half["n_edges"].min())
            reached = f"By size of score, {n} edges are the fewest with f of .5 or more."
        parts = [
            Figure("Faithfulness by part of edges kept", reached, self.plot()),
            Table("Areas under the curves", pd.DataFrame(rows)),
            Table("Faithfulness at every size", table),
        ]
        return self._report(
            f"{self.method} on {self.model}: faithfulness of its circuits",
            f"{len(self.pairs)} test pairs of {self.source}. {reached}",
            Section("Faithfulness by size", parts),
            "CPR: area under f of circuits by signed score; CMD: area between f and 1 of circuits "
            "by size of score (smaller is better); log: over the logarithm of size.",
        )


RANKINGS = ("signed", "absolute")


def _estimate(areas: Float[np.ndarray, " area"]) -> Estimate:
    low, high = np.quantile(areas[1:], [0.025, 0.975])
    return Estimate(float(areas[0]), float(low), float(high))
