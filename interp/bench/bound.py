"""The least time of a sweep: a plain forward pass over just the tokens that it must compute."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from interp.data.pairs import TokenPair
from interp.forward.layer_calls import record_layer_calls
from interp.forward.readout import answer_logits
from interp.model.model import Model


class Seconds(NamedTuple):
    """Wall time, and processor time of all threads of this process."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, Seconds]:
    """What a call returns, and how long it takes, the device's own queue included."""
    _synchronise(device)
    start = time.perf_counter(), time.process_time()
    found = work()
    _synchronise(device)
    return found, Seconds(time.perf_counter() - start[0], time.process_time() - start[1])


def tokens_needed(model: Model, pair: TokenPair, over: tuple[str, str]) -> list[int]:
    """How many tokens each layer must compute in a denoising sweep over layers and `over`'s other.

    Both prompts once; and of each cell that patches this layer or one below, the tokens from its
    first changed position on. Nothing before the prompts' first difference can change.
    """
    changed = len(pair.corrupt) - pair.first_difference
    heads = model.arch.layers[0].n_heads
    cells = changed * (changed + 1) // 2 if over[1] == "pos" else heads * changed
    both = len(pair.clean) + len(pair.corrupt)
    return [both + (layer + 1) * cells for layer in range(model.arch.n_layers)]


@torch.no_grad()
def bound_seconds(
    model: Model, pair: TokenPair, over: tuple[str, str] = ("layer", "pos")
) -> Seconds:
    """Time of the model's own forward pass over the tokens that a sweep must compute, no others.

    Each block is called once, without hooks, on so many tokens (`tokens_needed`) in rows as long
    as the prompt; then the two answers' logits are read at each cell's last token.
    """
    ids = torch.tensor([pair.corrupt], device=model.device)
    n = ids.shape[1]
    calls = record_layer_calls(model, ids, torch.ones_like(ids, dtype=torch.bool))
    wall = cpu = 0.0
    for layer, needed in enumerate(tokens_needed(model, pair, over)):
        rows = torch.zeros(math.ceil(needed / n), dtype=torch.long)
        hidden = torch.randn(len(rows), n, model.arch.d_model).to(calls.embeddings)
        block, kwargs = model.blocks[layer], calls.of_rows(layer, rows)
        _, took = timed(lambda: block(hidden, **kwargs), model.device)  # noqa: B023
        share = needed / hidden[..., 0].numel()
        wall, cpu = wall + share * took.wall, cpu + share * took.cpu
    others = n - pair.first_difference if over[1] == "pos" else model.arch.layers[0].n_heads
    last = torch.randn(2 + model.arch.n_layers * others, model.arch.d_model).to(calls.embeddings)
    answers = torch.tensor([[pair.answer, pair.wrong_answer]]).expand(len(last), 2)
    _, took = timed(lambda: answer_logits(model, last, answers), model.device)
    return Seconds(wall + took.wall, cpu + took.cpu)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
