"""The same sweep through nnsight, one trace a cell. The only module that imports `nnsight`.

nnsight is imported inside functions: it patches `object` and `Tensor.backward`, and reads
``-v`` from the command line.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InterpError
from interp.model import Model


def traced(model: Model) -> Any:
    """Wrap a copy of the model for nnsight, which hooks itself into every module's forward.

    Raises:
        InterpError: nnsight is not installed.
    """
    try:
        from nnsight import NNsight
    except ImportError as error:
        raise InterpError(
            "nnsight is not installed; pip install 'interp-circuits[nnsight]'."
        ) from error
    return NNsight(copy.deepcopy(model.hf))


def sweep_resid_pre(
    wrapped: Any,
    model: Model,
    clean: Int[Tensor, "1 pos"],
    corrupt: Int[Tensor, "1 pos"],
    metric: Callable[[Float[Tensor, "1 pos vocab"]], Float[Tensor, ""]],
) -> Float[Tensor, "layer pos"]:
    """Layer x position sweep over ``resid_pre``: record once, then one trace a cell."""
    path = model.arch.blocks
    n_layers, n_pos = model.arch.n_layers, clean.shape[1]
    values = torch.zeros(n_layers, n_pos)
    with torch.no_grad():
        source = _block_inputs(wrapped, path, n_layers, clean)
        for layer in range(n_layers):
            for pos in range(n_pos):
                values[layer, pos] = _one_cell(wrapped, path, corrupt, layer, pos, source, metric)
    return values


def _blocks(wrapped: Any, path: str) -> Any:
    for name in path.split("."):
        wrapped = getattr(wrapped, name)
    return wrapped


def _block_inputs(wrapped: Any, path: str, n_layers: int, ids: Tensor) -> list[Tensor]:
    import nnsight

    blocks = _blocks(wrapped, path)
    with wrapped.trace(ids):
        # nnsight ends the block early; only names saved inside it survive.
        inputs = nnsight.save([blocks[i].input for i in range(n_layers)])
    return inputs  # noqa: RET504


def _one_cell(
    wrapped: Any,
    path: str,
    ids: Tensor,
    layer: int,
    pos: int,
    source: list[Tensor],
    metric: Callable[[Tensor], Tensor],
) -> Tensor:
    import nnsight

    block = _blocks(wrapped, path)[layer]
    replacement = source[layer][:, pos]
    with wrapped.trace(ids):
        block.input[:, pos] = replacement
        logits = nnsight.save(wrapped.output.logits)
    return metric(logits)
