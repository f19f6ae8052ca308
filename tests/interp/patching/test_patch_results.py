"""Results by hand computation, run folders that are whole or absent, and runs that resume."""

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny, word_pairs
from patch_examples import LEFT_OUT, NAN, TOKENS, made, same, small

import interp
from interp.errors import DegenerateGap, RunFolderError
from interp.patching.result import PatchResult

NORMALISED = [[0.0, 3 / 8, 1.0], [6 / 8, 1 / 8, 3 / 4]]


# --- values by hand ----------------------------------------------------------------------------


def test_normalised_is_a_ratio_of_means_between_corrupt_and_clean():
    result = small().normalised()
    # shifts against corrupt, summed over the pairs that have the cell, over the same gaps of 4
    np.testing.assert_allclose(result["mean"], NORMALISED)
    assert result["mean"].dims == ("layer", "pos")
    assert list(result["layer"].values) == [0, 5]
    assert (result["low"].values <= result["mean"].values).all()
    assert (result["high"].values >= result["mean"].values).all()
    assert np.isinf(result["low"].values[:, 2]).all()
    np.testing.assert_allclose(small("noise").normalised()["mean"], NORMALISED)


def test_normalised_refuses_an_empty_gap():
    flat = dataclasses.replace(small(), corrupt=small().clean + [1.0, -1.0])
    with pytest.raises(DegenerateGap, match="degenerate clean/corrupt gap: mean 0 logits"):
        flat.normalised()


def test_effect_is_the_change_of_the_run_that_was_patched():
    np.testing.assert_allclose(small().effect()["mean"], [[0, 1.5, 4], [3, 0.5, 3]])
    np.testing.assert_allclose(small("noise").effect()["mean"], [[-4, -2.5, 0], [-1, -3.5, -1]])
    np.testing.assert_allclose(small().mean()["mean"], [[-1, 0.5, 4], [2, -0.5, 3]])


def test_top_lists_the_strongest_cells_first():
    top = small().top(4)
    columns = ["layer", "pos", "token", "effect", "low", "high", "normalised"]
    assert list(top.columns) == columns
    cells = list(zip(top["layer"], top["pos"], strict=True))
    assert cells == [(0, 2), (5, 0), (5, 2), (0, 1)]
    np.testing.assert_allclose(top["effect"], [4, 3, 3, 1.5])
    np.testing.assert_allclose(top["normalised"], [1, 6 / 8, 3 / 4, 3 / 8])
    assert list(top["token"]) == [" sat", "The", " sat", "⟨cat, …⟩"]
    assert len(small().top(100)) == 6
    noise = small("noise").top(2)
    np.testing.assert_allclose(noise["effect"], [-4, -3.5])


def test_equal_cells_come_by_layer_and_position_whatever_the_axes():
    layers, pos = [5, 0, 3], [0, 1, 2]
    values = np.full((2, 3, 3), 2.0)
    values[:, 1, 2] = 3
    by_layer = made(values, ("layer", "pos"), layer=layers, pos=pos)
    by_pos = made(values.transpose(0, 2, 1), ("pos", "layer"), layer=layers, pos=pos)
    cells = [(0, 2), (0, 0), (0, 1), (3, 0), (3, 1), (3, 2), (5, 0), (5, 1), (5, 2)]
    for result in (by_layer, by_pos):
        top = result.top(9)
        assert list(zip(top["layer"], top["pos"], strict=True)) == cells
    heads = made(values, ("layer", "head"), layer=layers, head=[2, 1, 0])
    assert list(heads.top(3)["head"]) == [0, 1, 2]


def test_cells_within_rounding_of_the_strongest_are_named():
    assert small().top(1).attrs["near_ties"] == small().summary()["near_ties"] == ""
    values = np.array(small().values)
    values[0, 1, 2] = values[0, 0, 2] - 1e-6  # of logits of 4, in float32
    near = dataclasses.replace(small(), values=small().values.copy(data=values))
    said = "Within rounding of layer 0, pos 2: layer 5, pos 2."
    assert near.top(1).attrs["near_ties"] == near.summary()["near_ties"] == said
    assert near.report().lead.endswith(f"(normalised effect 1.000). {said}")
    assert near.carriers().attrs["near_ties"] == "Within rounding of layer 0: layer 5 (pos 2)."
    alike = dataclasses.replace(near, tokens=(TOKENS[0],) * 2)
    assert "layer 0: layer 5 (pos 2)." in alike._repr_html_()
    exact = dataclasses.replace(near, provenance={"dtype": "torch.float64"})
    assert exact.top(1).attrs["near_ties"] == exact.carriers().attrs["near_ties"] == ""
    assert interp.patch(tiny("gpt2"), word_pairs()).provenance["dtype"] == "torch.float32"


def test_top_leaves_out_cells_that_no_pair_has():
    one = small().select("b")
    assert len(one.top(100)) == 4
    assert set(one.top(100)["pos"]) == {0, 1}


def test_axes_without_tokens_have_no_token_column():
    values = np.arange(12.0).reshape(2, 2, 3)
    result = made(values, ("span", "head"), span=["subject", "last"])
    assert list(result.top(1).columns)[:3] == ["span", "head", "effect"]
    assert result.top(1)["span"].tolist() == ["last"]
    assert result.over == ("span", "head")


def test_to_frame_has_a_row_for_each_cell_of_each_pair():
    frame = small().to_frame()
    assert len(frame) == 10
    row = frame[(frame["pair"] == "b") & (frame["layer"] == 5) & (frame["pos"] == 1)].iloc[0]
    assert (row["value"], row["clean"], row["corrupt"], row["token"]) == (-1.5, 2, -2, " dog")
    assert set(frame.columns) == {"pair", "layer", "pos", "token", "value", "clean", "corrupt"}


def test_position_labels_are_the_shared_token_the_span_or_an_example():
    result = small()
    assert result.position_labels() == ["The", "⟨cat, …⟩", " sat"]
    roles = tuple(("", "noun", "")[: len(row)] for row in result.tokens)
    assert dataclasses.replace(result, roles=roles).position_labels()[1] == "⟨noun⟩"
    blank = dataclasses.replace(result, tokens=(("The", " ", " sat"), ("The", " dog")))
    assert blank.position_labels()[1] == "⟨' ', …⟩"
    middle = dataclasses.replace(result, values=result.values.where(result.values["pos"] == 1))
    assert "The strongest cell is layer 0, token 1, token ⟨cat, …⟩: " in middle.report().lead


def test_select_keeps_one_pair_and_everything_else():
    one = small().select("b")
    assert (one.n_pairs, one.tokens) == (1, (TOKENS[1],))
    np.testing.assert_array_equal(one.values, small().values[1:])
    assert (float(one.clean[0]), float(one.corrupt[0])) == (2, -2)
    np.testing.assert_allclose(one.normalised()["mean"], [[0, 0.5, NAN], [1, 1 / 8, NAN]])
    assert (one.model, one.excluded, one.seconds) == ("a model", LEFT_OUT, 1.23456)
    with pytest.raises(KeyError, match="no pair 'c'; this result has a, b"):
        small().select("c")


def test_summary_is_what_was_measured_and_what_came_out():
    summary = small().summary()
    assert summary["dims"] == ["layer", "pos"]
    assert summary["shape"] == [2, 3]
    assert (summary["clean_metric"], summary["corrupt_metric"]) == (3, -1)
    assert summary["excluded"] == [
        {"id": "bad", "where": "p.jsonl, row 3", "reason": LEFT_OUT[0].reason}
    ]
    assert summary["top"][0]["effect"] == 4
    assert "resid_pre on a model, layer 2 x pos 3; 2 pairs, 1 excluded" in repr(small())


# --- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "middle"), [("denoise", 0), ("noise", 1)])
def test_two_axes_are_a_heatmap(direction: str, middle: float):
    figure = small(direction).plot()
    (heat,) = figure.data
    np.testing.assert_allclose(heat.z, NORMALISED)
    assert (heat.zmin + heat.zmax) / 2 == pytest.approx(middle)
    assert heat.zmax - middle == pytest.approx(np.abs(np.array(NORMALISED) - middle).max())
    assert figure.layout.xaxis.ticktext == ("0 The", "1 ⟨cat, …⟩", "2 sat")
    assert figure.layout.yaxis.ticktext == ("0", "5")
    low = small(direction).normalised()["low"].values
    np.testing.assert_allclose(np.array(heat.customdata)[..., 0], low)
    assert "mean of 2 pairs" in figure.layout.title.text


def test_one_pair_is_drawn_alone():
    figure = small().plot("a")
    np.testing.assert_allclose(figure.data[0].z, [[0, 0.25, 1], [0.5, 0.125, 0.75]])
    assert figure.data[0].customdata is None
    assert figure.layout.xaxis.ticktext[1] == "1 cat"
    assert "pair a" in figure.layout.title.text


def test_one_axis_is_a_curve_with_its_interval():
    values = [[0.0, 1.0, 4.0], [-2.0, 1.0, 2.0]]
    result = made(values, ("layer",))
    band, curve = result.plot().data
    np.testing.assert_allclose(curve.y, [0, 0.5, 1])
    scaled = result.normalised()
    np.testing.assert_allclose(band.y, [*scaled["high"].values, *scaled["low"].values[::-1]])
    (alone,) = result.plot("b").data
    np.testing.assert_allclose(alone.y, [0, 3 / 4, 1])


@pytest.mark.parametrize(("direction", "unchanged"), [("denoise", 0), ("noise", 1)])
def test_of_three_axes_the_last_is_shown_at_its_strongest_cell(direction: str, unchanged: float):
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    result = made(values, ("layer", "pos", "head"), direction)
    table = result.normalised()["mean"].values
    (heat,) = result.plot().data
    for layer in range(2):
        for pos in range(3):
            heads = table[layer, pos]
            assert heat.z[layer][pos] == heads[np.abs(heads - unchanged).argmax()]


def test_three_axes_of_a_short_pair():
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    values[1, :, 2] = NAN
    assert np.isnan(made(values, ("layer", "pos", "head")).plot("b").data[0].z[0][2])


def test_the_notebook_page_names_the_metric_and_what_was_left_out():
    text = small()._repr_html_()
    assert "logit_diff (logits): 3.000 on clean, -1.000 on corrupt prompts" in text
    assert "1 row was excluded" in text
    assert "<td>bad (p.jsonl, row 3)</td>" in text
    escaped = "answer &lt;b&gt;x&lt;/b&gt; is 2 tokens [&#39;a&#39;, &#39;b&#39;] &amp; more"
    assert escaped in text
    assert "<b>x</b>" not in text
    whole = dataclasses.replace(small(), excluded=())._repr_html_()
    assert "No row was excluded." in whole


def test_a_page_escapes_its_title_and_command():
    result = dataclasses.replace(small(), provenance={"command": ["interp", "<x>"], "seed": 3})
    text = dataclasses.replace(result, source="<i>").report().html()
    assert "<h1>resid_pre on a model, &lt;i&gt;</h1>" in text
    assert "<code>interp &#39;&lt;x&gt;&#39;</code>" in text


# --- run folders -------------------------------------------------------------------------------

SHAPES = {
    "layer,pos": lambda: small(),
    "span,neuron": lambda: made(
        np.random.default_rng(1).normal(size=(2, 2, 2)),
        ("span", "neuron"),
        span=["s", "last"],
        neuron=["0-9", "10-19"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_folder_gives_back_exactly_what_was_saved(tmp_path: Path, shape: str):
    result = SHAPES[shape]()
    out = result.save(tmp_path / "deep" / "run", {"seed": 5})
    loaded = PatchResult.load(out)
    same(loaded, result)
    assert loaded.provenance["seed"] == 5
    assert {"made", "command", "git", "python", "versions"} <= set(loaded.provenance)
    pd.testing.assert_frame_equal(loaded.top(), result.top())
    again = PatchResult.load(loaded.save(tmp_path / "again"))
    same(again, result)
    assert again.provenance["seed"] == 5


def test_saving_replaces_a_run_folder_whole(tmp_path: Path):
    out = small().save(tmp_path / "run")
    (out / "index.html").write_text("old page")
    small("noise").save(out)
    assert PatchResult.load(out).direction == "noise"
    assert not (out / "index.html").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_empty_folder_may_be_used(tmp_path: Path):
    (tmp_path / "run").mkdir()
    same(PatchResult.load(small().save(tmp_path / "run")), small())


def test_a_failed_save_leaves_nothing_and_breaks_nothing(tmp_path: Path):
    with pytest.raises(TypeError):
        small().save(tmp_path / "run", provenance={"x": object()})
    assert list(tmp_path.iterdir()) == []
    small().save(tmp_path / "run")
    with pytest.raises(TypeError):
        small("noise").save(tmp_path / "run", provenance={"x": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    same(PatchResult.load(tmp_path / "run"), small())


# --- resuming ----------------------------------------------------------------------------------


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the pairs of every call of `run_sweep`; one pair a shard."""
    calls: list[list[str]] = []

    def counted(model, sweep, pairs, *rest):
        calls.append([pair.pair.id for pair in pairs])
        return original(model, sweep, pairs, *rest)

    module = sys.modules["interp.patching.patch"]
    original = module.run_sweep
    monkeypatch.setattr(module, "run_sweep", counted)
    monkeypatch.setattr(module, "SHARD", 1)
    return calls


def test_a_killed_run_resumes_where_it_was(tmp_path: Path, sweeps: list):
    model, options = tiny("llama"), {"site": "z", "over": "layer,head", "out": tmp_path / "run"}

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interp.patch(model, word_pairs(), progress=stop, **options)
    assert sweeps == [["1"]]
    assert [p.name for p in tmp_path.iterdir()] == ["run.partial"]
    seen = []
    resumed = interp.patch(model, word_pairs(), progress=lambda *n: seen.append(n), **options)
    assert sweeps == [["1"], ["2"], ["3"]]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    whole = interp.patch(model, word_pairs(), site="z", over="layer,head")
    varying = ("values", "clean", "corrupt", "seconds")
    for name in varying[:3]:
        np.testing.assert_allclose(getattr(resumed, name), getattr(whole, name), atol=1e-5)
    same(dataclasses.replace(whole, **{k: getattr(resumed, k) for k in varying}), resumed)
    assert resumed.provenance["options"]["over"] == "layer,head"
    assert resumed.provenance["weights"] == model.weights_hash


def test_a_finished_run_is_loaded_and_another_is_refused(tmp_path: Path, sweeps: list):
    model, out = tiny("llama"), tmp_path / "run"
    first = interp.patch(model, word_pairs(), out=out)
    same(interp.patch(model, word_pairs(), out=out), first)
    others = {
        "site='resid_pre' (this one: 'z')": (model, word_pairs(), {"site": "z"}),
        "seed=0 (this one: 1)": (model, word_pairs(), {"seed": 1}),
        "pairs=3 (this one: 2) and other rows": (model, word_pairs()[:2], {}),
        "other weights and other config": (tiny("qwen2"), word_pairs(), {}),
    }
    for says, (other, pairs, options) in others.items():
        with pytest.raises(RunFolderError, match=re.escape(f"run holds a patch run with {says};")):
            interp.patch(other, pairs, out=out, **options)
    same(PatchResult.load(out), first)
    assert len(sweeps) == 3
