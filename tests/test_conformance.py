"""Every class of causal language model: a dozen of each kind here, the rest marked slow."""

import pytest
from conformance.checks import CHECKS, Outcome, conformance, outcome_of
from conformance.tiny_models import CLASSES, tiny_config, tiny_model, word_tokenizer

import interp
from interp.errors import InterpError, ModelError

DENSE = [
    "apertus",
    "cohere2",
    "exaone4",
    "falcon",
    "glm4",
    "gpt_bigcode",
    "granite",
    "nemotron",
    "opt",
    "phi",
    "stablelm",
    "starcoder2",
]
MIXTURES = [
    "beam",
    "dbrx",
    "deepseek_v3",
    "ernie4_5_moe",
    "glm4_moe",
    "gpt_oss",
    "inkling_text",
    "jetmoe",
    "llama4_text",
    "longcat_flash",
    "minimax",
    "zaya",
]
RECURRENT = [
    "bamba",
    "falcon_h1",
    "falcon_mamba",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "mamba",
    "nemotron_h",
    "qwen3_5_text",
    "qwen3_next",
    "recurrent_gemma",
    "zamba2",
]
NOT_BUILT = ("gemma3n", "gemma4_assistant")
"""Need packages that are not here, or cannot stand alone."""


def checked(model_type: str, *names: str) -> dict[str, Outcome]:
    model = interp.load_model(tiny_model(model_type), tokenizer=word_tokenizer())
    found = [outcome_of(name, lambda name=name: CHECKS[name](model)) for name in names]
    return {one.check: one for one in found}


def wrong(outcomes: dict[str, Outcome], must: tuple[str, ...]) -> list[Outcome]:
    bad = [one for one in outcomes.values() if one.state not in ("equal", "refused")]
    return bad + [outcomes[name] for name in must if outcomes[name].state != "equal"]


@pytest.mark.parametrize("model_type", DENSE)
def test_dense_models_equal_plain_hooks(model_type: str):
    outcomes = checked(model_type, "patch", "heads", "generation")
    assert wrong(outcomes, ("patch", "heads", "generation")) == []


@pytest.mark.parametrize("model_type", MIXTURES)
def test_mixtures_of_experts_equal_plain_hooks(model_type: str):
    must = ("patch", "generation", "experts")
    assert wrong(checked(model_type, *must), must) == []


@pytest.mark.parametrize("model_type", RECURRENT)
def test_recurrent_models_and_hybrids_equal_plain_hooks(model_type: str):
    assert wrong(checked(model_type, "patch", "generation"), ("patch", "generation")) == []


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [name for name in CLASSES if name not in NOT_BUILT])
def test_every_class_is_right_or_refused_in_a_sentence(model_type: str):
    try:
        model = interp.load_model(tiny_model(model_type), tokenizer=word_tokenizer())
    except InterpError as error:
        assert "\n" not in str(error)
        return
    assert wrong({one.check: one for one in conformance(model)}, ()) == []


def test_a_wrong_number_and_a_foreign_error_are_noticed():
    assert outcome_of("x", lambda: (2e-4, "")).state == "differs"
    assert outcome_of("x", lambda: (float("nan"), "")).state == "differs"
    assert outcome_of("x", lambda: {}["no such key"]).state == "fails"


def test_blocks_of_each_kind_are_there():
    assert len(CLASSES) > 150
    config = tiny_config("qwen3_next")
    assert set(config.layer_types) == {"linear_attention", "full_attention"}
    assert sum(p.numel() for p in tiny_model("mixtral").parameters()) < 100_000
    with pytest.raises(ModelError, match="no model type 'mixtrall'. Did you mean 'mixtral'"):
        tiny_config("mixtrall")
