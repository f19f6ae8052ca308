"""The judges that read the arms' replies: fitted on other sources; and how two judges agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from circuits.emotion.data import LABELS, NEUTRAL, Reply
from circuits.emotion.decoding import Decoding, decode, read_prompts, reply_text
from circuits.emotion.judge import Judge, Labelled, Make, Verdict, fit_judge
from circuits.emotion.lexical_judge import lexical_labels
from circuits.emotion.modulation import Modulation
from circuits.emotion.reader import by_reading
from circuits.emotion.situations import Asking, Situation
from circuits.emotion.tokens import token_prompt
from interp.model.model import Model

WORDS_KEPT = 26
"""Of a published reply: small models' replies are as short."""
EVERY = 4
"""Every so many scenarios of the published replies are used; more add time and no accuracy."""
WEIGHT = 4
"""How often each self-written reply counts beside published ones, which are more."""
AT_ONCE = 80
DEPTH = 0.55
"""Where a reader is read, as a part of its layers; chosen on the training replies."""


def plain_replies(
    model: Model, asking: Asking, texts: Sequence[Situation], decoding: Decoding
) -> list[str]:
    """What a model says when no emotion is asked for: the style that is to count as neutral.

    Args:
        model: not the one under test.
        asking: frames.
        texts: situations other than those of the test.
        decoding: that of the arms.
    """
    out: list[str] = []
    for first in range(0, len(texts), AT_ONCE):
        part = texts[first : first + AT_ONCE]
        prompts = [token_prompt(model, asking.prompt("neutral", one, 0)) for one in part]
        n = len(part)
        read = read_prompts(model, prompts)
        written = decode(model, read, range(n), [0] * n, Modulation(), decoding)
        out += [reply_text(model, ids, decoding.closing) for ids in written]
    return [text for text in out if text]


def training_replies(
    replies: Sequence[Reply],
    verdicts: Sequence[Verdict] = (),
    plain: Sequence[str] = (),
    labelled: Sequence[Labelled] = (),
) -> tuple[Labelled, ...]:
    """What judges are fitted on: self-written replies, and published ones if they are at hand.

    Args:
        replies: self-written, under all seven labels; every event has all of them, so that events
            tell nothing.
        verdicts: published replies; those that the published judge accepted are used.
        plain: replies of another model that was asked for no emotion (`plain_replies`). Without
            them a judge takes a small model's plain replies for happy or angry ones.
        labelled: small models' replies to tuning texts, labelled blind (`load_labelled`).
    """
    neutral = [Labelled(text, NEUTRAL, f"plain {i}") for i, text in enumerate(plain)]
    own = [Labelled(r.text, r.emotion, r.event_id) for r in replies]
    chosen = set(sorted({v.group for v in verdicts})[::EVERY])
    published = [
        Labelled(" ".join(v.text.split()[:WORDS_KEPT]), v.target, v.group)
        for v in verdicts
        if v.match and v.group in chosen
    ]
    return tuple(own * (WEIGHT if published else 1) + published + neutral + list(labelled))


def reading(reader: Model) -> Make:
    """A maker of judges on the middle layer of a reader, which is not the model under test."""
    return by_reading(reader, round(DEPTH * reader.arch.n_layers))


def default_judges(
    make: Make,
    replies: Sequence[Reply],
    verdicts: Sequence[Verdict] = (),
    plain: Sequence[str] = (),
    labelled: Sequence[Labelled] = (),
    folds: int = 4,
) -> dict[str, Judge]:
    """The reader, which decides, and the judge of words.

    Args:
        make: from `reading`; what it has read once is not read again.
        replies: as in `training_replies`.
        verdicts: the same.
        plain: the same.
        labelled: the same.
        folds: parts for the judges' temperatures.

    Raises:
        DataError: the replies lack a label.
    """
    rows = training_replies(replies, verdicts, plain, labelled)
    return {"reader": fit_judge(rows, folds, make), "words": fit_judge(rows, folds)}


def judge_by_lexicon(table: pd.DataFrame, unmodulated: pd.DataFrame) -> pd.DataFrame:
    """Add ``said_lexicon``: whose words rise most against the unmodulated reply to the same event.

    Args:
        table: replies of one or several arms.
        unmodulated: those of the unmodulated arm.
    """
    plain: dict[Any, str] = dict(zip(unmodulated["situation"], unmodulated["reply"], strict=True))
    before = [plain[situation] for situation in table["situation"]]
    return table.assign(said_lexicon=lexical_labels(list(table["reply"]), before))


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two labellings beyond chance.

    Source: Cohen 1960.
    """
    codes = [np.array([LABELS.index(label) for label in one]) for one in (first, second)]
    observed = float((codes[0] == codes[1]).mean())
    shares = [np.bincount(one, minlength=len(LABELS)) / len(one) for one in codes]
    expected = float(shares[0] @ shares[1])
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")
