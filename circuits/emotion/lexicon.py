"""A lexicon of emotion words, and labels by it: whose words a reply has more of than another.

Absolute counts follow the event, so a reply is compared with the reply to the same event without
modulation. Self-written: NRC's lexicon, the usual one, is not free to ship. An entry is a word, or
a stem with ``*`` for any ending.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from circuits.emotion.texts import EMOTIONS, NEUTRAL

NAMES: Mapping[str, str] = {
    "anger": (
        "anger* angr* annoy* aggravat* bitter bitterly bitterness cross enrag* exasperat* fume "
        "fumed fuming furious* fury hostile hostility incens* indignan* infuriat* irate irritat* "
        "livid mad madden* madly offended outrag* rage raged rages raging resent* seeth* vengeful "
        "vexed vexing wrath*"
    ),
    "sadness": (
        "anguish* brokenhearted depress* despair* desponden* disappoint* dishearten* distraught "
        "doleful downcast forlorn gloom* glum* grief grieve* grieving heartache* heartbr* "
        "heartsick lonel* lonesome melanchol* miserabl* misery mourn* pity regret* sad sadden* "
        "sadder saddest sadly sadness sorrow* unhapp* wistful* woe woeful*"
    ),
    "happiness": (
        "bliss* cheerful* cheery contented* delight* ecsta* elated elation enjoy* euphor* "
        "exhilarat* exult* glad gladden* gladly glee* gratified happily happiness happier "
        "happiest happy jolly jovial* joy joyful* joyous* jubila* merrily merriment merry "
        "overjoyed pleased pleasing pleasure* proud* pride rejoic* relief relieved satisf* "
        "thankful* thrill*"
    ),
    "fear": (
        "afraid alarmed alarming anxi* apprehens* creepy dread* eerie fear* fright* horrif* "
        "horror* intimidat* jittery menac* nervous* panic* paranoi* petrif* scare scared scares "
        "scarier scariest scaring scary spook* terrif* terror* threat* timid* uneas* worr*"
    ),
    "surprise": (
        "amaz* astonish* astound* baffl* bewilder* dumbfound* flabbergast* incredul* perplex* "
        "shock* speechless staggered staggering startl* stunned stunning stupef* surpris* "
        "thunderstruck unbeliev* unexpected*"
    ),
    "disgust": (
        "abhor* contempt* despis* detest* disgust* distaste* gross grossed grosser icky loath* "
        "nausea nauseat* queas* repelled repelling repugn* repuls* revolt* revuls* sicken* vile "
        "vileness yuck*"
    ),
}
"""Words that name the emotion."""

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


def _pattern(entries: str) -> re.Pattern[str]:
    """An expression that finds any of some entries, as whole words."""
    alternatives = (re.escape(entry).replace(r"\*", "[a-z]*") for entry in entries.split())
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b", re.IGNORECASE)


_WORDS = [_pattern(f"{NAMES[emotion]} {CRIES[emotion]}") for emotion in EMOTIONS]


def counts(texts: Sequence[str]) -> Float[np.ndarray, "text emotion"]:
    """How many words of each emotion each text has, over the root of its length in words."""
    found = [
        [len(words.findall(text)) / max(len(text.split()), 1) ** 0.5 for words in _WORDS]
        for text in texts
    ]
    return np.array(found, dtype=float).reshape(len(texts), len(EMOTIONS))


def lexical_labels(replies: Sequence[str], plain: Sequence[str]) -> list[str]:
    """The emotion whose words rise most; neutral where none does, or where two rise alike."""
    out: list[str] = []
    for row in counts(replies) - counts(plain):
        best = np.flatnonzero(row == row.max())
        out.append(EMOTIONS[best[0]] if row.max() > 0 and len(best) == 1 else NEUTRAL)
    return out
