"""`EdgeScores`, `NodeScores` and `UnitScores`: labelled attributions, pair by pair."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from interp.data.pairs import Excluded
from interp.data.prompts import unpaired_tokens
from interp.errors import PlanError
from interp.model.graph import Graph
from interp.results.result import Result
from interp.statistics import bootstrap_mean
from interp.statistics.ties import by_size, rounding

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.results.report import Report


@dataclass(frozen=True, repr=False)
class Scores(Result):
    """What attribution measured; positive = supports the answer. `load` gives the kind saved.

    Attributes:
        values: score of each component, first dimension ``pair``.
        clean, corrupt: the metric of that prompt, per pair, in `unit`.
        graph_or_none: ``None`` where the model cannot be taken apart into edges.
        excluded: refused rows with reasons.
        prompts: every prompt seen; circuits made of these scores may not be evaluated on them.
        seconds: wall time.
        unpaired: how many tokens of each pair's clean and corrupt prompt have no partner in the
            other, so that nothing changes there. Empty where all have.
        answers: how much of the answers was read.
        mixed: why a mean over pairs at one position mixes different tokens, if it does.
    """

    values: xr.DataArray
    clean: xr.DataArray
    corrupt: xr.DataArray
    graph_or_none: Graph | None
    method: str
    metric: str
    unit: str
    model: str
    weights_hash: str
    source: str
    excluded: tuple[Excluded, ...]
    prompts: tuple[str, ...]
    seconds: float
    unpaired: tuple[tuple[int, int], ...] = ()
    answers: str = "whole (1 token)"
    mixed: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to mind when reading the scores; empty where there is nothing."""
        mixed = f"{self.mixed}; attribute over pairs of one template, or leave 'pos' out."
        return (*unpaired_tokens(self.unpaired), *([mixed] if self.mixed else ()))

    @property
    def graph(self) -> Graph:
        """The model's graph; `PlanError` where it cannot be taken apart into edges."""
        if self.graph_or_none is None:
            raise PlanError(
                f"{self.model} cannot be taken apart into edges, so it has no circuits."
            )
        return self.graph_or_none

    @property
    def n_pairs(self) -> int:
        """How many pairs were measured."""
        return self.values.sizes["pair"]

    @property
    def over(self) -> tuple[str, ...]:
        """The dimensions besides the pair."""
        return tuple(str(dim) for dim in self.values.dims[1:])

    def mean(self) -> xr.DataArray:
        """Mean over pairs."""
        return self.values.mean("pair")

    @property
    def convergence(self) -> float | None:
        """Part of the clean-corrupt gap that the input's scores add up to; ``None`` without it.

        It tends to 1 with the steps of integrated gradients (arXiv 1703.01365, proposition 1), and
        is 1 for the discrete gradient, where every token has a partner.
        """
        axis = self.over[0]
        names = [str(n) for n in self.values.coords[axis].values] if len(self.over) == 1 else []
        ours = [i for i, n in enumerate(names) if n == "input" or n.startswith("input->")]
        if not ours:
            return None
        total = float(self.values.isel({axis: ours}).sum(axis).mean())
        return total / float((self.clean - self.corrupt).mean())

    def top(self, n: int = 10, seed: int = 0) -> pd.DataFrame:
        """The components of largest absolute mean, with intervals; ties as in `PatchResult.top`."""
        table = self.mean().to_dataframe(name="score").reset_index().dropna(subset=["score"])
        table, near = by_size(table, "score", self.over, self.rounding)
        flat = self.values.values.reshape(self.n_pairs, -1)
        _, low, high = bootstrap_mean(flat[:, table.index.to_numpy()[:n]], seed)
        picked = table[:n].assign(low=low, high=high)
        picked.attrs["near_ties"] = near
        return picked.loc[:, [*self.over, "score", "low", "high"]].reset_index(drop=True)

    @property
    def rounding(self) -> float:
        """How far two scores may be apart and yet change places (`interp.statistics.ties`)."""
        dtype = self.provenance.get("dtype", "float32")
        return rounding(self.values, self.clean, self.corrupt, dtype=dtype)

    def to_frame(self) -> pd.DataFrame:
        """One row per component: labels and mean score."""
        frame: pd.DataFrame = self.mean().to_dataframe(name="score").reset_index()
        return frame.loc[:, [*self.over, "score"]].dropna().reset_index(drop=True)

    def plot(self) -> "go.Figure":
        """Scores by layer; blue supports the answer, red opposes it. See `plot_scores`."""
        from interp.attribution.figures import plot_scores
        from interp.results.style import styled

        figure = plot_scores(self.values, self.graph_or_none, f"{self.metric} ({self.unit})")
        note = f"{self._what}, mean of {self.n_pairs} pairs"
        return styled(figure, f"{self.method} on {self.model}", note)

    @property
    def _what(self) -> str:
        if self.over == ("edge",):
            return f"size of all edges from layer to layer, summed ({self.unit} of {self.metric})"
        return f"share of {self.metric} ({self.unit}); positive supports the answer"

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        top = self.top(10, seed)
        return {
            "kind": self.KIND,
            **self.named("model", "method", "metric", "n_pairs"),
            "excluded": [asdict(row) for row in self.excluded],
            "warnings": list(self.warnings),
            "answers": self.answers,
            "clean_metric": float(self.clean.mean()),
            "corrupt_metric": float(self.corrupt.mean()),
            "convergence": self.convergence,
            "dims": list(self.over),
            "shape": [int(n) for n in self.values.shape[1:]],
            "seconds": round(self.seconds, 3),
            "top": top.to_dict("records"),
            "near_ties": top.attrs["near_ties"],
        }

    def report(self, seed: int = 0) -> "Report":
        """The figure and the strongest components."""
        from interp.attribution.figures import strongest
        from interp.results.report import Figure, Report, Section, Table, excluded_rows

        top, part = self.top(15, seed), self.convergence
        first = f"{strongest(top)} {top.attrs['near_ties']}".strip()
        says = f"{self._what[0].upper()}{self._what[1:]}, mean of {self.n_pairs} pairs."
        says += " Colours follow the square root." * (self.over == ("edge",))
        drawn = Figure("Scores by layer", f"{says} {first}", self.plot())
        table = Table("Strongest components", top)
        adds = f"The scores of the input add up to {part or 0:.3f} of the clean-corrupt gap"
        return Report(
            title=f"{self.method} on {self.model}, {self.source}",
            lead=f"{self.metric} ({self.unit}): {float(self.clean.mean()):.3f} on clean, "
            f"{float(self.corrupt.mean()):.3f} on corrupt prompts; {self.n_pairs} pairs of "
            f"{self.source}. {first}",
            sections=[Section(self.KIND.replace("_", " ").capitalize(), [drawn, table])],
            method=(
                f"Scores by {self.method}; positive = supports the answer. Means over pairs with "
                "95 % bootstrap intervals.",
                *([] if part is None else [f"{adds} (1 = all)."]),
                f"Answers: {self.answers}; the runs took {self.seconds:.2f} s.",
            ),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance | {"weights": self.weights_hash},
            warnings=self.warnings,
        )

    def __repr__(self) -> str:
        dims = " x ".join(f"{d} {self.values.sizes[d]}" for d in self.over)
        return (
            f"{type(self).__name__}({self.method} on {self.model}, {dims}; {self.n_pairs} pairs, "
            f"{len(self.excluded)} excluded; {self.metric} {float(self.clean.mean()):.3f} clean, "
            f"{float(self.corrupt.mean()):.3f} corrupt; {self.seconds:.2f} s)"
        )


class EdgeScores(Scores):
    """Scores of edges, dims (pair, edge); edges are named as MIB names them."""

    KIND = "edge_scores"


class NodeScores(Scores):
    """Scores of the graph's sources, dims (pair, node)."""

    KIND = "node_scores"


class UnitScores(Scores):
    """Scores of a site's units, dims (pair, layer[, pos][, head, neuron or expert])."""

    KIND = "unit_scores"
