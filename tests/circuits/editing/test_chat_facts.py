"""Facts in a chat: rendered by the template, anchored at the subject, the target in the reply."""

import json

import pytest
from chat_examples import chat_model

from circuits.editing.fact import Fact, load_facts
from circuits.editing.fact_prompts import edit_prompts, refuse_unanchored
from interp.data.chat import Chat, Conversation, render
from interp.errors import DataError

CHAT = Chat(system="Be terse.")
FACT = Fact("Capital of {}?", "Peru", "Rome", "Where is {} ruled?", chat=CHAT)


@pytest.mark.parametrize(
    ("form", "asked"), [("cloze", "Capital of Peru?"), ("question", "Where is Peru ruled?")]
)
def test_prompts_are_the_rendered_turns_with_the_target_as_the_reply(form, asked):
    model = chat_model("chatml")
    messages = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "Rome"},
    ]
    (found,) = edit_prompts(model, FACT, form, "subject_last")
    want = model.tokenizer.apply_chat_template(
        messages, continue_final_message=True, return_dict=False
    )
    assert list(found.ids) == want
    assert found.n_target == 4
    subject = "".join(map(model.token, found.ids[found.anchor - 3 : found.anchor + 1]))
    assert subject == "Peru"
    (last,) = edit_prompts(model, FACT, form, "last")
    assert last.anchor == len(want) - 5
    assert render(model, Conversation(messages[:2]))[0] == "".join(
        map(model.token, last.ids[: last.anchor + 1])
    )


def test_a_plain_fact_has_its_space_and_a_chat_of_a_file_is_read(tmp_path):
    model = chat_model("chatml")
    (plain,) = edit_prompts(model, Fact("Capital of {} is", "Peru", "Rome"), "cloze", "last")
    assert plain.n_target == 5
    row = {"prompt": "Capital of {}?", "subject": "Peru", "target": "Rome"}
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([row | {"chat": {"system": "Be terse."}}]))
    assert load_facts(path)[0].chat == CHAT
    assert load_facts(path)[0].written(model) == FACT.written(model)


def test_what_a_template_refuses_is_refused_before_an_edit():
    with pytest.raises(DataError, match="System role not supported"):
        refuse_unanchored(chat_model("gemma"), FACT)
    refuse_unanchored(chat_model("llama3"), FACT)
