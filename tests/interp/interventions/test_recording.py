"""Recorded activations: labelled, with no padding that could be read as a value."""

import numpy as np
import pytest
import torch
import transformers
from conftest import COMMON, tiny, word_tokenizer
from plan_examples import prompts_for

import interp
from interp import KnockOut, Patch
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.model.model import Model

TEXTS = ["w1 w2 w3 w4 w5 w6", "w7 w8", "w9 w10 w11"]


def test_what_is_recorded_shows_in_a_notebook():
    found = interp.activations(tiny("llama"), TEXTS, "resid_post", [0, 2])
    assert repr(found) == (
        "Activations(resid_post, layers [0, 2]: prompt 3 x pos 6 x feature 32, torch.float32)"
    )
    assert "<td>1</td><td>2</td><td>w7|w8</td>" in found._repr_html_()
    end = interp.activations(tiny("llama"), TEXTS * 5, "z", at="last")
    assert "<td>0</td><td>1</td><td>w6</td>" in end._repr_html_()
    assert "and 5 prompts more" in end._repr_html_()


def test_the_last_token_is_each_prompts_own(tiny_model: Model):
    everything = interp.activations(tiny_model, TEXTS, "resid_post", 1)
    last = interp.activations(tiny_model, TEXTS, "resid_post", 1, at="last")
    assert last.dims == ("prompt", "feature")
    want = torch.stack([everything[1][i, n - 1] for i, n in enumerate(everything.lengths)])
    torch.testing.assert_close(last[1], want, atol=0, rtol=0)
    assert last.array.token.values.tolist() == ["w6", "w8", "w11"]


def test_spans_and_numbers_choose_tokens():
    model, rows = tiny("gemma3"), prompts_for(tiny("gemma3"))
    everything = interp.activations(model, rows, "z", 1)
    span = interp.activations(model, rows, "z", 1, at="s")
    assert span.positions == tuple(row.spans["s"] for row in rows)
    for i, row in enumerate(rows):
        n = len(row.spans["s"])
        assert torch.equal(span[1][i, :n], everything[1][i, list(row.spans["s"])])
        assert span[1][i, n:].isnan().all()
    last = interp.activations(model, rows, "z", 1, at="s_last")[1]
    for i, row in enumerate(rows):
        assert torch.equal(last[i], everything[1][i, row.spans["s"][-1]])
    assert torch.equal(interp.activations(model, rows, "z", 1, at=1)[1], everything[1][:, 1])
    with pytest.raises(PlanError, match="no span 'x'"):
        interp.activations(model, rows, "z", at="x")
    with pytest.raises(PlanError, match="covers no token of prompt 0"):
        interp.activations(model, rows, "z", at="decoded")


def test_a_patch_takes_recorded_values_but_never_padding():
    model = tiny("llama")
    rows = [TokenPrompt((5, 6, 7, 8)), TokenPrompt((9, 10))]
    own = interp.activations(model, rows, "resid_post", 1)[1]
    plain = interp.forward(model, rows).logits
    got = interp.forward(model, rows, Patch("resid_post", own, layers=1, positions="prompt"))
    torch.testing.assert_close(got.logits, plain, atol=1e-5, rtol=0)
    swapped = Patch("resid_post", own.flip(0), layers=1, positions="prompt")
    with pytest.raises(PlanError, match="NaN for token 2 of a prompt"):
        interp.forward(model, rows, swapped)


def test_a_plan_with_padding_is_kept_and_read_back(tmp_path):
    own = interp.activations(tiny("llama"), TEXTS, "z", 1)[1]
    plan = interp.Plan.of(Patch("z", own, layers=1, positions="prompt"))
    assert interp.Plan.load(plan.save(tmp_path / "plan")) == plan
    holed = own.clone()
    holed[0, 0, 0] = torch.nan
    with pytest.raises(PlanError, match="NaN or infinity"):
        Patch("z", holed, layers=1)


def test_activations_under_a_plan_are_those_of_the_changed_run():
    model = tiny("llama")
    plan = interp.Scale("resid_post", 0.0, layers=1)
    assert not interp.activations(model, TEXTS[0], "resid_post", 1, plan=plan)[1].any()
    assert interp.activations(model, TEXTS[0], "resid_post", 1)[1].any()


# --- attention patterns --------------------------------------------------------------------------


def eager_patterns(model: Model, ids: tuple[int, ...]) -> list[torch.Tensor]:
    before = model.attention_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model.hf(torch.tensor([ids]), output_attentions=True)
    finally:
        model.hf.set_attn_implementation(before)
    return [weights[0] for weights in out.attentions]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2", "gptj", "gpt_neox"])
def test_patterns_equal_hugging_faces(family: str):
    model = tiny(family)
    rows = [TokenPrompt(tuple(range(5, 13))), TokenPrompt((20, 21, 22))]
    before = model.attention_implementation
    found = interp.activations(model, rows, "pattern")
    assert model.attention_implementation == before
    assert list(found) == list(range(model.arch.n_layers))
    for i, row in enumerate(rows):
        n = len(row.ids)
        for layer, want in enumerate(eager_patterns(model, row.ids)):
            got = found[layer][i]
            torch.testing.assert_close(got[:, :n, :n], want, atol=1e-5, rtol=0)
            assert got[:, n:].isnan().all()
            assert got[:, :, n:].isnan().all()


def test_a_knock_out_empties_entries_of_the_pattern():
    model, text = tiny("gemma3"), TEXTS[0]
    cut = KnockOut(5, (1, 2), layers=1, heads=3)
    plain = interp.activations(model, text, "pattern", 1)[1][0]
    got = interp.activations(model, text, "pattern", 1, plan=cut)[1][0]
    assert not got[3, 5, [1, 2]].any()
    left = plain[3, 5].clone()
    left[[1, 2]] = 0
    torch.testing.assert_close(got[3, 5], left / left.sum(), atol=1e-5, rtol=0)
    others = torch.ones_like(plain, dtype=torch.bool)
    others[3, 5] = False
    torch.testing.assert_close(got[others], plain[others], atol=1e-6, rtol=0)


def test_patterns_are_named_by_their_hook_and_never_written():
    model = tiny("llama")
    assert list(interp.activations(model, TEXTS[0], "blocks.2.attn.hook_pattern")) == [2]
    with pytest.raises(PlanError, match="can be read .* and cut"):
        interp.forward(model, TEXTS[0], interp.Scale("pattern", 0.0))
    with pytest.raises(PlanError, match="can be read .* and cut"):
        interp.patch(model, [], "pattern")


def test_patterns_of_layers_without_attention_are_refused():
    def hybrid(config):
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config)
        return interp.load_model(hf, tokenizer=word_tokenizer())

    kinds = ["conv", "full_attention", "conv"]
    model = hybrid(transformers.Lfm2Config(**COMMON, layer_types=kinds))
    with pytest.raises(PlanError, match=r"^layer 0 of .* has no site 'pattern': it has no atten"):
        interp.activations(model, TEXTS[0], "pattern", 0)
    assert list(interp.activations(model, TEXTS[0], "pattern")) == [1]
    weights = interp.activations(model, TEXTS[0], "pattern", 1)[1][0]
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    mamba = hybrid(
        transformers.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=2, state_size=4)
    )
    with pytest.raises(PlanError, match="has no site 'pattern'|has no attention"):
        interp.activations(mamba, TEXTS[0], "pattern")


def test_plotted_patterns_carry_their_tokens():
    found = interp.activations(tiny("llama"), TEXTS, "pattern", [1])
    figure = interp.plot_attention(found, 1, heads=(0, 3))
    assert [trace.name or trace.type for trace in figure.data] == ["heatmap"] * 2
    assert list(figure.data[0].x) == ["0 w7", "1 w8"]
    np.testing.assert_allclose(figure.data[1].z, found[1][1, 3, :2, :2].numpy())
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["L1H0", "L1H3"]
    with pytest.raises(PlanError, match="no layer 2"):
        interp.plot_attention(found, layer=2)
    with pytest.raises(PlanError, match="draws the site 'pattern'"):
        interp.plot_attention(interp.activations(tiny("llama"), TEXTS, "z"))


# --- recorded activations as what a plan writes --------------------------------------------------

EVEN = [TokenPrompt(tuple(range(4 * i + 1, 4 * i + 5)), {"s": (1, 2)}) for i in range(8)]


@pytest.mark.parametrize("at", ["all", "last", "s", "s_last", 1, (1, 2)])
@pytest.mark.parametrize("layers", [1, [0, 1]])
def test_what_was_recorded_is_written_back_where_it_was(at, layers):
    model = tiny("llama")
    plain = interp.forward(model, EVEN).logits
    found = interp.activations(model, EVEN, "z", layers, at=at)
    own = interp.forward(model, EVEN, Patch("z", found, positions=at))
    torch.testing.assert_close(own.logits, plain, atol=1e-5, rtol=0)
    others = interp.activations(model, EVEN[::-1], "z", layers, at=at)
    swapped = interp.forward(model, EVEN, Patch("z", others, positions=at)).logits
    by_hand = [
        Patch("z", interp.activations(model, EVEN[::-1], "z", n)[n], layers=n, positions=at)
        for n in others
    ]
    torch.testing.assert_close(swapped, interp.forward(model, EVEN, by_hand).logits)
    assert (swapped - plain).abs().max() > 0.001


def test_added_and_ablated_values_are_recorded_ones_too(tmp_path):
    model = tiny("llama")
    found = interp.activations(model, EVEN, "resid_post", [0, 2], at="last")
    add = interp.Add("resid_post", found, -1.0, layers=2, positions="last")
    zeroed = interp.activations(model, EVEN, "resid_post", 2, at="last", plan=add)[2]
    assert zeroed.abs().max() < 1e-5
    mean = interp.Ablate("resid_post", found, kind="resample", positions="last")
    assert mean.layers == (0, 2)
    plan = interp.Plan.of(add, mean)
    assert interp.Plan.load(plan.save(tmp_path / "plan")) == plan
    assert interp.generate(model, EVEN, add, 2)[0].ids


def test_recorded_values_of_something_else_are_refused():
    model = tiny("llama")
    found = interp.activations(model, EVEN, "resid_post", [0, 2], at="last")
    for wrong, why in (
        (lambda: Patch("z", found), "was given activations of the site 'resid_post'"),
        (lambda: Patch("resid_post", found, layers=1), r"hold layers \[0, 2\], not 1"),
        (lambda: Patch("blocks.1.hook_resid_post", found), r"hold layers \[0, 2\], not 1"),
        (lambda: Patch("resid_post", found), "nothing was recorded there"),
        (lambda: Patch("pattern", interp.activations(model, EVEN, "pattern", 1)), "not written"),
        (lambda: Patch("z", torch.zeros(2, 1, 1, 32), layers=1), "each of 2 layers"),
    ):
        with pytest.raises(PlanError, match=why):
            interp.forward(model, EVEN, wrong())
    step = Patch("resid_post", found, positions="last")
    for run in (interp.forward, interp.generate, interp.applied, activations_of):
        with pytest.raises(PlanError, match="each of 8 prompts, but 2 are run"):
            with_plan(run, model, EVEN[:2], step)
    longer = [TokenPrompt((1, 2, 3, 4, 5))] * 8
    with pytest.raises(PlanError, match="none of it belongs to token 4"):
        interp.forward(model, longer, step)


def activations_of(model: Model, rows: list[TokenPrompt], plan):
    return interp.activations(model, rows, "z", plan=plan)


def with_plan(run, model: Model, rows: list[TokenPrompt], plan) -> None:
    if run is interp.applied:
        with run(model, plan, rows):
            return
    run(model, rows, plan)


def test_a_tensor_of_one_token_per_prompt_is_not_read_as_positions():
    model = tiny("llama")
    last = interp.activations(model, EVEN, "resid_post", 2, at="last")[2]
    step = Patch("resid_post", last, layers=2, positions="last")
    for run in (interp.forward, interp.generate, interp.applied, activations_of):
        with pytest.raises(PlanError, match="means 8 positions, but there are 8 prompts of at"):
            with_plan(run, model, EVEN, step)
    # as many positions as the prompts have tokens: a position axis
    interp.forward(model, EVEN[:4], Patch("resid_post", last[:4], layers=2))


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (-1, "-1 is negative; count from 0 .or 'last'"),
        ((0, -100), "-100 is negative"),
        ((), "positions is empty"),
        (1.0, "positions is 1.0; give whole numbers"),
        ((1, "last"), "give whole numbers"),
        (6, "position 6 is beyond the end"),
        (None, "positions is None; give whole numbers"),
    ],
)
def test_token_numbers_that_are_none_are_refused(at, why: str):
    model = tiny("llama")
    for read in (
        lambda: interp.activations(model, TEXTS[0], "z", at=at),
        lambda: interp.logit_lens(model, TEXTS[0], at=at),
        lambda: interp.forward(model, TEXTS[0], interp.Scale("z", 0.0, positions=at)),
    ):
        with pytest.raises(PlanError, match=why):
            read()


def test_any_whole_number_is_a_token_number():
    model = tiny("llama")
    one = interp.activations(model, TEXTS[0], "z", 1, at=np.int64(2))
    assert one.dims == ("prompt", "feature")
    assert one.positions == ((2,),)
    assert torch.equal(one[1], interp.activations(model, TEXTS[0], "z", 1, at=2)[1])
    assert interp.activations(model, TEXTS[0], "z", 1, at=np.arange(3)).positions == ((0, 1, 2),)
