"""Options: the names they offer are those that the modules know, and help says what they take."""

import re
from typing import Any, get_args

import pytest
from conftest import tiny
from test_cli import refused
from typer.main import get_command

import interp
from circuits.cli import ablate, attribute, bench, circuit_verbs, options, steer_verbs
from circuits.cli.app import app, run
from circuits.editing.evaluation.comparison_settings import ComparisonSettings
from circuits.editing.evaluation.sequence_settings import SequenceSettings
from interp.errors import InterpError, PlanError
from interp.model.graph import component_name


def whole() -> Any:
    """The command line with every verb loaded."""
    command = get_command(app)
    for name in command.list_commands(None):
        command.load(name)
    return command


def verbs(command: Any = None, path: tuple[str, ...] = ()):
    """Every verb that does something, with its command."""
    command = command or whole()
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(path), command
    for name, one in inner.items():
        yield from verbs(one, (*path, name))


VERBS = dict(verbs())


def test_the_names_offered_are_those_that_are_known():
    from circuits.discovery import ABLATIONS
    from circuits.emotion.texts import EMOTIONS
    from interp.ablation.readouts import READOUTS
    from interp.attribution.attribute import EDGE_METHODS, NODE_METHODS, UNIT_METHODS
    from interp.bench.baselines import BASELINES
    from interp.interventions.contrast_pairs import Method
    from interp.loading.load import DTYPES
    from interp.loading.quantised import QUANTISATIONS

    assert set(options.METRICS) == set(interp.METRICS)
    assert set(options.DTYPES) == set(DTYPES)
    assert options.QUANTISATIONS == QUANTISATIONS
    assert set(options.EMOTIONS) == set(EMOTIONS)
    assert get_args(Method) == steer_verbs.METHODS
    assert set(ablate.READOUTS) == set(READOUTS)
    assert set(attribute.METHODS) == {*EDGE_METHODS, *NODE_METHODS, *UNIT_METHODS}
    assert set(circuit_verbs.METHODS) == set(EDGE_METHODS)
    assert set(circuit_verbs.CUT) == set(ABLATIONS)
    assert set(bench.BASELINES) == set(BASELINES)


def test_every_listed_verb_is_loaded_with_its_own_help():
    for name, command in whole().commands.items():
        assert command.name == name
        assert command.help, name


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_described_by_a_full_phrase(verb: str):
    for option in VERBS[verb].params:
        if option.name != "help":
            says = option.help or ""
            assert re.match(r"[A-Za-z]", says), option.name
            assert says.endswith(".") and len(says.split()) >= 3, (option.name, says)
            assert not says.startswith("Of "), (option.name, says)


@pytest.mark.parametrize(
    ("verb", "settings"),
    [("edit evaluate", ComparisonSettings), ("edit sequence", SequenceSettings)],
)
def test_both_languages_make_the_same_run_folder_by_default(verb: str, settings: Any):
    given = {option.name: option.default for option in VERBS[verb].params}
    for name, value in settings.model_validate({}).model_dump().items():
        own = given.get({"n_asked": "asked", "n_controls": "controls"}.get(name, name), value)
        listed = ",".join(map(str, value)) if isinstance(value, tuple) else value
        assert (own or None) in (value or None, listed), name


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_with_shipped_data(verb: str):
    says = VERBS[verb].epilog or ""
    assert re.search(rf"Examples?:\s+`interp {verb}\b", says), says
    assert "datasets/" not in says


def test_every_verb_with_a_run_folder_can_replace_another_run():
    for verb in (
        *("patch", "attribute", "ablate", "circuit discover", "circuit evaluate"),
        *(
            "edit evaluate",
            "edit sequence",
            "edit place",
            "query-value find",
            "emotion elicit",
            "emotion circuit",
        ),
        *("emotion test", "emotion evaluate", "emotion run", "emotion vectors"),
        *("emotion map", "emotion tokens", "emotion choices"),
        *("recall-reasoning run", "recall-reasoning replicate"),
    ):
        assert {"out", "force"} <= {option.name for option in VERBS[verb].params}, verb


def test_choices_are_shown_and_others_are_refused(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["patch", "--help"]) == 0
    assert "[denoise|noise]" in capsys.readouterr().out
    line = refused(capsys, "patch", "--model", "x", "--pairs", "y", "--metric", "logitdif")
    assert line.startswith("error: unknown metric 'logitdif'. Did you mean 'logit_diff'?")
    line = refused(capsys, "ablate", "--model", "x", "--pairs", "y", "--readouts", "prob,logprop")
    assert line.startswith("error: unknown readout 'logprop'. Did you mean 'logprob' or")


@pytest.mark.parametrize("verb", ["ablate", "circuit evaluate", "recall-reasoning build"])
def test_a_negative_seed_is_refused(verb: str, capsys: pytest.CaptureFixture):
    assert run([*verb.split(), "--seed", "-1"]) == 2
    assert "'--seed': Input should be greater" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"interp {interp.__version__}\n"


@pytest.mark.parametrize(
    ("text", "layers"), [("3", [3]), ("0,4,8-11", [0, 4, 8, 9, 10, 11]), (None, None)]
)
def test_numbers_are_numbers_and_ranges(text: str | None, layers: list[int] | None):
    assert options.numbers("--layers", text) == layers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1-x", "9" * 5000])
def test_other_numbers_are_refused(text: str):
    with pytest.raises(InterpError, match="write numbers and ranges, such as 0,4,8-11") as refusal:
        options.numbers("--layers", text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("text", ["7-3", "0-999999999"])
def test_a_range_that_is_none_is_refused(text: str):
    with pytest.raises(InterpError, match="is not a usable range"):
        options.numbers("--layers", text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("L23H4", "a23.h4"), ("L5MLP", "m5"), ("L5N17", "m5.n17"), ("a1.h2", "a1.h2"), ("L5", "L5")],
)
def test_components_go_by_their_names_in_papers(text: str, name: str):
    assert component_name(text) == name


def test_a_head_of_that_name_is_ablated_and_cut():
    from interp.model.components import Component, components_of
    from interp.model.graph import Graph

    model = tiny("llama")
    assert components_of(model, "L2H3,m1,l1n17") == [
        Component(2, "head", 3), Component(1, "mlp"), Component(1, "neuron", 17),
    ]  # fmt: skip
    with pytest.raises(PlanError, match="'a2.h3' is named twice"):
        components_of(model, "L2H3,a2.h3")
    with pytest.raises(PlanError, match="no component 'a9.h2': .* has layers 0 to 2"):
        components_of(model, "L9H2")
    graph = Graph.of(model.arch)
    assert graph.node("L2H3") == graph.node("a2.h3")
    assert graph.edge("L0H3->L1H2<q>") == graph.edge("a0.h3->a1.h2<q>")
