"""Questions whose answers have several tokens: validated whole, attributed by the first alone."""

import numpy as np
import pytest
import torch
from whole_answers import model_of, plain

from circuits.query_value import find, validate
from circuits.query_value.questions import questions
from interp.errors import DataError
from interp.model.model import Model

N = 3


def greedy(model: Model, text: str) -> list[int]:
    ids = model.encode(text)
    for _ in range(N):
        with torch.no_grad():
            ids.append(int(plain(model, ids)[-1].argmax()))
    return ids[-N:]


def answerable(model: Model) -> list[tuple[str, str]]:
    """Prompts and what the model itself writes behind them, where that is words."""
    texts = [f"w{i} w{i + 3} w{2 * i}" for i in range(1, 30)]
    written = {text: greedy(model, text) for text in texts}
    words = range(4, 94)  # the other ids are special tokens, or none of the tokenizer's
    spelt = {t: own for t, own in written.items() if set(own) <= set(words)}
    return [(t, " ".join(map(model.token, own))) for t, own in spelt.items()]


def test_answers_are_validated_whole_and_found_by_their_first_token():
    model = model_of("llama")
    (asked, *others) = answerable(model)[:4]
    with pytest.raises(DataError, match="is 3 tokens"):
        find(model, [asked[0]], [asked[1]])
    result = find(model, [asked[0]], [asked[1]], answers_read="first")
    assert result.questions[0].tokens == (greedy(model, asked[0])[0],)
    texts, answers = zip(*others, strict=True)
    wrong = [answers[0].rsplit(" ", 1)[0] + " w0", *answers[1:]]
    found = validate(model, result, texts, answers, n_query=4, n_value=4, n_random=2, kind="zero")
    baseline = found.readings.sel(run="baseline")
    assert baseline["accuracy"].values.tolist() == [1] * len(others)
    for i, text in enumerate(texts):
        ids, tokens = model.encode(text), greedy(model, text)
        with torch.no_grad():
            log_p = plain(model, [*ids, *tokens[:-1]])[len(ids) - 1 :]
        want = float(sum(log_p[n, token] for n, token in enumerate(tokens)))
        assert float(baseline["logprob"][i]) == pytest.approx(want, abs=1e-4)
    moved = found.readings["logprob"].transpose("run", "prompt").values
    assert np.abs(moved[1] - moved[0]).max() > 1e-3
    right, left_out = questions(model, texts, wrong, mode="whole")
    assert [one.id for one in right] == [str(i) for i in range(1, len(others))]
    assert left_out[0].reason.startswith("the model says")
