"""What writing projections read and write at anchors, each prompt under its edit's changes."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.editing.changes import Changes, under
from circuits.editing.prefixed import Row, Run
from circuits.editing.prompting import EditPrompt
from interp.forward.blocks import first_output
from interp.forward.budget import default_budget
from interp.forward.projections import READERS, WRITERS, projection
from interp.model.model import Model

Place = tuple[str, int]
"""(site that a writing projection reads, layer); the site ``"resid_post"`` stands for a layer's
own output."""


def module_at(model: Model, place: Place) -> nn.Module:
    """The module whose output is what is written at a place.

    Raises:
        PlanError: no such projection.
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
        PlanError: no such projection.
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


def _captured(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
    pick: Any,
) -> dict[Place, Float[Tensor, "prompt width"]]:
    rows = [_row(prompt, edit) for prompt, edit in zip(prompts, owner.tolist(), strict=True)]
    out: dict[Place, list[Tensor]] = {place: [torch.empty(0)] * len(rows) for place in places}
    # rows of one edit in one batch, so that what they share is read once
    order = sorted(range(len(rows)), key=lambda i: (bool(rows[i].shared), rows[i].edit))
    for group in _batched(order, rows, default_budget(model)):
        got = _read(model, [rows[i] for i in group], places, edits, pick)
        for place, values in got.items():
            for i, value in zip(group, values, strict=True):
                out[place][i] = value
    return {place: torch.stack(values) for place, values in out.items()}


def _row(prompt: EditPrompt, edit: int) -> Row:
    ids, n = prompt.key_tokens.ids, prompt.n_shown
    return Row(edit, ids[:n], ids[n:])


def _batched(order: Sequence[int], rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Rows with, and rows without, a shared beginning, a batch of at most so many tokens."""
    groups: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, len(rows[i].rest))
        fits = groups and (len(groups[-1]) + 1) * longest <= tokens
        if fits and bool(rows[groups[-1][0]].shared) == bool(rows[i].shared):
            groups[-1].append(i)
        else:
            groups.append([i])
            longest = len(rows[i].rest)
    return groups


class _Reached(Exception):
    """Ends a run behind the last place."""


@torch.no_grad()
def _read(
    model: Model,
    rows: Sequence[Row],
    places: Sequence[Place],
    edits: Sequence[Changes],
    pick: Any,
) -> dict[Place, Float[Tensor, "row width"]]:
    run, got = Run.start(model, rows, edits), dict[Place, Tensor]()
    deepest = model.blocks[max(layer for _, layer in places)]
    with contextlib.ExitStack() as stack:
        # before the hooks that keep, so that they see what is changed
        stack.enter_context(under(model, edits, run.owner))
        for place in places:
            hook = _keep(got, place, pick)
            stack.callback(module_at(model, place).register_forward_hook(hook).remove)
        stack.callback(deepest.register_forward_hook(_reach).remove)
        with contextlib.suppress(_Reached):
            run.read(model)
    return got


def _reach(*_: Any) -> None:
    raise _Reached


def _keep(got: dict[Place, Tensor], place: Place, pick: Any) -> Any:
    def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        got[place] = pick(args[0], output)[:, -1].clone()

    return keep
