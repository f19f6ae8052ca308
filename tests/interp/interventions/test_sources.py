"""What interventions write: recorded activations, means, resampling, noise, constants."""

import pytest
import torch
from conftest import tiny
from plan_examples import prompts_for

import interp
from interp import Add, Plan
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.interventions.binding import bind
from interp.interventions.run import final_resid
from interp.model.model import Model


def test_means_by_their_definitions():
    model = tiny("olmo2")
    rows = prompts_for(model)
    recorded = interp.activations(model, rows, "mlp_out", [0, 2])
    assert list(recorded) == [0, 2]
    lengths = [len(row.ids) for row in rows]
    tokens = torch.cat([a[:n] for a, n in zip(recorded[2], lengths, strict=True)])
    per_all = interp.mean_activations(model, rows, "mlp_out", 2)[2]
    torch.testing.assert_close(per_all, tokens.mean(0))
    per_last = interp.mean_activations(model, rows, "mlp_out", 2, positions="last")[2]
    lasts = torch.stack([a[n - 1] for a, n in zip(recorded[2], lengths, strict=True)])
    torch.testing.assert_close(per_last, lasts.mean(0))
    per_pos = interp.mean_activations(model, rows, "mlp_out", 2, per="position")[2]
    torch.testing.assert_close(per_pos[5], recorded[2][[0, 2], 5].mean(0))
    torch.testing.assert_close(per_pos[7], recorded[2][2, 7])
    per_template = interp.mean_activations(
        model, rows, "mlp_out", 2, per="template", templates=["a", "b", "a"]
    )[2]
    torch.testing.assert_close(per_template[0], per_template[2])
    torch.testing.assert_close(per_template[0, :6], recorded[2][[0, 2], :6].mean(0))
    torch.testing.assert_close(per_template[1, :4], recorded[2][1, :4])


def test_activations_of_a_prompt_do_not_depend_on_the_batch(tiny_model: Model):
    rows = prompts_for(tiny_model)
    for site in tiny_model.arch.sites:
        together = interp.activations(tiny_model, rows, site, 1)[1]
        alone = interp.activations(tiny_model, rows[1:2], site, 1)[1]
        torch.testing.assert_close(together[1, :4], alone[0], atol=1e-5, rtol=0)
        assert together[1, 4:].isnan().all()


@pytest.mark.parametrize("per", ["all", "position", "template"])
def test_mean_ablation_erases_what_the_prompt_said(per):
    """With the whole residual stream of the last layer replaced, prompts of a kind agree."""
    model = tiny("llama")
    rows = [TokenPrompt((5, 6, 7)), TokenPrompt((8, 9, 10))]
    plan = interp.mean_ablation(model, rows, "resid_post", 2, per=per, templates=["a", "a"])
    logits = interp.forward(model, rows, plan).logits
    torch.testing.assert_close(logits[0], logits[1])
    assert plan[0].kind == "mean"


def test_resampling_takes_another_prompt_of_the_same_length():
    model = tiny("llama")
    rows = [TokenPrompt(tuple(range(5, 5 + n))) for n in (3, 4, 3, 4, 3)]
    rows = [TokenPrompt(row.ids[:-1] + (20 + i,)) for i, row in enumerate(rows)]
    plan = interp.resample_ablation(model, rows, "resid_pre", 0, seed=3)
    plain, got = (interp.forward(model, rows, p).logits for p in ((), plan))
    for i, logits in enumerate(got):
        distance = (plain - logits).abs().amax(-1)
        other = int(distance.argmin())
        assert float(distance[other]) < 1e-5
        assert other != i
        assert len(rows[other].ids) == len(rows[i].ids)
    given = interp.resample_ablation(
        model, rows[:1], "resid_pre", 0, counterparts=[TokenPrompt((30, 31, 32))]
    )
    want = interp.forward(model, [TokenPrompt((30, 31, 32))]).logits
    torch.testing.assert_close(interp.forward(model, rows[:1], given).logits, want)
    with pytest.raises(PlanError, match="only one of 3 tokens"):
        interp.resample_ablation(model, rows[:2], "resid_pre", 0)
    with pytest.raises(PlanError, match="equal token length"):
        interp.resample_ablation(model, rows[:1], "z", counterparts=rows[1:2])


def test_noise_has_its_size_and_its_seed():
    model = tiny("gpt2")
    rows = prompts_for(model)
    plan = interp.noise_ablation(model, rows, positions="s", sigmas=3.0, seed=1)
    assert plan == interp.noise_ablation(model, rows, positions="s", sigmas=3.0, seed=1)
    assert plan != interp.noise_ablation(model, rows, positions="s", sigmas=3.0, seed=2)
    (step,) = plan
    recorded = interp.activations(model, rows, "resid_pre", 0)[0]
    subject = torch.cat([recorded[i, list(row.spans["s"])] for i, row in enumerate(rows)])
    assert float(step.value.std()) == pytest.approx(3 * float(subject.std()), rel=0.1)
    changed = interp.forward(model, rows, plan).logits - interp.forward(model, rows).logits
    assert float(changed.abs().amax(-1).min()) > 1e-3


def test_the_gradient_reaches_a_vector():
    model = tiny("llama")
    rows = prompts_for(model)
    v = torch.zeros(32, requires_grad=True)
    step = Add("resid_mid", v, layers=1, positions="last")
    final_resid(model, rows, bind(model, Plan.of(step), rows)).sum().backward()
    assert v.grad is not None
    assert float(v.grad.abs().max()) > 0
