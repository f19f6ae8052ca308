"""Does padding, or a KV cache, change a model's numbers? Measured at load; no config says so."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.prompts import TokenPrompt
from interp.forward.layer_calls import positions_and_mask
from interp.forward.prefix_cache import PrefixCache, keeps_keys
from interp.loading.fitting import probe_ids
from interp.model.model import Model

CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Relative difference of logits that is rounding; in 16 bits .3, as routing may turn over."""
GAP = 32
"""Columns without tokens between what is in the cache and what is read behind it."""


def with_padding(model: Model) -> Model:
    """The model, knowing whether it takes positions, leaves padding out and can use a cache."""
    with torch.no_grad():
        alone = _last_logits(model, 0, masked=False)
        given = _same(alone, _last_logits, model, 0)
        model = replace(model, arch=replace(model.arch, given_positions=given))
        ignored = _same(alone, _last_logits, model, 3)
        model = replace(model, arch=replace(model.arch, left_padding=ignored))
        cached = not keeps_keys(model) or _same(alone, _logits_behind_cache, model, 0)
        # where this fails beginnings are not shared, which costs only time: rounding alone may pass
        gaps = cached and keeps_keys(model) and _same(alone, _logits_behind_cache, model, GAP, 0.05)
    return replace(model, arch=replace(model.arch, cached=cached, gaps=gaps))


def _logits_behind_cache(model: Model, gap: int) -> Float[Tensor, "1 vocab"]:
    """The last tokens are read behind a cache, one by one, the first of them after a gap."""
    *ids, before, last = probe_ids(model)[0].tolist()
    cache = PrefixCache.of(model, [TokenPrompt(tuple(ids))])
    for new in ([0] * gap + [before], [last]):
        cache.read(model)
        tokens = torch.tensor([new], device=cache.ids.device)
        cache.append(tokens, torch.arange(1 - len(new), 1, device=tokens.device)[None] == 0)
    return model.arch.logits_transform(model.unembed(cache.read(model)[:, -1]).float())


def _last_logits(model: Model, left: int, masked: bool = True) -> Float[Tensor, "1 vocab"]:
    blank = model.blank
    ids = torch.nn.functional.pad(probe_ids(model), (left, 0), value=blank)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :left] = False
    given = positions_and_mask(model, mask) if masked else {}
    return model.hf(input_ids=ids, use_cache=False, **given).logits[:, -1].float()


def _same(
    alone: Tensor, read: Callable[..., Tensor], model: Model, given: int, narrow: float = 0.3
) -> bool:
    """Whether the logits stay where they are read in another way."""
    try:
        off = (read(model, given) - alone).norm()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model that takes no such arguments, or whose cache is of another kind
        return False
    return float(off) <= CLOSE.get(model.dtype, narrow) * float(alone.norm())
