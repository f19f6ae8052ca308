"""The logit lens: what each depth predicts, on text and on pairs; ranks of given tokens."""

import dataclasses

import numpy as np
import plotly.io as pio
import pytest
import torch
from conftest import tiny, word_pairs

import interp
from interp.data.pairs import tokenise
from interp.errors import DataError, PlanError
from interp.model.model import Model

TEXTS = ["w1 w2 w3 w4 w5 w6", "w7 w8"]


def test_the_lens_on_pairs_ends_in_the_models_own_prediction(tiny_model: Model):
    pairs = tokenise(tiny_model, word_pairs())[0]
    answers = interp.logit_lens(tiny_model, pairs).answers
    assert answers is not None
    assert answers.shape == (3, tiny_model.arch.n_layers + 1, 2)
    assert answers.pair.values.tolist() == [pair.pair.id for pair in pairs]
    want = []
    for p in pairs:
        with torch.no_grad():
            log_p = tiny_model.hf(torch.tensor([p.clean])).logits[0, -1].log_softmax(-1)
        want.append([log_p[p.answer], log_p[p.wrong_answer]])
    np.testing.assert_allclose(answers[:, -1].values, np.array(want), atol=1e-4)


def test_every_depth_and_position_is_the_unembedded_stream(tiny_model: Model):
    lens = interp.logit_lens(tiny_model, TEXTS, top=3)
    assert lens.answers is None
    assert dict(lens.top.sizes) == {
        "prompt": 2,
        "depth": tiny_model.arch.n_layers + 1,
        "pos": 6,
        "rank": 3,
    }
    stream = interp.activations(tiny_model, TEXTS, "resid_pre")
    final = interp.activations(tiny_model, TEXTS, "resid_post", tiny_model.arch.n_layers - 1)
    depths = [*stream.values(), *final.values()]
    for depth, x in enumerate(depths):
        for prompt, n in enumerate((6, 2)):
            best = tiny_model.logits(x[prompt, :n]).softmax(-1).topk(3)
            one = lens.top.isel(prompt=prompt, depth=depth)
            np.testing.assert_allclose(one.probability[:n], best.values, atol=1e-5)
            assert np.array_equal(one.token_id[:n], best.indices)
    assert (lens.top.token_id[1, :, 2:] == -1).all()
    assert lens.top.probability[1, :, 2:].isnull().all()


def test_a_plain_string_with_its_table_and_figure(smollm: Model):
    lens = interp.logit_lens(smollm, "The capital of France is", top=5)
    table = lens.table()
    assert list(table.columns) == ["depth", "pos", "after", "rank", "predicted", "probability"]
    assert len(table) == 31 * 5 * 5
    end = table[(table["depth"] == 30) & (table["pos"] == 4)]
    want = interp.forward(smollm, "The capital of France is").logits[0].softmax(-1).topk(5)
    assert end["predicted"].tolist() == [smollm.token(int(t)) for t in want.indices]
    assert end["predicted"].iloc[0] == " Paris"
    np.testing.assert_allclose(end["probability"], want.values, atol=1e-5)
    (heatmap,) = lens.plot().data
    assert np.shape(heatmap.z) == (31, 5)
    assert heatmap.text[30][4] == " Paris"
    assert "Paris" in lens._repr_html_()
    assert len(repr(lens)) < 300


def test_positions_and_pairs_choose_what_is_read():
    model = tiny("llama")
    lens = interp.logit_lens(model, TEXTS, top=2, at="last")
    assert lens.top.position.values.tolist() == [[5], [1]]
    assert lens.table(1)["after"].unique().tolist() == ["w8"]
    whole = interp.logit_lens(model, TEXTS, top=2)
    np.testing.assert_allclose(
        lens.top.probability[0, :, 0], whole.top.probability[0, :, 5], atol=1e-6
    )
    skipped = interp.logit_lens(model, TEXTS, plan=interp.Ablate("resid_post", layers=0))
    assert torch.isfinite(torch.tensor(skipped.top.probability[0].values)).all()
    assert not np.allclose(skipped.top.probability[0, 1], whole.top.probability[0, 1, 0, 0])
    for top in (0, 10**6):
        with pytest.raises(PlanError, match="ask for 1 to 97"):
            interp.logit_lens(model, TEXTS, top=top)


def test_figures_over_tokens_share_the_look_and_show_tags_as_text():
    model = tiny("llama")
    found = interp.activations(model, TEXTS, "pattern", 1)
    lens = interp.logit_lens(model, TEXTS, top=2)
    tags = (("<s>", "<b>x", "w3", "w4", "w5", "w6"), lens.tokens[1])
    lens = dataclasses.replace(lens, tokens=tags, top=lens.top.assign(token=lens.top.token + "<s>"))
    labels = dataclasses.replace(found.labels, tokens=tags)
    found = dataclasses.replace(found, labels=labels)
    (drawn,) = lens.plot().data
    assert list(drawn.x)[:2] == ["0 &lt;s&gt;", "1 &lt;b&gt;x"]
    assert drawn.text[1][0].endswith("&lt;s&gt;")
    assert "&lt;s&gt;" in drawn.customdata[0][0] and "<s>" not in drawn.customdata[0][0]
    assert drawn.textfont.size == 11
    for figure in (lens.plot(), interp.plot_attention(found)):
        assert figure.layout.template == pio.templates["interp"]
        assert figure.layout.coloraxis.colorscale is None  # the template's
        assert list(figure.data[0].x)[0] == "0 &lt;s&gt;"
        assert "<sup>" in figure.layout.title.text


def test_answers_of_several_tokens_are_an_explicit_choice():
    record = {"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w20 w22", "wrong_answer": "w21"}
    rows, model = interp.PromptPairs.from_records([record]), tiny("llama")
    with pytest.raises(DataError, match="is 2 tokens"):
        interp.logit_lens(model, rows)
    first = interp.logit_lens(model, rows, answers="first").answers
    alone = interp.logit_lens(
        model, interp.PromptPairs.from_records([record | {"answer": "w20"}])
    ).answers
    np.testing.assert_allclose(first, alone)
    with pytest.raises(PlanError, match="the logit lens reads one token per answer"):
        interp.logit_lens(model, tokenise(model, rows)[0])


def test_ranks_and_log_probabilities_of_tokens_are_those_of_a_loop(tiny_model: Model):
    chosen = ["w20", 7, "w3"]
    ids = [tiny_model.tokenizer.encode("w20")[-1], 7, tiny_model.tokenizer.encode("w3")[-1]]
    found = interp.logit_lens(tiny_model, TEXTS, tokens=chosen).of_tokens
    assert found is not None and found["token_id"].values.tolist() == ids
    streams = [*interp.activations(tiny_model, TEXTS, "resid_pre").values()]
    final = tiny_model.arch.n_layers - 1
    streams += interp.activations(tiny_model, TEXTS, "resid_post", final).values()
    for depth, stream in enumerate(streams):
        for prompt, n in enumerate((6, 2)):
            one = found.isel(prompt=prompt, depth=depth)
            for pos in range(n):
                log_p = tiny_model.logits(stream[prompt, pos][None])[0].log_softmax(-1)
                want = [int((log_p > log_p[i]).sum()) for i in ids]
                assert one["rank"][pos].values.tolist() == want
                np.testing.assert_allclose(one["log_p"][pos], log_p[ids].numpy(), atol=1e-4)
    assert (found["rank"][1, :, 2:] == -1).all() and found["log_p"][1, :, 2:].isnull().all()
    alone = interp.logit_lens(tiny_model, TEXTS[0]).of_tokens
    assert alone is None


def test_tokens_that_are_none_or_several_are_refused():
    model = tiny("llama")
    with pytest.raises(DataError, match="is 2 tokens of"):
        interp.logit_lens(model, TEXTS, tokens=["w1 w2"])
    with pytest.raises(DataError, match="there is no token 97"):
        interp.logit_lens(model, TEXTS, tokens=[97])
