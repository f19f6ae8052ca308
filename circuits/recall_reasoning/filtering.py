"""The correctness filter: only pairs that a model gets right on both sides are studied.

Right means that no other candidate answer has a higher logit. Of two-hop recall a pair is dropped,
too, if a shortcut gives its answer: the same question without its first hop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from circuits.recall_reasoning.cells import Data
from interp.brief import brief
from interp.data.pairs import Excluded, PromptPairs, TokenPair, single_token, tokenise
from interp.data.prompts import TokenPrompt, prompts_of
from interp.errors import DataError
from interp.forward.readout import answer_logits
from interp.interventions.run import forward
from interp.model.model import Model
from interp.statistics import auroc, wilson

AT_ONCE = 128


@brief
@dataclass(frozen=True)
class Filtered:
    """Data that a model gets right, and what became of the rest.

    Attributes:
        data: the pairs that are left.
        counts: a row a split and cell: pairs drawn, right, and kept.
        dropped: the pairs that are not, with reasons.
    """

    data: Data
    counts: pd.DataFrame
    dropped: tuple[Excluded, ...]

    def n(self, cell: str) -> int:
        """Kept pairs of a cell in its smallest split."""
        return int(self.counts.loc[self.counts["cell"] == cell, "kept"].min())


def filtered(model: Model, data: Data, most: int | None = None) -> Filtered:
    """Ask the model every pair.

    Args:
        model: the model.
        data: what to ask.
        most: keep at most so many pairs a cell and split, the first ones.

    Raises:
        DataError: no pair fits the model's tokens.
    """
    kept: dict[str, dict[str, PromptPairs]] = {}
    rows: list[dict[str, object]] = []
    dropped: list[Excluded] = []
    for split, cells in data.pairs.items():
        kept[split] = {}
        for cell, pairs in cells.items():
            good, row, out = _asked(model, data, cell, pairs, most)
            kept[split][cell] = PromptPairs(tuple(p.pair for p in good), pairs.source)
            rows.append({"split": split, "cell": cell, **row})
            dropped += out
    return Filtered(replace(data, pairs=kept), pd.DataFrame(rows), tuple(dropped))


def _asked(
    model: Model, data: Data, cell: str, pairs: PromptPairs, most: int | None
) -> tuple[list[TokenPair], dict[str, object], list[Excluded]]:
    tokens, out = tokenise(model, pairs)
    among = candidates(model, tokens, data.candidates[cell])
    clean, first = right(model, prompts_of(tokens), [t.answer for t in tokens], among)
    corrupt, _ = right(
        model, prompts_of(tokens, "corrupt"), [t.wrong_answer for t in tokens], among
    )
    short = _by_shortcut(model, data, tokens, among)
    good = clean & corrupt & ~short
    reasons = {"wrong on clean": ~clean, "wrong on corrupt": clean & ~corrupt}
    reasons["right by a shortcut"] = clean & corrupt & short
    for reason, which in reasons.items():
        out += [Excluded(tokens[i].pair.id, pairs.source, reason) for i in np.flatnonzero(which)]
    chosen = [tokens[i] for i in np.flatnonzero(good)][:most]
    share = wilson(int(clean.sum()), len(tokens))
    return (
        chosen,
        {
            "drawn": len(pairs),
            "asked": len(tokens),
            "clean_right": share.value,
            "low": share.low,
            "high": share.high,
            "vocabulary_right": float(first.mean()),
            "both_right": float((clean & corrupt).mean()),
            "by_shortcut": int((clean & corrupt & short).sum()),
            "kept": len(chosen),
            "bridges": len({data.bridge[t.pair.id] for t in chosen}),
            "tokens": float(np.mean([len(t.clean) for t in tokens])),
        },
        out,
    )


def candidates(model: Model, pairs: Sequence[TokenPair], texts: Sequence[str]) -> list[int]:
    """The tokens that accuracy chooses among: those of the answers that are one token."""
    found = {t for pair in pairs for t in (pair.answer, pair.wrong_answer)}
    prompt, ids = pairs[0].pair.clean, list(pairs[0].clean)
    for text in texts:
        try:
            found.add(single_token(model, prompt, ids, text, "candidate"))
        except DataError:  # of more tokens, so it is no pair's answer either
            continue
    return sorted(found)


def right(
    model: Model, prompts: Sequence[TokenPrompt], answers: Sequence[int], among: Sequence[int]
) -> tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
    """Whether each answer leads the candidates, and whether it leads the vocabulary."""
    lead: list[np.ndarray] = []
    first: list[np.ndarray] = []
    for lo in range(0, len(prompts), AT_ONCE):
        predicted = forward(model, prompts[lo : lo + AT_ONCE])
        own = torch.tensor(answers[lo : lo + AT_ONCE])
        table = torch.tensor(list(among)).expand(len(own), -1)
        logits = answer_logits(
            model, predicted.resid.to(model.unembed_device), torch.cat([own[:, None], table], 1)
        ).cpu()
        lead.append((logits[:, 1:] <= logits[:, :1]).all(1).numpy())
        first.append((predicted.logits.argmax(-1) == own).numpy())
    return np.concatenate(lead), np.concatenate(first)


def _by_shortcut(
    model: Model, data: Data, tokens: Sequence[TokenPair], among: Sequence[int]
) -> Bool[np.ndarray, " pair"]:
    """Which pairs some shortcut gives the answer of."""
    texts = [(i, s) for i, t in enumerate(tokens) for s in data.shortcuts.get(t.pair.id, ())]
    found = np.zeros(len(tokens), dtype=bool)
    if texts:
        prompts = [TokenPrompt(tuple(model.encode(text))) for _, text in texts]
        hit, _ = right(model, prompts, [tokens[i].answer for i, _ in texts], among)
        np.logical_or.at(found, [i for i, _ in texts], hit)
    return found


def length_auc(first: Sequence[TokenPair], second: Sequence[TokenPair]) -> float:
    """How well the number of tokens alone tells two cells apart; 0.5 is not at all, 1 perfectly."""
    lengths = np.array([len(pair.clean) for pair in (*first, *second)], dtype=float)
    labels = np.arange(len(lengths)) < len(first)
    area = auroc(lengths, labels)
    return max(area, 1 - area)
