"""Drift of edits on neutral text: against edited weights, and nothing where nothing is changed."""

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer

import interp
from circuits.editing.change import Change
from circuits.editing.evaluation.edited_models import drift
from interp.data.prompts import TokenPrompt

PASSAGES = (TokenPrompt((5, 9, 30, 31, 7)), TokenPrompt((8, 40, 41)))


def changed(seed: int) -> Change:
    made = torch.Generator().manual_seed(seed)
    model = tiny("llama")
    up = torch.randn(model.arch.d_model, 2, generator=made)
    return Change("mlp_post", 1, up, torch.randn(model.arch.d_mlp, 2, generator=made))


def log_p(hf: torch.nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return hf(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def test_drift_is_that_of_the_edited_weights():
    edits = [(), (changed(0),), (changed(1), changed(2))]
    found, ratios = drift(tiny("llama"), PASSAGES, edits)
    for i, changes in enumerate(edits):
        plain, edited = tiny_hf("llama"), tiny_hf("llama")
        with torch.no_grad():
            for change in changes:
                edited.model.layers[1].mlp.down_proj.weight += change.matrix
        kl, gain = [], []
        for passage in PASSAGES:
            old, new = log_p(plain, passage.ids), log_p(edited, passage.ids)
            kl += (old.exp() * (old - new)).sum(-1).tolist()
            target = torch.tensor(passage.ids[1:])[:, None]
            gain += (old - new).gather(1, target)[:, 0].tolist()
        assert float(found[i]) == pytest.approx(sum(kl) / 6, abs=1e-5)
        ratio = torch.tensor(gain).mean().exp()
        assert float(ratios[i]) == pytest.approx(float(ratio), rel=1e-4)
    assert abs(float(found[0])) < 1e-6 and float(ratios[0]) == pytest.approx(1)
    assert float(found[1]) > 1e-4


def test_each_edit_is_read_alone(monkeypatch: pytest.MonkeyPatch):
    edits = [(changed(i),) for i in range(5)]
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    whole = drift(model, PASSAGES, edits)
    monkeypatch.setattr("circuits.editing.evaluation.edited_models.LOGITS_AT_ONCE", 1)
    single = drift(model, PASSAGES, edits)
    torch.testing.assert_close(single, whole)
