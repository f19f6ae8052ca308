"""How well circuits of every size do the model's work: f(k), CPR, CMD, and small sizes beside them.

    f(k) = (m(C_k) - m(nothing)) / (m(model) - m(nothing)),  a ratio of means over pairs
    CPR  = integral of f dk       signed ranking: how good the supporting components are
    CMD  = integral of |1 - f| dk  ranking by size: how closely the model is reproduced

on MIB's grid of k, the part of the edges kept, by trapezoids (arXiv 2504.13151). CPR has no upper
bound. 85 % of both comes from circuits of more than a fifth of all edges, so f at small k and the
area on a logarithmic axis are always reported too.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuits.discovery.circuit import Circuit, top_edges
from circuits.discovery.running import Bench
from interp.attribution.scores import EdgeScores
from interp.brief import brief
from interp.errors import PlanError
from interp.results import folder
from interp.statistics import Estimate, resample_weights

if TYPE_CHECKING:
    import plotly.graph_objects as go

GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's parts of all edges."""

Select = Callable[[EdgeScores, int, bool], Circuit]


@brief
@dataclass(frozen=True)
class Curve:
    """Circuits of growing size under one ranking.

    Attributes:
        k: part of all components asked for.
        n_edges: edges of each circuit, after pruning.
        values: the metric of each circuit, per pair.
    """

    k: tuple[float, ...]
    n_edges: tuple[int, ...]
    values: Float[np.ndarray, "k pair"]


@brief
@dataclass(frozen=True)
class Faithfulness:
    """Both curves of one method on test prompts.

    Attributes:
        signed: circuits by signed score, for CPR.
        absolute: circuits by size of score, for CMD.
        full, empty: the metric of the whole model and with all edges cut, per pair.
        method, model, metric, ablation, source: what was measured, on what.
        ids: of the test pairs; `clusters` their entities, where given.
        n_excluded: test rows refused.
        provenance: versions, machine and command line, filled when saved.
    """

    signed: Curve
    absolute: Curve
    full: Float[np.ndarray, " pair"]
    empty: Float[np.ndarray, " pair"]
    method: str
    model: str
    metric: str
    ablation: str
    source: str
    ids: tuple[str, ...] = field(repr=False)
    clusters: tuple[Hashable, ...] | None = field(default=None, repr=False)
    n_excluded: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def f(self, curve: Curve) -> Float[np.ndarray, " k"]:
        """Faithfulness at each size."""
        return self._f(curve, np.ones((1, len(self.full))))[0]

    def _f(
        self, curve: Curve, weights: Float[np.ndarray, "draw pair"]
    ) -> Float[np.ndarray, "draw k"]:
        none = weights @ self.empty
        gap = weights @ self.full - none
        return (weights @ curve.values.T - none[:, None]) / gap[:, None]

    def areas(self, seed: int = 0, n_resamples: int = 2000) -> dict[str, Estimate]:
        """CPR, CMD and their logarithmic versions, with 95 % intervals.

        The intervals resample test pairs, by cluster where clusters were given; the ranking is
        held fixed. ``log_CPR`` and ``log_CMD`` integrate over log k and divide by its range.
        """
        drawn = self._areas(self._draws(seed, n_resamples))
        return {name: _estimate(area) for name, area in drawn.items()}

    def minus(self, other: "Faithfulness", seed: int = 0) -> dict[str, Estimate]:
        """Differences of the areas to another method's, resampling the shared test pairs.

        Raises:
            PlanError: the two were not measured on the same pairs.
        """
        alike = ("ids", "model", "metric", "ablation")
        if any(getattr(self, name) != getattr(other, name) for name in alike):
            raise PlanError(
                "differences need two methods measured on the same test pairs of the same model, "
                "with the same metric and ablation."
            )
        draws = self._draws(seed, 2000)
        own, others = self._areas(draws), other._areas(draws)
        return {name: _estimate(own[name] - others[name]) for name in own}

    def _areas(
        self, draws: Float[np.ndarray, "draw pair"]
    ) -> dict[str, Float[np.ndarray, " area"]]:
        """Every area over all pairs, then over each resample."""
        weights = np.concatenate([np.ones((1, len(self.full))), draws])
        out: dict[str, np.ndarray] = {}
        for name, curve, of in (
            ("CPR", self.signed, lambda f: f),
            ("CMD", self.absolute, lambda f: np.abs(1 - f)),
        ):
            f = of(self._f(curve, weights))
            axis = np.log(curve.k)
            out[name] = np.trapezoid(f, curve.k, axis=1)
            out[f"log_{name}"] = np.trapezoid(f, axis, axis=1) / (axis[-1] - axis[0])
        return out

    def _draws(self, seed: int, n: int) -> Float[np.ndarray, "draw pair"]:
        if self.clusters is None:
            return resample_weights(len(self.full), seed, n)
        names = list(dict.fromkeys(self.clusters))
        member = np.array([names.index(c) for c in self.clusters])
        return resample_weights(len(names), seed, n)[:, member]

    def to_frame(self) -> pd.DataFrame:
        """One row a ranking and size."""
        rows = [
            {"ranking": name, "k": k, "n_edges": n, "f": f}
            for name, curve in (("signed", self.signed), ("absolute", self.absolute))
            for k, n, f in zip(curve.k, curve.n_edges, self.f(curve), strict=True)
        ]
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Faithfulness against circuit size; see `circuits.discovery.drawing`."""
        from circuits.discovery.drawing import plot_faithfulness

        return plot_faithfulness([self])

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "method": self.method,
            "model": self.model,
            "metric": self.metric,
            "ablation": self.ablation,
            "source": self.source,
            "n_pairs": len(self.full),
            "n_excluded": self.n_excluded,
            "full": float(self.full.mean()),
            "empty": float(self.empty.mean()),
            **{
                name: dict(zip(("value", "low", "high"), bounds, strict=True))
                for name, bounds in self.areas(seed).items()
            },
            "curve": self.to_frame().to_dict("records"),
        }

    def save(self, path: str | Path, seed: int = 0) -> Path:
        """Write a run folder (kind ``faithfulness``) with per-pair values.

        Args:
            path: the folder.
            seed: of the intervals in its manifest, and on its page.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": "faithfulness",
            **self.summary(seed),
            "provenance": folder.provenance() | dict(self.provenance) | {"seed": seed},
        }
        arrays = {
            "signed": self.signed.values,
            "absolute": self.absolute.values,
            "full": self.full,
            "empty": self.empty,
        }
        pairs = pd.DataFrame({"pair": self.ids})
        if self.clusters is not None:
            pairs["cluster"] = [str(one) for one in self.clusters]
        return folder.write(
            Path(path), manifest, {"pairs": pairs, "curve": self.to_frame()}, arrays
        )

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Faithfulness":
        """Read a run folder back.

        Raises:
            RunFolderError: missing, incomplete or damaged folder, or one of another kind.
        """
        manifest, tables, arrays = folder.read(path, "faithfulness", ("pairs", "curve"))
        pairs = tables["pairs"]
        curves = {
            str(name): Curve(
                tuple(rows["k"].tolist()), tuple(rows["n_edges"].tolist()), arrays[str(name)]
            )
            for name, rows in tables["curve"].groupby("ranking", sort=False)
        }
        named = ("method", "model", "metric", "ablation", "source", "n_excluded")
        return cls(
            **curves,
            full=arrays["full"],
            empty=arrays["empty"],
            ids=tuple(pairs["pair"].tolist()),
            clusters=tuple(pairs["cluster"].tolist()) if "cluster" in pairs else None,
            **{name: manifest[name] for name in named},
            provenance=manifest["provenance"],
        )


def _estimate(areas: Float[np.ndarray, " area"]) -> Estimate:
    low, high = np.quantile(areas[1:], [0.025, 0.975])
    return Estimate(float(areas[0]), float(low), float(high))


def faithfulness(
    test: Bench,
    scores: EdgeScores,
    grid: Sequence[float] = GRID,
    select: Select = top_edges,
    clusters: Sequence[Hashable] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Run circuits of every size of the grid on test prompts.

    Args:
        test: from `bench`, on prompts that `scores` has not seen.
        scores: of all edges.
        grid: parts of all edges; n = int(k x edges), as MIB has it.
        select: `top_edges` (MIB) or `greedy_edges`.
        clusters: entity of each test pair, for the intervals.
        progress: called with (circuits done, circuits in all).

    Raises:
        PlanError: scores of another model, or that saw the test prompts.
    """
    done, total = 0, 2 * len(grid)
    say = progress or (lambda done, total: None)
    say(0, total)
    curves = []
    for absolute in (False, True):
        sizes, values = [], []
        for k in grid:
            circuit = select(scores, int(k * scores.graph.n_edges), absolute)
            test.check(circuit)
            # All edges: the model itself, whatever the ablation.
            values.append(test.full if k == 1 else test.metric_of(circuit))
            sizes.append(circuit.n_edges)
            done += 1
            say(done, total)
        curves.append(Curve(tuple(grid), tuple(sizes), np.stack(values)))
    return Faithfulness(
        signed=curves[0],
        absolute=curves[1],
        full=test.full,
        empty=test.empty,
        method=scores.method,
        model=test.model.name,
        metric=test.metric,
        ablation=test.ablation,
        source=test.source,
        ids=test.ids,
        clusters=None if clusters is None else tuple(clusters),
        n_excluded=len(test.excluded),
    )


def random_scores(like: EdgeScores, seed: int) -> EdgeScores:
    """Scores drawn at random for the same edges: the control that every method must beat."""
    from dataclasses import replace

    drawn = np.random.default_rng(seed).standard_normal(like.values.shape[1:]).astype(np.float32)
    values = like.values[:1].copy(data=drawn[None])
    return replace(like, values=values, method=f"random {seed}")
