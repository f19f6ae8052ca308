"""Arms as data: a kind of prompt and a modulation; and the replies that an arm gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd

from circuits.emotion.data import EMOTIONS
from circuits.emotion.decoding import Decoding, ReadPrompts, decode, read_prompts, reply_text
from circuits.emotion.modulation import Modulation
from circuits.emotion.situations import KINDS, Asking, Situation
from circuits.emotion.tokens import token_prompt
from interp.brief import brief
from interp.model.model import Model

AT_ONCE = 480
"""Rows decoded together."""


@dataclass(frozen=True)
class Arm:
    """One way of bringing an emotion about.

    Attributes:
        name: unique name.
        prompt: a name in `KINDS`.
        modulation: what is added to the activations.
    """

    name: str
    prompt: str = "neutral"
    modulation: Modulation = field(default_factory=Modulation)


@brief
@dataclass(frozen=True)
class Batch:
    """Prompts that are read together, and the rows that continue them.

    Attributes:
        read: keys and values of the prompts.
        which: the prompt of each row.
        situations: the situation of each row, as its place in the list.
        emotions: the emotion of each row, as its place in `EMOTIONS`.
    """

    read: ReadPrompts
    which: list[int]
    situations: list[int]
    emotions: list[int]


def read_all(
    model: Model, asking: Asking, kind: str, texts: Sequence[Situation]
) -> Iterator[Batch]:
    """Read the prompts of one kind, batch by batch.

    Prompts without an emotion are read once a situation and continued in all six. Prompts with one
    are grouped by emotion, since what comes before the situation is then the same.
    """
    order = sorted(range(len(texts)), key=lambda i: (texts[i].theme, len(texts[i].text)))
    if not KINDS[kind]:
        size = AT_ONCE // len(EMOTIONS)
        yield from (_neutral(model, asking, kind, texts, part) for part in _parts(order, size))
        return
    if "demonstrations" in kind:
        themes = dict.fromkeys(texts[i].theme for i in order)
        groups = [[i for i in order if texts[i].theme == theme] for theme in themes]
    else:
        groups = list(_parts(order, AT_ONCE))
    for group in groups:
        for emotion in range(len(EMOTIONS)):
            yield _of_emotion(model, asking, kind, texts, group, emotion)


def _parts(order: Sequence[int], size: int) -> Iterator[list[int]]:
    yield from (list(order[i : i + size]) for i in range(0, len(order), size))


def _neutral(
    model: Model, asking: Asking, kind: str, texts: Sequence[Situation], part: list[int]
) -> Batch:
    prompts = [token_prompt(model, asking.prompt(kind, texts[i], 0)) for i in part]
    n = len(EMOTIONS)
    which = [place for place in range(len(part)) for _ in range(n)]
    return Batch(
        read_prompts(model, prompts), which, [part[i] for i in which], list(range(n)) * len(part)
    )


def _of_emotion(
    model: Model,
    asking: Asking,
    kind: str,
    texts: Sequence[Situation],
    part: list[int],
    emotion: int,
) -> Batch:
    prompts = [token_prompt(model, asking.prompt(kind, texts[i], emotion)) for i in part]
    return Batch(read_prompts(model, prompts), list(range(len(part))), part, [emotion] * len(part))


def replies(
    model: Model,
    arm: Arm,
    batches: Iterable[Batch],
    texts: Sequence[Situation],
    decoding: Decoding,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Every reply of an arm, one row a situation and emotion.

    Args:
        model: the model.
        arm: what is done.
        batches: its prompts, from `read_all`.
        texts: the situations that the batches were read from.
        decoding: the decoder's settings.
        progress: called with (rows done, rows in all).

    Returns:
        Columns ``place`` (of the situation in `texts`), ``situation``, ``scenario``, ``theme``,
        ``valence``, ``emotion``, ``text`` (what is replied to), ``reply`` and ``ids`` (new
        tokens), in order of situation and emotion.
    """
    rows: list[dict[str, object]] = []
    for batch in batches:
        written = decode(model, batch.read, batch.which, batch.emotions, arm.modulation, decoding)
        for i, emotion, ids in zip(batch.situations, batch.emotions, written, strict=True):
            said = reply_text(model, ids, decoding.closing)
            rows.append(_row(texts[i], i, emotion, said, ids))
        if progress:
            progress(len(rows), len(texts) * len(EMOTIONS))
    frame = pd.DataFrame(rows).sort_values(["place", "code"], ignore_index=True)
    return frame.drop(columns="code")


def _row(
    text: Situation, place: int, emotion: int, reply: str, ids: tuple[int, ...]
) -> dict[str, object]:
    return {
        "place": place,
        "code": emotion,
        "situation": text.id,
        "scenario": text.scenario_id,
        "theme": text.theme,
        "valence": text.valence,
        "emotion": EMOTIONS[emotion],
        "text": text.text,
        "reply": reply,
        "ids": list(ids),
    }
