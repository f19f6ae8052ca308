"""`EdgeScores`, `NodeScores` and `UnitScores`: labelled attributions, pair by pair."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from interp.data.pairs import Excluded
from interp.errors import RunFolderError, shown
from interp.model.graph import Graph
from interp.results import folder
from interp.statistics import bootstrap_mean

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Scores:
    """What attribution measured; positive = supports the answer.

    Attributes:
        values: score of each component, first dimension ``pair``.
        clean: the metric of the clean prompt, per pair; `corrupt` likewise.
        graph: the model's graph.
        method, metric, unit, model, weights_hash, source: what was measured, on what.
        excluded: refused rows with reasons.
        prompts: every prompt seen, clean and corrupt; circuits made of these scores may not be
            evaluated on them.
        seconds: wall time.
        provenance: versions, machine and command line, filled when saved.
    """

    values: xr.DataArray
    clean: xr.DataArray
    corrupt: xr.DataArray
    graph: Graph
    method: str
    metric: str
    unit: str
    model: str
    weights_hash: str
    source: str
    excluded: tuple[Excluded, ...] = field(repr=False)
    prompts: tuple[str, ...] = field(repr=False)
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    KIND: ClassVar[str] = "scores"

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
        """Part of the clean-corrupt gap that the input's scores add up to; 1 = complete.

        Integrated gradients tend to 1 as steps grow (arXiv 1703.01365, proposition 1), and the
        discrete gradient is 1; ``None`` for scores that do not name the input.
        """
        axis = self.over[0]
        names = [str(n) for n in self.values.coords[axis].values] if len(self.over) == 1 else []
        ours = [i for i, n in enumerate(names) if n == "input" or n.startswith("input->")]
        if not ours:
            return None
        total = float(self.values.isel({axis: ours}).sum(axis).mean())
        return total / float((self.clean - self.corrupt).mean())

    def top(self, n: int = 10, seed: int = 0) -> pd.DataFrame:
        """The components with the largest absolute mean, with 95 % bootstrap intervals."""
        table = self.mean().to_dataframe(name="score").reset_index().dropna(subset=["score"])
        order = np.argsort(-table["score"].abs().to_numpy(), kind="stable")[:n]
        flat = self.values.values.reshape(self.n_pairs, -1)
        chosen = table.index.to_numpy()[order]
        _, low, high = bootstrap_mean(flat[:, chosen], seed)
        picked = table.iloc[order].assign(low=low, high=high)
        return picked[[*self.over, "score", "low", "high"]].reset_index(drop=True)

    def to_frame(self) -> pd.DataFrame:
        """One row a component: labels and mean score."""
        frame: pd.DataFrame = self.mean().to_dataframe(name="score").reset_index()
        return frame.loc[:, [*self.over, "score"]].dropna().reset_index(drop=True)

    def plot(self) -> "go.Figure":
        """Scores by layer; see `interp.attribution.figures`."""
        from interp.attribution.figures import plot_scores

        return plot_scores(self)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "kind": self.KIND,
            "model": self.model,
            "method": self.method,
            "metric": self.metric,
            "n_pairs": self.n_pairs,
            "excluded": [asdict(row) for row in self.excluded],
            "clean_metric": float(self.clean.mean()),
            "corrupt_metric": float(self.corrupt.mean()),
            "convergence": self.convergence,
            "dims": list(self.over),
            "shape": [int(n) for n in self.values.shape[1:]],
            "seconds": round(self.seconds, 3),
            "top": self.top(10, seed).to_dict("records"),
        }

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder: manifest.json, Parquet tables, safetensors values.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        names = ("method", "metric", "unit", "model", "weights_hash", "source", "seconds")
        manifest = {
            "kind": self.KIND,
            **{name: getattr(self, name) for name in names},
            "graph": {f.name: getattr(self.graph, f.name) for f in fields(Graph)},
            "dims": list(self.values.dims),
            "provenance": folder.provenance() | self.provenance | (provenance or {}),
        }
        pairs = pd.DataFrame(
            {
                "pair": self.values.coords["pair"].values,
                "clean": self.clean.values,
                "corrupt": self.corrupt.values,
            }
        )
        tables = {"pairs": pairs, "prompts": pd.DataFrame({"prompt": self.prompts})}
        tables["excluded"] = pd.DataFrame(
            [asdict(row) for row in self.excluded],
            columns=["id", "where", "reason"],
        )
        for dim in self.over:
            tables[f"axis_{dim}"] = pd.DataFrame({dim: self.values.coords[dim].values})
        return folder.write(Path(path), manifest, tables, {"values": self.values.values})

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Scores":
        """Read a run folder back, exactly, as the kind of scores it holds.

        Raises:
            RunFolderError: missing, incomplete or damaged folder, or one of another kind.
        """
        manifest = folder.read_manifest(path)
        kinds = {kind.KIND: kind for kind in (EdgeScores, NodeScores, UnitScores)}
        if manifest.get("kind") not in kinds:
            raise RunFolderError(f"{path} holds a {shown(manifest.get('kind'))} run, not scores.")
        axes = manifest["dims"][1:]
        names = ("pairs", "prompts", "excluded", *(f"axis_{dim}" for dim in axes))
        manifest, tables, arrays = folder.read(path, manifest["kind"], names)
        ids = tables["pairs"]["pair"].tolist()
        coords = {"pair": ids} | {dim: tables[f"axis_{dim}"][dim].to_numpy() for dim in axes}
        clean, corrupt = (
            xr.DataArray(tables["pairs"][name].to_numpy(), dims="pair", coords={"pair": ids})
            for name in ("clean", "corrupt")
        )
        given = ("method", "metric", "unit", "model", "weights_hash", "source", "seconds")
        return kinds[manifest["kind"]](
            values=xr.DataArray(arrays["values"], dims=manifest["dims"], coords=coords),
            clean=clean,
            corrupt=corrupt,
            graph=Graph(**manifest["graph"]),
            excluded=tuple(Excluded(**row) for row in tables["excluded"].to_dict("records")),
            prompts=tuple(tables["prompts"]["prompt"]),
            provenance=manifest["provenance"],
            **{name: manifest[name] for name in given},
        )

    def __repr__(self) -> str:
        dims = " x ".join(f"{d} {self.values.sizes[d]}" for d in self.over)
        return (
            f"{type(self).__name__}({self.method} on {self.model}, {dims}; {self.n_pairs} pairs, "
            f"{len(self.excluded)} excluded; {self.metric} {float(self.clean.mean()):.3f} clean, "
            f"{float(self.corrupt.mean()):.3f} corrupt; {self.seconds:.2f} s)"
        )

    def _repr_html_(self) -> str:
        from interp.attribution.figures import report

        return report(self).fragment()


class EdgeScores(Scores):
    """Scores of edges, dims (pair, edge); edges are named as MIB names them."""

    KIND = "edge_scores"


class NodeScores(Scores):
    """Scores of the graph's sources, dims (pair, node)."""

    KIND = "node_scores"


class UnitScores(Scores):
    """Scores of a site's units, dims (pair, layer[, pos][, head or neuron])."""

    KIND = "unit_scores"
