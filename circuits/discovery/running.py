"""Run circuits: everything outside ablated, the metric of every prompt read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.discovery.circuit import Circuit
from interp.attribution.contrast import Contrast, RunValues, contrasts, run
from interp.brief import brief
from interp.data.pairs import Excluded, PromptPairs, load_pairs, tokenise
from interp.errors import DegenerateGap, PlanError, shown
from interp.forward.masked import Writes, run_masked
from interp.metrics import DEGENERATE
from interp.model.graph import Graph
from interp.model.model import Model

Ablation = Literal["resample", "zero", "mean"]
ABLATIONS: tuple[Ablation, ...] = ("resample", "zero", "mean")
SITES = ("z", "mlp_out", "mlp_post")


@brief
@dataclass(frozen=True)
class Bench:
    """A model with test prompts, both plain runs done, on which any circuit can be run.

    Attributes:
        model: the model.
        batches: each micro-batch with what every source writes in the ablation run.
        full: the metric of the whole model, per pair.
        empty: the metric with every edge cut, per pair.
        excluded: refused rows with reasons.
        ids: of the pairs.
        prompts: the test prompts.
        ablation, metric, source: what is measured, on what.
    """

    model: Model
    batches: tuple[tuple[Contrast, Writes], ...]
    full: Float[np.ndarray, " pair"]
    empty: Float[np.ndarray, " pair"]
    excluded: tuple[Excluded, ...]
    ids: tuple[str, ...]
    prompts: frozenset[str]
    ablation: Ablation
    metric: str
    source: str

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return Graph.of(self.model.arch)

    def metric_of(self, circuit: Circuit) -> Float[np.ndarray, " pair"]:
        """The metric of every pair with everything outside the circuit ablated.

        Raises:
            PlanError: the circuit is of another model, or was discovered on these prompts.
        """
        self.check(circuit)
        mask = circuit.edges.to(torch.float32)
        neurons = _neuron_mask(self.model, circuit)
        with torch.no_grad():
            parts = [self._read(c, writes, mask, neurons) for c, writes in self.batches]
        return torch.cat(parts).double().cpu().numpy()

    def _read(
        self,
        contrast: Contrast,
        ablated: Writes,
        mask: Float[Tensor, "source destination"],
        neurons: Bool[Tensor, "layer neuron"] | None = None,
    ) -> Float[Tensor, " pair"]:
        resid = run_masked(self.model, contrast.calls, contrast.clean, mask, ablated, neurons)
        return contrast.read(resid, torch.arange(len(contrast)))

    def masked(self, mask: Float[Tensor, "source destination"]) -> Iterator[Float[Tensor, " pair"]]:
        """The metric under a mask, batch by batch; differentiable in the mask."""
        for contrast, ablated in self.batches:
            yield self._read(contrast, ablated, mask)

    def faithfulness(self, values: Float[np.ndarray, " pair"]) -> float:
        """(m(C) - m(nothing)) / (m(M) - m(nothing)), a ratio of means."""
        gap = self.full.mean() - self.empty.mean()
        return float((values.mean() - self.empty.mean()) / gap)

    def check(self, circuit: Circuit) -> None:
        """Refuse a circuit of another model, or one that saw these prompts; see `metric_of`."""
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


def bench(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    metric: str = "logit_diff",
    ablation: Ablation = "resample",
    at_once: int | None = None,
) -> Bench:
    """Prepare test prompts for running circuits.

    Args:
        model: the model.
        pairs: test prompts.
        metric: ``"logit_diff"``, ``"logprob"`` or ``"prob"``.
        ablation: what cut edges read: ``"resample"`` the corrupt prompt's activation (MIB),
            ``"zero"``, or ``"mean"``, the mean over the corrupt prompts' tokens here.
        at_once: pairs in a micro-batch.

    Raises:
        PlanError: unknown ablation.
        DataError: no pair is usable.
        DegenerateGap: full and empty circuit score alike.
    """
    if ablation not in ABLATIONS:
        raise PlanError(f"unknown ablation {ablation!r}; choose one of {', '.join(ABLATIONS)}.")
    loaded = load_pairs(pairs)
    kept, excluded = tokenise(model, loaded)
    batches, full, empty = prepared(model, list(contrasts(model, kept, metric, at_once)), ablation)
    if not abs(full.mean() - empty.mean()) >= DEGENERATE:
        raise DegenerateGap(
            f"{loaded.source}: the whole model ({full.mean():.6g}) and the empty circuit "
            f"({empty.mean():.6g}) score alike in {metric}, so faithfulness divides by nothing."
        )
    return Bench(
        model=model,
        batches=batches,
        full=full,
        empty=empty,
        excluded=tuple(excluded),
        ids=tuple(pair.pair.id for pair in kept),
        prompts=frozenset(t for p in kept for t in (p.pair.clean, p.pair.corrupt)),
        ablation=ablation,
        metric=metric,
        source=loaded.source,
    )


def prepared(
    model: Model, batches: Sequence[Contrast], ablation: Ablation
) -> tuple[tuple[tuple[Contrast, Writes], ...], np.ndarray, np.ndarray]:
    """Ablation activations of each batch, and the metric of the whole and the empty circuit."""
    sites = [site for site in SITES if site in model.arch.points]
    runs = [_plain(model, contrast, contrast.corrupt, sites) for contrast in batches]
    writes = [_writes(model, c, done) for c, done in zip(batches, runs, strict=True)]
    if ablation == "zero":
        writes = [_map(w, lambda x: torch.zeros_like(x)) for w in writes]
    elif ablation == "mean":
        writes = _means(batches, writes)
    pairs = tuple(zip(batches, writes, strict=True))
    nothing = torch.zeros_like(Graph.of(model.arch).exists, dtype=torch.float32)
    full, empty = [], []
    with torch.no_grad():
        for contrast, ablated in pairs:
            rows = torch.arange(len(contrast))
            full.append(contrast.read(_plain(model, contrast, contrast.clean, []).final, rows))
            cut = run_masked(model, contrast.calls, contrast.clean, nothing, ablated)
            empty.append(contrast.read(cut, rows))
    whole, none = (torch.cat(x).double().cpu().numpy() for x in (full, empty))
    return pairs, whole, none


def _plain(model: Model, contrast: Contrast, which: Tensor, sites: Sequence[str]) -> RunValues:
    rows = torch.arange(len(contrast))
    with torch.no_grad():
        return run(model, contrast, contrast.calls.embeddings[which], rows, sites)


def _writes(model: Model, contrast: Contrast, done: RunValues) -> Writes:
    """The corrupt run's writes: with causal attention, the clean ones up to the first new token."""
    clean, corrupt = (contrast.calls.embeddings[w] for w in (contrast.clean, contrast.corrupt))
    differs = (clean != corrupt).any(-1).any(0).int()
    first = int(differs.argmax()) if model.arch.causal else 0
    kept = done.kept
    return Writes(corrupt, kept["z"], kept["mlp_out"], kept.get("mlp_post"), first)


def _map(writes: Writes, f: Any) -> Writes:
    neurons = None if writes.neurons is None else [f(x) for x in writes.neurons]
    return Writes(
        f(writes.embed), [f(x) for x in writes.z], [f(x) for x in writes.mlp_out], neurons
    )


def _means(batches: Sequence[Contrast], writes: Sequence[Writes]) -> list[Writes]:
    """Every activation replaced by its mean over all real tokens of all batches."""

    def mean(parts: Sequence[Tensor]) -> Tensor:
        real = [part[c.mask] for c, part in zip(batches, parts, strict=True)]
        return torch.cat(real).mean(0)

    layers = range(len(writes[0].z))
    embed = mean([w.embed for w in writes])
    z = [mean([w.z[i] for w in writes]) for i in layers]
    mlp = [mean([w.mlp_out[i] for w in writes]) for i in layers]
    some = [w.neurons for w in writes if w.neurons is not None]
    neurons = [mean([n[i] for n in some]) for i in layers] if some else None

    def spread(w: Writes) -> Writes:
        def like(values: list[Tensor], model_of: list[Tensor]) -> list[Tensor]:
            return [v.expand_as(x) for v, x in zip(values, model_of, strict=True)]

        own = None if neurons is None or w.neurons is None else like(neurons, w.neurons)
        return Writes(embed.expand_as(w.embed), like(z, w.z), like(mlp, w.mlp_out), own)

    return [spread(w) for w in writes]


def _neuron_mask(model: Model, circuit: Circuit) -> Bool[Tensor, "layer neuron"] | None:
    """Which neurons are in the circuit; ``None`` where it says nothing of neurons."""
    if not circuit.neurons:
        return None
    mask = torch.ones(model.arch.n_layers, model.arch.d_mlp or 0, dtype=torch.bool)
    for name, kept in circuit.neurons.items():
        layer = int(name.removeprefix("m"))
        mask[layer] = False
        wrong = [i for i in kept if not 0 <= i < mask.shape[1]]
        if wrong:
            raise PlanError(f"{name} has no neuron {wrong[0]}: 0 to {mask.shape[1] - 1} exist.")
        mask[layer, list(kept)] = True
    return mask
