"""Attributions of every node of a prompt, by one backward pass; and what each reader reads.

    attribution of a node = (activation - activation at the other end) . multiplier

The other end is the corrupt prompt, and multipliers are chords' (``eap-dg``), or it is zero, and
they are RelP's. A reader's multiplier is then pulled back to the residual stream at each position
that it reads, so that any write there, times it, is an edge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.explanation.target_metric import ExplainedPrompt
from interp.attribution.contrast import RunValues, gradients
from interp.attribution.estimators import ESTIMATORS, Linearised, linearise, pull_back, push_forward
from interp.brief import brief
from interp.forward.blocks import head_writes, norm, weight_of
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

FLOATS_AT_ONCE = 2**24
"""Most numbers of one stack of multipliers (64 MB in fp32)."""

Place = tuple[int, int]
"""(head or neuron, position)."""


@brief
@dataclass(frozen=True)
class LinearRun:
    """A prompt linearised: changes and multipliers of all activations, on its positions.

    Attributes:
        low: the other end of every change: of a prompt alone zero, else the corrupt prompt's
            activations (of prompts of unequal length those with the partners' embeddings).
        value, low_value: the metric of the prompt and of the corrupt one (0 where there is none).
        multipliers: by site, those of each layer that has it.
    """

    model: Model
    prompt: ExplainedPrompt
    at: Linearised
    value: float
    low_value: float
    multipliers: dict[str, list[Float[Tensor, "pos width"]]]
    final: list[Float[Tensor, "pos d_model"]]

    @classmethod
    def of(cls, model: Model, prompt: ExplainedPrompt) -> "LinearRun":
        """Run the prompt and take every multiplier; `PlanError` where a model has no graph."""
        Graph.of(model.arch)
        taken: list[Tensor] = []

        def read(resid: Tensor, row: Tensor) -> Tensor:
            taken.append(prompt.parts(resid, row))
            return taken[-1].sum(1)

        sites = ["resid_pre", "q", "k", "v", "z", "mlp_in", "mlp_post", "mlp_out"]
        sites += [] if model.parts(0).parallel else ["resid_mid"]
        method = ESTIMATORS["eap-dg" if prompt.paired else "relp"]
        at = linearise(model, replace(prompt.contrast, read=read), method, sites)
        own, kept = prompt.columns, at.run.kept
        wanted = ("z", "mlp_in", "mlp_post", "mlp_out")
        flat = [x for site in wanted for x in kept[site]] + [kept["resid_pre"][0]]
        found = iter(gradients(at.total, flat, retain_graph=True))
        multipliers = {
            site: [_wide(next(found)[0, own.to(x.device)]) for x in kept[site]] for site in wanted
        }
        multipliers["embedding"] = [_wide(next(found)[0, own.to(flat[-1].device)])]
        finals = [
            _wide(gradients(part, [at.run.final], retain_graph=True)[0][0, own.to(part.device)])
            for part in taken[0][0]
        ]
        value, low = (float(x[0]) for x in at.metric)
        if prompt.paired:  # of unequal prompts the last one is that of the partners' embeddings
            low = float(taken[-1].sum())
        return cls(model, prompt, at, value, low if prompt.paired else 0.0, multipliers, finals)

    # --- activations ---

    @property
    def n_pos(self) -> int:
        """How many positions there are."""
        return len(self.prompt.columns)

    @property
    def total(self) -> float:
        """What is attributed."""
        return self.value - self.low_value

    def high(self, site: str, place: int) -> Float[Tensor, "pos width"]:
        """An activation of the prompt; `place` counts the layers that have the site."""
        return self._own(self.at.clean, site, place)

    def low(self, site: str, place: int) -> Float[Tensor, "pos width"]:
        """The other end of its change."""
        if self.prompt.paired:
            return self._own(self.at.end, site, place)
        return torch.zeros_like(self.high(site, place))

    def change(self, site: str, place: int) -> Float[Tensor, "pos width"]:
        """How far it is from the other end."""
        return self.high(site, place) - self.low(site, place)

    def _own(self, values: RunValues, site: str, place: int) -> Tensor:
        x = values.kept[site][place]
        return _wide(x[0, self.prompt.columns.to(x.device)])

    @cached_property
    def neurons(self) -> dict[int, int]:
        """Layers whose neurons are nodes, each with its place among those with ``mlp_post``."""
        return {layer: i for i, layer in enumerate(self.model.arch.layers_with("mlp_post"))}

    # --- attributions ---

    def embeddings(self) -> Float[Tensor, " pos"]:
        """Attribution of each position's embedding."""
        return (self.change("resid_pre", 0) * self.multipliers["embedding"][0]).sum(-1)

    def heads(self, layer: int) -> Float[Tensor, "pos head"]:
        """Attribution of what each head of a layer writes at each position."""
        score = self.change("z", layer) * self.multipliers["z"][layer]
        return score.unflatten(-1, (self.model.arch.layers[layer].n_heads, -1)).sum(-1)

    def of_neurons(self, layer: int) -> Float[Tensor, "pos neuron"]:
        """Attribution of each neuron of a layer in `neurons`, at each position."""
        place = self.neurons[layer]
        return self.change("mlp_post", place) * self.multipliers["mlp_post"][place]

    def mlp(self, layer: int) -> Float[Tensor, " pos"]:
        """Attribution of a layer's whole MLP, without its output bias for a prompt alone."""
        if not self.prompt.paired and layer in self.neurons:
            return self.of_neurons(layer).sum(-1)
        return (self.change("mlp_out", layer) * self.multipliers["mlp_out"][layer]).sum(-1)

    # --- what is written ---

    def head_writes(self, layer: int) -> Float[Tensor, "head pos d_model"]:
        """Each head's share of what attention's output adds to the stream."""
        by_head = head_writes(self.model, layer, self.change("z", layer)[None].to(self._like))[0]
        parts = self.model.parts(layer)
        return parts.attn_scale * self._after(layer, "z", layer, parts.ln1_post, by_head)

    def neuron_writes(self, layer: int, chosen: Sequence[Place]) -> Float[Tensor, "chosen d_model"]:
        """What neurons of a layer add to the stream at their positions."""
        matrix = weight_of(self.model, "mlp_post", layer)
        change = self.change("mlp_post", self.neurons[layer]).to(self._like)
        units, pos = (torch.tensor(x) for x in zip(*chosen, strict=True))
        plain = change[pos, units, None] * matrix[:, units].T
        parts = self.model.parts(layer)
        if parts.ln2_post is None:
            return _wide(parts.mlp_scale * plain)
        spread, rank = _by_position(plain, pos, self.n_pos)
        after = self._after(layer, "mlp_post", self.neurons[layer], parts.ln2_post, spread)
        return parts.mlp_scale * after[rank, pos]

    def mlp_write(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What the whole MLP adds to the stream, without its output bias for a prompt alone."""
        parts = self.model.parts(layer)
        if self.prompt.paired or layer not in self.neurons:
            return parts.mlp_scale * self.change("mlp_out", layer)
        change = self.change("mlp_post", self.neurons[layer]).to(self._like)
        plain = (change @ weight_of(self.model, "mlp_post", layer).T)[None]
        after = self._after(layer, "mlp_post", self.neurons[layer], parts.ln2_post, plain)
        return parts.mlp_scale * after[0]

    def _after(
        self, layer: int, site: str, place: int, path: str | None, writes: Tensor
    ) -> Float[Tensor, "branch pos d_model"]:
        """Shares of writes in the change of a post-norm's output, as the rule linearises it."""
        if path is None:
            return _wide(writes)
        module, _ = self.model.point(SITES[site], layer)
        with torch.no_grad():
            clean = module(self.high(site, place).to(self._like))
            low = module(self.low(site, place).to(self._like)) if self.prompt.paired else -clean
        other = self.at.rule.other_end(clean, low)
        return _wide(push_forward(self.model, norm(self.model, layer, path), clean, other, writes))

    @property
    def _like(self) -> Tensor:
        return self.at.clean.final

    # --- what is read ---

    def head_reads(
        self, layer: int, chosen: Sequence[Place]
    ) -> Iterator[tuple[list[int], Float[Tensor, "chosen branch pos d_model"]]]:
        """Multipliers of chosen heads (by destination) at the stream, by q, k and v.

        In parts; each comes with the numbers of its heads in `chosen`.
        """
        weights = [weight_of(self.model, part, layer) for part in "qkv"]
        width = 3 * self.n_pos * self.model.arch.d_model
        for some in torch.arange(len(chosen)).split(max(1, FLOATS_AT_ONCE // width)):
            branches = [
                part @ weight
                for i in some.tolist()
                for part, weight in zip(self._through(layer, chosen[i]), weights, strict=True)
            ]
            to_output = torch.stack(branches, 1)  # (pos, branch, d_model)
            back = self.before_norm("resid_pre", layer, self.model.parts(layer).ln1, to_output)
            yield some.tolist(), back.transpose(0, 1).unflatten(0, (-1, 3))

    def _through(self, layer: int, chosen: Place) -> list[Float[Tensor, "pos width"]]:
        """Multipliers at all queries, keys and values of a layer, from one head at one position.

        Those of other heads are 0, but where a norm is over all of them (OLMo 2).
        """
        kept, columns, (head, pos) = self.at.run.kept, self.prompt.columns, chosen
        z, inputs = kept["z"][layer], [kept[part][layer] for part in "qkv"]
        one, d_head = torch.zeros_like(z), self.model.arch.layers[layer].d_head
        own = slice(head * d_head, (head + 1) * d_head)
        one[0, columns[pos], own] = self.multipliers["z"][layer][pos, own].to(z)
        return [g[0, columns.to(g.device)] for g in gradients(z, inputs, one, retain_graph=True)]

    def neuron_reads(self, layer: int, chosen: Sequence[Place]) -> Float[Tensor, "chosen d_model"]:
        """Multipliers of chosen neurons at the stream at their positions.

        One neuron per position shares a pass through the MLP, which mixes no positions.
        """
        place, kept = self.neurons[layer], self.at.run.kept
        post, mlp_in = kept["mlp_post"][place], kept["mlp_in"][layer]
        to_post, columns = self.multipliers["mlp_post"][place], self.prompt.columns
        units, pos = (torch.tensor(x) for x in zip(*chosen, strict=True))
        rank = _rank(pos)
        to_input = torch.zeros(self.n_pos, int(rank.max()) + 1, mlp_in.shape[-1]).to(to_post)
        for turn in range(to_input.shape[1]):
            now = rank == turn
            one = torch.zeros_like(post)
            one[0, columns[pos[now]], units[now]] = to_post[pos[now], units[now]].to(one)
            (back,) = gradients(post, [mlp_in], one, retain_graph=True)
            to_input[:, turn] = back[0, columns.to(back.device)]
        return self._before_mlp(layer, to_input)[pos, rank]

    def mlp_read(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The multiplier of a whole MLP at the stream, at each position."""
        return self._before_mlp(layer, self.multipliers["mlp_in"][layer][:, None])[:, 0]

    def _before_mlp(self, layer: int, to_output: Tensor) -> Tensor:
        parts = self.model.parts(layer)
        site = "resid_pre" if parts.parallel else "resid_mid"
        return self.before_norm(site, layer, parts.ln2, to_output)

    def before_norm(
        self, site: str, layer: int, path: str | None, to_output: Float[Tensor, "pos branch d"]
    ) -> Float[Tensor, "pos branch d"]:
        """Multipliers at the stream, from those after one of a layer's norms."""
        x, end = (self._own(of, site, layer).to(self._like) for of in (self.at.clean, self.at.end))
        function, to = norm(self.model, layer, path), to_output.to(self._like)
        return _wide(pull_back(self.model, function, x[None], end, to[None], self.at.rule))


def _rank(pos: Tensor) -> Tensor:
    """How many of the same position come before each."""
    return torch.tensor(pd.Series(pos.numpy()).groupby(pos.numpy()).cumcount().to_numpy())


def _by_position(
    values: Float[Tensor, "chosen d"], pos: Tensor, n_pos: int
) -> tuple[Float[Tensor, "rank pos d"], Tensor]:
    """Vectors at their positions, several of one position behind each other."""
    rank = _rank(pos)
    out = values.new_zeros(int(rank.max()) + 1, n_pos, values.shape[-1])
    out[rank, pos] = values
    return out, rank


def _wide(x: Tensor) -> Tensor:
    """Without its graph, at least in fp32, in which sums are taken."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
