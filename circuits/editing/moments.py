"""Second moments S of what projections read: E[k k^T] over text, or mostly within facts.

A closed form that is small in M = S^-1 ignores directions in which S is large. With S the
covariance of keys *within* facts, M is Fisher's: what tells facts apart counts, not the wording.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from circuits.editing.change import Place
from circuits.editing.edit import ledger
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.keys import keys_at
from interp.data.prompts import TokenPrompt, batches, pad
from interp.errors import PlanError
from interp.forward.blocks import Rewrite, rewriting
from interp.forward.budget import default_budget
from interp.forward.layer_range import layers_only
from interp.forward.prefix_cache import PrefixCache, separable
from interp.loading.builtin import cache_dir
from interp.model.model import Model
from interp.progress import Progress
from interp.results.folder import replacing

SHIPPED = Path(__file__).with_name("own_samples")
"""What built-in models wrote by default, as in the cache: by hash of their weights."""
WINDOW = 128
"""Tokens per passage."""
ROWS_AT_ONCE = 128
"""Passages that are sampled side by side."""
N_TOKENS = 20_000
"""Tokens read by default: ten times the widest key of the built-in models. MEMIT's 100,000
documents are some 40 million; under 0.3 % of them do as well (arXiv 2506.04226)."""
WITHIN = 0.9
"""Weight of the covariance within facts, against the second moment of all keys."""
SHRINKAGE = 0.01
"""Added to the diagonal, as a part of its mean: there are fewer questions than directions."""

Moments = dict[Place, Float[Tensor, "d_in d_in"]]
"""By projection, the uncentred second moment of its input, in float64."""


def second_moments(
    model: Model,
    places: Sequence[Place],
    texts: Sequence[str] | None = None,
    n_tokens: int = N_TOKENS,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Moments:
    """E[k k^T] at several projections, from one pass over the text.

    By default the text is the model's own samples at temperature 1, drawn with `seed`; `n_tokens`
    of it are read (`PlanError` if `texts` hold fewer). Moments and samples are stored in `cache`,
    by default the package's; what built-in models wrote by default is shipped. `progress` is called
    with (tokens done, in all), sampled ones, unless they are stored, and read ones.
    """
    folder = (cache or cache_dir() / "moments") / ledger(model).base
    text = "own samples" if texts is None else _hash("\0".join(texts), 64)
    carried = "".join(f"|{edit.id}" for edit in ledger(model).applied)
    key = _hash(f"{text}|{n_tokens}|{seed}{carried}", 8)
    files = {(site, layer): folder / f"{site}.{layer}.{key}.safetensors" for site, layer in places}
    found = {place: moment for place, file in files.items() if (moment := _read(file)) is not None}
    missing = [place for place in files if place not in found]
    if missing:
        report, total = progress or (lambda done, total: None), n_tokens
        at = [folder / f"samples.{key}.safetensors" for folder in (SHIPPED / folder.name, folder)]
        ids = next((ids for file in at if (ids := _read(file)) is not None), None)
        if texts is not None:
            rows = _windows(model, texts, n_tokens)
        elif ids is not None:
            rows = [TokenPrompt(tuple(row)) for row in ids.tolist()]
        else:
            total = 2 * n_tokens
            rows = own_samples(model, n_tokens, seed, lambda done, _: report(done, total))
            _keep(at[-1], torch.tensor([row.ids for row in rows], dtype=torch.int32))
        read = total - n_tokens
        made = _streamed(model, missing, rows, lambda n: report(min(read + n, total), total))
        report(total, total)
        for place, moment in made.items():
            _keep(files[place], moment.float())
            found[place] = moment
    return {place: found[place].double() for place in files}


def _keep(file: Path, matrix: Tensor) -> None:
    with replacing(file) as beside:
        save_file({"matrix": matrix}, beside)


def _hash(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def _read(file: Path) -> Tensor | None:
    """A stored matrix; `None` where there is none, or a damaged one, which is made anew."""
    try:
        return load_file(file)["matrix"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


@torch.no_grad()
def own_samples(
    model: Model, n_tokens: int, seed: int = 0, progress: Progress | None = None
) -> list[TokenPrompt]:
    """Passages that the model writes itself at temperature 1, from its beginning-of-text token.

    They have `WINDOW` tokens, `n_tokens` or more in all: end-of-text tokens are not drawn.
    """
    n_rows, draws = -(-n_tokens // WINDOW), torch.Generator().manual_seed(seed)
    rows: list[TokenPrompt] = []

    def report(written: int) -> None:
        if progress:
            progress(min(len(rows) * WINDOW + written, n_tokens), n_tokens)

    while len(rows) < n_rows:
        rows += _sampled(model, min(ROWS_AT_ONCE, n_rows - len(rows)), draws, report)
    return rows


def _sampled(
    model: Model, n: int, draws: torch.Generator, report: Callable[[int], None]
) -> list[TokenPrompt]:
    tokenizer, stop = model.tokenizer, model.hf.generation_config.eos_token_id
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    cache = PrefixCache.of(model, [TokenPrompt((start,))] * n)
    for written in range(1, WINDOW + 1):
        logits = model.arch.logits_transform(model.unembed(cache.read(model)[:, -1]))
        if stop is not None:
            logits[:, stop] = -torch.inf
        cache.append(_drawn(logits, draws))
        report(n * written)
    return [TokenPrompt(tuple(row)) for row in cache.ids.tolist()]


def _drawn(logits: Float[Tensor, "row vocab"], draws: torch.Generator) -> Int[Tensor, " row"]:
    """A token per row, by inverting the distribution function: one random number each.

    `torch.multinomial` draws one for every token of the vocabulary: Gemma's has 262,144.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1, dtype=torch.float64)
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, generator=draws).to(logits.device)
    found = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return found[:, 0].clamp(max=logits.shape[1] - 1)


def _windows(model: Model, texts: Sequence[str], n_tokens: int) -> list[TokenPrompt]:
    rows: list[TokenPrompt] = []
    n = 0
    for text in texts:
        ids = model.encode(text)
        rows += [TokenPrompt(tuple(ids[i : i + WINDOW])) for i in range(0, len(ids), WINDOW)]
        n += len(ids)
        if n >= n_tokens:
            return rows
    raise PlanError(
        f"the texts hold {n} tokens, {n_tokens} were asked for; give more text or a smaller "
        "n_tokens."
    )


@torch.no_grad()
def _streamed(
    model: Model,
    places: Sequence[Place],
    rows: Sequence[TokenPrompt],
    report: Callable[[int], None],
) -> Moments:
    """Sum outer products batch by batch; first tokens are left out, whose keys are outliers."""
    sums: dict[Place, Tensor] = {}
    real = torch.zeros(0, dtype=torch.bool)

    def add(place: Place) -> Rewrite:
        def look(x: Tensor, output: Tensor) -> Tensor:
            keys = x[real.to(x.device)].float()
            product = (keys.T @ keys).double()
            sums[place] = sums[place] + product if place in sums else product
            return output

        return look

    n, top = 0, max(layer for _, layer in places) + 1
    below = layers_only(model, range(top)) if separable(model) else contextlib.nullcontext()
    with below, rewriting(model, [(*place, add(place)) for place in places]):
        for group in batches(model, rows, default_budget(model)):
            ids, mask = pad(model, [rows[i] for i in group])
            real = mask & (mask.cumsum(-1) > 1)
            n += int(real.sum())
            model.body(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            report(n)
    # rounded as in the files, so that an edit is the same whether its moments were stored or not
    return {place: (total / n).float().double().cpu() for place, total in sums.items()}


def within_fact_moments(
    model: Model, places: Sequence[Place], facts: Sequence[Sequence[EditPrompt]]
) -> Moments:
    """`within_fact` of the keys at the anchors of each fact's prompts, in different words."""
    return {at: within_fact(keys) for at, keys in keys_by_fact(model, places, facts).items()}


def keys_by_fact(
    model: Model, places: Sequence[Place], facts: Sequence[Sequence[EditPrompt]]
) -> dict[Place, list[Float[Tensor, "prompt d_in"]]]:
    """Keys at the anchors of each fact's prompts."""
    keys = keys_at(model, [prompt for prompts in facts for prompt in prompts], places)
    sizes = [len(prompts) for prompts in facts]
    return {at: list(found.double().cpu().split(sizes)) for at, found in keys.items()}


def within_fact(groups: Sequence[Float[Tensor, "prompt d_in"]]) -> Float[Tensor, "d_in d_in"]:
    """S = w S_within + (1 - w) E[k k^T] + shrinkage, S_within being the covariance around means.

    Source: Fisher's discriminant, with its covariance pooled over classes that are not those to be
    told apart. Facts with one key count in E[k k^T] alone; `PlanError` if all do.
    """
    if max(map(len, groups), default=0) < 2:
        raise PlanError("no fact is asked in two ways; give more prompts per fact.")
    k = torch.cat(list(groups))
    deviations = torch.cat([part - part.mean(0) for part in groups])
    within = deviations.T @ deviations / (len(k) - len(groups))
    matrix = WITHIN * within + (1 - WITHIN) * (k.T @ k) / len(k)
    ridge = SHRINKAGE * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
    return matrix + ridge
