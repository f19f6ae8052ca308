"""A contrast: clean and corrupt prompts ready to run, and what is read off their runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.pairs import TokenPair, batch
from interp.errors import DataError, PlanError
from interp.forward.layer_calls import LayerCalls, record_layer_calls
from interp.forward.readout import measure
from interp.metrics import AnyMetric, as_metric
from interp.model.model import Model

Read = Callable[[Float[Tensor, "row pos d_model"], Int[Tensor, " row"]], Float[Tensor, " row"]]
"""(residual stream after the last block, which pair each row belongs to) -> metric of each row."""

PAIRS_AT_ONCE = 8


@brief
@dataclass(frozen=True)
class Contrast:
    """A batch of pairs of equally long prompts.

    Attributes:
        calls: what enters the layers; prompts 2i and 2i + 1 are pair i's clean and corrupt one.
        mask: the real tokens of each pair.
        read: the metric; higher = more of the behaviour.
    """

    calls: LayerCalls
    mask: Bool[Tensor, "pair pos"]
    read: Read

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def clean(self) -> Int[Tensor, " pair"]:
        """Prompt numbers of the clean prompts."""
        return 2 * torch.arange(len(self))

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
    """Micro-batches of pairs, each read at its prompts' last token.

    Args:
        model: the model.
        pairs: from `interp.data.pairs.tokenise`.
        metric: ``"logit_diff"``, ``"logprob"``, ``"prob"``, or a differentiable function, as
            `interp.patch` takes it.
        at_once: pairs in a batch; by default `PAIRS_AT_ONCE`.

    Raises:
        PlanError: a metric that has no useful gradient at the clean run.
        DataError: fewer than one pair in a batch.
    """
    chosen = as_metric(metric)
    if metric in ("kl", "rank"):
        raise PlanError(
            f"{metric!r} has no gradient at the clean run; use 'logit_diff', 'logprob' or 'prob'."
        )
    step = PAIRS_AT_ONCE if at_once is None else at_once
    if step < 1:
        raise DataError(f"at_once={at_once}: a micro-batch holds at least one pair.")
    for start in range(0, len(pairs), step):
        tokens = batch(model, pairs[start : start + step])
        last = tokens.left[0::2] + tokens.mask[0::2].sum(-1).cpu() - 1

        def read(
            resid: Tensor, pair: Tensor, last: Tensor = last, answers: Tensor = tokens.answers
        ):
            rows = torch.arange(len(resid), device=resid.device)
            at = resid[rows, last[pair].to(resid.device)]
            values = measure(model, chosen, at, answers[pair], at)
            if torch.is_grad_enabled() and at.requires_grad and not values.requires_grad:
                raise PlanError(
                    f"{chosen.name!r} has no gradient, so nothing can be attributed by it; write "
                    "it with differentiable functions of the logits, or use method='exact'."
                )
            return values

        calls = record_layer_calls(model, tokens.ids, tokens.mask)
        yield Contrast(calls, tokens.mask[0::2], read)
