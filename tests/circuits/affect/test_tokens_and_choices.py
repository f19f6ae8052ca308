"""Projections of single tokens, choices under steering, and all of it on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affect_samples import NAMES, PLAIN, texts, vectors, written_texts
from chat_examples import chat_model
from conftest import tiny
from test_cli import refused, report
from test_cli import run as run_verb

import interp
from circuits.affect import emotion_choices as emotion_choices_module
from circuits.affect.emotion_choices import (
    ASKED,
    BEGUN,
    RANDOM,
    Choice,
    choice_pairs,
    emotion_choices,
    load_choices,
)
from circuits.affect.emotion_vectors import SINKS, EmotionVectors, emotion_vectors
from circuits.affect.token_projections import token_projections
from interp.ablation.readouts import WINDOW
from interp.errors import DataError, PlanError
from interp.interventions.run import sweep_plans

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi <b>"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Hi"},
]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> EmotionVectors:
    return vectors(tmp_path_factory.mktemp("chat") / "run", chat_model("chatml"))


# --- tokens ---------------------------------------------------------------------------------------


def test_projections_equal_naive_ones_and_turns_stay_apart(chatty: EmotionVectors):
    model = chat_model("chatml")
    done = token_projections(model, chatty, interp.Conversation(CHAT), ["joy", "awe"])
    text = model.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert "".join(done.tokens["token"]) == text
    spoken = done.tokens.groupby("turn")["token"].agg("".join)
    assert spoken.loc[1:].tolist() == ["Be kind.", "Hi <b>", "Hi", "Hi"]
    whole = done.tokens.groupby("turn")["speaker"].first()
    assert whole.tolist() == ["template", "system", "user", "assistant", "user"]
    states = interp.activations(model, interp.Conversation(CHAT), "resid_post")[done.layer][0]
    for place in (1, 20, len(states) - 1):
        for column, name in enumerate(("joy", "awe")):
            row, at = NAMES.index(name), done.layer
            v = chatty.vectors[row, at]
            c = (states[place] - chatty.origin[at]) @ v / v.norm() / chatty.spread[row, at]
            assert done.values[place, column] == pytest.approx(float(c), rel=1e-3)
    assert np.isnan(done.values[0]).all() and not np.isnan(done.values[1:]).any()
    parts = done.parts.set_index(["turn", "part"])
    assert [*parts.index] == [
        (1, "whole"), (2, "whole"), (3, "token before"), (3, "first token"), (3, "whole"),
        (4, "whole"),
    ]  # fmt: skip
    at = np.flatnonzero(done.tokens["turn"] == 3)
    assert parts.loc[(3, "token before"), "joy"] == pytest.approx(done.values[at[0] - 1, 0])
    assert parts.loc[(3, "first token"), "awe"] == pytest.approx(done.values[at[0], 1])
    assert parts.loc[(3, "whole"), "joy"] == pytest.approx(done.values[at, 0].mean())
    page = done.report().html()
    assert "<b>" not in page.partition("application/json")[2].partition("</script>")[0]


@pytest.mark.parametrize("kind", ["frames", "given"])
def test_over_neutral_text_projections_have_mean_0_and_deviation_1(tmp_path: Path, kind: str):
    model, source = chat_model("chatml"), replace(texts(), kind=kind)
    found = emotion_vectors(model, source, PLAIN, (), tmp_path / "v", progress=False)
    length = WINDOW - 1  # a character per token, behind the BOS
    passages = [PLAIN[i : i + length] for i in range(0, len(PLAIN) - length + 1, length)]
    done = [token_projections(model, found, one, [*NAMES]).values for one in passages]
    values = np.concatenate([one[SINKS:] for one in done])
    assert len(values) == len(passages) * (WINDOW - SINKS) > 500
    assert np.abs(values.mean(0)).max() < 1e-3
    assert values.std(0, ddof=1) == pytest.approx(1, abs=1e-3)
    moved = (
        found.origin[1] + found.spread[2, 1] * found.steering("joy")[1] / found.vectors[2, 1].norm()
    )
    assert found.coordinates(moved[None], ["joy"], 1).item() == pytest.approx(1, rel=1e-3)


def test_a_plain_text_is_one_turn(chatty: EmotionVectors):
    done = token_projections(chat_model("chatml"), chatty, "Oh no", ["fear"])
    assert done.tokens["speaker"].tolist() == ["template", *["text"] * 5]  # a BOS before it
    assert done.parts["tokens"].tolist() == [5]
    with pytest.raises(PlanError, match="other weights"):
        token_projections(tiny("llama"), chatty, "w1", ["fear"])
    with pytest.raises(DataError, match="is blank"):
        token_projections(chat_model("chatml"), chatty, " \n", ["fear"])
    silent = [CHAT[1], {"role": "assistant", "content": ""}, CHAT[1]]
    done = token_projections(chat_model("chatml"), chatty, interp.Conversation(silent), ["fear"])
    assert done.parts["turn"].tolist() == [1, 3]  # the numbers of the messages
    with pytest.raises(PlanError, match="no vector of 'envy'"):
        token_projections(chat_model("chatml"), chatty, "Oh", ["envy"])


# --- choices --------------------------------------------------------------------------------------


def test_a_file_without_choices_or_with_one_twice_is_refused(tmp_path: Path):
    file = tmp_path / "choices.jsonl"
    file.write_text("")
    with pytest.raises(DataError, match="holds no choices; give at least one"):
        load_choices(file)
    file.write_text(f"{choice(0).model_dump_json()}\n" * 2)
    with pytest.raises(DataError, match="line 2: id 'c0' was used before"):
        load_choices(file)


def choice(i: int, turned: bool = False) -> Choice:
    options = (f"It is {i}.", "It is not.")
    options = options[::-1] if turned else options
    return Choice(id=f"c{i}", kind="risk", question=f"What is it, {i}?", options=options)


def test_the_shipped_choices_are_what_their_card_says():
    found = load_choices()
    kinds = [one.kind for one in found]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "risk": 10, "agreement": 10, "refusal": 10,
    }  # fmt: skip
    assert all(one.options[0] != one.options[1] for one in found)
    for in_chat in (False, True):
        for pair, one in zip(choice_pairs(found, in_chat), found, strict=True):
            assert pair.clean.index(one.options[0]) < pair.clean.index(one.options[1])
            assert pair.corrupt.index(one.options[1]) < pair.corrupt.index(one.options[0])


def test_log_odds_equal_naive_ones_and_turn_with_the_options(chatty: EmotionVectors):
    model, asked = chat_model("chatml"), [choice(i) for i in range(4)]
    settings = {"dose": 0.3, "layers": [0, 1], "n_random": 10}
    done = emotion_choices(model, chatty, asked, ["joy", "fear"], **settings)
    turned = [choice(i, turned=True) for i in range(4)]
    other = emotion_choices(model, chatty, turned, ["joy", "fear"], **settings)
    columns = [c for c in done.log_odds if c not in ("kind", "id")]
    assert len(columns) == 1 + 2 + 10 and done.in_chat and not done.excluded
    assert np.allclose(done.log_odds[columns], -other.log_odds[columns], atol=1e-4)
    plan = chatty.steering("joy").plan(0.3, [0, 1], relative="norm")
    letters = [model.encode(letter)[-1] for letter in (" A", " B")]
    for steps, column in (((), "unsteered"), (plan, "joy")):
        sides: list[float] = []
        for order in (asked[1].options, asked[1].options[::-1]):
            chat = interp.Chat(prefill=BEGUN).wrap(ASKED.format(asked[1].question, *order))
            text = interp.prompt(model, chat).text
            spaced = interp.TokenPrompt((*interp.prompt(model, chat).ids, model.encode(" ")[-1]))
            assert text.endswith(BEGUN)
            logits = interp.forward(model, [spaced], steps).logits[0]
            sides.append(float(logits[letters[0]] - logits[letters[1]]))
        assert done.log_odds[column][1] == pytest.approx((sides[0] - sides[1]) / 2, abs=1e-3)


def test_the_table_is_made_of_shifts_over_questions(chatty: EmotionVectors):
    model, asked = chat_model("chatml"), load_choices()[::5]
    done = emotion_choices(model, chatty, asked, ["joy"], n_random=10, dose=0.2)
    assert done.layers == (chatty.layer,)
    assert done.table["kind"].tolist() == ["risk", "agreement", "refusal"]
    own = done.log_odds[done.log_odds["kind"] == "risk"]
    shift = own["joy"] - own["unsteered"]
    row = done.table.iloc[0]
    assert row["shift"] == pytest.approx(shift.mean())
    assert row["low"] <= row["shift"] <= row["high"] and row["questions"] == 2
    tables = done.report().sections[0].parts[1:]
    assert [table.caption for table in tables] == ["Risk", "Agreement", "Refusal"]
    assert tables[0].headings == ["emotion", "shift [95 % interval]", "p"]
    assert f"2 questions; unsteered log-odds {own['unsteered'].mean():.3g};" in tables[0].note
    random = [float((own[f"random {i}"] - own["unsteered"]).mean()) for i in range(10)]
    assert min(random) <= row["random_low"] < row["random_high"] <= max(random)
    again = emotion_choices(model, chatty, asked, ["joy"], n_random=10, dose=0.2)
    assert again.log_odds.equals(done.log_odds)
    other = emotion_choices(model, chatty, asked, ["joy"], n_random=10, dose=0.2, seed=1)
    assert other.log_odds["joy"].equals(done.log_odds["joy"])
    assert not other.log_odds["random 0"].equals(done.log_odds["random 0"])


def test_random_directions_are_as_alike_between_layers_as_the_vectors(chatty, monkeypatch):
    used: dict[str, Any] = {}

    def sweep(model: Any, asked: Any, plans: dict[str, Any], **options: Any) -> Any:
        used.update(plans)
        return sweep_plans(model, asked, plans, **options)

    monkeypatch.setattr(emotion_choices_module, "sweep_plans", sweep)
    model, found = chat_model("chatml"), chatty
    alike = replace(found, vectors=found.vectors[:, 1:].expand(-1, 2, -1).clone())
    emotion_choices(model, alike, [choice(0)], ["joy", "fear"], layers=[0, 1], n_random=10)
    assert len(used) == 13 and not used.pop("unsteered")
    for plan in used.values():
        first, second = (step.vector.flatten() for step in plan)
        assert first @ second == pytest.approx(1, abs=1e-5)  # of unit length
    drawn = torch.stack([plan[0].vector.flatten() for name, plan in used.items() if RANDOM in name])
    assert (drawn @ drawn.T).fill_diagonal_(0).abs().max() < 0.95


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_random": 9}, "give 10 directions or more"),
        ({"dose": float("nan")}, "a positive dose"),
        ({"dose": -1.0}, "a positive dose"),
        ({"layers": [7]}, "no vector for layer 7"),
    ],
)
def test_what_cannot_be_asked_is_refused(chatty: EmotionVectors, options, says: str):
    with pytest.raises(PlanError, match=says):
        emotion_choices(chat_model("chatml"), chatty, [choice(0)], ["joy"], **options)


def test_letters_that_are_one_token_are_refused(tmp_path: Path):
    model = tiny("llama")  # which knows neither letter
    with pytest.raises(DataError):
        emotion_choices(model, vectors(tmp_path / "v"), [choice(0)], ["joy"], n_random=10)


# --- the command line -----------------------------------------------------------------------------


def test_all_of_it_on_the_command_line(tmp_path: Path, capsys, monkeypatch):
    model = chat_model("chatml")
    monkeypatch.setattr(interp, "load_model", lambda name, **options: model)

    def seen(*arguments: str) -> str:
        """What a terminal of 80 columns shows, in which nothing may be cut."""
        assert run_verb([*arguments]) == 0
        text = capsys.readouterr().out
        assert "…" not in text and "━" in text
        assert max(len(line) for line in text.splitlines() if "run folder" not in line) <= 80
        return text

    words, rows = written_texts(tmp_path)
    run = tmp_path / "run"
    make = ["emotion", "vectors", "--model", "m", "--words", str(words), "--texts", str(rows)]
    made = report(capsys, *make, "--out", str(run))
    assert made["emotions"] == [*NAMES] and made["layers"][0]["layer"] == made["layer"]
    assert made["left_out"]["the text's emotion is not in the list"] == 1
    assert made["kind"] == "emotion vectors" and (run / "index.html").is_file()
    assert report(capsys, *make, "--out", str(run)) == made
    assert "without a vector: none" in " ".join(seen(*make, "--out", str(run)).split())
    assert "give one of" in refused(capsys, *make, "--generate", "3", "--out", str(run))

    norms = tmp_path / "norms.jsonl"
    rated = [{"word": f"w{60 + i}", "valence": i} for i in range(4)]
    norms.write_text("\n".join(map(json.dumps, rated)))
    plane = ["emotion", "map", str(run), "--norms", str(norms), "--out", str(tmp_path / "map")]
    assert report(capsys, *plane)["left_out"]["the word has no arousal"] == 4
    assert "the word has no valence 0; the word has no arousal 4" in seen(*plane)
    assert (tmp_path / "map" / "index.html").is_file()

    chat, out = tmp_path / "chat.json", str(tmp_path / "tokens")
    chat.write_text(json.dumps(CHAT))
    read = ["emotion", "tokens", str(run), "--model", "m", "--emotions", "joy,awe"]
    said = report(capsys, *read, "--chat", str(chat), "--out", out)
    assert [row["speaker"] for row in said["parts"]][:2] == ["system", "user"]
    many = ["emotion", "tokens", str(run), "--model", "m", "--emotions", ",".join(NAMES)]
    assert seen(*many, "--chat", str(chat)).count("token before") == 4
    assert "give one of --text and --chat" in refused(capsys, *read)
    text = tmp_path / "text.txt"
    text.write_text("Oh no")
    assert report(capsys, *read, "--text", str(text))["parts"][0]["speaker"] == "text"
    assert "another" in refused(capsys, *read, "--text", str(text), "--out", out)
    monkeypatch.setattr(interp, "load_model", lambda name, **options: tiny("llama"))
    assert "other weights" in refused(capsys, *read, "--chat", str(chat), "--out", out)
    monkeypatch.setattr(interp, "load_model", lambda name, **options: model)

    ask = ["emotion", "choices", str(run), "--model", "m", "--n-random", "10"]
    told = report(capsys, *ask, "--emotions", "joy,fear", "--out", str(tmp_path / "choices"))
    assert [row["emotion"] for row in told["shifts"]] == ["joy", "fear"] * 3
    assert seen(*ask, "--emotions", "joy,fear").count("agreement") == 2
    assert "no vector of 'envy'" in refused(capsys, *ask, "--emotions", "envy")
