"""`interp edit`: apply, undo, list, export, evaluate, place; and what they refuse."""

import functools
import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_hf
from planted_cases import PLAIN, planted, sharp, single_edit_files
from test_cli import last_json, refused, saved

import interp
from circuits.cli import edit_evaluation, edit_verbs
from circuits.cli.app import run
from circuits.editing import layer_search
from circuits.editing.evaluation import Ask, conditions, generations
from circuits.editing.evaluation.demonstrations import NAMED
from circuits.editing.evaluation.metric_definitions import ABILITIES, DEFINITIONS
from circuits.editing.layer_selection import LayerSelection
from circuits.editing.ledger_folder import LedgerFolder

pytestmark = pytest.mark.usefixtures("cache")

# the subject ends the prompt, so that what is written at its last token is read at once
FACT = ["--prompt", "w1 w2 {}", "--subject", "w10 w11", "--target", "w40"]
OTHER = ["--prompt", "w3 {}", "--subject", "w13", "--target", "w41"]
ROW = {"prompt": "w1 w2 {}", "subject": "w10 w11", "target": "w40"}
KEPT = {"text": "w5 w12", "subject": "w12", "relation": "r"}
EDIT_KEYS = {"run", "state", "edit", "model", "method", "facts", "changed", "p", "after", "asked"}
METHOD_KEYS = {
    "n",
    "multi_hop",
    "multi_hop_ci",
    "control_two_hop",
    "net_multi_hop",
    "efficacy",
    "paraphrase",
    "specificity",
    "seconds_per_edit",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, and cases that the first one knows."""
    folder = tmp_path_factory.mktemp("editing")
    for family in ("llama", "olmo2"):
        saved(folder / family, sharp(family).hf)
    model = interp.load_model(str(folder / "llama"))
    (folder / "cases.json").write_text(json.dumps(planted(model, 6)))
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[interp.Model]:
    """The models that the command line loads, each anew, as in a process of its own."""
    models: list[interp.Model] = []
    load = interp.load_model

    def keep(*given, **options):
        models.append(load(*given, **options))
        return models[-1]

    monkeypatch.setattr(interp, "load_model", keep)
    return models


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions without demonstrations, of which the word tokenizer knows no word."""
    monkeypatch.setitem(NAMED, "direct", PLAIN)
    own = functools.partial(layer_search.select_layers, shots=PLAIN)
    monkeypatch.setattr(layer_search, "select_layers", own)


def on(folder: Path, ledger: Path, model: str = "llama") -> list[str]:
    return [
        *("--model", str(folder / model), "--ledger", str(ledger)),
        *("--method", "rome", "--n-tokens", "600"),
    ]


def said(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    """Run a verb with --json, and return what it printed."""
    capsys.readouterr()
    assert run(["edit", *arguments, "--json"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 1
    return last_json(text)


def untouched(model: interp.Model, path: Path) -> bool:
    """Whether a loaded model has the weights of its folder."""
    own = interp.load_model(str(path)).hf.state_dict()
    return all(torch.equal(value, own[name]) for name, value in model.hf.state_dict().items())


def continued(model: interp.Model, text: str) -> str:
    return generations(model, [Ask(0, text, n_tokens=1)], [()])[0]


# --- apply, list, export, undo -----------------------------------------------------------------


def test_edits_pile_up_are_exported_and_taken_out(folder: Path, tmp_path: Path, capsys, loaded):
    ledger, out = tmp_path / "edits", tmp_path / "edited"
    asks = ["--ask", "w1 w2 w10 w11", "--ask", "w50 w51 w52"]
    first = said(capsys, "apply", *on(folder, ledger), *FACT, *asks)
    assert set(first) >= EDIT_KEYS
    assert first["run"] == str(ledger / "0001") and first["state"] == "applied"
    assert first["facts"] == ["w1 w2 w10 w11 w40"] and first["method"] == "rome"
    assert first["changed"] == ["blocks.1.mlp_post"] and first["p"][0][0] >= 0.5
    assert first["answers"][0].startswith("w40")
    assert [set(one) for one in first["asked"]] == [{"question", "before", "after"}] * 2
    assert [one["question"] for one in first["asked"]] == ["w1 w2 w10 w11", "w50 w51 w52"]

    second = said(capsys, "apply", *on(folder, ledger), *OTHER)
    assert second["after"] == [first["edit"]] and second["asked"] == []
    listed = said(capsys, "list", "--ledger", str(ledger))
    assert [one["edit"] for one in listed["edits"]] == [first["edit"], second["edit"]]
    model = ["--model", str(folder / "llama"), "--ledger", str(ledger)]
    asked = said(capsys, "ask", *model, *asks)
    assert asked["edits"] == [first["edit"], second["edit"]]
    assert [one["before"] for one in asked["asked"]] == [one["before"] for one in first["asked"]]
    assert [one["question"] for one in asked["asked"]] == ["w1 w2 w10 w11", "w50 w51 w52"]
    assert run(["edit", "ask", *model, *asks]) == 0
    text = capsys.readouterr().out
    assert "with 2 edits of" in text and repr(asked["asked"][0]["after"]) in text
    exported = said(capsys, "export", *model, "--out", str(out))
    assert exported == {"model": str(out), "edits": [first["edit"], second["edit"]]}
    assert len({at.stat().st_mode for at in out.iterdir()}) == 1  # all as the umask has it
    edited = interp.load_model(str(out))
    assert continued(edited, "w1 w2 w10 w11") == "w40" and continued(edited, "w3 w13") == "w41"
    assert "exists" in refused(capsys, "edit", "export", *model, "--out", str(out))

    line = refused(capsys, "edit", "undo", "--ledger", str(ledger), "--edit", first["edit"])
    assert "was made on top of" in line
    undone = said(capsys, "undo", "--ledger", str(ledger))
    assert (undone["edit"], undone["state"]) == (second["edit"], "undone")
    assert said(capsys, "undo", "--ledger", str(ledger))["edit"] == first["edit"]
    assert said(capsys, "list", "--ledger", str(ledger))["edits"] == []
    assert "which holds none" in refused(capsys, "edit", "undo", "--ledger", str(ledger))


def test_facts_of_a_file_are_written_together_and_shown(folder: Path, tmp_path: Path, capsys):
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([ROW, {"prompt": "w3 {}", "subject": "w13", "target": "w41"}]))
    ledger = tmp_path / "edits"
    command = ["edit", "apply", *on(folder, ledger), "--facts", str(file), "--ask", "w5 w6"]
    command[command.index("rome")] = "ft"
    assert run(command) == 0
    out = capsys.readouterr().out
    assert out.count("applied ") == 2 and "w5 w6 before: " in out
    assert "w1 w2 w10 w11 w40: now 'w40 " in out and "w3 w13 w41: now 'w41 " in out
    assert run(["edit", "list", "--ledger", str(ledger)]) == 0
    assert "w1 w2 w10 w11 w40" in " ".join(capsys.readouterr().out.split())


def test_how_facts_go_on_is_read_with_the_edit_whatever_is_asked(
    folder: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr(edit_verbs, "_asked", lambda *given: [])
    made = said(capsys, "apply", *on(folder, tmp_path / "edits"), *FACT)
    assert made["asked"] == [] and made["answers"][0].startswith("w40")


# --- the card ----------------------------------------------------------------------------------


def test_a_fact_in_plain_words_and_its_card(folder: Path, tmp_path: Path, capsys, loaded):
    ledger, out = tmp_path / "edits", tmp_path / "card"
    first = said(capsys, "apply", *on(folder, ledger), "--fact", "w1 w2 [w10 w11] [w40]")
    assert first["facts"] == ["w1 w2 w10 w11 w40"]
    second = said(capsys, "apply", *on(folder, ledger), *OTHER)
    command = ["card", str(ledger), "--model", str(folder / "llama"), "--n", "1"]
    last = said(capsys, *command, "--old", "w43", "--out", str(out))
    assert (last["run"], last["edit"], last["old"]) == (str(out), second["edit"], ["w43"])
    efficacy = last["metrics"]["efficacy"]
    assert (efficacy["n"], efficacy["unedited"], efficacy["edited"]) == (1, 0.0, 1.0)
    assert set(last["metrics"]) == {*DEFINITIONS, *ABILITIES}
    assert last["verdict"].startswith("Is the fact written?") and "left_out" in last
    assert (out / "index.html").is_file() and untouched(
        interp.load_model(str(folder / "llama")), folder / "llama"
    )
    n = len(loaded)
    assert said(capsys, *command, "--old", "w43", "--out", str(out)) == last  # not measured twice
    assert len(loaded) == n + 1
    by_id = said(capsys, *command, "--old", "w42", "--edit", first["edit"])
    folder_of = ["card", str(ledger / "0001"), *command[2:], "--old", "w42"]
    assert by_id["edit"] == first["edit"]
    assert said(capsys, *folder_of)["metrics"] == by_id["metrics"]
    assert run(["edit", *command, "--old", "w43"]) == 0
    text = capsys.readouterr().out
    assert "efficacy" in text and "cannot tell" in text and "left out:" in text


def test_a_card_of_what_is_not_there_is_refused(folder: Path, tmp_path: Path, capsys, loaded):
    ledger = tmp_path / "edits"
    command = ["edit", "card", str(ledger), "--model", str(folder / "llama")]
    assert "which holds none" in refused(capsys, *command) and not loaded
    said(capsys, "apply", *on(folder, ledger), *FACT)
    assert "no edit ffff" in refused(capsys, *command, "--edit", "ffff")
    one = ["edit", "card", str(ledger / "0001"), *command[3:], "--edit", "ffff"]
    assert "not ffff" in refused(capsys, *one)
    for names in (["a", "b"], [""]):
        old = [part for name in names for part in ("--old", name)]
        assert f"1 facts need as many old objects by name, not {names}" in refused(
            capsys, *command, *old
        )


def test_a_target_out_of_reach_is_refused(tmp_path: Path, capsys, loaded):
    saved(tmp_path / "flat", tiny_hf("llama"))  # its logits are too small to be sure of a token
    ledger = tmp_path / "edits"
    line = refused(capsys, "edit", "apply", *on(tmp_path, ledger, "flat"), *FACT)
    assert "reached only p" in line and "for 'w40' after 'w1 w2 w10 w11'" in line
    assert untouched(loaded[-1], tmp_path / "flat") and not ledger.exists()


# --- what apply refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--prompt", "{} {}", "--subject", "w3", "--target", "w4"], "has 2 slots"),
        (["--prompt", "w1 {}", "--subject", "w3", "--target", " w4"], "without spaces"),
        (["--prompt", "w1 {} ", "--subject", "w3", "--target", "w4"], "without spaces"),
        (["--prompt", "w1 {}", "--target", "w4"], "needs all three of --prompt, --subject"),
        ([], "give one of --fact, --facts, or --prompt, --subject and --target"),
        ([*FACT, "--facts", "x.json"], "give one of --fact, --facts"),
        ([*FACT, "--fact", "w1 [w2] w3 [w4]"], "give one of --fact, --facts"),
        (["--fact", "w1 w2 is w3"], "write them in square brackets"),
        ([*FACT, "--method", "none"], "unknown method 'none'"),
    ],
)
def test_a_mistaken_command_is_refused_before_a_model_is_loaded(
    folder: Path, tmp_path: Path, capsys, loaded, given: list, why: str
):
    ledger = tmp_path / "edits"
    assert why in refused(capsys, "edit", "apply", *on(folder, ledger), *given)
    assert not loaded and not ledger.exists()


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (
            [ROW, ROW | {"target": "w50"}],
            "is to become both 'w40' and 'w50' ({0}, row 1, {0}, row 2)",
        ),
        ([ROW, {"prompt": "w1 {}"}], "{0}, row 2: 'subject' is missing"),
        ([ROW | {"prompt": "w1"}], "{0}, row 1: the prompt 'w1' has 0 slots"),
        ([], "{0} holds no facts; give at least one"),
        ({"facts": 1}, "{0} holds a dict, not a list of facts"),
    ],
)
def test_a_bad_file_of_facts_is_refused_by_row(
    folder: Path, tmp_path: Path, capsys, loaded, rows, why: str
):
    file, ledger = tmp_path / "facts.json", tmp_path / "edits"
    file.write_text(json.dumps(rows))
    line = refused(capsys, "edit", "apply", *on(folder, ledger), "--facts", str(file))
    assert why.format(file) in line
    assert not loaded and not ledger.exists()


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([KEPT, {"text": "w5 w12"}], "{0}, row 2: 'subject' is missing"),
        ([KEPT | {"subject": "w6"}], "{0}, row 1: the question 'w5 w12' does not contain its"),
        ([], "{0} holds no questions; give at least one"),
    ],
)
def test_a_bad_file_of_questions_to_keep_is_refused_by_row(
    folder: Path, tmp_path: Path, capsys, loaded, rows, why: str
):
    file, ledger = tmp_path / "kept.json", tmp_path / "edits"
    file.write_text(json.dumps(rows))
    line = refused(capsys, "edit", "apply", *on(folder, ledger), *FACT, "--kept", str(file))
    assert why.format(file) in line
    assert not loaded and not ledger.exists()


def test_questions_to_keep_reach_the_edit(folder: Path, tmp_path: Path, capsys):
    file = tmp_path / "kept.json"
    file.write_text(json.dumps([KEPT]))
    free, bound = tmp_path / "free", tmp_path / "bound"
    line = refused(capsys, "edit", "apply", *on(folder, free), *FACT, "--kept", str(file))
    assert "rome preserves no questions" in line and not free.exists()
    informed = ["--method", "rome+"]
    said(capsys, "apply", *on(folder, free), *FACT, *informed)
    said(capsys, "apply", *on(folder, bound), *FACT, *informed, "--kept", str(file))
    ids = [LedgerFolder.load(ledger).edits[0].id for ledger in (free, bound)]
    assert ids[0] != ids[1]


def test_ace_without_layers_of_its_model_is_refused(folder: Path, tmp_path: Path, capsys):
    ledger, model = tmp_path / "edits", interp.load_model(str(folder / "llama"))
    ace = [*on(folder, ledger), *FACT, "--method", "ace"]
    line = refused(capsys, "edit", "apply", *ace)
    assert "the package has no layers" in line and "interp edit place" in line
    same = model.hash_in(torch.bfloat16)
    chosen = LayerSelection((0,), (2,), "test", weights_hash=same)
    layers = chosen.save(tmp_path / "layers")
    olmo = [*on(folder, ledger, "olmo2"), *FACT, "--method", "ace", "--placement", str(layers)]
    assert "other weights; choose those of" in refused(capsys, "edit", "apply", *olmo)
    (layers / "manifest.json").write_text("{")
    assert "is damaged" in refused(capsys, "edit", "apply", *ace, "--placement", str(layers))
    assert not ledger.exists()


def test_edits_of_another_model_and_damaged_ones_are_refused(
    folder: Path, tmp_path: Path, capsys, loaded
):
    ledger = tmp_path / "edits"
    said(capsys, "apply", *on(folder, ledger), *FACT)
    line = refused(capsys, "edit", "apply", *on(folder, ledger, "olmo2"), *OTHER)
    assert "was made for" in line and "make it anew on this model" in line
    assert untouched(loaded[-1], folder / "olmo2")
    (ledger / "0001" / "arrays.safetensors").write_bytes(b"half")
    before = len(loaded)
    line = refused(capsys, "edit", "apply", *on(folder, ledger), *OTHER)
    assert f"delete {ledger / '0001'} and make its edit again: " in line
    assert "arrays.safetensors is damaged" in line
    assert len(loaded) == before
    assert "damaged" in refused(capsys, "edit", "list", "--ledger", str(ledger))
    (ledger / "0001" / "arrays.safetensors").unlink()
    assert "is missing" in refused(capsys, "edit", "undo", "--ledger", str(ledger))
    assert [at.name for at in ledger.iterdir()] == ["0001"]
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refused(capsys, "edit", "list", "--ledger", str(file))


def test_one_edit_and_a_folder_that_is_not_there_are_no_ledgers(folder: Path, tmp_path, capsys):
    ledger, missing = tmp_path / "edits", tmp_path / "edit"
    model = ["--model", str(folder / "llama")]
    single = said(capsys, "apply", *on(folder, ledger), *FACT)["run"]
    for verb in (["apply", *FACT], ["ask", "--ask", "w1"], ["export", "--out", str(missing)]):
        line = refused(capsys, "edit", *verb, *model, "--ledger", single)
        assert f"is one run, not a ledger of edits; give {ledger}." in line
    for verb in (["ask", *model, "--ask", "w1"], ["list"], ["undo"]):
        assert run(["edit", *verb, "--ledger", str(missing)]) == 2
        assert "does not exist" in capsys.readouterr().err
    assert not missing.exists() and [at.name for at in ledger.iterdir()] == ["0001"]


# --- evaluate and place ------------------------------------------------------------------------


def evaluation(folder: Path, *more: str) -> list[str]:
    return [
        *("evaluate", "--model", str(folder / "llama"), "--cases", str(folder / "cases.json")),
        *("--methods", "rome,none,prompt-only", "--n-tokens", "600", *more),
    ]


def test_methods_are_evaluated_and_not_done_twice(
    folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, plain
):
    out = tmp_path / "run"
    command = evaluation(folder, "--out", str(out), "--limit", "8")
    report = said(capsys, *command)
    assert set(report) >= {"run", "model", "n_cases", "n_filtered", "excluded", "methods"}
    assert (report["n_cases"], report["n_filtered"], report["run"]) == (12, 8, str(out))
    assert list(report["methods"]) == ["rome", "none", "prompt-only"]
    for line in report["methods"].values():
        assert set(line) >= METHOD_KEYS and line["n"] == 8
        assert 0 <= line["multi_hop_strict"] <= line["multi_hop"]
    none = report["methods"]["none"]
    assert none["specificity"] == none["control_two_hop"] == 1
    assert none["multi_hop"] == none["net_multi_hop"]
    assert (out / "index.html").is_file()

    monkeypatch.setattr(conditions, "_evaluated", lambda *_: pytest.fail("measured again"))
    assert said(capsys, *command)["methods"] == report["methods"]
    line = refused(capsys, "edit", *command, "--shots", "reasoned")
    assert "holds an edit evaluate run with other shots; choose" in line
    line = refused(capsys, "edit", *evaluation(folder, "--out", str(out), "--limit", "7"))
    assert "run with limit=8 (this one: 7); choose another" in line


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--methods", "rome,prompt"], "unknown method 'prompt'. Did you mean 'prompt-only'"),
        (
            ["--shots", "cot"],
            "'cot' is not a file of demonstrations, and not one of direct and reason",
        ),
        (["--seeds", "0,a"], "--seeds '0,a': write numbers and ranges"),
        (["--methods", ","], "options: 'methods' is []; it must have at least 1 item."),
        (["--split", "test"], "no record of"),
    ],
)
def test_a_mistaken_evaluation_is_refused(
    folder: Path, tmp_path: Path, capsys, loaded, more: list, why: str
):
    command = ["edit", *evaluation(folder, "--out", str(tmp_path / "run")), *more]
    assert why in refused(capsys, *command)
    assert not loaded and not list(tmp_path.iterdir())


def test_figures_of_a_comparison_are_printed(folder: Path, tmp_path: Path, capsys, plain):
    text = tmp_path / "neutral.txt"
    text.write_text(" ".join(f"w{i % 60}" for i in range(200)))
    more = ("--sequential", "--neutral", str(text), "--methods", "rome,none", "--limit", "3")
    command = evaluation(folder, *more, "--out", str(tmp_path / "run"))
    report = said(capsys, *command)
    left_out = report["excluded"]["contaminated by another case's edit"]
    assert left_out > 0 and report["n_filtered"] == 3
    assert run(["edit", *command]) == 0  # read back
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    shown = {cells[1].strip(): [cell.strip() for cell in cells[2:4]] for cells in lines}
    methods = report["methods"].values()
    for name in ("multi_hop", "kl", "fluency"):
        assert shown[name] == [f"{line[name]:.3g}" for line in methods]
    assert shown["p_reached_min"][1] == "–" and "kl_ci" not in shown


def test_a_figure_that_the_first_method_lacks_is_printed():
    """Of RippleEdits, the published ones: only edits that succeed have them."""
    methods = {"none": {"efficacy": 0.0}, "rome": {"efficacy": 1.0, "compositionality_1": 0.5}}
    table = edit_evaluation._by_metric(methods, {}).set_index("figure")
    assert table["none"].to_dict() == {"efficacy": "0", "compositionality_1": "–"}
    assert table["rome"].to_dict() == {"efficacy": "1", "compositionality_1": "0.5"}


def test_another_benchmark_is_recognised_and_measured(folder: Path, tmp_path: Path, capsys):
    file = single_edit_files(interp.load_model(str(folder / "llama")), tmp_path)["zsre"]
    command = [*evaluation(folder, "--limit", "2"), "--cases", str(file), "--methods", "ft,none"]
    report = said(capsys, *command)
    assert report["format"] == "zsre" and report["n_filtered"] == 2
    assert report["methods"]["ft"]["efficacy"] == 1 > report["methods"]["none"]["efficacy"] == 0
    assert "is missing" in refused(capsys, "edit", *command, "--format", "counterfact")
    assert "unknown format 'x'" in refused(capsys, "edit", *command, "--format", "x")


def test_layers_are_placed_and_used(folder: Path, tmp_path: Path, capsys, plain):
    out = tmp_path / "layers" / "llama"
    model = ["--model", str(folder / "llama"), "--cases", str(folder / "cases.json")]
    report = said(capsys, "place", *model, "--out", str(out))
    assert report["run"] == str(out)
    placed = report["placement"]
    assert placed["until"] == 0.3 and placed["threshold"] >= 0.1
    assert placed["query"] == [0] and placed["value"] == [1, 2]
    assert set(placed["separation"]) == {"1", "2"}
    assert all(0 <= value <= 1 for value in placed["separation"].values())
    assert "separation 0." in placed["by"]
    stored = LayerSelection.load(out)
    assert stored.summary() == placed and len(stored.covariances) == 3
    command = ["evaluate", *model, "--methods", "ace", "--placement", str(out), "--limit", "4"]
    found = said(capsys, *command, "--n-tokens", "600")
    assert found["placement"] == placed and found["methods"]["ace"]["n"] == 4
    given = ["--threshold", "0.35", "--direct-threshold", "0.2", "--until", "0.6"]
    by_hand = said(capsys, "place", *model, *given, "--out", str(tmp_path / "by hand"))["placement"]
    assert by_hand == placed | {"threshold": 0.35, "direct_threshold": 0.2, "until": 0.6}
    wrong = ["--threshold", "0.01", "--out", str(tmp_path / "none")]
    assert run(["edit", "place", *model, *wrong]) == 2 and not (tmp_path / "none").exists()
