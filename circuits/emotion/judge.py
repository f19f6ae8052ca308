"""The offline judge: which of seven labels a reply's style has, read from its text alone.

It never sees which emotion was asked for. It is fitted on replies of *another* model or arm than
the one under test, and learns that source's style: openers, punctuation, favourite words. So it
comes with what it was measured to read (`VIEWS`), with its calibration, and, where a published
verdict exists, with its agreement.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from circuits.emotion.data import LABELS, Emotion, Label
from interp.brief import brief
from interp.data.records import Row, Text, checked, placed_rows
from interp.errors import DataError

OPENER = 3
"""Words that count as a reply's opener."""
BINS = 15


@dataclass(frozen=True)
class Labelled:
    """A reply whose style is known.

    Attributes:
        text: the reply.
        label: one of `LABELS`.
        group: the scenario it answers; replies to one scenario never lie in training and test.
    """

    text: str
    label: str
    group: str


@dataclass(frozen=True)
class Verdict:
    """A reply that was asked for in an emotion, and what a published judge said of it.

    Attributes:
        text: the reply.
        target: the emotion that was asked for.
        match: whether the published judge found it there.
        group: the scenario it answers.
    """

    text: str
    target: str
    match: bool
    group: str


class _VerdictRow(Row):
    gen_text: str
    emotion: Emotion
    match: Literal[0, 1]
    skeleton_id: Text


class _LabelledRow(Row):
    part: Text
    situation: Text
    reply: str
    label: Label


def load_verdicts(path: str | Path) -> tuple[Verdict, ...]:
    """Read judged replies: rows of ``gen_text``, ``emotion``, ``match`` and ``skeleton_id``.

    Raises:
        DataError: the file is missing or malformed; the message names file and line.
    """
    rows = [checked(_VerdictRow, row, where) for where, row in placed_rows(path)]
    return tuple(Verdict(r.gen_text, r.emotion, bool(r.match), r.skeleton_id) for r in rows)


def load_labelled(path: str | Path, part: str) -> tuple[Labelled, ...]:
    """Read replies labelled blind: rows of ``part``, ``situation``, ``reply`` and ``label``.

    Args:
        path: file.
        part: of the texts that were replied to, ``tuning`` or ``test``; rows of others are passed
            over, so that no judge is fitted on replies it is to judge.

    Raises:
        DataError: the file is missing or malformed; the message names file and line.
    """
    rows = [checked(_LabelledRow, row, where) for where, row in placed_rows(path)]
    return tuple(Labelled(r.reply, r.label, r.situation) for r in rows if r.part == part)


# --- fitting -------------------------------------------------------------------------------------


Make = Callable[[], Pipeline]
"""Makes an unfitted classifier of texts."""


@dataclass(frozen=True)
class Judge:
    """A fitted judge.

    Attributes:
        classifier: from texts to a logistic regression; `by_words` or `reader.by_reading`.
        temperature: by which its logits are divided; above 1 where it was too sure.
    """

    classifier: Pipeline
    temperature: float

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """How likely each label is, in the order of `LABELS`; rows sum to 1."""
        return _softmax(_logits(self.classifier, texts) / self.temperature)

    def labels(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [LABELS[i] for i in self.probabilities(texts).argmax(1)]


def fit_judge(replies: Sequence[Labelled], folds: int = 5, make: Make | None = None) -> Judge:
    """Fit a judge, its temperature on predictions for scenarios it was not fitted on.

    Args:
        replies: of another model or arm than the one to be judged, with all seven labels.
        folds: parts into which the scenarios are dealt for the temperature.
        make: what makes a classifier of texts; `by_words` by default.

    Raises:
        DataError: a label does not occur, or there are fewer scenarios than folds.

    Source: Guo et al. 2017 (arXiv 1706.04599), temperature scaling.
    """
    make = make or by_words
    _require_all(replies, folds)
    held_out = _held_out_logits(replies, folds, {"whole": _whole}, make)["whole"]
    truth = _codes(replies)
    return Judge(_fit(replies, make), _temperature(held_out, truth))


def by_words() -> Pipeline:
    """TF-IDF of words and parts of words, and a logistic regression."""
    features = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)),
            ("parts", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)),
        ]
    )
    return make_pipeline(
        features, LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
    )


def _fit(replies: Sequence[Labelled], make: Make) -> Pipeline:
    return make().fit([r.text for r in replies], _codes(replies))


def _codes(replies: Sequence[Labelled]) -> Int[np.ndarray, " reply"]:
    return np.array([LABELS.index(r.label) for r in replies])


def _logits(classifier: Pipeline, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
    return np.asarray(classifier.decision_function(list(texts)))


def _softmax(logits: Float[np.ndarray, "text label"]) -> Float[np.ndarray, "text label"]:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _temperature(logits: Float[np.ndarray, "text label"], truth: Int[np.ndarray, " text"]) -> float:
    def loss(log_temperature: float) -> float:
        return log_loss(_softmax(logits / np.exp(log_temperature)), truth)

    found: Any = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return float(np.exp(found.x))


def _require_all(replies: Sequence[Labelled], folds: int) -> None:
    missing = [label for label in LABELS if label not in {r.label for r in replies}]
    if missing:
        raise DataError(
            f"no reply is labelled {', '.join(missing)}; a judge needs all of {', '.join(LABELS)} "
            "(neutral: replies to a prompt that asks for no emotion)."
        )
    n = len({r.group for r in replies})
    if n < folds:
        raise DataError(f"{n} scenarios cannot be dealt to {folds} folds; give more or fewer.")


# --- measuring -----------------------------------------------------------------------------------

View = Callable[[str], str]


def _whole(text: str) -> str:
    return text


def opener(text: str) -> str:
    """The first words of a text alone."""
    return " ".join(text.split()[:OPENER])


def without_opener(text: str) -> str:
    """A text without its first words."""
    return " ".join(text.split()[OPENER:])


def bare(text: str) -> str:
    """A text in lower case without punctuation."""
    return re.sub(r"[^\w\s']", " ", text.lower())


VIEWS: Mapping[str, View] = {
    "whole": _whole,
    "opener": opener,
    "without_opener": without_opener,
    "bare": bare,
}
"""What the judge is shown of a reply it has not seen, after it was fitted on whole ones."""


@brief
@dataclass(frozen=True)
class CrossValidation:
    """What judges say of replies to scenarios they were not fitted on.

    Attributes:
        truth: each reply's label, as its place in `LABELS`.
        groups: each reply's scenario, for intervals.
        views: view -> probabilities, calibrated on the other folds' replies.
        raw: probabilities of whole replies before calibration.
    """

    truth: Int[np.ndarray, " reply"]
    groups: tuple[str, ...]
    views: Mapping[str, Float[np.ndarray, "reply label"]]
    raw: Float[np.ndarray, "reply label"]

    def right(self, view: str = "whole") -> Float[np.ndarray, " reply"]:
        """1 where the likeliest label is the true one; average with `bootstrap_mean`."""
        return (self.views[view].argmax(1) == self.truth).astype(float)

    def confusion(self, view: str = "whole") -> Int[np.ndarray, "true said"]:
        """How many replies of each label were given each label."""
        counts = np.zeros((len(LABELS), len(LABELS)), dtype=int)
        np.add.at(counts, (self.truth, self.views[view].argmax(1)), 1)
        return counts


def cross_validate(
    replies: Sequence[Labelled],
    folds: int = 5,
    views: Mapping[str, View] = VIEWS,
    make: Make | None = None,
) -> CrossValidation:
    """Judge every reply by a judge that was fitted on other scenarios.

    Args:
        replies: with all seven labels.
        folds: parts into which the scenarios are dealt.
        views: what to show the judge of each reply; must have ``whole``.
        make: what makes a classifier of texts; `by_words` by default.

    Raises:
        DataError: a label does not occur, or there are fewer scenarios than folds.
    """
    _require_all(replies, folds)
    truth, fold_of = _codes(replies), _folds(replies, folds)
    logits = _held_out_logits(replies, folds, views, make or by_words)
    scale = np.empty((len(replies), 1))
    for fold in range(folds):
        others = fold_of != fold
        scale[~others] = _temperature(logits["whole"][others], truth[others])
    calibrated = {name: _softmax(found / scale) for name, found in logits.items()}
    groups = tuple(r.group for r in replies)
    return CrossValidation(truth, groups, calibrated, _softmax(logits["whole"]))


def _folds(replies: Sequence[Labelled], folds: int) -> Int[np.ndarray, " reply"]:
    fold_of = np.empty(len(replies), dtype=int)
    deal = GroupKFold(folds).split(np.zeros(len(replies)), groups=[r.group for r in replies])
    for fold, (_, test) in enumerate(deal):
        fold_of[test] = fold
    return fold_of


def _held_out_logits(
    replies: Sequence[Labelled], folds: int, views: Mapping[str, View], make: Make
) -> dict[str, Float[np.ndarray, "reply label"]]:
    fold_of = _folds(replies, folds)
    out = {name: np.full((len(replies), len(LABELS)), -np.inf) for name in views}
    for fold in range(folds):
        part = [r for r, f in zip(replies, fold_of, strict=True) if f != fold]
        _require_all(part, 1)
        classifier = _fit(part, make)
        test = np.flatnonzero(fold_of == fold)
        for name, view in views.items():
            out[name][test] = _logits(classifier, [view(replies[int(i)].text) for i in test])
    return out


def log_loss(
    probabilities: Float[np.ndarray, "text label"], truth: Int[np.ndarray, " text"]
) -> float:
    """Mean negative log-probability of the true label, in nats."""
    return float(-np.log(probabilities[np.arange(len(truth)), truth] + 1e-300).mean())


def calibration_error(
    probabilities: Float[np.ndarray, "text label"],
    truth: Int[np.ndarray, " text"],
    bins: int = BINS,
) -> float:
    """Expected calibration error: how far confidence and accuracy differ, over bins of confidence.

    Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), equation 3.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def agreement(judge: Judge, verdicts: Sequence[Verdict]) -> Float[np.ndarray, " verdict"]:
    """1 where the judge finds the target in a reply just as the published judge did, else 0.

    The judge is not told the target: it says one of seven labels, which is then compared. Most
    published verdicts are positive, so set this beside the share of positive ones, and average with
    `bootstrap_mean` over scenarios.
    """
    said = judge.labels([v.text for v in verdicts])
    return np.array(
        [(s == v.target) == v.match for s, v in zip(said, verdicts, strict=True)], float
    )
