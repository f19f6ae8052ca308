"""How others run the same sweep: one forward pass a cell. For parity tests and benchmarks.

`hooks` works for every site and is the definition that `interp.patch` must equal; the sweeps of
TransformerLens and nnsight are those libraries' own.
"""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.data.pairs import TokenPair
from interp.errors import InterpError, did_you_mean
from interp.forward.hooks import hooked
from interp.interventions import nnsight as nnsight_engine
from interp.model.architecture import bridge, bridge_sweep_resid_pre, bridge_sweep_z
from interp.model.model import Model
from interp.model.sites import SITES, Site

PEERS = ("hooks", "transformer-lens", "nnsight")


def logit_diff(pair: TokenPair) -> Callable[[Float[Tensor, "1 pos vocab"]], Float[Tensor, ""]]:
    """The metric every peer reads: logit(answer) - logit(wrong answer) at the last token."""

    def difference(logits: Tensor) -> Tensor:
        last = logits[0, -1].float()
        return last[pair.answer] - last[pair.wrong_answer]

    return difference


def prompts_of(model: Model, pair: TokenPair) -> tuple[Int[Tensor, "1 pos"], Int[Tensor, "1 pos"]]:
    """The clean and the corrupt prompt, each a batch of one."""
    both = (pair.clean, pair.corrupt)
    clean, corrupt = (torch.tensor([ids], device=model.device) for ids in both)
    return clean, corrupt


def activation(
    model: Model, site: Site, layer: int, ids: Int[Tensor, "1 pos"]
) -> Float[Tensor, "1 pos width"]:
    """One site's activation in a plain forward pass."""
    kept: list[Tensor] = []
    with torch.no_grad(), hooked(model, [(site, layer, lambda a: kept.append(a.clone()))]):
        model.hf(input_ids=ids, use_cache=False)
    return kept[0]


def patched_logits(
    model: Model,
    base: Int[Tensor, "1 pos"],
    site: Site,
    layers: Sequence[int],
    positions: Sequence[int],
    features: Sequence[int] | None,
    source: dict[int, Float[Tensor, "1 pos width"]],
) -> Float[Tensor, "1 pos vocab"]:
    """One full forward with one intervention: the definition of activation patching.

    Args:
        model: the model.
        base: the prompt that is run.
        site: what is replaced.
        layers: in which layers.
        positions: at which tokens.
        features: which features; ``None`` for all.
        source: the other prompt's activation, by layer.
    """

    def replace(layer: int) -> Callable[[Tensor], None]:
        def edit(act: Tensor) -> None:
            for p in positions:
                chosen = slice(None) if features is None else list(features)
                act[:, p, chosen] = source[layer][:, p, chosen]

        return edit

    edits = [(site, layer, replace(layer)) for layer in layers]
    with torch.no_grad(), hooked(model, edits):
        return model.hf(input_ids=base, use_cache=False).logits


def sweep_with_hooks(
    model: Model,
    pair: TokenPair,
    site: str,
    over: tuple[str, str] = ("layer", "pos"),
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer other"]:
    """Denoising sweep over layer x position or layer x head, one forward a cell."""
    chosen = range(model.arch.n_layers) if layers is None else layers
    where = SITES[site]
    clean, corrupt = prompts_of(model, pair)
    n_pos, d = len(pair.clean), model.arch.d_head
    metric = logit_diff(pair)
    others = range(n_pos) if over[1] == "pos" else range(model.n_units(where))
    values = torch.zeros(len(chosen), len(others))
    for row, layer in enumerate(chosen):
        source = {layer: activation(model, where, layer, clean)}
        for other in others:
            positions = [other] if over[1] == "pos" else range(n_pos)
            features = None if over[1] == "pos" else range(other * d, (other + 1) * d)
            logits = patched_logits(model, corrupt, where, [layer], positions, features, source)
            values[row, other] = metric(logits)
    return values


def peer_sweep(
    name: str, model: Model, pair: TokenPair, over: tuple[str, str]
) -> Callable[[], Tensor]:
    """A prepared run of one peer's sweep: over ``resid_pre`` by position, or ``z`` by head.

    Raises:
        InterpError: unknown peer, or nnsight asked for heads.
    """
    clean, corrupt = prompts_of(model, pair)
    metric = logit_diff(pair)
    if name == "hooks":
        site = "resid_pre" if over[1] == "pos" else "z"
        return lambda: sweep_with_hooks(model, pair, site, over)
    if name == "transformer-lens":
        wrapped = bridge(copy.deepcopy(model.hf))
        run = bridge_sweep_resid_pre if over[1] == "pos" else bridge_sweep_z
        return lambda: _no_grad(run, wrapped, clean, corrupt, metric)
    if name == "nnsight" and over[1] == "pos":
        traced = nnsight_engine.traced(model)
        return lambda: nnsight_engine.sweep_resid_pre(traced, model, clean, corrupt, metric)
    if name == "nnsight":
        raise InterpError("the nnsight peer sweeps positions only; leave it out for heads.")
    raise InterpError(f"unknown peer {name!r}. {did_you_mean(name, PEERS)}")


def _no_grad(run: Callable[..., Tensor], *args: Any) -> Tensor:
    with torch.no_grad():
        return run(*args).float().cpu()


def bound_seconds(model: Model, n_pos: int, over: tuple[str, str] = ("layer", "pos")) -> float:
    """Time of the matrix products alone that a layer x position (or head) sweep must pass.

    Every cell's row, all positions, through every linear map of its own and later layers, each
    map once with the whole batch, timed here and now. Nothing else a layer does is counted.
    """
    a = model.arch
    cells = n_pos if over[1] == "pos" else a.n_heads
    seconds = 0.0
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            rows = (layer + 1) * cells * n_pos
            for module in block.modules():
                if _is_linear(module):
                    x = torch.randn(rows, _fan_in(module), device=model.device, dtype=model.dtype)
                    seconds += _timed(module, x)
    return seconds


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _fan_in(module: Any) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]


def _timed(module: nn.Module, x: Tensor) -> float:
    _synchronise(x.device)
    start = time.perf_counter()
    module(x)
    _synchronise(x.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
