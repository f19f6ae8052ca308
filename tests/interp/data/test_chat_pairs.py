"""Prompt pairs as chats: spans, answers and results are those of the same text written by hand."""

import json

import numpy as np
import pytest
from chat_examples import TEMPLATES, chat_model

import interp
from interp.bench.baselines import sweep_with_hooks
from interp.data.chat import Chat
from interp.data.pairs import PromptPairs, load_pairs, tokenise
from interp.data.splits import split_by_entity
from interp.errors import DataError
from interp.model.rendered import Rendered
from interp.results.run_folder import names_of

ROW = {
    "id": "france",
    "clean": "Capital of France?",
    "corrupt": "Capital of Spain?",
    "answer": "P",
    "wrong_answer": "M",
    "subject": ["France", "Spain"],
}
CUE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def asked(text: str, *more: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in (("user", text), *more)]


def in_chat(*more: tuple[str, str]) -> PromptPairs:
    """The row as messages."""
    sides = {side: asked(ROW[side], *more) for side in ("clean", "corrupt")}
    return PromptPairs.from_records([ROW | sides])


@pytest.mark.parametrize("style", TEMPLATES)
def test_wrapped_prompts_and_messages_are_the_same_pair(style: str):
    model = chat_model(style)
    (wrapped,), _ = tokenise(model, PromptPairs.from_records([ROW]).as_chat())
    (messages,), _ = tokenise(model, in_chat())
    assert wrapped == messages
    want = model.tokenizer.apply_chat_template(
        asked(ROW["clean"]), add_generation_prompt=True, return_dict=False
    )
    assert list(wrapped.clean) == want
    text = "".join(model.token(wrapped.clean[i]) for i in wrapped.spans["subject"])
    other = "".join(model.token(wrapped.corrupt[i]) for i in wrapped.corrupt_spans["subject"])
    assert (text, other) == ("France", "Spain")
    assert wrapped.pair.clean[slice(*wrapped.pair.spans["subject"][0])] == "France"
    assert [model.token(alias[0]) for (alias,) in wrapped.answers] == ["P", "M"]


def test_an_answer_is_spaced_once_the_assistant_has_begun():
    model = chat_model("chatml")
    for begun, first in (("", "P"), ("It is", " "), ("It is ", "P")):
        pairs = PromptPairs.from_records([ROW])
        chat = Chat(prefill=begun) if begun else Chat()
        (pair,), _ = tokenise(model, pairs.as_chat(chat), "first" if first == "P" else "whole")
        assert model.token(pair.answers[0][0][0]) == first


def test_patching_a_chat_equals_a_hook_loop_and_the_text_by_hand():
    model = chat_model("chatml")
    chat = Chat(system="Be terse.")
    pairs = PromptPairs.from_records([ROW | {"corrupt": "Capital of Poland?", "subject": None}])
    ours = interp.patch(model, pairs.as_chat(chat), over=("layer", "pos"))
    (pair,), _ = tokenise(model, pairs.as_chat(chat))
    system = "<|im_start|>system\nBe terse.<|im_end|>\n"
    texts = {
        "clean": Rendered(system + CUE.format("Capital of France?")),
        "corrupt": Rendered(system + CUE.format("Capital of Poland?")),
    }
    by_hand = PromptPairs.from_records([ROW | texts | {"subject": None}])
    assert tokenise(model, by_hand)[0][0].clean == pair.clean
    np.testing.assert_array_equal(interp.patch(model, by_hand).values, ours.values)
    plain = sweep_with_hooks(model, pair, "resid_pre", ("layer", "pos"))
    np.testing.assert_allclose(ours.values.values[0], plain, atol=1e-5)


def test_spans_stay_where_they_are_when_options_are_added():
    pairs = in_chat().as_chat(Chat(system="France and Spain are countries."))
    assert pairs[0].clean[slice(*pairs[0].spans["subject"][0])] == "France"
    assert pairs[0].corrupt[slice(*pairs[0].spans["subject"][1])] == "Spain"
    assert pairs[0].id == "france"
    halves = split_by_entity(
        PromptPairs((*pairs.pairs, *PromptPairs.from_records([TOKYO]).as_chat().pairs)), "subject"
    )
    assert sorted(halves.entities["test"] | halves.entities["discovery"]) == sorted(
        ("France", "Spain", "Japan", "Cuba")
    )


TOKYO = {
    "id": "japan",
    "clean": "Japan?",
    "corrupt": "Cuba?",
    "answer": "T",
    "wrong_answer": "H",
    "subject": ["Japan", "Cuba"],
}


def test_chats_of_a_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    messages = ROW | {side: asked(ROW[side]) for side in ("clean", "corrupt")}
    path.write_text(json.dumps(messages) + "\n", "utf-8")
    (pair,) = load_pairs(path)
    assert (pair.chats, pair.spans) == (in_chat()[0].chats, in_chat()[0].spans)


def test_a_row_that_the_template_refuses_is_excluded_with_its_reason():
    system = [{"role": "system", "content": "Be terse."}]
    refused = ROW | {side: system + asked(ROW[side]) for side in ("clean", "corrupt")}
    rows = PromptPairs.from_records([refused, ROW | {"id": "b"}])
    usable, excluded = tokenise(chat_model("gemma"), rows)
    assert [pair.pair.id for pair in usable] == ["b"]
    assert "System role not supported" in excluded[0].reason
    with pytest.raises(DataError, match="first: records, row 1: .* has no switch of thinking"):
        tokenise(chat_model("gemma"), in_chat().as_chat(Chat(thinking=False)))


def test_rows_that_are_half_chats_or_no_messages_are_refused():
    for wrong, reason in (
        ({"clean": asked("France")}, "one prompt is text and the other a chat"),
        ({"clean": [{"role": "user"}]}, "message 1 is .* needs 'role' and 'content'"),
        ({"clean": ["a"]}, "'clean' .*it must be text, or a list of messages"),
        ({"clean": 3}, "'clean' .*it must be text, or a list of messages"),
        ({"clean": " "}, "'clean' .*it must be non-empty text"),
    ):
        with pytest.raises(DataError, match=reason):
            PromptPairs.from_records([ROW | wrong])
    with pytest.raises(DataError, match=r"span 'subject' \('France'\) occurs 2 times"):
        PromptPairs.from_records(
            [ROW | {s: asked(ROW[s], ("assistant", "France")) for s in ("clean", "corrupt")}]
        )
    row = {s: Chat(system="Be terse.").wrap(ROW[s]) for s in ("clean", "corrupt")}
    (pair,) = PromptPairs.from_records([ROW | row])
    assert pair == PromptPairs.from_records([ROW]).as_chat(Chat(system="Be terse."))[0]
    with pytest.raises(DataError, match="this chat is rendered already"):
        in_chat().rendered(chat_model("chatml")).as_chat()


def test_what_a_run_is_named_by_holds_options_and_rendered_text(monkeypatch):
    model = chat_model("chatml")
    pairs = PromptPairs.from_records([ROW])
    names = [
        names_of(rows.rendered(model))
        for rows in (pairs, pairs.as_chat(), pairs.as_chat(Chat(thinking=False)))
    ]
    assert ["chat" in one for one in names] == [False, True, True]
    assert len({json.dumps(one["rows"]) for one in names}) == 3
    other = TEMPLATES["chatml"].replace("user", "human")
    monkeypatch.setattr(model.tokenizer, "chat_template", other + " ")
    assert names_of(pairs.as_chat().rendered(model))["rows"] != names[1]["rows"]
    assert names_of(pairs.as_chat().rendered(model))["chat"] == names[1]["chat"]
