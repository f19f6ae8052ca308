"""The pieces of a block that circuits take apart, on any architecture that `architecture` maps."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.forward.layer_calls import restore_forward
from interp.model.model import Model
from interp.model.sites import SITES
from interp.model.weights import bias_in, shape_of

WRITERS = ("mlp_post", "z")
"""Sites that a writing projection reads: the FFN's down-projection and attention's output map."""

READERS = ("gate", "up")
"""What an FFN's neurons read their input with: the map inside the activation function (of plain
FFNs the only one), and its factor in gated ones."""

Rewrite = Callable[
    [Float[Tensor, "row pos d_in"], Float[Tensor, "row pos d_out"]], Float[Tensor, "row pos d_out"]
]
"""(input, output) of a projection -> the output that the model shall use instead."""


def first_output(out: Any) -> Tensor:
    """A block's output: a tensor, or the first of a tuple (GPT-J)."""
    return out[0] if isinstance(out, tuple) else out


def weight_of(model: Model, site: str, layer: int) -> Float[Tensor, "out in"]:
    """Matrix of the linear module that computes (q, k, v) or reads (z, mlp_post) a site."""
    module, point = model.point(SITES[site], layer)
    weight = model.matrix(module, f"layer {layer} {site}")
    return weight if point.features is None else weight[point.features.to(weight.device)]


def neuron_keys(model: Model, layer: int, which: str = "gate") -> Float[Tensor, "neuron d_model"]:
    """The rows that an MLP's neurons read their normed input with; `PlanError` if it has none.

    ``"gate"`` is what goes through the activation function, in gated and plain MLPs; ``"up"`` what
    it is multiplied by.
    """
    known = model.arch.layers[layer].neuron_keys
    if which not in known:
        raise PlanError(
            f"layer {layer} of {model.name} has no neuron keys {which!r}: its MLP has "
            f"{', '.join(map(repr, known)) or 'none that can be read'}."
        )
    module = model.blocks[layer].get_submodule(known[which].path)
    return model.matrix(module, f"layer {layer} {which}")


def bias_of(model: Model, site: str, layer: int) -> Float[Tensor, " out"] | None:
    """Bias of the linear module that computes q, k or v; ``None`` where it has none."""
    module, point = model.point(SITES[site], layer)
    bias = bias_in(module)
    if bias is None or point.features is None:
        return bias
    return bias[point.features.to(bias.device)]


def project(
    model: Model, site: str, layer: int, x: Float[Tensor, "row branch pos d_model"]
) -> Float[Tensor, "row pos branch d_head"]:
    """Queries, keys or values of each query head from a normed input of its own.

    Branches are query heads; keys and values take the matrix of the group a head belongs to.
    """
    a = model.arch.layers[layer]
    weight = weight_of(model, site, layer).unflatten(0, (-1, a.d_head))
    shared = a.n_heads // len(weight)
    out = torch.einsum("bhpd,hkd->bphk", x, weight.repeat_interleave(shared, 0))
    bias = bias_of(model, site, layer)
    if bias is not None:
        out = out + bias.unflatten(0, (-1, a.d_head)).repeat_interleave(shared, 0)
    return out


def head_writes(
    model: Model, layer: int, z: Float[Tensor, "row pos width"]
) -> Float[Tensor, "row head pos d_model"]:
    """What each head adds to attention's output, before a post-norm: z_h W_O^h."""
    a = model.arch.layers[layer]
    by_head = weight_of(model, "z", layer).T.unflatten(0, (a.n_heads, a.d_head))
    return torch.einsum("bphk,hkd->bhpd", z.unflatten(-1, (a.n_heads, a.d_head)), by_head)


def norm(model: Model, layer: int, path: str | None) -> Callable[[Tensor], Tensor]:
    """A norm of a block by its path; the identity where the block has none."""
    return (lambda x: x) if path is None else model.blocks[layer].get_submodule(path)


def mlp_write(
    model: Model, layer: int, resid: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row pos d_model"]:
    """What a layer's MLP adds to the residual stream it reads; `PlanError` without a module."""
    parts = model.parts(layer)
    out = _mlp(model, layer)(norm(model, layer, parts.ln2)(resid))
    write = first_output(out).view(resid.shape)  # some give all rows' tokens in one axis
    return norm(model, layer, parts.ln2_post)(write)


def _mlp(model: Model, layer: int) -> nn.Module:
    path = model.parts(layer).mlp
    if not path:
        raise PlanError(
            f"layer {layer} of {model.name} has no MLP module: its matrices lie in the block "
            "itself."
        )
    return model.blocks[layer].get_submodule(path)


class _Reached(Exception):
    """Ends a block's run where its heads have been computed."""


def attend(
    model: Model,
    layer: int,
    kwargs: dict[str, Any],
    q: Float[Tensor, "row pos head d_head"],
    k: Float[Tensor, "row pos head d_head"],
    v: Float[Tensor, "row pos head d_head"],
) -> Float[Tensor, "row pos width"]:
    """Run a layer's attention, as the model does it, on given queries, keys and values: its ``z``.

    Queries and keys are those before rotary embedding and their norm; keys and values are given
    per query head. Where the model shares them within a group, the block runs once per member of
    the group, and each run gives that member's heads. `kwargs` are the layer's for these rows.
    """
    a = model.arch.layers[layer]
    group = a.n_heads // a.n_kv_heads
    last, found = list[Tensor](), list[Tensor]()

    def put(value: Tensor) -> Callable[[Tensor], None]:
        return functools.partial(_overwrite, value=value.flatten(-2))

    def reach(z: Tensor) -> None:
        last.append(z)
        raise _Reached

    still = torch.zeros(*q.shape[:2], model.arch.d_model, dtype=q.dtype, device=q.device)
    for member in range(group):
        own = slice(member, None, group)
        edits = [("q", put(q)), ("k", put(k[:, :, own])), ("v", put(v[:, :, own])), ("z", reach)]
        here = [(SITES[site], layer, edit) for site, edit in edits]
        try:
            with _blank_projections(model, layer), hooked(model, here):
                model.blocks[layer](still, **kwargs)
        except _Reached:
            found.append(last.pop().unflatten(-1, (a.n_heads, a.d_head))[:, :, own])
    return torch.stack(found, 3).flatten(2)


def last_attention(
    model: Model, layer: int, hidden: Float[Tensor, "row pos d_model"], kwargs: dict[str, Any]
) -> Float[Tensor, "row head pos"]:
    """Weight of each token's value in what each head writes at the last token.

    Read off heads that are given one-hot values, so any attention function will do.
    """
    a, n = model.arch.layers[layer], hidden.shape[1]
    found: list[Tensor] = []

    def reach(z: Tensor) -> None:
        found.append(z[:, -1].unflatten(-1, (a.n_heads, a.d_head)))
        raise _Reached

    for first in range(0, n, a.d_head):
        one_hot = torch.eye(n, a.d_head, dtype=hidden.dtype, device=hidden.device).roll(first, 0)
        put = functools.partial(_overwrite, value=one_hot.repeat(1, a.n_kv_heads))
        here = [(SITES["v"], layer, put), (SITES["z"], layer, reach)]
        with contextlib.suppress(_Reached), hooked(model, here):
            model.blocks[layer](hidden, **kwargs)
    return torch.cat(found, -1)[..., :n]


@contextlib.contextmanager
def _blank_projections(model: Model, layer: int) -> Generator[None]:
    """Spare the products of the projections whose outputs are given anyway."""
    modules = {id(m): m for m, _ in (model.point(SITES[part], layer) for part in "qkv")}
    with contextlib.ExitStack() as stack:
        for module in modules.values():
            width = shape_of(module)[0]
            stack.callback(restore_forward, module, module.__dict__.get("forward"))
            module.forward = lambda x, width=width: x.new_empty(*x.shape[:-1], width)
        yield


def _overwrite(activation: Tensor, value: Tensor) -> None:
    activation.copy_(value)


def split_mlp_input(model: Model, layer: int, keep: Callable[[Tensor], None]) -> Any:
    """Give the MLP its own view of its input, which parallel blocks share with attention."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        own = args[0].view_as(args[0])
        keep(own)
        return (own, *args[1:])

    return _mlp(model, layer).register_forward_pre_hook(before)


# --- the linear maps that an edit may change ---------------------------------------------------


def projection(model: Model, name: str, layer: int) -> nn.Module:
    """A linear module by name, one of `WRITERS` or `READERS`; `PlanError` if there is none."""
    if name in WRITERS:
        model.check_layers([layer], SITES[name])
        return model.point(SITES[name], layer)[0]
    if name not in READERS:
        raise PlanError(
            f"no projection writes from {name!r}; choose 'mlp_post' (the FFN's down-projection) or "
            "'z' (attention's output projection)."
        )
    model.check_layers([layer])
    if name not in model.arch.layers[layer].neuron_keys:
        raise PlanError(
            f"layer {layer} of {model.name} has no projection {name!r} that computes its FFN "
            "neurons alone; methods that write into neurons' keys cannot be used on it."
        )
    return model.blocks[layer].get_submodule(model.arch.layers[layer].neuron_keys[name].path)


@contextlib.contextmanager
def rewriting(model: Model, rewrites: Iterable[tuple[str, int, Rewrite]]) -> Generator[None]:
    """Run (projection, layer, function) triples, in order, whenever it is computed."""
    with contextlib.ExitStack() as stack:
        for site, layer, rewrite in rewrites:
            module = projection(model, site, layer)
            stack.callback(module.register_forward_hook(_hook(rewrite)).remove)
        yield


def _hook(rewrite: Rewrite) -> Callable[..., Tensor]:
    return lambda _, args, output: rewrite(args[0], output)
