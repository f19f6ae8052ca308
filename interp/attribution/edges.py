"""Edge attribution: how much the metric owes to each edge of the graph, to first order.

    score(u -> v) = sum over tokens of (a_u clean - a_u corrupt) . multiplier at v's input

Positive = the edge supports the answer. Nothing of the size edges x d_model is ever held: the
multipliers of one layer's queries, keys, values and MLP are pulled back through its norm and
contracted with all earlier writes at once, a few tokens at a time.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.attribution.estimators import Estimator, Linearised, linearise
from interp.attribution.jacobians import pull_back, push_forward
from interp.attribution.runs import gradients
from interp.forward.blocks import head_writes, norm, weight_of
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

KEPT = ("resid_pre", "q", "k", "v", "z", "mlp_in", "mlp_out")
FLOATS_AT_ONCE = 2**25
"""Most numbers of one stack of writes (128 MB in fp32)."""


def edge_scores(
    model: Model, contrast: Contrast, estimator: Estimator
) -> Iterator[Float[Tensor, "source destination"]]:
    """Scores of all edges, pair by pair.

    Args:
        model: the model.
        contrast: a micro-batch of pairs.
        estimator: from `ESTIMATORS`.

    Yields:
        One matrix a pair on the CPU, in the metric's unit; 0 where there is no edge.

    Source: Syed et al., arXiv 2310.10348; Hanna et al., arXiv 2403.17806; the pull-back is exact
    algebra, since all branches of a layer read the same residual stream.
    """
    yield from linearised_scores(
        model, contrast, linearise(model, contrast, estimator, kept(model))
    )


def kept(model: Model) -> list[str]:
    """The sites whose activations the edges of a model are scored from."""
    return [*KEPT, *([] if model.arch.parts.parallel else ["resid_mid"])]


def linearised_scores(
    model: Model, contrast: Contrast, at: Linearised
) -> Iterator[Float[Tensor, "source destination"]]:
    """As `edge_scores`, from runs already made."""
    graph = Graph.of(model.arch)
    multipliers = _multipliers(model, at)
    n_tokens = max(1, FLOATS_AT_ONCE // (graph.n_sources * graph.d_model))
    for pair in range(len(contrast)):
        scores = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.float64)
        real = contrast.mask[pair].nonzero()[:, 0]
        for tokens in real.split(n_tokens):
            here = _Tokens(model, at, multipliers, pair, tokens)
            scores += _contract(graph, here)
        yield scores


def _multipliers(model: Model, at: Linearised) -> dict[str, list[Tensor]]:
    """Multipliers at every query, key and value, at each MLP's input, and at the final stream.

    Keys and values are shared by a group of query heads; letting one head of each group at a
    time pass the multiplier on tells their parts apart.

    Returns:
        ``q``, ``k``, ``v``: (row, pos, head, d_head) of each layer; ``mlp_in``: of each layer;
        ``final``: one tensor.
    """
    here, a = at.run.kept, model.arch
    flat = [*here["z"], *here["mlp_in"], at.run.final]
    filled = gradients(at.total, flat, retain_graph=True)
    out: dict[str, list[Tensor]] = {"q": [], "k": [], "v": []}
    group = a.n_heads // a.n_kv_heads
    for layer in range(a.n_layers):
        z, to_z = here["z"][layer], filled[layer]
        inputs = [here[part][layer] for part in "qkv"]
        passed: list[list[Tensor]] = [[], [], []]
        for member in range(group):
            one = torch.zeros_like(to_z).unflatten(-1, (a.n_kv_heads, group, a.d_head))
            one[..., member, :] = to_z.unflatten(-1, one.shape[-3:])[..., member, :]
            back = gradients(z, inputs, one.view_as(z), retain_graph=True)
            for part, g in zip(passed, back, strict=True):
                part.append(g.unflatten(-1, (-1, a.d_head)))
        out["q"].append(torch.stack(passed[0]).sum(0))
        for name, part in zip("kv", passed[1:], strict=True):
            out[name].append(torch.stack(part, -2).flatten(-3, -2))
    out["mlp_in"] = filled[a.n_layers : 2 * a.n_layers]
    out["final"] = [filled[-1]]
    return out


class _Tokens:
    """A few tokens of one pair: their writes, and the multipliers they meet."""

    def __init__(
        self,
        model: Model,
        at: Linearised,
        multipliers: dict[str, list[Tensor]],
        pair: int,
        tokens: Tensor,
    ):
        self.model, self.at, self.multipliers = model, at, multipliers
        self.pair, self.tokens = pair, tokens
        n_pairs = len(at.clean.pair)
        self.rows = torch.arange(at.n_points) * n_pairs + pair

    def of_run(self, x: Tensor) -> Float[Tensor, "point token ..."]:
        """These tokens in every point of the differentiated run."""
        return x.detach()[self.rows][:, self.tokens]

    def change(self, site: str, layer: int) -> Float[Tensor, "token width"]:
        """Clean minus corrupt at a site."""
        clean, corrupt = (r.kept[site][layer] for r in (self.at.clean, self.at.corrupt))
        return clean[self.pair, self.tokens] - corrupt[self.pair, self.tokens]

    def writes(self) -> Float[Tensor, "source token d_model"]:
        """Change of what every source writes to the residual stream."""
        parts = [self.change("resid_pre", 0)[None]]
        for layer in range(self.model.arch.n_layers):
            by_head = head_writes(self.model, layer, self.change("z", layer)[None])[0]
            path = self.model.arch.parts.ln1_post
            if path is not None:
                by_head = self._through_post_norm(layer, by_head)
            parts += [by_head, self.change("mlp_out", layer)[None]]
        return _wide(torch.cat(parts))

    def _through_post_norm(self, layer: int, by_head: Tensor) -> Tensor:
        """Heads' shares of the change of a post-norm's output, as the rule linearises norms."""
        post = norm(self.model, layer, self.model.arch.parts.ln1_post)
        module, _ = self.model.point(SITES["z"], layer)
        clean, corrupt = (
            module(r.kept["z"][layer][self.pair, self.tokens])
            for r in (self.at.clean, self.at.corrupt)
        )
        return push_forward(
            self.model, post, clean, self.at.rule.other_end(clean, corrupt), by_head
        )

    def reads(self, layer: int) -> Float[Tensor, "token branch d_model"]:
        """Multipliers at the residual inputs of a layer's queries, keys and values."""
        branches = []
        a = self.model.arch
        for part in "qkv":
            weight = weight_of(self.model, part, layer).unflatten(0, (-1, a.d_head))
            if part != "q":
                weight = weight.repeat_interleave(a.n_heads // a.n_kv_heads, 0)
            g = self.of_run(self.multipliers[part][layer])
            branches.append(torch.einsum("sthk,hkd->sthd", g, weight))
        return self._before_norm("resid_pre", layer, a.parts.ln1, torch.cat(branches, 2))

    def mlp_read(self, layer: int) -> Float[Tensor, "token 1 d_model"]:
        """Multiplier at the residual input of a layer's MLP."""
        parts = self.model.arch.parts
        site = "resid_pre" if parts.parallel else "resid_mid"
        to_input = self.of_run(self.multipliers["mlp_in"][layer])[:, :, None]
        return self._before_norm(site, layer, parts.ln2, to_input)

    def _before_norm(self, site: str, layer: int, path: str | None, to_output: Tensor) -> Tensor:
        x = self.of_run(self.at.run.kept[site][layer])
        corrupt = self.at.corrupt.kept[site][layer][self.pair, self.tokens]
        return pull_back(
            self.model, norm(self.model, layer, path), x, corrupt, to_output, self.at.rule
        )


def _contract(graph: Graph, here: _Tokens) -> Float[Tensor, "source destination"]:
    with torch.no_grad():
        writes = here.writes().flatten(1)  # (source, token d_model)
    scores = writes.new_zeros(graph.n_sources, graph.n_destinations)
    for layer in range(graph.n_layers):
        seen = graph.before_attention(layer)
        scores[:seen, graph.qkv(layer)] = writes[:seen] @ _columns(here.reads(layer))
        seen = graph.before_mlp(layer)
        scores[:seen, graph.mlp_in(layer), None] = writes[:seen] @ _columns(here.mlp_read(layer))
    final = _wide(here.of_run(here.multipliers["final"][0]).sum(0))[:, None]
    scores[:, graph.logits, None] = writes @ _columns(final)
    return scores.double().cpu()


def _columns(multiplier: Float[Tensor, "token branch d"]) -> Float[Tensor, "token_d branch"]:
    return _wide(multiplier.transpose(1, 2).flatten(0, 1))


def _wide(x: Tensor) -> Tensor:
    """At least fp32, in which sums over tokens and features are taken."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
