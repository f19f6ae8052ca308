"""What one forward pass at load shows: which sites lie where the map says, and what model this is.

Two rows that differ in their last token alone run together, so one pass of a few tokens tells the
shape of every site, whether attention is causal, and whether the logits are the final norm and the
unembedding of the last residual stream. interp computes with all three.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.errors import ModelError, first_line
from interp.forward.hooks import hooked
from interp.model.model import Model
from interp.model.sites import SITES, Site
from interp.model.weights import curvature, quantised

STREAM = ("resid_pre", "resid_post")
"""Sites without which there is nothing to work with."""

FLAT = 1e-4
"""Curvature below which a quantised module is taken to compute in fp32."""

LEAK = 1e-4
"""Largest relative change of an earlier token's state by a later one that rounding may make."""


@brief
@dataclass(frozen=True)
class Probe:
    """What one forward pass over two rows that differ in their last token shows.

    The shapes of activations by site name and layer, the final residual stream, and the logits.
    """

    shapes: dict[tuple[str, int], tuple[int, ...]]
    final: Float[Tensor, "2 pos d_model"]
    logits: Float[Tensor, "2 pos vocab"]


def probe_ids(model: Model, n: int = 6) -> Int[Tensor, "1 pos"]:
    """A few ordinary tokens of the model's vocabulary."""
    vocab = model.hf.get_input_embeddings().weight.shape[0]
    return (torch.arange(1, n + 1, device=model.device) * 7919 % vocab)[None]


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


def fitted(model: Model) -> Model:
    """The model with a map of only those sites that its modules carry, layer by layer.

    `ModelError` where the residual stream is not where the map says, a token reads later ones, or
    the logits are not the unembedding of the normed residual stream.
    """
    _require_stream(model)
    seen = probe(model)
    model = _without(model, {(site, layer): why for site, layer, why in misfits(model, seen)})
    _require_stream(model)
    require_causal(model, seen)
    require_head(model, seen)
    return model


def probe(model: Model) -> Probe:
    """Run the two rows; `ModelError` where that fails or gives infinite logits."""
    ids = probe_ids(model, 7)[0]
    rows = torch.stack([ids[:6], torch.cat([ids[:5], ids[6:]])])
    shapes: dict[tuple[str, int], tuple[int, ...]] = {}
    final: list[Tensor] = []

    def note(site: Site, layer: int) -> Callable[[Tensor], None]:
        return lambda activation: shapes.__setitem__((site.name, layer), tuple(activation.shape))

    sites = [(site, layer, note(site, layer)) for site, layer in every_site(model)]
    sites.append((SITES["resid_post"], model.arch.n_layers - 1, final.append))
    try:
        with torch.no_grad(), hooked(model, sites):
            logits = model.hf(input_ids=rows, use_cache=False).logits
    except Exception as error:  # another kind of model fails in any of torch's ways
        raise ModelError(
            f"{model.name} does not run on token ids ({first_line(error)}); interp works with "
            "causal language models."
        ) from error
    if not final:
        raise ModelError(f"{model.name}: its last block never ran; {_wrong_map(model)}")
    if not bool(logits.isfinite().all()):
        raise ModelError(
            f"{model.name} gives logits that are not finite: its weights or settings are damaged, "
            f"or {model.dtype} is too narrow for it."
        )
    return Probe(shapes, final[0], logits)


def misfits(model: Model, seen: Probe) -> Iterator[tuple[str, int, str]]:
    """(site, layer, why) for every site that did not fire with its shape."""
    for site, layer in every_site(model):
        want, got = (2, 6, model.width(site, layer)), seen.shapes.get((site.name, layer))
        if got == want:
            continue
        path = model.arch.layers[layer].points[site.name].path
        if got is None:
            yield site.name, layer, f"its module {path!r} is never called"
        elif got == (12, want[-1]):
            yield (
                site.name,
                layer,
                f"its module {path!r} gets the tokens of all rows in one flat axis",
            )
        else:
            yield site.name, layer, f"it would have shape {want}, but {path!r} has {got}"


def require_causal(model: Model, seen: Probe) -> None:
    """Refuse a model (`ModelError`) in which the last token changes what lies before it.

    Both rows run in one batch, so the batch shape cannot change their rounding. Only where a row's
    numbers depend on what else is in the batch, as they do where experts take the
    tokens of all rows together, is that allowed for.
    """
    before, changed = seen.final[0, :-1].float(), seen.final[1, :-1].float()
    moved, size = (before - changed).norm(dim=-1), before.norm(dim=-1)
    if bool((moved <= LEAK * size).all()):
        return
    if bool((moved > LEAK * size + 4 * _moved_by_other_rows(model, seen).max()).any()):
        raise ModelError(
            f"{model.name} is not causal: changing the last token changes the residual stream at "
            f"earlier ones (by {float((moved / size).max()):.2%}); interp works with models whose "
            "tokens read only earlier tokens."
        )


def _moved_by_other_rows(model: Model, seen: Probe) -> Float[Tensor, " pos"]:
    """How far the first row's residual stream moves where only the other row is another."""
    last, final = model.arch.n_layers - 1, list[Tensor]()
    rows = probe_ids(model, 12).view(2, 6)
    with torch.no_grad(), hooked(model, [(SITES["resid_post"], last, final.append)]):
        model.hf(input_ids=rows, use_cache=False)
    return (final[0][0, :-1].float() - seen.final[0, :-1].float()).norm(dim=-1)


def require_head(model: Model, seen: Probe) -> None:
    """Refuse a model (`ModelError`) whose logits are more than its final norm and unembedding."""
    want = seen.logits[:, -1].float()
    with torch.no_grad():
        off = float((model.logits(seen.final[:, -1]) - want).norm())
    if off > max(rounding(model), 1e-3) * float(want.norm()):
        raise ModelError(
            f"{model.name}: its logits are not the final norm and the unembedding of the residual "
            f"stream (they differ by {off / float(want.norm()):.0%}); interp reads every metric "
            "through these two."
        )


def _require_stream(model: Model) -> None:
    """Refuse a model (`ModelError`) whose residual stream cannot be seen in every layer."""
    for layer, block in enumerate(model.arch.layers):
        for name in STREAM:
            if name not in block.points:
                raise ModelError(
                    f"{model.name} has no {name!r} in layer {layer}: {block.missing[name]}; "
                    f"{_wrong_map(model)}"
                )


def _without(model: Model, absent: Mapping[tuple[str, int], str]) -> Model:
    """The model with (site, layer) pairs missing, for these reasons."""
    layers = list(model.arch.layers)
    for (name, layer), why in absent.items():
        block = layers[layer]
        points = {site: point for site, point in block.points.items() if site != name}
        missing = {**block.missing, name: why}
        layers[layer] = replace(block, points=points, missing=missing)
    return replace(model, arch=replace(model.arch, layers=tuple(layers)))


def _wrong_map(model: Model) -> str:
    return f"TransformerLens's {model.arch.adapter} does not fit this model."
