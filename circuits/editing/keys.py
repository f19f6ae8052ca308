"""What writing projections read and write at anchors, each prompt under its edit's changes."""

import contextlib
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
from interp.projections import READERS, WRITERS, projection
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
    named = site in WRITERS + READERS
    return projection(model, site, layer) if named else model.blocks[layer]


def keys_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
) -> dict[Place, Float[Tensor, "prompt d_in"]]:
    """Inputs of writing projections at each prompt's anchor, all from one forward pass.

    Args:
        model: the model.
        prompts: read up to their anchors only.
        places: which projections.
        edits: changes by edit.
        owner: each prompt's edit.

    Raises:
        SiteError: no such projection.
    """
    return _captured(model, prompts, places, edits, owner, lambda x, out: x)


def outputs_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    place: Place,
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
) -> Float[Tensor, "prompt d_model"]:
    """What is written at each prompt's anchor; otherwise as `keys_at`."""
    found = _captured(model, prompts, [place], edits, owner, lambda x, out: first_output(out))
    return found[place]


@torch.no_grad()
def _captured(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
    pick: Any,
) -> dict[Place, Float[Tensor, "prompt width"]]:
    rows = [prompt.key_tokens for prompt in prompts]
    out: dict[Place, list[Tensor]] = {place: [torch.empty(0)] * len(rows) for place in places}
    for group in batches(rows, default_budget(model)):
        ids, mask = pad(model, [rows[i] for i in group])
        calls = record_layer_calls(model, ids, mask)
        hidden, got = calls.embeddings, dict[Place, Tensor]()
        with contextlib.ExitStack() as stack:
            stack.enter_context(under(model, edits, owner[group]))
            for place in places:
                hook = _keep(got, place, pick)
                stack.callback(module_at(model, place).register_forward_hook(hook).remove)
            for layer in range(1 + max(layer for _, layer in places)):
                hidden = first_output(model.blocks[layer](hidden, **calls.kwargs[layer]))
        for place, values in got.items():
            for i, value in zip(group, values, strict=True):
                out[place][i] = value
    return {place: torch.stack(values) for place, values in out.items()}


def _keep(got: dict[Place, Tensor], place: Place, pick: Any) -> Any:
    def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        got[place] = pick(args[0], output)[:, -1].clone()

    return keep
