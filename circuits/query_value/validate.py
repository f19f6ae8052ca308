"""`validate`: does switching query neurons off switch their value neurons off, and cost the answer?

On prompts that `find` has not seen, the top query neurons are ablated, and for comparison random
neurons, as many in each layer and of like size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from circuits.query_value.questions import Question, questions
from circuits.query_value.result import QueryValue
from interp.ablation.controls import write_norms
from interp.brief import brief
from interp.data.pairs import Excluded
from interp.data.prompts import Positions, TokenPrompt
from interp.errors import DataError
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask
from interp.interventions.binding import bind
from interp.interventions.native import hooked_run
from interp.interventions.plan import Ablate, Plan
from interp.interventions.recording import Values
from interp.interventions.values import mean_activations
from interp.model.components import Component, shapes
from interp.model.model import Model
from interp.model.sites import SITES
from interp.progress import Progress, reported
from interp.results.report import Report, Section, Table, excluded_rows
from interp.results.result import Result
from interp.statistics import bootstrap_mean, bootstrap_ratio, empirical_p
from interp.statistics.random_sets import random_sets

READOUTS = ("activation", "logprob", "accuracy")


@brief
@dataclass(frozen=True)
class Validation(Result):
    """What `validate` measured.

    Attributes:
        readings: each of `READOUTS` by prompt and run: ``baseline``, ``query`` (query neurons
            ablated) and ``random 0``, ``random 1``, …. ``activation`` is the sum of the value
            neurons' coefficients at the last token, each with its sign in discovery;
            ``logprob`` the answer's, in nats; ``accuracy`` whether no token is likelier.
        clusters: each prompt's entity.
        excluded: prompts that the unablated model gets wrong, with what it says.
        n_query, n_value: query neurons ablated and value neurons read in a prompt, on average.
        n_also_query: value neurons left out because they are ablated themselves, on average.
    """

    KIND: ClassVar[str] = "query_value_validation"

    readings: xr.Dataset = field(repr=False)
    clusters: tuple[str, ...] = field(repr=False)
    excluded: tuple[Excluded, ...] = field(repr=False)
    n_query: float
    n_value: float
    n_also_query: float
    neurons: str
    kind: str
    positions: str | int | tuple[int, ...]
    model: str
    weights_hash: str

    @property
    def n_prompts(self) -> int:
        """Number of prompts that were measured."""
        return self.readings.sizes["prompt"]

    @property
    def n_random(self) -> int:
        """Number of random sets."""
        return self.readings.sizes["run"] - 2

    def table(self, seed: int = 0) -> pd.DataFrame:
        """Effects with 95 % bootstrap intervals over clusters of prompts.

        A row per readout: its ``baseline``; the change by ablating query neurons, ``effect`` with
        ``low`` and ``high``; the mean change by random neurons, ``random``; their paired
        ``difference`` with bounds; ``p``, how often a random set lowers the mean at least as much,
        the query set counted. Activation is relative to the baseline.
        """
        rows: list[dict[str, Any]] = []
        for name in READOUTS:
            values = self.readings[name].transpose("prompt", "run").values
            base, change = values[:, 0], values[:, 1:] - values[:, :1]
            random = change[:, 1:].mean(1)
            parts = np.stack([change[:, 0], random, change[:, 0] - random], 1)
            if name == "activation":
                found = bootstrap_ratio(parts, base, seed, clusters=self.clusters)
            else:
                found = bootstrap_mean(parts, seed, clusters=self.clusters)
            row: dict[str, Any] = {"readout": name, "n": len(values), "baseline": base.mean()}
            for what, value, low, high in zip(
                ("effect", "random", "difference"), *map(np.asarray, found), strict=True
            ):
                bounds = ("low", "high") if what == "effect" else (f"{what}_low", f"{what}_high")
                row |= {what: value, bounds[0]: low, bounds[1]: high}
            totals = change.mean(0)
            rows.append(row | {"p": float(empirical_p(totals[0], totals[1:], "less"))})
        return pd.DataFrame(rows)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures of the table, and what was ablated and read."""
        return {
            **self.named("model", "neurons", "kind", "n_query", "n_value", "n_also_query"),
            "positions": str(self.positions),
            **self.named("n_prompts", "n_random"),
            "n_excluded": len(self.excluded),
            "table": self.table(seed).to_dict("records"),
        }

    def report(self) -> Report:
        """The effects beside those of random neurons."""
        table = self.table(self.provenance.get("seed", 0))
        effect = table.set_index("readout")["effect"]
        return Report(
            title=f"Ablating query neurons of {self.model}",
            lead=f"On {self.n_prompts} prompts, ablating {self.n_query:.0f} query neurons changes "
            f"the activation of {self.n_value:.0f} value neurons by {effect['activation']:.1%}, "
            f"and the answer's log-probability by {effect['logprob']:.3f} nats.",
            sections=[Section("Effects", [Table("Effect of the query neurons", table)])],
            method=(
                f"Neurons are {self.neurons}, set to their {self.kind} at positions "
                f"{self.positions}; {self.n_random} sets of random neurons, as many in each layer "
                "and of like write norm. Intervals: 95 % bootstrap over clusters of prompts.",
            ),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance | {"weights": self.weights_hash},
        )


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
    progress: Progress | bool = True,
) -> Validation:
    """Ablate the top query neurons on new prompts; read their value neurons and the answer.

    Random sets have as many neurons in each layer, none of the query neurons, and like mean norms
    of what they write. Prompts that the model gets wrong are left out.

    Args:
        model: the model of the result.
        result: from `find`, on other prompts.
        prompts: texts or token prompts.
        answers: what follows each. All tokens are read: log p of an answer is the sum over its
            tokens, and an answer is right where greedy decoding writes it.
        clusters: entity of each prompt.
        neurons: ``"shared"``: the strongest over all of the result's prompts; ``"own"``: over
            those of the prompt's own cluster, such as other wordings of the same fact.
        n_query: query neurons ablated, those of the largest positive mean score.
        n_value: value neurons read, less those that are ablated themselves.
        n_random: random sets per query set; fewer where no more match it.
        kind: ``"mean"`` over the result's prompts, at `positions`; or ``"zero"``.
        positions: at which tokens.
        seed: of the random sets.
        progress: called with (prompts done, prompts in all); True draws a bar.

    Raises:
        DataError: a prompt was used for discovery, a cluster has no discovery prompt, the
            result is of another model, or the model answers none of the prompts.
        StatisticsError: too few other neurons in a layer for a random set.
    """
    asked, excluded = questions(model, prompts, answers, None, clusters, "whole")
    _check_new(model, result, asked, len(prompts))
    known = [one.prompt for one in result.questions]
    norms = write_norms(model, ["neuron"], known)
    own = [one.cluster if neurons == "own" else None for one in asked]
    chosen = {name: _chosen(result, name, n_query, n_value) for name in set(own)}
    of = shapes(model, ["neuron"])
    random = {
        name: random_sets(some.query, of, n_random, seed, sizes=norms)
        for name, some in chosen.items()
    }
    # as many random sets for each prompt: a small set has few that match it
    least = min(map(len, random.values()))
    layers = sorted({unit.layer for some in chosen.values() for unit in some.query})
    fill: Values = {}
    if kind == "mean":
        fill = mean_activations(model, known, "mlp_post", layers, positions=positions)
    measured: list[Float[Tensor, "readout run"]] = []
    with reported(progress, "ablating query neurons", len(asked), "prompts") as report:
        for done, (one, name) in enumerate(zip(asked, own, strict=True), 1):
            sets = [chosen[name].query, *random[name][:least]]
            plans = [_plan(some, fill, positions) for some in sets]
            measured.append(_measure(model, one, plans, chosen[name]))
            report(done, len(asked))
    used = [chosen[name] for name in own]
    return Validation(
        readings=_dataset(asked, measured),
        clusters=tuple(one.cluster for one in asked),
        excluded=tuple(excluded),
        n_query=float(np.mean([len(some.query) for some in used])),
        n_value=float(np.mean([len(some.read) for some in used])),
        n_also_query=float(np.mean([some.n_also_query for some in used])),
        neurons=neurons,
        kind=kind,
        positions=positions if isinstance(positions, str | int) else tuple(positions),
        model=model.name,
        weights_hash=model.weights_hash,
    )


def _check_new(model: Model, result: QueryValue, asked: Sequence[Question], n: int) -> None:
    """Refuse prompts that the result has seen, and a model that answers none of `n` others."""
    if model.weights_hash != result.weights_hash:
        raise DataError(
            f"the result is of {result.model} with other weights than {model.name}; find its "
            "neurons first."
        )
    seen = {one.prompt.ids for one in result.questions}
    twice = [one.text for one in asked if one.prompt.ids in seen]
    if twice:
        raise DataError(
            f"{len(twice)} prompts were used to find the neurons, such as {twice[0]!r}; validate "
            "on others."
        )
    if not asked:
        raise DataError(f"{model.name} answers none of the {n} prompts; give easier ones.")


@brief
@dataclass(frozen=True)
class _Chosen:
    """What is ablated and read in the prompts of one cluster, or of all.

    Attributes:
        read: the value neurons; `sign` of each one's coefficient in discovery.
        n_also_query: value neurons left out because they are query neurons.
    """

    query: tuple[Component, ...]
    read: tuple[Component, ...]
    sign: Float[Tensor, " value"]
    n_also_query: int


def _chosen(result: QueryValue, cluster: str | None, n_query: int, n_value: int) -> _Chosen:
    table = result.query_neurons(n_query, cluster)
    query = _neurons(table.loc[table["score"] > 0])
    value = result.value_neurons(n_value, cluster)
    mine = value.loc[[neuron not in query for neuron in _neurons(value)]]
    if not query or not len(mine):
        raise DataError(
            f"cluster {cluster!r} has {len(query)} query neurons of positive score and "
            f"{len(mine)} value neurons besides; raise n_value, or find with more prompts."
        )
    sign = torch.tensor(np.sign(mine["coefficient"].to_numpy()), dtype=torch.float32)
    return _Chosen(query, _neurons(mine), sign, len(value) - len(mine))


def _neurons(table: pd.DataFrame) -> tuple[Component, ...]:
    pairs = table[["layer", "neuron"]].to_numpy().tolist()
    return tuple(Component(int(layer), "neuron", int(unit)) for layer, unit in pairs)


def _plan(chosen: Sequence[Component], fill: Values, positions: Positions) -> Plan:
    """Neurons set to their layer's entry of `fill`, or to zero."""
    units: dict[int, list[int]] = {}
    for one in chosen:
        units.setdefault(one.layer, []).append(one.unit)
    kind = "mean" if fill else "zero"
    steps = [
        Ablate("mlp_post", fill.get(i), layers=i, units=some, positions=positions, kind=kind)
        for i, some in units.items()
    ]
    return Plan(tuple(steps))


def _measure(
    model: Model, one: Question, plans: Sequence[Plan], chosen: _Chosen
) -> Float[Tensor, "readout run"]:
    """One batch: the prompt as it is, and under each plan; the value neurons and the answer.

    The neurons are read at the prompt's last token. To plans, the answer's tokens are decoded ones.
    """
    rows = [one.prompt] * (1 + len(plans))
    run = bind(model, Plan(), rows)
    for row, plan in enumerate(plans, 1):
        run.edits += bind(model, plan, rows, rows=torch.arange(len(rows)) == row).edits
    ids = torch.tensor([one.read] * len(rows), device=model.device)
    last = slice(len(one.prompt.ids) - 1, None)
    seen: dict[int, Tensor] = {}
    reads = [
        (SITES["mlp_post"], layer, _keep(seen, layer, last))
        for layer in {at.layer for at in chosen.read}
    ]
    reads.append((SITES["resid_post"], model.arch.n_layers - 1, _keep(seen, -1, last)))
    with torch.no_grad(), hooked_run(model, run), hooked(model, reads):
        mask = torch.ones_like(ids, dtype=torch.bool)
        model.body(input_ids=ids, use_cache=False, **positions_and_mask(model, mask))
        logits = model.logits(seen[-1])
    found = torch.stack([seen[at.layer][:, 0, at.unit] for at in chosen.read], 1).float().cpu()
    tokens = torch.tensor(one.tokens, device=logits.device)
    log_p = logits.log_softmax(-1).gather(-1, tokens.expand(len(rows), -1)[..., None])
    right = (logits.argmax(-1) == tokens).all(1).float().cpu()
    return torch.stack([found @ chosen.sign, log_p.sum((1, 2)).cpu(), right])


def _keep(seen: dict[int, Tensor], layer: int, at: slice) -> Callable[[Tensor], None]:
    return lambda activation: seen.__setitem__(layer, activation[:, at].clone())


def _dataset(asked: Sequence[Question], measured: Sequence[Tensor]) -> xr.Dataset:
    values = torch.stack(list(measured)).double().numpy()
    runs = ["baseline", "query", *(f"random {i}" for i in range(values.shape[2] - 2))]
    coords = {"prompt": [one.id for one in asked], "run": runs}
    named = {name: (("prompt", "run"), values[:, i]) for i, name in enumerate(READOUTS)}
    return xr.Dataset(named, coords)
