"""Pairs whose answers have several tokens and texts, and their metric by plain forward passes.

Nothing here knows of trees, columns or packed batches: every alias is a text of its own behind the
prompt, run by Hugging Face itself under hooks.
"""

import dataclasses
from collections.abc import Callable, Container, Sequence

import torch
from conftest import tiny, word_tokenizer
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
    return dataclasses.replace(tiny(family), tokenizer=word_tokenizer(side))


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

    def patched(
        self,
        alias: Sequence[int],
        site: str,
        layer: int,
        features: slice | list[int] = slice(None),
        at: Container[int] | None = None,
        side: str = "clean",
    ) -> Edit:
        """Some features of a site get the partners' activation, at every token that has one.

        Or at the clean positions `at` and their partners; `side` is the prompt that is changed.
        """
        other = "clean" if side == "corrupt" else "corrupt"
        value = recorded(self.model, self.text(alias, other), site, layer)
        both = [(i, j) for i, j in self.partners(alias).items() if at is None or i in at]

        def change(activation: Tensor) -> None:
            for i, j in both:
                own, theirs = (i, j) if side == "clean" else (j, i)
                activation[0, own, features] = value[theirs, features]

        return site, layer, change

    def metrics(
        self, edits: Callable[[Sequence[int]], Sequence[Edit]] = lambda _: (), side: str = "clean"
    ) -> dict[str, Tensor]:
        """Every metric of whole answers, term by term; `edits` makes those of an alias's text."""
        log_p: tuple[list[Tensor], list[Tensor]] = ([], [])
        ranks: list[Tensor] = []
        for n, alias in self.listed:
            read = plain(self.model, self.text(alias, side), edits(alias))[-len(alias) :]
            own = read[range(len(alias)), list(alias)]
            log_p[n].append(own.sum())
            ranks += [(read > own[:, None]).sum(-1).max()] * (n == 0)
        right, wrong = (torch.stack(own).logsumexp(0) for own in log_p)
        lengths = torch.tensor([len(alias) for alias in self.pair.answers[0]])
        return {
            "logit_diff": right - wrong,
            "logprob": right,
            "prob": right.exp(),
            "logprob_per_token": (torch.stack(log_p[0]) / lengths).max(),
            "rank": torch.stack(ranks).min(),
        }

    def logit_diff(
        self, edits: Callable[[Sequence[int]], Sequence[Edit]] = lambda _: (), side: str = "clean"
    ) -> Tensor:
        """log p(answer) - log p(wrong answer); arguments as of `metrics`."""
        return self.metrics(edits, side)["logit_diff"]


def aliases_of(model: Model, rows: interp.PromptPairs | None = None) -> list[Aliases]:
    """Each of the pairs; of others, whose prompts are aligned token by token, those."""
    if rows is None:
        return [Aliases(model, *both) for both in zip(kept(model), PARTNERS, strict=True)]
    found, _ = tokenise(model, rows)
    return [Aliases(model, pair, {i: i for i in range(len(pair.clean))}) for pair in found]
