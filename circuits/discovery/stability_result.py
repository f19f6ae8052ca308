"""`Stability`: how much of a circuit would be chosen again, and the consensus that would."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch

from circuits.discovery.circuit import Circuit, prune
from circuits.discovery.figures import plot_agreement, plot_inclusion, plot_transfer
from circuits.discovery.held_out import HeldOut
from circuits.discovery.stability_settings import Source, StabilitySettings
from interp.data.pairs import Excluded
from interp.errors import PlanError
from interp.model.graph import Graph
from interp.results.report import Figure, Part, Report, Section, Table, excluded_rows
from interp.results.result import Result
from interp.statistics import Estimate, expected_jaccard

if TYPE_CHECKING:
    import plotly.graph_objects as go

METHOD = (
    "Inclusion: part of the bootstrap resamples of the prompts (over prompts), of the groups (over "
    "groups), or of resamples with a method drawn at random (over methods), in which an edge is "
    "among the top edges. Node scores are sums of the scores of the edges that leave a node.",
    "Samples: pairs of disjoint random samples of the prompts; Jaccard index of their top edges "
    "and nodes, rank correlation of the scores of all edges, with the central 95 % of the draws. "
    "Replicated: part of the edges at the threshold in one half that are top edges of the other.",
)


@dataclass(frozen=True)
class Stability(Result):
    """How stable the circuit of some prompts is under other prompts, groups of them, and methods.

    Attributes:
        edges: a row per edge: ``edge``, ``score`` (mean over pairs, by the first method), ``rank``
            (by size, mean over resamples, 1 the largest), and its inclusion over ``prompts``,
            ``groups`` and ``methods``, as far as these were resampled.
        nodes: the same of nodes: ``node``, ``score``, ``prompts``, …
        samples: a row per pair of disjoint samples: ``part`` of the prompts in each, ``n_pairs``
            (mean), Jaccard index of top ``edges`` and ``nodes``, ``rank_correlation``; and, of some
            halves, ``stable`` (edges at the threshold in the first) and ``replicated`` (part of
            them among the second's top edges), ``rest`` (the same part of its other top edges).
        between: a row per two groups, or two methods: ``kind``, ``first``, ``second``, ``edges``
            (Jaccard), ``rank_correlation``.
        tests: agreement between groups, and whether prompts fall into groups, beside chance.
        pairs: a row per pair: ``pair``, its ``group`` and ``entity`` where given, and ``found``,
            the number of the group that its scores put it into.
        stable: how many edges have the threshold's inclusion over prompts; the interval is of a
            bootstrap of the bootstrap.
        held_out: what circuits do on test pairs; ``None`` without any.
        prompts: every prompt seen, which evaluation of the consensus refuses.
    """

    KIND: ClassVar[str] = "stability"

    edges: pd.DataFrame = field(repr=False)
    nodes: pd.DataFrame = field(repr=False)
    samples: pd.DataFrame = field(repr=False)
    between: pd.DataFrame = field(repr=False)
    tests: pd.DataFrame = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)
    stable: Estimate
    held_out: HeldOut | None = field(repr=False)
    graph: Graph = field(repr=False)
    settings: StabilitySettings = field(repr=False)
    model: str
    weights_hash: str
    metric: str
    source: str
    answers: str
    excluded: tuple[Excluded, ...] = field(default=(), repr=False)
    prompts: tuple[str, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def consensus(
        self, threshold: float | None = None, over: Sequence[Source] | None = None
    ) -> Circuit:
        """The circuit of all edges whose inclusion is at least a threshold, pruned.

        Args:
            threshold: of inclusion; by default the settings'.
            over: ``prompts``, ``groups``, ``methods``, or several, of which the smallest counts;
                by default the settings'.

        Raises:
            PlanError: inclusion over that was not measured, or no such edges make a path.
        """
        least = self.settings.threshold if threshold is None else threshold
        sources = list(over or self.settings.over)
        missing = [name for name in sources if name not in self.edges]
        if missing:
            raise PlanError(
                f"inclusion over {missing[0]} was not measured; it needs "
                f"{'--by' if missing[0] == 'groups' else 'two --methods or more'}."
            )
        exists = self.graph.exists
        held = torch.from_numpy((self.edges[sources].min(axis=1) >= least).to_numpy(copy=True))
        edges = prune(self.graph, torch.zeros_like(exists).masked_scatter(exists, held))
        if not edges.any():
            raise PlanError(
                f"no path from the input to the logits has inclusion {least:g} over "
                f"{', '.join(sources)}; take a lower --threshold, or more prompts."
            )
        scores = torch.full(exists.shape, torch.nan, dtype=torch.float64)
        scores[exists] = torch.from_numpy(self.edges["score"].to_numpy(np.float64, copy=True))
        s = self.settings
        how = f"inclusion >= {least:g} in the top {s.edges} over {', '.join(sources)}"
        method = f"{s.methods[0]}, {how}"
        weights, prompts = self.weights_hash, self.prompts
        return Circuit(self.graph, edges, scores, {}, method, self.model, weights, prompts)

    def agreement(self) -> pd.DataFrame:
        """Agreement of disjoint samples by their size: mean and central 95 % of the draws."""
        rows: list[dict[str, Any]] = []
        parts: Any = self.samples.groupby("part", sort=False)
        for part, drawn in parts:
            row: dict[str, Any] = {"part": part, "n_pairs": float(drawn["n_pairs"].mean())}
            for name in ("edges", "nodes", "rank_correlation"):
                row |= _spread(name, drawn[name])
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def chance(self) -> float:
        """Jaccard index of two random sets of as many edges, in expectation."""
        return expected_jaccard(self.settings.edges, self.graph.n_edges)

    @property
    def replicated(self) -> dict[str, float]:
        """How much of one half's circuit the other half finds again.

        ``stable``: edges at the threshold in one half; ``replicated``: the part of them among the
        other's top edges; ``rest``: the same part of its other top edges. Means and the central
        95 % of the halves drawn.
        """
        drawn: Any = self.samples.dropna(subset=["stable"])
        return {
            "halves": len(drawn),
            **_spread("stable", drawn["stable"]),
            **_spread("replicated", drawn["replicated"]),
            **_spread("rest", drawn["rest"]),
        }

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        held, s = self.held_out, self.settings
        found: dict[str, Any] = {
            **self.named("model", "source", "metric", "answers"),
            "settings": s.model_dump(),
            "n_pairs": len(self.pairs),
            "n_excluded": len(self.excluded),
            "warnings": list(self.warnings),
            "stable": self.stable._asdict(),
            "of_edges": self.graph.n_edges,
            "chance": self.chance,
            "agreement": self.agreement().to_dict("records"),
            "replicated": self.replicated,
            "tests": self.tests.to_dict("records"),
            "between": self.between.to_dict("records"),
        }
        if held is not None:
            found |= {
                "n_test": len(held.pairs),
                "n_test_excluded": held.n_excluded,
                "circuits": held.circuits().to_dict("records"),
                "areas": held.areas().to_dict("records"),
            }
            if len(held.groups) > 1:
                found["own_and_other"] = held.own_and_other().to_dict("records")
                found["transfer"] = held.transfer().to_dict("records")
        return found

    def plot(self) -> "go.Figure":
        """Inclusion of the strongest edges, in order of inclusion."""
        return plot_inclusion(self.edges, self.settings.edges, self.settings.threshold, self._note)

    def report(self) -> Report:
        """Inclusion, agreement of samples, groups and methods, and circuits on test prompts."""
        s, count = self.settings, self.stable
        value, low, high = (round(x) for x in count)
        lead = (
            f"{value} [{low}, {high}] of the top {s.edges} edges have inclusion {s.threshold:g} or "
            f"more, over {s.resamples} resamples of {len(self.pairs)} pairs of {self.source}."
        )
        half: Any = self.agreement().iloc[-1]
        says = (
            f"The top {s.edges} edges of two independent halves have a Jaccard index of "
            f"{half['edges']:.3f} (chance {self.chance:.3f})."
        )
        columns = [c for c in ("prompts", "groups", "methods") if c in self.edges]
        first: Any = self.edges.sort_values("rank").head(15)
        nodes: Any = self.nodes.sort_values("rank").head(15)
        stable: list[Part] = [
            Figure("Edges by inclusion", lead, self.plot()),
            Table("First edges by mean rank", first[["edge", "score", "rank", *columns]]),
            Table("First nodes by mean rank", nodes[["node", "score", "rank", *columns]]),
        ]
        agreement = self.agreement()
        drawn = plot_agreement(agreement, self.chance, self._note)
        agree: list[Part] = [
            Figure("Agreement of disjoint samples", says, drawn),
            Table("Disjoint samples", agreement),
            Table("Halves: edges found again", pd.DataFrame([self.replicated])),
        ]
        if len(self.between):
            agree.append(Table("Groups and methods", self.between))
        agree.append(Table("Groups of prompts, beside chance", self.tests))
        return Report(
            title=f"Stability of circuits of {self.model}: {', '.join(s.methods)}",
            lead=f"{lead} {says}",
            sections=[Section("Inclusion", stable), Section("Agreement", agree), *self._tested()],
            method=(*METHOD, f"Metric: {self.metric}. Answers: {self.answers}."),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance | {"weights": self.weights_hash} | s.model_dump(),
            warnings=self.warnings,
        )

    @property
    def _note(self) -> str:
        return f"{self.model}, {self.source}, {len(self.pairs)} pairs"

    def _tested(self) -> list[Section]:
        held = self.held_out
        if held is None:
            return []
        circuits = held.circuits()
        parts: list[Part] = [
            Table("Faithfulness of circuits of as many edges", circuits),
            Table("Rankings: areas, and paired differences", held.areas()),
        ]
        if len(held.groups) > 1:
            table, own = held.transfer(), held.own_and_other()
            says = f"Faithfulness of each group's top {self.settings.edges} edges on each group."
            parts.append(Figure("Transfer", says, plot_transfer(table, self._note)))
            parts.append(Table("A group's own circuit and others", own))
        says = f"{len(held.pairs)} test pairs, {held.n_excluded} left out."
        return [Section("On test prompts", [says, *parts])]


def _spread(name: str, drawn: Any) -> dict[str, float]:
    """Mean and central 95 % of draws; NaN where all are."""
    values = drawn.dropna().to_numpy(float)
    value, low, high = np.nan, np.nan, np.nan
    if len(values):
        value, (low, high) = values.mean(), np.quantile(values, [0.025, 0.975])
    return Estimate(value, low, high).columns(name)
