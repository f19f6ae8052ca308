"""`QueryValue`: labelled query and value scores of a set of questions, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from circuits.query_value.figures import plot_layers, plot_prompt
from circuits.query_value.questions import Question
from circuits.query_value.value import BASE
from interp.data.pairs import Excluded
from interp.errors import DataError
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, excluded_rows
from interp.results.result import Result
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
class QueryValue(Result):
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
        questions: the prompts that were attributed; `tokens` theirs.
        excluded: prompts that were not, with reasons.
        key: which rows FFN value neurons were read with.
        top: value neurons per prompt and sublayer.
        flops: of the projections through the vocabulary.
    """

    KIND: ClassVar[str] = "query_value"

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

    @property
    def n_prompts(self) -> int:
        """Number of prompts that were attributed."""
        return len(self.questions)

    @property
    def clusters(self) -> list[str]:
        """Each prompt's entity."""
        return [one.cluster for one in self.questions]

    @property
    def every(self) -> bool:
        """Whether every neuron was scored."""
        return not bool(np.isnan(self.scores["every_sum"].values).all())

    def by_layer(self) -> xr.Dataset:
        """``value`` and ``query`` scores, dims (prompt, sublayer, layer).

        ``value`` is the score of the whole sublayer, of FFNs the sum over their neurons if every
        one was scored (`agreement`). ``query`` is summed over paths and tokens.
        """
        value = self.scores["layer_score"].copy()
        if self.every:
            value.loc[{"sublayer": "ffn"}] = self.scores["every_sum"]
        query = self.scores["query_writer"].sum(("path", "pos")).rename(writer="sublayer")
        return xr.Dataset({"value": value, "query": query})

    def intervals(self, scores: xr.DataArray) -> xr.Dataset:
        """``mean`` over prompts with its 95 % bootstrap bounds ``low`` and ``high``, by cluster.

        `scores` have a dimension ``prompt``, such as ``result.by_layer()["query"]``.
        """
        first = scores.transpose("prompt", ...)
        found = bootstrap_mean(first.values.astype(float), clusters=self.clusters)
        dims = first.dims[1:]
        coords = {dim: first.coords[dim] for dim in dims if dim in first.coords}
        named = zip(("mean", "low", "high"), found, strict=True)
        return xr.Dataset({name: (dims, np.asarray(x)) for name, x in named}, coords)

    def layers(self, n_query: int, n_value: int) -> ChosenLayers:
        """The FFN layers of the largest summed scores: value layers deep, query layers below.

        Value layers are the top ones that leave `n_query` layers below them; query layers the
        top ones strictly below the lowest value layer. Scores are summed over prompts.

        Source: ACE, arXiv 2510.07896, section 4; the released code lists layers by hand.
        """
        mean = self.by_layer().sel(sublayer="ffn").mean("prompt")
        ranked = [int(i) for i in np.argsort(-mean["value"].values, kind="stable")]
        ranked = [layer for layer in ranked if layer in self._scored]
        value = [layer for layer in ranked if layer >= n_query][:n_value]
        if n_query < 0 or n_value < 1 or len(value) < n_value:
            raise DataError(
                f"{n_query} query layers and {n_value} value layers do not fit {self.model}, of "
                f"which {len(ranked)} layers were scored; ask for fewer, or score more."
            )
        order = [int(i) for i in np.argsort(-mean["query"].values, kind="stable")]
        query = [layer for layer in order if layer < min(value)][:n_query]
        above = ranked[: ranked.index(value[-1])]
        skipped = tuple(layer for layer in above if layer not in value)
        return ChosenLayers(tuple(query), tuple(value), skipped)

    def _top_layers(self) -> ChosenLayers:
        """At most three of each, as reports name them."""
        fits = (n for n in (3, 2, 1) if sum(layer >= n for layer in self._scored) >= n)
        n = next(fits, 0)
        return self.layers(n, max(n, 1))

    @property
    def _scored(self) -> Sequence[int]:
        """Layers whose FFN has a value score: sums over every neuron are of those searched."""
        return self.layers_searched if self.every else range(self.scores.sizes["layer"])

    def by_span(self, seed: int = 0) -> pd.DataFrame:
        """Query scores by the span their token is in, and path: means over the `n` prompts with it.

        Intervals are over prompts. Tokens in no span count as ``first``, ``last`` or ``other``.
        """
        whole = self.scores["query_writer"].sum(("writer", "layer"), skipna=False)
        whole = (whole + self.scores["query_embedding"]).transpose("prompt", "path", "pos")
        roles = [[one.role(j) for j in range(len(one.prompt.ids))] for one in self.questions]
        rows: list[dict[str, Any]] = []
        for role in dict.fromkeys(name for names in roles for name in names):
            inside = [[i for i, name in enumerate(names) if name == role] for names in roles]
            sums = np.array([whole.values[i][:, at].sum(-1) for i, at in enumerate(inside)], float)
            sums[[not at for at in inside]] = np.nan
            found = bootstrap_mean(sums, seed, clusters=self.clusters)
            named = {"span": role, "n": sum(map(bool, inside))}
            for path, mean, low, high in zip(whole["path"].values, *found, strict=True):
                rows.append({**named, "path": path, "score": mean, "low": low, "high": high})
        return pd.DataFrame(rows)

    def query_neurons(self, n: int, cluster: str | None = None) -> pd.DataFrame:
        """The `n` FFN neurons of the largest mean query score, over all tokens and paths.

        The mean is over the prompts of a cluster, or over all.
        """
        mean = self.scores["query_neuron"].isel(prompt=self._of(cluster)).mean("prompt").values
        order = np.argsort(-mean, axis=None, kind="stable")[:n]
        layer, neuron = np.unravel_index(order, mean.shape)
        return pd.DataFrame({"layer": layer, "neuron": neuron, "score": mean[layer, neuron]})

    def value_neurons(self, n: int, cluster: str | None = None) -> pd.DataFrame:
        """The `n` FFN neurons of the largest value score, averaged as in `query_neurons`.

        A prompt gives a neuron 0 where it is not among its `top`; ``coefficient`` is the mean
        over the prompts where it is.
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

        Over every neuron if each was scored, else over the top ones. The interval resamples layers.
        """
        ffn = self.scores.sel(sublayer="ffn").mean("prompt").isel(layer=list(self.layers_searched))
        parts = ffn["every_sum" if self.every else "top_sum"].values.astype(float)
        return spearman(ffn["layer_score"].values.astype(float), parts, seed)

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
        rows = {"query": at_query, "value": at_value, "gap": at_value - at_query}
        rows["gap if even"] = (at_value + 1) / 2
        table: list[dict[str, Any]] = []
        for name, values in rows.items():
            mean, low, high = map(float, bootstrap_mean(values, seed, clusters=self.clusters))
            table.append({"what": name, "layers": mean, "low": low, "high": high})
        return pd.DataFrame(table)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        top = self._top_layers()
        agreement = self.agreement(seed)._asdict() if len(self.layers_searched) > 2 else None
        return {
            "model": self.model,
            "n_prompts": self.n_prompts,
            "n_clusters": len(set(self.clusters)),
            "excluded": [dict(vars(row)) for row in self.excluded],
            "key": self.key,
            "base": BASE,
            "top": self.top,
            "value_sums_over": "all neurons" if self.every else f"top {self.top} per prompt",
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

    def plot(self, prompt: str | None = None) -> "go.Figure":
        """Query and value scores by layer side by side, or one prompt's layer x token map.

        Bands are 95 % bootstrap intervals over clusters of prompts.
        """
        if prompt is None:
            scores, top = self.by_layer(), self._top_layers()
            means = {name: self.intervals(scores[name]) for name in ("query", "value")}
            chosen = {"query": top.query, "value": top.value}
            return plot_layers(means, chosen, self.model, self.n_prompts)
        row = self._row(prompt)
        one, tokens = self.scores.isel(prompt=row), self.tokens[row]
        z = one["query_writer"].sel(writer="ffn").sum("path").isel(pos=slice(len(tokens)))
        value = self.by_layer()["value"].isel(prompt=row)
        return plot_prompt(z, value, tokens, self.model, self.questions[row].text)

    def _row(self, prompt: str) -> int:
        ids = [one.id for one in self.questions]
        if prompt not in ids:
            raise DataError(f"no prompt {prompt!r}; this result has {', '.join(ids[:5])} ….")
        return ids.index(prompt)

    def report(self, prompt: str | None = None) -> Report:
        """Both figures, the strongest neurons and the order of layers.

        `prompt` is the id of the one to draw token by token; by default the first.
        """
        seed, drawn = self.provenance.get("seed", 0), prompt or self.questions[0].id
        top = self._top_layers()
        lead = f"Query layers {cell_text(top.query)}; value layers {cell_text(top.value)}."
        says = (
            "Query scores (left) and value scores (right) of FFNs and attention, mean of "
            f"{self.n_prompts} prompts. {lead} Dotted lines mark them."
        )
        parts: list[Part] = [
            Figure("Scores layer by layer", says, self.plot()),
            Table("Query neurons, mean over prompts", self.query_neurons(10)),
            Table("Value neurons, mean over prompts", self.value_neurons(10)),
            Table("Query scores by span", self.by_span(seed)),
            Table("Order of layers", self.order(seed), "", {"what": "neurons"}),
        ]
        return Report(
            title=f"query and value neurons of {self.model}",
            lead=f"{self.n_prompts} prompts. {lead}",
            sections=[Section("Layers and neurons", parts), self._of_prompt(drawn)],
            method=(
                "Scores are in nats of the answer's log-probability. A value neuron raises the "
                "answer; a query neuron raises the value neurons that lie above it.",
                f"The top {self.top} value neurons of each prompt, read with {self.key} keys; "
                f"bases: {BASE}; intervals: 95 % bootstrap over clusters of prompts; "
                f"{self.seconds:.1f} s.",
            ),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance | {"weights": self.weights_hash},
        )

    def _of_prompt(self, drawn: str) -> Section:
        figure: Any = self.plot(drawn)
        z, row = np.asarray(figure.data[0].z), self._row(drawn)
        layer, token = (int(i) for i in np.unravel_index(np.argmax(z), z.shape))
        says = (
            f"{self.questions[row].text} → answer. The largest query score of an FFN is "
            f"{cell_text(float(z[layer, token]))}, in layer {layer} at token "
            f"{self.tokens[row][token].strip()!r}."
        )
        queries: Any = self.queries[self.queries["prompt"] == drawn].head(15)
        table = Table(f"Query neurons of prompt {drawn}", queries.drop(columns="prompt"))
        drawing = Figure("Layer by token", says, figure)
        return Section(f"Prompt {drawn}", [drawing, *([table] if len(queries) else [])])

    def __repr__(self) -> str:
        return (
            f"QueryValue({self.model}: {self.n_prompts} prompts, {len(self.excluded)} excluded; "
            f"top {self.top} value neurons, {self.key} keys; {self.seconds:.1f} s)"
        )
