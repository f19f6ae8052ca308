"""Chats: what templates of three families make of messages, and where spans are in that."""

import pytest
from chat_examples import TEMPLATES, chat_model

import interp
from interp.data.chat import Chat, Conversation, render
from interp.errors import DataError
from interp.model.rendered import Rendered

ASKED = "What is the capital of France?"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
CUES = {
    "chatml": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<s><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("style", TEMPLATES)
def test_a_prompt_becomes_one_turn_and_its_span_is_found(style: str):
    model = chat_model(style)
    chat = Chat().wrap(ASKED)
    at = ASKED.index("France")
    text, spans = render(model, chat, {"subject": (at, at + 6)})
    assert text == CUES[style].format(ASKED)
    assert text[slice(*spans["subject"])] == "France"
    assert not text.continued


@pytest.mark.parametrize("style", TEMPLATES)
def test_tokens_are_those_of_transformers_without_a_second_bos(style: str):
    model = chat_model(style)
    messages = [user(ASKED), {"role": "assistant", "content": "Paris."}, user("And of Italy?")]
    for some in (messages, messages[:1], messages[:2]):
        begun = some[-1]["role"] == "assistant"
        want = model.tokenizer.apply_chat_template(
            some, add_generation_prompt=not begun, continue_final_message=begun, return_dict=False
        )
        assert list(interp.prompt(model, some).ids) == want
        assert model.encode(render(model, Conversation(some))[0]) == want
    assert model.encode("ab") == model.tokenizer("ab")["input_ids"]
    assert model.encode("ab")[0] == model.tokenizer.bos_token_id


@pytest.mark.parametrize("style", TEMPLATES)
def test_a_reply_that_has_begun_is_continued(style: str):
    model = chat_model(style)
    text, spans = render(
        model, Chat(prefill="The capital is").wrap(ASKED), {"is": (len(ASKED) + 2, len(ASKED) + 5)}
    )
    assert text == CUES[style].format(ASKED) + "The capital is"
    assert spans["is"] == (len(text) - 14, len(text) - 11)
    assert text.continued
    begun = [user(ASKED), {"role": "assistant", "content": "The capital is"}]
    assert render(model, Conversation(begun))[0] == text


def test_a_span_is_found_in_any_turn_and_where_its_text_stands_twice():
    model = chat_model("chatml")
    chat = Chat(system="user names <|im_end|>").wrap("user: a user")
    start = chat.start(1)
    asked = {"first": (start, start + 4), "second": (start + 8, start + 12), "system": (0, 4)}
    text, spans = render(model, chat, asked)
    assert text.count("user") == 4
    assert [text[slice(*span)] for span in spans.values()] == ["user"] * 3
    assert spans["first"][0] + 8 == spans["second"][0] == text.rindex("user")
    assert spans["system"][0] == len("<|im_start|>system\n")


def test_blanks_that_a_template_trims_belong_to_no_span():
    model = chat_model("gemma")
    text, spans = render(model, Chat().wrap(" France "), {"all": (0, 8), "name": (1, 7)})
    assert text == CUES["gemma"].format("France")
    assert spans["all"] == spans["name"]
    assert text[slice(*spans["all"])] == "France"


def test_thinking_is_switched_by_the_templates_own_argument():
    for style, off in (("chatml", "<think>\n\n</think>\n\n"), ("llama3", "[direct]")):
        model = chat_model(style)
        cue = CUES[style].format(ASKED)
        for thinking, end in ((None, ""), (True, ""), (False, off)):
            assert render(model, Chat(thinking=thinking).wrap(ASKED))[0] == cue + end
    with pytest.raises(DataError, match="has no switch of thinking"):
        render(chat_model("gemma"), Chat(thinking=False).wrap(ASKED))
    same = Chat(arguments={"enable_thinking": False}).wrap(ASKED)
    want = render(chat_model("chatml"), Chat(thinking=False).wrap(ASKED))
    assert render(chat_model("chatml"), same) == want


def test_tools_are_written_by_the_template_or_refused():
    chat = Chat(system="Be terse.", tools=(TOOL,)).wrap(ASKED)
    text, _ = render(chat_model("chatml"), chat)
    assert text.startswith("<|im_start|>system\n# Tools\nBe terse.\n" + '{"type": "function"')
    for style in ("gemma", "llama3"):
        with pytest.raises(DataError, match="does not read tools"):
            render(chat_model(style), Chat(tools=(TOOL,)).wrap(ASKED))
    called = [
        user(ASKED),
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    ]
    assert Conversation(called).text == ASKED + "\n\n"
    assert not Conversation(called).continued


def test_what_a_template_refuses_or_drops_is_told_in_a_sentence():
    with pytest.raises(DataError, match=r"refuses these messages: System role not supported\."):
        render(chat_model("gemma"), Chat(system="Be terse.").wrap(ASKED))
    with pytest.raises(DataError, match="roles must alternate"):
        render(chat_model("gemma"), Conversation([user("a"), user("b")]))
    late = [user("a"), {"role": "system", "content": "Be terse."}, user("b")]
    with pytest.raises(DataError, match="leaves out or rewrites the content of message 2"):
        render(chat_model("chatml"), Conversation(late))
    with pytest.raises(DataError, match="reads no argument 'enable_thinkin'. Did you mean 'en"):
        render(chat_model("chatml"), Chat(arguments={"enable_thinkin": True}).wrap(ASKED))


def test_options_that_are_none_or_given_twice_are_refused():
    with pytest.raises(DataError, match="have a system turn; leave the option 'system' out"):
        Chat(system="a").wrap([{"role": "system", "content": "b"}, user("c")])
    with pytest.raises(DataError, match="end within the assistant's turn"):
        Chat(prefill="a").wrap([user("c"), {"role": "assistant", "content": "b"}])
    for wrong in ({"system": " "}, {"prefill": ""}, {"tools": "f"}, {"tools": (len,)}):
        with pytest.raises(DataError, match=r"of a chat (is|are)"):
            Chat(**wrong)
    with pytest.raises(DataError, match="cannot be written as JSON"):
        Chat(arguments={"now": len})
    with pytest.raises(DataError, match="is not within one message"):
        Chat(system="ab").wrap("cd").marked((1, 5))


def test_options_apply_to_messages_too():
    model = chat_model("chatml")
    chat = Chat(system="Be terse.", thinking=False)
    assert chat.wrap([user(ASKED)]) == chat.wrap(ASKED)
    subject = interp.prompt(model, chat.wrap(ASKED), subject="France")
    (at, *_), n = subject.positions("subject"), len(subject.ids)
    assert model.token(subject.ids[at]) == "F"
    assert interp.forward(model, [chat.wrap(ASKED)]).logits.shape == (1, model.n_vocab)
    assert interp.activations(model, chat.wrap(ASKED), "z", 0)[0].shape[:2] == (1, n)


def test_a_rendered_chat_is_a_text_that_remembers_it():
    text = Rendered("<s>Hi")
    assert text == "<s>Hi"
    assert (text + "").continued is False
    assert (text + " you").continued
    assert isinstance(text + " you", Rendered)
    assert type(str(text)) is str


def test_equal_chats_are_one_key_whatever_their_tools_and_arguments_hold():
    given = [({"type": "function"},), ({"type": "function"},), ({"type": "other"},)]
    chats = [Chat(tools=tools, arguments={"effort": ["low"]}) for tools in given]
    assert hash(chats[0]) == hash(chats[1]) and len({*chats, Chat(), Chat()}) == 3
