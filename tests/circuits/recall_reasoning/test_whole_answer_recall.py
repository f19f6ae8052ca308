"""The filter, the losses and the probes on answers of several tokens, against plain forwards."""

import numpy as np
import pytest
import torch
from whole_answers import RECORDS, kept, model_of, pairs, plain

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.filter import answered, candidates, right
from circuits.recall_reasoning.losses import losses, total_effect
from circuits.recall_reasoning.probes import knock_out
from interp.ablation.readouts import spelt
from interp.data.prompts import prompts_of
from interp.model.components import as_sets
from interp.model.model import Model

OTHERS = ["w20 w22 w60", "w61", "w62 w63 w64 w65", "w30 w31"]


def log_p(model: Model, ids, alias) -> float:
    with torch.no_grad():
        read = plain(model, [*ids, *alias[:-1]])[len(ids) - 1 :]
    return float(sum(read[i, token] for i, token in enumerate(alias)))


def leads(model: Model, ids, aliases, among) -> tuple[bool, bool]:
    """By hand: no other candidate is likelier; and greedy decoding writes some alias."""
    own = np.logaddexp.reduce([log_p(model, ids, alias) for alias in aliases])
    lead = True
    for (other,) in among:
        if not any(a[: len(other)] == other[: len(a)] for a in aliases):
            lead &= log_p(model, ids, other) <= own
    greedy = []
    for alias in aliases:
        with torch.no_grad():
            read = plain(model, [*ids, *alias[:-1]])[len(ids) - 1 :].argmax(-1)
        greedy.append(read.tolist() == list(alias))
    return lead, any(greedy)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_right_is_of_whole_answers(family: str):
    model = model_of(family)
    rows = kept(model)
    among = [spelt(model, rows[0], text) for text in candidates(pairs(), OTHERS)]
    seen = set()
    for side, n in (("clean", 0), ("corrupt", 1)):
        answers = [pair.answers[n] for pair in rows]
        # what the model itself says is right, or nothing would be
        for i, pair in enumerate(rows):
            with torch.no_grad():
                first = int(plain(model, getattr(pair, side))[-1].argmax())
            answers.append(((first,),))
            assert i < len(rows)
        prompts = prompts_of(rows, side)  # pyright: ignore[reportArgumentType]
        lead, first = right(model, [*prompts, *prompts], answers, among)
        for i, aliases in enumerate(answers):
            want = leads(model, getattr(rows[i % len(rows)], side), aliases, among)
            assert (bool(lead[i]), bool(first[i])) == want, (side, i)
            seen.add(want)
    assert {(True, True), (False, False)} <= seen


def test_cells_of_whole_answers_are_counted_and_lost(tmp_path):
    model, rows = model_of("llama"), pairs()
    ids = [pair.id for pair in rows]
    data = Data(
        pairs={"test": {"A": rows}},
        bridge={i: i for i in ids},
        relation=dict.fromkeys(ids, ""),
        candidates={"A": tuple(OTHERS)},
        shortcuts={},
        rejected=(),
        source="made",
        seed=0,
    )
    counts = answered(model, data, None)["counts"]
    assert counts["asked"].tolist() == [len(RECORDS)]
    lost = losses(model, data, "test", as_sets(model, {"m": "m1"}), "resample", tmp_path)
    assert lost.effect["A"].shape == lost.accuracy["A"].shape == (4, 1)
    gap = []
    for pair in kept(model):
        for side, sign in (("clean", 1), ("corrupt", -1)):
            own = [
                np.logaddexp.reduce([log_p(model, getattr(pair, side), a) for a in aliases])
                for aliases in pair.answers
            ]
            gap.append(sign * (own[0] - own[1]) / len(rows))
    assert total_effect(model, rows) == pytest.approx(sum(gap), abs=1e-4)


def test_the_answers_own_tokens_cannot_read_the_subject_either():
    model = model_of("llama")
    table = knock_out(model, pairs(), window=1, span="s")
    assert table["n"].tolist() == [4] * model.arch.n_layers
    assert table["change"].abs().max() > 0
