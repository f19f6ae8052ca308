"""Query and value scores: exact sums, naive loops, and a model whose neurons were planted."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny, tiny_hf, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from circuits.query_value import QueryValue, find, validate
from circuits.query_value.lens import Lens, strongest
from circuits.query_value.query import query_scores
from circuits.query_value.trace import Trace, output_rows, trace
from circuits.query_value.value import every_neuron, lens_of, value_scores
from interp.data.prompts import TokenPrompt, prompt
from interp.errors import DataError, PlanError
from interp.forward.blocks import bias_of, neuron_keys, weight_of
from interp.model.model import Model
from interp.model.sites import SITES

IDS = (5, 9, 17, 30, 44, 51, 8, 9, 60, 61)
ANSWER = 33
READABLE = [family for family in FAMILIES if family != "phi3"]
LOOPED = ["llama", "gemma3", "gptj", "gpt2", "qwen3"]


def run_of(model: Model, ids: tuple[int, ...] = IDS) -> Trace:
    with torch.no_grad():
        return trace(model, TokenPrompt(ids))


def scored(model: Model, key: str = "gate", top: int = 8):
    run = run_of(model)
    with torch.no_grad():
        lens = lens_of(run, ANSWER)
        value = value_scores(run, lens, range(model.arch.n_layers), top)
        return run, lens, value, query_scores(run, value.neurons, value.attention_neurons, key)


# --- oracles (8) to (11) ------------------------------------------------------------------------


@pytest.mark.parametrize("family", READABLE)
def test_neurons_sum_to_the_ffn_and_heads_and_tokens_to_attention(family: str):
    model, run = tiny(family), run_of(tiny(family))
    for layer in range(model.arch.n_layers):
        z = run.weighted_values(layer).sum(1).flatten()
        for site, coefficient, whole in (
            ("mlp_post", run.neurons[layer, -1], run.mlp[layer, -1]),
            ("z", z, run.attn[layer, -1]),
        ):
            module, _ = model.point(SITES[site], layer)
            rows = coefficient[:, None] * output_rows(model, site, layer)
            if getattr(module, "bias", None) is not None:
                rows = torch.cat([rows, module.bias[None]])
            torch.testing.assert_close(
                run.out(site, layer, rows).sum(0), whole, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("family", [f for f in READABLE if f != "gemma2"])  # it caps its logits
def test_the_final_state_reads_as_the_models_own_logits(family: str):
    model, run = tiny(family), run_of(tiny(family))
    with torch.no_grad():
        want = model.hf(input_ids=torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
        found = Lens.of(run, ANSWER, run.final[None]).log_p[0]
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", READABLE)
def test_query_fractions_sum_to_one(family: str):
    """Weighted by the value neurons' scores: the scores of all writers sum to these."""
    _, _, value, query = scored(tiny(family))
    total = query.writers.sum((1, 2, 3)) + query.embedding.sum(1)
    assert float(total[0]) == pytest.approx(float(value.neurons.score.sum()), abs=1e-4)
    assert float(total[2]) == pytest.approx(float(value.attention_neurons.score.sum()), abs=1e-4)
    # what heads move is what attention wrote, but for biases
    attention = query.writers[0, 0].sum()
    assert float(total[1]) + query.unmoved == pytest.approx(float(attention), abs=1e-4)
    if tiny(family).arch.adapter.startswith(("Llama", "Gemma", "Qwen3", "Mistral", "Olmo")):
        assert query.unmoved == pytest.approx(0, abs=1e-5)
        assert float(query.heads.sum()) == pytest.approx(float(attention), abs=1e-4)


@pytest.mark.parametrize("family", READABLE)
def test_neurons_sum_to_their_layers_query_scores(family: str):
    """At every token and on every path, less the down-projection's bias."""
    model = tiny(family)
    if getattr(model.point(SITES["mlp_post"], 0)[0], "bias", None) is not None:
        pytest.skip("the FFN's bias has a share of its own")
    _, _, _, query = scored(model)
    torch.testing.assert_close(query.neurons.sum(-1), query.writers[:, 1], atol=1e-4, rtol=1e-3)


# --- naive loops --------------------------------------------------------------------------------


def scale(module: torch.nn.Module, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """A norm's linear part, written out by hand: its scale is that of `at`."""
    eps = getattr(module, "variance_epsilon", None) or module.eps
    if getattr(module, "bias", None) is not None:
        return (x - x.mean()) / torch.sqrt(at.var(unbiased=False) + eps) * module.weight
    weight = 1 + module.weight if type(module).__name__.startswith("Gemma") else module.weight
    return x / torch.sqrt(at.pow(2).mean() + eps) * weight


def log_p(model: Model, run: Trace, x: torch.Tensor) -> torch.Tensor:
    normed = scale(model.ln_final, x, run.final)
    bias = getattr(model.ln_final, "bias", None)
    return model.unembed(normed if bias is None else normed + bias).log_softmax(-1)[ANSWER]


def post(model: Model, layer: int, path: str | None, row: torch.Tensor, whole: torch.Tensor):
    return row if path is None else scale(model.blocks[layer].get_submodule(path), row, whole)


@pytest.mark.parametrize("family", LOOPED)
def test_value_scores_equal_a_loop_over_every_neuron(family: str):
    model = tiny(family)
    run, _, value, _ = scored(model, top=10**6)
    a, parts = model.arch, model.parts(0)
    with torch.no_grad():
        exact = every_neuron([run], [ANSWER], range(a.n_layers))[0]
        want = torch.zeros_like(exact)
        for layer in range(a.n_layers):
            down, _ = model.point(SITES["mlp_post"], layer)
            base = run.pre[layer, -1] + run.attn[layer, -1]
            before = log_p(model, run, base)
            whole = down(run.neurons[layer, -1])
            for k in range(a.d_mlp):
                row = run.neurons[layer, -1, k] * weight_of(model, "mlp_post", layer)[:, k]
                row = post(model, layer, parts.ln2_post, row, whole)
                want[layer, k] = log_p(model, run, base + row) - before
            got = value.layers[1, layer]
            assert float(got) == pytest.approx(
                float(log_p(model, run, base + run.mlp[layer, -1]) - before), abs=1e-4
            )
    torch.testing.assert_close(exact, want, atol=1e-4, rtol=1e-3)
    positive = int((want > 1e-5).sum())
    found = value.neurons
    torch.testing.assert_close(
        found.score[:positive], want[found.layer, found.unit][:positive], atol=1e-4, rtol=1e-3
    )
    assert len(found.score) >= positive


def eager_pattern(model: Model) -> torch.Tensor:
    """Attention weights at the last token as Hugging Face gives them: (layer, head, pos)."""
    with torch.no_grad(), model.attention_named("eager"):
        out = model.hf(input_ids=torch.tensor([IDS]), output_attentions=True)
    return torch.stack([layer[0, :, -1] for layer in out.attentions])


@pytest.mark.parametrize("family", LOOPED)
def test_attention_neurons_equal_a_loop_over_heads_tokens_and_dimensions(family: str):
    model = tiny(family)
    run, _, value, _ = scored(model, top=10**6)
    a, layer = model.arch, 1
    pattern = eager_pattern(model)
    torch.testing.assert_close(run.pattern, pattern, atol=1e-5, rtol=1e-4)
    want: dict[tuple[int, int], float] = {}
    with torch.no_grad():
        before = log_p(model, run, run.pre[layer, -1])
        whole = model.point(SITES["z"], layer)[0](run.weighted_values(layer).sum(1).flatten())
        for head in range(a.n_heads):
            kv_head = head // (a.n_heads // a.n_kv_heads)
            for pos in range(len(IDS)):
                for dim in range(a.d_head):
                    size = (
                        pattern[layer, head, pos] * run.values[layer, pos, kv_head * a.d_head + dim]
                    )
                    row = size * weight_of(model, "z", layer)[:, head * a.d_head + dim]
                    row = post(model, layer, model.parts(layer).ln1_post, row, whole)
                    gain = log_p(model, run, run.pre[layer, -1] + row) - before
                    want[head * a.d_head + dim, pos] = float(gain)
    found = value.attention_neurons
    mine = found.layer == layer
    got = zip(
        found.unit[mine].tolist(), found.pos[mine].tolist(), found.score[mine].tolist(), strict=True
    )
    got = {(unit, pos): score for unit, pos, score in got}
    assert {place for place, gain in want.items() if gain > 1e-4} <= set(got)
    for place, score in got.items():
        assert score == pytest.approx(want[place], abs=1e-4)


@pytest.mark.parametrize("family", LOOPED)
def test_query_scores_equal_a_loop_over_value_neurons_and_writers(family: str):
    model = tiny(family)
    run, _, value, query = scored(model, top=4)
    a, parts = model.arch, model.parts(0)
    want = torch.zeros(3, a.n_layers, len(IDS), a.d_mlp)
    pattern = eager_pattern(model)

    def written(layer: int, pos: int) -> torch.Tensor:
        """What each FFN neuron adds to the stream, row by row."""
        rows = run.neurons[layer, pos, :, None] * weight_of(model, "mlp_post", layer).T
        whole = model.point(SITES["mlp_post"], layer)[0](run.neurons[layer, pos])
        return torch.stack([post(model, layer, parts.ln2_post, row, whole) for row in rows])

    def through(layer: int, path: str, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return scale(model.blocks[layer].get_submodule(path), x, at)

    with torch.no_grad():
        some = value.neurons
        for deep, k, s in zip(some.layer, some.unit, some.score, strict=True):
            row = neuron_keys(model, int(deep))[k]
            read = run.pre[deep, -1] + (0 if parts.parallel else run.attn[deep, -1])
            total = through(deep, parts.ln2, read, read) @ row
            for layer in range(int(deep)):
                for i, out in enumerate(written(layer, len(IDS) - 1)):
                    want[0, layer, -1, i] += s * (through(deep, parts.ln2, out, read) @ row) / total
            for middle in range(int(deep) + (not parts.parallel)):
                z = run.weighted_values(middle).sum(1).flatten()
                whole = model.point(SITES["z"], middle)[0](z)
                o, v = weight_of(model, "z", middle), weight_of(model, "v", middle)
                for pos in range(len(IDS)):
                    for layer in range(middle):
                        x = torch.stack(
                            [
                                through(middle, parts.ln1, out, run.pre[middle, pos])
                                for out in written(layer, pos)
                            ]
                        )
                        moved = torch.zeros(a.d_mlp, a.d_model)
                        for head in range(a.n_heads):
                            kv = head // (a.n_heads // a.n_kv_heads)
                            value_of = x @ v[kv * a.d_head : (kv + 1) * a.d_head].T
                            own = o[:, head * a.d_head : (head + 1) * a.d_head]
                            moved += pattern[middle, head, pos] * value_of @ own.T
                        for i, out in enumerate(moved):
                            out = post(model, middle, parts.ln1_post, out, whole)
                            part = through(deep, parts.ln2, out, read) @ row
                            want[1, layer, pos, i] += s * part / total
        some = value.attention_neurons
        for deep, unit, pos, s in zip(some.layer, some.unit, some.pos, some.score, strict=True):
            kv = int(unit) // a.d_head // (a.n_heads // a.n_kv_heads)
            row = weight_of(model, "v", int(deep))[kv * a.d_head + int(unit) % a.d_head]
            at = run.pre[deep, pos]
            total = through(int(deep), parts.ln1, at, at) @ row
            for layer in range(int(deep)):
                for i, out in enumerate(written(layer, int(pos))):
                    part = through(int(deep), parts.ln1, out, at) @ row
                    want[2, layer, int(pos), i] += s * part / total
    torch.testing.assert_close(query.neurons, want, atol=2e-4, rtol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(0, 1, width=32)), min_size=1),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_the_strongest_are_the_strongest_whatever_the_bounds(
    given_: list[tuple[float, float]], n: int, at_once: int
):
    scores = torch.tensor([score for score, _ in given_])
    bounds = scores + torch.tensor([slack for _, slack in given_])
    units, found, n_scored = strongest(bounds, n, lambda some: scores[some], at_once)
    want = scores[scores > 0].sort(descending=True).values[:n]
    assert torch.equal(found, want)
    assert torch.equal(scores[units], found)
    assert n_scored <= int((bounds > 0).sum())


@pytest.mark.slow
def test_bounds_hold_and_spare_most_projections(smollm: Model):
    """On real weights: the top neurons of all, found by scoring a small part of them."""
    run, layers = run_of(smollm, tuple(smollm.encode("The capital of France is"))), [24, 27, 29]
    answer = smollm.encode(" Paris")[-1]
    with torch.no_grad():
        value = value_scores(run, lens_of(run, answer), layers, 10)
        exact = every_neuron([run], [answer], layers)[0]
    best = exact.flatten().topk(10)
    torch.testing.assert_close(value.neurons.score, best.values, atol=1e-4, rtol=1e-3)
    at = torch.tensor(layers)[best.indices // exact.shape[1]]
    assert value.neurons.layer.tolist() == at.tolist()
    n_heads, n_layers = smollm.arch.n_heads, smollm.arch.n_layers
    assert value.projected - (6 + n_heads) * n_layers < 0.1 * exact.numel()


# --- a planted model ----------------------------------------------------------------------------

SUBJECT, OTHER, LAST, TARGET = "w16", "w17", "w18", "w50"


def planted(kind: str) -> Model:
    """All weights zero but one path from the subject's token to the answer.

    ``moved``: neuron 0.7 at the subject writes e5, head 1.2 reads it as value and writes e6 at the
    last token, which opens neuron 2.11, which writes the answer. ``attention``: neuron 1.3 at the
    subject writes e7, which head 2.1 reads as value and writes as the answer.
    """
    hf = tiny_hf("llama")
    eye, size = torch.eye(32), 8
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        hf.model.embed_tokens.weight[:] = 3 * eye[2]
        for word, axis in ((SUBJECT, 0), (LAST, 1)):
            hf.model.embed_tokens.weight[4 + int(word[1:])] = 3 * eye[axis]
        hf.lm_head.weight[4 + int(TARGET[1:])] = eye[10]
        layers = hf.model.layers
        if kind == "moved":
            plant(layers[0].mlp, 7, eye[0], eye[0], 2 * eye[5])
            layers[1].self_attn.v_proj.weight[1 * size + 3] = eye[5]
            layers[1].self_attn.o_proj.weight[:, 2 * size + 3] = 4 * eye[6]
            plant(layers[2].mlp, 11, 2 * eye[6], eye[1], 9 * eye[10])
        else:
            plant(layers[1].mlp, 3, eye[0], eye[0], 2 * eye[7])
            layers[2].self_attn.v_proj.weight[0 * size + 5] = eye[7]
            layers[2].self_attn.o_proj.weight[:, 1 * size + 5] = 9 * eye[10]
    return interp.load_model(hf, tokenizer=word_tokenizer())


def plant(mlp: torch.nn.Module, neuron: int, gate, up, down) -> None:
    mlp.gate_proj.weight[neuron], mlp.up_proj.weight[neuron] = gate, up
    mlp.down_proj.weight[:, neuron] = down


def sentence(model: Model, text: str) -> TokenPrompt:
    return prompt(model, text, subject=SUBJECT)


SENTENCE = f"w1 {SUBJECT} w2 w3 {LAST}"


def test_a_planted_query_neuron_value_neuron_and_head_are_found_alone():
    model = planted("moved")
    result = find(model, [sentence(model, SENTENCE)], [TARGET])
    value = result.values
    assert value[["sublayer", "layer", "neuron", "pos"]].values.tolist() == [["ffn", 2, 11, 4]]
    query = result.queries
    assert query[["layer", "neuron", "pos", "span"]].values.tolist() == [[0, 7, 1, "subject"]]
    # it alone switches the value neuron on: it has the whole of that neuron's score
    score = float(value["score"].iloc[0])
    assert score > 0.1
    assert float(query["moved"].iloc[0]) == pytest.approx(score, rel=1e-5)
    assert float(query["direct"].iloc[0]) == float(query["attention"].iloc[0]) == 0
    heads = result.scores["query_head"].values[0]
    assert np.argwhere(heads).tolist() == [[1, 2, 1]]
    assert heads.sum() == pytest.approx(score, rel=1e-5)
    assert result.layers(1, 1) == ((0,), (2,), ())


def test_a_planted_attention_value_neuron_is_queried_through_the_right_key_value_head():
    model = planted("attention")
    result = find(model, [sentence(model, SENTENCE)], [TARGET])
    value, query = result.values, result.queries
    found = value[["sublayer", "layer", "head", "neuron", "pos"]].values.tolist()
    assert found == [["attention", 2, 1, 5, 1]]
    assert query[["layer", "neuron", "pos"]].values.tolist() == [[1, 3, 1]]
    score = float(value["score"].iloc[0])
    assert float(query["attention"].iloc[0]) == pytest.approx(score, rel=1e-5)


def test_up_rows_can_be_the_keys():
    """The up row of neuron 2.11 reads the last token's own embedding."""
    model = planted("moved")
    result = find(model, [sentence(model, SENTENCE)], [TARGET], key="up")
    assert not len(result.queries)
    own = result.scores["query_embedding"].sel(path="direct").values[0]
    assert own[-1] == pytest.approx(float(result.values["score"].iloc[0]), rel=1e-5)


# --- ablating what was found ----------------------------------------------------------------------

NEW = [f"w4 {SUBJECT} w2 {LAST}", f"w5 {SUBJECT} w9 w6 {LAST}"]


@pytest.mark.parametrize("neurons", ["shared", "own"])
def test_ablating_the_planted_query_neuron_costs_the_answer_and_random_ones_do_not(neurons: str):
    model = planted("moved")
    result = find(model, [sentence(model, SENTENCE)], [TARGET], clusters=["fact"])
    new = [sentence(model, text) for text in NEW]
    found = validate(
        model,
        result,
        new,
        [TARGET] * 2,
        clusters=["fact"] * 2,
        neurons=neurons,
        kind="zero",
        positions="subject",
        n_random=10,
    )
    assert (found.n_query, found.n_value, found.n_also_query) == (1, 1, 0)
    table = found.table().set_index("readout")
    assert table.loc["activation", "effect"] == pytest.approx(-1)
    assert table.loc["accuracy", "baseline"] == 1
    assert table.loc["accuracy", "effect"] == -1
    # without the value neuron all 97 tokens are equally likely
    plain = np.mean([float(forward_log_p(model, one)) for one in new])
    assert table.loc["logprob", "baseline"] == pytest.approx(plain, abs=1e-5)
    assert table.loc["logprob", "effect"] == pytest.approx(-np.log(97) - plain, abs=1e-4)
    np.testing.assert_allclose(table["random"], 0, atol=1e-6)
    # of the 55 other neurons, a tenth are of like size
    assert found.n_random == 5
    np.testing.assert_allclose(table["p"], 1 / 6)
    assert found.summary()["n_prompts"] == 2


def test_ablating_elsewhere_than_at_the_subject_does_nothing():
    model = planted("moved")
    result = find(model, [sentence(model, SENTENCE)], [TARGET])
    found = validate(model, result, NEW, [TARGET] * 2, kind="zero", positions="last", n_random=3)
    logprob = found.readings["logprob"].transpose("run", "prompt").values
    np.testing.assert_allclose(logprob[1], logprob[0], atol=1e-6)


def forward_log_p(model: Model, one: TokenPrompt) -> torch.Tensor:
    logits = interp.forward(model, [one]).logits[0]
    return logits.log_softmax(-1)[4 + int(TARGET[1:])]


def test_validation_refuses_what_would_not_be_a_test():
    model = planted("moved")
    result = find(model, [SENTENCE], [TARGET], clusters=["fact"])
    with pytest.raises(DataError, match="used to find the neurons"):
        validate(model, result, [*NEW, SENTENCE], [TARGET] * 3)
    with pytest.raises(DataError, match="no attributed prompt is of cluster 'other'"):
        validate(model, result, NEW, [TARGET] * 2, clusters=["fact", "other"], neurons="own")
    with pytest.raises(DataError, match="other weights"):
        validate(planted("attention"), result, NEW, [TARGET] * 2)
    with pytest.raises(DataError, match="answers none of the 2"):
        validate(model, result, NEW, ["w51"] * 2)


# --- what is refused ----------------------------------------------------------------------------


def test_wrong_answers_are_left_out_with_what_the_model_says():
    model = planted("moved")
    texts = [SENTENCE, f"w4 {SUBJECT} w2 {LAST}"]
    result = find(model, texts, [TARGET, "w51"])
    assert result.n_prompts == 1
    assert [(row.id, row.reason) for row in result.excluded] == [("1", "the model says 'w50'")]
    with pytest.raises(DataError, match="answers none of the 1 prompts"):
        find(model, texts[1:], ["w51"])


def test_unusable_questions_are_refused():
    model = planted("moved")
    with pytest.raises(DataError, match="2 tokens"):
        find(model, [SENTENCE], ["w50 w51"])
    with pytest.raises(DataError, match="no answer"):
        find(model, [SENTENCE], [" "])
    with pytest.raises(DataError, match="1 prompts came with 2 answers"):
        find(model, [SENTENCE], [TARGET, TARGET])
    with pytest.raises(DataError, match="given twice"):
        find(model, [SENTENCE, SENTENCE], [TARGET, TARGET])
    with pytest.raises(PlanError, match="out of range"):
        find(model, [SENTENCE], [TARGET], layers=[3])
    with pytest.raises(PlanError, match="no neuron keys 'down'"):
        find(model, [SENTENCE], [TARGET], key="down")
    with pytest.raises(PlanError, match="no neuron keys 'up'"):
        find(tiny("gpt2"), [SENTENCE], [TARGET], key="up")
    with pytest.raises(PlanError, match="none that can be read"):
        find(tiny("phi3"), [SENTENCE], [TARGET])


def test_blocks_that_scale_what_they_add_are_refused():
    hf = tiny_hf("llama")
    before = hf.model.layers[1].self_attn.forward
    hf.model.layers[1].mlp.down_proj.register_forward_hook(lambda *a: a[2] * 1.0)
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    run_of(model)
    block = hf.model.layers[1]
    block.register_forward_hook(lambda module, args, out: out * 1.5)
    with pytest.raises(PlanError, match="do not add up"):
        run_of(model)
    assert hf.model.layers[1].self_attn.forward == before


# --- results ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> QueryValue:
    """A tiny random model's result on prompts that it 'answers', by construction."""
    model = tiny("llama")
    texts = ["w1 w2 w3 w4", "w7 w8 w10 w11 w12", "w4 w6 w7", "w20 w21 w22 w23"]
    with torch.no_grad():
        said = [model.hf(input_ids=torch.tensor([model.encode(t)])).logits[0, -1] for t in texts]
    answers = [model.token(int(logits.argmax())) for logits in said]
    return find(
        model,
        [prompt(model, t, subject=t.split()[1]) for t in texts],
        answers,
        labels=["a", "a", "b", "b"],
        clusters=["x", "x", "y", "z"],
        every=True,
        top=12,
    )


def test_layer_sums_are_over_every_neuron_when_asked(result: QueryValue):
    value = result.by_layer()["value"].sel(sublayer="ffn")
    np.testing.assert_array_equal(value.values, result.scores["every_sum"].values)
    top = result.scores["top_sum"].sel(sublayer="ffn").sum("layer").values
    listed = result.values[result.values["sublayer"] == "ffn"].groupby("prompt")["score"].sum()
    np.testing.assert_allclose(top, listed.loc[["0", "1", "2", "3"]].to_numpy(), rtol=1e-5)


def test_layers_lie_in_order_and_say_what_was_skipped(result: QueryValue):
    for n_query, n_value in ((1, 1), (1, 2), (2, 1)):
        query, value, skipped = result.layers(n_query, n_value)
        assert len(query) == n_query and len(value) == n_value
        assert max(query) < min(value)
        mean = result.by_layer()["value"].sel(sublayer="ffn").mean("prompt").values
        assert all(mean[layer] >= mean[list(value)].min() for layer in skipped)
    with pytest.raises(DataError, match="of which 3 layers were scored"):
        result.layers(2, 2)


@pytest.mark.parametrize(
    ("layers", "query", "value"), [([1], [0], [1]), ([0], [], [0]), ([0, 1], [0], [1])]
)
def test_layers_that_were_not_scored_are_not_chosen(layers: list[int], query, value):
    model = planted("moved")
    found = find(model, [sentence(model, SENTENCE)], [TARGET], layers=layers, every=True)
    scored = np.flatnonzero(np.isfinite(found.by_layer()["value"].values[0, 1]))
    assert scored.tolist() == layers
    summary = found.summary()
    assert (summary["query_layers"], summary["value_layers"]) == (query, value)
    with pytest.raises(DataError, match=f"of which {len(layers)} layers were scored"):
        found.layers(1, 2)


def test_spans_hold_all_of_the_query_scores(result: QueryValue):
    spans = result.by_span()
    assert set(spans["span"]) == {"subject", "first", "other", "last"}
    direct = spans[spans["path"] == "direct"].set_index("span")
    # one prompt has no token but the first, the subject and the last
    assert direct["n"].to_dict() == {"first": 4, "subject": 4, "other": 3, "last": 4}
    value = result.values[result.values["sublayer"] == "ffn"]["score"].sum()
    assert float((direct["score"] * direct["n"]).sum()) == pytest.approx(value, rel=1e-4)
    assert (spans["low"] <= spans["score"]).all() and (spans["score"] <= spans["high"]).all()


def test_order_is_a_weighted_mean_layer(result: QueryValue):
    table = result.order().set_index("what")["layers"]
    weight = result.scores["top_sum"].sel(sublayer="ffn").values
    want = (weight @ np.arange(3) / weight.sum(1)).mean()
    assert table["value"] == pytest.approx(want, rel=1e-5)
    assert table["gap"] == pytest.approx(table["value"] - table["query"], rel=1e-5)


def test_figures_show_what_the_result_holds(result: QueryValue):
    figure = result.plot()
    named = [trace.name for trace in figure.data if trace.name]
    assert named == ["FFN", "attention"] * 2
    mean = result.by_layer()["query"].sel(sublayer="ffn").mean("prompt").values
    np.testing.assert_allclose(figure.data[1].y, mean, rtol=1e-6)
    one = result.plot("2")
    z = result.scores["query_writer"].isel(prompt=2).sel(writer="ffn").sum("path").values
    np.testing.assert_allclose(one.data[0].z, z[:, :3], rtol=1e-6)
    with pytest.raises(DataError, match="no prompt '9'"):
        result.plot("9")
    assert "Query neurons" in result._repr_html_()


def test_pooled_neurons_are_means_over_prompts(result: QueryValue):
    table = result.query_neurons(5, "x")
    mean = result.scores["query_neuron"].values[:2].mean(0)
    assert table["score"].tolist() == pytest.approx(np.sort(mean, axis=None)[::-1][:5].tolist())
    value = result.value_neurons(3)
    mine = result.values[result.values["sublayer"] == "ffn"]
    best = mine.groupby(["layer", "neuron"])["score"].sum().nlargest(3) / 4
    assert value["score"].tolist() == pytest.approx(best.tolist())
    with pytest.raises(DataError, match="no attributed prompt"):
        result.query_neurons(5, "nobody")


def test_value_keys_have_biases_left_out():
    """GPT-2's values have a bias, which no writer's fraction may hold."""
    model = tiny("gpt2")
    assert bias_of(model, "v", 0) is not None
    _, _, _, query = scored(model)
    assert abs(query.unmoved) > 1e-4
