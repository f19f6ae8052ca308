"""Every intervention equals its definition by a plain hook, on every family; plans are data."""

import dataclasses

import pytest
import torch
from conftest import tiny, word_pairs
from plan_examples import assert_untouched, every_kind, prompts_for, vector

import interp
from interp import Ablate, Add, Clamp, KnockOut, Patch, Plan, ProjectOut, Scale
from interp.data.prompts import TokenPrompt, pad
from interp.errors import DataError, InterpError, PlanError, RunFolderError
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask
from interp.interventions.batch_run import Window
from interp.interventions.binding import bind
from interp.interventions.plan import SiteEdit
from interp.model.model import Model
from interp.model.sites import SITES
from interp.results import folder

SCOPES = ["all", "prompt", "last", "decoded", "s", "s_last", (1, 2), 0]


def places(prompt: TokenPrompt, scope) -> list[int]:
    n = len(prompt.ids)
    if isinstance(scope, int):
        return [scope]
    if isinstance(scope, tuple):
        return list(scope)
    known = {"all": range(n), "prompt": range(n), "last": [n - 1], "decoded": []}
    known |= {"s": prompt.spans.get("s"), "s_last": prompt.spans.get("s", ())[-1:]}
    return list(known[scope])


def naive(model: Model, prompt: TokenPrompt, site: str, layers, scope, change) -> torch.Tensor:
    """Last-token logits of one prompt alone, `change(x, pos)` called token by token."""

    def edit(activation):
        for pos in places(prompt, scope):
            activation[0, pos] = change(activation[0, pos].clone(), pos)

    with torch.no_grad(), hooked(model, [(SITES[site], layer, edit) for layer in layers]):
        return model.hf(torch.tensor([prompt.ids]), use_cache=False).logits[0, -1].float()


def assert_defined_by(model: Model, step: SiteEdit, change, scope, layers) -> None:
    rows = prompts_for(model)
    got = interp.forward(model, rows, step).logits
    for i, row in enumerate(rows):
        want = naive(model, row, step.site, layers, scope, lambda x, p, i=i: change(x, i, p))
        torch.testing.assert_close(got[i], want, atol=1e-4, rtol=0)


def clamped(x, v, low: float, origin) -> torch.Tensor:
    return x + max(0.0, low - float((x - origin) @ v) / float(v @ v)) * v


@pytest.mark.parametrize("site", list(SITES))
def test_every_edit_at_every_site_equals_a_plain_hook(tiny_model: Model, site: str):
    if site not in tiny_model.arch.sites:
        pytest.skip(tiny_model.arch.missing[site])
    v, by_pos, by_row = (vector(tiny_model, site, *axes) for axes in ((), (8,), (3, 8)))
    d = torch.nn.functional.normalize(v, dim=0)
    cases = [
        (Patch(site, v, layers=1), lambda x, i, p: v),
        (Patch(site, by_pos, layers=1, positions="prompt"), lambda x, i, p: by_pos[p]),
        (Patch(site, by_row, layers=1, positions="last"), lambda x, i, p: by_row[i, p]),
        (Ablate(site, layers=1, positions="s"), lambda x, i, p: 0 * x),
        (Ablate(site, v, kind="mean", layers=1, positions="s_last"), lambda x, i, p: v),
        (
            Ablate(site, by_row, kind="noise", layers=1, positions=(1, 2)),
            lambda x, i, p: x + by_row[i, p],
        ),
        (Add(site, v, 2.5, layers=1, positions=0), lambda x, i, p: x + 2.5 * v),
        (Scale(site, -0.5, layers=1), lambda x, i, p: -0.5 * x),
        (
            Clamp(site, by_row, 0.5, origin=by_row / 4, layers=1, positions="s"),
            lambda x, i, p: clamped(x, by_row[i, p], 0.5, by_row[i, p] / 4),
        ),
        (ProjectOut(site, 3 * v, layers=1), lambda x, i, p: x - (x @ d) * d),
    ]
    for step, change in cases:
        scope = step.positions[0] if step.positions == (0,) else step.positions
        assert_defined_by(tiny_model, step, change, scope, [1])


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_scopes_choose_tokens(scope):
    step = Add("resid_mid", vector(tiny("qwen3"), "resid_mid"), layers=(0, 2), positions=scope)
    change = lambda x, i, p: x + step.vector  # noqa: E731
    assert_defined_by(tiny("qwen3"), step, change, scope, [0, 2])


@pytest.mark.parametrize(("site", "units"), [("z", (0, 3)), ("v", 1), ("mlp_post", (2, 40, 7))])
def test_units_select_heads_and_neurons(tiny_model: Model, site: str, units):
    v, d = vector(tiny_model, site), tiny_model.arch.d_head
    if site == "v" and tiny_model.arch.n_kv_heads == 1:
        units = 0
    chosen = [units] if isinstance(units, int) else list(units)
    features = chosen if site == "mlp_post" else [u * d + i for u in chosen for i in range(d)]
    inside = torch.zeros(len(v))
    inside[features] = 1
    step = Patch(site, v, layers=0, units=units)
    assert_defined_by(tiny_model, step, lambda x, i, p: torch.where(inside > 0, v, x), "all", [0])


def test_a_hook_name_is_that_layer_and_no_layers_is_every_layer():
    model = tiny("llama")
    rows = prompts_for(model)
    named = interp.forward(model, rows, Scale("blocks.1.attn.hook_z", 0.5)).logits
    torch.testing.assert_close(named, interp.forward(model, rows, Scale("z", 0.5, layers=1)).logits)
    every = interp.forward(model, rows, Scale("z", 0.5)).logits
    one_by_one = [Scale("z", 0.5, layers=i) for i in range(model.arch.n_layers)]
    torch.testing.assert_close(every, interp.forward(model, rows, one_by_one).logits)


def test_a_plan_for_some_rows_leaves_the_others_alone():
    """As in `sweep_plans`, where the plans share a batch; and on decoded tokens as well."""
    model = tiny("llama")
    rows, which = prompts_for(model), torch.tensor([False, True, False])
    (edit,) = bind(model, Plan.of(Scale("z", 0.5, layers=0)), rows, rows=which).edits
    chosen = edit.scope.columns(Window.of(torch.ones(3, 12, dtype=torch.bool)))
    assert chosen.all(-1).tolist() == [False, True, False]
    assert chosen.any(-1).tolist() == [False, True, False]


# --- identities ----------------------------------------------------------------------------------


def test_project_out_removes_the_span_and_is_idempotent():
    model = tiny("gemma2")
    rows = prompts_for(model)
    directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    step = ProjectOut("resid_post", directions, layers=1)
    once = interp.forward(model, rows, step).logits
    twice = interp.forward(model, rows, [step, step]).logits
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=0)
    seen: list[torch.Tensor] = []
    keep = [(SITES["resid_post"], 1, lambda a: seen.append(a.clone()))]
    ids, mask = pad(model, rows)
    with interp.applied(model, step, rows), hooked(model, keep):
        model.hf(ids, attention_mask=mask.long())
    assert float((seen[0][mask] @ directions.T).abs().max()) < 1e-4
    assert float(seen[0][mask].norm(dim=-1).min()) > 0.1


# --- attention edges -------------------------------------------------------------------------


def eager(model: Model) -> Model:
    """A copy that returns its attention weights."""
    import copy

    hf = copy.deepcopy(model.hf)
    hf.set_attn_implementation("eager")
    return dataclasses.replace(model, hf=hf)


def test_knock_out_zeroes_the_weights(tiny_model: Model):
    model = eager(tiny_model)
    rows = prompts_for(model)
    ids, mask = pad(model, rows)
    plan = KnockOut("last", "s", layers=1, heads=(0, 2))
    options = {"output_attentions": True, "use_cache": False} | positions_and_mask(model, mask)
    with torch.no_grad():
        plain = model.hf(ids, **options).attentions
        with interp.applied(model, plan, rows):
            cut = model.hf(ids, **options).attentions
    torch.testing.assert_close(cut[0], plain[0])
    reached = 0
    for i, row in enumerate(rows):
        keys = [ids.shape[1] - len(row.ids) + p for p in row.spans["s"]]
        before, after = (weights[1][i, :, -1].clone() for weights in (plain, cut))
        reached += float(before[:, keys].max()) > 0
        torch.testing.assert_close(after[[1, 3]], before[[1, 3]])
        before[[[0], [2]], keys] = 0
        torch.testing.assert_close(after[[0, 2]], (before / before.sum(-1, True))[[0, 2]])
        assert float(after[[0, 2]][:, keys].max()) == 0
    assert reached  # mistral's window does not reach every span


def test_knock_out_is_the_same_in_sdpa_and_eager(tiny_model: Model):
    rows = prompts_for(tiny_model)
    plan = [KnockOut("last", 0, layers=(0, 1)), KnockOut("last", (1, 2), heads=1)]
    ours, theirs = (interp.forward(m, rows, plan).logits for m in (tiny_model, eager(tiny_model)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# --- plans as data -----------------------------------------------------------------------------


def test_a_plan_survives_its_folder(tmp_path):
    model = tiny("llama")
    plan = every_kind(model)
    back = Plan.load(plan.save(tmp_path / "plan"))
    assert back == plan
    assert [type(step).__name__ for step in back] == [type(step).__name__ for step in plan]
    rows = prompts_for(model)
    before, after = (interp.forward(model, rows, p).logits for p in (plan, back))
    torch.testing.assert_close(before, after)
    kinds = [type(step).__name__ for step in back]
    assert kinds == ["Patch", "Ablate", "Ablate", "Add", "Scale", "ProjectOut", "KnockOut"]
    assert not list((tmp_path / "plan").glob("*.p*kl*"))


def test_an_unknown_kind_in_a_folder_is_named(tmp_path):
    at = Plan.of(Scale("z", 0.5)).save(tmp_path / "plan")
    manifest = folder.read_manifest(at)
    manifest["value"][0]["intervention"] = "Scald"
    folder.seal(at, manifest)
    with pytest.raises(RunFolderError, match=r"plan is damaged \(PlanError: .*'Scald'"):
        Plan.load(at)
    with pytest.raises(RunFolderError, match="no run folder"):
        Plan.load(tmp_path / "nothing")


def test_plans_compare_by_value_and_show_themselves():
    a, b = Add("z", torch.ones(32)), Add("z", torch.ones(32))
    assert a == b
    assert a != Add("z", torch.zeros(32))
    assert a != Add("z", torch.ones(32), layers=0)
    assert Plan.of(a) != Plan.of(a, b)
    assert Scale("z", 1.0, layers=3) == Scale("z", 1.0, layers=[3])
    assert repr(a) == "Add(site='z', positions='all', vector=tensor[32], scale=1.0)"
    assert repr(Plan.of(KnockOut("last", 0))) == "Plan(KnockOut(queries='last', keys=(0,)))"


def test_plans_add_up_and_apply_in_order():
    model = tiny("llama")
    rows, v = prompts_for(model), vector(model, "resid_mid")
    double, shift = Scale("resid_mid", 2.0, layers=1), Add("resid_mid", v, layers=1)
    first, second = Plan.of(double) + shift, Plan.of(shift) + Plan.of(double)
    assert list(first) == [double, shift]
    assert first[:1] == Plan.of(double)
    assert_order(model, rows, first, lambda x: 2 * x + v)
    assert_order(model, rows, second, lambda x: 2 * (x + v))


def assert_order(model: Model, rows, plan: Plan, change) -> None:
    got = interp.forward(model, rows, plan).logits
    for i, row in enumerate(rows):
        want = naive(model, row, "resid_mid", [1], "all", lambda x, p: change(x))
        torch.testing.assert_close(got[i], want, atol=1e-5, rtol=0)


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Scale("z", 0.5, positions="subject"), PlanError, "no span 'subject'.* has s"),
        (lambda: Scale("z", 0.5, positions="t_last"), PlanError, "no span 't_last'"),
        (lambda: Scale("z", 0.5, positions=5), PlanError, "position 5 is beyond .* 4 tokens"),
        (lambda: Scale("z", 0.5, positions=()), PlanError, "positions is empty"),
        (lambda: Scale("z", 0.5, positions=-1), PlanError, "-1 is negative"),
        (lambda: Scale("z", 0.5, units=4), PlanError, "head 4 is out of range.* 0 to 3"),
        (lambda: Scale("v", 0.5, units=2), PlanError, "kv-head 2 is out of range.* 0 to 1"),
        (lambda: Scale("mlp_post", 0.5, units=56), PlanError, "neuron 56 is out of range"),
        (lambda: Scale("mlp_out", 0.5, units=0), PlanError, "no heads or neurons"),
        (lambda: Scale("z", 0.5, layers=3), PlanError, "layer 3 is out of range"),
        (lambda: Scale("y", 0.5), PlanError, "unknown site"),
        (lambda: Scale("blocks.1.hook_mlp_out", 2, layers=0), PlanError, "names layer 1"),
        (lambda: Add("mlp_post", torch.ones(32)), PlanError, "width 32.*site's is 56"),
        (lambda: Add("z", torch.tensor([1.0, float("nan")])), PlanError, "Add.vector holds NaN"),
        (lambda: Scale("z", float("inf")), PlanError, "Scale.factor is inf; give"),
        (lambda: Patch("z", torch.ones(1, 1, 1, 1, 32)), PlanError, "give floats of shape"),
        (lambda: Patch("z", torch.ones(1, 1, 1, 32)), PlanError, "name those layers"),
        (lambda: Patch("z", torch.ones(32).long()), PlanError, "int64"),
        (lambda: Patch("z", torch.ones(2, 8, 32)), PlanError, "each of 2 prompts"),
        (lambda: Patch("z", torch.ones(4, 32)), PlanError, "position axis of 4"),
        (lambda: Ablate("z", torch.ones(32)), PlanError, "kind 'zero' .* takes no value"),
        (lambda: Ablate("z", kind="mean"), PlanError, "takes a value"),
        (lambda: ProjectOut("z", torch.zeros(32)), PlanError, "linearly dependent"),
        (lambda: ProjectOut("z", torch.ones(2, 32)), PlanError, "linearly dependent"),
        (lambda: ProjectOut("z", torch.ones(1, 2, 32)), PlanError, "give .direction, width."),
        (lambda: KnockOut("last", "nobody"), PlanError, "no span 'nobody'"),
        (lambda: KnockOut("last", "s", heads=9), PlanError, "head 9 is out of range"),
        (lambda: KnockOut("last", "s", layers=9), PlanError, "layer 9 is out of range"),
        (lambda: KnockOut("all", 0), PlanError, "nothing to attend to"),
        (lambda: "z", InterpError, "not an intervention"),
    ],
)
def test_mistakes_are_named(make, error: type, says: str):
    model = tiny("llama")
    with pytest.raises(error, match=says):
        interp.forward(model, prompts_for(model), make())
    assert_untouched(model)


def test_scopes_need_the_prompts():
    model = tiny("llama")
    with interp.applied(model, Scale("z", 0.5)):
        model.hf(torch.tensor([[5, 6, 7]]))
    with (
        pytest.raises(PlanError, match="needs the prompts"),
        interp.applied(model, Scale("z", 0.5, positions="last")),
    ):
        pass
    with (
        pytest.raises(PlanError, match="3 prompts but a batch of 1"),
        interp.applied(model, Scale("z", 0.5), prompts_for(model)),
    ):
        model.hf(torch.tensor([[5, 6, 7]]))
    with (
        pytest.raises(PlanError, match="prompt of 4 tokens, but row 0 of the batch has 3"),
        interp.applied(model, Scale("z", 0.5), "w1 w2 w3 w4"),
    ):
        model.hf(torch.tensor([[5, 6, 7]]))
    with pytest.raises(PlanError, match="not to sweeps"), interp.applied(model, Scale("z", 0.5)):
        interp.patch(model, word_pairs())
    assert_untouched(model)


def test_prompts_must_be_prompts():
    model = tiny("llama")
    with pytest.raises(DataError, match="no prompts"):
        interp.forward(model, [])
    with pytest.raises(DataError, match="no tokens"):
        interp.forward(model, [""])
    assert len(interp.forward(model, "w1 w2").logits) == 1
    with pytest.raises(PlanError, match="'decoded' covers no token"):
        interp.mean_ablation(model, "w1 w2", "z", positions="decoded")
    with pytest.raises(PlanError, match="layers is empty"):
        interp.activations(model, "w1 w2", "z", layers=[])
    with pytest.raises(PlanError, match="template of each of the 1"):
        interp.mean_activations(model, "w1 w2", "z", per="template")


def test_spans_of_a_prompt_are_found_in_its_text():
    model = tiny("llama")
    row = interp.prompt(model, "w1 w2 w3 w4", pair="w2 w3", blank=" w4")
    assert row == TokenPrompt((5, 6, 7, 8), {"pair": (1, 2), "blank": (3,)})
    assert row.positions("pair_last") == (2,)
    with pytest.raises(DataError, match="occurs 4 times"):
        interp.prompt(model, "w1 w2 w3 w4", s="w")
    with pytest.raises(DataError, match="occurs 0 times"):
        interp.prompt(model, "w1 w2", s="")
