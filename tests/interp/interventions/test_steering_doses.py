"""Doses of steering: in units of the norm, up to a coordinate, and ending during generation."""

import pytest
import torch
from conftest import tiny, word_pairs
from plan_examples import assert_untouched, prompts_for, vector

import interp
from interp import Add, Clamp, Plan
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.interventions.batch_run import Fade
from interp.model.model import Model
from interp.model.sites import SITES

FAMILIES = ("llama", "gemma3", "gpt2", "qwen2")
N = 7


def by_hand(model: Model, prompt: TokenPrompt, layers, change, n: int = N) -> tuple[int, ...]:
    """Greedy text of one prompt alone, whole forwards, `change(x, n_new)` token by token.

    `n_new` counts the new tokens up to and with the token, negative or 0 in the prompt.
    """
    ids, last = list(prompt.ids), len(prompt.ids) - 1

    def edit(x: torch.Tensor) -> None:
        for place in range(x.shape[1]):
            x[0, place] = change(x[0, place].clone(), place - last, ids)

    for _ in range(n):
        hooks = [(SITES["resid_post"], layer, edit) for layer in layers]
        with torch.no_grad(), hooked(model, hooks):
            ids.append(int(model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == 2:
            break
    return tuple(ids[last + 1 :])


def assert_generates(model: Model, plan, layers, change) -> None:
    """Left-padded batches with and without a cache, and single prompts, beside the loop."""
    rows = prompts_for(model)
    wanted = [by_hand(model, row, layers, change) for row in rows]
    plain = [one.ids for one in interp.generate(model, rows, (), N)]
    assert wanted != plain, "the plan must change something"
    for use_cache in (True, False):
        found = interp.generate(model, rows, plan, N, use_cache=use_cache)
        assert [one.ids for one in found] == wanted
    assert_untouched(model)


def to_coordinate(x, v, low=None, high=None, origin=None, size=1.0):
    """x moved along v until its coordinate is within bounds, in plain arithmetic."""
    now = float((x - (0 if origin is None else origin)) @ v) / float(v @ v)
    wanted = now
    wanted = max(wanted, low * size) if low is not None else wanted
    wanted = min(wanted, high * size) if high is not None else wanted
    return x + (wanted - now) * v


@pytest.mark.parametrize("family", FAMILIES)
def test_arrival_equals_a_hook_written_by_hand(family: str):
    model = tiny(family)
    v, origin = vector(model, "resid_post"), vector(model, "resid_post").roll(3)
    plan = Clamp("resid_post", v, 2.0, origin=origin, layers=(0, 2), positions="generating")
    wanted = lambda x, new, ids: to_coordinate(x, v, 2.0, None, origin) if new >= 0 else x  # noqa: E731
    assert_generates(model, plan, (0, 2), wanted)
    plan = Clamp("resid_post", v, 0.1, 0.12, relative="norm", layers=1)
    wanted = lambda x, new, ids: to_coordinate(x, v, 0.1, 0.12, size=float(x.norm()))  # noqa: E731
    assert_generates(model, plan, (1,), wanted)


def test_a_state_that_has_arrived_stays_and_one_that_has_not_gets_what_is_missing():
    v = torch.tensor([3.0, 4.0])  # of length 5
    origin = torch.tensor([1.0, 0.0])
    states = torch.tensor([[1.0, 0.0], [4.0, 4.0], [7.0, 8.0], [0.2, -1.4]])
    # coordinates 0, 1, 2 and ((-0.8 * 3) + (-1.4 * 4)) / 25 = -0.32
    step = Clamp("resid_post", v, 1.0, origin=origin)
    place = torch.zeros(4, dtype=torch.long)
    found = step.rewrite(None)(states, place, place)
    wanted = torch.tensor([[4.0, 4.0], [4.0, 4.0], [7.0, 8.0], [0.2 + 3.96, -1.4 + 5.28]])
    torch.testing.assert_close(found, wanted)
    again = step.rewrite(None)(found, place, place)
    torch.testing.assert_close(again, wanted)
    both = Clamp("resid_post", v, 0.0, 1.0, origin=origin).rewrite(None)(states, place, place)
    torch.testing.assert_close(both[2], torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(both[:2], states[:2])
    # in units of the norm: 5 along v is a cosine of 1
    step = Clamp("resid_post", v / 5, 0.6, relative="norm")
    found = step.rewrite(None)(torch.tensor([[4.0, -3.0], [3.0, 4.0]]), place[:2], place[:2])
    torch.testing.assert_close(found, torch.tensor([[4.0 + 1.8, -3.0 + 2.4], [3.0, 4.0]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dose_in_units_of_the_norm_ends_after_some_tokens(family: str):
    model = tiny(family)
    v = torch.nn.functional.normalize(vector(model, "resid_post"), dim=0)

    def added(x, new, ids, hold=2, half_life=1.5):
        part = 1.0 if new < hold else 0.5 ** ((new - hold + 1) / half_life)
        return x + 0.6 * part * float(x.norm()) * v

    where = {"relative": "norm", "layers": (0, 1)}
    plan = Add("resid_post", v, 0.6, hold=2, half_life=1.5, **where)
    assert_generates(model, plan, (0, 1), added)
    off = Add("resid_post", v, 0.6, hold=2, **where)
    assert_generates(model, off, (0, 1), lambda x, n, i: x + 0.6 * (n < 2) * float(x.norm()) * v)


def test_parts_of_a_dose():
    new, endless = torch.arange(8), torch.full((8,), torch.inf)
    halved = Fade(3, 2.0).part(new, endless)
    wanted = [1, 1, 1, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.5**2.5]
    torch.testing.assert_close(halved, torch.tensor(wanted))
    assert Fade(3).part(new, endless).tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert Fade("sentence").part(new, torch.full((8,), 2.0)).tolist() == [1, 1] + [0] * 6
    assert Fade("sentence", 4.0).part(new, endless).tolist() == [1.0] * 8


def test_the_dose_ends_with_the_first_sentence_of_each_row(monkeypatch: pytest.MonkeyPatch):
    model = tiny("llama")
    rows = prompts_for(model)
    v = vector(model, "resid_post")
    always = [by_hand(model, row, (0,), lambda x, new, ids: x + 0.8 * v) for row in rows]
    ending = {always[0][1], always[1][3]}  # as if these words ended a sentence
    monkeypatch.setattr(Model, "token", lambda _, t: 'end."' if t in ending else "e.g. this")

    for row in rows:

        def added(x, new, ids, row=row):
            own = ids[len(row.ids) :]
            first = next((i for i, token in enumerate(own, 1) if token in ending), 99)
            return x + 0.8 * (new < first) * v

        wanted = by_hand(model, row, (0,), added)
        for use_cache in (True, False):
            plan = Add("resid_post", v, 0.8, layers=0, hold="sentence")
            found = interp.generate(model, rows, plan, N, use_cache=use_cache)
            assert found[rows.index(row)].ids == wanted
    assert [one.ids for one in found] != always


def test_doses_are_saved_with_their_plan(tmp_path):
    v = torch.ones(32)
    plan = Plan.of(
        Add("resid_post", v, hold="sentence", half_life=3, layers=1),
        Clamp("resid_post", v, 0.5, 2, origin=2 * v, relative="norm", hold=4),
    )
    assert Plan.load(plan.save(tmp_path / "plan")) == plan


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda v: Clamp("resid_post", v, None), "low=None and high=None; give one"),
        (lambda v: Clamp("resid_post", v, 2.0, 1.0), "low one that is not above"),
        (lambda v: Clamp("resid_post", v, float("nan")), "Clamp.low is nan"),
        (lambda v: Clamp("resid_post", v, origin=v[:3]), "one origin per vector"),
        (lambda v: Add("resid_post", v, relative="rms"), "relative='rms'; choose 'norm'"),
        (lambda v: Add("resid_post", v, hold=0), "give 1 token or more, or 'sentence'"),
        (lambda v: Add("resid_post", v, hold="line"), "give 1 token or more, or 'sentence'"),
        (lambda v: Add("resid_post", v, half_life=2), "and with it `hold`"),
        (lambda v: Add("resid_post", v, hold=2, positions="last"), "about new tokens"),
    ],
)
def test_doses_without_a_meaning_are_refused(make, says: str):
    with pytest.raises(PlanError, match=says):
        make(torch.ones(32))


def test_what_cannot_be_carried_out_is_refused():
    model = tiny("llama")
    rows = prompts_for(model)
    with pytest.raises(PlanError, match="holds zero, which has no direction"):
        interp.forward(model, rows, Clamp("resid_post", torch.zeros(32)))
    fading = Add("resid_post", torch.ones(32), hold=2)
    with pytest.raises(PlanError, match="hold=2 needs the prompts"), interp.applied(model, fading):
        pass
    with pytest.raises(PlanError, match="about generated text"):
        interp.sweep_plans(model, word_pairs(), [fading])
