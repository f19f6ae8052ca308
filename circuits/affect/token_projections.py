"""`TokenProjections`: each token's state along emotion vectors, with the speakers' turns apart.

What a speaker's text evokes in the model and what the model is about to express may differ, so the
user's turns, the token before a reply, the reply's first token and the whole reply are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from circuits.affect.emotion_vectors import SINKS, EmotionVectors
from interp.brief import brief
from interp.data.chat import Conversation, render
from interp.data.prompts import TokenPrompt
from interp.errors import DataError
from interp.interventions.recording import activations
from interp.model.model import Model
from interp.results.report import Interactive, Report, Section, Table
from interp.results.result import Result

TEMPLATE, TEXT, ASSISTANT = "template", "text", "assistant"
"""The speaker of tokens between turns, of a plain text, and of replies."""


@brief
@dataclass(frozen=True)
class TokenProjections(Result):
    """Coordinates of tokens along emotion vectors, in standard deviations over neutral text.

    `tokens` has per token its ``turn`` (the number of its message; 0 between turns), ``speaker``
    and ``token``; `values` are NaN at the first token of the sequence, whose state is unlike any
    other.
    """

    KIND: ClassVar[str] = "emotion tokens"
    tokens: pd.DataFrame = field(repr=False)
    values: np.ndarray = field(repr=False)
    emotions: tuple[str, ...]
    layer: int
    model: str

    @property
    def parts(self) -> pd.DataFrame:
        """Per turn the mean over its tokens; of replies, also the token before and the first."""
        rows: list[dict[str, Any]] = []
        turns = self.tokens["turn"].to_numpy()
        for turn in np.unique(turns[turns > 0]).tolist():
            at = np.flatnonzero(turns == turn)
            speaker = self.tokens["speaker"].iloc[at[:1]].item()
            before: Any = {"token before": at[:1] - 1, "first token": at[:1]}
            for part, places in ((before if speaker == ASSISTANT else {}) | {"whole": at}).items():
                values = self.values[places[places > 0]]  # the very first has none
                row = {"turn": turn, "speaker": speaker, "part": part, "tokens": len(values)}
                means = values.mean(0) if len(values) else np.full(len(self.emotions), np.nan)
                rows.append(row | dict(zip(self.emotions, means.tolist(), strict=True)))
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The rows of `parts`."""
        return super().summary() | {"parts": self.parts.to_dict("records")}

    def report(self) -> Report:
        """The text, coloured by one emotion at a time, and the means over its parts."""
        says = (
            "Each token is coloured by its state along the emotion chosen: blue above the mean "
            "over neutral text, red below it. Point at a token to read its value. Turns are apart; "
            "what the chat template adds is grey."
        )
        script, style = (Path(__file__).with_name(f"tokens.{end}") for end in ("js", "css"))
        drawn = self._runs(), script.read_text("utf-8"), style.read_text("utf-8")
        figure = Interactive("Tokens", says, *drawn, "interp-tokens")
        return Report(
            title=f"Emotions at each token, {self.model}",
            lead=f"{len(self.tokens)} tokens at layer {self.layer}, {len(self.emotions)} emotions.",
            sections=[
                Section("Token by token", [figure]),
                Section("Turn by turn", [Table("Means over parts of the turns", self.parts)]),
            ],
            method=(
                "A value is how far a state lies along the emotion's vector from the mean over "
                "the tokens of passages of neutral text, in their standard deviations; the first "
                f"{SINKS} tokens of each passage, which attract attention and may have extreme "
                "norms, are left out of both. Over neutral text values have mean 0 and standard "
                "deviation 1. A text about an emotion, a speaker who has it and a reply that will "
                "express it are not separated by one value: compare the turns.",
            ),
            provenance=self.provenance,
        )

    def _runs(self) -> dict[str, Any]:
        """What the page's script draws: runs of tokens of one turn."""
        columns = (self.tokens[name].tolist() for name in ("turn", "speaker", "token"))
        known = [[None if np.isnan(v) else round(float(v), 3) for v in own] for own in self.values]
        runs = [
            {"speaker": speaker, "tokens": [[token, values] for *_, token, values in run]}
            for (_, speaker), run in groupby(zip(*columns, known, strict=True), lambda row: row[:2])
        ]
        return {"emotions": list(self.emotions), "runs": runs, "template": TEMPLATE}


def token_projections(
    model: Model, found: EmotionVectors, given: str | Conversation, emotions: Sequence[str]
) -> TokenProjections:
    """Where each token of a text or chat is along emotion vectors, in their layer.

    `DataError` where the text is blank or the chat cannot be rendered, `PlanError` for vectors of
    other weights or an emotion that they lack.
    """
    found.of(model).rows(emotions)
    if isinstance(given, Conversation):
        said = {n: str(m.get("content") or "") for n, m in enumerate(given.messages)}
        spans = {n: (given.start(n), given.start(n) + len(s)) for n, s in said.items() if s.strip()}
        text, places = render(model, given, {str(n): span for n, span in spans.items()})
        turns = {int(n): (str(given.messages[int(n)]["role"]), at) for n, at in places.items()}
    elif given.strip():
        text, turns = given, {0: (TEXT, (0, len(given)))}
    else:
        raise DataError("the text to read is blank; give some words.")
    ids, offsets = model.encode(text), model.offsets(text)
    rows = [(0, TEMPLATE, model.token(one)) for one in ids]
    for number, (speaker, (start, end)) in turns.items():
        for place, (low, high) in enumerate(offsets):
            if low < end and high > start:
                rows[place] = (number + 1, speaker, rows[place][2])
    states = activations(model, TokenPrompt(tuple(ids)), "resid_post", found.layer)[found.layer][0]
    values = found.coordinates(states, emotions, found.layer).double().numpy()
    values[0] = np.nan
    tokens = pd.DataFrame(rows, columns=["turn", "speaker", "token"])
    return TokenProjections(tokens, values, tuple(emotions), found.layer, model.name)
