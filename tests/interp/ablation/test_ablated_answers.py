"""Ablation and plans under whole answers equal teacher-forced passes with hooks."""

import numpy as np
import pytest
import torch
from conftest import tiny
from test_ablate import REFERENCE, naive
from whole_answers import FIVE, aliases_of, model_of, pairs, plain

import interp
from interp.errors import DataError
from interp.interventions.plan import Ablate, Add, KnockOut, Scale
from interp.model.components import as_sets

SETS = {"head": "a1.h2", "set": ["a0.h1", "a2.h3", "m2", "m1.n7"], "mlp": "m0"}
NAMES = ("logit_diff", "logprob", "prob", "logprob_per_token", "rank", "vocab_accuracy")


@pytest.mark.parametrize("kind", ["resample", "mean", "zero"])
@pytest.mark.parametrize("family", FIVE)
@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
def test_ablation(family: str, kind: str):
    model, sets = model_of(family), as_sets(tiny(family), SETS)
    reference = REFERENCE if kind == "mean" else None
    result = interp.ablate(
        model, pairs(), sets, kind, n_random=0, readouts=NAMES, reference=reference
    )
    alone = ["1 tokens of clean and 3 of corrupt prompts, in 2 of 4 pairs, have no partner"]
    assert [text[: len(alone[0])] for text in result.warnings] == alone * (kind == "resample")
    assert result.summary()["warnings"] == list(result.warnings)
    for i, one in enumerate(aliases_of(model)):
        intact = naive(one, (), kind)
        wanted = {name: naive(one, chosen.components, kind) for name, chosen in sets.items()}
        for found in (intact, *wanted.values()):
            found["vocab_accuracy"] = float(found["rank"] == 0)
        for name in NAMES:
            data = result.reading(name)
            assert float(data["baseline"][i]) == pytest.approx(intact[name], abs=1e-4), name
            for chosen, want in wanted.items():
                got = float(data["ablated"].sel(set=chosen)[i])
                assert got == pytest.approx(want[name], abs=1e-4), (i, name, chosen)


def test_accuracy_is_among_whole_answers():
    model = model_of("qwen2")
    given = ["w24", "w30 w31 w32 w33 w34 w35", "w40 w41", "w50", "w21 w25", "w51 w52", "w62"]
    options = {"n_random": 0, "readouts": ("accuracy",)}
    right = []
    for candidates in (None, given):
        result = interp.ablate(model, pairs(), SETS, candidates=candidates, **options)
        got = result.reading("accuracy")["baseline"].values
        texts = [[text] for text in given]
        if candidates is None:
            sides = [(p.answer, *p.aliases) for p in pairs()]
            texts = sides + [(p.wrong_answer, *p.wrong_aliases) for p in pairs()]
        for i, pair in enumerate(one.pair for one in aliases_of(model)):

            def log_p(alias, pair=pair):
                with torch.no_grad():
                    read = plain(model, (*pair.clean, *alias[:-1]))[-len(alias) :]
                return read[range(len(alias)), list(alias)].sum()

            def own(texts):
                return [tuple(model.encode(text)) for text in texts]

            mine = torch.stack([log_p(a) for a in pair.answers[0]]).logsumexp(0)
            rivals = []
            for one in texts:
                # what begins with the answer, or begins it, is no rival; nor is an extension
                left = [
                    a
                    for a in own(one)
                    if not any(a[: len(b)] == b[: len(a)] for b in pair.answers[0])
                ]
                left = [a for a in left if not any(a != b and a[: len(b)] == b for b in own(one))]
                if left:
                    rivals.append(torch.stack([log_p(a) for a in left]).logsumexp(0))
            right.append(float(all(mine >= other for other in rivals)))
            assert got[i] == right[-1], (candidates, i)
    assert 0 < np.mean(right) < 1
    with pytest.raises(DataError, match="answer 'w30' is not among the 1 candidates"):
        rows = [{"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w30", "wrong_answer": "w31"}]
        interp.ablate(model, rows, SETS, candidates=["w31"], **options)


@pytest.mark.parametrize("family", FIVE)
def test_plans(family: str):
    model = model_of(family)
    direction = torch.linspace(-1, 1, model.arch.d_model)
    plans = {
        "none": (),
        "everywhere": Scale("attn_out", 0.3, layers=1),
        "in the prompt": Ablate("mlp_out", layers=0, positions="prompt"),
        "last": Add("resid_pre", direction, layers=2, positions="last"),
        "cut": KnockOut("last", "s", layers=(1, 2)),
    }
    for run in ("clean", "corrupt"):
        got = {
            name: interp.sweep_plans(model, pairs(), plans, name, run)
            for name in ("logit_diff", "rank", "logprob")
        }
        for i, one in enumerate(aliases_of(model)):
            spans = one.pair.spans if run == "clean" else one.pair.corrupt_spans
            prompt = interp.TokenPrompt(getattr(one.pair, run), spans)
            for j, plan in enumerate(plans.values()):
                with torch.no_grad(), interp.applied(model, plan, [prompt]):
                    want = one.metrics(side=run)
                for name, values in got.items():
                    assert float(values[i, j]) == pytest.approx(float(want[name]), abs=1e-4), name


def test_first_tokens_alone():
    model = tiny("llama")
    rows = [{"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w30 w31", "wrong_answer": "w32 w33"}]
    single = [rows[0] | {"answer": "w30", "wrong_answer": "w32"}]
    for call in (interp.ablate, interp.sweep_plans):
        given = {"L1H2": Ablate("z", layers=1)} if call is interp.sweep_plans else SETS
        options = {} if call is interp.sweep_plans else {"n_random": 0}
        first = call(model, rows, given, answers="first", **options)
        alone = call(model, single, given, **options)
        if call is interp.ablate:
            first, alone = (x.reading("logit_diff")["ablated"] for x in (first, alone))
        np.testing.assert_allclose(first, alone, atol=1e-6)


def test_pairs_that_a_model_cannot_read_are_left_out_with_the_reason():
    model, mixed = tiny("gpt_neo"), pairs()
    # of the last two the prompts differ in length, too, which ablation does not lay together
    alone = interp.PromptPairs(mixed.pairs[1:])
    wanted = ("logit_diff", "logprob")
    one, other = (
        interp.ablate(model, data, "a1.h2", "zero", readouts=wanted, n_random=2)
        for data in (mixed, alone)
    )
    for name in wanted:
        a, b = (result.reading(name)["ablated"].values for result in (one, other))
        np.testing.assert_array_equal(a, b)
    assert [pair.id for pair in one.excluded] == [mixed[0].id]
    assert "several answers" in one.excluded[0].reason
