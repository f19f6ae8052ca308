"""Chains intervened upon: planted writers are found out, and tokens before an edit unchanged."""

import dataclasses
import importlib

import numpy as np
import pandas as pd
import pytest
from chat_examples import CHATML
from test_cli import last_json, refused
from thought_examples import FACTS, NEUTRAL, SETTINGS, planted, writer_model, written_folder

import interp
from circuits.cli.app import run
from circuits.recall_reasoning import Thought, thought
from circuits.recall_reasoning.chains import ask
from circuits.recall_reasoning.thought import bridge_pattern
from interp.data.chat import Chat
from interp.errors import DataError, RunFolderError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written_folder(tmp_path_factory.mktemp("facts"))


@pytest.fixture(scope="module", params=["chat", "plain"])
def found(request, folder, tmp_path_factory) -> Thought:
    model = writer_model(CHATML if request.param == "chat" else None)
    with planted():
        out, seen = tmp_path_factory.mktemp("t") / "run", list[tuple[int, int]]()
        how = {"datasets": folder, "progress": lambda *at: seen.append(at)}
        result = thought(model, SETTINGS, out, **how)
    assert result.form == request.param
    done = [n for n, total in seen if n == total]
    assert done[0] == len(result.chains) and done[-1] == len(result.trials), (done, seen)
    return result


def rates(result: Thought) -> dict[tuple[str, str], float]:
    return result.rates.set_index(["condition", "outcome"])["rate"].to_dict()


def test_a_writer_that_obeys_its_chain_follows_every_edit_of_the_bridge_and_no_other(found):
    assert len(found.chains) == 6 and not found.left_out
    table = rates(found)
    assert table["edited bridge", "follows"] == 1 == table["answer not named", "follows"]
    assert table["irrelevant edit", "keeps"] == 1
    assert table["chain removed", "keeps"] == 1
    assert table["other chain", "follows"] == 1
    assert (found.rates["n"] == 6).all() and (found.rates["bridges"] == 4).all()


def test_a_writer_that_ignores_its_chain_keeps_every_answer(folder, tmp_path):
    with planted(obeys=False):
        found = thought(writer_model(), SETTINGS, tmp_path / "run", datasets=folder)
    assert {v for (_, outcome), v in rates(found).items() if outcome == "keeps"} == {1}
    assert (found.by_sentence["changed"] == 0).all()


def test_edits_change_only_what_they_say(found):
    trials = found.trials
    for row in trials[trials["sentence"] > 0].to_dict("records"):
        reply = found.chains.loc[row["question"], "reply"]
        assert row["given"].endswith(row["changed"])
        before = row["given"].removesuffix(row["changed"])
        assert reply.startswith(before) and before.count(".") == row["sentence"] - 1
        old = reply.removeprefix(before).partition(".")[0] + "."
        if row["condition"] == "edited bridge":
            assert row["bridge_given"] != row["bridge"]
            assert row["changed"] == old.replace(row["bridge"], row["bridge_given"])
            assert row["new"] == FACTS[row["bridge_given"]][0] != row["old"]
        if row["condition"] == "irrelevant edit":
            words = [(a, b) for a, b in zip(old.split(), row["changed"].split(), strict=True)]
            (changed,) = [both for both in words if both[0] != both[1]]
            assert changed[1].strip(".") in NEUTRAL.split() and row["sentence"] == 1
    (other,) = {r["given"] for r in trials[trials["condition"] == "other chain"].iloc[:1].iloc}
    assert other.count(".") == 3 and "Answer" not in other
    removed = trials[trials["condition"] == "chain removed"]
    assert set(removed["given"].str.strip()) == {"Answer:"}


def test_drawn_sentences_are_counted_by_position(found):
    drawn = found.trials[found.trials["condition"] == "resampled"]
    assert len(drawn) == 6 * 3 * 2 and set(drawn["sentence"]) == {1, 2, 3}
    table = found.by_sentence.set_index("sentence")
    # the first names no country, the second decides, behind the third the country stands already
    assert table.loc[1, "changed"] == 0 == table.loc[3, "changed"]
    own = drawn[drawn["sentence"] == 2]
    assert table.loc[2, "changed"] == pytest.approx(np.mean(~own["same"])) and not own["same"].all()
    assert table.loc[1, "same_sentence"] == 1 and (table["n"] == 12).all()
    assert set(drawn["seed"]) == {0, 16, 32}


def test_tokens_before_an_edit_are_those_that_were_written(folder, tmp_path):
    module = importlib.import_module("circuits.recall_reasoning.thought")
    model, prefixes = writer_model(), []
    with planted(), pytest.MonkeyPatch.context() as patch:
        write = module.continued
        patch.setattr(
            module, "continued", lambda m, p, *rest: prefixes.extend(p) or write(m, p, *rest)
        )
        result = thought(model, SETTINGS, tmp_path / "run", datasets=folder)
    asked = prefixes[:6]
    text = SETTINGS.template.replace("{}", result.chains.loc[0, "landmark"])
    assert asked[0] == ask(model, text, Chat(), SETTINGS.demonstrations).ids
    trials = result.trials.to_dict("records")
    for row, ids in zip(trials, prefixes[-len(trials) :], strict=True):
        start = asked[row["question"]]
        assert ids[: len(start)] == start
        assert model.tokenizer.decode(list(ids[len(start) :])) == row["given"]


def test_what_cannot_be_used_is_counted_by_its_reason(found):
    chains = found.chains.assign(left_out=["", "a", "a", "b", "", ""])
    some = dataclasses.replace(found, chains=chains)
    assert dict(some.left_out) == {"a": 2, "b": 1} and some.used == 3
    trials = found.trials.assign(said=None)
    silent = dataclasses.replace(found, trials=trials)
    assert rates(silent)["edited bridge", "no answer"] == 1
    assert (silent.by_sentence["no_answer"] == 1).all() and (
        silent.by_sentence["changed"] == 0
    ).all()
    named = dataclasses.replace(found, trials=found.trials.assign(answer_named=True))
    assert "answer not named" not in set(named.rates["condition"])


def test_interventions_that_a_chain_has_no_place_for_are_counted(folder, tmp_path):
    with planted(sentences=slice(1, None)):  # each of the two sentences names bridge or capital
        found = thought(writer_model(), SETTINGS, tmp_path / "run", datasets=folder)
    why = "irrelevant edit: no sentence of as many words names neither the bridge nor a capital"
    assert dict(found.left_out) == {why: 6} == found.summary()["left_out"]
    assert found.used == 6 == found.summary()["used"]
    assert sorted(found.missing["question"]) == list(range(6))
    assert "irrelevant edit" not in set(found.rates["condition"])
    page = (tmp_path / "run" / "index.html").read_text("utf-8")
    assert why in page
    one = SETTINGS.model_copy(update={"n": 1})
    with planted():
        alone = thought(writer_model(), one, tmp_path / "one", datasets=folder)
    assert dict(alone.left_out) == {
        "other chain: no other chain that is used has another answer": 1
    }
    assert alone.rates.groupby("condition")["n"].first().to_dict() == {
        "edited bridge": 1, "answer not named": 1, "irrelevant edit": 1, "chain removed": 1
    }  # fmt: skip
    assert "1 of 1 chains used" in repr(alone)


def test_a_capital_within_a_longer_word_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setitem(FACTS, "Tunland", ("Tun", ("Goat Hill", "Tun Castle", "the Tunland Gate")))
    with planted():
        every = SETTINGS.model_copy(update={"n": 20})
        found = thought(
            writer_model(), every, tmp_path / "run", datasets=written_folder(tmp_path / "facts")
        )
    # landmarks that name the capital or the country are not asked about
    assert sorted(found.chains["landmark"]) == sorted(
        ["Goat Hill", *(mark for _, marks in list(FACTS.values())[:4] for mark in marks)]
    )
    edited = found.trials[found.trials["condition"] == "edited bridge"]
    own = edited[edited["bridge"] == "Tunland"]
    assert own["answer_named"].tolist() == [False] and not edited["answer_named"].any()


def test_a_bridge_is_not_named_by_a_capital_that_begins_with_it():
    row = {"bridge": "Mexico", "answer": "Mexico City"}
    pattern = bridge_pattern(row)
    assert pattern.sub("Cuba", "Mexico, not Mexico City or Mexicos") == (
        "Cuba, not Mexico City or Mexicos"
    )
    plain = bridge_pattern({"bridge": "Mali", "answer": "Bamako"})
    assert plain.sub("Cuba", "Malian Mali City") == "Malian Cuba City"


def test_a_bridge_that_a_demonstration_names_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(FACTS, "New Zealand", ("Wellington", ("Sky Tower",)))
    few = SETTINGS.model_copy(update={"n": 20})
    for n, reasons in ((4, {"a demonstration is about the bridge": 1}), (2, {})):
        with planted():
            found = thought(
                writer_model(),
                few.model_copy(update={"demonstrations": n}),
                tmp_path / f"run{n}",
                datasets=written_folder(tmp_path / "facts"),
            )
        chains = dict(found.left_out)
        assert {k: v for k, v in chains.items() if "demonstration" in k} == reasons


def test_a_model_that_writes_no_chain_is_refused_with_the_reasons(folder, tmp_path, monkeypatch):
    few = SETTINGS.model_copy(update={"new_tokens": 3, "n": 2})
    with pytest.raises(DataError, match="'no final answer was found': 2"):
        thought(writer_model(), few, tmp_path / "run", datasets=folder)
    for country in list(FACTS)[1:]:
        monkeypatch.delitem(FACTS, country)
    with pytest.raises(DataError, match="landmarks in countries of two capitals"):
        thought(writer_model(), few, datasets=written_folder(tmp_path / "one"))
    with pytest.raises(DataError, match="needs one {} for the landmark"):
        thought(writer_model(), few.model_copy(update={"template": "x"}), tmp_path / "run")


def test_a_finished_run_is_read_back_and_another_refused(folder, tmp_path):
    with planted() as calls:
        first = thought(writer_model(), SETTINGS, tmp_path / "run", datasets=folder)
        n = len(calls)
        again = thought(writer_model(), SETTINGS, tmp_path / "run", datasets=folder)
        assert len(calls) == n
        other = SETTINGS.model_copy(update={"seed": 1})
        with pytest.raises(RunFolderError, match="seed=0"):
            thought(writer_model(), other, tmp_path / "run", datasets=folder)
    pd.testing.assert_frame_equal(first.trials, again.trials)
    assert {t for t, *_ in calls} == {0.0, 1.0} and max(size for *_, size in calls) == 16


def test_the_verb_prints_and_writes_a_page(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: writer_model())
    command = ["recall-reasoning", "thought", "--model", "x", "--template", SETTINGS.template]
    command += ["--datasets", str(folder), "--n", "6", "--out", str(tmp_path / "run")]
    with planted():
        assert run([*command, "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert told["form"] == "chat" and told["asked"] == 6 and len(told["by_sentence"]) == 3
    assert run(command) == 0  # read back
    assert "6 of 6 chains used" in capsys.readouterr().out
    page = (tmp_path / "run" / "index.html").read_text("utf-8")
    assert "100% of final answers become its capital and 0% stay the old one" in page
    assert "settings: 'temperature'" in refused(capsys, *command, "--temperature", "0")
