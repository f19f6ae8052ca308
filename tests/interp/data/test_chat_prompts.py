"""Chat messages as prompts."""

import pytest
from conftest import tiny, word_pairs

import interp
from interp.data.pairs import tokenise
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError
from interp.model.model import Model

CHAT = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "What is the capital of France?"},
]


def test_a_chat_is_one_prompt_everywhere(smollm: Model):
    prompt = interp.prompt(smollm, CHAT)
    alone = interp.forward(smollm, [prompt]).logits
    assert interp.forward(smollm, CHAT).logits.equal(alone)
    assert interp.forward(smollm, [CHAT, CHAT]).logits.shape == (2, alone.shape[1])
    assert interp.activations(smollm, CHAT, "z", 3, at="last")[3].shape == (1, 576)
    (reply,) = interp.generate(smollm, CHAT, max_new_tokens=8)
    assert reply.prompt == prompt.ids
    assert "Paris" in reply.text


def test_what_cannot_be_rendered_is_refused_in_a_sentence(smollm: Model, monkeypatch):
    with pytest.raises(DataError, match="has no chat template"):
        interp.forward(tiny("llama"), CHAT)
    for message in ({"role": "user"}, {"role": "user", "content": 3}, {}):
        with pytest.raises(DataError, match="message 1 is .* needs 'role' and 'content'"):
            interp.prompt(smollm, [message])
    with pytest.raises(DataError, match="no prompts"):
        interp.forward(smollm, [])
    template = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(smollm.tokenizer, "chat_template", template)
    with pytest.raises(DataError, match="refuses these messages: roles must alternate"):
        interp.prompt(smollm, CHAT)


def test_a_single_prompt_of_any_kind_is_one_prompt():
    model = tiny("llama")
    pair = word_pairs()[0]
    (tokens,) = tokenise(model, word_pairs()[:1])[0]
    own = TokenPrompt(tokens.clean, tokens.spans)
    want = interp.forward(model, [own]).logits
    for one in (own, tokens, pair):
        assert interp.forward(model, one).logits.equal(want)
        (reply,) = interp.generate(model, one, max_new_tokens=1)
        assert reply.prompt == own.ids
        assert len(interp.activations(model, one, "z", 1)[1]) == 1
        assert interp.logit_lens(model, one).top.sizes["prompt"] == 1
    assert interp.logit_lens(model, pair).answers is not None


def test_what_is_not_a_prompt_is_refused_in_a_sentence(smollm: Model):
    for wrong in (["a", "b"], [], 3, None, {"role": "user", "content": "Hi"}):
        with pytest.raises(DataError, match="give one text, or chat messages"):
            interp.prompt(smollm, wrong)
    for wrong in (3, [3], [[]], [["a"]], {"role": "user", "content": "Hi"}):
        with pytest.raises(DataError, match="a prompt is .*; give texts, chats"):
            interp.forward(smollm, wrong)


def test_a_number_of_new_tokens_is_one_or_more():
    for wrong in (0, -1, 1.5, None):
        with pytest.raises(PlanError, match="ask for 1 token or more"):
            interp.generate(tiny("llama"), "w1", max_new_tokens=wrong)
