"""`Trace`: everything in one prompt's run that query and value scores read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.jacobians import fixed_scale_transpose, with_fixed_scale
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.blocks import last_attention, norm, weight_of
from interp.forward.hooks import hooked
from interp.forward.layer_calls import record_layer_calls
from interp.model.model import Model
from interp.model.sites import SITES

SITES_READ = ("resid_pre", "attn_out", "mlp_out", "mlp_post", "v", "z", "resid_post")
TOLERANCE = 1e-2
"""Relative error at which a model's blocks do not add up as the method assumes (16-bit: 4e-3)."""


@brief
@dataclass(frozen=True)
class Trace:
    """One prompt's run; ``last`` is its last token.

    Attributes:
        model: whose run.
        pre: the stream before each layer.
        attn, mlp: what attention and FFN add to it, after a post-norm.
        neurons: coefficients of the FFN neurons: the down-projection's input.
        values: of each key-value head.
        pattern: weight of each token's value in a head's output at the last token.
        final: the stream after the last layer, at the last token.
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
        """Tokens of the prompt."""
        return self.pre.shape[1]

    def mid(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The stream after attention: the base of FFN scores.

        A parallel block has no such state; there, too, it is layer input + attention output.
        """
        return self.pre[layer] + self.attn[layer]

    def read_by_mlp(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The stream that the FFN reads: before attention, in a parallel block."""
        return self.pre[layer] if self.model.arch.parts.parallel else self.mid(layer)

    def weighted_values(self, layer: int) -> Float[Tensor, "head pos d_head"]:
        """Coefficients of the attention neurons: weight x value, by head and token."""
        a = self.model.arch
        by_head = self.values[layer].unflatten(-1, (a.n_kv_heads, a.d_head)).transpose(0, 1)
        by_head = by_head.repeat_interleave(a.n_heads // a.n_kv_heads, 0)
        return self.pattern[layer][..., None] * by_head

    # Linear maps of this run, every norm's scale held fixed. Rows are vectors.

    def out_of_mlp(
        self, layer: int, rows: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """What vectors before the FFN's post-norm add to the stream at the last token."""
        return self._through_post(layer, "mlp_post", self.neurons[layer, -1], rows)

    def out_of_attention(
        self, layer: int, rows: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """What vectors before attention's post-norm add to the stream at the last token."""
        return self._through_post(layer, "z", self._z(layer), rows)

    def key_at_mlp(
        self, layer: int, keys: Float[Tensor, "pos d_model"]
    ) -> Float[Tensor, "pos d_model"]:
        """Keys in the stream, one a token, as the FFN's down-projection is read with them."""
        path = self.model.arch.parts.ln2_post
        if path is None:
            return keys
        total = self._projected("mlp_post", layer, self.neurons[layer])
        return self._pull(layer, path, total, keys)

    def key_at_last_mlp(
        self, layer: int, keys: Float[Tensor, "1 d_model"]
    ) -> Float[Tensor, "1 d_model"]:
        """`key_at_mlp` of the last token alone."""
        return self.key_at_mlp(layer, keys.expand(self.n_pos, -1))[-1:]

    def key_at_attention(
        self, layer: int, keys: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """Keys in the stream at the last token, as the heads' output projection is read."""
        path = self.model.arch.parts.ln1_post
        if path is None:
            return keys
        total = self._projected("z", layer, self._z(layer)).expand_as(keys)
        return self._pull(layer, path, total, keys)

    def before_mlp(
        self, layer: int, keys: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """FFN keys at the last token, pulled back through the pre-norm into the stream."""
        at = self.read_by_mlp(layer)[-1].expand_as(keys)
        return self._pull(layer, self.model.arch.parts.ln2, at, keys)

    def before_attention(
        self, layer: int, keys: Float[Tensor, "row d_model"], pos: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """Value keys at some tokens, pulled back through the pre-norm into the stream."""
        return self._pull(layer, self.model.arch.parts.ln1, self.pre[layer, pos], keys)

    def _pull(self, layer: int, path: str | None, at: Tensor, keys: Tensor) -> Tensor:
        if path is None:
            return keys
        to = norm(self.model, layer, path)
        return fixed_scale_transpose(self.model, to, at, keys[:, None])[:, 0]

    def _through_post(self, layer: int, site: str, inside: Tensor, rows: Tensor) -> Tensor:
        parts = self.model.arch.parts
        path = parts.ln1_post if site == "z" else parts.ln2_post
        if path is None:
            return rows
        total = self._projected(site, layer, inside)[None, None]
        post = norm(self.model, layer, path)
        return with_fixed_scale(self.model, post, total, rows[:, None])[:, 0]

    def _projected(self, site: str, layer: int, inside: Tensor) -> Tensor:
        module, _ = self.model.point(SITES[site], layer)
        return module(inside)

    def _z(self, layer: int) -> Float[Tensor, " width"]:
        return self.weighted_values(layer).sum(1).flatten()


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
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            kwargs = calls.of_rows(layer, first)
            kept["pattern"].append(last_attention(model, layer, hidden, kwargs)[0])
            here = [(SITES[name], layer, _keep(kept[name])) for name in SITES_READ]
            with hooked(model, here):
                out = block(hidden, **kwargs)
            hidden = out[0] if isinstance(out, tuple) else out
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


def _keep(into: list[Tensor]) -> Callable[[Tensor], None]:
    return lambda activation: into.append(activation[0].clone())


def _check(found: Trace, post: Tensor, z: Tensor) -> None:
    """That sublayers add up to the stream and attention neurons to the heads' output."""
    model = found.model
    heads = torch.stack([found.weighted_values(n).sum(1).flatten() for n in range(len(z))])
    pairs: Sequence[tuple[str, Tensor, Tensor]] = (
        ("attention and FFN outputs", found.pre + found.attn + found.mlp, post),
        ("weighted values", heads, z[:, -1]),
    )
    for what, total, whole in pairs:
        error = float((total - whole).norm() / whole.norm())
        if error > TOLERANCE:
            raise PlanError(
                f"{model.name}: {what} do not add up (relative error {error:.2g}); query and "
                "value scores need blocks that add their sublayers' outputs as they are."
            )


def output_rows(model: Model, site: str, layer: int) -> Float[Tensor, "unit d_model"]:
    """What each unit of the FFN's or the heads' output projection writes, a row a unit."""
    return weight_of(model, site, layer).T
