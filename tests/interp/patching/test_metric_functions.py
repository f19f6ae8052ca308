"""A function of the logits as the metric, wherever a metric is named."""

import functools
import importlib
import importlib.metadata
import linecache
import sys

import numpy as np
import pytest
import torch
from conftest import tiny, word_pairs
from torch import Tensor
from whole_answers import pairs as whole_pairs

import interp
from interp.data.pairs import tokenise
from interp.errors import PlanError, RunFolderError
from interp.patching.result import PatchResult


def answer_gap(logits: Tensor, answers: Tensor) -> Tensor:
    chosen = logits.gather(1, answers)
    return chosen[:, 0] - chosen[:, 1]


def entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def certain(logits: Tensor) -> Tensor:
    return (logits.softmax(-1).amax(-1) > 0.5).float()


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_sweep_reads_the_function(family: str, tmp_path):
    model, pairs = tiny(family), word_pairs()
    named = interp.patch(model, pairs)
    given = interp.patch(model, pairs, metric=answer_gap)
    np.testing.assert_allclose(given.values, named.values, atol=1e-5)
    assert (given.metric, given.unit) == ("answer_gap", "answer_gap units")
    assert PatchResult.load(given.save(tmp_path / "run")).metric == "answer_gap"
    unsure = interp.patch(model, pairs, "resid_post", metric=entropy)
    logits = interp.forward(model, pairs).logits
    np.testing.assert_allclose(unsure.clean, entropy(logits), atol=1e-5)
    np.testing.assert_allclose(unsure.values[0, -1, 5], unsure.clean[0], atol=1e-5)


def test_plans_and_ablations_read_the_function(tmp_path):
    model, pairs = tiny("llama"), word_pairs()
    got = interp.sweep_plans(model, pairs, {"cut": interp.Ablate("z", layers=1)}, entropy)
    want = entropy(interp.forward(model, pairs, interp.Ablate("z", layers=1)).logits)
    np.testing.assert_allclose(got[:, 0], want, atol=1e-5)
    assert got.name == "entropy"
    found = interp.ablate(model, pairs, "L1H2", readouts=("logit_diff", answer_gap, entropy))
    assert found.readouts == ("logit_diff", "answer_gap", "entropy")
    for variable in ("baseline", "ablated"):
        np.testing.assert_allclose(
            found.reading("answer_gap")[variable], found.reading("logit_diff")[variable], atol=1e-5
        )
    again = interp.AblationResult.load(found.save(tmp_path / "run"))
    assert again.reading("entropy").attrs["unit"] == "entropy units"
    assert again.table("entropy").equals(found.table("entropy"))
    namespace: dict = {}
    exec("def typed(logits): return logits[:, 0]", namespace)  # no file holds its source
    for call in (interp.patch, interp.ablate):
        option = {"over": "layer", "metric": namespace["typed"]}
        option = (
            option if call is interp.patch else {"sets": "L1H2", "readouts": [*option.values()][1:]}
        )
        with pytest.raises(PlanError, match="'typed' has no source text by which a run folder"):
            call(model, pairs, **option, out=tmp_path / "other")


def test_a_function_without_a_gradient_is_refused_where_one_is_needed():
    model, pairs = tiny("gpt2"), word_pairs()
    with pytest.raises(PlanError, match="'certain' has no gradient"):
        interp.attribute_nodes(model, pairs, "eap", metric=certain)


def test_functions_of_another_form_are_refused_in_a_sentence():
    model, pairs = tiny("gpt2"), word_pairs()

    def kl(logits: Tensor) -> Tensor:
        return logits[:, 0]

    def nothing() -> int:
        return 0

    def three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a

    def all_logits(logits: Tensor) -> Tensor:
        return logits

    def number(logits: Tensor) -> float:
        return 3.0

    def at_temperature(logits: Tensor, *, t: float) -> Tensor:
        return entropy(logits / t)

    for wrong, why in (
        (nothing, "takes 0 arguments;"),
        (three, "takes 3 arguments;"),
        (all_logits, r"returned \(\d+, 97\) for"),
        (number, "returned float for"),
        (at_temperature, "takes 1 arguments and needs t by name; it must take"),
        (torch.logsumexp, "'logsumexp' does not say what it takes; wrap it"),
        (lambda logits: logits[:, 0], "is a lambda .* name the function"),
        (functools.partial(at_temperature, t=2.0), "partial function, .* name the function"),
        (kl, "named 'kl', as a metric of the toolkit"),
        (7, "metric is 7; give one of"),
        (np.ones((2, 2)), r"metric is array.*1.* give one of"),
        ("prop", "Did you mean 'prob'"),
    ):
        with pytest.raises(PlanError, match=why):
            interp.patch(model, pairs, over="layer", metric=wrong)

    def nll(logits: Tensor) -> Tensor:
        return logits[:, 0]

    for readouts in ((nll,), (entropy, entropy)):
        with pytest.raises(PlanError, match="has the name of another"):
            interp.ablate(model, pairs, "L1H2", readouts=readouts)


def test_the_function_sees_only_fp32_logits_and_the_pairs_answers():
    model, seen = tiny("llama"), []

    def spy(logits: Tensor, answers: Tensor) -> Tensor:
        seen.append((logits.dtype, answers))
        return answer_gap(logits, answers)

    interp.patch(model, word_pairs()[:1], over="layer", metric=spy)
    (pair,) = tokenise(model, word_pairs()[:1])[0]
    assert {dtype for dtype, _ in seen} == {torch.float32}
    rows = torch.cat([answers for _, answers in seen])
    assert rows.unique(dim=0).tolist() == [[pair.answer, pair.wrong_answer]]


# --- registered --------------------------------------------------------------------------------


@interp.metric(name="test.odds", unit="nats", reads="answers")
def odds(log_p: Tensor) -> Tensor:
    return log_p[:, 0] - log_p[:, 1]


@interp.metric()
def top_logit(logits: Tensor) -> Tensor:
    return logits.amax(-1)


def test_a_registered_metric_is_known_by_name_and_reads_whole_answers():
    model = tiny("gpt_neox")
    for pairs in (word_pairs(), whole_pairs()):
        wanted = interp.patch(model, pairs, "z", "layer,head")
        for given in (odds, "test.odds", "test_metric_functions:odds"):
            found = interp.patch(model, pairs, "z", "layer,head", metric=given)
            np.testing.assert_allclose(found.values, wanted.values, atol=1e-4)
            assert (found.metric, found.unit) == ("test.odds", "nats")
    found = interp.patch(model, word_pairs(), "z", "layer", metric="top_logit")
    assert found.unit == "top_logit units"
    result = interp.ablate(model, whole_pairs(), "L1H2", readouts=["logit_diff", odds], n_random=0)
    for variable in ("baseline", "ablated"):
        both = (result.reading(name)[variable] for name in ("logit_diff", "test.odds"))
        np.testing.assert_allclose(*both, atol=1e-4)
    assert result.reading("test.odds").attrs["unit"] == "nats"


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-dg", "exact"])
def test_attribution_differentiates_functions_of_logits_and_of_answers(method: str):
    model, pairs = tiny("gpt2"), word_pairs()
    named = interp.attribute_nodes(model, pairs, method)
    for metric, name in ((answer_gap, "answer_gap"), (odds, "test.odds")):
        given = interp.attribute_nodes(model, pairs, method, metric=metric)
        np.testing.assert_allclose(given.values, named.values, atol=1e-4)
        assert given.metric == name


def test_what_is_no_metric_is_refused():
    with pytest.raises(PlanError, match="there is a metric 'test.odds' already, of test_metric"):
        interp.metric(name="test.odds")(entropy)
    with pytest.raises(PlanError, match="named 'prob', as a metric of the toolkit"):
        interp.metric(name="prob")(entropy)
    with pytest.raises(PlanError, match="takes 2 arguments; it must take the log-prob"):
        interp.metric(reads="answers")(answer_gap)
    with pytest.raises(PlanError, match="cannot read 'tokens'; it reads 'logits' or 'answers'"):
        interp.metric(reads="tokens")(entropy)
    for name, why in (
        ("no_such_module:f", "cannot load the metric 'no_such_module:f'"),
        ("test_metric_functions:nothing", "cannot load the metric"),
        ("test_metric_functions:__doc__", "cannot load the metric"),
        ("entropi", "unknown metric 'entropi'. "),
    ):
        with pytest.raises(PlanError, match=why):
            interp.patch(tiny("gpt2"), word_pairs(), metric=name)


def test_a_package_offers_metrics_by_an_entry_point(monkeypatch: pytest.MonkeyPatch):
    offered = importlib.metadata.EntryPoint(
        "surprise", "test_metric_functions:entropy", "interp.metrics"
    )
    monkeypatch.setattr("interp.metrics.entry_points", lambda: {"surprise": offered})
    model = tiny("gpt2")
    found = interp.patch(model, word_pairs(), "z", "layer", metric="surprise")
    wanted = interp.patch(model, word_pairs(), "z", "layer", metric=entropy)
    np.testing.assert_array_equal(found.values, wanted.values)


def test_a_run_folder_knows_a_function_by_its_source(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_metric.py").write_text("def first(logits):\n    return logits[:, 5]\n")
    options = {"site": "z", "over": "layer", "metric": "my_metric:first", "out": tmp_path / "run"}
    once = interp.patch(tiny("gpt2"), word_pairs(), **options)
    again = interp.patch(tiny("gpt2"), word_pairs(), **options)
    np.testing.assert_array_equal(once.values, again.values)
    (tmp_path / "my_metric.py").write_text("def first(logits):\n    return logits[:, 50]\n")
    linecache.checkcache()
    sys.modules.pop("my_metric")
    importlib.invalidate_caches()
    with pytest.raises(RunFolderError, match="metric"):
        interp.patch(tiny("gpt2"), word_pairs(), **options)
