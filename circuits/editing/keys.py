"""What projections read and write at anchors, each prompt under the changes of its own edit."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.editing.change import Changes, Place, under
from circuits.editing.fact_prompts import EditPrompt
from interp.forward.blocks import READERS, WRITERS, first_output, projection
from interp.forward.budget import default_budget
from interp.forward.prefix_cache import PrefixCache
from interp.model.model import Model

Pick = Callable[[Tensor, Any], Tensor]


def module_at(model: Model, place: Place) -> nn.Module:
    """The module that writes at a place; of ``"resid_post"`` the block itself."""
    return projection(model, *place) if place[0] in WRITERS + READERS else model.blocks[place[1]]


def keys_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes] = ((),),
    owner: Int[Tensor, " prompt"] | None = None,
    pick: Pick = lambda x, out: x,
) -> dict[Place, Float[Tensor, "prompt d_in"]]:
    """Inputs of projections at each prompt's anchor, all from one forward pass.

    Each prompt is read under the changes of the edit that `owner` numbers, by default the first.
    """
    out: dict[Place, list[Tensor]] = {place: [torch.empty(0)] * len(prompts) for place in places}
    owner = torch.zeros(len(prompts), dtype=torch.long) if owner is None else owner
    for group in _batched(prompts, owner.tolist(), default_budget(model)):
        with torch.no_grad():
            got = _read(model, [prompts[i] for i in group], places, edits, owner[group], pick)
        for place, values in got.items():
            for i, value in zip(group, values, strict=True):
                out[place][i] = value
    return {place: torch.stack(values) for place, values in out.items()}


def outputs_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    place: Place,
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
) -> Float[Tensor, "prompt d_model"]:
    """What is written at each prompt's anchor; otherwise as `keys_at`."""
    return keys_at(model, prompts, [place], edits, owner, lambda x, out: first_output(out))[place]


def _batched(prompts: Sequence[EditPrompt], owner: Sequence[int], tokens: int) -> list[list[int]]:
    """Prompts with, and prompts without, a shared beginning, a batch of at most so many tokens.

    Those of one edit are neighbours, so that what they share is read once.
    """
    groups: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(prompts)), key=lambda i: (bool(prompts[i].n_shown), owner[i])):
        n = prompts[i].anchor + 1 - prompts[i].n_shown
        longest = max(longest, n)
        fits = groups and (len(groups[-1]) + 1) * longest <= tokens
        if fits and bool(prompts[groups[-1][0]].n_shown) == bool(prompts[i].n_shown):
            groups[-1].append(i)
        else:
            groups.append([i])
            longest = n
    return groups


class _Deepest(Exception):
    """Ends a run behind the last place."""


def _read(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
    pick: Pick,
) -> dict[Place, Float[Tensor, "prompt width"]]:
    got: dict[Place, Tensor] = {}

    def take(place: Place) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            got[place] = pick(args[0], output)[:, -1].clone()

        return hook

    def stop(*_: Any) -> None:
        raise _Deepest

    cache = PrefixCache.sharing(
        model,
        [prompt.key_tokens for prompt in prompts],
        [prompt.n_shown for prompt in prompts],
        owner=owner.tolist(),
        during=lambda owners: under(model, edits, owners),
        room=0,
    )
    deepest = model.blocks[max(layer for _, layer in places)]
    with contextlib.ExitStack() as stack:
        # before the hooks that take, so that they see what is changed
        stack.enter_context(under(model, edits, owner))
        for place in places:
            stack.callback(module_at(model, place).register_forward_hook(take(place)).remove)
        stack.callback(deepest.register_forward_hook(stop).remove)
        with contextlib.suppress(_Deepest):
            cache.read(model)
    return got
