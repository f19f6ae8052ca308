"""The prompts around a text: emotion words near and far, demonstrations without any, and vignettes.

A frame comes in two forms that differ in the emotion word alone as far as English allows: with
the word, to bring a state about, and without, to steer from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from circuits.emotion.data import EMOTIONS, Reply
from interp.brief import brief
from interp.data.datasets import locate
from interp.data.records import NO_OTHERS, Count, Row, Text, checked, read_json
from interp.errors import DataError, shown

Distance = Literal["near", "far"]
DISTANCES: tuple[str, ...] = get_args(Distance)


@dataclass(frozen=True)
class Prompt:
    """A prompt as text.

    Attributes:
        text: the user's turn where there is a system turn, or else all of it.
        system: the system turn of a chat prompt.
    """

    text: str
    system: str | None = None


@dataclass(frozen=True)
class Frame:
    """A prompt around a scenario and its event.

    Attributes:
        name: unique name.
        distance: near where the word comes right before the reply, far where the text lies
            between.
        text: with ``{scenario}``, ``{event}`` and, here or in `system`, ``{word}``.
        neutral: the same without the word.
        system: the system turn of a chat prompt.
        neutral_system: the same without the word.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    name: Text
    distance: Distance
    text: str
    neutral: str
    system: str | None = None
    neutral_system: str | None = None

    def fill(self, scenario: str, event: str, word: str | None = None) -> Prompt:
        """The prompt for a text, with an emotion word or in the neutral form."""
        text, system = (
            (self.neutral, self.neutral_system) if word is None else (self.text, self.system)
        )
        fields = {"scenario": scenario, "event": event, "word": word}
        return Prompt(text.format(**fields), system and system.format(**fields))


@dataclass(frozen=True)
class Demonstrations:
    """A prompt of several events with their replies, which ends where the next reply begins.

    Attributes:
        number: how many replies come first.
        separator: between them.
        demonstration: with ``{scenario}``, ``{event}`` and ``{reply}``.
        query: with ``{scenario}`` and ``{event}``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    number: Count
    separator: str
    demonstration: str
    query: str

    def fill(self, replies: Sequence[Reply], scenario: str, event: str) -> Prompt:
        """The prompt that shows `replies` and asks for one to an event.

        Raises:
            ValueError: there are not `number` replies.
        """
        if len(replies) != self.number:
            raise ValueError(f"{len(replies)} replies, not {self.number}")
        given = [
            self.demonstration.format(scenario=r.scenario, event=r.event, reply=r.text)
            for r in replies
        ]
        return Prompt(
            self.separator.join([*given, self.query.format(scenario=scenario, event=event)])
        )


@brief
@dataclass(frozen=True)
class Frames:
    """All words and prompts.

    Attributes:
        words: set -> emotion -> word; the sets are synonyms of each other.
        frames: the frames, by name.
        demonstrations: the prompt by example.
        vignette: a prompt around a vignette's ``{text}``.
    """

    words: Mapping[str, Mapping[str, str]]
    frames: Mapping[str, Frame]
    demonstrations: Demonstrations
    vignette: str


def load_frames(path: str | Path) -> Frames:
    """Read the words and prompts.

    Args:
        path: a JSON file of the form of the shipped ``emotion_frames``, or that name.

    Raises:
        DataError: the file is missing or malformed, a set lacks an emotion, two emotions share
            a word, or a prompt lacks a field or has another; the message names the place.
    """
    path = locate(path, "a JSON file of frames")
    found = checked(_FramesFile, read_json(path, "words and prompts (JSON)"), str(path))
    _check_words(found.words, str(path))
    for frame in found.frames:
        _check_frame(frame, str(path))
    shown_with = found.demonstrations
    fields = {"scenario", "event"}
    _check_fields(shown_with.demonstration, fields | {"reply"}, f"{path}, demonstration")
    _check_fields(shown_with.query, fields, f"{path}, query")
    _check_fields(found.vignette, {"text"}, f"{path}, vignette")
    frames = {frame.name: frame for frame in found.frames}
    if len(frames) < len(found.frames):
        raise DataError(f"{path}: two frames have the same name; give each its own.")
    return Frames(found.words, frames, shown_with, found.vignette)


class _FramesFile(Row):
    words: dict[str, dict[str, Text]]
    frames: list[Frame]
    demonstrations: Demonstrations
    vignette: str


def _check_frame(frame: Frame, file: str) -> None:
    where = f"{file}, frame {shown(frame.name)}"
    if (frame.system is None) != (frame.neutral_system is None):
        raise DataError(f"{where}: give both system and neutral_system, or neither.")
    words = {"scenario", "event", "word"}
    _check_fields(frame.text, words, where, frame.system)
    _check_fields(frame.neutral, words - {"word"}, where, frame.neutral_system)


def _check_words(words: Mapping[str, Mapping[str, str]], file: str) -> None:
    for name, row in words.items():
        if tuple(row) != EMOTIONS:
            raise DataError(
                f"{file}, words {shown(name)}: has {shown(', '.join(row))[1:-1]}; "
                f"it must have {', '.join(EMOTIONS)}, in this order."
            )
    twice = [
        w for w, n in Counter(w for row in words.values() for w in row.values()).items() if n > 1
    ]
    if twice:
        raise DataError(f"{file}: {shown(min(twice))} stands for two sets or emotions.")


def _check_fields(template: str, fields: set[str], where: str, system: str | None = None) -> None:
    try:
        parts = [part for text in (template, system or "") for part in Formatter().parse(text)]
    except ValueError as error:
        raise DataError(f"{where}: {error}; write {{{{ for a brace.") from error
    found = {name for _, name, _, _ in parts if name is not None}
    if found != fields or any(form or conversion for _, _, form, conversion in parts):
        raise DataError(
            f"{where}: has the fields {shown(sorted(found))}, and must have {sorted(fields)}, each "
            "as {name} alone."
        )
