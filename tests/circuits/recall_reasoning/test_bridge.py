"""The bridge read and swapped: equal to hand-written hooks and loops; halves share no country."""

import dataclasses
import importlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from bridge_examples import NEUTRAL, TEMPLATE, written_facts
from chat_examples import chat_model
from conftest import tiny, tiny_hf, word_tokenizer
from test_cli import last_json, refused

import interp
from circuits.cli.app import run
from circuits.recall_reasoning import BridgeSettings, BridgeStudy, bridge
from circuits.recall_reasoning.bridge_result import chosen_cells, rates
from circuits.recall_reasoning.bridge_swaps import drawn_swaps, measured_swaps, without_donor
from circuits.recall_reasoning.direction_swaps import direction_swaps, exchange
from circuits.recall_reasoning.sources.countries import Country, load_facts
from circuits.recall_reasoning.two_hop import Asked, answered, two_hop_prompts
from interp.data.chat import Chat
from interp.errors import DataError, PlanError
from interp.forward import continuations
from interp.interventions.run import sweep_plans
from interp.model.model import Model

SETTINGS = BridgeSettings(template=TEMPLATE, n_swaps=6)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny("llama")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return written_facts(model, tmp_path_factory.mktemp("facts"))


@pytest.fixture(scope="module")
def asked(model, folder) -> Asked:
    return Asked.of(model, load_facts(folder / "recall_facts.jsonl"), SETTINGS)


@pytest.mark.parametrize("trees", [True, False])
def test_whole_capitals_are_read_in_one_sweep(model, asked, trees, monkeypatch):
    """Two tokens follow each landmark; a model that reads no trees of answers runs each alone."""
    monkeypatch.setattr(continuations, "reads_trees", lambda *_: trees)
    capitals = []
    for one in asked.prompts:
        second, _ = with_state(model, [*one.prompt.ids, *one.capital], 0, 0)
        capitals.append((one.capital[0], second))
    longer = [
        dataclasses.replace(one, capital=both)
        for one, both in zip(asked.prompts, capitals, strict=True)
    ]
    some = SETTINGS.model_copy(update={"layers": (1, 2), "positions": (0, 2), "n_swaps": 2})
    two = dataclasses.replace(asked, prompts=longer)
    drawn = drawn_swaps(model, two, NEUTRAL, some)
    table = measured_swaps(model, two, drawn, some, False)
    for name, answer in (("follows", 3), ("stays", 4)):
        read = table[name].to_numpy().reshape(len(drawn), 2, 2)
        for row, (_, target, donor, *answers) in enumerate(drawn):
            want = answers[answer - 3]
            for i, j in np.ndindex(2, 2):
                place = some.positions[j]
                into, source = target.prompt.spans["read"][place], donor.spans["read"][place]
                _, state = with_state(model, donor.ids, some.layers[i], source)
                said = []
                for n in range(len(want)):
                    ids = [*target.prompt.ids, *want[:n]]
                    said.append(with_state(model, ids, some.layers[i], into, state)[0])
                assert read[row, i, j] == (tuple(said) == want)
    assert table["follows"].any() and table["stays"].any()


def test_a_layer_or_position_named_twice_is_swapped_once(model, asked):
    once = SETTINGS.model_copy(update={"layers": (2, 1), "positions": (1,)})
    twice = once.model_copy(update={"layers": (2, 1, 2), "positions": (1, 1)})
    drawn = drawn_swaps(model, asked, NEUTRAL, SETTINGS)
    tables = [measured_swaps(model, asked, drawn, some, False) for some in (once, twice)]
    pd.testing.assert_frame_equal(*tables)
    assert len(rates(tables[1], 0)["n"].unique()) <= 4


def test_what_cannot_be_swapped_is_refused(model, asked, folder, tmp_path):
    alike = [dataclasses.replace(one, capital=asked.prompts[0].capital) for one in asked.prompts]
    with pytest.raises(DataError, match="begin with one token, so no swap"):
        drawn_swaps(model, dataclasses.replace(asked, prompts=alike), NEUTRAL, SETTINGS)
    facts = load_facts(folder / "recall_facts.jsonl")
    _, left_out = two_hop_prompts(model, facts, "w40 {w41} {} w42 w43")  # braces of the text's own
    assert {one.reason for one in left_out} <= {"the landmark names its country or the capital."}
    other = interp.load_model(tiny_hf("gemma3"), tokenizer=word_tokenizer())
    lens = interp.jacobian_lens(other, NEUTRAL, [1], skip=2, progress=False)
    with pytest.raises(PlanError, match="fitted on other weights"):
        bridge(model, SETTINGS, tmp_path / "run", datasets=folder, jacobian=lens)
    assert not (tmp_path / "run").exists()


def test_a_name_that_the_template_holds_is_no_donor(model, asked):
    name = asked.of_half()[0].bridge
    twice = SETTINGS.model_copy(update={"template": f"{name} w41 {{}} w42 w43"})
    drawn = drawn_swaps(model, asked, NEUTRAL, twice)
    assert drawn and all(len(donor.spans["read"]) == len(asked.places) for *_, donor, _, _ in drawn)


def test_swaps_that_a_condition_has_no_donor_for_are_counted(model, asked, folder, tmp_path):
    drawn = drawn_swaps(model, asked, NEUTRAL, SETTINGS)
    n = len({labels["swap"] for labels, *_ in drawn})
    rest = [one for one in drawn if one[0]["condition"] != "named"]
    assert without_donor(rest)["named: no prompt can be donor"] == n
    one_landmark = [
        json.loads(line) | {"landmarks": json.loads(line)["landmarks"][:1]}
        for line in (folder / "recall_facts.jsonl").read_text("utf-8").splitlines()
    ]
    text = "\n".join(map(json.dumps, one_landmark))
    (tmp_path / "recall_facts.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "neutral_text.txt").write_text(NEUTRAL, encoding="utf-8")
    found = bridge(model, SETTINGS, datasets=tmp_path, progress=False)
    # no other landmark is in the same country
    assert "same bridge" not in set(found.swaps["condition"])
    by_half = found.swaps[found.swaps["condition"] == "bridge"].groupby("half")["n"].first()
    assert found.left_out["same bridge: no prompt can be donor"] == by_half.sum()


def with_state(model: Model, ids, layer: int, position: int, state=None) -> tuple:
    """Greedy next token by a plain hook, and the state found at that layer and position."""
    found = []

    def hook(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        found.append(x[0, position].clone())
        if state is not None:
            x[0, position] = state

    handle = model.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1]
    handle.remove()
    return int(logits.argmax()), found[0]


def test_every_swap_is_that_of_a_hand_written_hook(model, asked):
    drawn = drawn_swaps(model, asked, NEUTRAL, SETTINGS)
    table = measured_swaps(model, asked, drawn, SETTINGS, False)
    layers, places = model.arch.n_layers, len(asked.places)
    assert len(table) == len(drawn) * layers * places
    assert {labels["condition"] for labels, *_ in drawn} == {
        "bridge", "named", "same bridge", "unrelated",
    }  # fmt: skip
    follows, stays = (
        table[k].to_numpy().reshape(len(drawn), layers, places) for k in ("follows", "stays")
    )
    for row, (_, target, donor, follow, stay) in enumerate(drawn):
        both = zip(target.prompt.spans["read"], donor.spans["read"], strict=True)
        for place, (into, source) in enumerate(both):
            for layer in range(layers):
                _, state = with_state(model, donor.ids, layer, source)
                said, _ = with_state(model, target.prompt.ids, layer, into, state)
                assert follows[row, layer, place] == (said == follow[0])
                assert stays[row, layer, place] == (said == stay[0])
    assert follows[:, 0].sum() < follows.sum() > 0


def test_halves_share_no_country_and_controls_are_what_they_say(model, asked):
    drawn = drawn_swaps(model, asked, NEUTRAL, SETTINGS)
    bridge_of = {one.prompt.ids: one.bridge for one in asked.prompts}
    seen = {"choice": set(), "test": set()}
    for labels, target, donor, follow, stay in drawn:
        assert follow != stay == target.capital
        seen[labels["half"]].add(target.bridge)
        if labels["condition"] == "bridge":
            seen[labels["half"]].add(bridge_of[donor.ids])
            assert bridge_of[donor.ids] != target.bridge
        if labels["condition"] == "same bridge":
            assert bridge_of[donor.ids] == target.bridge and donor.ids != target.prompt.ids
        if labels["condition"] == "named":
            assert len(donor.ids) == len(target.prompt.ids) - 1  # one word for two
    assert not seen["choice"] & seen["test"]
    assert seen["choice"] and seen["test"]


def test_only_prompts_that_greedy_decoding_answers_are_used(model, asked, folder):
    prompts = [one.prompt for one in asked.prompts]
    wrong = [((one.capital[0] + 1) % 97,) for one in asked.prompts]
    assert answered(model, prompts, [one.capital for one in asked.prompts]).all()
    assert not answered(model, prompts, wrong).any()
    facts = load_facts(folder / "recall_facts.jsonl")
    named = facts[0].model_copy(update={"landmarks": [f"w9 {facts[0].country}"]})
    _, left_out = two_hop_prompts(model, [named], TEMPLATE)
    assert [one.reason for one in left_out] == ["the landmark names its country or the capital."]
    for template in ("w1 w2", "w1 {}", "{} w1 {}"):
        with pytest.raises(DataError, match="needs one {} with words behind it"):
            two_hop_prompts(model, facts, template)
    with pytest.raises(DataError, match="a swap needs two in each half"):
        Asked.of(model, facts[:3], SETTINGS)
    with pytest.raises(PlanError, match="position 9: there are 0 to 2"):
        beyond = SETTINGS.model_copy(update={"positions": (9,)})
        measured_swaps(model, asked, drawn_swaps(model, asked, NEUTRAL, SETTINGS), beyond, False)


def test_ranks_are_those_of_the_lens_in_a_loop(model, folder, asked, tmp_path):
    found = bridge(model, SETTINGS, tmp_path / "run", datasets=folder, progress=False)
    again = BridgeStudy.load(tmp_path / "run")
    pd.testing.assert_frame_equal(found.ranks, again.ranks)
    rows = asked.of_half()
    names = sorted({one.bridge for one in rows})
    own, beats = [], []
    for one in rows:
        at = one.prompt.spans["read"][1]
        state = interp.activations(model, [one.prompt], "resid_pre", 2)[2][0, at]
        logits = model.logits(state[None])[0]
        rank = {n: int((logits > logits[model.encode(n)[-1]]).sum()) for n in names}
        own.append(rank.pop(one.bridge))
        others = np.array(list(rank.values()))
        beats.append(((others > own[-1]) + (others == own[-1]) / 2).mean())
    cell = found.ranks[(found.ranks["depth"] == 2) & (found.ranks["position"] == asked.places[1])]
    (row,) = cell.to_dict("records")
    assert row["rank"] == np.median(own) and row["n"] == len(rows)
    assert row["beats"] == pytest.approx(np.mean(beats))
    assert row["beats_low"] <= row["beats"] <= row["beats_high"]


def test_two_coordinates_change_places_and_nothing_else_does():
    old, new, h = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(0))
    changed = h + exchange(h, old, new)
    for before, after, one, other in zip(h, changed, old, new, strict=True):
        basis = torch.stack([one, other], 1).double()
        first, second = (torch.linalg.lstsq(basis, x.double()).solution for x in (before, after))
        assert torch.allclose(first.flip(0), second, atol=1e-5)
        rest = [x.double() - basis @ c for x, c in ((before, first), (after, second))]
        assert torch.allclose(*rest, atol=1e-5)
    assert torch.allclose(changed + exchange(changed, old, new), h, atol=1e-4)


def test_swaps_along_directions_are_the_algebra_by_hand(model, asked):
    lens = interp.jacobian_lens(model, NEUTRAL, [1], skip=2, progress=False)
    some = SETTINGS.model_copy(update={"layers": (1, 2), "positions": (0, 2), "n_swaps": 4})
    drawn = drawn_swaps(model, asked, NEUTRAL, some)
    swaps = [one for one in drawn if one[0]["condition"] == "bridge"]
    for name, jacobian, layers in (("logit", None, [1, 2]), ("Jacobian", lens, [1])):
        table = direction_swaps(model, asked, drawn, some, f"{name} lens", jacobian)
        assert set(table["condition"]) == {f"{name} direction", f"{name} control"}
        assert len(table) == len(swaps) * len(layers) * 2 * 2
        by_cell = table.set_index(["swap", "condition", "layer", "position"])
        for labels, target, _, follow, stay in swaps:
            names = target.bridge, labels["donor"]
            rows = [model.unembedding[model.encode(n)[-1]].detach() for n in names]
            for layer in layers:
                old, new = rows if jacobian is None else (lens.jacobians[0].T @ row for row in rows)
                for place in some.positions:
                    into = target.prompt.spans["read"][place]
                    _, h = with_state(model, target.prompt.ids, layer, into)
                    basis = torch.stack([old, new], 1)
                    a, b = torch.linalg.lstsq(basis, h[:, None]).solution[:, 0]
                    changed = h + b * old + a * new - a * old - b * new
                    said, _ = with_state(model, target.prompt.ids, layer, into, changed)
                    row = by_cell.loc[
                        (labels["swap"], f"{name} direction", layer, asked.places[place])
                    ]
                    assert row["follows"] == (said == follow[0])
                    assert row["stays"] == (said == stay[0])


def test_a_control_changes_as_much_along_a_third_countrys_direction(model, asked, monkeypatch):
    module = importlib.import_module("circuits.recall_reasoning.direction_swaps")
    plans = []

    def kept(*given):
        plans.append(given[2])
        return sweep_plans(*given)

    monkeypatch.setattr(module, "sweep_plans", kept)
    some = SETTINGS.model_copy(update={"layers": (1,), "positions": (1,), "n_swaps": 4})
    drawn = drawn_swaps(model, asked, NEUTRAL, some)
    direction_swaps(model, asked, drawn, some, "logit lens", None)
    ((change, control),) = plans
    norms = [own.vector.norm(dim=-1) for own in (change, control)]
    assert torch.allclose(*norms) and norms[0].min() > 0
    swaps = [one for one in drawn if one[0]["condition"] == "bridge"]
    names = {one.bridge for one in asked.of_half()}
    rows = {n: model.unembedding[model.encode(n)[-1]] for n in names}
    for (labels, target, *_), own in zip(swaps, control.vector[:, 0], strict=True):
        others = [rows[n] for n in names - {target.bridge, labels["donor"]}]
        alike = [
            float(torch.cosine_similarity(own, row - rows[target.bridge], dim=0)) for row in others
        ]
        assert max(map(abs, alike)) > 0.999


@pytest.mark.parametrize("style", ["chatml", "gemma"])
def test_in_a_chat_the_same_positions_are_found_before_the_templates_own(style, monkeypatch):
    """Characters are tokens: what stands behind the landmark is the template's text to the end."""
    model = chat_model(style)
    rows = [("Peru", "L", "Machu"), ("Oman", "M", "Nizwa"), ("Cuba", "H", "Bay")]
    facts = [Country(country=c, capital=a, language="x", landmarks=[mark]) for c, a, mark in rows]
    kind, names = type(model.tokenizer), {f" {country}" for country, *_ in rows}
    encode = kind.encode
    monkeypatch.setattr(
        kind, "encode", lambda self, text, **o: [7] if text in names else encode(self, text, **o)
    )
    plain, chats = (
        two_hop_prompts(model, facts, "Seat of {} is", chat)[0] for chat in (None, Chat())
    )
    end = {"chatml": "<|im_start|>assistant\n", "gemma": "<start_of_turn>model\n"}[style]
    assert len(plain) == len(chats) == 3
    for one, chat in zip(plain, chats, strict=True):
        behind = [
            "".join(model.token(each.prompt.ids[i]) for i in each.prompt.spans["read"])
            for each in (one, chat)
        ]
        assert behind[0] == f"{one.landmark[-1]} is"
        assert behind[1].startswith(behind[0]) and behind[1].endswith(end)
        assert [model.token(t) for t in one.capital] == [" ", one.answer]
        assert [model.token(t) for t in chat.capital] == [chat.answer]


def test_the_layer_is_chosen_on_one_half_and_scored_on_the_other():
    rows = []
    for half in ("choice", "test"):
        for swap in range(4):
            for condition in ("bridge", "unrelated"):
                for layer in (0, 1):
                    # on the choice half layer 1 is followed, on the test half layer 0
                    hit = condition == "bridge" and (layer == 1) == (half == "choice")
                    hit = hit or (half == "test" and condition == "bridge" and swap == 0)
                    cell = {"half": half, "swap": f"{half}-{swap}", "condition": condition}
                    cell |= {"layer": layer, "position": "+1 is", "country": f"{half}{swap}"}
                    rows.append(cell | {"follows": hit, "stays": not hit, "by_shortcut": swap > 1})
    table = chosen_cells(pd.DataFrame(rows), 0)
    first = table[(table["swaps"] == "all") & (table["condition"] == "bridge")].iloc[0]
    assert (first["layer"], first["follows"], first["n"]) == (1, 0.25, 4)
    assert (first["margin"], first["stays"], first["chosen_by"]) == (0.25, 0.75, 1.0)
    alone = table[(table["swaps"] == "no shortcut") & (table["condition"] == "bridge")].iloc[0]
    assert (alone["follows"], alone["n"]) == (0.5, 2)
    by_cell = rates(pd.DataFrame(rows), 0).set_index(["half", "condition", "layer"])
    assert by_cell.loc[("test", "bridge", 0), "follows"] == 1
    assert by_cell.loc[("choice", "bridge", 0), "follows"] == 0


def test_the_verb_prints_and_writes_a_page(model, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: model)
    texts = [NEUTRAL]
    interp.jacobian_lens(model, texts, [1], skip=2, out=tmp_path / "lens", progress=False)
    command = ["recall-reasoning", "bridge", "--model", "x", "--template", TEMPLATE]
    command += ["--datasets", str(folder), "--n-swaps", "3", "--layers", "1", "--positions", "0,2"]
    command += ["--jacobian", str(tmp_path / "lens"), "--out", str(tmp_path / "run")]
    assert run([*command, "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert told["prompts"]["answered"] == told["prompts"]["asked"] > 10
    assert {"logit direction", "Jacobian control"} <= {row["condition"] for row in told["swapped"]}
    assert {row["lens"] for row in told["read"]} == {"logit lens", "Jacobian lens"}
    assert {row["position"] for row in told["swapped"]} == {"landmark", "+2w43"}
    assert json.dumps(told)
    assert run(command) == 0  # read back
    assert "swaps, layer chosen" in capsys.readouterr().out
    study = BridgeStudy.load(tmp_path / "run")
    one = study.chosen[study.chosen["condition"] == "bridge"].iloc[[0, 0]]
    both = one.assign(position=["A", "B"], chosen_by=[0.1, 0.5], follows=[0.9, 0.4], n=10)
    assert "at 'B' in layer 1, chosen on other countries, makes 40% of 10 answers follow" in (
        dataclasses.replace(study, chosen=both).report().lead
    )
    for option in (["--n-swaps", "0"], ["--seed", "-1"], ["--template", " "]):
        assert "settings: '" in refused(capsys, *command, *option)
    assert "Answers that follow" in (tmp_path / "run" / "index.html").read_text("utf-8")
