"""Prompts without an emotion word, by which directions found under words are tried."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.activations import Progress, last_activations
from circuits.emotion.data import EMOTIONS, NEUTRAL, Reply, Vignette
from circuits.emotion.directions import Directions
from circuits.emotion.frames import Frames, Prompt
from circuits.emotion.situations import Asking, Situation
from circuits.emotion.states import Group
from circuits.emotion.tokens import token_prompt
from circuits.emotion.transfer import Reading, read_states
from interp.errors import DataError
from interp.model.model import Model

DEMONSTRATIONS = "demonstrations"
REPLIES = "replies"


def demonstration_groups(model: Model, asking: Asking, texts: Sequence[Situation]) -> list[Group]:
    """Each text after three replies in the emotion that it is read for, without its name."""
    return [
        Group(
            tuple(
                token_prompt(model, asking.prompt("demonstrations", text, emotion))
                for emotion in range(len(EMOTIONS))
            ),
            text.id,
            text.theme,
            DEMONSTRATIONS,
        )
        for text in texts
    ]


def reply_groups(model: Model, frames: Frames, replies: Sequence[Reply]) -> list[Group]:
    """Each event with its reply in all emotions: what is read is the reply's last token.

    Raises:
        DataError: an event lacks an emotion.
    """
    by_event: dict[str, dict[str, Reply]] = {}
    for reply in replies:
        by_event.setdefault(reply.event_id, {})[reply.emotion] = reply
    groups: list[Group] = []
    for event, row in by_event.items():
        missing = [emotion for emotion in EMOTIONS if emotion not in row]
        if missing:
            raise DataError(f"event {event} has no reply in {missing[0]}; leave it out.")
        query = frames.demonstrations.query
        prompts = tuple(
            token_prompt(model, Prompt(query.format(scenario=r.scenario, event=r.event) + r.text))
            for r in (row[emotion] for emotion in EMOTIONS)
        )
        # the event is what intervals resample: a text's id ends in what is left off for that
        groups.append(Group(prompts, f"{event}_{REPLIES}", row[EMOTIONS[0]].theme, REPLIES))
    return groups


def vignette_states(
    model: Model,
    frames: Frames,
    vignettes: Sequence[Vignette],
    progress: Progress | None = None,
) -> Float[Tensor, "vignette layer d_model"]:
    """States after each block at the last token of the prompt around each vignette."""
    prompts = [
        token_prompt(model, Prompt(frames.vignette.format(text=one.text))) for one in vignettes
    ]
    return last_activations(model, prompts, progress=progress).resid_post


def read_vignettes(
    directions: Directions,
    x: Float[Tensor, "vignette layer d_model"],
    vignettes: Sequence[Vignette],
) -> list[Reading]:
    """Read vignettes of the six emotions, less two origins.

    ``vignettes``: less the mean over emotions of their means (the design is balanced);
    ``vignettes, neutral origin``: less the mean of the vignettes without an emotion, which needs
    no knowledge of the others.
    """
    labels = [one.emotion for one in vignettes]
    of = {e: x[[i for i, label in enumerate(labels) if label == e]].mean(0) for e in set(labels)}
    kept = [i for i, label in enumerate(labels) if label != NEUTRAL]
    own, said = x[kept], [labels[i] for i in kept]
    balanced = torch.stack([of[e] for e in EMOTIONS]).mean(0)
    return [
        read_states(directions, own, said, origin, name)
        for name, origin in (("vignettes", balanced), ("vignettes, neutral origin", of[NEUTRAL]))
    ]
