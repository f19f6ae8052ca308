"""Which cells a model can do: the study's own filter, in every form; chats keep the bookkeeping."""

import copy
import dataclasses
import functools
import importlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from chat_examples import chat_model
from pydantic import ValidationError
from test_cli import last_json, refused

import interp
from circuits.cli.app import run
from circuits.recall_reasoning import (
    DESIGNS,
    Feasibility,
    FeasibilitySettings,
    StudySettings,
    ThoughtSettings,
    build,
    feasibility,
    study,
)
from circuits.recall_reasoning.cells import SPLITS, data_of
from circuits.recall_reasoning.chains import (
    TASK,
    Chain,
    ask,
    continued,
    decoded,
    demonstrations,
    final_answer,
    is_answered,
    name_is_read,
    named,
)
from circuits.recall_reasoning.feasibility import from_subject, without_bridge
from circuits.recall_reasoning.filter import filtered
from circuits.recall_reasoning.sources.countries import load_facts
from circuits.recall_reasoning.study import MINIMUM
from circuits.recall_reasoning.thought import word
from interp.data import datasets as shipped
from interp.data.chat import Chat
from interp.data.pairs import Excluded, tokenise
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, RunFolderError
from interp.forward.prefix_cache import PrefixCache, common_prefix

CHAT = Chat(system="Be brief.")
LETTERS = tuple("kmqzabcdefghij")
SHOWN = demonstrations(4)


@pytest.fixture(scope="module")
def found() -> Feasibility:
    return feasibility(interp.load_model("two-hop-organism"), FeasibilitySettings(n=12))


@functools.cache
def loud_model():
    """A random model of chats whose last state depends on all of the prompt."""
    model = chat_model("chatml")
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():
        for weight in hf.model.layers.parameters():
            weight.mul_(40 if weight.ndim > 1 else 1)
    return interp.load_model(hf, tokenizer=model.tokenizer, device="cpu")


def written_data(model, chat: Chat | None):
    """Cell A, whose answers a random model gives anyway, with the question itself as shortcut."""
    ids = [model.encode(letter)[-1] for letter in LETTERS]
    texts = [[f"Say {'abc' * (i % 3)}{name}{i}, then" for i in range(180)] for name in ("P", "T")]
    each = [text for both in zip(*texts, strict=True) for text in both]
    # behind a plain text an answer begins with a space, which is a token of its own
    asked = [f"{text} " if chat is None else chat.wrap(text) for text in each]
    first = interp.forward(model, asked).logits[:, ids].argmax(-1).view(-1, 2).tolist()
    usable = [i for i, (one, other) in enumerate(first) if one != other]
    records = []
    for number, i in enumerate(usable):
        both = [texts[0][i], texts[1][i]]
        row = {"id": str(i), "cell": "A", "bridge": f"b{i}", "split": SPLITS[number % 3]}
        row |= {"clean": both[0], "corrupt": both[1], "shortcuts": [both[number // 3 % 2]]}
        row |= {"answer": LETTERS[first[i][0]], "wrong_answer": LETTERS[first[i][1]]}
        records.append(row | {"subject": [f"P{i}", f"T{i}"]})
    return dataclasses.replace(data_of(records, {"A": LETTERS}, (), "written", 0), chat=chat)


# --- cells in chats ------------------------------------------------------------------------------


def test_cells_in_a_chat_are_the_same_cells_in_its_template():
    model = loud_model()
    chats = written_data(model, CHAT)
    plain = dataclasses.replace(chats, chat=None)
    for split in SPLITS:
        (one, _), (two, _) = (tokenise(model, data.of(split, "A")) for data in (plain, chats))
        assert [t.pair.id for t in one] == [t.pair.id for t in two] and len(one) > 3
        for before, behind in zip(one, two, strict=True):
            shift = len(interp.prompt(model, CHAT.wrap("Say")).ids) - len(model.encode("Say"))
            assert len(behind.clean) == len(before.clean) + shift
            for spans, ids, others in (
                (before.spans, before.clean, (behind.spans, behind.clean)),
                (before.corrupt_spans, before.corrupt, (behind.corrupt_spans, behind.corrupt)),
            ):
                text = "".join(model.token(ids[i]) for i in spans["subject"])
                assert text == "".join(model.token(others[1][i]) for i in others[0]["subject"])
            # a reply begins without a space
            assert model.token(behind.answer) == behind.pair.answer
            assert model.token(before.answer) == " "


def test_the_filter_asks_pairs_and_shortcuts_in_the_chat():
    model = loud_model()
    counts = filtered(model, written_data(model, CHAT)).counts
    assert (counts["both_right"] == 1).all() and (counts["by_shortcut"] > 0).all()
    # the question itself is the shortcut of every other pair, the corrupt one, which is wrong, of
    # the rest
    assert (counts["by_shortcut"] + counts["kept"] == counts["asked"]).all()
    assert (counts["kept"] > 0).all()


def test_data_remember_their_chat_and_a_study_of_another_is_refused(tmp_path):
    model = loud_model()
    data = written_data(model, CHAT)
    for split in SPLITS:
        assert all(chat.chat == CHAT for pair in data.of(split, "A") for chat in pair.chats)
    settings = StudySettings(design="A-C", seeds=(0,))
    with pytest.raises(DataError, match="other options of a chat"):
        study(model, settings, tmp_path / "run", data=lambda _: data)
    with pytest.raises(DataError, match="no chat template"):
        small = interp.load_model("two-hop-organism")
        filtered(small, build(small, DESIGNS["A-C"], n=2, chat=CHAT))
    assert settings.but(chat=vars(CHAT)).chat == CHAT


# --- chains --------------------------------------------------------------------------------------


def test_replies_are_read_as_they_are_written():
    names = ("Paris", "New Delhi", "Delhi", "Oslo")
    assert named("It is in new delhi, not Oslo.", names) == "New Delhi"
    assert named("Parisian", names) is None
    assert final_answer("It is in Oslo. Answer: Paris, Oslo", names) == "Paris"
    assert final_answer("**Answer:** the city of Oslo", names) == "Oslo"
    assert final_answer("Answer: Rome\nParis", names) == ""
    assert final_answer("It is Paris.", names) is None
    assert final_answer("It is Paris. Answer:", names) is None
    assert final_answer("Hm.\n\nText: more\nReply: Answer: Paris", names) is None
    text = " 1. It is in St. Ives! No\n**Answer: Oslo."
    sentences = [text[a:b] for a, b in Chain((), (), text).sentences]
    assert sentences == [" 1. It is in St.", " Ives!", " No\n"]


@pytest.mark.parametrize("at", range(0, 24))
def test_a_cut_keeps_every_token_that_was_written_before_it(at):
    model = chat_model("chatml")
    ids = tuple(torch.arange(40, 64).tolist())
    chain = Chain((1, 2), ids, model.tokenizer.decode(list(ids)))
    found = chain.cut(model, at, "xy")
    n = next(n for n in reversed(range(25)) if len(model.tokenizer.decode(list(ids[:n]))) <= at)
    assert found[: 2 + n] == (1, 2, *ids[:n])
    tail = chain.text[len(model.tokenizer.decode(list(ids[:n]))) : at] + "xy"
    assert found[2 + n :] == tuple(model.tokenizer.encode(tail, add_special_tokens=False))


def test_a_chain_is_asked_for_by_the_same_demonstrations_in_both_forms():
    model = chat_model("chatml")
    plain, chat = (ask(model, "The end is", c, 4) for c in (None, Chat(prefill="Sure")))
    assert plain.text.endswith("Answer: heron\n\nText: The end is\nReply:")
    assert chat.text.endswith("<|im_start|>user\nThe end is<|im_end|>\n<|im_start|>assistant\n")
    assert chat.text.count("Answer: ") == 4 and "Sure" not in chat.text
    turns = [one for shown in SHOWN for one in (shown["text"], shown["reply"])]
    for text, before in ((plain.text, ("Text: ", "\nReply: ")), (chat.text, ("user\n", "ant\n"))):
        first = TASK if text is chat.text else turns[0]
        places = [
            text.index(before[i % 2] + (turn if i else first)) for i, turn in enumerate(turns)
        ]
        assert places == sorted(places)


@pytest.mark.parametrize("n", range(5))
def test_so_many_demonstrations_are_shown_and_the_task_is_said_once(n):
    model = chat_model("chatml")
    for chat in (None, Chat()):
        text = ask(model, "The end is", chat, n).text
        assert [one["reply"] in text for one in SHOWN] == [False] * (4 - n) + [True] * n
        assert text.count(TASK) == 1
        assert text.index(TASK) < text.index("The end is")


def test_demonstrations_are_about_no_shipped_question():
    facts = load_facts(shipped.folder() / "recall_facts.jsonl")
    names = {name for one in facts for name in (one.country, one.capital, *one.landmarks)}
    for shown in SHOWN:
        sentences = shown["reply"].split(". ")
        assert any(shown["bridge"] in one for one in sentences[:-1])
        assert not [
            name for name in names if word(name).search(shown["text"] + " " + shown["reply"])
        ]
        assert "capital" not in shown["text"] and "language" not in shown["text"]
    for settings in (ThoughtSettings, FeasibilitySettings):
        assert settings().demonstrations == len(SHOWN)
        with pytest.raises(ValidationError):
            settings(demonstrations=len(SHOWN) + 1)


def test_a_reply_ends_where_more_text_changes_nothing():
    names = ("Paris", "New Delhi", "Delhi", "Oslo")
    reply = "It is in Norway.\nAnswer: Oslo\nText: more"
    ends = next(n for n in range(len(reply)) if is_answered(reply[:n]))
    assert reply[:ends] == "It is in Norway.\nAnswer: Oslo\n"
    assert is_answered("no answer\n\nText:") and not is_answered("It is.\n\nAnswer:\n\n")
    for said in (
        "It is New Delhi, of course, and not Oslo",
        "Parisian Paris-Oslo, or is it not so",
    ):
        for n in range(len(said)):
            if name_is_read(said[:n], names):
                assert named(said[:n], names) == named(said, names)
        assert name_is_read(said, names) and not name_is_read(said[:12], names)


def test_chains_are_those_of_plain_generation(monkeypatch):
    model = chat_model("chatml")
    prefixes = [ask(model, text, Chat(), 2).ids for text in ("One is", "Another thing is", "So")]
    whole = interp.generate(model, [TokenPrompt(ids) for ids in prefixes], (), 12, progress=False)
    shared = []
    sharing = PrefixCache.sharing.__func__
    monkeypatch.setattr(
        PrefixCache,
        "sharing",
        classmethod(lambda cls, m, p, n, **k: shared.extend(n) or sharing(cls, m, p, n, **k)),
    )
    found = continued(model, prefixes, 12, until=lambda _: False)
    assert [one.ids for one in found] == [one.ids for one in whole]
    assert [one.text for one in found] == [one.text for one in whole]
    assert set(shared) == {common_prefix([TokenPrompt(ids) for ids in prefixes])}
    short = continued(model, prefixes, 12, until=lambda text: len(text) >= 4)
    for one, full in zip(short, whole, strict=True):
        n = next(n for n in range(1, 13) if len(decoded(model, full.ids[:n])) >= 4)
        assert one.ids == full.ids[:n] and one.prompt == full.prompt


# --- feasibility ---------------------------------------------------------------------------------


def test_the_organism_does_what_was_planted(found):
    cells = found.cells.set_index("cell")
    assert list(cells.index) == list("ABCD")
    assert (cells["written"] == 1).all() and (cells["leads"] == 1).all()
    assert (cells["n"] == 36).all() and (cells["asked"] == "directly").all()
    probes = found.probes.set_index("cell")
    # the story's own values are unknown without what names the bridge
    assert probes.loc[["A", "C"], "without_bridge"].max() < 0.3
    assert probes.loc["C", "from_subject"] < 0.2 < 0.5 < probes.loc["A", "from_subject"]


def test_the_verdict_is_the_criterion_of_the_study(found):
    model = interp.load_model("two-hop-organism")
    asked = filtered(model, build(model, DESIGNS["2x2"], None, 12, 0))
    kept = {cell: asked.n(cell) for cell in "ABCD"}
    assert found.cells.set_index("cell")["kept"].to_dict() == kept
    for row in found.designs.to_dict("records"):
        if row["design"] in ("2x2", "A-D", "A-C"):
            least = min(kept[cell] for cell in DESIGNS[row["design"]].cells)
            assert row["kept"] == least and row["feasible"] == (least >= MINIMUM)
            assert (row["to_draw"] - 1) * least / 12 < MINIMUM <= row["to_draw"] * least / 12
        else:
            assert not row["feasible"] and "has no cell" in row["reason"]
    share = Counter(
        pair.answer for split in SPLITS for pair in asked.data.pairs[split]["A"]
    )  # of the kept ones, which are all of A here
    assert kept["A"] == 12
    assert found.probes.loc[0, "most_frequent"] == max(share.values()) / 36


def test_shortcuts_leave_out_what_they_say():
    data = build(interp.load_model("two-hop-organism"), DESIGNS["2x2"], None, 2, 0)
    for cell in "ABCD":
        (pair, *_) = data.of("test", cell)
        bridge, shorter = data.bridge[pair.id], without_bridge(data, pair)
        kept = [fact for fact in shorter.split("; ") if bridge in fact.split()]
        assert all(pair.answer in fact.split() for fact in kept)
        assert cell != "D" or pair.answer in shorter  # only the first hop is gone
        subject = pair.clean[slice(*pair.spans["subject"][0])]
        assert from_subject(data, pair).startswith(f"{subject} ")
        assert pair.clean.endswith(from_subject(data, pair))
    assert without_bridge(data, data.of("test", "B")[0]) == next(
        iter(data.shortcuts[data.of("test", "B")[0].id])
    )


def test_both_forms_ask_the_same_questions(monkeypatch):
    model = loud_model()
    module = importlib.import_module("circuits.recall_reasoning.feasibility")
    monkeypatch.setattr(module, "TWO_HOPS", ("A",))
    asking = {}
    for form, chat in (("plain", None), ("chat", CHAT)):
        data = written_data(model, chat)
        asking[form] = module.Asking.of(model, data, form, FeasibilitySettings(new_tokens=3))
        direct, chain = asking[form].rows
        assert direct["leads"] == 1 and chain["asked"] == "with a chain"
        assert direct["n"] == chain["n"] == direct["bridges"]
        assert chain["no_answer"] == chain["n"]  # a random model writes no "Answer:"
        pairs = [pair for split in SPLITS for pair in data.of(split, "A")]
        replies = [one.text for one in interp.generate(model, pairs, (), 16, progress=False)]
        hit = [named(t, LETTERS) == p.answer for t, p in zip(replies, pairs, strict=True)]
        assert direct["written"] == pytest.approx(np.mean(hit))
    assert asking["plain"].rows[0]["form"] == "plain" and asking["chat"].rows[0]["form"] == "chat"


def test_the_verb_prints_and_writes_a_page(tmp_path, capsys):
    command = ["recall-reasoning", "feasible", "--model", "two-hop-organism", "--n", "2"]
    command += ["--out", str(tmp_path / "run")]
    assert run([*command, "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert told["feasible"] == {"plain": []} and len(told["cells"]) == 4
    assert run(command) == 0  # read back
    assert "designs of run" in capsys.readouterr().out
    again = Feasibility.load(tmp_path / "run")
    pd.testing.assert_frame_equal(pd.DataFrame(told["probes"]), again.probes)
    page = (tmp_path / "run" / "index.html").read_text("utf-8")
    assert "Designs that are feasible: plain: no design." in page
    assert "settings: 'n'" in refused(capsys, *command, "--n", "0")


def test_a_stopped_run_asks_only_the_cells_that_are_not_there(tmp_path, monkeypatch):
    model, settings = interp.load_model("two-hop-organism"), FeasibilitySettings(n=2)
    module = importlib.import_module("circuits.recall_reasoning.feasibility")
    of, asked, told = module.Asking.of.__func__, [], []

    def stopping(cls, model, data, *rest):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(data.cells)
        return of(cls, model, data, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module.Asking, "of", classmethod(stopping))
        with pytest.raises(KeyboardInterrupt) as stopped:
            feasibility(model, settings, tmp_path / "run")
        assert "2 of 4 cells are saved" in stopped.value.__notes__[0]
        with pytest.raises(RunFolderError, match="n=2"):
            feasibility(model, FeasibilitySettings(n=3), tmp_path / "run")
    counted = classmethod(
        lambda cls, m, data, *rest: asked.append(data.cells) or of(cls, m, data, *rest)
    )
    monkeypatch.setattr(module.Asking, "of", counted)
    resumed = feasibility(
        model, settings, tmp_path / "run", progress=lambda *both: told.append(both)
    )
    assert asked == [("A",), ("B",), ("C",), ("D",)]
    assert told == [(n, 4) for n in range(5)]
    once = feasibility(model, settings)
    for name in ("cells", "probes", "designs"):
        pd.testing.assert_frame_equal(getattr(resumed, name), getattr(once, name))
    assert resumed.left_out == once.left_out


def test_what_could_not_be_matched_is_counted_once(monkeypatch):
    module = importlib.import_module("circuits.recall_reasoning.feasibility")
    rows = [Excluded(name, "facts", "two tokens") for name in ("Chad", "Chad", "Peru")]

    def with_rejected(*given):
        return dataclasses.replace(build(*given), rejected=tuple(rows))

    monkeypatch.setattr(module, "build", with_rejected)
    found = feasibility(interp.load_model("two-hop-organism"), FeasibilitySettings(n=2))
    assert found.left_out == {module.UNMATCHED: 2}
    assert module.UNMATCHED in found.report().excluded["reason"].tolist()


def test_sampled_chains_differ_in_every_batch(monkeypatch):
    module = importlib.import_module("circuits.recall_reasoning.chains")
    monkeypatch.setattr(module, "default_budget", lambda _: 1)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    model, prefix = chat_model("chatml"), tuple(range(40, 50))
    found = continued(model, [prefix] * 8, 6, 3.0, 1, until=lambda _: False)
    assert len({one.ids for one in found}) == 8


def test_replies_are_written_many_at_once(monkeypatch):
    model, module = (
        chat_model("chatml"),
        importlib.import_module("circuits.recall_reasoning.chains"),
    )
    monkeypatch.setattr(module, "default_budget", lambda _: 1)
    sizes, decode = [], module.decode
    monkeypatch.setattr(
        module,
        "decode",
        lambda m, cache, *a, **k: sizes.append(len(cache)) or decode(m, cache, *a, **k),
    )
    prefixes = [tuple(range(40, 50 + i % 3)) for i in range(40)]
    found = continued(model, prefixes, 2)
    assert max(sizes) >= 32 and sum(sizes) == 40 and [one.prompt for one in found] == prefixes
