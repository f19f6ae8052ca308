"""Two patching runs compared: paired where the prompts are the same, by themselves where not."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tiny, word_pairs
from test_cli import last_json, refused

import interp
from circuits.cli.app import run
from interp.errors import PlanError
from interp.patching.result import PatchResult
from interp.statistics import bootstrap_difference, bootstrap_mean


@pytest.fixture(scope="module")
def runs() -> tuple[PatchResult, PatchResult]:
    model = tiny("llama")
    z, v = (interp.patch(model, word_pairs(), site=s, over=("layer",)) for s in ("z", "attn_out"))
    return z, v


def test_the_same_pairs_are_compared_pair_by_pair(runs):
    a, b = runs
    found = a.compare(b)
    assert found.attrs["paired"] is True
    assert found.attrs["differ"] == {"site": ["z", "attn_out"]}
    last = interp.patch(tiny("llama"), word_pairs(), site="z", over=("layer",), at="last")
    assert a.compare(last).attrs["differ"] == {"at": ["all", "last"]}
    assert a.compare(a).attrs["differ"] == {}
    shifts = [one.values.values - one.corrupt.values[:, None] for one in runs]
    value, low, high = bootstrap_mean(shifts[1] - shifts[0])
    assert found["difference"].to_numpy() == pytest.approx(value)
    assert found["low"].to_numpy() == pytest.approx(low)
    assert found["high"].to_numpy() == pytest.approx(high)
    assert found["first"].to_numpy() == pytest.approx(shifts[0].mean(0))
    assert (a.compare(a)["difference"] == 0).all() and (a.compare(a)["high"] == 0).all()


def test_other_questions_about_the_same_prompts_are_named(runs):
    rows = [asdict(pair) | {"answer": "w50"} for pair in word_pairs()]
    other = interp.patch(tiny("llama"), rows, site="z", over=("layer",))
    found, unpatched = runs[0].compare(other).attrs, [float(one.clean.mean()) for one in runs]
    assert found["paired"] is True
    assert [*found["differ"]] == ["mean clean logit_diff", "mean corrupt logit_diff"]
    two = found["differ"]["mean clean logit_diff"]
    assert two == pytest.approx([unpatched[0], float(other.clean.mean())])
    first = [asdict(pair) | {"answer": "w50 w51"} for pair in word_pairs()]
    a, b = (
        interp.patch(tiny("llama"), first, site="z", over=("layer",), answers=one)
        for one in ("whole", "first")
    )
    assert [*a.compare(b).attrs["differ"]] == ["answers"]


def test_other_pairs_are_resampled_by_themselves(runs, smollm):
    a, _ = runs
    half = interp.patch(tiny("llama"), word_pairs()[:2], site="z", over=("layer",))
    found = a.compare(half)
    assert found.attrs["paired"] is False
    assert (found["low"] <= found["difference"]).all()
    assert (found["difference"] <= found["high"]).all()


def test_the_unpaired_interval_covers_and_is_wider_than_the_paired_one():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 1))
    a, b = base + rng.normal(size=(60, 5)) * 0.1, base + 1 + rng.normal(size=(60, 5)) * 0.1
    paired, apart = (bootstrap_difference(a, b, one) for one in (True, False))
    assert paired.value == pytest.approx(apart.value) and apart.value == pytest.approx(1, abs=0.1)
    assert ((apart.high - apart.low) > 3 * (paired.high - paired.low)).all()
    expected = 2 * 1.96 * np.sqrt(a.var(0, ddof=1) / 60 + b.var(0, ddof=1) / 60)
    assert apart.high - apart.low == pytest.approx(expected, rel=0.1)
    one = bootstrap_difference(a[:1], b, False)
    assert (one.low == -np.inf).all() and (one.high == np.inf).all()


def test_runs_that_cannot_be_compared_are_refused(runs):
    a, _ = runs
    heads = interp.patch(tiny("llama"), word_pairs(), site="z", over=("layer", "head"))
    with pytest.raises(PlanError, match="the axes differ"):
        a.compare(heads)
    prob = interp.patch(tiny("llama"), word_pairs(), site="z", over=("layer",), metric="prob")
    with pytest.raises(PlanError, match="the metric differs: logit_diff and prob"):
        a.compare(prob)


def test_cells_of_one_run_only_are_shown(runs):
    a, _ = runs
    first = interp.patch(tiny("llama"), word_pairs(), site="z", over=("layer",), layers=[0])
    found = a.compare(first)
    assert len(found) == a.values.sizes["layer"]
    assert found["difference"].notna().tolist() == [True] + [False] * (len(found) - 1)


def test_the_command_line_compares_real_weights(tmp_path: Path, smollm, capsys, monkeypatch):
    pairs = interp.load_pairs(ROOT / "datasets" / "country_capitals.jsonl")[:4]
    folders = [str(tmp_path / name) for name in ("attn", "mlp")]
    for path, site in zip(folders, ("attn_out", "mlp_out"), strict=True):
        result = interp.patch(smollm, pairs, site=site, over=("layer",), layers=[10, 28])
        result.save(path)
    assert run(["compare", *folders, "--json"]) == 0
    said = last_json(capsys.readouterr().out)
    assert said["differ"] == {"site": ["attn_out", "mlp_out"]}
    assert said["paired"] is True and len(said["cells"]) == 2
    sizes = [abs(cell["difference"]) for cell in said["cells"]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    assert run(["compare", *folders]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "paired: both runs measure the same 4 pairs" in text
    assert "the runs differ in site: attn_out and mlp_out" in text
    assert "no run folder" in refused(capsys, "compare", folders[0], str(tmp_path / "none"))
