"""What projections read and write at anchors, each prompt under the changes of its own edit."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.editing.change import Changes, Place, under
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.prefixed import Row, Run
from interp.forward.blocks import first_output
from interp.forward.budget import default_budget
from interp.forward.projections import READERS, WRITERS, projection
from interp.model.model import Model

Pick = Callable[[Tensor, Any], Tensor]


def module_at(model: Model, place: Place) -> nn.Module:
    """The module whose output is what is written at a place; ``"resid_post"`` is the block itself.

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
    """Inputs of projections at each prompt's anchor, all from one forward pass.

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


def plain_keys(
    model: Model, prompts: Sequence[EditPrompt], places: Sequence[Place]
) -> dict[Place, Float[Tensor, "prompt d_in"]]:
    """`keys_at` of the model as it is."""
    return keys_at(model, prompts, places, [()], torch.zeros(len(prompts), dtype=torch.long))


def _captured(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
    pick: Pick,
) -> dict[Place, Float[Tensor, "prompt width"]]:
    rows = [
        Row(edit, prompt.ids[: prompt.n_shown], prompt.ids[prompt.n_shown : prompt.anchor + 1])
        for prompt, edit in zip(prompts, owner.tolist(), strict=True)
    ]
    out: dict[Place, list[Tensor]] = {place: [torch.empty(0)] * len(rows) for place in places}
    for group in _batched(rows, default_budget(model)):
        got = _read(model, [rows[i] for i in group], places, edits, pick)
        for place, values in got.items():
            for i, value in zip(group, values, strict=True):
                out[place][i] = value
    return {place: torch.stack(values) for place, values in out.items()}


def _batched(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Rows with, and rows without, a shared beginning, a batch of at most so many tokens.

    Rows of one edit are neighbours, so that what they share is read once.
    """
    groups: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(rows)), key=lambda i: (bool(rows[i].shared), rows[i].edit)):
        longest = max(longest, len(rows[i].rest))
        fits = groups and (len(groups[-1]) + 1) * longest <= tokens
        if fits and bool(rows[groups[-1][0]].shared) == bool(rows[i].shared):
            groups[-1].append(i)
        else:
            groups.append([i])
            longest = len(rows[i].rest)
    return groups


class _Deepest(Exception):
    """Ends a run behind the last place."""


@torch.no_grad()
def _read(
    model: Model,
    rows: Sequence[Row],
    places: Sequence[Place],
    edits: Sequence[Changes],
    pick: Pick,
) -> dict[Place, Float[Tensor, "row width"]]:
    got: dict[Place, Tensor] = {}

    def take(place: Place) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            got[place] = pick(args[0], output)[:, -1].clone()

        return hook

    def stop(*_: Any) -> None:
        raise _Deepest

    run = Run.start(model, rows, edits)
    deepest = model.blocks[max(layer for _, layer in places)]
    with contextlib.ExitStack() as stack:
        # before the hooks that take, so that they see what is changed
        stack.enter_context(under(model, edits, run.owner))
        for place in places:
            stack.callback(module_at(model, place).register_forward_hook(take(place)).remove)
        stack.callback(deepest.register_forward_hook(stop).remove)
        with contextlib.suppress(_Deepest):
            run.read(model)
    return got
