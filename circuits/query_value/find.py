"""`find`: the query and value neurons of a set of questions."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

from circuits.query_value.query import PATHS, WRITERS, QueryScores, query_scores
from circuits.query_value.questions import Question, questions
from circuits.query_value.result import SUBLAYERS, QueryValue
from circuits.query_value.trace import Trace, trace
from circuits.query_value.value import ValueScores, every_neuron, lens_of, value_scores
from interp.data.prompts import TokenPrompt
from interp.errors import DataError
from interp.forward.blocks import neuron_keys
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.statistics.ties import first_largest

Scored = tuple[Question, ValueScores, QueryScores]


def find(
    model: Model,
    prompts: Sequence[str | TokenPrompt],
    answers: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    key: str = "gate",
    layers: Sequence[int] | None = None,
    top: int = 30,
    top_query: int = 100,
    every: bool = False,
    answers_read: Literal["single", "first"] = "single",
    progress: Progress | bool = True,
) -> QueryValue:
    """Find the neurons that raise an answer's log-probability, and those that switch them on.

    Prompts whose top prediction is not their answer are left out, with what the model says.

    Args:
        model: the model.
        prompts: texts, or token prompts with spans (`interp.prompt`).
        answers: what follows each, of one token: the scores are log-probability increases of one.
        labels: kind of knowledge of each prompt, such as its relation.
        clusters: entity of each prompt, for intervals over entities.
        key: what FFN value neurons are read with: ``"gate"`` or, of gated FFNs, ``"up"``.
        layers: where value neurons are looked for; all by default.
        top: value neurons per prompt, of the FFNs and of the heads each.
        top_query: query neurons per prompt that are named with their token.
        every: score every FFN neuron, so that layer sums are over all and not over the top ones.
            Costs one projection of all neurons through the vocabulary, and an exponential per
            prompt, neuron and token of the vocabulary.
        answers_read: ``"first"``: of answers of several tokens, the first token alone.
        progress: called with (prompts done, prompts in all); True draws a bar.

    Raises:
        DataError: prompts and answers do not fit, an answer is not one token, or the model answers
            none of them.
        PlanError: a layer that is not there, or a model to which the method does not apply.

    Source: Yu & Ananiadou, arXiv 2312.12141; ACE, arXiv 2510.07896, equations 9 and 10.
    """
    started = time.perf_counter()
    chosen = list(range(model.arch.n_layers)) if layers is None else sorted(set(layers))
    model.check_layers(chosen)
    if not chosen or top < 1 or top_query < 1:
        raise DataError("give at least one layer, and `top` and `top_query` of at least 1.")
    neuron_keys(model, 0, key)
    asked, excluded = questions(model, prompts, answers, labels, clusters, answers_read)
    if not asked:
        raise DataError(
            f"{model.name} answers none of the {len(excluded)} prompts as given; first: "
            f"{excluded[0].where!r}, {excluded[0].reason}."
        )
    found: list[Scored] = []
    runs: list[Trace] = []
    label = "query and value neurons"
    with reported(progress, label, len(asked), "prompts") as report, torch.no_grad():
        for done, one in enumerate(asked, 1):
            run = trace(model, one.prompt)
            value = value_scores(run, lens_of(run, one.answer), chosen, top)
            query = query_scores(run, value.neurons, value.attention_neurons, key)
            found.append((one, value, query))
            runs += [run] if every else []
            report(done, len(asked))
    every_sum = np.full((len(asked), model.arch.n_layers), np.nan)
    if every:
        scores = every_neuron(runs, [one.answer for one in asked], chosen)
        every_sum[:, chosen] = scores.sum(-1).cpu().numpy()
    # nearly all of the work: projections through the vocabulary
    projected = sum(value.projected for _, value, _ in found)
    projected += len(chosen) * model.arch.d_mlp if every else 0
    return QueryValue(
        scores=_dataset(model, found, every_sum),
        values=_joined(_values(model, q, v) for q, v, _ in found),
        queries=_joined(_queries(model, q, s, top_query) for q, _, s in found),
        questions=tuple(asked),
        tokens=tuple(tuple(model.token(t) for t in one.prompt.ids) for one in asked),
        excluded=tuple(excluded),
        model=model.name,
        weights_hash=model.weights_hash,
        key=key,
        top=top,
        layers_searched=tuple(chosen),
        flops=2.0 * projected * model.n_vocab * model.arch.d_model,
        seconds=time.perf_counter() - started,
    )


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(tables), ignore_index=True)


def _dataset(model: Model, found: Sequence[Scored], every_sum: np.ndarray) -> xr.Dataset:
    n_layers, n_pos = model.arch.n_layers, max(len(one.prompt.ids) for one, _, _ in found)
    values, queries = [value for _, value, _ in found], [query for _, _, query in found]
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {
        "layer_score": (("sublayer", "layer"), [v.layers for v in values]),
        "head_score": (("layer", "head"), [v.heads for v in values]),
        "top_sum": (("sublayer", "layer"), [_sums(v, n_layers) for v in values]),
        "query_writer": (("path", "writer", "layer", "pos"), [q.writers for q in queries]),
        "query_embedding": (("path", "pos"), [q.embedding for q in queries]),
        "query_head": (("layer", "head", "pos"), [q.heads for q in queries]),
        "query_neuron": (("layer", "neuron"), [q.neurons.sum((0, 2)) for q in queries]),
        "unmoved": ((), [torch.tensor(q.unmoved) for q in queries]),
    }
    variables = {
        name: (("prompt", *dims), np.stack([_padded(x, dims, n_pos) for x in rows]))
        for name, (dims, rows) in arrays.items()
    }
    variables["every_sum"] = (("prompt", "layer"), every_sum)
    coords = {
        "prompt": [one.id for one, _, _ in found],
        "sublayer": list(SUBLAYERS),
        "layer": range(n_layers),
        "path": list(PATHS),
        "writer": list(WRITERS),
    }
    return xr.Dataset(variables, coords)


def _padded(x: torch.Tensor, dims: tuple[str, ...], n_pos: int) -> np.ndarray:
    """NaN where a prompt has no such token."""
    found = x.float().cpu().numpy()
    if "pos" not in dims:
        return found
    wide = [(0, 0)] * (found.ndim - 1) + [(0, n_pos - found.shape[-1])]
    return np.pad(found, wide, constant_values=np.nan)


def _sums(value: ValueScores, n_layers: int) -> torch.Tensor:
    out = torch.zeros(2, n_layers)
    for row, some in enumerate((value.attention_neurons, value.neurons)):
        out[row].index_add_(0, some.layer.cpu(), some.score.cpu())
    return out


def _values(model: Model, one: Question, value: ValueScores) -> pd.DataFrame:
    """The value neurons of a prompt, those of the heads last."""
    parts: list[pd.DataFrame] = []
    for sublayer, some in (("ffn", value.neurons), ("attention", value.attention_neurons)):
        unit, size = some.unit.cpu().numpy(), model.arch.d_head
        of_head = sublayer == "attention"
        columns = {
            "prompt": one.id,
            "sublayer": sublayer,
            "layer": some.layer.cpu().numpy(),
            "neuron": unit % size if of_head else unit,
            "head": unit // size if of_head else np.full(len(unit), -1),
            **_places(model, one, some.pos),
            "score": some.score.cpu().numpy(),
            "coefficient": some.coefficient.cpu().numpy(),
        }
        parts.append(pd.DataFrame(columns))
    return _joined(parts)


def _queries(model: Model, one: Question, query: QueryScores, top: int) -> pd.DataFrame:
    """The FFN neurons and tokens of the largest query score."""
    total = query.neurons.sum(0)  # (layer, pos, neuron)
    best, at = first_largest(total.flatten(), min(top, total.numel()))
    positive = best > 0
    layer, pos, neuron = torch.unravel_index(at[positive], total.shape)
    by_path = query.neurons[:, layer, pos, neuron].cpu().numpy()
    columns = {
        "prompt": one.id,
        "layer": layer.cpu().numpy(),
        "neuron": neuron.cpu().numpy(),
        **_places(model, one, pos),
        **dict(zip(PATHS, by_path, strict=True)),
        "score": best[positive].cpu().numpy(),
    }
    return pd.DataFrame(columns)


def _places(model: Model, one: Question, pos: torch.Tensor) -> dict[str, Any]:
    """Columns that say where a neuron is read: number, token and span."""
    at = pos.cpu().numpy()
    tokens = [model.token(one.prompt.ids[j]) for j in at.tolist()]
    return {"pos": at, "token": tokens, "span": [one.role(j) for j in at.tolist()]}
