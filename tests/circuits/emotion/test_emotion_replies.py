"""Replies: the decoder's options and emotions, where a reply ends, and how likely it is."""

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer

import interp
from circuits.emotion.emotion_metrics import nll
from circuits.emotion.emotion_settings import Decoding
from circuits.emotion.replies import continued, ending_tokens, read_prompts, reply_text
from circuits.emotion.texts import EMOTIONS
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.interventions.plan import Add, Plan
from interp.model.model import Model

DECODING = Decoding(new_tokens=8, min_tokens=2)
TEXTS = ["w1 w2 w3 w4 w5 w6", "w1 w2 w3 w7 w8", "w1 w2 w3 w9 w10 w11 w12 w13"]


def prompts_of(model: Model, texts: list[str]) -> list[TokenPrompt]:
    return [TokenPrompt(tuple(model.encode(text))) for text in texts]


def by_hugging_face(model: Model, prompt: TokenPrompt) -> tuple[int, ...]:
    """The new tokens of one prompt alone, by the library's own loop."""
    ids = torch.tensor([prompt.ids])
    both = model.hf.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=DECODING.new_tokens,
        min_new_tokens=DECODING.min_tokens,
        repetition_penalty=DECODING.repetition_penalty,
        no_repeat_ngram_size=DECODING.no_repeat,
        eos_token_id=list(ending_tokens(model)),
        pad_token_id=0,
    )
    return tuple(both[0, ids.shape[1] :].tolist())


def test_without_a_plan_replies_are_hugging_faces_and_end_where_the_model_ends():
    plain, hf = tiny("llama"), tiny_hf("llama")
    said = by_hugging_face(plain, prompts_of(plain, TEXTS)[1])
    hf.generation_config.eos_token_id = [2, said[2]]  # pyright: ignore
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    rows = prompts_of(model, TEXTS)
    found = continued(model, read_prompts(model, rows).branch(), Plan(), [0, 1, 2], DECODING)
    assert found == [by_hugging_face(model, row) for row in rows]
    assert len(found[1]) == 3 < max(map(len, found))


def test_each_row_takes_the_values_of_its_emotion():
    model = tiny("llama")
    shape, draw = (1, len(EMOTIONS), 1, model.arch.d_model), torch.Generator().manual_seed(0)
    vectors = torch.randn(shape, generator=draw)

    def adding(values: torch.Tensor) -> Plan:
        return Plan.of(Add("resid_post", values, layers=[1], positions="generating"))

    read, which, emotions = (
        read_prompts(model, prompts_of(model, TEXTS)),
        [0, 0, 1, 2],
        [0, 3, 3, 5],
    )
    found = continued(model, read.branch(which), adding(vectors), emotions, DECODING)
    for row, i, emotion in zip(found, which, emotions, strict=True):
        own = adding(vectors[:, emotion, 0].contiguous()[0])
        assert [row] == continued(model, read.branch([i]), own, [0], DECODING)
    assert found[0] != found[1]


def test_prompts_of_one_token_are_refused():
    model = tiny("gpt2")
    with pytest.raises(PlanError, match="two or more"):
        read_prompts(model, [TokenPrompt((5,)), TokenPrompt((5, 6))])


def test_a_reply_is_cut_at_the_mark_that_ends_it(smollm: Model):
    ids = smollm.tokenizer(' Well done." She left.\nThen', add_special_tokens=False)["input_ids"]
    assert reply_text(smollm, ids) == "Well done."
    ends = ending_tokens(smollm)
    assert smollm.tokenizer.eos_token_id in ends
    marks = [smollm.tokenizer.decode([i]) for i in ends]
    assert any('."' in mark for mark in marks) and any("\n" in mark for mark in marks)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_likelihood_is_that_of_a_whole_forward(family: str):
    model = tiny(family)
    rows = prompts_of(model, TEXTS)
    replies = [(10, 11, 12), (13,), (14, 15, 16, 17, 18), ()]
    which = [0, 2, 1, 0]
    found = nll(model, read_prompts(model, rows), which, replies)
    for value, i, reply in zip(found[:3], which, replies, strict=False):
        ids = torch.tensor([[*rows[i].ids, *reply]])
        with torch.no_grad():
            logits = model.hf(input_ids=ids, use_cache=False).logits[0].float()
        n = len(rows[i].ids)
        wanted = torch.nn.functional.cross_entropy(logits[n - 1 : -1], ids[0, n:])
        assert value == pytest.approx(float(wanted), abs=1e-4)
    assert found[3] != found[3]  # NaN: a reply without a token has none
