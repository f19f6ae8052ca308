"""What a key has to do with its fact: how keys vary within facts, asked in other words.

A closed form that is small in M = S^-1 ignores directions in which S is large. With S the scatter
of keys *within* facts, M is Fisher's: what changes with the wording does not count, what tells
facts apart does. S is learnt from facts that are not edited.
"""

from collections.abc import Sequence

import torch

from circuits.editing.keys import Place, keys_at
from circuits.editing.moments import Moment, MomentError, Moments
from circuits.editing.prompting import EditPrompt
from interp.model import Model

WITHIN = 0.9
"""Weight of the scatter within facts, against the second moment of all keys."""
SHRINKAGE = 0.01
"""Added to the diagonal, as a part of its mean: there are fewer questions than directions."""


def question_moments(
    model: Model, places: Sequence[Place], facts: Sequence[Sequence[EditPrompt]]
) -> Moments:
    """Moments of keys at the anchors of questions, mostly within facts.

    S = w S_within + (1 - w) E[k k^T] + shrinkage, with S_within the covariance around each
    fact's mean. Source: Fisher's discriminant, with its scatter pooled over classes that are not
    those to be told apart.

    Args:
        model: the unedited model.
        places: which projections.
        facts: the prompts of each fact in different words, anchored alike; facts with one prompt
            count in the moment of all keys alone.

    Raises:
        MomentError: no fact has two prompts.
    """
    rows = [prompt for prompts in facts for prompt in prompts]
    sizes = [len(prompts) for prompts in facts]
    if max(sizes, default=0) < 2:
        raise MomentError("no fact is asked in two ways; give more prompts a fact.")
    keys = keys_at(model, rows, places, [()], torch.zeros(len(rows), dtype=torch.long))
    out: Moments = {}
    for place, found in keys.items():
        k = found.double().cpu()
        deviations = torch.cat([part - part.mean(0) for part in k.split(sizes)])
        within = deviations.T @ deviations / (len(rows) - len(sizes))
        matrix = WITHIN * within + (1 - WITHIN) * (k.T @ k) / len(rows)
        ridge = SHRINKAGE * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
        out[place] = Moment(matrix + ridge, len(rows), f"{len(facts)} facts in other words")
    return out
