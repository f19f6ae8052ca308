"""Fine-tuning against PyTorch's own loop over a weight of the Hugging Face model."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from planted_cases import sharp
from test_editing import FACTS, TEMPLATES

import interp
from circuits.editing.fact_prompts import edit_prompts
from circuits.editing.methods import FineTune, Method
from circuits.editing.writing import Request, write
from interp.forward.blocks import projection

WHOLE = FineTune(1, rank=None, steps=4, lr=0.02, ends=True, until=0.0)


def tuned(model, facts, stage: FineTune, templates=("{}",)):
    """The change, and each fact's probability, of facts that are one edit."""
    (got,) = write(model, [Request(tuple(facts))], Method("ft", (stage,)), {}, templates)
    (change,) = got.changes
    return change, got.p[0]


def by_hand(model, facts, stage: FineTune, templates=("{}",)):
    """Epochs of mini-batches of whole sequences through a model whose weight is trained itself."""
    hf = copy.deepcopy(model.hf).requires_grad_(False)
    weight = projection(interp.load_model(hf, tokenizer=model.tokenizer), "mlp_post", stage.layer)
    weight = weight.get_parameter("weight").requires_grad_()
    before, size = weight.detach().clone(), float(weight.detach().square().mean().sqrt())
    # the parameter is in units of `size`, so its gradient is larger and Adam's epsilon smaller
    adam = torch.optim.Adam([weight], lr=stage.lr * size, eps=1e-8 / size)
    draws = torch.Generator().manual_seed(0)
    end = model.tokenizer.eos_token_id
    prompts = [edit_prompts(model, fact, "cloze", "last", templates) for fact in facts]

    def losses(chosen):
        out = []
        for i in chosen:
            rows = []
            for prompt in prompts[i]:
                ids = torch.tensor([*prompt.ids, end])
                log_p = hf(ids[None]).logits[0].log_softmax(-1)
                n = prompt.n_target + 1
                rows.append(-log_p[-n - 1 : -1].gather(1, ids[-n:, None]).mean())
            out.append(rows)
        return out

    for _ in range(stage.steps):
        order = list(range(len(facts)))
        if len(facts) > stage.batch:
            order = torch.randperm(len(facts), generator=draws).tolist()
        for lo in range(0, len(order), stage.batch):
            batch = losses(order[lo : lo + stage.batch])
            loss = torch.stack([torch.stack(rows).mean() for rows in batch]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    p = [float((-rows[0].detach()).exp()) for rows in losses(range(len(facts)))]
    return weight.detach() - before, p


@pytest.mark.parametrize("batch", [100, 2])
def test_a_whole_matrix_is_tuned_as_by_pytorch_in_mini_batches(batch: int):
    model = interp.load_model(tiny_hf("llama").double(), tokenizer=word_tokenizer())
    stage = replace(WHOLE, batch=batch)
    change, p = tuned(model, FACTS, stage, TEMPLATES)
    want, likely = by_hand(model, FACTS, stage, TEMPLATES)
    assert float(want.norm()) > 0
    torch.testing.assert_close(change.matrix, want, atol=1e-6, rtol=1e-3)
    assert p == pytest.approx(likely, rel=1e-4)


def test_mini_batches_end_elsewhere_than_all_facts_at_once():
    model = tiny("llama")
    two, all_at_once = (tuned(model, FACTS, replace(WHOLE, batch=n))[0].matrix for n in (2, 100))
    assert float((two - all_at_once).norm()) > 0.1 * float(all_at_once.norm())


def test_an_edit_is_the_same_beside_others_that_are_done_before_or_after():
    model = sharp("llama")
    method = Method("ft", (FineTune(1, rank=None, steps=30, lr=0.02, until=0.5),))
    requests = [Request((fact,)) for fact in FACTS]
    together = write(model, requests, method, {})
    for request, got in zip(requests, together, strict=True):
        (alone,) = write(model, [request], method, {})
        apart = (got.changes[0].matrix - alone.changes[0].matrix).norm()
        assert float(apart) < 0.01 * float(alone.changes[0].matrix.norm())
        assert got.p[0] == pytest.approx(alone.p[0], rel=0.02)


def test_fine_tuning_is_a_change_like_any_other():
    model = sharp("gptj")
    method = Method("ft", (FineTune(1, steps=60),))
    (got,) = write(model, [Request(FACTS[:1])], method, {}, TEMPLATES)
    (change,) = got.changes
    assert (change.site, change.layer, change.up.shape[1]) == ("mlp_post", 1, 4)
    assert got.p[0][0] > 0.8


def test_a_model_in_16_bits_is_fine_tuned_as_in_32():
    whole = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    half = interp.load_model(tiny_hf("llama").to(torch.bfloat16), tokenizer=word_tokenizer())
    method = Method("ft", (FineTune(1, steps=1),))
    moved = [write(m, [Request(FACTS[:1])], method, {})[0].changes[0].matrix for m in (whole, half)]
    assert float(moved[0].norm()) > 0
    angle = torch.cosine_similarity(*(m.flatten().float() for m in moved), dim=0)
    assert float(angle) > 0.9
