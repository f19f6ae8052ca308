"""A model under plain hooks of torch: what interp's numbers are compared with.

A hook puts a value in place of a module's first input or output; nothing of interp but the place of
a site is used.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.data.pairs import PromptPairs, TokenPair, tokenise
from interp.model.model import Model
from interp.model.sites import SITES

Change = Callable[[Tensor], Tensor]
Place = tuple[nn.Module, str, Change]
"""A module, its side ``"in"`` or ``"out"``, and what is put there instead of what comes."""


def word_pairs() -> PromptPairs:
    """Two pairs, of six and of four words, in the vocabulary of `word_tokenizer`."""
    rows = [
        ("w1 w2 w3 w4 w5 w6", "w9 w2 w3 w4 w5 w6", "w20", "w21"),
        ("w7 w8 w10 w11", "w7 w8 w12 w11", "w30", "w31"),
    ]
    names = ("clean", "corrupt", "answer", "wrong_answer")
    return PromptPairs.from_records([dict(zip(names, row, strict=True)) for row in rows])


@contextlib.contextmanager
def changed(places: Sequence[Place]) -> Generator[None]:
    """Put other values in place of modules' first inputs or outputs."""
    with contextlib.ExitStack() as stack:
        for module, side, change in places:
            if side == "in":
                hook = module.register_forward_pre_hook(_before(change), with_kwargs=True)
            else:
                hook = module.register_forward_hook(_after(change))
            stack.callback(hook.remove)
        yield


def _before(change: Change) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, kwargs | {name: change(kwargs[name])}

    return hook


def _after(change: Change) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return change(output[0]), *output[1:]
        return change(output)

    return hook


def at_site(model: Model, site: str, layer: int, change: Change) -> Place:
    """A change of a site's own features, at the module that carries it."""
    module, point = model.point(SITES[site], layer)
    features = point.features

    def own(whole: Tensor) -> Tensor:
        if whole.ndim == 2:  # all tokens in one axis, of the one row that runs
            return own(whole[None])[0]
        if features is None:
            return change(whole)
        new = whole.clone()
        new[..., features] = change(whole[..., features])
        return new

    return module, point.side, own


class Plain:
    """A pair's two runs, and the metric under any changes; every run is one plain forward pass."""

    def __init__(self, model: Model, pair: TokenPair):
        self.model, self.pair = model, pair
        self.clean, self.corrupt = (torch.tensor([ids]) for ids in (pair.clean, pair.corrupt))

    def metric(self, ids: Int[Tensor, "1 pos"], places: Sequence[Place] = ()) -> Float[Tensor, ""]:
        """logit(answer) - logit(wrong answer) at the last token."""
        with changed(places):
            last = self.model.hf(input_ids=ids, use_cache=False).logits[0, -1]
        return last[self.pair.answer] - last[self.pair.wrong_answer]

    def seen(
        self, ids: Int[Tensor, "1 pos"], site: str, layer: int, places: Sequence[Place] = ()
    ) -> Float[Tensor, "1 pos width"]:
        """A site's activation."""
        found: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            found.append(x.detach().clone())
            return x

        self.metric(ids, [*places, at_site(self.model, site, layer, keep)])
        return found[-1]


def put(value: Tensor, where: Any) -> Change:
    """Part of an activation replaced by another run's."""

    def change(x: Tensor) -> Tensor:
        new = x.clone()
        new[where] = value[where]
        return new

    return change


def plain_runs_of(model: Model) -> list[Plain]:
    """The runs of each of `word_pairs`."""
    return [Plain(model, pair) for pair in tokenise(model, word_pairs())[0]]
