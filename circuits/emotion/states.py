"""`States`: last-token activations of complete groups, one text in all six emotions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.prompts import EmotionPrompt, Frames, ReplyPrompts, token_prompt
from circuits.emotion.texts import EMOTIONS, VALENCES, Reply, Scenario, Situation
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, did_you_mean
from interp.interventions.last_token import last_activations
from interp.model.model import Model
from interp.progress import Progress

TENSORS = ("resid_mid", "resid_post", "z", "mlp_post")
LABELS_OF = ("themes", "texts", "styles")
DEMONSTRATIONS, REPLIES = "demonstrations", "replies"


@brief
@dataclass(frozen=True)
class EmotionGroup:
    """One text in all emotions, in the order of `EMOTIONS`.

    The text's id is its scenario's, ``_`` and what sets it apart, such as the valence.
    """

    prompts: tuple[TokenPrompt, ...]
    text: str
    theme: str
    style: str

    @property
    def scenario(self) -> str:
        """Id of the scenario, which intervals resample."""
        return scenario_of(self.text)


def scenario_of(text: str) -> str:
    """The scenario's part of a text's id."""
    return text.rpartition("_")[0] or text


@brief
@dataclass(frozen=True)
class States:
    """Last-token activations of complete groups, as `last_activations` gives them."""

    resid_mid: Float[Tensor, "group emotion layer d_model"]
    resid_post: Float[Tensor, "group emotion layer d_model"]
    z: Float[Tensor, "group emotion layer head d_head"]
    mlp_post: Float[Tensor, "group emotion layer neuron"]
    themes: tuple[str, ...]
    texts: tuple[str, ...]
    styles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.themes)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenario of each group."""
        return tuple(map(scenario_of, self.texts))

    def only(self, groups: Sequence[int]) -> "States":
        """Some of the groups."""
        chosen = torch.tensor(groups, dtype=torch.long)
        parts: dict[str, Any] = {name: getattr(self, name)[chosen] for name in TENSORS}
        for name in LABELS_OF:
            parts[name] = tuple(getattr(self, name)[i] for i in groups)
        return replace(self, **parts)

    def of_style(self, style: str) -> "States":
        """The groups of one style; `DataError` where there is none."""
        chosen = [i for i, one in enumerate(self.styles) if one == style]
        if not chosen:
            raise DataError(f"no group has the style {style!r}. {did_you_mean(style, self.styles)}")
        return self.only(chosen)


def centred(x: Float[Tensor, "group emotion ..."]) -> Float[Tensor, "group emotion ..."]:
    """Activations minus their mean over a group's emotions: what the prompts share goes out."""
    return x - x.mean(1, keepdim=True)


def states(
    model: Model, groups: Sequence[EmotionGroup], progress: Progress | None = None
) -> States:
    """Run every prompt of the groups once; what several prompts begin with runs once for all.

    Raises:
        DataError: there is no group, or one lacks an emotion.
    """
    n = len(EMOTIONS)
    if not groups:
        raise DataError("there are no groups; give at least one text in all emotions.")
    for group in groups:
        if len(group.prompts) != n:
            raise DataError(
                f"the group of {group.text} has {len(group.prompts)} prompts; it takes one for "
                f"each of {', '.join(EMOTIONS)}, and incomplete groups are to be left out."
            )
    found = last_activations(model, [one for group in groups for one in group.prompts], progress)
    return States(
        **{name: found[name].unflatten(0, (len(groups), n)) for name in TENSORS},
        themes=tuple(group.theme for group in groups),
        texts=tuple(group.text for group in groups),
        styles=tuple(group.style for group in groups),
    )


def groups_of(
    model: Model,
    scenarios: Sequence[Scenario],
    frames: Frames,
    styles: Sequence[str],
    *,
    double_bos: bool = False,
) -> list[EmotionGroup]:
    """Each scenario with each of its events in all emotions; styles are used in turn.

    Text i is put in style i modulo their number, valences rotating against styles so that every
    style sees every valence. A style that the frames lack is a `DataError`.
    """
    words = [frames.style(style) for style in styles]
    out: list[EmotionGroup] = []
    for row, scenario in enumerate(scenarios):
        for column, valence in enumerate(VALENCES):
            which = (row + column) % len(styles)
            frame, of = words[which]
            text = Situation.of(scenario, valence)
            filled = [frame.fill(text.scenario, text.event, of[emotion]) for emotion in EMOTIONS]
            prompts = tuple(token_prompt(model, one, double_bos=double_bos) for one in filled)
            out.append(EmotionGroup(prompts, text.id, text.theme, styles[which]))
    return out


def demonstration_groups(
    model: Model, asking: ReplyPrompts, texts: Sequence[Situation]
) -> list[EmotionGroup]:
    """Each text after three replies in the emotion that it is read for, without its name."""
    return [
        EmotionGroup(
            tuple(
                token_prompt(model, asking.prompt("demonstrations", text, emotion))
                for emotion in EMOTIONS
            ),
            text.id,
            text.theme,
            DEMONSTRATIONS,
        )
        for text in texts
    ]


def reply_groups(model: Model, frames: Frames, replies: Sequence[Reply]) -> list[EmotionGroup]:
    """Each event with its reply in all emotions: what is read is the reply's last token."""
    by_event: dict[str, dict[str, Reply]] = {}
    for reply in replies:
        by_event.setdefault(reply.event_id, {})[reply.emotion] = reply
    query, groups = frames.demonstrations.query, list[EmotionGroup]()
    for event, row in by_event.items():
        missing = [emotion for emotion in EMOTIONS if emotion not in row]
        if missing:
            raise DataError(f"event {event} has no reply in {missing[0]}; leave it out.")
        asked = [
            EmotionPrompt(query.format(scenario=r.scenario, event=r.event) + r.text)
            for r in (row[emotion] for emotion in EMOTIONS)
        ]
        prompts = tuple(token_prompt(model, one) for one in asked)
        groups.append(EmotionGroup(prompts, f"{event}_{REPLIES}", row["anger"].theme, REPLIES))
    return groups
