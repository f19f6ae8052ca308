"""What a key has to do with its fact: how keys vary within facts, asked in other words.

A closed form that is small in M = S^-1 ignores directions in which S is large. With S the scatter
of keys *within* facts, M is Fisher's: what changes with the wording does not count, what tells
facts apart does. S is learnt from facts that are not edited.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.keys import Place, keys_at
from circuits.editing.moments import Moment, Moments
from circuits.editing.prompting import EditPrompt
from interp.errors import PlanError
from interp.model.model import Model

WITHIN = 0.9
"""Weight of the scatter within facts, against the second moment of all keys."""
SHRINKAGE = 0.01
"""Added to the diagonal, as a part of its mean: there are fewer questions than directions."""


def question_moments(
    model: Model, places: Sequence[Place], facts: Sequence[Sequence[EditPrompt]]
) -> Moments:
    """Moments of keys at the anchors of questions, mostly within facts (`scatter`).

    Args:
        model: the unedited model.
        places: which projections.
        facts: the prompts of each fact in different words, anchored alike.

    Raises:
        PlanError: no fact has two prompts.
    """
    return {at: scatter(groups) for at, groups in keys_by_fact(model, places, facts).items()}


def keys_by_fact(
    model: Model, places: Sequence[Place], facts: Sequence[Sequence[EditPrompt]]
) -> dict[Place, list[Float[Tensor, "prompt d_in"]]]:
    """Keys at the anchors of each fact's prompts."""
    rows = [prompt for prompts in facts for prompt in prompts]
    keys = keys_at(model, rows, places, [()], torch.zeros(len(rows), dtype=torch.long))
    sizes = [len(prompts) for prompts in facts]
    return {at: list(found.double().cpu().split(sizes)) for at, found in keys.items()}


def scatter(groups: Sequence[Float[Tensor, "prompt d_in"]]) -> Moment:
    """S = w S_within + (1 - w) E[k k^T] + shrinkage, S_within being the covariance around means.

    Source: Fisher's discriminant, with its scatter pooled over classes that are not those to be
    told apart.

    Args:
        groups: keys of each fact; facts with one key count in the moment of all keys alone.

    Raises:
        PlanError: no fact has two keys.
    """
    if max(map(len, groups), default=0) < 2:
        raise PlanError("no fact is asked in two ways; give more prompts a fact.")
    k = torch.cat(list(groups))
    deviations = torch.cat([part - part.mean(0) for part in groups])
    within = deviations.T @ deviations / (len(k) - len(groups))
    matrix = WITHIN * within + (1 - WITHIN) * (k.T @ k) / len(k)
    ridge = SHRINKAGE * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
    return Moment(matrix + ridge, len(k), f"{len(groups)} facts in other words")
