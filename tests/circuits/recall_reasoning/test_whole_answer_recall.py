"""The filter, the losses and the probes on answers of several tokens, against plain forwards."""

import importlib

import numpy as np
import pytest
import torch
from whole_answers import RECORDS, kept, model_of, pairs, plain

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.filter import answered, candidates, right
from circuits.recall_reasoning.losses import losses, total_effect
from circuits.recall_reasoning.probes import knock_out
from interp.ablation.readouts import spelt
from interp.data.pairs import tokenise
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


def test_only_what_can_change_a_verdict_is_read(monkeypatch):
    model = model_of("llama")
    rows = kept(model)
    among = [spelt(model, rows[0], text) for text in candidates(pairs(), OTHERS)]
    module = importlib.import_module("circuits.recall_reasoning.filter")
    laid_out, read = module.laid_out, []

    def noted(model, prompts, answers, *rest, **options):
        read.append([rivals for _, *rivals in answers])
        return laid_out(model, prompts, answers, *rest, **options)

    monkeypatch.setattr(module, "laid_out", noted)
    prompts = prompts_of(rows)
    with torch.no_grad():
        said = [int(plain(model, p.ids)[-1].argmax()) for p in prompts]
    answers = [pair.answers[0] for pair in rows] + [((one,),) for one in said]
    lead, _ = right(model, [*prompts, *prompts], answers, among)
    first, *again = read
    assert all(len(alias) == 1 for own in first for rival in own for alias in rival)
    # behind the likeliest token no rival can be likelier, and what is behind is not read again
    assert lead[len(rows) :].all() and sum(map(len, again)) <= len(rows)
    empty = right(model, [], [], among)
    assert [len(one) for one in empty] == [0, 0] and empty[0].dtype == bool


def test_corrupt_prompts_are_asked_of_pairs_that_are_right(monkeypatch):
    model, rows = model_of("llama"), pairs()
    module = importlib.import_module("circuits.recall_reasoning.filter")
    asked = []

    def half_right(_, prompts, answers, among):
        asked.append([one.ids for one in prompts])
        return np.arange(len(prompts)) % 2 == 0, np.zeros(len(prompts), dtype=bool)

    monkeypatch.setattr(module, "right", half_right)
    ids = [pair.id for pair in rows]
    data = Data(
        {"test": {"A": rows}}, {i: i for i in ids}, dict.fromkeys(ids, ""), {"A": tuple(OTHERS)},
        {}, (), "made", 0,
    )  # fmt: skip
    tables = answered(model, data, None)
    tokens = tokenise(model, rows)[0]
    clean = [t.clean for t in tokens]
    assert asked == [clean, [t.corrupt for t in tokens[::2]]]
    n = len(tokens)
    (row,) = tables["counts"].to_dict("records")
    assert row["clean_right"] == len(range(0, n, 2)) / n and row["kept"] == len(range(0, n, 4))
    reasons = dict(zip(tables["dropped"]["id"], tables["dropped"]["reason"], strict=True))
    names = [t.pair.id for t in tokens]
    assert reasons == {
        **dict.fromkeys(names[1::2], "wrong on clean"),
        **dict.fromkeys(names[2::4], "wrong on corrupt"),
    }
