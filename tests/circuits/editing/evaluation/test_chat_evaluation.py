"""Edits evaluated in chats: what the model reads, and that the edited fact is asked there."""

from dataclasses import replace

import planted_cases
import pytest
import torch
from chat_examples import chat_model
from edit_records import parse_cases
from planted_cases import PLAIN, planted, sharp

from circuits.editing.evaluation import SHOTS, ComparisonSettings, compare_methods
from circuits.editing.evaluation.cases import Cases
from circuits.editing.evaluation.edited_models import asking, generations
from interp.data.chat import Chat, render
from interp.errors import DataError

pytestmark = pytest.mark.usefixtures("cache")
CHAT = Chat(system="Be brief.")
TEMPLATE = """\
{% for message in messages %}w80 {{ message['content'] }} w81{% endfor %}
{%- if add_generation_prompt %}{{ ' w82\\n' }}{% endif %}"""


def test_demonstrations_and_question_are_one_turn_whose_reply_is_written():
    model, questions = chat_model("chatml"), ["Who?", "Where is it?"]
    shots = replace(SHOTS, prefix="Q: Which?\nA: That\n\n", chat=CHAT)
    got = generations(model, [asking(shots, text) for text in questions], [()])
    for text, reply in zip(questions, got, strict=True):
        rendered, _ = render(model, CHAT.wrap(shots.ask(text)))
        assert rendered.endswith(f"Q: {text}\nA:<|im_end|>\n<|im_start|>assistant\n")
        ids = model.encode(rendered)
        with torch.no_grad():
            for _ in range(shots.n_tokens):
                ids.append(int(model.hf(torch.tensor([ids])).logits[0, -1].argmax()))
        said = ids[-shots.n_tokens :]
        want = model.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert reply == want.split("\n", 1)[0]


def test_methods_are_compared_in_a_chat(monkeypatch: pytest.MonkeyPatch):
    model = sharp()
    model.tokenizer.chat_template = TEMPLATE
    monkeypatch.setattr(planted_cases, "PLAIN", replace(PLAIN, chat=Chat()))
    cases = parse_cases(planted(model, 4))
    given = ComparisonSettings(methods=("rome", "none"), shots=PLAIN, n_tokens=600, chat=Chat())
    found = compare_methods(model, cases, given)
    assert not found.excluded
    rates = found.summary()["methods"]
    assert rates["rome"]["efficacy"] > rates["none"]["efficacy"]
    with pytest.raises(DataError, match="counterfact measures how plain texts go on"):
        compare_methods(model, Cases((), "counterfact"), given)
