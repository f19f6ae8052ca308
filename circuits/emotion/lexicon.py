"""Words that name, show or judge by an emotion, and where a text uses one.

Self-written: NRC's lexicon, the usual one, is not free to ship and bars words such as "mother".
An entry is a word, or a stem with ``*`` for any ending.
"""

import re
from collections.abc import Iterable, Mapping

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
    "general": (
        "agitat* ashamed shame shameful* calm calmed calmly calmness compassion* distress* "
        "embarrass* emotion* envied envious* envy excit* feel feeling feelings feels felt "
        "frustrat* guilt guilty heartfelt hope hoped hopeful* hopeless* hopes hoping humiliat* "
        "jealous* mood moods moody nostalg* sentiment* sympath* upset upsets upsetting wonder "
        "wondered wonderment"
    ),
}
"""The emotion itself, by name or synonym; ``general``: words about feeling of any kind."""

DISPLAYS = (
    "adore* apolog* beamed beaming blush* cheer cheered cheering cheers clapped clapping "
    "complain* congratulat* cried cries cry crying cursed cursing dislik* embrac* fond fondly "
    "frown* gasp* giggl* glare glared glaring grateful* grin grinned grinning groan* grumbl* "
    "hate hated hates hating hatred hug hugged hugging hugs kiss kissed kisses kissing laugh* "
    "longing love loved loves loving moan* praise praised praising scold* scream* shiver* "
    "shout* shriek* sigh sighed sighing sighs smil* smirk* sob sobbed sobbing sobs sorry "
    "sulk* swore tearful* tears thank* trembl* wail* weep* wept whimper* whine whined whining "
    "yell yelled yelling yells"
)
"""What somebody who has an emotion does."""

JUDGEMENTS = (
    "adorable awesome awful* bad badly beautiful* brilliant* charming* cruel* delicious dire "
    "disastrous* excellent* fabulous* fantastic* filthy foul fun funny ghastly gorgeous* grim "
    "grotesque* harsh* hideous* horrible horribly horrid kind kindly kindness lovely "
    "magnificent* marvel* nasty nice nicely outstanding perfect perfectly pleasant* rude "
    "rudely splendid* stupid* superb* terribl* tragic* ugly unfair* unfortunate* unpleasant* "
    "vicious* wicked* wonderful* worst"
)
"""A verdict by the writer, in place of what happened."""


def pattern(entries: Iterable[str]) -> re.Pattern[str]:
    """An expression that finds any of some entries, as whole words."""
    alternatives = (re.escape(entry).replace(r"\*", "[a-z]*") for entry in entries)
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b", re.IGNORECASE)


_NAMING = pattern(" ".join(NAMES.values()).split())
_COLOURED = pattern(" ".join((*NAMES.values(), DISPLAYS, JUDGEMENTS)).split())


def emotion_names(text: str) -> list[str]:
    """The words of a text that name an emotion, lower case, in order."""
    return [match.group().lower() for match in _NAMING.finditer(text)]


def coloured_words(text: str) -> list[str]:
    """The words of a text that name, show or judge by an emotion, lower case, in order."""
    return [match.group().lower() for match in _COLOURED.finditer(text)]
