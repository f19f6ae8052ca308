"""`QueryValue`: labelled query and value scores of a set of questions, with intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from circuits.query_value.questions import Question
from circuits.query_value.value import BASE
from interp.data.pairs import Excluded
from interp.errors import DataError
from interp.statistics import Estimate, bootstrap_mean, spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go

SUBLAYERS = ("attention", "ffn")


class ChosenLayers(NamedTuple):
    """FFN layers to edit.

    Attributes:
        query: by falling query score, all below the lowest value layer.
        value: by falling value score.
        skipped: layers of a higher value score that would have left too few layers below.
    """

    query: tuple[int, ...]
    value: tuple[int, ...]
    skipped: tuple[int, ...]


@dataclass(frozen=True)
class QueryValue:
    """What `find` measured. All scores are in nats of the answer's log-probability.

    Attributes:
        scores: first dimension ``prompt``: ``layer_score`` (sublayer, layer) and ``head_score``
            (layer, head), value scores of whole attention layers, FFNs and heads; ``top_sum``
            (sublayer, layer), those of the top value neurons summed, and ``every_sum`` (layer),
            those of all FFN neurons, if asked for; ``query_writer`` (path, writer, layer, pos),
            ``query_embedding`` (path, pos), ``query_head`` (layer, head, pos) and
            ``query_neuron`` (layer, neuron; summed over paths and tokens), query scores;
            ``unmoved``, what of attention's direct score its biases have.
        values: the top value neurons of each prompt; ``head`` is -1 for FFN neurons, and of
            attention neurons ``neuron`` is the dimension of the head.
        queries: the top query neurons of each prompt with their tokens, by path.
        questions: the prompts that were attributed.
        tokens: their tokens.
        excluded: prompts that were not, with reasons.
        model, weights_hash: of which model.
        key: which rows FFN value neurons were read with.
        top: value neurons a prompt and sublayer.
        layers_searched: where value neurons were looked for.
        flops: of the projections through the vocabulary.
        seconds: wall time.
        provenance: versions, machine and command line, filled when saved.
    """

    scores: xr.Dataset = field(repr=False)
    values: pd.DataFrame = field(repr=False)
    queries: pd.DataFrame = field(repr=False)
    questions: tuple[Question, ...] = field(repr=False)
    tokens: tuple[tuple[str, ...], ...] = field(repr=False)
    excluded: tuple[Excluded, ...] = field(repr=False)
    model: str
    weights_hash: str
    key: str
    top: int
    layers_searched: tuple[int, ...]
    flops: float
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    base = BASE

    @property
    def n_prompts(self) -> int:
        """How many prompts were attributed."""
        return len(self.questions)

    @property
    def clusters(self) -> list[str]:
        """Each prompt's entity."""
        return [one.cluster for one in self.questions]

    def by_layer(self) -> xr.Dataset:
        """Value and query scores of the sublayers, prompt by prompt.

        Returns:
            ``value`` and ``query``, dims (prompt, sublayer, layer). ``value`` is the score of the
            whole sublayer, of FFNs the sum over their neurons if every one was scored; the two
            rank layers alike (`agreement`). ``query`` is summed over paths and tokens.
        """
        value = self.scores["layer_score"].copy()
        if self.every:
            value.loc[{"sublayer": "ffn"}] = self.scores["every_sum"]
        query = self.scores["query_writer"].sum(("path", "pos")).rename(writer="sublayer")
        return xr.Dataset({"value": value, "query": query})

    @property
    def every(self) -> bool:
        """Whether every neuron was scored."""
        return not bool(np.isnan(self.scores["every_sum"].values).all())

    def intervals(self, scores: xr.DataArray, seed: int = 0) -> xr.Dataset:
        """Mean over prompts and its 95 % bootstrap interval, over clusters of prompts.

        Args:
            scores: with a dimension ``prompt``, such as ``result.by_layer()["query"]``.
            seed: of the bootstrap.

        Returns:
            Variables ``mean``, ``low`` and ``high``.
        """
        first = scores.transpose("prompt", ...)
        found = bootstrap_mean(first.values.astype(float), seed, clusters=self.clusters)
        dims = first.dims[1:]
        coords = {dim: first.coords[dim] for dim in dims if dim in first.coords}
        named = zip(("mean", "low", "high"), found, strict=True)
        return xr.Dataset({name: (dims, np.asarray(x)) for name, x in named}, coords)

    def layers(self, n_query: int, n_value: int) -> ChosenLayers:
        """The FFN layers of the largest summed scores: value layers deep, query layers below.

        Value layers are the top ones that leave `n_query` layers below them; query layers the
        top ones strictly below the lowest value layer. Scores are summed over prompts.

        Raises:
            DataError: the model has too few layers.

        Source: ACE, arXiv 2510.07896, section 4; the released code lists layers by hand.
        """
        mean = self.by_layer().sel(sublayer="ffn").mean("prompt")
        n = mean.sizes["layer"]
        if n_query < 0 or n_value < 1 or n_query + n_value > n:
            raise DataError(
                f"{n_query} query layers and {n_value} value layers do not fit the {n} layers of "
                f"{self.model}; ask for fewer."
            )
        ranked = [int(i) for i in np.argsort(-mean["value"].values, kind="stable")]
        value = [layer for layer in ranked if layer >= n_query][:n_value]
        above = ranked[: ranked.index(value[-1])]
        order = [int(i) for i in np.argsort(-mean["query"].values, kind="stable")]
        query = [layer for layer in order if layer < min(value)][:n_query]
        skipped = tuple(layer for layer in above if layer not in value)
        return ChosenLayers(tuple(query), tuple(value), skipped)

    def knowledge_types(self, labels: Sequence[str] | None = None, seed: int = 0) -> pd.DataFrame:
        """Query and value scores of the FFN layers for each kind of knowledge.

        Args:
            labels: kind of each attributed prompt; by default those given to `find`.
            seed: of the bootstrap.

        Returns:
            A row a label, score and layer: mean, its interval and the number of prompts.

        Raises:
            DataError: not one label a prompt.
        """
        given = [one.label for one in self.questions] if labels is None else list(labels)
        if len(given) != self.n_prompts or not all(given):
            raise DataError(
                f"{sum(map(bool, given))} labels for {self.n_prompts} attributed prompts; give "
                "each of `result.questions` one."
            )
        scores, rows = self.by_layer().sel(sublayer="ffn"), list[pd.DataFrame]()
        for label in dict.fromkeys(given):
            mine = [i for i, other in enumerate(given) if other == label]
            part = scores.isel(prompt=mine)
            for name in ("query", "value"):
                found = bootstrap_mean(
                    part[name].transpose("prompt", "layer").values.astype(float),
                    seed,
                    clusters=[self.clusters[i] for i in mine],
                )
                columns = dict(zip(("mean", "low", "high"), found, strict=True))
                table = pd.DataFrame({"label": label, "score": name, "layer": part["layer"]})
                rows.append(table.assign(**columns, n_prompts=len(mine)))
        return pd.concat(rows, ignore_index=True)

    def by_span(self, seed: int = 0) -> pd.DataFrame:
        """Query scores by the span their token is in, and path, with intervals over prompts.

        Tokens in no span count as ``first``, ``last`` or ``other``.
        """
        whole = self.scores["query_writer"].sum(("writer", "layer"), skipna=False)
        whole = (whole + self.scores["query_embedding"]).transpose("prompt", "path", "pos")
        roles = [[one.role(j) for j in range(len(one.prompt.ids))] for one in self.questions]
        rows: list[dict[str, Any]] = []
        for role in dict.fromkeys(name for names in roles for name in names):
            inside = [[i for i, name in enumerate(names) if name == role] for names in roles]
            sums = np.array(
                [whole.values[i][:, at].sum(-1) for i, at in enumerate(inside)], dtype=float
            )
            found = bootstrap_mean(sums, seed, clusters=self.clusters)
            for path, mean, low, high in zip(whole["path"].values, *found, strict=True):
                rows.append({"span": role, "path": path, "score": mean, "low": low, "high": high})
        return pd.DataFrame(rows)

    def query_neurons(self, n: int, cluster: str | None = None) -> pd.DataFrame:
        """The FFN neurons of the largest mean query score, over all tokens and paths.

        Args:
            n: how many.
            cluster: of the prompts of this cluster; of all by default.
        """
        mean = self.scores["query_neuron"].isel(prompt=self._of(cluster)).mean("prompt").values
        order = np.argsort(-mean, axis=None, kind="stable")[:n]
        layer, neuron = np.unravel_index(order, mean.shape)
        return pd.DataFrame({"layer": layer, "neuron": neuron, "score": mean[layer, neuron]})

    def value_neurons(self, n: int, cluster: str | None = None) -> pd.DataFrame:
        """The FFN neurons of the largest value score, summed over prompts and divided by all.

        A prompt gives a neuron 0 where it is not among its `top`; ``coefficient`` is the mean
        over the prompts where it is. Arguments as in `query_neurons`.
        """
        ids = [self.questions[i].id for i in self._of(cluster)]
        mine = self.values[self.values["prompt"].isin(ids) & (self.values["sublayer"] == "ffn")]
        grouped = mine.groupby(["layer", "neuron"])
        table = grouped.agg(score=("score", "sum"), coefficient=("coefficient", "mean"))
        table = table.assign(score=table["score"] / len(ids)).reset_index()
        return table.nlargest(n, "score").reset_index(drop=True)

    def _of(self, cluster: str | None) -> list[int]:
        mine = [i for i, one in enumerate(self.clusters) if cluster in (None, one)]
        if not mine:
            raise DataError(f"no attributed prompt is of cluster {cluster!r}.")
        return mine

    def agreement(self, seed: int = 0) -> Estimate:
        """Spearman correlation over layers: scores of whole FFNs and of their neurons, summed.

        Over every neuron if each was scored, else over the top ones. The interval resamples
        layers.
        """
        ffn = self.scores.sel(sublayer="ffn").mean("prompt")
        whole, parts = ffn["layer_score"], ffn["every_sum" if self.every else "top_sum"]
        at = list(self.layers_searched)
        return spearman(whole.values[at].astype(float), parts.values[at].astype(float), seed)

    def order(self, seed: int = 0) -> pd.DataFrame:
        """Score-weighted mean layer of query and of value FFN neurons, with intervals.

        A query neuron lies below its value neuron by definition, so the gap is beside that of a
        writer drawn evenly from the layers below each value neuron, ``even``.
        """
        scores = self.by_layer().sel(sublayer="ffn")
        weight = self.scores["top_sum"].sel(sublayer="ffn").values.astype(float)
        query = scores["query"].transpose("prompt", "layer").values.clip(min=0).astype(float)
        layer = np.arange(weight.shape[1])
        with np.errstate(invalid="ignore"):
            at_value, at_query = (x @ layer / x.sum(1) for x in (weight, query))
        rows = {
            "query": at_query,
            "value": at_value,
            "gap": at_value - at_query,
            "gap if even": (at_value + 1) / 2,
        }
        table = [
            {"what": name, **dict(zip(("layers", "low", "high"), map(float, found), strict=True))}
            for name, values in rows.items()
            for found in [bootstrap_mean(values, seed, clusters=self.clusters)]
        ]
        return pd.DataFrame(table)

    def plot(self, prompt: str | None = None) -> "go.Figure":
        """Query and value scores by layer side by side, or one prompt's layer x token map."""
        from circuits.query_value.figures import plot_layers, plot_prompt

        return plot_layers(self) if prompt is None else plot_prompt(self, prompt)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        top = self.layers(min(3, self._n_layers // 2), min(3, self._n_layers // 2))
        agreement = self.agreement(seed)._asdict() if len(self.layers_searched) > 2 else None
        return {
            "model": self.model,
            "n_prompts": self.n_prompts,
            "n_clusters": len(set(self.clusters)),
            "excluded": [asdict(row) for row in self.excluded],
            "key": self.key,
            "base": self.base,
            "top": self.top,
            "value_sums_over": "all neurons" if self.every else f"top {self.top} a prompt",
            "query_layers": list(top.query),
            "value_layers": list(top.value),
            "skipped_value_layers": list(top.skipped),
            "spearman_layers_vs_neurons": agreement,
            "order": self.order(seed).to_dict("records"),
            "by_span": self.by_span(seed).to_dict("records"),
            "query_neurons": self.query_neurons(10).to_dict("records"),
            "value_neurons": self.value_neurons(10).to_dict("records"),
            "flops": self.flops,
            "seconds": round(self.seconds, 3),
        }

    @property
    def _n_layers(self) -> int:
        return self.scores.sizes["layer"]

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder; see `circuits.query_value.storing`."""
        from circuits.query_value.storing import save

        return save(self, Path(path), provenance)

    @classmethod
    def load(cls, path: str | Path) -> "QueryValue":
        """Read a run folder back, exactly.

        Raises:
            RunFolderError: missing, incomplete or damaged folder, or one of another kind.
        """
        from circuits.query_value.storing import load

        return load(Path(path))

    def _repr_html_(self) -> str:
        from circuits.query_value.figures import report

        return report(self).fragment()

    def __repr__(self) -> str:
        return (
            f"QueryValue({self.model}: {self.n_prompts} prompts, {len(self.excluded)} excluded; "
            f"top {self.top} value neurons, {self.key} keys; {self.seconds:.1f} s)"
        )
