"""The prompts around a text: emotion words near and far, demonstrations without any, and vignettes.

A frame comes in two forms that differ in the emotion word alone as far as English allows: with
the word, to bring a state about, and without, to steer from.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from circuits.emotion.data import EMOTIONS, Reply
from interp.errors import DataFileError, did_you_mean
from interp.shipped import locate

Distance = Literal["near", "far"]
DISTANCES = ("near", "far")


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

    name: str
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

    number: int
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
        shown = [
            self.demonstration.format(scenario=r.scenario, event=r.event, reply=r.text)
            for r in replies
        ]
        return Prompt(
            self.separator.join([*shown, self.query.format(scenario=scenario, event=event)])
        )


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
        DataFileError: the file is missing or malformed, a set lacks an emotion, two emotions share
            a word, or a prompt lacks a field or has another; the message names the place.
    """
    file = locate(path, "a JSON file of frames")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(f"cannot read {file} as JSON: {error}.") from error
    try:
        words, frames = raw["words"], [_frame(row, str(file)) for row in raw["frames"]]
        shown, vignette = Demonstrations(**raw["demonstrations"]), raw["vignette"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataFileError(
            f"{file}: {error!r}; it must have words, frames, demonstrations and vignette."
        ) from error
    _check_words(words, str(file))
    _check_fields(shown.demonstration, {"scenario", "event", "reply"}, f"{file}, demonstration")
    _check_fields(shown.query, {"scenario", "event"}, f"{file}, query")
    _check_fields(vignette, {"text"}, f"{file}, vignette")
    return Frames(words, {frame.name: frame for frame in frames}, shown, vignette)


def _frame(row: Mapping[str, Any], file: str) -> Frame:
    frame = Frame(**row)
    where = f"{file}, frame {frame.name!r}"
    if frame.distance not in DISTANCES:
        raise DataFileError(
            f"{where}: unknown distance {frame.distance!r}. "
            f"{did_you_mean(frame.distance, DISTANCES)}"
        )
    _check_fields(frame.text + (frame.system or ""), {"scenario", "event", "word"}, where)
    _check_fields(frame.neutral + (frame.neutral_system or ""), {"scenario", "event"}, where)
    if (frame.system is None) != (frame.neutral_system is None):
        raise DataFileError(f"{where}: give both system and neutral_system, or neither.")
    return frame


def _check_words(words: Mapping[str, Mapping[str, str]], file: str) -> None:
    for name, row in words.items():
        if tuple(row) != EMOTIONS:
            raise DataFileError(
                f"{file}, words {name!r}: has {', '.join(row)}; "
                f"it must have {', '.join(EMOTIONS)}, in this order."
            )
    every = [word for row in words.values() for word in row.values()]
    repeated = sorted({word for word in every if every.count(word) > 1})
    if repeated:
        raise DataFileError(f"{file}: {repeated[0]!r} stands for two sets or emotions.")


def _check_fields(template: str, fields: set[str], where: str) -> None:
    found = set(re.findall(r"\{(\w*)\}", template))
    if found != fields:
        raise DataFileError(
            f"{where}: has the fields {sorted(found)}, and must have {sorted(fields)}."
        )
