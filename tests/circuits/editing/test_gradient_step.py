"""UltraEdit against its formula in dense algebra, and gradients against plain autograd."""

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_editing import FACTS, same, weights

import interp
from circuits.editing import Edit, edit, ledger
from circuits.editing.fact import PreservedQuestion
from circuits.editing.fact_prompts import edit_prompts, preserved_prompts
from circuits.editing.gradient_step import (
    EPS,
    FeatureStatistics,
    TokenGradients,
    gradient_tokens,
    step,
)
from circuits.editing.methods import GradientStep, Method
from circuits.editing.writing import Request, write
from interp.forward.blocks import projection


def drawn(n: int, seed: int, d_in: int = 6, d_out: int = 4) -> TokenGradients:
    generator = torch.Generator().manual_seed(seed)
    sizes = (d_in, d_out, d_out)
    return TokenGradients(*(torch.randn(n, d, generator=generator).double() for d in sizes))


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_statistics_of_parts_are_those_of_the_whole(sizes: list[int], seed: int):
    z = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed)).double()
    first, *others = [FeatureStatistics.of(0, part) for part in z.split(sizes)]
    joined = first
    for other in others:
        joined = other.joined(joined)
    want = (z - z.mean(0)) / (z.std(0) + EPS)
    torch.testing.assert_close(joined.normalised(z), want)


def test_the_change_is_the_papers_formula():
    """Delta^T = (H^T H + 1)^-1 H^T V with v = -eta ||h^||^2 g^, over all tokens seen so far."""
    before, now = drawn(5, 0), drawn(7, 1)
    stage = GradientStep((0,), lr=0.3)
    _, seen = step(before, stage, 0)
    other = FeatureStatistics.of(1, torch.full((2, 10), 50.0).double())  # of another layer
    change, own = step(now, stage, 0, [seen, other])
    both = [torch.cat([one.inputs, one.gradients], 1) for one in (before, now)]
    everything = torch.cat(both)
    z = (both[1] - everything.mean(0)) / everything.std(0)
    eta = 0.3 * now.outputs.square().mean().sqrt() / 6
    v = torch.stack([-eta * row[:6] @ row[:6] * row[6:] for row in z])
    h = now.inputs
    want = torch.linalg.solve(h.T @ h + torch.eye(6).double(), h.T @ v)
    torch.testing.assert_close(change.matrix.T, want, atol=1e-6, rtol=1e-5)
    assert (own.n, seen.n, change.place) == (7, 5, ("mlp_post", 0))


def test_preserved_tokens_are_written_less():
    now = drawn(3, 1)
    kept = now.inputs[:1] + 0.1 * torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    moved = [
        float(
            (
                step(now, GradientStep((0,), preserved_weight=w), 0, (), kept)[0].matrix @ kept[0]
            ).norm()
        )
        for w in (0.0, 3.0, 1000.0)
    ]
    assert moved[2] < 0.1 * moved[0] and moved[2] < moved[1] < moved[0]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_tokens_and_gradients_are_those_of_plain_autograd(family: str):
    model = tiny(family)
    prompts = [p for fact in FACTS for p in edit_prompts(model, fact, "cloze", "last")]
    found, row = gradient_tokens(
        model, prompts, (1, 2), [()], torch.zeros(len(prompts), dtype=torch.long)
    )
    for i, prompt in enumerate(prompts):
        kept: dict[int, tuple] = {}

        def keep(module, args, out, layer: int, kept=kept):
            out.requires_grad_().retain_grad()
            kept[layer] = args[0], out

        hooks = [
            projection(model, "mlp_post", layer).register_forward_hook(
                lambda m, a, o, layer=layer, keep=keep: keep(m, a, o, layer)
            )
            for layer in (1, 2)
        ]
        ids = torch.tensor(prompt.ids)
        log_p = model.hf(ids[None, :-1]).logits[0].log_softmax(-1)
        n = prompt.n_target
        (-log_p[-n:].gather(1, ids[-n:, None]).sum()).backward()
        for hook in hooks:
            hook.remove()
        for layer, (x, out) in kept.items():
            mine = found[layer].only(row == i)
            torch.testing.assert_close(mine.inputs, x[0].detach(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mine.outputs, out[0].detach(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mine.gradients, out.grad[0], atol=1e-5, rtol=1e-3)


def test_batches_do_not_change_gradients_of_prompts_without_a_target(monkeypatch):
    model, at = tiny("llama"), "last"
    kept = preserved_prompts(model, [PreservedQuestion("w4 w33 w5", "w33")] * 3, at)
    prompts = [*edit_prompts(model, FACTS[0], "cloze", at), *kept]
    owner = torch.zeros(len(prompts), dtype=torch.long)
    whole, row = gradient_tokens(model, prompts, (1,), [()], owner)
    monkeypatch.setattr("circuits.editing.gradient_step.default_budget", lambda model: 1)
    parts, same_row = gradient_tokens(model, prompts, (1,), [()], owner)
    assert torch.equal(row, same_row)
    last = row >= len(prompts) - len(kept)
    assert last.any() and not parts[1].gradients[last].any()
    for name in ("inputs", "outputs", "gradients"):
        torch.testing.assert_close(getattr(parts[1], name), getattr(whole[1], name))


def test_edits_in_a_row_go_on_from_the_statistics_and_are_undone_to_the_bit(tmp_path):
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    method = Method("step", (GradientStep((1, 2), lr=0.05),))

    def make(fact) -> Edit:
        prompts = Request(
            (fact,), seen=tuple(s for e in ledger(model).applied for s in e.statistics)
        )
        (got,) = write(model, [prompts], method, {})
        return Edit(
            *((fact,), got.changes, "step", model.name, ledger(model).base),
            after=tuple(e.id for e in ledger(model).applied),
            statistics=got.statistics,
        )

    before = weights(model)
    first = make(FACTS[0])
    first.save(tmp_path / "first")
    back = Edit.load(tmp_path / "first")
    assert [s.n for s in back.statistics] == [s.n for s in first.statistics] == [5, 5]
    back.apply(model)
    second = make(FACTS[1])
    (fresh,) = write(model, [Request((FACTS[1],))], method, {})
    second.apply(model)
    assert float((second.changes[0].matrix - fresh.changes[0].matrix).norm()) > 1e-3
    back_on_top = ledger(model).applied
    second.undo(model)
    back.undo(model)
    assert same(weights(model), before) and not back_on_top


def test_edit_takes_the_statistics_from_the_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr("circuits.editing.editor.REACHED", 0.0)
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    method = Method("step", (GradientStep((1,), lr=0.05),))
    first = edit(model, [FACTS[0]], method)
    with first.applied(model):
        second = edit(model, [FACTS[1]], method)
        (want,) = write(model, [Request((FACTS[1],), seen=first.statistics)], method, {})
    torch.testing.assert_close(second.changes[0].matrix, want.changes[0].matrix)


def test_a_small_step_makes_the_target_likelier_and_preserves_what_it_is_told():
    model = tiny("llama")
    kept = (PreservedQuestion("w4 w33 w5", "w33"),)
    weak, strong = (
        write(model, [Request(FACTS[:1], kept)], Method("step", (stage,)), {})[0]
        for stage in (
            GradientStep((1, 2), lr=1e-6),
            GradientStep((1, 2), lr=0.02, preserved_weight=3.0),
        )
    )
    assert strong.p[0][0] > weak.p[0][0]
