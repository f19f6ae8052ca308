"""The correctness filter: only pairs that a model gets right on both sides are studied.

Right means that no other candidate answer has a higher logit. Of two-hop recall a pair is dropped,
too, if a shortcut gives its answer: the same question without its first hop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from circuits.recall_reasoning.cells import Data
from interp.brief import brief
from interp.data.answers import single_token
from interp.data.pairs import Excluded, PromptPairs, TokenPair, tokenise
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
    """Data that a model gets right.

    `counts` has a row per split and cell (pairs drawn, asked, right and kept, their bridges, their
    mean length, and the AUC of length against the first cell), `dropped` the other pairs.
    """

    data: Data
    counts: pd.DataFrame
    dropped: pd.DataFrame

    @classmethod
    def of(cls, drawn: Data, tables: Mapping[str, pd.DataFrame], most: int | None) -> "Filtered":
        """The pairs that `answered` has not dropped, at most so many per cell and split."""
        gone = set(tables["dropped"]["id"])
        kept = {
            split: {
                cell: PromptPairs(tuple(p for p in pairs if p.id not in gone)[:most], pairs.source)
                for cell, pairs in cells.items()
            }
            for split, cells in drawn.pairs.items()
        }
        return cls(replace(drawn, pairs=kept), tables["counts"], tables["dropped"])

    def n(self, cell: str) -> int:
        """Kept pairs of a cell in its smallest split."""
        return int(self.counts.loc[self.counts["cell"] == cell, "kept"].min())


def filtered(model: Model, data: Data, most: int | None = None) -> Filtered:
    """Ask the model every pair; keep at most so many per cell and split. Raises as `tokenise`."""
    return Filtered.of(data, answered(model, data, most), most)


def answered(model: Model, data: Data, most: int | None) -> dict[str, pd.DataFrame]:
    """The tables ``counts`` and ``dropped`` of `Filtered`; raises as `filtered`."""
    rows: list[dict[str, Any]] = []
    dropped: list[Excluded] = []
    for split, cells in data.pairs.items():
        first: list[int] = []
        for cell, pairs in cells.items():
            row, lengths, out = _asked(model, data, cell, pairs, most)
            first = lengths if cell == data.cells[0] else first
            row["length_auc"] = two_sided_auc(first, lengths)
            rows.append({"split": split, "cell": cell, **row})
            dropped += out
    left_out = pd.DataFrame([vars(row) for row in dropped], columns=["id", "where", "reason"])
    return {"counts": pd.DataFrame(rows), "dropped": left_out}


def _asked(
    model: Model, data: Data, cell: str, pairs: PromptPairs, most: int | None
) -> tuple[dict[str, Any], list[int], list[Excluded]]:
    """Counts of one cell, the lengths of its pairs that are right, and the other pairs."""
    tokens, out = tokenise(model, pairs, "single")
    among = candidates(model, tokens, data.candidates[cell])
    clean, first = right(model, prompts_of(tokens), [t.answer for t in tokens], among)
    wrong_answers = [t.wrong_answer for t in tokens]
    corrupt, _ = right(model, prompts_of(tokens, "corrupt"), wrong_answers, among)
    both = clean & corrupt
    short = both & _by_shortcut(model, data, tokens, among)
    reasons = {"wrong on clean": ~clean, "wrong on corrupt": clean & ~corrupt}
    reasons["right by a shortcut"] = short
    for reason, which in reasons.items():
        out += [Excluded(tokens[i].pair.id, pairs.source, reason) for i in np.flatnonzero(which)]
    kept = [tokens[i] for i in np.flatnonzero(both & ~short)][:most]
    share = wilson(int(clean.sum()), len(tokens))
    row = {
        "drawn": len(pairs),
        "asked": len(tokens),
        "clean_right": share.value,
        "low": share.low,
        "high": share.high,
        "vocabulary_right": float(first.mean()),
        "both_right": float(both.mean()),
        "by_shortcut": int(short.sum()),
        "kept": len(kept),
        "bridges": len({data.bridge[t.pair.id] for t in kept}),
        "tokens": float(np.mean([len(t.clean) for t in tokens])),
    }
    return row, [len(t.clean) for t in kept], out


def candidates(model: Model, pairs: Sequence[TokenPair], texts: Sequence[str]) -> list[int]:
    """The tokens that accuracy chooses among: those of the answers that are one token."""
    found = {t for pair in pairs for t in (pair.answer, pair.wrong_answer)}
    prompt, ids = pairs[0].pair.clean, list(pairs[0].clean)
    for text in texts:
        try:
            found.add(single_token(model, prompt, ids, text, "candidate"))
        except DataError:  # of more tokens, so it is not a pair's answer either
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
        resid = predicted.resid.to(model.unembed_device)
        logits = answer_logits(model, resid, torch.cat([own[:, None], table], 1)).cpu()
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


def two_sided_auc(first: Sequence[float], second: Sequence[float]) -> float:
    """How well a number tells two sets apart, whichever is larger: 0.5 to 1; NaN without one."""
    if not (len(first) and len(second)):
        return float("nan")
    area = auroc(np.array([*first, *second]), np.arange(len(first) + len(second)) < len(first))
    return max(area, 1 - area)
