"""The outline of a model that no adapter knows: its blocks, its final norm, what makes its logits.

What lies inside the blocks is guessed by `interp.loading.structure`, and everything is measured.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import ModelError, first_line
from interp.forward.hooks import first_input
from interp.loading.block_checks import same
from interp.model.architecture import Architecture, BlockMap, BlockParts, ModulePoint
from interp.model.sites import SITES

CLOSE = 1e-3


class SeveralStreams(ModelError):
    """A model whose blocks pass on more than one residual stream."""


def outlined(hf: Any) -> Architecture:
    """The outline; `ModelError` where blocks, final norm or unembedding are not to be found."""
    family = type(hf).__name__
    unembed = hf.get_output_embeddings()
    found = [
        (name, module)
        for name, module in hf.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and any(module[0].children())
    ]
    if not found or not isinstance(unembed, nn.Module):
        raise ModelError(f"{family} has no list of blocks, or no unembedding: {_needs(hf)}")
    blocks, stack = max(found, key=lambda one: (len(one[1]), -one[0].count(".")))
    ids = torch.arange(1, 7, device=next(hf.parameters()).device)[None]
    seen = _outer_modules(hf, blocks, ids)
    start = seen.get(f"{blocks}.0", (None, None))[0]
    last = seen.pop(f"{blocks}.{len(stack) - 1}", (None, None))[1]
    name = next(name for name, module in hf.named_modules() if module is unembed)
    read, scores = seen.pop(name, (None, None))
    if last is None or read is None or scores is None:
        raise ModelError(f"{family}: its last block or its unembedding never ran; {_needs(hf)}")
    times = last.numel() // read.numel()
    if last.ndim > 3 or (times > 1 and start is not None and _repeats(start, times)):
        raise SeveralStreams(
            f"{family}: its blocks pass on {times} residual streams side by side, mixed anew for "
            "each sublayer; interp's sites are those of one stream to which blocks add."
        )
    norm = None if same(read, last, CLOSE) else _final_norm(hf, seen, last, read)
    if norm is not None:  # some divide between norm and unembedding
        with torch.no_grad():
            scores = unembed(seen[norm][1])
    points = {"resid_pre": ModulePoint("", "in"), "resid_post": ModulePoint("", "out")}
    block = BlockMap(
        points=points,
        missing=dict.fromkeys(set(SITES) - set(points), "nothing was found that computes it"),
        parts=BlockParts(),
        attention=None,
    )
    return Architecture(
        adapter="",
        blocks=blocks,
        ln_final=norm,
        layers=(block,) * len(stack),
        d_model=last.shape[-1],
        logits_transform=_transform(hf, scores, seen[""][1]),
        bridge_reads_scores=False,
    )


def _final_norm(hf: nn.Module, seen: dict[str, Any], last: Tensor, read: Tensor) -> str:
    """The module between the last block and the unembedding, a factor aside."""
    family = type(hf).__name__
    found = [name for name, (x, y) in seen.items() if same(x, last, CLOSE) and _parallel(y, read)]
    if found:
        return found[0]
    earlier = [n for n, (x, _) in seen.items() if x is not None and x.shape[:-2] == last.shape[:-1]]
    if earlier:
        raise SeveralStreams(
            f"{family}: {min(earlier, key=len)!r} reads what earlier blocks gave beside the "
            "last one, so there is no single residual stream; interp's sites are those of one to "
            "which blocks add."
        )
    if last.dtype != read.dtype:
        raise ModelError(
            f"{family} keeps its residual stream in {last.dtype} and its weights in {read.dtype}; "
            "load it in float32."
        )
    raise ModelError(
        f"{family}: between its last block and its unembedding lies more than one norm; "
        f"{_needs(hf)}"
    )


def _repeats(start: Tensor, times: int) -> bool:
    """Whether what enters the blocks is so many copies of the same features."""
    first, *others = start.chunk(times, -1)
    return bool(others) and all(torch.equal(first, other) for other in others)


def _parallel(y: Tensor | None, read: Tensor) -> bool:
    """Whether one tensor is another times a factor."""
    if y is None or y.shape != read.shape:
        return False
    y, read, near = y.double(), read.double(), _near(read)
    return same(y * (y * read).sum() / y.square().sum(), read, near)


def _near(x: Tensor) -> float:
    """Largest relative error put down to rounding."""
    return max(CLOSE, torch.finfo(x.dtype).eps)


def _needs(hf: nn.Module) -> str:
    return (
        "TransformerLens has no adapter for it either. interp works with causal language models: "
        "blocks that add to a residual stream, a final norm, an unembedding."
    )


Ends = dict[str, tuple[Tensor | None, Tensor | None]]


def _outer_modules(hf: nn.Module, blocks: str, ids: Tensor) -> Ends:
    """What every module that is not inside a block reads and gives."""
    seen: Ends = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
            both = first_input(args, kwargs), given
            seen[name] = tuple(x.clone() if isinstance(x, Tensor) else None for x in both)  # pyright: ignore

        return hook

    inside = f"{blocks}."
    try:
        with contextlib.ExitStack() as hooks, torch.no_grad():
            for name, module in hf.named_modules():
                if not name.startswith(inside) or name.removeprefix(inside).isdigit():
                    hooks.enter_context(module.register_forward_hook(note(name), with_kwargs=True))
            hf(input_ids=ids, use_cache=False)
    except Exception as error:  # another kind of model fails in any of torch's ways
        raise ModelError(
            f"{type(hf).__name__} does not run on token ids ({first_line(error)}); {_needs(hf)}"
        ) from error
    return seen


SOFT_CAPS = ("final_logit_softcapping", "output_logit_soft_cap")
"""What configs call the soft cap of logits."""


def _transform(hf: Any, scores: Tensor, logits: Tensor | None) -> Callable[[Tensor], Tensor]:
    """What a model does with the unembedding's output: nothing, a factor, or a soft cap."""
    if logits is None or logits.shape != scores.shape:
        raise ModelError(f"{type(hf).__name__} leaves out logits that its unembedding gives.")
    scores, logits, near = scores.double(), logits.double(), _near(logits)
    scale = float((scores * logits).sum() / scores.square().sum())
    config = hf.config.get_text_config()
    caps = filter(None, (getattr(config, name, None) for name in SOFT_CAPS))
    forms: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: x * scale]
    forms += [lambda x, cap=cap: cap * torch.tanh(x / cap) for cap in caps]
    off = [float((form(scores) - logits).norm() / logits.norm()) for form in forms]
    if min(off) <= near:  # a wide cap is all but the identity on small logits, so the best counts
        return next(form for form, error in zip(forms, off, strict=True) if error <= 4 * min(off))
    raise ModelError(
        f"{type(hf).__name__}: its logits are more than its unembedding, a factor and a soft cap; "
        f"{_needs(hf)}"
    )
