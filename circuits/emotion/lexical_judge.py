"""The third judge: words that name or cry out an emotion, against the unmodulated reply.

Absolute counts follow the event, so a reply is compared with the reply to the same event without
modulation: what counts is what the arm added.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from circuits.emotion.data import EMOTIONS
from circuits.emotion.lexicon import NAMES, pattern

CRIES: Mapping[str, str] = {
    "anger": (
        "blame* dare dammit damn* hell idiot* liar* hate hated hates shut stupid unacceptable "
        "unfair* ridiculous nonsense fool* enough fault"
    ),
    "sadness": (
        "alas cried cry crying goodbye lost loss miss missed missing sorry tears weep* wept alone "
        "gone empty hopeless*"
    ),
    "happiness": (
        "awesome beautiful* celebrat* congratulat* fantastic glorious great hooray hurray lovely "
        "perfect smil* thank* wonderful* yay best cheers excited laugh* love"
    ),
    "fear": (
        "careful danger* help hide hiding hurt run safe safety shak* trembl* trap* kill* die "
        "beware scream*"
    ),
    "surprise": (
        "wow whoa incredible really goodness gosh suddenly strange wait believe how what "
        "impossible extraordinary"
    ),
    "disgust": (
        "ugh yuck eww ew filth* dirty rotten stink* stench smell* slim* vomit* garbage trash "
        "foul rubbish horrid awful nasty"
    ),
}
"""Words that go with an emotion in speech without naming it; self-written, and rough."""

_WORDS: Mapping[str, re.Pattern[str]] = {
    emotion: pattern(f"{NAMES[emotion]} {CRIES[emotion]}".split()) for emotion in EMOTIONS
}


def counts(texts: Sequence[str]) -> Float[np.ndarray, "text emotion"]:
    """How many words of each emotion each text has, over the root of its length in words."""
    found = [
        [
            len(_WORDS[emotion].findall(text)) / max(len(text.split()), 1) ** 0.5
            for emotion in EMOTIONS
        ]
        for text in texts
    ]
    return np.array(found, dtype=float).reshape(len(texts), len(EMOTIONS))


def rises(replies: Sequence[str], plain: Sequence[str]) -> Float[np.ndarray, "reply emotion"]:
    """How many more of an emotion's words a reply has than the unmodulated reply to its event."""
    return counts(replies) - counts(plain)


def lexical_labels(replies: Sequence[str], plain: Sequence[str]) -> list[str]:
    """The emotion whose words rise most; neutral where none does, or where two rise alike."""
    out: list[str] = []
    for row in rises(replies, plain):
        best = np.flatnonzero(row == row.max())
        out.append(EMOTIONS[best[0]] if row.max() > 0 and len(best) == 1 else "neutral")
    return out
