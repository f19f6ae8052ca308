"""`find`: the query and value neurons of a set of questions."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from circuits.query_value.every import every_neuron
from circuits.query_value.query import PATHS, WRITERS, QueryScores, query_scores
from circuits.query_value.questions import Question, questions
from circuits.query_value.result import SUBLAYERS, QueryValue
from circuits.query_value.trace import Trace, trace
from circuits.query_value.value import ValueNeurons, ValueScores, lens_of, value_scores
from interp.data.prompts import TokenPrompt
from interp.errors import DataError
from interp.forward.blocks import neuron_keys
from interp.model.model import Model
from interp.progress import Progress, reported


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
    progress: Progress | bool = True,
) -> QueryValue:
    """Find the neurons that raise an answer's log-probability, and those that switch them on.

    Prompts whose top prediction is not their answer are left out, with what the model says.

    Args:
        model: from `interp.load_model`.
        prompts: texts, or token prompts with spans (`interp.prompt`).
        answers: what follows each, of one token.
        labels: kind of knowledge of each prompt, such as its relation.
        clusters: entity of each prompt, for intervals over entities.
        key: what FFN value neurons are read with: ``"gate"`` or, of gated FFNs, ``"up"``.
        layers: where value neurons are looked for; all by default.
        top: value neurons a prompt, of the FFNs and of the heads each.
        top_query: query neurons a prompt that are named with their token.
        every: score every FFN neuron, so that layer sums are over all and not over the top ones.
            Costs one projection of all neurons through the vocabulary, and an exponential a
            prompt, neuron and token of the vocabulary.
        progress: called with (prompts done, prompts in all); True draws a bar where one is watched.

    Raises:
        DataError: prompts and answers do not fit, or the model answers none of them.
        DataError: an answer is not one token.
        PlanError: a layer that is not there, or a model to which the method does not apply.

    Source: Yu & Ananiadou, arXiv 2312.12141; ACE, arXiv 2510.07896, equations 9 and 10.
    """
    started = time.perf_counter()
    chosen = list(range(model.arch.n_layers)) if layers is None else sorted(set(layers))
    model.check_layers(chosen)
    if not chosen or top < 1 or top_query < 1:
        raise DataError("give at least one layer, and `top` and `top_query` of at least 1.")
    neuron_keys(model, 0, key)
    asked, excluded = questions(model, prompts, answers, labels, clusters)
    if not asked:
        raise DataError(
            f"{model.name} answers none of the {len(excluded)} prompts as given; first: "
            f"{excluded[0].where!r}, {excluded[0].reason}."
        )
    found: list[tuple[ValueScores, QueryScores]] = []
    runs: list[Trace] = []
    with torch.no_grad(), reported(progress, "finding neurons", len(asked), "prompts") as report:
        for done, one in enumerate(asked, 1):
            run = trace(model, one.prompt)
            value = value_scores(run, lens_of(run, one.answer), chosen, top)
            query = query_scores(run, value.neurons, value.attention_neurons, key)
            found.append((value, query))
            runs += [run] if every else []
            report(done, len(asked))
    sums = every_neuron(runs, [one.answer for one in asked], chosen).sum(-1) if every else None
    return QueryValue(
        scores=_dataset(model, asked, found, chosen, sums),
        values=pd.concat(
            [_values(model, q, v) for q, (v, _) in zip(asked, found, strict=True)],
            ignore_index=True,
        ),
        queries=pd.concat(
            [_queries(model, q, s, top_query) for q, (_, s) in zip(asked, found, strict=True)],
            ignore_index=True,
        ),
        questions=tuple(asked),
        tokens=tuple(tuple(model.token(t) for t in one.prompt.ids) for one in asked),
        excluded=tuple(excluded),
        model=model.name,
        weights_hash=model.weights_hash,
        key=key,
        top=top,
        layers_searched=tuple(chosen),
        flops=_flops(model, found, len(chosen), every),
        seconds=time.perf_counter() - started,
    )


def _flops(model: Model, found: list[Any], n_layers: int, every: bool) -> float:
    """Of the projections through the vocabulary, which are nearly all of the work."""
    rows = sum(value.projected for value, _ in found)
    rows += n_layers * (model.arch.d_mlp or 0) if every else 0
    return 2.0 * rows * model.unembed.weight.numel()


def _dataset(
    model: Model,
    asked: list[Question],
    found: list[tuple[ValueScores, QueryScores]],
    chosen: list[int],
    sums: torch.Tensor | None,
) -> xr.Dataset:
    a, n_pos = model.arch, max(len(one.prompt.ids) for one in asked)
    every = np.full((len(asked), a.n_layers), np.nan)
    if sums is not None:
        every[:, chosen] = sums.cpu().numpy()
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {
        "layer_score": (("sublayer", "layer"), [v.layers for v, _ in found]),
        "head_score": (("layer", "head"), [v.heads for v, _ in found]),
        "top_sum": (("sublayer", "layer"), [_sums(v, a.n_layers) for v, _ in found]),
        "query_writer": (("path", "writer", "layer", "pos"), [q.writers for _, q in found]),
        "query_embedding": (("path", "pos"), [q.embedding for _, q in found]),
        "query_head": (("layer", "head", "pos"), [q.heads for _, q in found]),
        "query_neuron": (("layer", "neuron"), [q.neurons.sum((0, 2)) for _, q in found]),
        "unmoved": ((), [torch.tensor(q.unmoved) for _, q in found]),
    }
    variables = {
        name: (("prompt", *dims), np.stack([_padded(x, dims, n_pos) for x in rows]))
        for name, (dims, rows) in arrays.items()
    }
    variables["every_sum"] = (("prompt", "layer"), every)
    coords = {
        "prompt": [one.id for one in asked],
        "sublayer": list(SUBLAYERS),
        "layer": range(a.n_layers),
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
    parts = [
        _value_table(model, one, some, sublayer)
        for sublayer, some in (("ffn", value.neurons), ("attention", value.attention_neurons))
    ]
    return pd.concat(parts, ignore_index=True)


def _value_table(model: Model, one: Question, some: ValueNeurons, sublayer: str) -> pd.DataFrame:
    unit, size = some.unit.cpu().numpy(), model.arch.d_head
    pos = some.pos.tolist()
    of_head = sublayer == "attention"
    return pd.DataFrame(
        {
            "prompt": one.id,
            "sublayer": sublayer,
            "layer": some.layer.cpu().numpy(),
            "neuron": unit % size if of_head else unit,
            "head": unit // size if of_head else np.full(len(unit), -1),
            "pos": pos,
            "token": [model.token(one.prompt.ids[j]) for j in pos],
            "span": [one.role(j) for j in pos],
            "score": some.score.cpu().numpy(),
            "coefficient": some.coefficient.cpu().numpy(),
        }
    )


def _queries(model: Model, one: Question, query: QueryScores, top: int) -> pd.DataFrame:
    """The FFN neurons and tokens of the largest query score."""
    total = query.neurons.sum(0)  # (layer, pos, neuron)
    best = total.flatten().topk(min(top, total.numel()))
    place = best.indices[best.values > 0]
    neuron = place % total.shape[2]
    pos, layer = place // total.shape[2] % total.shape[1], place // total[0].numel()
    by_path = query.neurons[:, layer, pos, neuron].cpu().numpy()
    return pd.DataFrame(
        {
            "prompt": one.id,
            "layer": layer.cpu().numpy(),
            "neuron": neuron.cpu().numpy(),
            "pos": pos.cpu().numpy(),
            "token": [model.token(one.prompt.ids[j]) for j in pos.tolist()],
            "span": [one.role(j) for j in pos.tolist()],
            **dict(zip(PATHS, by_path, strict=True)),
            "score": best.values[best.values > 0].cpu().numpy(),
        }
    )
