"""Models in 16 bits: every conformance check holds, and what overflows is refused."""

import numpy as np
import pytest
import torch
from conftest import tiny_hf, word_pairs, word_tokenizer

import interp
from interp.errors import ModelError
from interp.model.model import Model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "qwen2", "phi3"])
def test_every_check_holds_in_16_bits(family: str, dtype: str):
    model = interp.load_model(tiny_hf(family), word_tokenizer(), dtype=dtype)
    failed = [check for check in interp.validate(model) if not check.holds]
    assert not failed
    assert str(model.dtype) == f"torch.{dtype}"


@pytest.mark.parametrize("name", ["smollm", pytest.param("gemma", marks=pytest.mark.slow)])
def test_the_built_in_models_hold_in_bf16(name: str, request: pytest.FixtureRequest):
    whole: Model = request.getfixturevalue(name)
    model = interp.load_model(whole.name, dtype="bfloat16")
    failed = [check for check in interp.validate(model) if not check.holds]
    assert not failed
    pairs = interp.load_pairs("country_capitals")[:4]
    one, other = (
        interp.patch(m, pairs, "resid_pre", ("layer", "span"), layers=[5, 15], progress=False)
        for m in (whole, model)
    )
    gap = float(abs(one.clean - one.corrupt).mean())
    assert float(abs(one.values - other.values).max()) < 0.05 * gap
    a, b = (
        interp.attribute(m, pairs[:1], "mlp_post", progress=False).values for m in (whole, model)
    )
    agreement = torch.corrcoef(torch.tensor(np.stack([a.values.ravel(), b.values.ravel()])))[0, 1]
    assert float(agreement) > 0.98


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
def test_a_model_that_float16_is_too_narrow_for_is_refused():
    hf = tiny_hf("llama")
    model = interp.load_model(hf, word_tokenizer(), dtype="float16")
    with torch.no_grad():
        hf.model.layers[0].mlp.down_proj.weight.mul_(1e5)
    with pytest.raises(ModelError, match="overflows in float16"):
        interp.patch(model, word_pairs(), "resid_pre")


@pytest.mark.slow
def test_gemma_overflows_in_float16():
    with pytest.raises(ModelError, match="not finite in torch.float16, which is too narrow"):
        interp.load_model("gemma-3-270m", dtype="float16")
