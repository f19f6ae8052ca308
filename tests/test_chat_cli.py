"""`--chat` and its options: the same numbers as messages in Python, and run folders that know."""

import functools
import json
from pathlib import Path

import pytest
from chat_examples import chat_model
from test_cli import refused, report

import interp

ROWS = [
    {
        "clean": f"Capital of {one}?",
        "corrupt": f"Capital of {other}?",
        "answer": one[0],
        "wrong_answer": other[0],
        "subject": [one, other],
    }
    for one, other in (("Peru", "Cuba"), ("Mali", "Iran"), ("Togo", "Laos"))
]
SYSTEM = ["--system", "Use one letter."]


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: chat_model("chatml"))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return str(path)


def test_patching_in_a_chat_is_that_of_python(file: str, tmp_path: Path, capsys):
    out = tmp_path / "run"
    command = ["patch", "--model", "m", "--pairs", file, "--over", "layer,span"]
    said = report(capsys, *command, *SYSTEM, "--no-thinking", "--out", str(out))
    chat = interp.Chat(system="Use one letter.", thinking=False)
    want = interp.patch(
        chat_model("chatml"), interp.load_pairs(file).as_chat(chat), over=("layer", "span")
    )
    assert said["n_pairs"] == 3
    found = interp.PatchResult.load(out)
    assert found.values.equals(want.values)
    assert "subject_last" in found.values.coords["span"].values
    message = refused(capsys, *command, "--chat", "--out", str(out))
    assert "chat" in message and "another" in message
    again = report(capsys, *command, *SYSTEM, "--no-thinking", "--out", str(out))
    assert again["n_pairs"] == 3


@pytest.mark.parametrize(
    "verb",
    [
        ["attribute", "--of", "nodes"],
        ["ablate", "--components", "a0.h1", "--random", "0", "--cluster-by", "subject"],
        ["circuit", "discover", "--size", "3"],
    ],
)
def test_every_verb_of_pairs_takes_chats(verb: list[str], file: str, tmp_path: Path, capsys):
    out = ["--out", str(tmp_path / "run")]
    said = report(capsys, *verb, "--model", "m", "--pairs", file, "--chat", *out)
    other = ["--out", str(tmp_path / "other"), *SYSTEM]
    assert report(capsys, *verb, "--model", "m", "--pairs", file, *other) != said
    assert "another" in refused(capsys, *verb, "--model", "m", "--pairs", file, *SYSTEM, *out)


def test_prompts_in_a_chat(capsys):
    model, asked = chat_model("chatml"), ["--model", "m", "--prompt", "Hi"]
    chat = interp.Chat(prefill="A").wrap("Hi")
    said = report(capsys, "generate", *asked, "--prefill", "A", "--max-new-tokens", "3")
    assert said["chat"] is True
    assert said["intact"] == interp.generate(model, chat, max_new_tokens=3)[0].text
    seen = report(capsys, "lens", *asked, "--prefill", "A", "--top", "1")
    assert seen["token"] == "A"


def test_questions_in_a_chat(tmp_path: Path, capsys):
    model = chat_model("chatml")
    rendered = interp.prompt(model, [{"role": "user", "content": "Hi"}])
    token = model.token(int(interp.forward(model, [rendered]).logits.argmax()))
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "answer": token or "a"}))
    command = ["query-value", "find", "--model", "m", "--prompts", str(path), "--top", "2"]
    said = report(capsys, *command, "--chat", "--out", str(tmp_path / "run"))
    assert said["n_prompts"] == 1
    assert "row" in refused(capsys, *command, *SYSTEM, "--out", str(tmp_path / "run"))


def test_tools_come_from_a_file(file: str, tmp_path: Path, capsys, monkeypatch):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "look_up"}}]))
    command = ["generate", "--model", "m", "--prompt", "Hi", "--max-new-tokens", "1"]
    assert report(capsys, *command, "--tools", str(tools))["chat"] is True
    tools.write_text("{}")
    assert "not a list of schemas of tools" in refused(capsys, *command, "--tools", str(tools))
    gemma = functools.partial(chat_model, "gemma")
    monkeypatch.setattr(interp, "load_model", lambda name, **options: gemma())
    assert "has no switch of thinking" in refused(capsys, *command, "--no-thinking")
