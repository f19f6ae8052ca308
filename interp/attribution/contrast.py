"""A contrast: clean and corrupt prompts ready to run, their runs, and what is read off them."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interp.brief import brief
from interp.data.pairs import TokenPair
from interp.data.token_batch import TokenBatch, batch
from interp.errors import DataError, PlanError
from interp.forward.argument_axes import BlockState
from interp.forward.blocks import split_mlp_input
from interp.forward.continuations import record_batch
from interp.forward.hooks import hooked
from interp.forward.layer_calls import LayerCalls
from interp.forward.readout import measure
from interp.metrics import NO_GRADIENT, AnyMetric, as_metric
from interp.model.model import Model
from interp.model.sites import SITES

Read = Callable[[Float[Tensor, "row pos d_model"], Int[Tensor, " row"]], Float[Tensor, " row"]]
"""(residual stream after the last block, which pair each row belongs to) -> metric of each row."""
Through = Callable[[int, Tensor, Tensor], Tensor]
"""(layer, what entered it, what left it) -> what the next layer gets."""

PAIRS_AT_ONCE = 8


@brief
@dataclass(frozen=True)
class Contrast:
    """A batch of pairs of equally long prompts.

    Prompts 2i and 2i + 1 of `calls` are pair i's clean and corrupt one; `mask` has the real tokens
    of each pair, `read` is the metric.
    """

    calls: LayerCalls
    mask: Bool[Tensor, "pair pos"]
    read: Read

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def pair(self) -> Int[Tensor, " pair"]:
        """Numbers of the pairs."""
        return torch.arange(len(self))

    @property
    def clean(self) -> Int[Tensor, " pair"]:
        """Prompt numbers of the clean prompts."""
        return 2 * self.pair

    @property
    def corrupt(self) -> Int[Tensor, " pair"]:
        """Prompt numbers of the corrupt prompts."""
        return self.clean + 1


def contrasts(
    model: Model,
    pairs: Sequence[TokenPair],
    metric: AnyMetric = "logit_diff",
    at_once: int | None = None,
) -> Iterator[Contrast]:
    """Micro-batches of `at_once` (by default `PAIRS_AT_ONCE`) pairs, read at their last token."""
    chosen = as_metric(metric)
    if chosen.name in NO_GRADIENT:
        raise PlanError(
            f"{chosen.name!r} has no gradient at the clean run; use 'logit_diff', 'logprob' or "
            "'prob'."
        )
    step = PAIRS_AT_ONCE if at_once is None else at_once
    if step < 1:
        raise DataError(f"at_once={at_once}: a micro-batch holds at least one pair.")
    for pair in pairs:
        if pair.partner != tuple(range(len(pair.corrupt))):
            raise DataError(
                f"{pair.pair.where}: the prompts are not aligned token by token, which attribution "
                "and circuits need."
            )
    for start in range(0, len(pairs), step):
        tokens = batch(model, pairs[start : start + step], chosen.n_answers)

        def read(resid: Tensor, pair: Tensor, tokens: TokenBatch = tokens):
            rows = torch.arange(len(resid), device=resid.device)[:, None]
            at = resid[rows, tokens.columns[2 * pair].to(resid.device)]
            values = measure(model, chosen, at, tokens.answers[2 * pair])
            if torch.is_grad_enabled() and at.requires_grad and not values.requires_grad:
                raise PlanError(
                    f"{chosen.name!r} has no gradient, so nothing can be attributed by it; write "
                    "it with differentiable functions of the logits, or use method='exact'."
                )
            return values

        calls = record_batch(model, tokens)
        yield Contrast(calls, tokens.mask[0::2], read)


# --- runs --------------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class RunValues:
    """Activations of a batch of rows: site -> each layer's, and the stream after the last block.

    ``mlp_in`` is the MLP's input, after its norm; `pair` is each row's pair of the contrast.
    """

    pair: Int[Tensor, " row"]
    kept: dict[str, list[Tensor]]
    final: Float[Tensor, "row pos d_model"]

    def detached(self) -> "RunValues":
        """The values alone."""
        kept = {site: [x.detach() for x in layers] for site, layers in self.kept.items()}
        return RunValues(self.pair, kept, self.final.detach())

    def per_head(self, model: Model, layer: int) -> dict[str, Float[Tensor, "row pos head d_head"]]:
        """Queries, keys and values of a layer for each query head: groups repeat theirs."""
        a, out = model.arch, dict[str, Tensor]()
        for part in "qkv":
            by_head = self.kept[part][layer].unflatten(-1, (-1, a.d_head))
            out[part] = by_head.repeat_interleave(a.n_heads // by_head.shape[2], 2)
        return out


def run(
    model: Model,
    contrast: Contrast,
    hidden: Float[Tensor, "row pos d_model"],
    pair: Int[Tensor, " row"],
    sites: Sequence[str],
    given: tuple[str, int, Tensor] | None = None,
    through: Through = lambda layer, before, after: after,
    tokens: Literal["clean", "corrupt"] = "clean",
) -> RunValues:
    """Run every block on whole rows of a contrast's prompts; keep what passes the given sites.

    `hidden` enters layer 0, `pair` is the pair of each row, `sites` are short names and
    ``"mlp_in"``; `given` is a (site, layer, value) that takes the place of an activation, and
    `through` changes what passes from layer to layer. Blocks that read more of the prompt than the
    stream (embeddings of their own) read these `tokens`.
    """
    kept: dict[str, list[Tensor]] = {site: [] for site in sites}
    known, state = contrast.calls.arguments, BlockState(contrast.calls.arguments)
    for layer, block in enumerate(model.blocks):
        kwargs = contrast.calls.of_rows(layer, 2 * pair)
        if known.of_tokens and tokens == "corrupt":
            other = contrast.calls.of_rows(layer, 2 * pair + 1)
            kwargs |= {name: value for name, value in other.items() if name in known.of_tokens}
        with _giving(model, layer, given), _keeping(model, layer, kept):
            after = state.after(block(hidden, **state.given(kwargs)))
        hidden = through(layer, hidden, after)
    return RunValues(pair, kept, hidden)


@contextlib.contextmanager
def _giving(model: Model, layer: int, given: tuple[str, int, Tensor] | None) -> Generator[None]:
    """Out of place: what attention computes is saved for its own backward pass."""
    if given is None or given[1] != layer:
        yield
        return
    module, point = model.point(SITES[given[0]], layer)
    if point.side == "in":
        handle = module.register_forward_pre_hook(lambda _, args: (given[2], *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, __, out: given[2])
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _keeping(model: Model, layer: int, kept: dict[str, list[Tensor]]) -> Generator[None]:
    own = model.arch.layers[layer].points
    edits = [(SITES[s], layer, kept[s].append) for s in kept if s in own]
    with contextlib.ExitStack() as stack:
        if "mlp_in" in kept:
            stack.callback(split_mlp_input(model, layer, kept["mlp_in"].append).remove)
        stack.enter_context(hooked(model, edits))
        yield


def plain_runs(
    model: Model, contrast: Contrast, sites: Sequence[str]
) -> tuple[RunValues, RunValues]:
    """The clean and the corrupt run."""
    embeddings = contrast.calls.embeddings
    with torch.no_grad():
        clean, corrupt = (
            run(model, contrast, embeddings[which], contrast.pair, sites, tokens=tokens)
            for which, tokens in ((contrast.clean, "clean"), (contrast.corrupt, "corrupt"))
        )
    return clean, corrupt


def gradients(
    output: Tensor, inputs: Sequence[Tensor], multiplier: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """Gradients of an output at several inputs; zero where it does not depend on one."""
    options |= {"allow_unused": True, "materialize_grads": True}
    return list(torch.autograd.grad(output, inputs, multiplier, **options))


def forward_equivalents(model: Model, contrast: Contrast, work: Callable[[], Any]) -> float:
    """Floating-point operations of `work`, in forward passes of the contrast's clean prompts.

    Parameters are frozen, so a backward pass costs about one forward pass, not two.
    """
    start = contrast.calls.embeddings[contrast.clean]
    # fused attention is not counted on a CPU; its plain form is
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as one, torch.no_grad():
            contrast.read(run(model, contrast, start, contrast.pair, []).final, contrast.pair)
        with FlopCounterMode(display=False) as total:
            work()
    return total.get_total_flops() / one.get_total_flops()
