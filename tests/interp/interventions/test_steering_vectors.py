"""Steering vectors: what they are made of, what they do, and that files hold them exactly."""

import json

import gguf
import numpy as np
import pytest
import torch
from conftest import tiny
from plan_examples import prompts_for
from sklearn.decomposition import PCA

import interp
from interp import Add, Clamp, SteeringVector, load_contrast_pairs, steering_vector
from interp.errors import DataError, PlanError, RunFolderError
from interp.model.model import Model

FAMILIES = ("llama", "gemma3", "gpt2", "gpt_neox")
PAIRS = [(f"w1 w{i} w2 w{i + 20}", f"w3 w{i} w4 w{i + 20} w{i + 40}") for i in range(5, 17)]


def last_states(model: Model, texts, layer: int) -> np.ndarray:
    """Plain Hugging Face forwards: the stream behind a block (not the last) at the last token."""
    found = []
    for text in texts:
        ids = torch.tensor([model.encode(text)])
        with torch.no_grad():
            out = model.hf(ids, output_hidden_states=True)
        found.append(out.hidden_states[layer + 1][0, -1].double().numpy())
    return np.stack(found)


def sides(model: Model, layer: int) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = zip(*PAIRS, strict=True)
    return last_states(model, positive, layer), last_states(model, negative, layer)


def by_repeng(positive: np.ndarray, negative: np.ndarray, method: str) -> np.ndarray:
    """What repeng's `read_representations` does, with its own call of sklearn."""
    if method == "pca_diff":
        train = positive - negative
    else:
        centre = (positive + negative) / 2
        train = np.concatenate([positive - centre, negative - centre])
    direction = PCA(n_components=1).fit(train).components_[0]
    return direction if ((positive - negative) @ direction).mean() > 0 else -direction


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_difference_and_its_scale(family: str):
    model = tiny(family)
    made = steering_vector(model, PAIRS, layers=(0, 1))
    assert (made.layers, made.n_pairs, made.method) == ((0, 1), 12, "mean")
    for row, layer in enumerate(made.layers):
        positive, negative = sides(model, layer)
        wanted = (positive - negative).mean(0)
        np.testing.assert_allclose(made[layer], wanted, atol=1e-5)
        norms = np.linalg.norm(np.concatenate([positive, negative]), axis=1)
        assert made.norms is not None and made.norms[row] == pytest.approx(norms.mean(), rel=1e-5)
        # the mean coordinates of the texts themselves
    texts = {side: [pair[side] for pair in PAIRS] for side in (0, 1)}
    for side, wanted in ((0, 1.0), (1, 0.0)):
        found = made.coordinates(model, texts[side]).mean("prompt")
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        reverse = (-made).coordinates(model, texts[side]).mean("prompt")
        np.testing.assert_allclose(reverse, 1 - wanted, atol=1e-4)


@pytest.mark.parametrize("method", ["pca_diff", "pca_center"])
@pytest.mark.parametrize("family", FAMILIES)
def test_principal_components_are_repengs(family: str, method: str):
    model = tiny(family)
    made = steering_vector(model, PAIRS, layers=(0, 1), method=method)  # pyright: ignore
    for layer in made.layers:
        positive, negative = sides(model, layer)
        direction = by_repeng(positive, negative, method)
        unit = made[layer] / made[layer].norm()
        np.testing.assert_allclose(unit, direction, atol=2e-4)
        gap = ((positive - negative) @ direction).mean()
        assert float(made[layer].norm()) == pytest.approx(gap, rel=1e-3)


def test_the_held_out_order_is_that_of_pairs_left_out():
    model = tiny("llama")
    made = steering_vector(model, PAIRS, layers=1)
    positive, negative = sides(model, 1)
    apart = positive - negative
    right = 0
    for i in range(12):
        others = [j for j in range(12) if j % 10 != i % 10]
        right += apart[i] @ apart[others].mean(0) > 0
    assert made.ordered == (right,)
    table = made.table()
    assert table["held_out"].tolist() == [right / 12] and table["low"][0] < right / 12
    assert table["part_of_norm"][0] == pytest.approx(table["length"][0] / made.norms[0])


def test_the_mean_of_all_tokens_but_the_first_is_read():
    model = tiny("llama")
    made = steering_vector(model, PAIRS, layers=1, at="prompt")
    found = interp.activations(model, [text for pair in PAIRS for text in pair], "resid_post", 1)[1]
    means = torch.stack([row[1 : int((~row.isnan().any(-1)).sum())].mean(0) for row in found])
    torch.testing.assert_close(made[1], (means[::2] - means[1::2]).mean(0), atol=1e-5, rtol=0)


def test_plans_are_ordinary_ones():
    made = steering_vector(tiny("llama"), PAIRS, layers=(0, 2))
    assert made.origin is not None
    where = {"positions": "generating", "hold": 3, "half_life": 2.0}
    unit = made[2] / made[2].norm()
    (step,) = made.plan({2: 1.5}, **where)
    assert step == Add("resid_post", made[2], 1.5, layers=2, **where)
    (step,) = made.plan(0.2, 2, relative="norm")
    assert step == Add("resid_post", unit, 0.2, layers=2, relative="norm")
    first, second = made.plan(0.8, arrive=True, positions="generating")
    origin = {"origin": made.origin[1], "layers": 2, "positions": "generating"}
    assert second == Clamp("resid_post", made[2], 0.8, **origin) and first.layers == (0,)
    (step,) = made.plan(0.3, 0, arrive=True, relative="norm")
    assert step == Clamp("resid_post", made[0] / made[0].norm(), 0.3, layers=0, relative="norm")


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_states_arrive_and_no_further(family: str):
    model = tiny(family)
    made = steering_vector(model, PAIRS, layers=(0, 1))
    rows = prompts_for(model)
    before = made.coordinates(model, rows).values
    plan = made.plan(0.7, arrive=True)
    origin = made.origin
    assert origin is not None
    states = interp.activations(model, rows, "resid_post", (0, 1), at="last", plan=plan)
    v = made.vectors
    after = torch.stack(
        [((states[n] - origin[n]) @ v[n]) / v[n].square().sum() for n in (0, 1)], 1
    ).numpy()
    np.testing.assert_allclose(after[:, 0], np.maximum(before[:, 0], 0.7), atol=1e-4)
    assert (after[:, 1] > 0.7 - 1e-4).all()


def test_the_context_manager_steers_a_loop_of_the_users_own():
    model = tiny("llama")
    made = steering_vector(model, PAIRS, layers=1)
    rows = prompts_for(model)
    ids = torch.tensor([rows[0].ids])
    with made.applied(model, 3.0):
        free = model.hf.generate(ids, max_new_tokens=5, do_sample=False)
    assert tuple(free[0, ids.shape[1] :].tolist()) == (
        interp.generate(model, rows[:1], made.plan(3.0), 5)[0].ids
    )
    with made.applied(model, 3.0, prompts=rows[:1], hold=2, positions="generating"):
        held = model.hf.generate(ids, max_new_tokens=5, do_sample=False)
    plan = made.plan(3.0, hold=2, positions="generating")
    assert tuple(held[0, ids.shape[1] :].tolist()) == (
        interp.generate(model, rows[:1], plan, 5)[0].ids
    )


def test_arithmetic_keeps_or_drops_the_origin():
    made = steering_vector(tiny("llama"), PAIRS, layers=(0, 1))
    other = steering_vector(tiny("llama"), PAIRS, layers=(0, 1), method="pca_center")
    both = made + 0.5 * other
    torch.testing.assert_close(both.vectors, made.vectors + other.vectors / 2)
    assert both.origin is None and both.method == "mean + pca_center"
    assert made.norms is not None and both.norms is None
    assert "part_of_norm" not in both.table() and (made - other).method == "mean - pca_center"
    torch.testing.assert_close((made - other).vectors, made.vectors - other.vectors)
    assert (-1 * made).origin is not None
    torch.testing.assert_close((-1 * made).origin, (-made).origin)
    assert made.only(1).layers == (1,) and torch.equal(made.only(1)[1], made[1])
    with pytest.raises(PlanError, match="does not know where its texts are"):
        both.plan(arrive=True)
    with pytest.raises(PlanError, match="cannot be added"):
        made + made.only(0)


# --- files ---------------------------------------------------------------------------------------


def test_a_folder_holds_it_exactly(tmp_path):
    made = steering_vector(tiny("gpt2"), PAIRS, layers=(0, 2))
    again = SteeringVector.load(made.save(tmp_path / "vector"))
    assert torch.equal(again.vectors, made.vectors) and torch.equal(again.origin, made.origin)
    plain = ("layers", "model", "family", "method", "n_pairs", "norms", "ordered")
    assert all(getattr(again, name) == getattr(made, name) for name in plain)
    assert again.plan(0.5, arrive=True) == made.plan(0.5, arrive=True)
    with pytest.raises(RunFolderError):
        SteeringVector.load(tmp_path)


def test_a_gguf_file_is_what_llama_cpp_reads(tmp_path):
    made = steering_vector(tiny("qwen2"), PAIRS, layers=(1, 2))
    path = made.export_gguf(tmp_path / "deep" / "happy.gguf", dose=0.5)
    reader = gguf.GGUFReader(path)
    fields = {name: reader.get_field(name).contents() for name in reader.fields}
    assert {name: value for name, value in fields.items() if not name.startswith("GGUF")} == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "qwen2",
        "controlvector.layer_count": 2,
    }
    tensors = {one.name: one for one in reader.tensors}
    assert list(tensors) == ["direction.1", "direction.2"]
    for layer in (1, 2):
        one = tensors[f"direction.{layer}"]
        assert one.tensor_type == gguf.GGMLQuantizationType.F32 and list(one.shape) == [32]
        assert np.array_equal(one.data, (made[layer] * 0.5).numpy())
    again = SteeringVector.import_gguf(path)
    assert torch.equal(again.vectors, made.vectors * 0.5) and again.layers == (1, 2)
    assert (again.family, again.method, again.n_pairs) == ("qwen2", "imported", 0)
    assert again.plan(2.0)[0] == Add("resid_post", again[1], 2.0, layers=1)
    assert list(again.table().columns) == ["layer", "length"]


def written(path, tensors, arch="controlvector"):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("controlvector.model_hint", "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("tensors", "arch", "says"),
    [
        ({"direction.1": np.ones(4, np.float32)}, "llama", "GGUF file of llama, not a control"),
        ({"direction.0": np.ones(4, np.float32)}, "controlvector", "no direction.N of a layer"),
        ({"blk.1": np.ones(4, np.float32)}, "controlvector", "no direction.N of a layer"),
        ({"direction.1": np.ones(4, np.float16)}, "controlvector", "finite fp32"),
        ({"direction.1": np.ones((2, 4), np.float32)}, "controlvector", "finite fp32"),
        ({"direction.1": np.full(4, np.nan, np.float32)}, "controlvector", "finite fp32"),
        (
            {f"direction.{n}": np.ones(4 * n, np.float32) for n in (1, 2)},
            "controlvector",
            "several lengths",
        ),
    ],
)
def test_other_gguf_files_are_refused(tmp_path, tensors, arch: str, says: str):
    with pytest.raises(DataError, match=says):
        SteeringVector.import_gguf(written(tmp_path / "x.gguf", tensors, arch))


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF, or not")
    for name in ("x.gguf", "absent.gguf"):
        with pytest.raises(DataError, match="cannot read .* as a GGUF file"):
            SteeringVector.import_gguf(tmp_path / name)
    made = steering_vector(tiny("llama"), PAIRS, layers=(0, 1))
    with pytest.raises(PlanError, match="llama.cpp reads no control vector for layer 0"):
        made.export_gguf(tmp_path / "made.gguf")
    assert not (tmp_path / "made.gguf").exists()


def test_pairs_come_from_files(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"positive": one, "negative": other} for one, other in PAIRS]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert load_contrast_pairs(file) == PAIRS
    model = tiny("llama")
    torch.testing.assert_close(
        steering_vector(model, file, 1).vectors, steering_vector(model, PAIRS, 1).vectors
    )
    chat = [{"role": "user", "content": "w1"}]
    file.write_text(json.dumps({"positive": chat, "negative": "w2"}))
    assert load_contrast_pairs(file) == [(chat, "w2")]
    file.write_text(json.dumps({"positive": "w1"}))
    with pytest.raises(DataError, match="pairs.jsonl, line 1: 'negative' is missing"):
        load_contrast_pairs(file)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "options", "says"),
    [
        (PAIRS[:2], {}, "there are 2 contrast pairs; give 3 or more"),
        ([*PAIRS[:3], ("w1",)], {}, "contrast pair 4 is .*give \\(positive, negative\\)"),
        (["w1 w2", *PAIRS[:3]], {}, "contrast pair 1 is 'w1 w2'"),
        ([*PAIRS[:3], ("w1", "w1")], {}, "sides of contrast pair 4 are the same"),
        (PAIRS, {"method": "lda"}, "unknown method 'lda'"),
        (PAIRS, {"layers": 9}, "9"),
        (PAIRS, {"at": 30}, "30"),
    ],
)
def test_what_makes_no_vector_is_refused(pairs, options, says: str):
    with pytest.raises((DataError, PlanError), match=says):
        steering_vector(tiny("llama"), pairs, **options)


def test_pairs_that_all_differ_alike_have_no_component():
    """As where the last token and all before it are the same but for one word read in layer 0."""
    vectors = torch.stack([torch.ones(4), torch.zeros(4)])
    with pytest.raises(PlanError, match=r"zero in layers \[3\]"):
        SteeringVector(vectors, (1, 3), "m", "llama", "pca_diff")
    with pytest.raises(PlanError, match="layers in rising order"):
        SteeringVector(vectors, (3, 1), "m", "llama", "mean")


def test_doses_that_fit_no_vector_are_refused():
    made = steering_vector(tiny("llama"), PAIRS, layers=(0, 1))
    for call, says in (
        (lambda: made.plan(1.0, 2), "no vector for layer 2"),
        (lambda: made.plan({0: 1.0}, 1), "the dose names layers"),
        (lambda: made.plan(-1.0, arrive=True), "for the other side, use -vector"),
        (lambda: made[5], "no vector for layer 5"),
    ):
        with pytest.raises(PlanError, match=says):
            call()
    wide = steering_vector(tiny("llama"), PAIRS, 0)
    broad = SteeringVector(torch.ones(1, 40), (0,), "other", "llama", "mean")
    with pytest.raises(PlanError, match="has width 40, but the site's is 32"):
        interp.forward(tiny("llama"), ["w1"], broad.plan())
    assert wide.vectors.shape == (1, 32)
