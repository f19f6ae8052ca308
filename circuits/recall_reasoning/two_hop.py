"""Two-hop prompts with a bridge that is only described, and which of them a model answers.

The capital of the country where the Louvre is located is the city of      Paris
                                 |_ landmark           bridge: France      answer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from circuits.recall_reasoning.settings import BridgeSettings
from circuits.recall_reasoning.sources.countries import Country
from interp.brief import brief
from interp.data.answers import Tokens, continuation
from interp.data.chat import Chat, in_chat
from interp.data.pairs import Excluded, Pair, TokenPair
from interp.data.prompts import TokenPrompt, prompt
from interp.errors import DataError, shown
from interp.interventions.run import sweep_plans
from interp.model.model import Model

HALVES = ("choice", "test")
"""Of the countries: layers are chosen on swaps between those of one, and scored on the other's."""
CITY = "{} is located in the city of"
"""What a shortcut asks: the landmark's own city, which may be the capital."""


@brief
@dataclass(frozen=True)
class TwoHop:
    """A two-hop question in a model's tokens.

    `prompt` has the span ``read``: the landmark's last token and all that follow, which are the
    same tokens in every prompt. `capital` are the answer's tokens behind it.
    """

    landmark: str
    bridge: str
    answer: str
    prompt: TokenPrompt
    capital: Tokens


def two_hop_prompts(
    model: Model, facts: Sequence[Country], template: str, chat: Chat | None = None
) -> tuple[list[TwoHop], list[Excluded]]:
    """Every landmark of the facts in a template (``{}`` stands for it), and those left out.

    With `chat` each prompt is a user's turn, and its end what the template writes behind that.

    Left out are landmarks that name their country or its capital, bridges that are not one token
    (a lens reads one), and prompts whose end is in other tokens than the first one's.
    """
    if template.count("{}") != 1 or not template.partition("{}")[2].strip():
        raise DataError(f"the template {shown(template)} needs one {{}} with words behind it.")
    found: list[TwoHop] = []
    left_out: list[Excluded] = []
    for fact in facts:
        for landmark in fact.landmarks:
            try:
                found.append(_one(model, fact, landmark, template, chat, found[:1]))
            except DataError as error:
                left_out.append(Excluded(landmark, fact.country, str(error)))
    return found, left_out


def _one(
    model: Model,
    fact: Country,
    landmark: str,
    template: str,
    chat: Chat | None,
    first: Sequence[TwoHop],
) -> TwoHop:
    """One landmark's prompt; `DataError` where it cannot be used."""
    if landmark not in fact.unnamed_landmarks:
        raise DataError("the landmark names its country or the capital.")
    if len(model.tokenizer.encode(f" {fact.country}", add_special_tokens=False)) != 1:
        raise DataError("the bridge is not one token.")
    text = in_chat(template.replace("{}", landmark), chat)
    found = read_from(prompt(model, text, landmark=landmark))
    if first and end_of(found) != end_of(first[0].prompt):
        raise DataError("the end of the prompt is in other tokens than that of the others.")
    capital = continuation(model, found.text, found.ids, fact.capital, "the capital")
    return TwoHop(landmark, fact.country, fact.capital, found, capital)


def read_from(found: TokenPrompt) -> TokenPrompt:
    """A prompt with the span ``read``, from the last token of its span ``landmark`` on."""
    start = found.spans["landmark"][-1]
    return TokenPrompt(found.ids, {"read": tuple(range(start, len(found.ids)))}, found.text)


def end_of(found: TokenPrompt) -> tuple[int, ...]:
    """The tokens behind its landmark."""
    return tuple(found.ids[i] for i in found.spans["read"][1:])


def answered(
    model: Model, prompts: Sequence[TokenPrompt], capitals: Sequence[Tokens]
) -> Bool[np.ndarray, " prompt"]:
    """Which prompts greedy decoding continues by these tokens."""
    rows = [
        swapped(one, one, (capital, capital))
        for one, capital in zip(prompts, capitals, strict=True)
    ]
    return sweep_plans(model, rows, {"none": ()}, "rank").values[:, 0] == 0


def swapped(target: TokenPrompt, donor: TokenPrompt, capitals: Sequence[Tokens]) -> TokenPair:
    """A pair for `interp.patching`: states of the donor's span ``read`` go into the target's.

    The spans ``0``, ``1``, … are single tokens of it; both capitals are answers.
    """
    spans, others = (
        {str(i): (at,) for i, at in enumerate(one.spans.get("read", ()))} for one in (donor, target)
    )
    none = (None,) * len(donor.ids)
    named = Pair("swap", donor.text, target.text, "", "")
    right, wrong = capitals
    return TokenPair(named, donor.ids, target.ids, ((right,), (wrong,)), spans, others, none)


@brief
@dataclass(frozen=True)
class Asked:
    """Every prompt, whether the model answers it, and the half of its country."""

    prompts: Sequence[TwoHop]
    table: pd.DataFrame
    left_out: Mapping[str, int]
    places: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, facts: Sequence[Country], settings: BridgeSettings) -> "Asked":
        """Ask the model; `DataError` where it answers too little."""
        found, left_out = two_hop_prompts(model, facts, settings.template, settings.chat)
        if not found:
            raise DataError(f"no landmark can be used with {model.name}; first: {left_out[0]}.")
        capitals = [one.capital for one in found]
        right = answered(model, [one.prompt for one in found], capitals)
        shorter = [CITY.format(one.landmark[0].upper() + one.landmark[1:]) for one in found]
        asked = [prompt(model, in_chat(text, settings.chat)) for text in shorter]
        short = answered(model, asked, capitals)
        columns = {
            name: [getattr(o, name) for o in found] for name in ("landmark", "bridge", "answer")
        }
        table = pd.DataFrame(columns | {"answered": right, "by_shortcut": short})
        known = sorted(set(table.loc[right, "bridge"]))
        order = np.random.default_rng(settings.seed).permutation(len(known))
        half = {known[i]: HALVES[k % 2] for k, i in enumerate(order)}
        table["half"] = [half.get(name, "") for name in table["bridge"]]
        for name in HALVES:
            n = sum(one == name for one in half.values())
            if n < 2:
                raise DataError(
                    f"{model.name} answers {int(right.sum())} of {len(right)} two-hop prompts, "
                    f"about {len(known)} countries; a swap needs two in each half (4 in all)."
                )
        reasons = pd.Series([one.reason for one in left_out], dtype=object).value_counts()
        end = [model.token(found[0].prompt.ids[i]) for i in found[0].prompt.spans["read"]]
        behind = (token.replace("\n", "\\n") for token in end)
        places = ("landmark", *(f"+{i}{token}" for i, token in enumerate(behind) if i))
        return cls(found, table, {str(k): int(n) for k, n in reasons.items()}, places)

    def of_half(self, half: str | None = None) -> list[TwoHop]:
        """The prompts that are answered, of a half or of both."""
        rows = zip(self.prompts, self.table["answered"], self.table["half"], strict=True)
        return [one for one, right, own in rows if right and half in (None, own)]
