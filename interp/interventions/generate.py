"""Generation under a plan: one decoder over one prefix cache.

    texts = generate(model, prompts, plan, max_new_tokens=30)

Steering is a plan: a vector per row, relative to the activation, at the last prompt token and at
every new one::

    plan = Add("resid_post", vectors[:, :, None], 0.3, layers=range(8, 20), relative="norm",
               positions="generating")            # vectors: [layer, condition, d_model]
    cache = PrefixCache.sharing(model, prompts, [common_prefix(prompts)] * len(prompts))
    cache.read(model, leave=1)                    # each prompt once, for all conditions and plans
    rows = [(i, c) for i in range(len(prompts)) for c in range(n_conditions)]
    ids = decode(model, cache.branch([i for i, _ in rows]), plan, 30, entries=[c for _, c in rows])
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import LogitsProcessorList, MinNewTokensLengthLogitsProcessor

from interp.brief import brief
from interp.data.prompts import Prompts, TokenPrompt, as_prompts, batches
from interp.errors import PlanError, shown
from interp.forward.budget import default_budget
from interp.forward.prefix_cache import PrefixCache
from interp.interventions.batch_run import Run, Window
from interp.interventions.binding import bind, check_values
from interp.interventions.native import hooked_run
from interp.interventions.plan import AnyPlan, as_plan
from interp.model.model import Model
from interp.progress import Progress, reported

Tokens = tuple[int, ...]


@brief
@dataclass(frozen=True)
class Generation:
    """What one prompt was continued by: `ids`, with the end-of-sequence token, and their `text`."""

    prompt: Tokens
    ids: Tokens
    text: str


def generate(
    model: Model,
    prompts: Prompts,
    plan: AnyPlan = (),
    max_new_tokens: int = 20,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    progress: Progress | bool = True,
) -> list[Generation]:
    """Continue prompts under a plan; with an empty one this is ``model.hf.generate``.

    Scopes say when an intervention acts: ``"prompt"``, ``"last"`` and spans at prefill,
    ``"decoded"`` on each new token as it is read back, ``"generating"`` on the last prompt token
    and each new one, ``"all"`` on every token. Equal prompts are read once where the plan changes
    nothing before their last token.

    Args:
        model: the model; its own generation config applies (repetition penalty, top-k, …).
        prompts: texts, chat messages, token prompts, or pairs (of which the clean prompts run).
        plan: what to do; nothing by default.
        max_new_tokens: at most so many tokens per prompt.
        temperature: 0 takes the likeliest token each time; otherwise tokens are sampled.
        seed: of the sampling, for all prompts together; among other prompts a reply differs.
        use_cache: keep keys and values; without, and for recurrent models (Mamba), every step
            recomputes all tokens.
        progress: called with (prompts done, prompts in all); True draws a bar where one is watched.

    Raises:
        PlanError: the plan cannot be carried out on these prompts or on this model, or
            `max_new_tokens` is not a positive whole number.
    """
    rows, steps = as_prompts(model, prompts), as_plan(plan)
    check_values(steps, rows)
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature} if temperature else {}
    )
    out: dict[int, Generation] = {}
    with seeded(seed), reported(progress, "generating", len(rows), "prompts") as report:
        for group in batches(model, rows, default_budget(model)):
            part = [rows[i] for i in group]
            cache = _begun(model, part, bind(model, steps, part, group), use_cache)
            new = decode(model, cache, steps, max_new_tokens, entries=group, **sampling)
            for i, ids in zip(group, new, strict=True):
                text = model.tokenizer.decode(ids, skip_special_tokens=True)
                out[i] = Generation(rows[i].ids, ids, text)
            report(len(out), len(rows))
    return [out[i] for i in range(len(rows))]


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Draw from one seed, whatever is decoded inside; the caller's random state stays."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _begun(model: Model, prompts: Sequence[TokenPrompt], run: Run, use_cache: bool) -> PrefixCache:
    """The rows; equal prompts are read once where the run acts on no token before the last."""
    different = {prompt.ids: prompt for prompt in prompts}
    cache = PrefixCache.of(model, prompts, keep=use_cache)
    before = cache.mask[:, :-1]
    if len(different) == len(prompts) or cache.kv is None or not before.any() or _acts(run, before):
        return cache
    cache = PrefixCache.of(model, list(different.values()))
    with torch.no_grad():
        cache.read(model, leave=1)
    number = {ids: i for i, ids in enumerate(different)}
    cache.select([number[prompt.ids] for prompt in prompts])
    cache.prompts = list(prompts)  # whose spans may differ
    return cache


@torch.no_grad()
def decode(
    model: Model,
    cache: PrefixCache,
    plan: AnyPlan = (),
    max_new_tokens: int = 20,
    *,
    entries: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    until: Callable[[Tokens], bool] | None = None,
    **options: Any,
) -> list[Tokens]:
    """Continue the rows of a cache under a plan; a row that has ended leaves the batch.

    The cache is used up (`PrefixCache.branch` copies). `entries` says which entry of a value's
    prompt axis each row takes; `ends` are the tokens that end a row, by default the model's own,
    and `until` says of a row's new tokens whether they end it, too; `options` are those of
    ``model.hf.generate`` (``repetition_penalty``, …); what is sampled depends on `seeded`.
    Returns each row's new tokens, up to and with the one that ended it.

    Raises:
        PlanError: the plan cannot be carried out on these rows, acts on tokens that have been
            read, or `max_new_tokens` is not a positive whole number.
    """
    wanted: Any = max_new_tokens
    if not (isinstance(wanted, int) and wanted >= 1):
        raise PlanError(f"max_new_tokens={shown(max_new_tokens)}: ask for 1 token or more.")
    run = bind(model, as_plan(plan), cache.prompts, entries)
    if cache.n_read and _acts(run, cache.mask[:, : cache.n_read]):
        raise PlanError(
            "the plan acts on tokens that were read before it was applied; choose positions such "
            "as 'generating' or 'decoded', or give prompts instead of a cache."
        )
    stop = _ends(model) if ends is None else ends
    seen = _on_the_right(cache.ids, cache.mask)
    processors, sample = _processors(model, seen, max_new_tokens, stop, options)
    ended = torch.zeros(model.n_vocab, dtype=torch.bool, device=seen.device)
    ended[[one for one in stop if one < len(ended)]] = True  # others cannot be drawn
    run.rows = torch.arange(len(cache))
    new: list[list[int]] = [[] for _ in run.rows]
    with hooked_run(model, run):
        for number in range(max_new_tokens):
            if number == options.get("min_new_tokens"):  # the ban on ends costs time after it, too
                minimum = MinNewTokensLengthLogitsProcessor
                processors = LogitsProcessorList(
                    p for p in processors if not isinstance(p, minimum)
                )
            states = cache.read(model)[:, -1]
            logits = model.arch.logits_transform(model.unembed(states).float())
            scores: Any = processors(seen, logits)  # pyright: ignore[reportArgumentType]
            drawn = torch.multinomial(scores.softmax(-1), 1) if sample else scores.argmax(-1, True)
            token = drawn[:, 0]
            for row, one in zip(run.rows.tolist(), token.tolist(), strict=True):
                new[row].append(one)
            over = ended[token]
            if until:
                enough = [until(tuple(new[row])) for row in run.rows.tolist()]
                over = over | torch.tensor(enough, device=over.device)
            going = (~over).nonzero()[:, 0]
            if not len(going):
                break
            cache.append(token)
            seen = torch.cat([seen, token[:, None]], 1)
            if len(going) < len(token):
                cache.select(going)
                seen, run.rows = seen[going], run.rows[going.cpu()]
    return [tuple(ids) for ids in new]


def _acts(run: Run, mask: Bool[Tensor, "row column"]) -> bool:
    """Whether a run edits, or cuts a query of, any of the first tokens of its prompts."""
    window = Window.of(mask.cpu())
    scopes = [edit.scope for edit in run.edits] + [cut.queries for cut in run.knock_outs]
    return any(bool(scope.columns(window).any()) for scope in scopes)


def _ends(model: Model) -> list[int]:
    """The model's own end-of-sequence tokens."""
    stop = model.hf.generation_config.eos_token_id
    return [one for one in (stop if isinstance(stop, list) else [stop]) if one is not None]


def _processors(
    model: Model,
    seen: Int[Tensor, "row column"],
    max_new_tokens: int,
    stop: Sequence[int],
    options: dict[str, Any],
) -> tuple[LogitsProcessorList, bool]:
    """What Hugging Face's own loop would do to logits, in its order; and whether it samples."""

    def loop(_: Any, input_ids: Tensor, logits_processor: Any, generation_config: Any, **__: Any):
        return logits_processor, generation_config.do_sample

    return model.hf.generate(
        input_ids=seen,
        attention_mask=torch.ones_like(seen),
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop) or None,
        pad_token_id=model.blank,
        custom_generate=loop,
        **({"do_sample": False} | options),
    )


def _on_the_right(
    ids: Int[Tensor, "row column"], mask: Bool[Tensor, "row column"]
) -> Int[Tensor, "row column"]:
    """Tokens for penalties: the real ones on the right, the first of them in place of padding."""
    real = ids.gather(1, torch.sort(mask.long(), dim=1, stable=True).indices)
    start = (~mask).sum(1, keepdim=True)
    columns = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(columns < start, real.gather(1, start), real)
