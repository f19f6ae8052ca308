"""`Trace`: everything in one prompt's run that query and value scores read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.estimators import fixed_scale_transpose, with_fixed_scale
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.argument_axes import BlockState
from interp.forward.blocks import last_attention, norm, weight_of
from interp.forward.hooks import hooked
from interp.forward.layer_calls import record_layer_calls
from interp.model.model import Model
from interp.model.sites import SITES

Rows = Float[Tensor, "row d_model"]
SITES_READ = ("resid_pre", "attn_out", "mlp_out", "mlp_post", "v", "z", "resid_post")
TOLERANCE = 1e-2
"""Relative error at which a model's blocks do not add up as the method assumes (16-bit: 4e-3)."""


@brief
@dataclass(frozen=True)
class Trace:
    """One prompt's run; the last token is where the answer is predicted.

    `out`, `key` and `before` are linear maps of this run, every norm's scale held fixed. They take
    the input of a sublayer's output projection: ``"mlp_post"`` or ``"z"``.

    Attributes:
        pre: the residual stream before each layer.
        attn, mlp: what attention and FFN add to it, after a post-norm.
        neurons: coefficients of the FFN neurons: the down-projection's input.
        values: of each key-value head.
        pattern: weight of each token's value in a head's output at the last token.
        final: the residual stream after the last layer, at the last token.
    """

    model: Model
    pre: Float[Tensor, "layer pos d_model"]
    attn: Float[Tensor, "layer pos d_model"]
    mlp: Float[Tensor, "layer pos d_model"]
    neurons: Float[Tensor, "layer pos d_mlp"]
    values: Float[Tensor, "layer pos kv_width"]
    pattern: Float[Tensor, "layer head pos"]
    final: Float[Tensor, " d_model"]

    @property
    def n_pos(self) -> int:
        """Number of tokens in the prompt."""
        return self.pre.shape[1]

    def mid(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The residual stream after attention, the base of FFN scores; so in parallel blocks."""
        return self.pre[layer] + self.attn[layer]

    def read_by_mlp(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The residual stream that the FFN reads: before attention, in a parallel block."""
        return self.pre[layer] if self.model.parts(layer).parallel else self.mid(layer)

    def weighted_values(self, layer: int) -> Float[Tensor, "head pos d_head"]:
        """Coefficients of the attention neurons: weight x value, by head and token."""
        a = self.model.arch
        by_head = self.values[layer].unflatten(-1, (a.n_kv_heads, a.d_head)).transpose(0, 1)
        by_head = by_head.repeat_interleave(a.n_heads // a.n_kv_heads, 0)
        return self.pattern[layer][..., None] * by_head

    def out(self, site: str, layer: int, rows: Rows) -> Rows:
        """What vectors before a sublayer's post-norm add to the stream at the last token."""
        path = self._post_norm(site, layer)
        if path is None:
            return rows
        whole, to = self._whole(site, layer, slice(-1, None)), norm(self.model, layer, path)
        return with_fixed_scale(self.model, to, whole[None], rows[:, None])[:, 0]

    def key(self, site: str, layer: int, keys: Rows, pos: slice = slice(-1, None)) -> Rows:
        """Keys in the stream as the output projection is read with them; of ``z`` at the last."""
        path = self._post_norm(site, layer)
        if path is None:
            return keys
        return self._pull(layer, path, self._whole(site, layer, pos).expand_as(keys), keys)

    def before(self, site: str, layer: int, keys: Rows, pos: Tensor | int = -1) -> Rows:
        """Keys of a sublayer at some tokens, pulled back through the pre-norm into the stream."""
        parts = self.model.parts(layer)
        ffn = site == "mlp_post"
        stream = self.read_by_mlp(layer) if ffn else self.pre[layer]
        path = parts.ln2 if ffn else parts.ln1
        return keys if path is None else self._pull(layer, path, stream[pos].expand_as(keys), keys)

    def _pull(self, layer: int, path: str, at: Tensor, keys: Tensor) -> Tensor:
        to = norm(self.model, layer, path)
        return fixed_scale_transpose(self.model, to, at, keys[:, None])[:, 0]

    def _post_norm(self, site: str, layer: int) -> str | None:
        parts = self.model.parts(layer)
        return parts.ln2_post if site == "mlp_post" else parts.ln1_post

    def _whole(self, site: str, layer: int, pos: slice) -> Float[Tensor, "row d_model"]:
        """What the sublayer adds before its post-norm."""
        z = self.weighted_values(layer).sum(1).flatten()[None]
        inside = self.neurons[layer, pos] if site == "mlp_post" else z
        return self.model.point(SITES[site], layer)[0](inside)


def trace(model: Model, prompt: TokenPrompt) -> Trace:
    """Run a prompt once, layer by layer, and once more through each attention.

    Raises:
        PlanError: the model lacks a site, or its blocks do not add up: a residual multiplier,
            or values that are normed after their projection.
    """
    for name in SITES_READ:
        model.site(name)
    ids = torch.tensor([prompt.ids], device=model.device)
    calls = record_layer_calls(model, ids, torch.ones_like(ids, dtype=torch.bool))
    kept: dict[str, list[Tensor]] = {name: [] for name in (*SITES_READ, "pattern")}
    hidden, first = calls.embeddings, torch.zeros(1, dtype=torch.long)
    state = BlockState(calls.arguments)
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            kwargs = state.given(calls.of_rows(layer, first))
            kept["pattern"].append(last_attention(model, layer, hidden, kwargs)[0])
            here = [
                (SITES[name], layer, lambda x, into=kept[name]: into.append(x[0].clone()))
                for name in SITES_READ
            ]
            with hooked(model, here):
                hidden = state.after(block(hidden, **kwargs))
    stack = {name: torch.stack(layers) for name, layers in kept.items()}
    found = Trace(
        model=model,
        pre=stack["resid_pre"],
        attn=stack["attn_out"],
        mlp=stack["mlp_out"],
        neurons=stack["mlp_post"],
        values=stack["v"],
        pattern=stack["pattern"],
        final=stack["resid_post"][-1, -1],
    )
    _check(found, stack["resid_post"], stack["z"])
    return found


def _check(found: Trace, post: Tensor, z: Tensor) -> None:
    """Refuse a model whose sublayers or attention neurons do not add up to their whole."""
    heads = torch.stack([found.weighted_values(n).sum(1).flatten() for n in range(len(z))])
    pairs: Sequence[tuple[str, Tensor, Tensor]] = (
        ("attention and FFN outputs", found.pre + found.attn + found.mlp, post),
        ("weighted values", heads, z[:, -1]),
    )
    for what, total, whole in pairs:
        error = float((total - whole).norm() / whole.norm())
        if error > TOLERANCE:
            raise PlanError(
                f"{found.model.name}: {what} do not add up (relative error {error:.2g}); query and "
                "value scores need blocks that add their sublayers' outputs as they are."
            )


def output_rows(model: Model, site: str, layer: int) -> Float[Tensor, "unit d_model"]:
    """What each unit of the FFN's or the heads' output projection writes, one row per unit."""
    return weight_of(model, site, layer).T
