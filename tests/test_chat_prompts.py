"""Chat messages as prompts."""

import pytest
from conftest import tiny

import interp
from interp.errors import PairError
from interp.model import Model

CHAT = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "What is the capital of France?"},
]


def test_messages_are_rendered_up_to_the_reply(smollm: Model):
    found = interp.prompt(smollm, CHAT, subject="France")
    want = smollm.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert list(found.ids) == want
    assert [smollm.token(found.ids[p]) for p in found.positions("subject")] == [" France"]


def test_a_chat_is_one_prompt_everywhere(smollm: Model):
    prompt = interp.prompt(smollm, CHAT)
    alone = interp.forward(smollm, [prompt]).logits
    assert interp.forward(smollm, CHAT).logits.equal(alone)
    assert interp.forward(smollm, [CHAT, CHAT]).logits.shape == (2, alone.shape[1])
    assert interp.activations(smollm, CHAT, "z", 3, at="last")[3].shape == (1, 576)
    (reply,) = interp.generate(smollm, CHAT, max_new_tokens=8)
    assert reply.prompt == prompt.ids
    assert "Paris" in reply.text


def test_bos_is_never_doubled(gemma: Model, monkeypatch):
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    monkeypatch.setattr(gemma.tokenizer, "chat_template", template)
    ids = interp.prompt(gemma, CHAT).ids
    assert ids.count(gemma.tokenizer.bos_token_id) == 1
    assert ids[0] == gemma.tokenizer.bos_token_id


def test_what_cannot_be_rendered_is_refused_in_a_sentence(smollm: Model, monkeypatch):
    with pytest.raises(PairError, match="has no chat template"):
        interp.forward(tiny("llama"), CHAT)
    for message in ({"role": "user"}, {"role": "user", "content": 3}, {}):
        with pytest.raises(PairError, match="message 1 is .* needs 'role' and 'content'"):
            interp.prompt(smollm, [message])
    with pytest.raises(PairError, match="no prompts"):
        interp.forward(smollm, [])
    template = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(smollm.tokenizer, "chat_template", template)
    with pytest.raises(PairError, match="refuses these messages: roles must alternate"):
        interp.prompt(smollm, CHAT)
