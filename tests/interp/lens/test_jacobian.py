"""The Jacobian lens: equal to plain loops, exact on a linear rest, ending in the model itself."""

import numpy as np
import pytest
import torch
from conformance.tiny_models import word_tokenizer
from conftest import tiny, tiny_hf
from tokenizers.processors import TemplateProcessing
from torch import Tensor

import interp
from circuits.cli.app import run
from interp.errors import DataError, PlanError
from interp.lens import JacobianLens
from interp.model.model import Model

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w7 w8 w9 w3 w2", "w4"]
SKIP = 2


def by_loop(model: Model, text: str, depth: int) -> Tensor:
    """One passage's map by plain backward passes, one feature and target position at a time."""
    ids = torch.tensor([model.encode(text)])
    seen: list[Tensor] = []

    def before(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        seen.append(x.detach().requires_grad_(True))
        return (
            ((seen[-1], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": seen[0]})
        )

    def after(_, args, out):
        seen.append(out[0] if isinstance(out, tuple) else out)

    hooks = [
        model.blocks[depth].register_forward_pre_hook(before, with_kwargs=True),
        model.blocks[-1].register_forward_hook(after),
    ]
    model.hf(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    source, final = seen
    n, d = final.shape[1:]
    found = torch.zeros(d, d)
    for feature in range(d):
        for target in range(SKIP, n):
            (slope,) = torch.autograd.grad(final[0, target, feature], source, retain_graph=True)
            found[feature] += slope[0, SKIP:].mean(0)
    return found


def test_the_maps_are_the_means_of_plain_backward_passes(tiny_model: Model):
    fitted = interp.jacobian_lens(tiny_model, TEXTS, skip=SKIP, progress=False)
    n_layers, d = tiny_model.arch.n_layers, tiny_model.arch.d_model
    assert fitted.depths == tuple(range(n_layers))
    assert fitted.jacobians.shape == (n_layers, d, d)
    assert fitted.n_passages == 2 and fitted.backward_passes == 2 * d
    assert fitted.tokens_left_out == len(tiny_model.encode("w4"))
    for depth in (0, n_layers - 1):
        each = torch.stack([by_loop(tiny_model, text, depth) for text in TEXTS[:2]])
        want = each.mean(0)
        torch.testing.assert_close(fitted.jacobians[depth], want, atol=2e-4, rtol=2e-3)
        error = (each.var(0).sum() / 2).sqrt() / want.norm()
        assert fitted.error[depth] == pytest.approx(float(error), rel=1e-2)


def test_reading_is_the_logit_lens_of_the_mapped_stream_and_ends_in_the_model(tiny_model: Model):
    fitted = interp.jacobian_lens(tiny_model, TEXTS[0], [1], skip=SKIP, progress=False)
    plain = interp.logit_lens(tiny_model, TEXTS[0], tokens=[5, 9])
    found = interp.logit_lens(tiny_model, TEXTS[0], tokens=[5, 9], jacobian=fitted)
    assert found.lens == "Jacobian lens" and repr(found).startswith("LensReading(Jacobian lens")
    n_layers = tiny_model.arch.n_layers
    assert found.of_tokens is not None and plain.of_tokens is not None
    assert found.of_tokens["depth"].values.tolist() == [1, n_layers]
    np.testing.assert_array_equal(found.of_tokens.log_p[:, -1], plain.of_tokens.log_p[:, -1])
    stream = interp.activations(tiny_model, TEXTS[0], "resid_pre", 1)[1][0]
    log_p = tiny_model.logits(stream @ fitted.jacobians[0].T).log_softmax(-1)
    np.testing.assert_allclose(found.of_tokens.log_p[0, 0], log_p[:, [5, 9]], atol=1e-4)
    assert found.plot().layout.title.text.startswith("Jacobian lens on")


def test_where_the_rest_is_linear_the_lens_is_the_model():
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    n, d = model.arch.n_layers, model.arch.d_model
    linear = torch.randn(n, d, d, generator=torch.Generator().manual_seed(0)) / d**0.5
    for block, matrix in zip(model.blocks, linear, strict=True):
        block.forward = lambda hidden_states, m=matrix, **_: hidden_states + hidden_states @ m.T
    fitted = interp.jacobian_lens(model, TEXTS[:2], skip=0, progress=False)
    rest = torch.eye(d)
    for depth in reversed(range(n)):
        rest = rest @ (torch.eye(d) + linear[depth])
        torch.testing.assert_close(fitted.jacobians[depth], rest, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(fitted.error, 0, atol=1e-3)
    found = interp.logit_lens(model, TEXTS[0], tokens=[5], jacobian=fitted).of_tokens
    assert found is not None
    for depth in range(n):
        np.testing.assert_allclose(found.log_p[0, depth], found.log_p[0, -1], atol=1e-3)


def test_the_map_is_kept_in_a_folder_for_these_weights_alone(tmp_path):
    model, out = tiny("llama"), tmp_path / "lens"
    first = interp.jacobian_lens(model, TEXTS, skip=SKIP, out=out, progress=False)
    again = interp.jacobian_lens(model, TEXTS, skip=SKIP, out=out, progress=False)
    assert torch.equal(first.jacobians, again.jacobians) and again.seconds == first.seconds
    assert JacobianLens.load(out).weights.startswith("blake2b:")
    assert (out / "index.html").is_file()
    with pytest.raises(PlanError, match="fitted on other weights"):
        interp.logit_lens(tiny("qwen2"), TEXTS, jacobian=first)
    other = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    assert first.checked(other) == first.depths
    other.hf.config.rope_parameters["rope_theta"] = 777.0
    with pytest.raises(PlanError, match="another config"):
        first.checked(other)


def test_what_cannot_be_fitted_is_refused():
    model = tiny("llama")
    with pytest.raises(DataError, match="no text is longer than 16 tokens"):
        interp.jacobian_lens(model, TEXTS, progress=False)
    with pytest.raises(PlanError, match="layer 3 is out of range"):
        interp.jacobian_lens(model, TEXTS, [3], skip=SKIP, progress=False)
    with pytest.raises(PlanError, match="leaves no position"):
        interp.jacobian_lens(model, TEXTS, skip=8, n_tokens=8, progress=False)
    assert model.hf.lm_head.weight.grad is None


def test_so_many_tokens_of_the_text_are_used_beside_those_that_begin_it(tmp_path, monkeypatch):
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", None, [("<s>", 1)])
    model = interp.load_model(tiny_hf("llama"), tokenizer=tokenizer)
    assert model.encode("w1 w2") == [1, 5, 6]
    monkeypatch.setattr(interp, "load_model", lambda name, **options: model)
    (tmp_path / "text.txt").write_text(" ".join(TEXTS))
    command = ["jacobian-lens", "--model", "x", "--text", str(tmp_path / "text.txt"), "--skip", "2"]
    command += ["--layers", "1", "--tokens", "5", "--out", str(tmp_path / "lens")]
    assert run(command) == 0
    assert JacobianLens.load(tmp_path / "lens").n_tokens == 6
