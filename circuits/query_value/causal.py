"""Does switching query neurons off switch their value neurons off, and cost the answer?

On prompts that `find` has not seen, the top query neurons are ablated, and for comparison random
neurons, as many in each layer and of like size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from circuits.query_value.questions import Question, questions, token_prompts
from circuits.query_value.result import QueryValue
from circuits.query_value.validation import READOUTS, Validation
from interp.ablation.controls import matched_sets, write_norms
from interp.brief import brief
from interp.data.pairs import Excluded
from interp.data.prompts import Positions, TokenPrompt
from interp.errors import DataError
from interp.forward.hooks import Edit, hooked
from interp.forward.layer_calls import positions_and_mask
from interp.interventions.recording import Values
from interp.interventions.values import mean_activations
from interp.model.components import Component, ComponentSet
from interp.model.model import Model
from interp.model.sites import SITES

Neuron = tuple[int, int]  # (layer, neuron)


@brief
@dataclass(frozen=True)
class Sets:
    """What is ablated and read in the prompts of one cluster, or of all.

    Attributes:
        ablated: the query neurons, then the random sets.
        read: the value neurons.
        sign: of each one's coefficient in discovery.
        n_also_query: value neurons left out because they are query neurons.
    """

    ablated: list[list[Neuron]]
    read: list[Neuron]
    sign: Float[Tensor, " value"]
    n_also_query: int


def validate(
    model: Model,
    result: QueryValue,
    prompts: Sequence[str | TokenPrompt],
    answers: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    neurons: Literal["shared", "own"] = "shared",
    n_query: int = 30,
    n_value: int = 30,
    n_random: int = 20,
    kind: Literal["mean", "zero"] = "mean",
    positions: Positions = "all",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Ablate the top query neurons on new prompts; read their value neurons and the answer.

    Random sets have as many neurons in each layer, none of the query neurons, and like mean norms
    of what they write. Prompts that the model gets wrong are left out.

    Args:
        model: the model of the result.
        result: from `find`, on other prompts.
        prompts: texts or token prompts.
        answers: what follows each, of one token.
        clusters: entity of each prompt.
        neurons: ``"shared"``: the strongest over all of the result's prompts; ``"own"``: over
            those of the prompt's own cluster, such as other wordings of the same fact.
        n_query: query neurons ablated, those of the largest positive mean score.
        n_value: value neurons read, less those that are ablated themselves.
        n_random: random sets a query set; fewer where no more match it.
        kind: ``"mean"`` over the result's prompts, at `positions`; or ``"zero"``.
        positions: at which tokens.
        seed: of the random sets.
        progress: called with (prompts done, prompts in all).

    Raises:
        DataError: a prompt was used for discovery, a cluster has no discovery prompt, the
            result is of another model, or the model answers none of the prompts.
        StatisticsError: too few other neurons in a layer for a random set.
    """
    asked, excluded = _new_questions(model, result, prompts, answers, clusters)
    norms = write_norms(model, ["neuron"], token_prompts(result.questions))["neuron"]
    sets = {
        cluster: _sets(model, result, cluster, (n_query, n_value, n_random), norms, seed)
        for cluster in {_cluster(one, neurons) for one in asked}
    }
    # as many random sets for each prompt: a small set has few that match it
    least = min(len(some.ablated) for some in sets.values())
    sets = {name: replace(some, ablated=some.ablated[:least]) for name, some in sets.items()}
    fill = _fill(model, result, list(sets.values()), kind, positions)
    measured: list[Float[Tensor, "readout run"]] = []
    for done, one in enumerate(asked, 1):
        measured.append(_measure(model, one, sets[_cluster(one, neurons)], fill, positions))
        if progress:
            progress(done, len(asked))
    used = [sets[_cluster(one, neurons)] for one in asked]
    return Validation(
        readings=_dataset(asked, measured),
        clusters=tuple(one.cluster for one in asked),
        excluded=tuple(excluded),
        n_query=float(np.mean([len(some.ablated[0]) for some in used])),
        n_value=float(np.mean([len(some.read) for some in used])),
        n_also_query=float(np.mean([some.n_also_query for some in used])),
        neurons=neurons,
        kind=kind,
        positions=positions,
        model=model.name,
    )


def _new_questions(
    model: Model,
    result: QueryValue,
    prompts: Sequence[str | TokenPrompt],
    answers: Sequence[str],
    clusters: Sequence[str] | None,
) -> tuple[list[Question], list[Excluded]]:
    """What the model answers of the prompts, none of which the result has seen."""
    if model.weights_hash != result.weights_hash:
        raise DataError(
            f"the result is of {result.model} with other weights than {model.name}; find its "
            "neurons first."
        )
    asked, excluded = questions(model, prompts, answers, None, clusters)
    seen = {one.prompt.ids for one in result.questions}
    twice = [one.text for one in asked if one.prompt.ids in seen]
    if twice:
        raise DataError(
            f"{len(twice)} prompts were used to find the neurons, such as {twice[0]!r}; validate "
            "on others."
        )
    if not asked:
        raise DataError(
            f"{model.name} answers none of the {len(excluded)} prompts; give easier ones."
        )
    return asked, excluded


def _cluster(one: Question, neurons: str) -> str | None:
    return one.cluster if neurons == "own" else None


def _sets(
    model: Model,
    result: QueryValue,
    cluster: str | None,
    sizes: tuple[int, int, int],
    norms: Float[np.ndarray, "layer neuron"],
    seed: int,
) -> Sets:
    n_query, n_value, n_random = sizes
    table = result.query_neurons(n_query, cluster)
    query = _neurons(table.loc[table["score"] > 0])
    value = result.value_neurons(n_value, cluster)
    every = _neurons(value)
    keep = [neuron not in set(query) for neuron in every]
    sign = torch.tensor(np.sign(value["coefficient"].to_numpy()[keep]), dtype=torch.float32)
    if not query or not len(sign):
        raise DataError(
            f"cluster {cluster!r} has {len(query)} query neurons of positive score and "
            f"{len(sign)} value neurons besides; raise n_value, or find with more prompts."
        )
    chosen = ComponentSet(tuple(Component(layer, "neuron", unit) for layer, unit in query))
    random = [
        [(one.layer, one.unit) for one in some.components]
        for some in matched_sets(model, chosen, n_random, seed, norms={"neuron": norms})
    ]
    read = [neuron for neuron, kept in zip(every, keep, strict=True) if kept]
    return Sets([query, *random], read, sign, len(every) - len(read))


def _neurons(table: pd.DataFrame) -> list[Neuron]:
    return [
        (int(layer), int(neuron))
        for layer, neuron in zip(table["layer"], table["neuron"], strict=True)
    ]


def _fill(
    model: Model, result: QueryValue, sets: Sequence[Sets], kind: str, positions: Positions
) -> Values:
    """What ablated neurons become, layer by layer."""
    layers = sorted({layer for some in sets for layer, _ in some.ablated[0]})
    if kind == "zero":
        return {layer: torch.zeros(model.arch.d_mlp or 0, dtype=model.dtype) for layer in layers}
    known = token_prompts(result.questions)
    return mean_activations(model, known, "mlp_post", layers, positions=positions)


def _measure(
    model: Model, one: Question, sets: Sets, fill: Values, positions: Positions
) -> Float[Tensor, "readout run"]:
    """One batch: the prompt as it is, without its query neurons, and without each random set."""
    n_runs = 1 + len(sets.ablated)
    place = one.prompt.positions((positions,) if isinstance(positions, int) else positions)
    ids = torch.tensor([one.prompt.ids] * n_runs, device=model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    kept: dict[int, Tensor] = {}
    edits = [
        (SITES["mlp_post"], layer, _ablate(sets.ablated, layer, fill[layer], place))
        for layer in fill
    ]
    edits += [
        (SITES["mlp_post"], layer, _keep(kept, layer)) for layer in {at for at, _ in sets.read}
    ]
    last: dict[int, Tensor] = {}
    edits.append((SITES["resid_post"], model.arch.n_layers - 1, _keep(last, 0)))
    with torch.no_grad(), hooked(model, edits):
        model.hf.base_model(input_ids=ids, use_cache=False, **positions_and_mask(model, mask))
        logits = model.logits(last[0])
    found = torch.stack([kept[layer][:, unit] for layer, unit in sets.read], 1).float().cpu()
    log_p = logits.log_softmax(-1)[:, one.answer].cpu()
    right = (logits.argmax(-1) == one.answer).float().cpu()
    return torch.stack([found @ sets.sign, log_p, right])


def _ablate(
    sets: Sequence[Sequence[Neuron]], layer: int, fill: Tensor, place: Sequence[int]
) -> Edit:
    """Row 0 is the prompt as it is; row i lacks the i-th set."""
    here = [(row, unit) for row, some in enumerate(sets, 1) for at, unit in some if at == layer]
    rows = torch.tensor([row for row, _ in here], dtype=torch.long)
    units = torch.tensor([unit for _, unit in here], dtype=torch.long)

    def edit(activation: Tensor) -> None:
        for pos in place:
            activation[rows, pos, units] = fill[units].to(activation)

    return edit


def _keep(kept: dict[int, Tensor], layer: int) -> Edit:
    return lambda activation: kept.__setitem__(layer, activation[:, -1].clone())


def _dataset(asked: Sequence[Question], measured: Sequence[Tensor]) -> xr.Dataset:
    values = torch.stack(list(measured)).double().numpy()
    runs = ["baseline", "query", *(f"random {i}" for i in range(values.shape[2] - 2))]
    coords = {"prompt": [one.id for one in asked], "run": runs}
    named = {name: (("prompt", "run"), values[:, i]) for i, name in enumerate(READOUTS)}
    return xr.Dataset(named, coords)
