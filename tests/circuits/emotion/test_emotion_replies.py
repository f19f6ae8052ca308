"""Replies under a plan: Hugging Face's own loop without one, whole forwards with one."""

import pytest
import torch
from conftest import hooks_left, tiny, tiny_hf, word_tokenizer
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

import interp
from circuits.emotion.emotion_metrics import nll
from circuits.emotion.emotion_settings import Decoding
from circuits.emotion.replies import continued, ending_tokens, read_prompts, reply_text
from circuits.emotion.texts import EMOTIONS
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.forward.prefix_cache import PrefixCache
from interp.interventions.plan import Add, Plan
from interp.model.model import Model

DECODING = Decoding(new_tokens=8, min_tokens=2)
ALIKE = ["w1 w2 w3 w4 w5 w6", "w1 w2 w3 w7 w8", "w1 w2 w3 w9 w10 w11 w12 w13"]
UNLIKE = ["w20 w21 w22 w23", "w30 w31", "w40 w41 w42 w43 w44 w45 w46"]


def prompts_of(model: Model, texts: list[str]) -> list[TokenPrompt]:
    return [TokenPrompt(tuple(model.encode(text))) for text in texts]


def decode(
    model: Model,
    cache: PrefixCache,
    which: list[int],
    emotions: list[int],
    plan: Plan,
    decoding: Decoding,
) -> list[tuple[int, ...]]:
    return continued(model, cache.branch(which), plan, emotions, decoding)


def by_hugging_face(model: Model, prompt: TokenPrompt, decoding: Decoding) -> tuple[int, ...]:
    """The new tokens of one prompt alone, by the library's own loop."""
    ids = torch.tensor([prompt.ids])
    both = model.hf.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=decoding.new_tokens,
        min_new_tokens=decoding.min_tokens,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat,
        eos_token_id=list(ending_tokens(model)),
        pad_token_id=0,
    )
    return tuple(both[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("texts", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_without_modulation_it_is_hugging_faces_loop(family: str, texts: list[str]):
    model = tiny(family)
    rows = prompts_of(model, texts)
    found = decode(model, read_prompts(model, rows), [0, 1, 2], [0, 0, 0], Plan(), DECODING)
    assert found == [by_hugging_face(model, row, DECODING) for row in rows]


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_real_models_reply_as_hugging_face_does(name: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue("smollm" if name.startswith("smollm") else "gemma")
    texts = [
        'I put the letter in the box. It came back. I said: "',
        'I put the letter in the box by the door of the mill. He thanked me. I said: "',
    ]
    few = Decoding(new_tokens=6)
    rows = prompts_of(model, texts)
    found = decode(model, read_prompts(model, rows), [0, 1], [0, 0], Plan(), few)
    assert found == [by_hugging_face(model, row, few) for row in rows]


def ending_llama(where: int) -> tuple[Model, list[TokenPrompt]]:
    """A model for which what it says first at a place, after the first prompt, ends a reply."""
    plain = tiny("llama")
    rows = prompts_of(plain, UNLIKE)
    said = by_hugging_face(plain, rows[0], DECODING)
    hf = tiny_hf("llama")
    hf.generation_config.eos_token_id = [2, said[where]]  # pyright: ignore
    return interp.load_model(hf, tokenizer=word_tokenizer()), rows


def test_a_row_that_ends_leaves_the_others_as_they_are():
    model, rows = ending_llama(3)
    read = read_prompts(model, rows)
    found = decode(model, read, [0, 1, 2], [0, 1, 2], Plan(), DECODING)
    lengths = [len(reply) for reply in found]
    assert lengths[0] <= 4 < max(lengths)
    assert found == [by_hugging_face(model, row, DECODING) for row in rows]
    assert found == [decode(model, read, [i], [i], Plan(), DECODING)[0] for i in range(len(rows))]


# --- modulation ----------------------------------------------------------------------------------


def vectors(width: int, layers: list[int], scale: float, seed: int = 0) -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {at: scale * torch.randn(len(EMOTIONS), width, generator=draw) for at in layers}


def plans(model: Model) -> dict[str, Plan]:
    a = model.arch

    def adding(site: str, values: dict[int, torch.Tensor], scale: float, relative=None) -> Add:
        stacked = torch.stack(list(values.values()))[:, :, None]
        where = {"layers": list(values), "positions": "generating", "relative": relative}
        return Add(site, stacked, scale, **where)

    stream = adding("resid_post", vectors(a.d_model, [0, 1], 0.3), 0.5, "norm")
    heads = adding("z", vectors(a.n_heads * a.d_head, [0, 2], 1.0), 0.7)
    neurons = adding("mlp_post", vectors(a.d_mlp or 0, [1], 0.5), 0.7)
    return {
        "steering": Plan.of(stream),
        "components": Plan.of(heads, neurons),
    }


def naive(model: Model, prompt: TokenPrompt, emotion: int, plan: Plan) -> tuple[int, ...]:
    """Whole forwards of one row without a cache; vectors at the last prompt token and after."""
    ids, first = list(prompt.ids), len(prompt.ids) - 1
    ends, sites = ending_tokens(model), interp.model.sites.SITES
    steps = [step for step in plan if isinstance(step, Add)]
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(DECODING.repetition_penalty),
            NoRepeatNGramLogitsProcessor(DECODING.no_repeat),
            MinNewTokensLengthLogitsProcessor(len(ids), DECODING.min_tokens, list(ends), "cpu"),
        ]
    )
    for _ in range(DECODING.new_tokens):
        edits = [
            (sites[step.site], layer, adds(step, step.vector[i, emotion, 0], first))
            for step in steps
            for i, layer in enumerate(step.layers)
        ]
        with torch.no_grad(), hooked(model, edits):
            logits = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
        new = int(processors(torch.tensor([ids]), logits.float()).argmax())
        ids.append(new)
        if new in ends:
            break
    return tuple(ids[first + 1 :])


def adds(step: Add, value: torch.Tensor, first: int):
    def edit(x: torch.Tensor) -> None:
        for place in range(first, x.shape[1]):
            now = x[0, place].clone()
            size = float(now.norm()) if step.relative else 1.0
            x[0, place] = now + step.scale * size * value

    return edit


@pytest.mark.parametrize("kind", ["steering", "components"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_plan_acts_on_the_last_prompt_token_and_what_follows(family: str, kind: str):
    model = tiny(family)
    plan = plans(model)[kind]
    rows = prompts_of(model, ALIKE)
    which, emotions = [0, 0, 1, 2], [0, 3, 3, 5]
    found = decode(model, read_prompts(model, rows), which, emotions, plan, DECODING)
    assert found == [naive(model, rows[i], e, plan) for i, e in zip(which, emotions, strict=True)]
    plain = decode(model, read_prompts(model, rows), which, emotions, Plan(), DECODING)
    assert found != plain


def test_a_cache_is_used_again_and_no_hook_stays():
    model = tiny("llama")
    read = read_prompts(model, prompts_of(model, ALIKE))
    plain = decode(model, read, [0, 1, 2], [0, 1, 2], Plan(), DECODING)
    for plan in plans(model).values():
        decode(model, read, [0, 1, 2], [0, 1, 2], plan, DECODING)
        assert decode(model, read, [0, 1, 2], [0, 1, 2], Plan(), DECODING) == plain
    assert not hooks_left(model)


# --- prompts and texts ---------------------------------------------------------------------------


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
    rows = prompts_of(model, ALIKE)
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
