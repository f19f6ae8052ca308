"""What one forward pass at load shows: which sites lie where the map says, and what model this is.

Every site of every layer is put to the identities of `interp.loading.identities`. Where an
adapter's word fails them or is missing, a guess from the structure of the block is put to the same
test. What is left is there; the rest is missing, with the measured reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import ModelError, first_line
from interp.forward.hooks import hooked
from interp.loading.identities import N_POS, Measured, measured, tolerance
from interp.loading.outline import SeveralStreams, outlined
from interp.loading.quantised import settle
from interp.loading.structure import guessed, tried
from interp.model.adapters import NoAdapter, architecture_of
from interp.model.architecture import Architecture, BlockMap
from interp.model.model import Model
from interp.model.sites import SITES, Site
from interp.model.weights import curvature, quantised

STREAM = ("resid_pre", "resid_post")
"""Sites without which there is nothing to work with."""

FLAT = 1e-4
"""Curvature below which a quantised module is taken to compute in fp32."""

LEAK = 1e-4
"""Largest relative change of an earlier token's state by a later one that rounding may make."""


def probe_ids(model: Model, n: int = 6, first: int = 1) -> Int[Tensor, "1 pos"]:
    """A few ordinary tokens of the model's vocabulary; no more than a compiled program reads.

    From another `first` on, they are other tokens.
    """
    if not model.arch.causal:
        n = min(n, model.hf.get_submodule("position").num_embeddings)  # pyright: ignore
    return (torch.arange(first, first + n, device=model.device) * 7919 % model.n_embedded)[None]


def rounding(model: Model) -> float:
    """Largest relative difference put down to rounding.

    16-bit kernels round by batch shape, and some quantised modules round activations to 8 bits.
    """
    kinds = quantised(model.hf).values()
    exact = all(curvature(modules[0][1], model.like) < FLAT for modules in kinds)
    return 1e-4 if exact and model.dtype == torch.float32 else 0.05


def every_site(model: Model) -> Iterator[tuple[Site, int]]:
    """All (site, layer) pairs the model has."""
    for layer, block in enumerate(model.arch.layers):
        for name in block.points:
            yield SITES[name], layer


def mapped(hf: nn.Module, tokenizer: object, name: str) -> Model:
    """A model with a map whose every site is proven: an adapter's, or where none fits a guess.

    `ModelError` where the residual stream is not what enters and leaves the blocks, a token reads
    later ones, or the logits are not the unembedding of the normed residual stream.
    """
    settled = list[bool]()

    def fit(arch: Architecture) -> Model:
        model = Model(hf, tokenizer, name, arch)
        if not settled:
            settle(hf, name, model.like)
            settled.append(True)
        return fitted(model)

    try:
        return fit(architecture_of(hf))
    except NotCausal:
        raise
    except ModelError as error:
        try:
            return fit(outlined(hf))
        except ModelError as other:
            better = isinstance(error, NoAdapter) or isinstance(other, SeveralStreams)
            raise (other if better else error) from None


def _whole_heads(known: BlockMap, guess: BlockMap) -> BlockMap:
    """A guess without a mixer's heads, unless they are proven to be attention's throughout."""
    heads = ("q", "k", "v", "z")
    failed = [guess.missing[site] for site in heads if site not in guess.points]
    if known.attention is not None or guess.attention is None or not failed:
        return guess
    why = f"{guess.attention!r} does not attend by heads ({failed[0]})"
    points = {site: point for site, point in guess.points.items() if site not in heads}
    missing = {**guess.missing, **dict.fromkeys(heads, why)}
    return replace(
        guess, points=points, missing=missing, attention=None, n_heads=0, n_kv_heads=0, d_head=0
    )


class NotCausal(ModelError):
    """A model in which a token reads later ones, whatever its map says."""


def fitted(model: Model) -> Model:
    """The model with a map of only the sites that are proven, by layer; errors as `mapped`."""
    _require_ends(model, model.arch.layers)
    seen = probe(model)
    if any(_incomplete(block) for block in seen.layers):
        best = list(seen.layers)
        ways = guessed(_with(model, best), _two_rows(model))
        for layers in tried(best, ways):
            again = map(_whole_heads, seen.layers, probe(_with(model, layers)).layers)
            both = zip(best, again, strict=True)
            best = [max(pair, key=lambda block: len(block.points)) for pair in both]
        found = probe(_with(model, best))
        # what no guess made better stays as it was first measured, beside the sites that failed
        both = zip(seen.layers, best, found.layers, strict=True)
        found.layers[:] = [new if guess is not old else old for old, guess, new in both]
        seen = found
    model = _with(model, seen.layers)
    require_causal(model, seen)
    require_stream(model, seen)
    require_head(model, seen)
    return model


def probe(model: Model) -> Measured:
    """Measure the map on a few tokens; `ModelError` where that fails or gives infinite logits."""
    try:
        seen = measured(model, _two_rows(model))
    except Exception as error:  # another kind of model fails in any of torch's ways
        raise ModelError(
            f"{model.name} does not run on token ids ({first_line(error)}); interp works with "
            "causal language models."
        ) from error
    if not seen.n_blocks == model.arch.n_layers:
        raise ModelError(
            f"{model.name}: {seen.n_blocks} of its {model.arch.n_layers} blocks ran; "
            f"{_wrong_map(model)}"
        )
    if not bool(seen.logits.isfinite().all()):
        raise ModelError(
            f"{model.name} gives logits that are not finite: its weights or settings are damaged, "
            f"or {model.dtype} is too narrow for it."
        )
    return seen


def _two_rows(model: Model) -> Int[Tensor, "2 pos"]:
    """Two rows that differ in their last token."""
    ids, other = probe_ids(model, N_POS)[0], probe_ids(model, N_POS, first=2)[0]
    return torch.stack([ids, torch.cat([ids[:-1], other[-1:]])])


def _with(model: Model, layers: Sequence[BlockMap]) -> Model:
    return replace(model, arch=replace(model.arch, layers=tuple(layers)))


def _incomplete(block: BlockMap) -> bool:
    """Whether a block lacks a site that its structure may show."""
    needed = {"attn_out", "mlp_out", "q", "k", "v", "z", "mlp_post"}
    needed |= set() if block.parts.parallel else {"resid_mid"}
    return not needed <= set(block.points)


def require_causal(model: Model, seen: Measured) -> None:
    """Refuse a model (`NotCausal`) in which the last token changes what lies before it.

    Both rows run in one batch, so the batch shape cannot change their rounding. Only where a row's
    numbers depend on what else is in the batch, as they do where experts take the
    tokens of all rows together, is that allowed for.
    """
    before, changed = seen.final[0, :-1].float(), seen.final[1, :-1].float()
    moved, size = (before - changed).norm(dim=-1), before.norm(dim=-1)
    if bool((moved <= LEAK * size).all()):
        return
    if bool((moved > LEAK * size + 4 * _moved_by_other_rows(model).max()).any()):
        raise NotCausal(
            f"{model.name} is not causal: changing the last token changes the residual stream at "
            f"earlier ones (by {float((moved / size).max()):.2%}); interp works with models whose "
            "tokens read only earlier tokens."
        )


def _moved_by_other_rows(model: Model) -> Float[Tensor, " pos"]:
    """How far a row's residual stream moves where only the other row is another."""
    last, final = model.arch.n_layers - 1, list[Tensor]()
    ids = probe_ids(model, 3 * N_POS).view(3, N_POS)
    with torch.no_grad(), hooked(model, [(SITES["resid_post"], last, final.append)]):
        for other in (1, 2):
            model.hf(input_ids=ids[[0, other]], use_cache=False)
    return (final[0][0].float() - final[1][0].float()).norm(dim=-1)


def require_stream(model: Model, seen: Measured) -> None:
    """Refuse a model (`ModelError`) whose blocks do not add to one residual stream."""
    _require_ends(model, seen.layers)
    layer, gap = seen.gap
    if gap > tolerance(model):
        raise ModelError(
            f"{model.name} has no single residual stream: what layer {layer} reads is not what "
            f"layer {layer - 1} gives (they differ by {gap:.1%})."
        )
    if not any({"attn_out", "mlp_out"} & set(block.points) for block in seen.layers):
        absent = seen.layers[0].missing
        why = dict.fromkeys(absent.get(site, "it is not found") for site in ("attn_out", "mlp_out"))
        raise ModelError(
            f"{model.name}: that its blocks add to a residual stream cannot be proven "
            f"({'; '.join(why)}), as where blocks norm the stream itself; interp works with blocks "
            "that add what attention and the MLP give."
        )


def require_head(model: Model, seen: Measured) -> None:
    """Refuse a model (`ModelError`) whose logits are more than its final norm and unembedding."""
    want = seen.logits[:, -1].float()
    with torch.no_grad():
        off = float((model.logits(seen.final[:2, -1]) - want).norm())
    if off > max(rounding(model), 1e-3) * float(want.norm()):
        raise ModelError(
            f"{model.name}: its logits are not the final norm and the unembedding of the residual "
            f"stream (they differ by {off / float(want.norm()):.0%}); interp reads every metric "
            "through these two."
        )


def _require_ends(model: Model, layers: Sequence[BlockMap]) -> None:
    """Refuse a model (`ModelError`) whose residual stream cannot be seen in every layer."""
    for layer, block in enumerate(layers):
        for name in STREAM:
            if name not in block.points:
                raise ModelError(
                    f"{model.name} has no {name!r} in layer {layer}: {block.missing[name]}; "
                    f"{_wrong_map(model)}"
                )


def _wrong_map(model: Model) -> str:
    guess = model.arch.adapter and f"TransformerLens's {model.arch.adapter}"
    return f"{guess or 'the outline that interp found'} does not fit this model."
