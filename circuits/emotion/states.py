"""`States`: last-token activations of complete groups, one text in all six emotions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.activations import Progress, last_activations
from circuits.emotion.data import EMOTIONS, VALENCES, Scenario
from circuits.emotion.frames import Frame, Frames
from circuits.emotion.tokens import token_prompt
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, did_you_mean
from interp.model.model import Model
from interp.results import folder

TENSORS = ("resid_mid", "resid_post", "z", "mlp_post")
LABELS = ("themes", "texts", "styles")


@brief
@dataclass(frozen=True)
class Group:
    """One text in all emotions.

    Attributes:
        prompts: one an emotion, in the order of `EMOTIONS`.
        text: id of the text; what clusters group by.
        theme: part of life.
        style: frame and word set, such as ``felt:B``.
    """

    prompts: tuple[TokenPrompt, ...]
    text: str
    theme: str
    style: str


@brief
@dataclass(frozen=True)
class States:
    """Last-token activations of complete groups, on the CPU in fp32.

    Attributes:
        resid_mid: the stream after attention.
        resid_post: the stream after the block; the last layer's before the final norm.
        z: what the heads' output projection reads.
        mlp_post: what the MLP's output projection reads.
        themes: of each group.
        texts: id of each group's text.
        styles: frame and word set of each group.
    """

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
        """The scenario of each group: its text's id less the last part, the valence."""
        return tuple(text.rpartition("_")[0] or text for text in self.texts)

    def only(self, groups: Sequence[int]) -> "States":
        """Some of the groups."""
        chosen = torch.tensor(groups, dtype=torch.long)
        parts: dict[str, Any] = {name: getattr(self, name)[chosen] for name in TENSORS}
        names = {f.name for f in fields(self)} - set(TENSORS)
        return replace(
            self, **parts, **{name: tuple(getattr(self, name)[i] for i in groups) for name in names}
        )

    def of_style(self, style: str) -> "States":
        """The groups of one style.

        Raises:
            DataError: there is none.
        """
        chosen = [i for i, one in enumerate(self.styles) if one == style]
        if not chosen:
            raise DataError(f"no group has the style {style!r}. {did_you_mean(style, self.styles)}")
        return self.only(chosen)

    def save(self, path: str | Path) -> Path:
        """Write a folder."""
        labels = {name: list(getattr(self, name)) for name in LABELS}
        arrays = {name: getattr(self, name).numpy() for name in TENSORS}
        return folder.write(Path(path), {"kind": "emotion states", **labels}, {}, arrays)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "States":
        """Read what `save` wrote.

        Raises:
            RunFolderError: the folder is missing or damaged.
        """
        said, _, arrays = folder.read(path, "emotion states", ())
        labels: dict[str, Any] = {name: tuple(said[name]) for name in LABELS}
        return cls(**{name: torch.from_numpy(arrays[name]) for name in TENSORS}, **labels)


def centred(x: Float[Tensor, "group emotion ..."]) -> Float[Tensor, "group emotion ..."]:
    """Activations less their mean over a group's emotions: what the texts share goes out."""
    return x - x.mean(1, keepdim=True)


def states(
    model: Model,
    groups: Sequence[Group],
    tokens: int | None = None,
    progress: Progress | None = None,
) -> States:
    """Run every prompt of the groups once; what a group's prompts begin with runs once for all.

    Args:
        model: the model.
        groups: complete groups.
        tokens: most tokens in a batch.
        progress: called with (groups done, groups in all).

    Raises:
        DataError: there is no group, or one lacks an emotion.
    """
    if not groups:
        raise DataError("there are no groups; give at least one text in all emotions.")
    for group in groups:
        if len(group.prompts) != len(EMOTIONS):
            raise DataError(
                f"the group of {group.text} has {len(group.prompts)} prompts; it takes one for "
                f"each of {', '.join(EMOTIONS)}, and incomplete groups are to be left out."
            )
    n = len(EMOTIONS)
    prompts = [one for group in groups for one in group.prompts]
    families = [range(g * n, (g + 1) * n) for g in range(len(groups))]
    found = last_activations(model, prompts, families, tokens, progress)
    return States(
        **{name: getattr(found, name).unflatten(0, (len(groups), n)) for name in TENSORS},
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
) -> list[Group]:
    """Each scenario with each of its events in all emotions; styles take turns over the texts.

    Args:
        model: whose tokens.
        scenarios: the texts.
        frames: words and prompts.
        styles: frame and word set, such as ``felt:B``. Text i is put in style i modulo their
            number, valences rotating against styles so that every style sees every valence.
        double_bos: as `token_prompt`.

    Raises:
        DataError: the frames lack a style's frame or word set.
    """
    words = [_style(frames, style) for style in styles]
    out: list[Group] = []
    for row, scenario in enumerate(scenarios):
        for column, valence in enumerate(VALENCES):
            which = (row + column) % len(styles)
            frame, of = words[which]
            event = scenario.event(valence).text
            filled = [frame.fill(scenario.text, event, of[emotion]) for emotion in EMOTIONS]
            prompts = tuple(token_prompt(model, one, double_bos=double_bos) for one in filled)
            out.append(Group(prompts, f"{scenario.id}_{valence}", scenario.theme, styles[which]))
    return out


def _style(frames: Frames, style: str) -> tuple[Frame, Mapping[str, str]]:
    frame, _, words = style.partition(":")
    if frame not in frames.frames or words not in frames.words:
        known = [f"{f}:{w}" for f in frames.frames for w in frames.words]
        raise DataError(f"unknown style {style!r}. {did_you_mean(style, known)}")
    return frames.frames[frame], frames.words[words]
