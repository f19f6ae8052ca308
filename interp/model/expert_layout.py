"""Where the mixture of experts of a block lies: its experts, their router, the shared experts.

How experts compute is known for the forms in `interp.model.expert_forms`, so that what happens
inside them can be read and changed.
"""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from interp.model.architecture import NO_EXPERTS, BlockMap, ExpertLayout, ModulePoint
from interp.model.expert_forms import form_of
from interp.model.sites import EXPERT_SITES
from interp.model.weights import FLOATS

SHARED = ("shared_experts", "shared_expert", "shared_mlp")


def with_experts(block_map: BlockMap, block: nn.Module) -> BlockMap:
    """The map of a block with the sites of its mixture of experts, or why it has none."""
    layout = layout_of(block)
    if not isinstance(layout, ExpertLayout):
        why = layout or NO_EXPERTS
        missing = {**block_map.missing, **dict.fromkeys(EXPERT_SITES, why)}
        return replace(block_map, missing=missing, experts=layout)
    weighting = layout.router if layout.scaled else layout.experts
    points = {
        "router_logits": ModulePoint(layout.router, "logits"),
        "router_weights": ModulePoint(weighting, "weights"),
        "expert_post": ModulePoint(layout.experts, "neurons"),
        "expert_out": ModulePoint(layout.experts, "outputs"),
    }
    if layout.shared is not None:
        points["shared_out"] = ModulePoint(layout.shared, "out")
    if layout.shared is not None and layout.d_shared:
        last, _ = _last_linear(block.get_submodule(layout.shared))
        points["shared_post"] = ModulePoint(f"{layout.shared}.{last}", "in")
    absent = [name for name in EXPERT_SITES if name not in points]
    why = "the mixture has no shared experts whose neurons can be seen"
    missing = {name: w for name, w in block_map.missing.items() if name not in EXPERT_SITES}
    if "mlp_post" in missing:
        missing["mlp_post"] = "the MLP is a mixture of experts, whose neurons are 'expert_post'"
    return replace(
        block_map,
        points={**block_map.points, **points},
        missing=missing | dict.fromkeys(absent, why),
        experts=layout,
    )


def layout_of(block: nn.Module) -> ExpertLayout | str | None:
    """The mixture of experts of a block; why it cannot be taken apart; ``None`` without one."""
    named = block.named_modules()
    every = [(name, m) for name, m in named if name.rpartition(".")[2] not in SHARED]
    common = [(name, m) for name, m in every if form_of(m) or _scaled(m)]
    found = common or [(name, m) for name, m in every if "Experts" in type(m).__name__]
    if not found:
        return None
    if len(common) != 1:
        kinds = ", ".join(dict.fromkeys(type(module).__name__ for _, module in found))
        if common:
            return f"it has several sets of experts ({kinds})"
        return f"its experts ({kinds}) compute in a form that is not known"
    experts, module = common[0]
    form = None if _scaled(module) else form_of(module)
    down: Tensor | None = form.last(module) if form else getattr(module, "down_proj", None)
    if down is None or down.ndim != 3 or down.dtype not in FLOATS:
        return f"the weights of its experts ({type(module).__name__}) are not plain matrices"
    path = experts if form and form.routes else experts.rpartition(".")[0]
    parent = block.get_submodule(path)
    found = next(
        (name for name in ("gate", "router") if name in dict(parent.named_children())), None
    )
    matrices = [] if found is None else list(_matrices(parent.get_submodule(found), len(down)))
    if not matrices:
        return f"the module {path!r} has no router whose linear map can be found"
    inner = (name for name, _ in block.named_modules() if name.rpartition(".")[2] in SHARED)
    shared = next(inner, None)
    down_shared = None if shared is None else _last_linear(block.get_submodule(shared))[1]
    n_identity = max(0, len(getattr(module, "gate_up_proj", down)) - len(down))
    return ExpertLayout(
        experts=experts,
        router=f"{path}.{found}" if path else str(found),
        shared=shared,
        n_experts=len(down) + n_identity,
        d_expert=down.shape[1],
        d_out=down.shape[2],
        n_logits=len(matrices[-1]),
        d_shared=0 if down_shared is None else down_shared.in_features,
        scaled=_scaled(module),
        n_identity=n_identity,
    )


def _scaled(experts: nn.Module) -> bool:
    """Whether experts get a copy of all tokens each, scaled by the routing weights."""
    return type(experts).__name__ == "Llama4TextExperts"


def _matrices(router: nn.Module, n_experts: int) -> Iterator[Tensor]:
    """The matrices of a router that give at least one number per expert, in order."""
    for module in router.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 2 and len(parameter) >= n_experts:
                yield parameter


def _last_linear(module: nn.Module) -> tuple[str, nn.Linear | None]:
    """The last linear map of shared experts, which their neurons go into, and its path."""
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    return found[-1] if found else ("", None)
