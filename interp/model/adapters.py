"""Reads TransformerLens's adapters: where each site of a Hugging Face model lies, by its word.

The only module that imports `transformer_lens`. It ships an adapter per architecture: a tree from
hook names to module paths, built from a config alone. It is read here, never run: the model is
left untouched. What it says is a first guess, which `interp.loading.fitting` measures.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.errors import ModelError, first_line
from interp.model.architecture import Architecture, BlockMap, BlockParts, ModulePoint
from interp.model.sites import SITES, Site
from interp.model.weights import shape_of


class NoAdapter(ModelError):
    """A model for which TransformerLens has no adapter."""


def architecture_of(hf: nn.Module) -> Architecture:
    """Map a Hugging Face causal language model; `ModelError` where no adapter fits it."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    family, config = type(hf).__name__, _config_with_architecture(hf)
    try:
        cfg = build_bridge_config_from_hf(config, family, family, torch.float32)
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(cfg)
        tree = adapter.component_mapping or {}
        block: Any = tree["blocks"]
        norm: Any = tree["ln_final"]
        stack: Any = hf.get_submodule(block.name)
        blocks = list[nn.Module](stack)
    except Exception as error:  # configs that no adapter was written for fail in many ways
        raise NoAdapter(
            f"TransformerLens has no adapter for {family} ({first_line(error)}); interp supports "
            "the causal language models that transformer_lens lists as supported architectures."
        ) from error
    heads = cfg.n_heads, getattr(cfg, "n_key_value_heads", None) or cfg.n_heads, cfg.d_head
    parallel, split = bool(getattr(cfg, "parallel_attn_mlp", False)), dict[Any, Tensor]()
    return Architecture(
        adapter=type(adapter).__name__,
        blocks=block.name,
        ln_final=norm.name,
        layers=tuple(_block_map(block, module, heads, parallel, split) for module in blocks),
        d_model=cfg.d_model,
        logits_transform=adapter.apply_output_logits_transform,
        bridge_reads_scores=_reads_scores(block.submodules.get("attn")),
    )


def _block_map(
    block: Any,
    module: nn.Module,
    heads: tuple[int, int, int],
    parallel: bool,
    split: dict[Any, Int[Tensor, " width"]],
) -> BlockMap:
    """One block by the adapter's word; `heads` are query heads, key-value heads, and their width.

    `split` holds features of joint projections, which blocks of one kind share.
    """
    found = {name: _point(block, site, module, split) for name, site in SITES.items()}
    points = {name: point for name, point in found.items() if isinstance(point, ModulePoint)}
    missing = {name: why for name, why in found.items() if isinstance(why, str)}
    for site in ("q", "k", "v"):  # without heads there are no queries, keys and values of heads
        if site in points and "z" not in points:
            del points[site]
            missing[site] = f"without 'z' nothing shows what it does ({missing['z']})"
    if parallel and "resid_mid" in missing:
        missing["resid_mid"] = (
            "attention and MLP read the same residual stream in parallel, so there is no point "
            "between them"
        )
    # none where the MLP is a mixture of experts or one module computes gate and up together
    hooks = {"gate": "mlp.hook_pre", "up": "mlp.hook_pre_linear"}
    keys = {
        key: _point(block, Site(key, hook, "neuron"), module, split) for key, hook in hooks.items()
    }
    attention = _inside(module, block.submodules.get("attn"))
    n_heads, n_kv_heads, d_head = heads if attention else (0, 0, 0)
    d_head = (_width_in(module, points.get("z")) or 0) // max(n_heads, 1) or d_head
    if "k" in points:  # not all configs say how many there are
        n_kv_heads = points["k"].width(module) // max(d_head, 1) or n_kv_heads
    return BlockMap(
        points=points,
        missing=missing,
        parts=_parts(block, module, parallel),
        attention=attention,
        neuron_keys={key: at for key, at in keys.items() if isinstance(at, ModulePoint)},
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_mlp=_width_in(module, points.get("mlp_post")) or 0,
    )


def _inside(module: nn.Module, part: Any) -> str | None:
    """The path of an adapter's part, where the block has such a module."""
    path = getattr(part, "name", None)
    try:
        return path if path and module.get_submodule(path) else None
    except AttributeError:
        return None


def _config_with_architecture(hf: nn.Module) -> Any:
    """The model's config, naming its class: a GGUF-loaded one has ``architectures=None``."""
    config: Any = copy.deepcopy(hf.config)
    config.architectures = [type(hf).__name__]
    return config


def _parts(block: Any, module: nn.Module, parallel: bool) -> BlockParts:
    inside = {key: _inside(module, part) for key, part in block.submodules.items()}
    return BlockParts(
        ln1=inside.get("ln1"),
        ln1_post=inside.get("ln1_post"),
        ln2=inside.get("ln2") or (inside.get("ln1") if parallel else None),
        ln2_post=inside.get("ln2_post"),
        mlp=inside.get("mlp") or "",
        parallel=parallel,
    )


def _reads_scores(attn: Any) -> bool:
    """Whether a bridge computes attention itself; elsewhere its hooks fire after the fact."""
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    return isinstance(attn, AttentionBridge) and type(attn).forward is not AttentionBridge.forward


def _point(
    block: Any, site: Site, module: nn.Module, split: dict[Any, Int[Tensor, " width"]]
) -> ModulePoint | str:
    """Where a site lies, or why it does not exist."""
    from transformer_lens.model_bridge.generalized_components import MLAAttentionBridge

    found = _resolve(block, site, module, split)
    mlp, attn = (block.submodules.get(name) for name in ("mlp", "attn"))
    if site.units == "neuron" and isinstance(found, ModulePoint) and found.path == mlp.name:
        return (
            "the MLP is a mixture of experts, whose neurons are computed only for the tokens "
            "that are routed to their expert"
        )
    of_head = site.units in ("head", "kv_head")
    if of_head and isinstance(found, str) and isinstance(attn, MLAAttentionBridge):
        return "latent attention computes queries, keys and values jointly, from compressed ones"
    return found


def _resolve(
    block: Any, site: Site, module: nn.Module, split: dict[Any, Int[Tensor, " width"]]
) -> ModulePoint | str:
    """Follow the adapter's aliases from a hook name to a module, or say what is absent."""
    component, path, parts = block, list[str](), site.hook.split(".")
    while parts:
        head = parts.pop(0)
        if head.startswith("hook_"):
            alias = component.hook_aliases.get(head)
            if alias is not None:
                first = alias if isinstance(alias, str) else alias[0]
                parts = first.split(".") + parts
                continue
            if head not in ("hook_in", "hook_out"):
                break
            try:
                module.get_submodule(".".join(path))
            except AttributeError:
                return f"the block has no module {'.'.join(path)!r}"
            return ModulePoint(".".join(path), "in" if head == "hook_in" else "out")
        if head in "qkv" and "qkv" in component.submodules:
            path = [*path, component.submodules["qkv"].name]
            try:
                joint = module.get_submodule(".".join(path))
            except AttributeError:
                return f"the block has no module {'.'.join(path)!r}"
            key = head, type(joint), *shape_of(joint)
            if key not in split:
                found = _features(component, path, module, "qkv".index(head))
                if isinstance(found, str):
                    return found
                split[key] = found
            return ModulePoint(".".join(path), "out", split[key])
        if head not in component.submodules:
            return f"the block has no {head!r} component"
        component = component.submodules[head]
        if component.name is not None:
            path.append(component.name)
    return f"the architecture adapter declares no {site.hook!r}"


def _features(
    attn: Any, path: list[str], block: nn.Module, part: int
) -> Int[Tensor, " width"] | str:
    """Which output features of a joint qkv projection are q, k or v.

    The adapter knows how to split the matrix; splitting one that holds its own feature
    numbers tells which feature goes where, without a table of families.
    """
    if not hasattr(attn, "split_qkv_matrix"):
        return "the adapter does not say how the joint qkv projection splits"
    module = block.get_submodule(".".join(path[:-1]))
    joint: Any = module.get_submodule(path[-1])
    n_out, n_in = shape_of(joint)
    has_bias = getattr(joint, "bias", None) is not None
    numbered = nn.Linear(1, 1, bias=has_bias)
    numbers = torch.arange(n_out, dtype=torch.float32)
    weight = (
        numbers.expand(n_in, n_out)
        if issubclass(getattr(joint, "source_cls", type(joint)), Conv1D)
        else numbers[:, None].expand(n_out, n_in)
    )
    numbered.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if has_bias:
        numbered.bias = nn.Parameter(numbers, requires_grad=False)
    stand_in: Any = copy.copy(module)
    stand_in.__dict__["_modules"] = dict(module.named_children()) | {path[-1]: numbered}
    try:
        with torch.no_grad():
            split = attn.split_qkv_matrix(stand_in)[part]
    except Exception as error:  # an adapter of fewer layouts than the model has
        return f"the adapter does not split this joint qkv projection ({first_line(error)})"
    return split.weight[:, 0].round().long()


def _width_in(block: nn.Module, point: ModulePoint | None) -> int | None:
    """Input width of a linear (or transposed Conv1D) module."""
    module = None if point is None else block.get_submodule(point.path)
    return getattr(module, "in_features", None) or getattr(module, "nx", None)


# --- bridges -----------------------------------------------------------------------------------


def is_bridge(obj: object) -> bool:
    """Whether `obj` is a `TransformerBridge`; imports nothing unless it could be one."""
    return any(base.__name__ == "TransformerBridge" for base in type(obj).__mro__)


def bridge(hf: nn.Module, tokenizer: Any = None) -> Any:
    """Wrap a model as a `TransformerBridge`, which replaces its modules in place."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(
        hf, type(hf).__name__, hf_config=_config_with_architecture(hf), tokenizer=tokenizer
    )


def bridge_sweep(
    wrapped: Any,
    clean: Int[Tensor, "1 pos"],
    corrupt: Int[Tensor, "1 pos"],
    metric: Callable[[Float[Tensor, "1 pos vocab"]], Float[Tensor, ""]],
    over: str,
) -> Float[Tensor, "layer unit"]:
    """TransformerLens's own sweep: of ``resid_pre`` over ``"pos"``, or of ``z`` over ``"head"``."""
    from transformer_lens import patching

    by_position = patching.get_act_patch_resid_pre
    by_head = patching.get_act_patch_attn_head_out_all_pos
    sweep = by_position if over == "pos" else by_head
    with torch.no_grad():
        _, cache = wrapped.run_with_cache(clean)
        return sweep(wrapped, corrupt, cache, metric).float().cpu()


def unwrap_bridge(wrapped: Any) -> tuple[nn.Module, Any]:
    """A plain Hugging Face model that shares a bridge's weights, and its tokenizer.

    TransformerLens replaces the modules it wraps, so the model inside a bridge no longer
    computes natively; a fresh skeleton takes the very same tensors, unless they were rewritten.
    """
    if getattr(wrapped, "compatibility_mode", False):
        raise ModelError(
            "this TransformerBridge is in compatibility mode, which rewrote its weights; load the "
            "model afresh."
        )
    inner = wrapped.original_model
    with torch.device("meta"):
        plain = type(inner)(inner.config)
    for name, module in plain.named_modules():
        native = _native_module(inner, name)
        for leaf in dict(module.named_parameters(recurse=False)):
            module.register_parameter(leaf, getattr(native, leaf))
        for leaf in dict(module.named_buffers(recurse=False)):
            setattr(module, leaf, getattr(native, leaf))
    plain.config._attn_implementation = "sdpa" if plain._supports_sdpa else "eager"
    return plain, wrapped.tokenizer


def _native_module(root: Any, path: str) -> nn.Module:
    """Follow a path through a wrapped model, stepping past the wrappers."""
    module = getattr(root, "original_component", None) or root
    for name in filter(None, path.split(".")):
        module = getattr(module, name)
        module = getattr(module, "original_component", None) or module
    return module
