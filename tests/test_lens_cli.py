"""`interp lens` and `interp generate` on a real model, beside plain transformers."""

import pytest
import torch
from test_cli import last_json

import interp
from circuits.cli.app import run

PROMPT = "The capital of France is"
MODEL = ["--model", "smollm2-135m", "--prompt", PROMPT]


@pytest.fixture(autouse=True)
def loaded(smollm: interp.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: smollm)


def continued(model: interp.Model, prompt: str, n: int) -> str:
    ids = model.tokenizer(prompt, return_tensors="pt")
    both = model.hf.generate(**ids, max_new_tokens=n, do_sample=False)
    return model.tokenizer.decode(both[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_last_depth_is_the_model_and_the_first_the_embedding(smollm: interp.Model, capsys):
    assert run(["lens", *MODEL, "--top", "3", "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert told["token"] == " is"
    assert [row["depth"] for row in told["depths"]] == list(range(smollm.arch.n_layers + 1))
    ids = smollm.tokenizer(PROMPT, return_tensors="pt")
    hf = smollm.hf
    with torch.no_grad():
        final = hf(**ids).logits[0, -1].softmax(-1)
        first = hf.lm_head(hf.model.norm(hf.model.embed_tokens(ids["input_ids"][0, -1]))).softmax(
            -1
        )
    for row, p in ((told["depths"][-1], final), (told["depths"][0], first)):
        best = p.topk(3)
        assert [one["token"] for one in row["predicted"]] == list(map(smollm.token, best.indices))
        found = [one["probability"] for one in row["predicted"]]
        assert found == pytest.approx(best.values.tolist(), rel=1e-3)
    assert run(["lens", *MODEL, "--top", "1"]) == 0
    assert repr(told["depths"][-1]["predicted"][0]["token"]) in capsys.readouterr().out


def test_generation_without_a_head_is_that_of_a_model_without_its_weights(
    smollm: interp.Model, capsys
):
    intact = continued(smollm, PROMPT, 8)
    layers, d = smollm.hf.model.layers, smollm.arch.d_head
    weights = [
        layers[23].self_attn.o_proj.weight[:, 4 * d : 5 * d],
        layers[0].mlp.down_proj.weight,
        layers[5].mlp.down_proj.weight[:, 17],
    ]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
        ablated = continued(smollm, PROMPT, 8)
        for weight, own in zip(weights, before, strict=True):
            weight.copy_(own)
    assert ablated != intact == continued(smollm, PROMPT, 8)
    options = ["generate", *MODEL, "--max-new-tokens", "8"]
    assert run([*options, "--ablate", "L23H4,m0,m5.n17", "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert (told["intact"], told["ablated"]) == (intact, ablated)
    assert told["components"] == ["L23H4", "m0", "m5.n17"]
    assert run(options) == 0
    assert capsys.readouterr().out == f"intact: {intact!r}\n"


def test_a_chat_prompt_is_one_turn_of_a_user(smollm: interp.Model, capsys):
    chat = [{"role": "user", "content": PROMPT}]
    (reply,) = interp.generate(smollm, chat, max_new_tokens=5, progress=False)
    assert run(["generate", *MODEL, "--chat", "--max-new-tokens", "5", "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert told["chat"] and told["intact"] == reply.text and told["ablated"] is None


def test_a_jacobian_lens_is_fitted_and_read_through(smollm: interp.Model, tmp_path, capsys):
    out = str(tmp_path / "lens")
    options = ["--model", "smollm2-135m", "--tokens", "8", "--skip", "2", "--layers", "29"]
    assert run(["jacobian-lens", *options, "--out", out, "--json"]) == 0
    told = last_json(capsys.readouterr().out)
    assert told["depths"] == [29] and told["backward_passes"] == smollm.arch.d_model
    assert told["n_tokens"] == 8
    assert run(["lens", *MODEL, "--top", "1", "--jacobian", out, "--json"]) == 0
    through = last_json(capsys.readouterr().out)["depths"]
    assert run(["lens", *MODEL, "--top", "1", "--json"]) == 0
    plain = last_json(capsys.readouterr().out)["depths"]
    assert [row["depth"] for row in through] == [29, 30]
    ends = [rows[-1]["predicted"][0] for rows in (through, plain)]
    assert ends[0]["token"] == ends[1]["token"] == " Paris"
    assert ends[0]["probability"] == pytest.approx(ends[1]["probability"], rel=1e-4)
    fitted = interp.JacobianLens.load(out)
    found = interp.logit_lens(smollm, PROMPT, 1, at="last", jacobian=fitted)
    assert through[0]["predicted"][0]["token"] == found.top.token.values[0, 0, 0, 0]
