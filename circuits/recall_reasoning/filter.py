"""The correctness filter: only pairs that a model gets right on both sides are studied.

Right means that no other candidate answer is likelier, all of them whole (`interp.ablate`'s
``"accuracy"``). Of two-hop recall a pair is dropped, too, if a shortcut gives its answer: the same
question without its first hop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from circuits.recall_reasoning.cells import Data
from interp.ablation.readouts import READOUTS, rivals, spelt
from interp.brief import brief
from interp.data.answers import Aliases
from interp.data.chat import in_chat
from interp.data.pairs import Excluded, Pair, PromptPairs, TokenPair, tokenise
from interp.data.prompts import TokenPrompt, as_prompts, batches, prompts_of
from interp.data.token_batch import laid_out
from interp.forward.continuations import resid_at_nodes
from interp.forward.readout import answer_scores, measure
from interp.model.model import Model
from interp.statistics import auroc, wilson

AT_ONCE = 128
WRONG = ("wrong on clean", "wrong on corrupt", "right by a shortcut")
"""Why a pair that a model can read is dropped."""


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


def filtered(model: Model, data: Data) -> Filtered:
    """Ask the model every pair. Raises as `tokenise`."""
    return Filtered.of(data, answered(model, data, None), None)


def answered(model: Model, data: Data, most: int | None) -> dict[str, pd.DataFrame]:
    """The tables ``counts`` and ``dropped`` of `Filtered`; raises as `filtered`."""
    rows: list[dict[str, Any]] = []
    dropped: list[Excluded] = []
    for split in data.pairs:
        first: list[int] = []
        for cell in data.cells:
            row, lengths, out = _asked(model, data, cell, data.of(split, cell), most)
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
    tokens, out = tokenise(model, pairs)
    among = [spelt(model, tokens[0], text) for text in candidates(pairs, data.candidates[cell])]
    clean, first = right(model, prompts_of(tokens), [t.answers[0] for t in tokens], among)
    both, short = clean.copy(), np.zeros_like(clean)
    asked = [tokens[i] for i in np.flatnonzero(clean)]
    both[clean], _ = right(
        model, prompts_of(asked, "corrupt"), [t.answers[1] for t in asked], among
    )
    short[both] = _by_shortcut(model, data, [tokens[i] for i in np.flatnonzero(both)], among)
    for reason, which in zip(WRONG, (~clean, clean & ~both, short), strict=True):
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


def candidates(pairs: Sequence[Pair], texts: Sequence[str]) -> list[str]:
    """The answers that accuracy chooses among: those of the pairs, and all others."""
    own = (text for pair in pairs for text in (pair.answer, pair.wrong_answer))
    return list(dict.fromkeys((*own, *texts)))


def right(
    model: Model,
    prompts: Sequence[TokenPrompt],
    answers: Sequence[Aliases],
    among: Sequence[Aliases],
) -> tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
    """Whether each answer leads the candidates, and whether greedy decoding writes it.

    An answer is at most as likely as its first token, so longer rivals are read to their end only
    where their first token is likelier than the whole right answer.
    """
    every = list(dict.fromkeys(among))
    against = [rivals(own, every) for own in answers]
    begun = [[tuple({alias[:1] for alias in one}) for one in some] for some in against]
    ahead, written = _ahead(model, prompts, answers, begun)
    left = [list(compress(some, above)) for some, above in zip(against, ahead, strict=True)]
    leads = np.array([not some for some in left], dtype=bool)
    # a rival of one token that lies ahead stays there
    still = [
        i for i, some in enumerate(left) if some and min(max(map(len, one)) for one in some) > 1
    ]
    if still:
        parts: Any = [[whole[i] for i in still] for whole in (prompts, answers, left)]
        leads[still] = [not any(above) for above in _ahead(model, *parts)[0]]
    return leads, written


def _ahead(
    model: Model,
    prompts: Sequence[TokenPrompt],
    answers: Sequence[Aliases],
    against: Sequence[Sequence[Aliases]],
) -> tuple[list[list[bool]], Bool[np.ndarray, " prompt"]]:
    """Which of its rivals are likelier than each answer; whether greedy decoding writes it."""
    ahead: list[list[bool]] = [[] for _ in prompts]
    written = np.zeros(len(prompts), dtype=bool)
    for group in batches(
        model, prompts, AT_ONCE * max((len(one.ids) for one in prompts), default=0)
    ):
        read = [(answers[i], *against[i]) for i in group]
        first = [(own[0][0], own[0][0]) for own, *_ in read]
        tokens = laid_out(model, [prompts[i].ids for i in group], read, first, on_left=False)
        resid = resid_at_nodes(model, tokens)
        log_p = answer_scores(model, resid, tokens.answers, relative=True).of_answers
        for i, above in zip(group, (log_p[:, 1:] > log_p[:, :1]).tolist(), strict=True):
            ahead[i] = above[: len(against[i])]
        metric = READOUTS["vocab_accuracy"]
        written[group] = measure(model, metric, resid, tokens.answers).bool().numpy()
    return ahead, written


def _by_shortcut(
    model: Model, data: Data, tokens: Sequence[TokenPair], among: Sequence[Aliases]
) -> Bool[np.ndarray, " pair"]:
    """Which pairs some shortcut gives the answer of."""
    texts = [(i, s) for i, t in enumerate(tokens) for s in data.shortcuts.get(t.pair.id, ())]
    found = np.zeros(len(tokens), dtype=bool)
    if texts:
        prompts = as_prompts(model, [in_chat(text, data.chat) for _, text in texts])
        hit, _ = right(model, prompts, [tokens[i].answers[0] for i, _ in texts], among)
        np.logical_or.at(found, [i for i, _ in texts], hit)
    return found


def two_sided_auc(first: Sequence[float], second: Sequence[float]) -> float:
    """How well a number tells two sets apart, whichever is larger: 0.5 to 1; NaN without one."""
    if not (len(first) and len(second)):
        return float("nan")
    area = auroc(np.array([*first, *second]), np.arange(len(first) + len(second)) < len(first))
    return max(area, 1 - area)
