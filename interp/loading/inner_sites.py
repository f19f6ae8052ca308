"""Sites inside a mixture of experts or an attention mixer, and whether they hold what they should.

They are looked for by the block's structure, once the rest of its map is proven, and measured on a
few tokens: what does not hold is missing, with the reason.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import first_line
from interp.forward.experts import edit_experts
from interp.forward.hooks import hooked
from interp.loading.fitting import probe_ids
from interp.loading.identities import without
from interp.model.architecture import ExpertLayout
from interp.model.expert_layout import with_experts
from interp.model.mixer_layout import with_mixer
from interp.model.model import Model
from interp.model.sites import EXPERT_SITES, MIXER_SITES, SITES

Misfit = tuple[str, int, str]
"""(site, layer, why)."""


def with_inner_sites(model: Model) -> Model:
    """The model with those sites of its mixtures and mixers that hold what they should."""
    blocks = zip(model.arch.layers, model.blocks, strict=True)
    layers = [with_mixer(with_experts(own, block), block) for own, block in blocks]
    model = replace(model, arch=replace(model.arch, layers=tuple(layers)))
    if model.mixtures:
        calls = _Calls(model)
        for layer, layout in model.mixtures.items():
            layers[layer] = replace(layers[layer], experts=calls.with_factor(layer, layout))
    for find in (_expert_misfits, _shape_misfits):
        for site, layer, why in list(find(model)):
            layers[layer] = without(layers[layer], {site: why})
        model = replace(model, arch=replace(model.arch, layers=tuple(layers)))
    return model


def _rows(model: Model) -> Tensor:
    return probe_ids(model, 12).view(2, 6)


def _shape_misfits(model: Model) -> Iterator[Misfit]:
    """Every inner site that is not computed, or has another shape."""
    seen: dict[tuple[str, int], tuple[int, ...]] = {}
    places = [
        (SITES[name], layer)
        for layer, block in enumerate(model.arch.layers)
        for name in (*EXPERT_SITES, *MIXER_SITES)
        if name in block.points
    ]
    if not places:
        return
    edits = [
        (*at, lambda x, at=at: seen.__setitem__((at[0].name, at[1]), tuple(x.shape)))
        for at in places
    ]
    with torch.no_grad(), hooked(model, edits):
        model.hf(input_ids=_rows(model), use_cache=False)
    for site, layer in places:
        want, got = (2, 6, model.width(site, layer)), seen.get((site.name, layer))
        if got is None:
            yield site.name, layer, "its module is never called"
        elif got != want:
            yield site.name, layer, f"it would have shape {want}, but has {got}"


def _expert_misfits(model: Model) -> Iterator[Misfit]:
    """Every site of a mixture that does not hold what it should.

    What the experts give must be the sum of ``expert_out``, computed from ``router_weights`` and
    ``expert_post`` with the module's own weights; with ``shared_out`` it must be what the mixture
    gives.
    """
    if not model.mixtures:
        return
    calls = _Calls(model)
    for layer, layout in model.mixtures.items():
        try:
            off = calls.difference(layer, layout)
            why = f"taken apart, its experts give what differs by {off:.0%} from their module"
            why = why if off > calls.allowed else ""
        except Exception as error:  # a mixture of another form fails in any of torch's ways
            why = f"its mixture of experts is of another form ({first_line(error)})"
        if why:
            yield from ((site, layer, why) for site in EXPERT_SITES[:4])
        if layout.shared is not None and calls.shared_difference(layer, layout) > calls.allowed:
            yield (
                "shared_out",
                layer,
                "the mixture changes what its shared experts give before it adds that to the "
                "routed experts' sum",
            )


class _Calls:
    """What the mixtures' modules were called with, and what they gave, in one run."""

    def __init__(self, model: Model):
        self.model = model
        self.allowed = 1e-3 if model.dtype == torch.float32 else 0.05
        self.seen: dict[tuple[int, str], tuple[Any, Any, Tensor]] = {}
        with contextlib.ExitStack() as hooks, torch.no_grad():
            for layer, layout in model.mixtures.items():
                for path in (layout.experts, layout.router, _parent(layout), layout.shared):
                    if path is not None:
                        module = model.blocks[layer].get_submodule(path)
                        note = self._noting(layer, path)
                        hooks.enter_context(module.register_forward_hook(note, with_kwargs=True))
            model.hf(input_ids=_rows(model), use_cache=False)

    def _noting(self, layer: int, path: str) -> Any:
        def note(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            # copied, as Llama 4 adds the routed experts to the shared ones' output in place
            every = out if isinstance(out, tuple) else (out,)
            copies: Any = tuple(x.clone() if isinstance(x, Tensor) else x for x in every)
            self.seen[layer, path] = args, kwargs, copies if isinstance(out, tuple) else copies[0]

        return note

    @torch.no_grad()
    def difference(self, layer: int, layout: ExpertLayout) -> float:
        """How far the experts, taken apart, are from the module's own result, relatively."""
        block = self.model.blocks[layer]
        sides = {
            "logits": layout.router,
            "weights": layout.router if layout.scaled else layout.experts,
            "neurons": layout.experts,
            "outputs": layout.experts,
        }
        kept: dict[str, Tensor] = {}
        with contextlib.ExitStack() as undo:
            for side, path in sides.items():
                keep = _keeping(kept, side)
                undo.callback(edit_experts(block.get_submodule(path), layout, side, keep))
            args, kwargs, routing = self.seen[layer, layout.router]
            again = block.get_submodule(layout.router)(*args, **kwargs)
            args, kwargs, want = self.seen[layer, layout.experts]
            got = block.get_submodule(layout.experts)(*args, **kwargs)
        if set(kept) != set(sides):
            return 1.0
        total = kept["outputs"].unflatten(-1, (layout.n_experts, -1)).sum(-2)
        summed = _summed(layout, want)
        if layout.router.startswith(layout.experts):  # the mixture itself, which adds a bias
            summed = summed - block.get_parameter(f"{layout.experts}.bias")
        pairs = [
            (got, want),
            (total, summed.reshape(total.shape)),
            *zip(again[:2], routing[:2], strict=True),
        ]
        return max(_relative(a, b) for a, b in pairs)

    def with_factor(self, layer: int, layout: ExpertLayout) -> ExpertLayout:
        """The layout with what a mixture without shared experts multiplies its experts' sum by."""
        found = [self.seen.get((layer, path)) for path in (layout.experts, _parent(layout) or "")]
        if layout.shared is not None or layout.scaled or None in found:
            return layout
        given, whole = (out[2][0] if isinstance(out[2], tuple) else out[2] for out in found if out)
        if given.numel() != whole.numel():
            return layout
        given, whole = given.double().flatten(), whole.double().flatten()
        times = float(given @ whole / given.square().sum())
        near = abs(times - 1) < self.allowed or _relative(times * given, whole) > self.allowed
        return layout if near else replace(layout, times=times)

    def shared_difference(self, layer: int, layout: ExpertLayout) -> float:
        """How far experts and shared experts together are from what the mixture gives."""
        parent = _parent(layout)
        if layout.shared is None or not parent or not layout.shared.startswith(f"{parent}."):
            return 0.0
        found = (self.seen.get((layer, path)) for path in (layout.experts, layout.shared, parent))
        parts = [one[2] for one in found if one is not None]
        if len(parts) != 3:
            return 1.0
        experts, shared, whole = (x[0] if isinstance(x, tuple) else x for x in parts)
        experts = _summed(layout, experts)
        return _relative(experts.flatten(0, -2) + shared.flatten(0, -2), whole.flatten(0, -2))


def _summed(layout: ExpertLayout, given: Tensor) -> Tensor:
    """What a module of experts gives, summed over experts where it gives each one's."""
    return given.view(layout.n_experts, -1, given.shape[-1]).sum(0) if layout.scaled else given


def _parent(layout: ExpertLayout) -> str | None:
    """The path of the module that holds router and experts; ``None`` for the block itself."""
    return layout.experts.rpartition(".")[0] or None


def _keeping(kept: dict[str, Tensor], side: str) -> Any:
    def keep(activation: Tensor) -> Tensor:
        kept[side] = activation
        return activation

    return keep


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())
