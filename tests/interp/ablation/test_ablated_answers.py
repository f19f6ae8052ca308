"""Ablation and plans under whole answers equal teacher-forced passes with hooks."""

import numpy as np
import pytest
import torch
from answer_examples import by_definition, long_pairs
from conftest import tiny
from whole_answers import pairs

import interp
from interp.data.pairs import tokenise
from interp.errors import DataError
from interp.forward.hooks import hooked
from interp.interventions.plan import Ablate, Add, KnockOut, Scale
from interp.model.components import SITE_OF, as_sets
from interp.model.sites import SITES

FAMILIES = ["llama", "gemma3", "gpt2", "gpt_neox", "qwen2"]
REFERENCE = ["w1 w2 w3 w4 w20", "w50 w51 w52", "w8 w7 w6 w5 w4 w3 w2 w1 w0"]
SETS = {"head": "a1.h2", "set": ["a0.h1", "a2.h3", "m2", "m1.n7"], "mlp": "m0"}
NAMES = ("logit_diff", "logprob", "prob", "logprob_per_token", "rank", "vocab_accuracy")


def forward(model, ids, edits=()):
    with torch.no_grad(), hooked(model, edits):
        return model.hf(torch.tensor([ids]), use_cache=False).logits[0].float()


def recorded(model, ids, site, layer):
    kept = []
    forward(model, ids, [(SITES[site], layer, lambda a: kept.append(a[0].clone()))])
    return kept[0]


def naive(model, pair, components, kind):
    """Every metric, each alias behind the clean prompt with components replaced at every token."""

    def logits_behind(tokens):
        def edit(one):
            site = SITE_OF[one.kind]
            each = model.width(SITES[site]) // model.n_units(SITES[site])
            own = slice(one.unit * each, (one.unit + 1) * each)
            if kind == "zero":
                value = torch.zeros(model.width(SITES[site]))
            elif kind == "mean":
                every = [recorded(model, model.encode(t), site, one.layer) for t in REFERENCE]
                value = torch.cat(every).mean(0)
            else:
                value = recorded(model, (*pair.corrupt, *tokens), site, one.layer)

            def change(activation):
                activation[0, :, own] = value[..., own]

            return SITES[site], one.layer, change

        return forward(model, (*pair.clean, *tokens), [edit(one) for one in components])

    found = by_definition(pair, logits_behind)
    return found | {"vocab_accuracy": float(found["rank"] == 0)}


@pytest.mark.parametrize("kind", ["resample", "mean", "zero"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ablation(family: str, kind: str):
    model, sets = tiny(family), as_sets(tiny(family), SETS)
    kept, _ = tokenise(model, long_pairs())
    reference = REFERENCE if kind == "mean" else None
    result = interp.ablate(
        model, long_pairs(), sets, kind, n_random=0, readouts=NAMES, reference=reference
    )
    for i, pair in enumerate(kept):
        plain = naive(model, pair, (), kind)
        wanted = {name: naive(model, pair, one.components, kind) for name, one in sets.items()}
        for name in NAMES:
            data = result.reading(name)
            assert float(data["baseline"][i]) == pytest.approx(plain[name], abs=1e-4), name
            for one, want in wanted.items():
                got = float(data["ablated"].sel(set=one)[i])
                assert got == pytest.approx(want[name], abs=1e-4), (i, name, one)


def test_accuracy_is_among_whole_answers():
    model = tiny("qwen2")
    kept, _ = tokenise(model, long_pairs())
    given = ["w20", "w30 w31", "w40 w41 w42", "w51 w52 w53 w54", "w51 w52", "w60 w61", "w62"]
    options = {"n_random": 0, "readouts": ("accuracy",)}
    right = []
    for candidates in (None, given):
        result = interp.ablate(model, long_pairs(), SETS, candidates=candidates, **options)
        got = result.reading("accuracy")["baseline"].values
        texts = [[text] for text in given]
        if candidates is None:
            sides = [(p.answer, *p.aliases) for p in long_pairs()]
            texts = sides + [(p.wrong_answer, *p.wrong_aliases) for p in long_pairs()]
        for i, pair in enumerate(kept):

            def log_p(alias, pair=pair):
                logits = forward(model, (*pair.clean, *alias[:-1]))[-len(alias) :]
                return logits.log_softmax(-1)[range(len(alias)), list(alias)].sum()

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
        pairs = [{"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w30", "wrong_answer": "w31"}]
        interp.ablate(model, pairs, SETS, candidates=["w31"], **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_plans(family: str):
    model = tiny(family)
    kept, _ = tokenise(model, long_pairs())
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
            name: interp.sweep_plans(model, long_pairs(), plans, name, run)
            for name in ("logit_diff", "rank", "logprob")
        }
        for i, pair in enumerate(kept):
            prompt = interp.TokenPrompt(
                getattr(pair, run), pair.spans if run == "clean" else pair.corrupt_spans
            )
            for j, plan in enumerate(plans.values()):

                def logits_behind(tokens, prompt=prompt, plan=plan):
                    ids = torch.tensor([[*prompt.ids, *tokens]])
                    with torch.no_grad(), interp.applied(model, plan, [prompt]):
                        return model.hf(ids, attention_mask=torch.ones_like(ids)).logits[0].float()

                want = by_definition(pair, logits_behind)
                for name, values in got.items():
                    assert float(values[i, j]) == pytest.approx(want[name], abs=1e-4), (run, name)


def test_first_tokens_alone():
    model = tiny("llama")
    pairs = [{"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w30 w31", "wrong_answer": "w32 w33"}]
    single = [pairs[0] | {"answer": "w30", "wrong_answer": "w32"}]
    for call in (interp.ablate, interp.sweep_plans):
        given = {"L1H2": Ablate("z", layers=1)} if call is interp.sweep_plans else SETS
        options = {} if call is interp.sweep_plans else {"n_random": 0}
        first = call(model, pairs, given, answers="first", **options)
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
