"""Pairs whose answers have several tokens and texts, and their metric by plain forward passes.

Nothing here knows of trees, columns or packed batches: every alias is a text of its own behind the
prompt, run by Hugging Face itself under hooks.
"""

from collections.abc import Callable, Sequence

import torch
from conftest import tiny_hf, word_tokenizer
from torch import Tensor

import interp
from interp.data.pairs import TokenPair, tokenise
from interp.forward.hooks import hooked
from interp.model.model import Model
from interp.model.sites import SITES

FIVE = ["llama", "gemma3", "gpt2", "gpt_neox", "qwen2"]
RECORDS = [
    {
        "clean": "w1 w2 w3 w4 w5",
        "corrupt": "w1 w9 w3 w4 w5",
        "answer": ["w20 w22 w23", "w24"],
        "wrong_answer": "w21 w25",
        "spans": {"s": ["w2", "w9"]},
    },
    {
        "clean": "w7 w8 w10 w11",
        "corrupt": "w7 w8 w12 w11",
        "answer": "w30 w31 w32 w33 w34 w35",
        "wrong_answer": ["w36", "w30 w38"],
        "spans": {"s": ["w8 w10", "w8 w12"]},
    },
    {
        "clean": "w1 w2 w7 w8 w3 w4",
        "corrupt": "w5 w1 w2 w9 w3 w4",
        "answer": ["w40 w41", "w40 w43 w44"],
        "wrong_answer": "w42",
        "spans": {"s": ["w7 w8", "w9"]},
    },
    {
        "clean": "w1 w2 w7 w3",
        "corrupt": "w1 w2 w9 w8 w11 w3",
        "answer": "w50",
        "wrong_answer": "w51",
        "spans": {"s": ["w7", "w9 w8 w11"]},
    },
]
PARTNERS = [  # by hand: clean -> corrupt positions
    {i: i for i in range(5)},
    {i: i for i in range(4)},
    {0: 1, 1: 2, 3: 3, 4: 4, 5: 5},
    {0: 0, 1: 1, 2: 4, 3: 5},
]

Edit = tuple[str, int, Callable[[Tensor], None]]
"""Site, layer, and what changes its activation [1, token, width] in place."""


def pairs() -> interp.PromptPairs:
    """All of them."""
    return interp.PromptPairs.from_records(RECORDS)


def model_of(family: str, side: str = "right") -> Model:
    """A tiny model that pads on one side."""
    return interp.load_model(tiny_hf(family), tokenizer=word_tokenizer(side))


def kept(model: Model) -> list[TokenPair]:
    """The pairs in tokens, none refused."""
    found, refused = tokenise(model, pairs())
    assert not refused
    return found


def plain(model: Model, ids: Sequence[int], edits: Sequence[Edit] = ()) -> Tensor:
    """Log-probabilities [token, vocab] of one text, by the model itself."""
    with hooked(model, [(SITES[site], layer, change) for site, layer, change in edits]):
        logits = model.hf(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits.double().log_softmax(-1)


def recorded(model: Model, ids: Sequence[int], site: str, layer: int) -> Tensor:
    """A site's activation [token, width] in one text."""
    found: list[Tensor] = []
    with torch.no_grad():
        plain(model, ids, [(site, layer, lambda x: found.append(x[0].clone()))])
    return found[0]


class Aliases:
    """One pair, text by text: each alias behind the clean and behind the corrupt prompt."""

    def __init__(self, model: Model, pair: TokenPair, partner: dict[int, int]):
        self.model, self.pair, self.partner = model, pair, partner
        self.listed = [(n, alias) for n in (0, 1) for alias in pair.answers[n]]

    def text(self, alias: Sequence[int], side: str = "clean") -> list[int]:
        """The prompt and all but the last token of an alias."""
        return [*getattr(self.pair, side), *alias[:-1]]

    def partners(self, alias: Sequence[int]) -> dict[int, int]:
        """Clean -> corrupt positions, the alias's own tokens included."""
        n, m = len(self.pair.clean), len(self.pair.corrupt)
        return self.partner | {n + i: m + i for i in range(len(alias) - 1)}

    def with_partners(self, alias: Sequence[int], clean: Tensor, corrupt: Tensor) -> Tensor:
        """The clean activations, where a token has a partner that of the partner."""
        out = clean.clone()
        for i, j in self.partners(alias).items():
            out[i] = corrupt[j]
        return out

    def both(self, alias: Sequence[int], site: str, layer: int) -> tuple[Tensor, Tensor]:
        """A site's activation in the clean text, and with those of the partners."""
        clean = recorded(self.model, self.text(alias), site, layer)
        corrupt = recorded(self.model, self.text(alias, "corrupt"), site, layer)
        return clean, self.with_partners(alias, clean, corrupt)

    def patched(self, alias: Sequence[int], site: str, layer: int, features: slice) -> Edit:
        """Some features of a site get the partners' activation, at every token that has one."""
        _, value = self.both(alias, site, layer)
        own = list(self.partners(alias))

        def change(activation: Tensor) -> None:
            activation[0, own, features] = value[own, features]

        return site, layer, change

    def logit_diff(
        self, edits: Callable[[Sequence[int]], Sequence[Edit]] = lambda _: (), side: str = "clean"
    ) -> Tensor:
        """log p(answer) - log p(wrong answer); `edits` makes those of an alias's text."""
        by_answer: tuple[list[Tensor], list[Tensor]] = ([], [])
        first = len(getattr(self.pair, side)) - 1
        for n, alias in self.listed:
            log_p = plain(self.model, self.text(alias, side), edits(alias))
            own = [log_p[first + i, token] for i, token in enumerate(alias)]
            by_answer[n].append(torch.stack(own).sum())
        right, wrong = (torch.stack(own).logsumexp(0) for own in by_answer)
        return right - wrong
