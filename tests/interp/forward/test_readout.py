"""Ranks are those of greedy decoding, also where 16-bit logits are equal."""

import numpy as np
import pytest
import torch
from conftest import tiny_hf, word_tokenizer

import interp
from interp.data.pairs import Pair, TokenPair
from interp.interventions.run import sweep_plans


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_equal_logits_the_lower_token_has_rank_0(dtype: str):
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer(), dtype=dtype)
    ids = tuple(model.encode("w1 w2 w3"))
    best = int(interp.forward(model, ["w1 w2 w3"]).logits[0].argmax())
    above = (best + 1) % model.n_vocab
    below, above = sorted((best, above))
    with torch.no_grad():
        model.unembed.weight[[below, above]] = model.unembed.weight[best].clone()
    wanted = [below, above]
    pair = Pair("p", "w1 w2 w3", "w1 w2 w3", "", "")
    rows = [
        TokenPair(pair, ids, ids, (((t,),), ((0,),)), {}, {}, tuple(range(len(ids))))
        for t in wanted
    ]
    logits = interp.forward(model, ["w1 w2 w3"]).logits[0]
    assert logits[below] == logits[above] == logits.max() and int(logits.argmax()) == below
    ranks = sweep_plans(model, rows, {"none": ()}, "rank").values[:, 0]
    assert np.array_equal(ranks, [0, 1])
    said = interp.generate(model, ["w1 w2 w3"], max_new_tokens=1, progress=False)[0]
    assert said.text.strip() == model.token(below).strip()
