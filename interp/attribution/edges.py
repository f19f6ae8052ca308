"""Edge attribution: how much the metric owes to each edge of the graph, to first order.

    score(u -> v) = sum over tokens of (a_u clean - a_u corrupt) . multiplier at v's input

Positive = the edge supports the answer. Nothing of the size edges x d_model is ever held: the
multipliers of one layer's queries, keys, values and MLP are pulled back through its norm and
contracted with all earlier writes at once, a few tokens at a time.
"""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, gradients, run
from interp.attribution.estimators import (
    ESTIMATORS,
    IG_STEPS,
    Linearised,
    linearise,
    pull_back,
    push_forward,
)
from interp.forward.blocks import head_writes, norm, weight_of
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

KEPT = ("resid_pre", "q", "k", "v", "z", "mlp_in", "mlp_out")
FLOATS_AT_ONCE = 2**25
"""Most numbers of one stack of writes (128 MB in fp32)."""

EdgeMatrices = Iterator[Float[Tensor, "source destination"]]
"""One matrix per pair on the CPU, in the metric's unit; 0 where there is no edge."""


def kept(model: Model) -> list[str]:
    """The sites whose activations the edges of a model are scored from."""
    return [*KEPT, *([] if model.parts(0).parallel else ["resid_mid"])]


def linearised_scores(model: Model, contrast: Contrast, at: Linearised) -> EdgeMatrices:
    """Scores of all edges, pair by pair, from runs that `linearise` made with `kept` sites.

    The pull-back is exact algebra, since all branches of a layer read the same residual stream.
    Source: arXiv 2310.10348 and 2403.17806.
    """
    graph = Graph.of(model.arch)
    multipliers = _multipliers(model, at)
    n_tokens = max(1, FLOATS_AT_ONCE // (graph.n_sources * graph.d_model))
    for pair in range(len(contrast)):
        scores = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.float64)
        real = contrast.paired[pair].nonzero()[:, 0]
        for tokens in real.split(n_tokens):
            scores += _Tokens(model, at, multipliers, pair, tokens).contracted(graph)
        yield scores


def ig_activation_scores(model: Model, contrast: Contrast, steps: int = IG_STEPS) -> EdgeMatrices:
    """EAP-IG over activations: one layer's sources at a time move from corrupt to clean.

    Slopes are averaged over all (2 L + 1) S runs, as in the published code (arXiv 2403.17806).
    """
    graph = Graph.of(model.arch)
    plain = linearise(model, contrast, ESTIMATORS["eap"], kept(model))
    total = torch.zeros(len(contrast), graph.n_sources, graph.n_destinations, dtype=torch.float64)
    sources = [(site, layer) for layer in range(graph.n_layers) for site in ("z", "mlp_out")]
    for site, layer in [("resid_pre", 0), *sources]:
        at = _interpolated(model, contrast, plain, site, layer, steps)
        total += torch.stack(list(linearised_scores(model, contrast, at)))
    yield from total / (2 * graph.n_layers + 1)


def _interpolated(
    model: Model, contrast: Contrast, plain: Linearised, site: str, layer: int, steps: int
) -> Linearised:
    """The clean run with one layer's sources at corrupt + s/S (clean - corrupt), s = 1 … S."""
    clean, corrupt = (r.kept[site][layer] for r in (plain.clean, plain.corrupt))
    points = torch.arange(1, steps + 1).to(clean) / steps
    between = torch.lerp(corrupt, clean, points[:, None, None, None]).flatten(0, 1)
    between.requires_grad_(True)
    given, start, rows = None, between, contrast.pair.repeat(steps)
    if site != "resid_pre":
        given = site, layer, between
        start = contrast.calls.embeddings[contrast.clean].repeat(steps, 1, 1).requires_grad_(True)
    with torch.enable_grad():
        done = run(model, contrast, start, 2 * rows, kept(model), given)
        total = contrast.read(done.final, rows).sum() / steps
    return dataclasses.replace(plain, run=done, total=total, n_points=steps)


def _multipliers(model: Model, at: Linearised) -> dict[str, list[Tensor]]:
    """Multipliers at every query, key and value, at each MLP's input, and at the final stream.

    Keys and values are shared by a group of query heads; letting one head of each group at a
    time pass the multiplier on tells their parts apart: (row, pos, head, d_head) of each layer.
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
        self, model: Model, at: Linearised, to: dict[str, list[Tensor]], pair: int, tokens: Tensor
    ):
        self.model, self.at, self.to = model, at, to
        self.pair, self.tokens = pair, tokens
        self.rows = torch.arange(at.n_points) * len(at.clean.final) + pair

    def contracted(self, graph: Graph) -> Float[Tensor, "source destination"]:
        """These tokens' part of the scores."""
        with torch.no_grad():
            writes = self.writes().flatten(1)  # (source, token d_model)
        scores = writes.new_zeros(graph.n_sources, graph.n_destinations)
        for layer in range(graph.n_layers):
            seen = graph.before_attention(layer)
            scores[:seen, graph.qkv(layer)] = writes[:seen] @ _columns(self.reads(layer))
            seen = graph.before_mlp(layer)
            read = _columns(self.mlp_read(layer))
            scores[:seen, graph.mlp_in(layer), None] = writes[:seen] @ read
        final = _wide(self.of_run(self.to["final"][0]).sum(0))[:, None]
        scores[:, graph.logits, None] = writes @ _columns(final)
        return scores.double().cpu()

    def of_run(self, x: Tensor) -> Float[Tensor, "point token ..."]:
        """These tokens in every point of the differentiated run."""
        return x.detach()[self.rows][:, self.tokens]

    def plain(self, site: str, layer: int) -> tuple[Tensor, Tensor]:
        """A site in the clean and in the corrupt run: (token, width) each."""
        clean, corrupt = (r.kept[site][layer] for r in (self.at.clean, self.at.corrupt))
        return clean[self.pair, self.tokens], corrupt[self.pair, self.tokens]

    def writes(self) -> Float[Tensor, "source token d_model"]:
        """Change, clean minus corrupt, of what every source writes to the residual stream."""
        clean, corrupt = self.plain("resid_pre", 0)
        parts = [(clean - corrupt)[None]]
        for layer in range(self.model.arch.n_layers):
            z, mlp = self.plain("z", layer), self.plain("mlp_out", layer)
            by_head = head_writes(self.model, layer, (z[0] - z[1])[None])[0]
            own = self.model.parts(layer)
            path = own.ln1_post
            if path is not None:  # heads' shares of its change, as the rule linearises norms
                module, _ = self.model.point(SITES["z"], layer)
                clean, corrupt = map(module, z)
                other = self.at.rule.other_end(clean, corrupt)
                post = norm(self.model, layer, path)
                by_head = push_forward(self.model, post, clean, other, by_head)
            parts += [own.attn_scale * by_head, own.mlp_scale * (mlp[0] - mlp[1])[None]]
        return _wide(torch.cat(parts))

    def reads(self, layer: int) -> Float[Tensor, "token branch d_model"]:
        """Multipliers at the residual inputs of a layer's queries, keys and values."""
        branches, a = [], self.model.arch
        for part in "qkv":
            weight = weight_of(self.model, part, layer).unflatten(0, (-1, a.d_head))
            if part != "q":
                weight = weight.repeat_interleave(a.n_heads // a.n_kv_heads, 0)
            g = self.of_run(self.to[part][layer])
            branches.append(torch.einsum("sthk,hkd->sthd", g, weight))
        return self._before_norm(
            "resid_pre", layer, self.model.parts(layer).ln1, torch.cat(branches, 2)
        )

    def mlp_read(self, layer: int) -> Float[Tensor, "token 1 d_model"]:
        """Multiplier at the residual input of a layer's MLP."""
        parts = self.model.parts(layer)
        to_input = self.of_run(self.to["mlp_in"][layer])[:, :, None]
        site = "resid_pre" if parts.parallel else "resid_mid"
        return self._before_norm(site, layer, parts.ln2, to_input)

    def _before_norm(self, site: str, layer: int, path: str | None, to_output: Tensor) -> Tensor:
        x, end = self.of_run(self.at.run.kept[site][layer]), self.at.end.kept[site][layer]
        function = norm(self.model, layer, path)
        at = end[self.pair, self.tokens]
        return pull_back(self.model, function, x, at, to_output, self.at.rule)


def _columns(multiplier: Float[Tensor, "token branch d"]) -> Float[Tensor, "token_d branch"]:
    return _wide(multiplier.transpose(1, 2).flatten(0, 1))


def _wide(x: Tensor) -> Tensor:
    """At least fp32, in which sums over tokens and features are taken."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
