"""Which tokens go on with the word before them: an answer that they follow is another word."""

import functools
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.editing.evaluation.answers import in_word
from interp.model.model import Model


def continuing_tokens(model: Model) -> Bool[Tensor, " vocab"]:
    """The tokens with which a word goes on: "atu" behind "mat", not " at" or "."."""
    return _continuing(model.tokenizer, model.unembed.weight.shape[0])


@functools.lru_cache(maxsize=8)
def _continuing(tokenizer: Any, size: int) -> Bool[Tensor, " vocab"]:
    # behind a letter, for some tokenizers drop the space that a text begins with
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    known = min(size, len(tokenizer))
    texts = tokenizer.batch_decode(
        [[*letter, i] for i in range(known)], clean_up_tokenization_spaces=False
    )
    start = len(tokenizer.decode(letter))
    goes_on = [len(text) > start and in_word(text[start]) for text in texts]
    return torch.tensor(goes_on + [False] * (size - known))
