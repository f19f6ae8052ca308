"""`EmotionChoices`: how steering with emotion vectors shifts choices between two given answers.

The answers are named A and B, and every question is asked in both orders. With l the log-odds of A
over B, the log-odds of a question's first answer is (l - l of the other order) / 2: a preference
for a letter cancels. The control, at the same dose, is an emotion's vectors under a random linear
map: directions drawn at random whose cosines between layers are, on average, those of the vectors.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
import torch

from circuits.affect.emotion_vectors import EmotionVectors
from circuits.emotion.directions import unit
from interp.brief import brief
from interp.data.chat import Chat, has_template
from interp.data.pairs import Excluded, PromptPairs, tokenise
from interp.data.records import Row, Text, checked_rows
from interp.errors import DataError, PlanError
from interp.interventions.run import sweep_plans
from interp.model.model import Model
from interp.results.report import Report, Section, Table, cell_text, excluded_rows
from interp.results.result import Result
from interp.statistics import bootstrap_mean, empirical_p

ASKED = "{0}\nA: {1}\nB: {2}\nAnswer with A or B."
BEGUN = "Answer:"
FEWEST = 10
"""Random directions."""
UNSTEERED, RANDOM = "unsteered", "random "


class Choice(Row):
    """A question with two answers, of which the first is the one that is measured."""

    id: Text
    kind: Literal["risk", "agreement", "refusal"]
    question: Text
    options: tuple[Text, Text]


def load_choices(source: str | Path = "emotion_choices") -> tuple[Choice, ...]:
    """Questions from a JSON(L) file or the shipped one; `DataError` where one is faulty."""
    return tuple(checked_rows(Choice, source, "choices", "id"))


def choice_pairs(choices: Sequence[Choice], in_chat: bool) -> PromptPairs:
    """A pair per question: its clean prompt has the first answer as A, its corrupt one as B."""
    rows: list[dict[str, str]] = []
    for one in choices:
        orders = {"clean": one.options, "corrupt": one.options[::-1]}
        asked = {side: ASKED.format(one.question, *order) for side, order in orders.items()}
        begun = {side: text if in_chat else f"{text}\n{BEGUN}" for side, text in asked.items()}
        rows.append({"id": one.id, **begun, "answer": "A", "wrong_answer": "B"})
    pairs = PromptPairs.from_records(rows)
    return pairs.as_chat(Chat(prefill=BEGUN)) if in_chat else pairs


@brief
@dataclass(frozen=True)
class EmotionChoices(Result):
    """Log-odds of first answers: a row per question, a column per direction, and ``unsteered``.

    `dose` is what was added to every token of `layers`, as a part of the stream's norm.
    """

    KIND: ClassVar[str] = "emotion choices"
    log_odds: pd.DataFrame = field(repr=False)
    excluded: tuple[Excluded, ...] = field(repr=False)
    emotions: tuple[str, ...]
    n_random: int
    dose: float
    layers: tuple[int, ...]
    in_chat: bool
    model: str

    @property
    def table(self) -> pd.DataFrame:
        """Per kind and emotion the mean ``shift`` of the log-odds of first answers, in nats.

        With its 95 % interval over questions; ``random_low`` to ``random_high`` holds 95 % of the
        random directions' mean shifts, ``p`` is the two-sided part of them that is as extreme;
        ``unsteered`` is the mean log-odds without steering.
        """
        rows: list[dict[str, Any]] = []
        kinds: Any = self.log_odds.groupby("kind", sort=False)
        for kind, own in kinds:
            shift = own.drop(columns=["kind", "id"]).sub(own[UNSTEERED], axis=0)
            random = shift[[f"{RANDOM}{i}" for i in range(self.n_random)]].mean().to_numpy()
            least, most = np.quantile(random, [0.025, 0.975])
            for name in self.emotions:
                found = map(float, bootstrap_mean(shift[name].to_numpy()))
                row: dict[str, Any] = dict(zip(("shift", "low", "high"), found, strict=True))
                row["p"] = float(empirical_p(row["shift"], random, "two-sided"))
                row |= {"random_low": float(least), "random_high": float(most)}
                row |= {"questions": len(own), UNSTEERED: float(own[UNSTEERED].mean())}
                rows.append({"kind": kind, "emotion": name} | row)
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """What was added where, the table, and the questions that were left out."""
        rows = {"shifts": self.table.to_dict("records")}
        return super().summary() | rows | {"excluded": [asdict(row) for row in self.excluded]}

    def report(self) -> Report:
        """Per kind of question the shifts beside random directions, and the unsteered log-odds."""
        says = (
            "{questions} questions; unsteered log-odds {unsteered:.3g}; 95 % of random directions "
            "shift them by {random_low:.2g} to {random_high:.2g}."
        )
        by_kind, tables = cast(Any, self.table.groupby("kind", sort=False)), list[Table]()
        for kind, own in by_kind:
            shown = own[["emotion", "shift", "low", "high", "p"]]
            tables.append(Table(kind.title(), shown, says.format(**own.iloc[0])))
        return Report(
            title=f"Choices under emotion vectors, {self.model}",
            lead=f"{len(self.emotions)} emotions and {self.n_random} random directions, each added "
            f"to every token at {self.dose:g} times the stream's norm in layers "
            f"{cell_text(self.layers)}; asked {'in a chat' if self.in_chat else 'as plain text'}.",
            sections=[Section("Shifts", ["Of the first answer's log-odds, in nats.", *tables])],
            method=(
                "The first answer is the risky one, the one that agrees with a false claim, or the "
                "one that refuses. Every question is asked in both orders of its answers; the mean "
                "over both is free of a preference for a letter. Intervals are over questions; "
                "p is the two-sided part of random directions whose shift is as extreme, not "
                "corrected for the number of emotions. A choice between two answers shows a "
                "disposition at one token, not what the model would write.",
            ),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance,
        )


def refuse_unusable(n_random: int, dose: float) -> None:
    """Raise `PlanError` for too few random directions, or a dose that is not positive."""
    if n_random < FEWEST or not (np.isfinite(dose) and dose > 0):
        raise PlanError(
            f"{n_random} random directions and dose {dose:g}: give {FEWEST} directions or more, "
            "and a positive dose."
        )


def emotion_choices(
    model: Model,
    found: EmotionVectors,
    choices: Sequence[Choice],
    emotions: Sequence[str],
    *,
    dose: float = 0.1,
    layers: Sequence[int] | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> EmotionChoices:
    """Ask every question unsteered, and steered with each vector and with random directions.

    A chat model is asked in its template. `dose` is what is added in each of `layers` (by default
    that of the vectors), as a part of the stream's norm at each token; `seed` is that of the
    `n_random` directions, at least ten.

    Raises:
        PlanError: vectors of other weights; an emotion, layer, dose or number that cannot be used.
        DataError: no question can be asked.
    """
    refuse_unusable(n_random, dose)
    found.of(model).rows(emotions)
    at = tuple([found.layer] if layers is None else layers)
    vectors, rng = {name: found.steering(name) for name in emotions}, torch.Generator()
    rng.manual_seed(seed)
    for i in range(n_random):
        like = vectors[emotions[i % len(emotions)]]
        drawn = torch.randn(like.vectors.shape[1], like.vectors.shape[1], generator=rng)
        vectors[f"{RANDOM}{i}"] = replace(like, vectors=unit(like.vectors) @ drawn)
    plans: dict[str, Any] = {UNSTEERED: ()}
    plans |= {name: one.plan(dose, at, relative="norm") for name, one in vectors.items()}
    in_chat = has_template(model)
    asked, left_out = tokenise(model, choice_pairs(choices, in_chat))
    if not asked:
        raise DataError(f"no question can be asked of {model.name}; first: {left_out[0].reason}.")
    first, second = (sweep_plans(model, asked, plans, run=side) for side in ("clean", "corrupt"))
    odds: Any = (first - second) / 2
    log_odds = odds.to_pandas().reset_index(names="id")
    log_odds.insert(0, "kind", log_odds["id"].map({one.id: one.kind for one in choices}))
    settings = (tuple(emotions), n_random, float(dose), at, in_chat, model.name)
    return EmotionChoices(log_odds, tuple(left_out), *settings)
