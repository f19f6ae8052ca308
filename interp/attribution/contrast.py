"""A contrast: clean and corrupt prompts ready to run, their runs, and what is read off them."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interp.brief import brief
from interp.data.pairs import AnswerMode, Excluded, PromptPairs, TokenPair, tokenise
from interp.data.token_batch import aligned_batch
from interp.errors import DataError, PlanError
from interp.forward.argument_axes import BlockState
from interp.forward.blocks import split_mlp_input
from interp.forward.continuations import readable, record_batch
from interp.forward.hooks import hooked
from interp.forward.layer_calls import LayerCalls
from interp.forward.readout import measure
from interp.metrics import AnyMetric, as_metric, with_gradient
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
    """A batch of pairs; partners, and the tokens of the answers, are in one column of both prompts.

    Prompts 2i and 2i + 1 of `calls` are pair i's clean and corrupt one. A clean token without a
    partner is replaced nowhere: it counts as if both runs had its clean activation.

    Attributes:
        prompt: which columns are tokens of the clean prompts themselves, not of their answers.
        read: the metric.
    """

    calls: LayerCalls
    prompt: Bool[Tensor, "pair pos"]
    read: Read

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def corrupt_prompt(self) -> Bool[Tensor, "pair pos"]:
        """Which columns are tokens of the corrupt prompts themselves."""
        return self.calls.mask[1::2] & (self.prompt | ~self.mask)

    @property
    def mask(self) -> Bool[Tensor, "pair pos"]:
        """The tokens of the clean prompts and of the answers."""
        return self.calls.mask[0::2]

    @property
    def paired(self) -> Bool[Tensor, "pair pos"]:
        """Those of them that have a partner; the answers' tokens are their own."""
        return self.mask & self.calls.mask[1::2]

    @property
    def token_by_token(self) -> bool:
        """Whether all tokens of both prompts have a partner."""
        return bool((self.mask == self.calls.mask[1::2]).all())

    @property
    def embeddings(self) -> tuple[Float[Tensor, "pair pos d"], Float[Tensor, "pair pos d"]]:
        """What enters layer 0 of the clean prompts: their own tokens, and their partners'."""
        both = self.calls.embeddings
        return both[self.clean], self.with_partners(both[self.clean], both[self.corrupt])

    def with_partners(
        self, clean: Float[Tensor, "pair pos width"], corrupt: Float[Tensor, "pair pos width"]
    ) -> Float[Tensor, "pair pos width"]:
        """The corrupt activations in the clean prompts' tokens, and the clean where none is."""
        if self.token_by_token:
            return corrupt
        return corrupt.where(self.paired.to(corrupt.device)[..., None], clean)

    @property
    def first_difference(self) -> Int[Tensor, " pair"]:
        """First column from which the two prompts' activations can differ."""
        both, mask = self.calls.embeddings, self.calls.mask
        differ = (both[self.clean] != both[self.corrupt]).any(-1).to(mask.device)
        return ((differ & self.paired) | (mask[0::2] != mask[1::2])).int().argmax(-1).cpu()

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


def usable(
    model: Model, pairs: PromptPairs, metric: AnyMetric, answers: AnswerMode
) -> tuple[list[TokenPair], list[Excluded]]:
    """Every pair in tokens, and those left out, also because this model cannot read them so."""
    kept, refused = tokenise(model, pairs, answers)
    kept, unread = readable(model, kept, as_metric(metric).n_answers, aligned=True)
    return kept, refused + unread


def batched(pairs: Sequence[TokenPair], at_once: int | None) -> Iterator[Sequence[TokenPair]]:
    """Micro-batches of `at_once` (by default `PAIRS_AT_ONCE`) pairs."""
    step = PAIRS_AT_ONCE if at_once is None else at_once
    if step < 1:
        raise DataError(f"at_once={at_once}: a micro-batch holds at least one pair.")
    return (pairs[start : start + step] for start in range(0, len(pairs), step))


def contrasts(
    model: Model, pairs: Sequence[TokenPair], metric: AnyMetric = "logit_diff"
) -> Iterator[Contrast]:
    """Micro-batches of pairs, read at their last token."""
    return (contrast_of(model, some, metric) for some in batched(pairs, None))


def contrast_of(model: Model, pairs: Sequence[TokenPair], metric: AnyMetric) -> Contrast:
    """One micro-batch, all of these pairs."""
    chosen = with_gradient(metric)
    tokens = aligned_batch(model, pairs, chosen.n_answers)

    def read(resid: Tensor, pair: Tensor):
        rows = torch.arange(len(resid), device=resid.device)[:, None]
        at = resid[rows, tokens.columns[2 * pair].to(resid.device)]
        values = measure(model, chosen, at, tokens.answers[2 * pair])
        if torch.is_grad_enabled() and at.requires_grad and not values.requires_grad:
            raise PlanError(
                f"{chosen.name!r} has no gradient, so nothing can be attributed by it; write it "
                "with differentiable functions of the logits, or use method='exact'."
            )
        return values

    calls = record_batch(model, tokens)
    last = tokens.columns[0::2, :1].to(tokens.mask.device)
    within = torch.arange(tokens.mask.shape[1], device=last.device) <= last
    return Contrast(calls, tokens.mask[0::2] & within, read)


# --- runs --------------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class RunValues:
    """Activations of a batch of rows: site -> each layer's, and the stream after the last block.

    ``mlp_in`` is the MLP's input, after its norm.
    """

    kept: dict[str, list[Tensor]]
    final: Float[Tensor, "row pos d_model"]

    def detached(self) -> "RunValues":
        """The values alone."""
        kept = {site: [x.detach() for x in layers] for site, layers in self.kept.items()}
        return RunValues(kept, self.final.detach())

    def beside(self, contrast: Contrast, clean: "RunValues") -> "RunValues":
        """A corrupt run's activations in the clean tokens; see `Contrast.with_partners`."""
        kept = {
            site: [
                contrast.with_partners(*both) for both in zip(clean.kept[site], own, strict=True)
            ]
            for site, own in self.kept.items()
        }
        return RunValues(kept, self.final)

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
    prompt: Int[Tensor, " row"],
    sites: Sequence[str],
    given: tuple[str, int, Tensor] | None = None,
    through: Through = lambda layer, before, after: after,
) -> RunValues:
    """Run every block on whole rows of a contrast's prompts; keep what passes the given sites.

    `hidden` enters layer 0, `prompt` is the prompt of each row, `sites` are short names and
    ``"mlp_in"``; `given` is a (site, layer, value) that takes the place of an activation, and
    `through` changes what passes from layer to layer. Blocks that read more of the prompt than the
    stream (embeddings of their own) read that of `prompt`.
    """
    kept: dict[str, list[Tensor]] = {site: [] for site in sites}
    state = BlockState(contrast.calls.arguments)
    for layer, block in enumerate(model.blocks):
        kwargs = contrast.calls.of_rows(layer, prompt)
        with _hooks(model, layer, kept, given):
            after = state.after(block(hidden, **state.given(kwargs)))
        hidden = through(layer, hidden, after)
    return RunValues(kept, hidden)


@contextlib.contextmanager
def _hooks(
    model: Model, layer: int, kept: dict[str, list[Tensor]], given: tuple[str, int, Tensor] | None
) -> Generator[None]:
    own = model.arch.layers[layer].points
    edits = [(SITES[s], layer, kept[s].append) for s in kept if s in own]
    with contextlib.ExitStack() as stack:
        # out of place, as what attention computes is saved for its own backward pass
        if given is not None and given[1] == layer:
            module, point = model.point(SITES[given[0]], layer)
            if point.side == "in":
                put = module.register_forward_pre_hook(lambda _, args: (given[2], *args[1:]))
            else:
                put = module.register_forward_hook(lambda _, __, out: given[2])
            stack.callback(put.remove)
        if "mlp_in" in kept:
            stack.callback(split_mlp_input(model, layer, kept["mlp_in"].append).remove)
        stack.enter_context(hooked(model, edits))
        for site in ("attn_out", "mlp_out"):
            if site in kept:
                module, point = model.point(SITES[site], layer)
                if point.side == "out":
                    stack.callback(module.register_forward_hook(_go_on_with_a_copy).remove)
        yield


def _go_on_with_a_copy(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Blocks may add to a sublayer's output in place (Falcon); what is kept stays as it was."""
    if isinstance(output, tuple):
        return output[0].clone(), *output[1:]
    return output.clone()


def plain_runs(
    model: Model, contrast: Contrast, sites: Sequence[str]
) -> tuple[RunValues, RunValues]:
    """The clean and the corrupt run, whose activations are beside the clean ones."""
    embeddings = contrast.calls.embeddings
    with torch.no_grad():
        clean, corrupt = (
            run(model, contrast, embeddings[which], which, sites)
            for which in (contrast.clean, contrast.corrupt)
        )
    return clean, corrupt.beside(contrast, clean)


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
            contrast.read(run(model, contrast, start, contrast.clean, []).final, contrast.pair)
        with FlopCounterMode(display=False) as total:
            work()
    return total.get_total_flops() / one.get_total_flops()
