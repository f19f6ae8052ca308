"""Judges of replies: which of seven labels a reply expresses, read from its text alone.

A judge is never given the emotion that was asked for. It is fitted on replies of *another* model or
condition than the one under test. The first reads the activations of a language model, whose
middle layers put texts that mean alike close together; the second reads words and parts of words,
and so learns its source's favourite words; the third, without fitting, counts words of a lexicon.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from circuits.emotion.emotion_settings import Decoding
from circuits.emotion.prompts import EmotionTexts, ReplyPrompts
from circuits.emotion.replies import plain_replies
from circuits.emotion.texts import (
    EMOTIONS,
    LABELS,
    NEUTRAL,
    LabelledReply,
    Reply,
    Verdict,
    situations,
)
from interp.data.prompts import TokenPrompt
from interp.errors import DataError
from interp.interventions.recording import activations
from interp.model.model import Model

PUBLISHED_WORDS = 26
"""Words used of a published reply: small models' replies are as short."""
EVERY = 4
"""Every so many scenarios of the published replies are used; more add time and no accuracy."""
WEIGHT = 4
"""How often each self-written reply counts beside published ones, which are more."""
N_PLAIN = 120
"""Replies by which judges learn what a small model sounds like without an emotion."""
DEPTH = 0.55
"""Depth of the layer that the first judge reads; chosen on the training replies."""
BEFORE = 'I said: "'
"""Put before a reply, so that the judge's model takes it for speech."""
STRENGTH = 0.01
"""Inverse regularisation on activations: there are more features than replies."""

Make = Callable[[], Pipeline]
"""Makes an unfitted classifier of texts."""


@dataclass(frozen=True)
class Judge:
    """A fitted classifier of texts, whose logits are divided by a temperature."""

    classifier: Pipeline
    temperature: float

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """How likely each label is, in the order of `LABELS`; rows sum to 1."""
        return softmax(_logits(self.classifier, texts) / self.temperature, axis=1)

    def labels(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [LABELS[i] for i in self.probabilities(texts).argmax(1)]


def fit_judge(replies: Sequence[LabelledReply], folds: int = 5, make: Make | None = None) -> Judge:
    """Fit a judge, its temperature on predictions for groups that it was not fitted on.

    `DataError` where a label does not occur, or there are fewer groups than folds.

    Source: Guo et al. 2017 (arXiv 1706.04599), temperature scaling.
    """
    make = make or by_words
    _require_all_labels(replies)
    groups = [reply.group for reply in replies]
    if (n := len(set(groups))) < folds:
        raise DataError(f"{n} groups cannot be divided into {folds} folds; give more or fewer.")
    held_out = np.full((len(replies), len(LABELS)), -np.inf)
    for train, test in GroupKFold(folds).split(np.zeros(len(replies)), groups=groups):
        classifier = _fitted([replies[int(i)] for i in train], make)
        held_out[test] = _logits(classifier, [replies[int(i)].text for i in test])
    return Judge(_fitted(replies, make), _temperature(held_out, _codes(replies)))


def _fitted(replies: Sequence[LabelledReply], make: Make) -> Pipeline:
    _require_all_labels(replies)
    return make().fit([reply.text for reply in replies], _codes(replies))


def _require_all_labels(replies: Sequence[LabelledReply]) -> None:
    missing = [label for label in LABELS if label not in {r.label for r in replies}]
    if missing:
        raise DataError(
            f"no reply is labelled {', '.join(missing)}; a judge needs all of {', '.join(LABELS)} "
            "(neutral: replies to a prompt that asks for no emotion)."
        )


def _codes(replies: Sequence[LabelledReply]) -> Int[np.ndarray, " reply"]:
    return np.array([LABELS.index(r.label) for r in replies])


def _logits(classifier: Pipeline, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
    return np.asarray(classifier.decision_function(list(texts)))


def _temperature(logits: Float[np.ndarray, "text label"], truth: Int[np.ndarray, " text"]) -> float:
    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(log_p[np.arange(len(truth)), truth].mean())

    found: Any = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return float(np.exp(found.x))


# --- classifiers ----------------------------------------------------------------------------------


def by_words() -> Pipeline:
    """TF-IDF of words and parts of words, and a logistic regression."""
    features = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)),
            ("parts", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)),
        ]
    )
    regression = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
    return make_pipeline(features, regression)


def by_activations(model: Model, layer: int | None = None) -> Make:
    """A maker of classifiers on activations after a block, by default the one at `DEPTH`."""
    read: dict[str, Any] = {}
    at = round(DEPTH * model.arch.n_layers) if layer is None else layer

    def make() -> Pipeline:
        regression = LogisticRegression(C=STRENGTH, max_iter=1000, class_weight="balanced")
        return make_pipeline(MeanActivations(model, at, read), StandardScaler(), regression)

    return make


class MeanActivations(TransformerMixin, BaseEstimator):
    """Texts -> their mean activations in one layer; each text is read once."""

    def __init__(self, model: Model, layer: int, read: dict[str, Any]):
        self.model, self.layer, self.read = model, layer, read

    def fit(self, texts: Sequence[str], y: Any = None) -> "MeanActivations":
        """Nothing to fit."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, texts: Sequence[str]) -> Float[np.ndarray, "text d_model"]:
        """Activations of the texts; an empty one reads as a full stop."""
        given = [text or "." for text in texts]
        new = [text for text in dict.fromkeys(given) if text not in self.read]
        if new:
            self.read.update(zip(new, mean_activations(self.model, new, self.layer), strict=True))
        return np.stack([self.read[text] for text in given])


def mean_activations(
    model: Model, texts: Sequence[str], layer: int
) -> Float[np.ndarray, "text d_model"]:
    """Mean over a text's tokens, read as speech, of the residual stream after a block."""
    start, prompts = tuple(model.encode(BEFORE)), list[TokenPrompt]()
    for text in texts:
        ids = (*start, *model.tokenizer(text, add_special_tokens=False)["input_ids"])
        prompts.append(TokenPrompt(ids, {"text": tuple(range(len(start), len(ids)))}))
    found = activations(model, prompts, "resid_post", layer, at="text")[layer]
    return found.float().nanmean(1).cpu().numpy()


# --- the default judges ---------------------------------------------------------------------------


def training_replies(
    replies: Sequence[Reply],
    verdicts: Sequence[Verdict] = (),
    plain: Sequence[str] = (),
    labelled: Sequence[LabelledReply] = (),
) -> tuple[LabelledReply, ...]:
    """What judges are fitted on.

    Args:
        replies: self-written; every event has all seven labels, so that events predict nothing.
        verdicts: published replies; those that the published judge accepted are used.
        plain: replies of another model that was asked for no emotion. Without them a judge takes a
            small model's plain replies for happy or angry ones.
        labelled: small models' replies to tuning texts, labelled blind.
    """
    chosen = set(sorted({v.group for v in verdicts})[::EVERY])
    published = [
        _labelled(" ".join(v.text.split()[:PUBLISHED_WORDS]), v.target, v.group)
        for v in verdicts
        if v.match and v.group in chosen
    ]
    own = [_labelled(r.text, r.emotion, r.event_id) for r in replies]
    own = own * (WEIGHT if published else 1)
    neutral = [_labelled(text, NEUTRAL, f"plain {i}") for i, text in enumerate(plain)]
    return (*own, *published, *neutral, *labelled)


def _labelled(text: str, label: Any, group: str) -> LabelledReply:
    return LabelledReply(text=text, label=label, group=group, part="tuning")


def fitted_judges(model: Model, texts: EmotionTexts) -> dict[str, Judge]:
    """The judge by activations of a model, which decides, and the judge by words.

    They are fitted on replies of no condition; the model's own plain ones count as neutral.
    """
    asking = ReplyPrompts(texts.frames, texts.replies)
    chosen = situations(texts.plain, min(N_PLAIN, len(texts.plain)))
    plain = plain_replies(model, asking, chosen, Decoding())
    rows = training_replies(texts.replies, texts.verdicts, plain, texts.labelled)
    makes = {"activations": by_activations(model), "words": by_words}
    return {name: fit_judge(rows, 4, make) for name, make in makes.items()}


# --- the lexicon ----------------------------------------------------------------------------------

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
"""Words that name the emotion, self-written; an entry is a word, or a stem with ``*``."""

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


def _counts(texts: Sequence[str]) -> Float[np.ndarray, "text emotion"]:
    """How many words of each emotion each text has, over the root of its length in words."""
    found = [
        [len(words.findall(text)) / max(len(text.split()), 1) ** 0.5 for words in _WORDS]
        for text in texts
    ]
    return np.array(found, dtype=float).reshape(len(texts), len(EMOTIONS))


def lexical_labels(replies: Sequence[str], plain: Sequence[str]) -> list[str]:
    """The emotion whose words rise most; neutral where none does, or where two rise alike."""
    out: list[str] = []
    for row in _counts(replies) - _counts(plain):
        best = np.flatnonzero(row == row.max())
        out.append(EMOTIONS[best[0]] if row.max() > 0 and len(best) == 1 else NEUTRAL)
    return out


def with_lexicon(table: pd.DataFrame, unmodulated: pd.DataFrame) -> pd.DataFrame:
    """Add ``label_lexicon``: whose words rise most over the unmodulated reply to the same event."""
    plain: dict[Any, str] = dict(zip(unmodulated["situation"], unmodulated["reply"], strict=True))
    before = [plain[situation] for situation in table["situation"]]
    return table.assign(label_lexicon=lexical_labels(list(table["reply"]), before))
