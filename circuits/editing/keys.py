"""What writing projections read and write at anchors, each prompt under its edit's changes."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.editing.changes import Changes, under
from circuits.editing.prompting import EditPrompt
from interp.blocks import first_output
from interp.calls import record_layer_calls
from interp.model import Model
from interp.projections import WRITERS, writer
from interp.prompts import batches, pad
from interp.running import default_budget

Place = tuple[str, int]
"""(site that a writing projection reads, layer); the site ``"resid_post"`` stands for a layer's
own output."""


def module_at(model: Model, place: Place) -> nn.Module:
    """The module whose output is what is written at a place.

    Raises:
        SiteError: no such projection.
    """
    site, layer = place
    return writer(model, site, layer) if site in WRITERS else model.blocks[layer]


def keys_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    place: Place,
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
) -> Float[Tensor, "prompt d_in"]:
    """Inputs of a writing projection at each prompt's anchor.

    Args:
        model: the model.
        prompts: read up to their anchors only.
        place: which projection.
        edits: changes by edit.
        owner: each prompt's edit.

    Raises:
        SiteError: no such projection.
    """
    return _captured(model, prompts, place, edits, owner, lambda x, out: x)


def outputs_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    place: Place,
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
) -> Float[Tensor, "prompt d_model"]:
    """What is written at each prompt's anchor; otherwise as `keys_at`."""
    return _captured(model, prompts, place, edits, owner, lambda x, out: first_output(out))


@torch.no_grad()
def _captured(
    model: Model,
    prompts: Sequence[EditPrompt],
    place: Place,
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
    pick: Any,
) -> Float[Tensor, "prompt width"]:
    rows = [prompt.key_tokens for prompt in prompts]
    out: list[Tensor] = [torch.empty(0)] * len(rows)
    for group in batches(rows, default_budget(model)):
        ids, mask = pad(model, [rows[i] for i in group])
        calls = record_layer_calls(model, ids, mask)
        hidden, got = calls.embeddings, list[Tensor]()
        with under(model, edits, owner[group]):
            hook = module_at(model, place).register_forward_hook(_keep(got, pick))
            try:
                for layer in range(1 + place[1]):
                    hidden = first_output(model.blocks[layer](hidden, **calls.kwargs[layer]))
            finally:
                hook.remove()
        for i, value in zip(group, got[-1][:, -1], strict=True):
            out[i] = value
    return torch.stack(out)


def _keep(got: list[Tensor], pick: Any) -> Any:
    def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        got.append(pick(args[0], output))

    return keep
