"""Run a model with some edges of its graph cut: their sources are read from another run.

Every node is recomputed from its own input, which sums what it reads from this run over kept
edges and what it reads from the ablation run over cut ones (EAP-IG / MIB semantics). The mask may
be fractional and require a gradient.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.brief import brief
from interp.errors import PlanError
from interp.forward.blocks import attend, head_writes, mlp_write, norm, project
from interp.forward.hooks import hooked
from interp.forward.layer_calls import LayerCalls
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES


@brief
@dataclass(frozen=True)
class Writes:
    """What every source of a run writes from, for a batch of rows.

    Lists are by layer; `mlp_out` is after a post-norm, `neurons` only needed to ablate single ones.
    `first` is the first position at which these differ from the prompts' own run; `where` the
    tokens at which edges are cut, by default all.
    """

    embed: Float[Tensor, "row pos d_model"]
    z: list[Float[Tensor, "row pos width"]]
    mlp_out: list[Float[Tensor, "row pos d_model"]]
    neurons: list[Float[Tensor, "row pos d_mlp"]] | None = None
    first: int = 0
    where: Bool[Tensor, "row pos"] | None = None


def run_masked(
    model: Model,
    calls: LayerCalls,
    prompt: Int[Tensor, " row"],
    mask: Float[Tensor, "source destination"],
    ablated: Writes,
    neurons: Bool[Tensor, "layer neuron"] | None = None,
) -> Float[Tensor, "row pos d_model"]:
    """The residual stream after the last block, as the logits read it, with edges cut.

    `prompt` is the prompt of each row. Where `mask` is 1 an edge stays, where it is 0 its source is
    read from `ablated`, row by row; so are all neurons that are not in `neurons`.
    """
    state = _Stream(model, calls.embeddings[prompt.to(calls.embeddings.device)], mask, ablated)
    for layer in range(model.arch.n_layers):
        heads = _heads(model, calls.of_rows(layer, prompt), state, layer)
        own = None if neurons is None else neurons[layer]
        out = _mlp(model, state, layer, own) if state.graph.parallel else None
        state.add_heads(layer, *heads)
        out = _mlp(model, state, layer, own) if out is None else out
        state.add(model.parts(layer).mlp_scale, out, ablated.mlp_out[layer] - out)
    return state.read(slice(state.graph.logits, None))[0]


class _Stream:
    """The residual stream, and how far each source so far is from its ablated value."""

    def __init__(self, model: Model, embed: Tensor, mask: Tensor, ablated: Writes):
        self.model, self.graph, self.ablated = model, Graph.of(model.arch), ablated
        self.resid = embed
        self.cut = (1 - mask).to(embed)
        self.first = ablated.first
        changed = embed[:, self.first :]
        self.changes = changed.new_empty(0, *changed.shape)
        self.sums: dict[int, Tensor] = {}
        self._room = changed.new_empty(self.graph.n_sources, *changed.shape)
        self._note((ablated.embed - embed)[None])

    def _note(self, changes: Float[Tensor, "source row pos d_model"]) -> None:
        """Append in place where no gradient needs the earlier state, which spares copying it."""
        changes = changes[:, :, self.first :]
        where = self.ablated.where
        if where is not None:
            changes = changes * where[:, self.first :, None].to(changes)
        start, stop = len(self.changes), len(self.changes) + len(changes)
        if torch.is_grad_enabled():
            self.changes = torch.cat([self.changes, changes])
        else:
            self._room[start:stop] = changes
            self.changes = self._room[:stop]

    def add(self, times: float, write: Tensor, change: Float[Tensor, "row pos d_model"]) -> None:
        """A source that writes to the stream, so many times."""
        self.resid = self.resid + times * write
        self._note(times * change[None])

    def add_heads(
        self,
        layer: int,
        total: Float[Tensor, "row pos d_model"],
        changes: Float[Tensor, "head row pos d_model"],
    ) -> None:
        """A layer's heads, which write through their sum's post-norm."""
        parts = self.model.parts(layer)
        self.resid = self.resid + parts.attn_scale * norm(self.model, layer, parts.ln1_post)(total)
        self.sums[layer] = total
        self._note(changes if parts.ln1_post else parts.attn_scale * changes)

    def read(self, destinations: slice) -> Float[Tensor, "destination row pos d_model"]:
        """The residual stream as each destination sees it."""
        return self.resid + nn.functional.pad(self._moved(destinations), (0, 0, self.first, 0))

    def _moved(self, destinations: slice) -> Float[Tensor, "destination row some d_model"]:
        """What the cut edges change, from the first position that differs on."""
        changes = self.changes
        cut = self.cut[: len(changes), destinations]
        if all(block.parts.ln1_post is None for block in self.model.arch.layers):
            return _weighted(cut, changes)
        plain = torch.ones(len(changes), dtype=torch.bool, device=cut.device)
        moved = 0
        for layer, whole in self.sums.items():
            parts = self.model.parts(layer)
            if parts.ln1_post is None:
                continue
            own, total = self.graph.heads(layer), whole[:, self.first :]
            plain[own] = False
            post = norm(self.model, layer, parts.ln1_post)
            other = post(total + _weighted(cut[own], changes[own]))
            moved = moved + parts.attn_scale * (other - post(total))
        return moved + _weighted(cut[plain], changes[plain])


def _weighted(
    cut: Float[Tensor, "source destination"], changes: Float[Tensor, "source row pos d"]
) -> Float[Tensor, "destination row pos d"]:
    return (cut.T @ changes.flatten(1)).unflatten(1, changes.shape[1:])


def _heads(
    model: Model, kwargs: dict[str, Any], state: _Stream, layer: int
) -> tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "head row pos d_model"]]:
    """Attention's output from the heads' own inputs, and how far each head is from ablated."""
    read = state.read(state.graph.qkv(layer)).transpose(0, 1)  # (row, 3 head, pos, d_model)
    normed = norm(model, layer, model.parts(layer).ln1)(read)
    branches = normed.unflatten(1, (3, state.graph.n_heads))
    q, k, v = (project(model, part, layer, branches[:, i]) for i, part in enumerate("qkv"))
    z = attend(model, layer, kwargs, q, k, v)
    module, _ = model.point(SITES["z"], layer)
    return module(z), head_writes(model, layer, state.ablated.z[layer] - z).transpose(0, 1)


def _mlp(
    model: Model, state: _Stream, layer: int, own: Bool[Tensor, " neuron"] | None
) -> Float[Tensor, "row pos d_model"]:
    at = state.graph.mlp_in(layer)
    resid = state.read(slice(at, at + 1))[0]
    if own is None:
        return mlp_write(model, layer, resid)
    if state.ablated.neurons is None:
        raise PlanError(f"{model.name} has no site 'mlp_post', so no single neuron can be ablated.")
    other, where = state.ablated.neurons[layer], state.ablated.where
    keep = own.to(resid.device)
    keep = keep if where is None else keep | ~where[..., None].to(resid.device)

    def ablate(neurons: Tensor) -> None:
        neurons.copy_(torch.where(keep, neurons, other))

    with hooked(model, [(SITES["mlp_post"], layer, ablate)]):
        return mlp_write(model, layer, resid)
