"""Edits on tiny models: batches equal singles, rows equal weights, undo is bit for bit."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from planted_cases import sharp
from transformers import AutoTokenizer

import interp
from benchmarks.edit_cost import whole_prompts
from circuits.editing import Fact, edit, export, ledger, merge, moments, presets
from circuits.editing.change import Change, under
from circuits.editing.edit import Edit
from circuits.editing.evaluation.edited_models import Ask, continuing_tokens, generations
from circuits.editing.fact import PreservedQuestion, refuse_conflicts
from circuits.editing.fact_prompts import EditPrompt, edit_prompts, essence_prompt
from circuits.editing.keys import keys_at, outputs_at
from circuits.editing.layer_selection import LayerSelection
from circuits.editing.methods import METHODS, Method, Search, Stage
from circuits.editing.moments import own_samples, second_moments
from circuits.editing.presets import preset
from circuits.editing.targets import ROUNDS, FactPrompts, search_targets
from circuits.editing.writing import Request, write
from interp.errors import DataError, RunFolderError
from interp.forward.blocks import rewriting
from interp.loading import builtin

FACTS = (
    Fact("w1 {} w2 w3", "w10 w11", "w40", "w4 {} w5", implicit=("w20 w21", "w22")),
    Fact("w6 {} w7", "w12", "w41 w42", "w8 {} w9", implicit=("w23 w24 w25",)),
    Fact("w1 {} w2 w3", "w13 w14 w15", "w43"),
)
TEMPLATES = ("{}", "w30 w31 . {}")


def texts() -> list[str]:
    generator = torch.Generator().manual_seed(0)
    return [
        " ".join(f"w{int(i)}" for i in torch.randint(0, 90, (60,), generator=generator))
        for _ in range(30)
    ]


@pytest.fixture
def moments_of(tmp_path):
    def make(model, method):
        return second_moments(model, method.places, texts(), 1000, cache=tmp_path)

    return make


def prompts_of(model, fact: Fact, anchor="subject_last", templates=TEMPLATES) -> FactPrompts:
    prompts = edit_prompts(model, fact, "cloze", anchor, templates)
    return FactPrompts(tuple(prompts), essence_prompt(model, fact.subject, anchor))


# --- prompts -----------------------------------------------------------------------------------


def test_anchors_and_targets_are_where_they_should_be():
    model = tiny("llama")
    (bare, behind) = edit_prompts(model, FACTS[1], "cloze", "subject_last", TEMPLATES)
    words = [model.token(i).strip() for i in bare.ids]
    assert words == ["w6", "w12", "w7", "w41", "w42"]
    assert (bare.anchor, bare.n_target, bare.n_tail) == (1, 2, 3)
    assert model.token(behind.ids[behind.anchor]).strip() == "w12"
    two_hop = edit_prompts(model, FACTS[0], "two_hop", "last")
    assert len(two_hop) == 4 and all(p.n_target == 1 for p in two_hop)
    assert all(p.anchor == len(p.ids) - 2 for p in two_hop)


def test_bad_facts_are_refused_in_a_sentence():
    with pytest.raises(DataError, match="has 0 slots"):
        Fact("w1 w2", "w3", "w4")
    with pytest.raises(DataError, match="needs a subject and a target"):
        Fact("w1 {}", " ", "w4", where="facts.json, row 2")
    with pytest.raises(DataError, match="is to become both 'w40' and 'w50'"):
        refuse_conflicts([FACTS[0], replace(FACTS[0], target="w50")])
    with pytest.raises(DataError, match="unknown method 'rom'. Did you mean 'rome'"):
        preset("rom", tiny("llama"))
    with pytest.raises(DataError, match="ace needs a layer selection; make one with"):
        preset("ace", tiny("llama"))
    with pytest.raises(DataError, match="the package has no layers; choose those of"):
        edit(tiny("llama"), FACTS[:1], "ace")


@pytest.mark.parametrize("name", ["ifmet-2", "ft-nas", "ace-2"])
def test_a_listed_method_without_settings_is_not_taken_for_another(name: str, monkeypatch):
    monkeypatch.setattr(presets, "METHODS", (*METHODS, name))
    with pytest.raises(ValueError, match=f"no settings of method '{name}'"):
        preset(name, tiny("llama"), LayerSelection((0, 1), (2,)))


def test_a_subject_without_a_token_of_its_own_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr("circuits.editing.editor.moments_for", None)
    with pytest.raises(DataError, match="'w1' ends inside a token of 'w3 w12 w4'; write a prompt"):
        edit(tiny("llama"), [Fact("w3 {}2 w4", "w1", "w40")], "rome")


# --- keys, rows and the search -----------------------------------------------------------------


def test_rows_under_their_own_changes_equal_changed_weights():
    model = interp.load_model(tiny_hf("gemma3"), tokenizer=word_tokenizer())
    a = model.arch
    torch.manual_seed(0)
    edits = [
        (Change("mlp_post", i, torch.randn(a.d_model, 2), torch.randn(a.d_mlp, 2)),) for i in (1, 2)
    ]
    prompts = edit_prompts(model, FACTS[0], "cloze", "last", TEMPLATES)
    owner = torch.tensor([0, 1])
    got = outputs_at(model, prompts, ("resid_post", 3), edits, owner)
    for i, changes in enumerate(edits):
        made = Edit((FACTS[0],), changes, "test", model.name, model.weights_hash)
        with made.applied(model):
            want = outputs_at(model, [prompts[i]], ("resid_post", 3), [()], torch.tensor([0]))
        torch.testing.assert_close(got[i], want[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj", "gpt2", "qwen3"])
def test_a_batched_search_equals_plain_loops_over_whole_prompts_of_each_fact(family: str):
    model = tiny(family)
    options = Search(steps=5, clamp=2, kl=0.5)
    given = [prompts_of(model, fact) for fact in FACTS]
    owner = torch.zeros(3).long()
    ours = search_targets(model, given, [("mlp_post", 1)], options, [()], owner)
    for i, fact in enumerate(given):
        plain = whole_prompts(model, fact, 1, options)
        assert float(plain.delta.norm()) > 0
        torch.testing.assert_close(ours.delta[i], plain.delta[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(ours.initial[i], plain.initial[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.p[i], plain.p[0], atol=1e-5, rtol=1e-3)
        assert int(ours.steps[i]) == int(plain.steps[0])


def test_facts_that_are_done_early_keep_what_they_would_have_alone():
    model = sharp("llama")
    facts = [prompts_of(model, fact, "last") for fact in FACTS]
    places, options = [("mlp_post", 1)], Search(steps=60, clamp=30)
    together = search_targets(model, facts, places, options, [()], torch.zeros(3).long())
    assert len(set(together.steps.tolist())) == 3
    for i, fact in enumerate(facts):
        alone = search_targets(model, [fact], places, options, [()], torch.zeros(1).long())
        assert int(together.steps[i]) == int(alone.steps[0])
        torch.testing.assert_close(together.delta[i], alone.delta[0], atol=1e-3, rtol=1e-3)


def test_the_search_reaches_its_targets_and_counts_their_probability():
    model = sharp("llama")
    facts = [prompts_of(model, replace(fact, target="w40"), "last") for fact in FACTS]
    found = search_targets(
        model, facts, [("mlp_post", 1)], Search(steps=60, clamp=30), [()], torch.zeros(3).long()
    )
    assert float(found.p.min()) > 0.8
    (first,) = facts[0].learn[:1]

    def add(x, out):
        new = torch.zeros_like(out)
        new[:, first.anchor] = found.delta[0, 0]
        return out + new

    with torch.no_grad(), rewriting(model, [("mlp_post", 1, add)]):
        logits = model.hf(torch.tensor([first.ids])).logits[0, -2]
    assert float(logits.softmax(-1)[first.ids[-1]]) == pytest.approx(float(found.p[0]), abs=1e-4)


def test_a_search_keeps_within_its_clamp_and_gets_more_room_where_the_target_is_not_said():
    model = tiny("gemma2")
    found = search_targets(
        model,
        [prompts_of(model, FACTS[0])],
        [("mlp_post", 1)],
        Search(steps=12, lr=1.0, clamp=0.5),
        [()],
        torch.zeros(1).long(),
    )
    ratio = float(found.delta.norm() / found.initial.norm())
    assert int(found.steps) == ROUNDS * 12 and float(found.p) < 0.5
    assert ratio == pytest.approx(0.5 * 2 ** (ROUNDS - 1), rel=1e-4)
    model = sharp("llama")
    facts, place = [prompts_of(model, FACTS[0], "last")], [("mlp_post", 1)]
    zero = torch.zeros(1).long()
    tight, wide = (
        search_targets(model, facts, place, Search(steps=30, clamp=clamp, until=9.0), [()], zero)
        for clamp in (0.5, 30.0)
    )
    # the mean is below `until` from the first step on: it is being said that ends the search
    assert 0 < int(wide.steps) < 30 < int(tight.steps) < 90
    assert min(float(tight.p), float(wide.p)) > 0.5


def test_a_target_is_said_where_it_ends(monkeypatch):
    """A word that goes on is another word: "mat" is not said by "matatu"."""
    model = sharp("llama")
    given, zero = prompts_of(model, FACTS[0], "last"), torch.zeros(1).long()
    options = Search(steps=60, clamp=30)
    place = [("mlp_post", 1)]

    def after(found, prompt):
        """What follows the target, under the vector found."""

        def add(x, out):
            new = torch.zeros_like(out)
            new[:, prompt.anchor] = found.delta[0, 0]
            return out + new

        with torch.no_grad(), rewriting(model, [("mlp_post", 1, add)]):
            return model.hf(torch.tensor([prompt.ids])).logits[0, -1].softmax(-1)

    free = search_targets(model, [given], place, options, [()], zero)
    likely = after(free, given.learn[0]).topk(40).indices
    goes_on = torch.zeros(model.unembed.weight.shape[0], dtype=torch.bool)
    goes_on[likely] = True
    monkeypatch.setattr("circuits.editing.targets.continuing_tokens", lambda _: goes_on)
    bound = search_targets(model, [given], place, options, [()], zero)
    assert float(after(free, given.learn[0])[goes_on].sum()) > 0.5
    assert float(after(bound, given.learn[0])[goes_on].sum()) < 0.5
    monkeypatch.setattr("benchmarks.edit_cost.continuing_tokens", lambda _: goes_on)
    plain = whole_prompts(model, given, 1, options)
    torch.testing.assert_close(bound.delta, plain.delta, atol=1e-3, rtol=1e-3)
    assert bound.steps.tolist() == plain.steps.tolist()


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_tokens_that_go_on_with_a_word_are_told_from_those_that_do_not(name: str):
    tokenizer = AutoTokenizer.from_pretrained(builtin.pull(name))
    goes_on = continuing_tokens(SimpleNamespace(tokenizer=tokenizer, n_vocab=len(tokenizer) + 7))
    assert goes_on.shape == (len(tokenizer) + 7,)

    def said(text: str) -> bool:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(goes_on[ids[0]])

    assert [said(text) for text in ("atu", "derry", "London", "s", "1", "é")] == [True] * 6
    assert [said(text) for text in (" at", " London", ".", ",", "\n", "-")] == [False] * 6


# --- writing -----------------------------------------------------------------------------------


# memit is alphaedit in another metric, pmet a stage of ifmet; the other ace presets reorder stages
@pytest.mark.parametrize(
    "name", ["ft", "locft-bf", "ultraedit", "rome", "alphaedit", "ifmet", "ace", "ace-released"]
)
def test_many_edits_at_once_are_each_as_if_alone(name: str, moments_of):
    # in float64, for Adam makes much of rounding where a target is out of reach
    model = interp.load_model(tiny_hf("gemma3").double(), tokenizer=word_tokenizer())
    method = preset(name, model, LayerSelection((0, 1), (2,)))
    moments = moments_of(model, method)
    kept = (PreservedQuestion("w4 w33 w5", "w33"), PreservedQuestion("w4 w34 w5", "w34"))
    requests = [Request((FACTS[0],), kept), Request((FACTS[1],)), Request(FACTS[:2], kept[:1])]
    together = write(model, requests, method, moments, TEMPLATES)
    for request, got in zip(requests, together, strict=True):
        (alone,) = write(model, [request], method, moments, TEMPLATES)
        assert len(got.changes) == len(alone.changes) > 0
        for one, other in zip(got.changes, alone.changes, strict=True):
            torch.testing.assert_close(one.matrix, other.matrix, atol=1e-6, rtol=1e-5)


def test_rome_writes_its_target_exactly(moments_of):
    model = tiny("llama")
    method = preset("rome", model)
    (stage,) = method.stages
    assert isinstance(stage, Stage)
    place = ("mlp_post", stage.layers[0])
    (got,) = write(model, [Request(FACTS[:1])], method, moments_of(model, method))
    bare, zero = prompts_of(model, FACTS[0], templates=("{}",)), torch.tensor([0])
    prompts = bare.learn
    found = search_targets(model, [bare], [place], stage.search, [()], zero)
    before = outputs_at(model, prompts, place, [()], zero)
    after = outputs_at(model, prompts, place, [got.changes], zero)
    (change,) = got.changes
    assert torch.linalg.matrix_rank(change.matrix) == 1
    key = keys_at(model, prompts, [place], [()], zero)[place][0].double()
    want = found.delta[0, 0].double()
    torch.testing.assert_close(change.matrix.double() @ key, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close((after - before)[0].double(), want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("spread", ["linear", "sqrt"])
def test_the_residual_shrinks_layer_by_layer(spread, moments_of):
    model = tiny("llama")
    stage = Stage(
        (0, 1, 2), target="resid" if spread == "linear" else "mlp", spread=spread, rho=1e-3
    )
    aim = ("resid_post", 2) if spread == "linear" else ("mlp_post", 2)
    method = Method("test", (stage,))
    (got,) = write(model, [Request(FACTS[:1])], method, moments_of(model, method))
    bare, zero = prompts_of(model, FACTS[0], templates=("{}",)), torch.tensor([0])
    found = search_targets(model, [bare], [aim], stage.search, [()], zero)
    goal = (found.initial + found.delta)[0, 0]
    left = [
        float((goal - outputs_at(model, bare.learn, aim, [got.changes[:n]], zero)[0]).norm())
        for n in range(4)
    ]
    assert left[3] < 0.2 * left[0]


def test_a_stage_without_prompts_is_noted(moments_of):
    model = tiny("llama")
    method = preset("ace", model, LayerSelection((0,), (2,)))
    (got,) = write(model, [Request((FACTS[2],))], method, moments_of(model, method))
    assert {c.layer for c in got.changes} == {0}
    assert got.skipped == ("stage 0: 'w1 w13 w14 w15 w2 w3' has no two_hop prompts",)
    assert got.p[0][0] != got.p[0][0]  # nan


def test_queries_written_first_store_a_fact_whatever_its_implicit_names(moments_of):
    """Behind value neurons the fact would be said already, and nothing stored for later hops."""
    model = tiny("llama")
    method = preset("ace-query-first", model, LayerSelection((0,), (2,)))
    moments = moments_of(model, method)
    (named,) = write(model, [Request((FACTS[0],))], method, moments)
    (bare,) = write(model, [Request((replace(FACTS[0], implicit=()),))], method, moments)
    assert {c.layer for c in named.changes} == {0, 2}
    early = [c for c in named.changes if c.layer == 0]
    assert len(early) == len(bare.changes) > 0
    for one, other in zip(early, bare.changes, strict=True):
        assert torch.equal(one.matrix, other.matrix)
    assert named.p[0] == bare.p[0]


def test_own_samples_are_drawn_from_the_model(monkeypatch):
    monkeypatch.setattr(moments, "WINDOW", 8)
    model, n = sharp("llama", 3), 400
    rows = own_samples(model, n * 8, seed=1)
    assert len(rows) == n and {len(row.ids) for row in rows} == {1 + 8}
    assert rows == own_samples(model, n * 8, seed=1)
    first = torch.tensor([row.ids[:3] for row in rows])
    assert len(set(first[:, 0].tolist())) == 1
    stop = model.hf.generation_config.eos_token_id
    assert stop not in {token for row in rows for token in row.ids[1:]}
    with torch.no_grad():
        logits = model.hf(first[:, :2]).logits.float()
    logits[..., stop] = -torch.inf
    for at in (0, 1):  # counts of each token against the sum of its probabilities, row by row
        p = logits[:, at].softmax(-1)
        counts = torch.bincount(first[:, at + 1], minlength=p.shape[1])
        z = (counts - p.sum(0)) / (p * (1 - p)).sum(0).clamp(min=1e-9).sqrt()
        assert float(z[p.sum(0) > 5].abs().max()) < 4.5
        assert (p.sum(0) > 5).sum() > 5


def test_samples_are_kept_for_other_moments_and_no_layer_above_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "WINDOW", 8)
    model, seen, above = sharp("llama", 3), list[tuple[int, int]](), list[int]()

    def taken(place):
        options = {"cache": tmp_path, "progress": lambda *both: seen.append(both)}
        return second_moments(model, [place], n_tokens=64, **options)[place]

    taken(("mlp_post", 0))
    assert seen[-1] == (128, 128)  # sampled and read
    monkeypatch.setattr(moments, "own_samples", None)
    model.blocks[2].get_submodule("mlp").register_forward_hook(lambda *_: above.append(2))
    got = taken(("mlp_post", 1))
    assert seen[-1] == (64, 64) and not above
    monkeypatch.setattr(moments, "separable", lambda model: False)
    rows = own_samples(model, 64)
    assert torch.equal(got, moments._streamed(model, [("mlp_post", 1)], rows, print)["mlp_post", 1])
    assert above


def test_moments_are_means_over_text_and_cached(tmp_path):
    model = tiny("qwen2")
    places = [("mlp_post", 1), ("z", 0)]
    got = second_moments(model, places, texts(), 500, cache=tmp_path)
    ids = [model.encode(t) for t in texts()]
    rows, n = [], 0
    for row in ids:
        rows.append(row)
        n += len(row)
        if n >= 500:
            break
    keys = []
    module = model.blocks[1].get_submodule("mlp.down_proj")
    hook = module.register_forward_pre_hook(lambda _, args: keys.append(args[0][0, 1:]))
    with torch.no_grad():
        for row in rows:
            model.hf(torch.tensor([row]))
    hook.remove()
    k = torch.cat(keys).double()
    torch.testing.assert_close(got["mlp_post", 1], k.T @ k / len(k), atol=1e-4, rtol=1e-4)
    files = sorted(tmp_path.rglob("*.safetensors"))
    files[0].write_bytes(b"half")
    again = second_moments(model, places, texts(), 500, cache=tmp_path)
    for place in places:
        assert torch.equal(again[place], got[place])  # one is kept, one is fresh


# --- asking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj"])
def test_shared_prefixes_and_leaving_rows_change_no_answer(family: str):
    model = tiny(family)
    prefix = "w1 w2 w3 w4 w5"
    rests = ("w6 w7", "w8", "w9 w10 w11")
    asks = [Ask(0, f"{prefix} {rest}", prefix, n_tokens=3 + i) for i, rest in enumerate(rests)]
    asks += [Ask(1, f"w50 w51 {rest}", "w50 w51", n_tokens=5) for rest in ("w6", "w8 w9")]
    got = generations(model, asks, [(), ()])
    for ask, said in zip(asks, got, strict=True):
        (plain,) = interp.generate(model, [ask.text], max_new_tokens=ask.n_tokens)
        assert said == plain.text.strip()


def test_a_reply_ends_at_its_stop():
    model, text = tiny("llama"), "w1 w2 w3"
    (whole,) = generations(model, [Ask(0, text, n_tokens=8)], [()])
    words = whole.split()
    at = next(i for i in range(1, 8) if words[i] not in words[:i])
    (cut,) = generations(model, [Ask(0, text, stop=words[at], n_tokens=8)], [()])
    assert cut.split() == words[:at]


# --- edits as objects --------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    model = sharp("llama")
    method = Method(
        "test", (Stage((1,), anchor="last", rho=0.01, search=Search(steps=60, clamp=30)),)
    )

    def make(fact: Fact) -> Edit:
        return edit(model, [fact], method, n_tokens=600)

    return model, make


def weights(model):
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_apply_and_undo_in_any_order_are_bit_exact(made):
    model, make = made
    first, second = make(FACTS[0]), make(FACTS[2])
    before = weights(model)
    first.apply(model)
    only_first = weights(model)
    second.apply(model)
    assert [e.id for e in ledger(model).applied] == [first.id, second.id]
    second.undo(model)
    assert same(weights(model), only_first)
    second.apply(model)
    first.undo(model)
    second.undo(model)
    assert same(weights(model), before) and not ledger(model).originals
    with pytest.raises(ZeroDivisionError), first.applied(model):
        assert not same(weights(model), before)
        raise ZeroDivisionError
    assert same(weights(model), before)


def test_what_was_made_on_top_needs_what_was_below(made):
    model, make = made
    first = make(FACTS[0])
    first.apply(model)
    second = make(FACTS[2])
    assert second.after == (first.id,)
    second.apply(model)
    with pytest.raises(DataError, match="undo it first"):
        first.undo(model)
    second.undo(model)
    first.undo(model)
    with pytest.raises(DataError, match="apply that one first"):
        second.apply(model)
    with pytest.raises(DataError, match="is not applied"):
        second.undo(model)
    first.apply(model)
    with pytest.raises(DataError, match="is already applied"):
        first.apply(model)


def test_a_saved_edit_comes_back_and_is_refused_by_another_model(made, tmp_path):
    model, make = made
    one = make(FACTS[0])
    one.save(tmp_path / "one")
    back = Edit.load(tmp_path / "one")
    assert back.id == one.id and back.facts == one.facts and back.p == one.p
    other = interp.load_model(tiny_hf("qwen2"), tokenizer=word_tokenizer())
    before = weights(other)
    with pytest.raises(DataError, match="was made for"):
        back.apply(other)
    assert same(weights(other), before)


def test_merged_edits_do_what_both_did(made, tmp_path):
    model, make = made
    first, second = make(FACTS[0]), make(FACTS[2])
    both = merge([first, second])
    first.apply(model)
    second.apply(model)
    want = weights(model)
    second.undo(model)
    first.undo(model)
    with both.applied(model):
        assert same(weights(model), want)
        export(model, tmp_path / "out")
    again = interp.load_model(str(tmp_path / "out"))
    assert same(weights(again), want)
    with pytest.raises(DataError, match="is to become both"):
        merge([first, make(replace(FACTS[0], target="w60"))])
    with pytest.raises(RunFolderError, match="exists"):
        export(model, tmp_path / "out")
    with pytest.raises(DataError, match="cannot write .*Not a directory"):
        export(model, tmp_path / "out" / "config.json" / "below")


def test_a_fact_that_is_held_already_or_not_reached_is_refused(made):
    model, make = made
    fact = FACTS[0]
    (said,) = generations(model, [Ask(0, fact.cloze, n_tokens=1)], [()])
    with pytest.raises(DataError, match="already continues"):
        make(replace(fact, target=said))
    weak = Method("weak", (Stage((1,), search=Search(steps=1, clamp=0.01)),))
    with pytest.raises(DataError, match="reached only p = 0.0"):
        edit(model, [fact], weak, n_tokens=600)
    with pytest.raises(DataError, match="there is no fact"):
        edit(model, [], weak)


def test_an_edit_prompt_knows_its_end():
    prompt = EditPrompt((1, 2, 3, 4), anchor=1, n_target=2)
    assert prompt.key_tokens.ids == (1, 2)
    assert (prompt.read_tokens.ids, prompt.n_tail) == ((1, 2, 3), 2)
    kept = replace(prompt, n_target=0)
    assert (kept.read_tokens.ids, kept.n_tail) == ((1, 2), 1)
    model = tiny("llama")
    with torch.no_grad(), under(model, [()], torch.tensor([0])):
        pass


def test_moments_of_an_edited_model_are_not_kept_as_the_plain_ones(made, tmp_path):
    model, make = made
    one, place = make(FACTS[0]), ("mlp_post", 2)
    plain = second_moments(model, [place], texts(), 500, cache=tmp_path)[place]
    with one.applied(model):
        edited = second_moments(model, [place], texts(), 500, cache=tmp_path)[place]
    again = second_moments(model, [place], texts(), 500, cache=tmp_path)[place]
    assert float((plain - edited).abs().max()) > 1e-4
    assert torch.equal(again, plain)
