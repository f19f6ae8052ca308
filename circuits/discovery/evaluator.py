"""Run circuits on test prompts: everything outside ablated, the metric of every prompt read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.discovery.circuit import Circuit
from interp.attribution.contrast import Contrast, contrasts, run, usable
from interp.brief import brief
from interp.data.answers import described
from interp.data.pairs import AnswerMode, Excluded, PromptPairs, load_pairs, unpaired
from interp.errors import DegenerateGap, PlanError, shown
from interp.forward.masked import Writes, run_masked
from interp.metrics import DEGENERATE, AnyMetric, as_metric
from interp.model.graph import Graph
from interp.model.model import Model

Ablation = Literal["resample", "zero", "mean"]
ABLATIONS: tuple[Ablation, ...] = ("resample", "zero", "mean")
SITES = ("z", "mlp_out", "mlp_post")

PerPair = Float[np.ndarray, " pair"]
Batches = tuple[tuple[Contrast, Writes], ...]
"""Each micro-batch with what every source writes in the ablation run."""


@brief
@dataclass(frozen=True)
class Evaluator:
    """A model with test prompts on which any circuit can be run; see `of`.

    Attributes:
        full, empty: the metric of the full model, and with every edge cut.
        ids: of the pairs.
        prompts: every test prompt, clean and corrupt.
        unpaired: tokens of each pair without a partner, where edges are not cut; empty: none.
        answers: how much of the answers is read.
    """

    model: Model
    batches: Batches
    full: PerPair
    empty: PerPair
    excluded: tuple[Excluded, ...]
    ids: tuple[str, ...]
    prompts: frozenset[str]
    ablation: Ablation
    metric: str
    source: str
    unpaired: tuple[tuple[int, int], ...] = ()
    answers: str = "whole (1 token)"

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: PromptPairs | Sequence[Any] | str,
        metric: AnyMetric = "logit_diff",
        ablation: Ablation = "resample",
        answers: AnswerMode = "whole",
    ) -> Self:
        """Run the full and the empty circuit on test prompts.

        `metric` is ``"logit_diff"``, ``"logprob"``, ``"prob"``, or a function that `interp.patch`
        takes; cut edges read, by `ablation`, ``"resample"`` the partner's activation in the corrupt
        prompt (MIB), ``"zero"``, or ``"mean"``, the mean over the corrupt prompts' tokens here. Of
        whole `answers` edges are cut at the answers' tokens, too; resampling cuts none at a token
        without a partner.

        Raises:
            PlanError: unknown ablation.
            DataError: no pair is usable.
            DegenerateGap: full and empty circuit score alike.
        """
        if ablation not in ABLATIONS:
            raise PlanError(f"unknown ablation {ablation!r}; choose one of {', '.join(ABLATIONS)}.")
        loaded = load_pairs(pairs)
        chosen = as_metric(metric)
        kept, excluded = usable(model, loaded, chosen, answers)
        batches, full, empty = prepared(model, list(contrasts(model, kept, chosen)), ablation)
        if not abs(full.mean() - empty.mean()) >= DEGENERATE:
            raise DegenerateGap(
                f"{loaded.source}: the full model ({full.mean():.6g}) and the empty circuit "
                f"({empty.mean():.6g}) score alike in {chosen.name}, so faithfulness divides by "
                "nothing."
            )
        return cls(
            model=model,
            batches=batches,
            full=full,
            empty=empty,
            excluded=tuple(excluded),
            ids=tuple(pair.pair.id for pair in kept),
            prompts=frozenset(t for p in kept for t in (p.pair.clean, p.pair.corrupt)),
            ablation=ablation,
            metric=chosen.name,
            source=loaded.source,
            unpaired=unpaired(kept) if ablation == "resample" else (),
            answers=described((pair.answers for pair in kept), answers),
        )

    @property
    def measured(self) -> dict[str, Any]:
        """What is measured, on what, as results hold it."""
        named = {"metric": self.metric, "ablation": self.ablation, "source": self.source}
        named |= {"model": self.model.name, "n_excluded": len(self.excluded)}
        return named | {"unpaired": self.unpaired, "answers": self.answers}

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return Graph.of(self.model.arch)

    def metric_of(self, circuit: Circuit) -> PerPair:
        """The metric of every pair with everything outside the circuit ablated; see `check`."""
        self.check(circuit)
        neurons = _neuron_mask(self.model, circuit)
        with torch.no_grad():
            parts = list(self.masked(circuit.edges.to(torch.float32), neurons))
        return torch.cat(parts).double().cpu().numpy()

    def masked(
        self,
        mask: Float[Tensor, "source destination"],
        neurons: Bool[Tensor, "layer neuron"] | None = None,
    ) -> Iterator[Float[Tensor, " pair"]]:
        """The metric under a mask, batch by batch; differentiable in the mask."""
        for contrast, ablated in self.batches:
            yield _masked(self.model, contrast, ablated, mask, neurons)

    def faithfulness(self, values: PerPair) -> float:
        """(m(C) - m(empty)) / (m(full) - m(empty)), a ratio of means."""
        gap = self.full.mean() - self.empty.mean()
        return float((values.mean() - self.empty.mean()) / gap)

    def check(self, circuit: Circuit) -> None:
        """Refuse (`PlanError`) a circuit of another model, or one that saw these prompts."""
        if circuit.graph != self.graph:
            raise PlanError(
                f"{circuit!r} is of another shape of model than {self.model.name} "
                f"({self.graph.n_layers} layers, {self.graph.n_heads} heads)."
            )
        if circuit.weights_hash and circuit.weights_hash != self.model.weights_hash:
            raise PlanError(
                f"{circuit!r} was found on other weights than {self.model.name} has here; "
                "discover it again, or load the model it was found on."
            )
        seen = self.prompts & set(circuit.prompts)
        if seen:
            raise PlanError(
                f"{len(seen)} of the test prompts were seen in discovery, e.g. {shown(min(seen))}; "
                "split by entity first (split_by_entity) and test on the other part."
            )


def _masked(
    model: Model, contrast: Contrast, ablated: Writes, mask: Tensor, neurons: Tensor | None = None
) -> Float[Tensor, " pair"]:
    resid = run_masked(model, contrast.calls, contrast.clean, mask, ablated, neurons)
    return contrast.read(resid, contrast.pair)


def prepared(
    model: Model, contrasts: Sequence[Contrast], ablation: Ablation
) -> tuple[Batches, PerPair, PerPair]:
    """What ablated sources write in each batch, and the metric of the full and empty circuit."""
    nothing = torch.zeros_like(Graph.of(model.arch).exists, dtype=torch.float32)
    full, empty = [], []
    with torch.no_grad():
        writes = [_corrupt_writes(model, contrast) for contrast in contrasts]
        if ablation != "resample":
            writes = _filled(contrasts, writes, ablation)
        batches = tuple(zip(contrasts, writes, strict=True))
        for contrast, ablated in batches:
            start = contrast.calls.embeddings[contrast.clean]
            clean = run(model, contrast, start, contrast.clean, [])
            full.append(contrast.read(clean.final, contrast.pair))
            empty.append(_masked(model, contrast, ablated, nothing))
    whole, none = (torch.cat(x).double().cpu().numpy() for x in (full, empty))
    return batches, whole, none


def _corrupt_writes(model: Model, contrast: Contrast) -> Writes:
    """The corrupt run's writes: with causal attention, the clean ones up to the first new token.

    Edges are not cut at a token without a partner.
    """
    corrupt, every = contrast.calls.embeddings[contrast.corrupt], range(model.arch.n_layers)
    sites = [site for site in SITES if model.arch.layers_with(site) == tuple(every)]
    kept = run(model, contrast, corrupt, contrast.corrupt, sites).kept
    first = int(contrast.first_difference.min()) if model.arch.causal else 0
    where = None if contrast.token_by_token else contrast.paired
    return Writes(corrupt, kept["z"], kept["mlp_out"], kept.get("mlp_post"), first, where)


def _filled(
    batches: Sequence[Contrast], writes: Sequence[Writes], ablation: Ablation
) -> list[Writes]:
    """Every activation replaced by 0, or by its mean over the corrupt prompts' own tokens."""

    def fill(of: Sequence[Tensor]) -> list[Tensor]:
        if ablation == "zero":
            return [torch.zeros_like(part) for part in of]
        real = [part[c.corrupt_prompt] for c, part in zip(batches, of, strict=True)]
        common = torch.cat(real).mean(0)
        return [common.expand_as(part) for part in of]

    def by_layer(of: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        filled = [fill(layer) for layer in zip(*of, strict=True)]
        return [list(parts) for parts in zip(*filled, strict=True)]

    embed, z = fill([w.embed for w in writes]), by_layer([w.z for w in writes])
    mlp = by_layer([w.mlp_out for w in writes])
    given = [w.neurons for w in writes if w.neurons is not None]
    neurons = by_layer(given) if given else [None] * len(writes)
    return [Writes(*parts) for parts in zip(embed, z, mlp, neurons, strict=True)]


def _neuron_mask(model: Model, circuit: Circuit) -> Bool[Tensor, "layer neuron"] | None:
    """Which neurons are in the circuit; ``None`` where it says nothing of neurons."""
    if not circuit.neurons:
        return None
    mask = torch.ones(model.arch.n_layers, model.arch.d_mlp, dtype=torch.bool)
    for name, kept in circuit.neurons.items():
        layer = int(name.removeprefix("m"))
        mask[layer] = False
        wrong = [i for i in kept if not 0 <= i < mask.shape[1]]
        if wrong:
            raise PlanError(f"{name} has no neuron {wrong[0]}: 0 to {mask.shape[1] - 1} exist.")
        mask[layer, list(kept)] = True
    return mask
