"""Does padding change a model's numbers? Measured at load, since no config says so."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.layer_calls import positions_and_mask
from interp.loading.fitting import probe_ids
from interp.model.model import Model

CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Relative difference of logits that is rounding; in 16 bits .3, as routing may turn over."""


def with_padding(model: Model) -> Model:
    """The model, knowing whether it takes positions and leaves padding on the left out."""
    with torch.no_grad():
        alone = _last_logits(model, 0, masked=False)
        given = _same(model, alone, 0)
        model = replace(model, arch=replace(model.arch, given_positions=given))
        ignored = _same(model, alone, 3)
    return replace(model, arch=replace(model.arch, left_padding=ignored))


def _last_logits(model: Model, left: int, masked: bool = True) -> Float[Tensor, "1 vocab"]:
    ids = torch.nn.functional.pad(
        probe_ids(model), (left, 0), value=model.tokenizer.pad_token_id or 0
    )
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :left] = False
    given = positions_and_mask(model, mask) if masked else {}
    return model.hf(input_ids=ids, use_cache=False, **given).logits[:, -1].float()


def _same(model: Model, alone: Tensor, left: int) -> bool:
    """Whether the logits stay with a mask, positions and so much padding in front."""
    try:
        off = (_last_logits(model, left) - alone).norm()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model that takes no such arguments
        return False
    return float(off) <= CLOSE.get(model.dtype, 0.3) * float(alone.norm())
