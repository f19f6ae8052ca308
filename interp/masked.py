"""Run a model with some edges of its graph cut: their sources are read from another run.

Every node is recomputed from its own input, which sums what it reads from this run over kept
edges and what it reads from the ablation run over cut ones (EAP-IG / MIB semantics). The mask may
be fractional and require a gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.blocks import attend, head_writes, mlp_write, norm, project
from interp.calls import LayerCalls
from interp.graph import Graph
from interp.model import Model
from interp.sites import SITES


@dataclass(frozen=True)
class Writes:
    """What every source of a run writes from, for a batch of rows.

    Attributes:
        embed: the input node.
        z: of each layer, all heads side by side.
        mlp_out: of each layer, after a post-norm.
    """

    embed: Float[Tensor, "row pos d_model"]
    z: list[Float[Tensor, "row pos width"]]
    mlp_out: list[Float[Tensor, "row pos d_model"]]


def run_masked(
    model: Model,
    calls: LayerCalls,
    prompt: Tensor,
    mask: Float[Tensor, "source destination"],
    ablated: Writes,
) -> Float[Tensor, "row pos d_model"]:
    """The residual stream after the last block, as the logits read it, with edges cut.

    Args:
        model: the model.
        calls: recorded prompts.
        prompt: the prompt of each row.
        mask: 1 = the edge is kept, 0 = its source is read from `ablated`.
        ablated: the other run's writes, row by row.
    """
    return _Masked(model, calls, prompt, mask, ablated).run()


class _Masked:
    """The state of one masked run: the residual stream, and how far each source is from ablated."""

    def __init__(
        self, model: Model, calls: LayerCalls, prompt: Tensor, mask: Tensor, ablated: Writes
    ):
        self.model, self.calls, self.prompt, self.ablated = model, calls, prompt, ablated
        self.graph = Graph.of(model.arch)
        self.resid = calls.embeddings[prompt.to(calls.embeddings.device)]
        self.cut = (1 - mask).to(self.resid)
        # In order of the graph's sources; heads before their post-norm.
        self.changes = [(ablated.embed - self.resid)[None]]
        self.sums: dict[int, Tensor] = {}

    def run(self) -> Float[Tensor, "row pos d_model"]:
        for layer in range(self.graph.n_layers):
            before = self.resid
            self._attention(layer)
            if not self.graph.parallel:
                before = None
            self._mlp(layer, before)
        return self._read(slice(self.graph.logits, self.graph.logits + 1), self.resid)[0]

    def _attention(self, layer: int) -> None:
        model, graph, parts = self.model, self.graph, self.model.arch.parts
        read = self._read(graph.qkv(layer), self.resid).transpose(0, 1)  # (row, 3 head, pos, d)
        normed = norm(model, layer, parts.ln1)(read)
        branches = normed.unflatten(1, (3, graph.n_heads))
        q, k, v = (project(model, part, layer, branches[:, i]) for i, part in enumerate("qkv"))
        z = attend(model, layer, self.calls.of_rows(layer, self.prompt), q, k, v)
        module, _ = model.point(SITES["z"], layer)
        total = module(z)
        self.sums[layer] = total
        self.pending = head_writes(model, layer, self.ablated.z[layer] - z).transpose(0, 1)
        self.written = norm(model, layer, parts.ln1_post)(total)
        if not graph.parallel:
            self._add_heads()

    def _add_heads(self) -> None:
        self.resid = self.resid + self.written
        self.changes.append(self.pending)

    def _mlp(self, layer: int, before: Tensor | None) -> None:
        at = self.graph.mlp_in(layer)
        read = self._read(slice(at, at + 1), self.resid if before is None else before)[0]
        out = mlp_write(self.model, layer, read)
        if before is not None:
            self._add_heads()
        self.resid = self.resid + out
        self.changes.append((self.ablated.mlp_out[layer] - out)[None])

    def _read(
        self, destinations: slice, resid: Tensor
    ) -> Float[Tensor, "destination row pos d_model"]:
        """The residual stream as each destination sees it."""
        changes = torch.cat(self.changes)
        cut = self.cut[: len(changes), destinations]
        if self.model.arch.parts.ln1_post is None:
            return resid + torch.einsum("sv,srpd->vrpd", cut, changes)
        heads = torch.zeros(len(changes), dtype=torch.bool, device=cut.device)
        total = resid.expand(cut.shape[1], *resid.shape)
        for layer, summed in self.sums.items():
            own = self.graph.heads(layer)
            if own.stop > len(changes):
                continue
            heads[own] = True
            moved = torch.einsum("sv,srpd->vrpd", cut[own], changes[own])
            post = norm(self.model, layer, self.model.arch.parts.ln1_post)
            total = total + post(summed + moved) - post(summed)
        rest = torch.einsum("sv,srpd->vrpd", cut[~heads], changes[~heads])
        return total + rest
