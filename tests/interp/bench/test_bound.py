"""The bound counts the tokens that a sweep computes, no more and no fewer."""

import pytest
from conftest import tiny, word_pairs

import interp
from interp.bench import baselines
from interp.bench.bound import bound_seconds, tokens_needed
from interp.data.pairs import PromptPairs, tokenise
from interp.forward import packed

SWEEPS = [("resid_pre", ("layer", "pos")), ("z", ("layer", "head"))]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize(("site", "over"), SWEEPS)
def test_the_bound_counts_what_the_packed_batch_holds(family, site, over, monkeypatch):
    model, computed = tiny(family), []
    pair = tokenise(model, interp.load_pairs(word_pairs()))[0][2]
    assert 0 < pair.first_difference < len(pair.clean) - 1
    run = packed._packed

    def counting(model, calls, pack):
        computed.extend(pack.n_tokens(n) for n in pack.rows.entry[: model.arch.n_layers])
        return run(model, calls, pack)

    monkeypatch.setattr(packed, "_packed", counting)
    interp.patch(model, PromptPairs((pair.pair,), "here"), site=site, over=over)
    assert tokens_needed(model, pair, over) == computed
    took = bound_seconds(model, pair, over)
    assert took.wall > 0
    assert took.cpu > 0


@pytest.mark.parametrize("over", ["layer,pos", "layer,head"])
def test_a_sweep_is_timed_beside_plain_hooks(over: str):
    report = baselines.bench_sweep(tiny("llama"), interp.load_pairs(word_pairs()), ["hooks"], over)
    assert report["baselines"]["hooks"]["max_abs_error"] < 1e-4
    assert report["over_bound"] == report["seconds"] / report["bound_seconds"]
    assert report["cpu_over_bound"] > 0
