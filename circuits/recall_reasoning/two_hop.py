"""Two-hop prompts with a bridge that is only described, and which of them a model answers.

The capital of the country where the Louvre is located is the city of      Paris
                                 |_ landmark           bridge: France      answer
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from circuits.recall_reasoning.sources.countries import Country
from interp.brief import brief
from interp.data.answers import Tokens, continuation
from interp.data.pairs import Excluded, Pair, TokenPair
from interp.data.prompts import TokenPrompt, prompt
from interp.errors import DataError, shown
from interp.interventions.run import sweep_plans
from interp.model.model import Model

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
    model: Model, facts: Sequence[Country], template: str
) -> tuple[list[TwoHop], list[Excluded]]:
    """Every landmark of the facts in a template (``{}`` stands for it), and those left out.

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
                found.append(_one(model, fact, landmark, template, found[:1]))
            except DataError as error:
                left_out.append(Excluded(landmark, fact.country, str(error)))
    return found, left_out


def _one(
    model: Model, fact: Country, landmark: str, template: str, first: Sequence[TwoHop]
) -> TwoHop:
    """One landmark's prompt; `DataError` where it cannot be used."""
    if any(name.lower() in landmark.lower() for name in (fact.country, fact.capital)):
        raise DataError("the landmark names its country or the capital.")
    if len(model.tokenizer.encode(f" {fact.country}", add_special_tokens=False)) != 1:
        raise DataError("the bridge is not one token.")
    text = template.replace("{}", landmark)
    found = read_from(prompt(model, text, landmark=landmark))
    if first and end_of(found) != end_of(first[0].prompt):
        raise DataError("the end of the prompt is in other tokens than that of the others.")
    capital = continuation(model, text, found.ids, fact.capital, "the capital")
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
