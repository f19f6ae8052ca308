"""Second moments of what writing projections read: E[k k^T] over text, streamed and cached."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.editing.keys import Place
from circuits.editing.ledger import ledger
from circuits.editing.prefixed import Row, Run
from interp.brief import brief
from interp.data.prompts import TokenPrompt, batches, pad
from interp.errors import PlanError
from interp.forward.budget import default_budget
from interp.forward.projections import rewriting
from interp.loading.builtin import cache_dir
from interp.model.model import Model
from interp.progress import Progress
from interp.results.files import replacing

WINDOW = 128
"""Tokens a passage."""

ROWS_AT_ONCE = 128
"""Passages that are sampled side by side."""

N_TOKENS = 20_000
"""Tokens read by default: ten times the widest key of the built-in models. MEMIT's 100,000
documents are some 40 million; under 0.3 % of them do as well (arXiv 2506.04226)."""


@brief
@dataclass(frozen=True)
class Moment:
    """Uncentred second moment of one projection's input.

    Attributes:
        matrix: E[k k^T], float64.
        n_tokens: how many keys it is the mean of.
        text: which text.
    """

    matrix: Float[Tensor, "d_in d_in"]
    n_tokens: int
    text: str


Moments = dict[Place, Moment]


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

    Args:
        model: the model.
        places: (site read, layer) of each projection.
        texts: documents; by default the model's own samples at temperature 1.
        n_tokens: how many tokens to read.
        seed: of the samples.
        cache: folder of kept moments; by default the package's cache. Entries are bound to the
            model's weights, the edits they carry, and the text.
        progress: called with (tokens done, in all): each is sampled, if need be, and read.

    Raises:
        PlanError: no such projection.
        PlanError: the texts hold too few tokens.
    """
    folder = (cache or cache_dir() / "moments") / model.weights_hash
    said = (
        "own samples" if texts is None else hashlib.blake2b("\0".join(texts).encode()).hexdigest()
    )
    carried = "".join(f"|{edit.id}" for edit in ledger(model).applied)
    named = f"{said}|{n_tokens}|{seed}{carried}"
    key = hashlib.blake2b(named.encode(), digest_size=8).hexdigest()
    kept = {place: _read(_file(folder, place, key)) for place in places}
    missing = [place for place, moment in kept.items() if moment is None]
    if missing:
        say = progress or (lambda done, total: None)
        if texts is None:
            total = 2 * n_tokens
            rows = own_samples(model, n_tokens, seed, lambda done, n: say(done, total))
            fresh = _streamed(
                model, missing, rows, said, lambda n, _: say(min(n_tokens + n, total), total)
            )
            say(total, total)
        else:
            fresh = _streamed(model, missing, _windows(model, texts, n_tokens), said, say)
        for place, moment in fresh.items():
            _write(_file(folder, place, key), moment)
        kept |= fresh
    return {place: moment for place, moment in kept.items() if moment is not None}


@torch.no_grad()
def own_samples(
    model: Model, n_tokens: int, seed: int = 0, progress: Progress | None = None
) -> list[TokenPrompt]:
    """Passages that the model writes itself at temperature 1, from its beginning-of-text token.

    None ends early: end-of-text tokens are not drawn.

    Args:
        model: the model.
        n_tokens: how many tokens, at least; whole passages of `WINDOW` tokens are written.
        seed: of the draws.
        progress: called with (tokens written, tokens in all).
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
    run = Run.start(model, [Row(0, (), (start,))] * n, [()], WINDOW)
    columns = [run.ids]
    for _ in range(WINDOW):
        logits = model.arch.logits_transform(model.unembed(run.read(model)))
        if stop is not None:
            logits[:, stop] = -torch.inf
        run.go_on(_drawn(logits, draws))
        columns.append(run.ids)
        report(n * (len(columns) - 1))
    return [TokenPrompt(tuple(row)) for row in torch.cat(columns, 1).tolist()]


def _drawn(logits: Float[Tensor, "row vocab"], draws: torch.Generator) -> Int[Tensor, " row"]:
    """A token a row, by inverting the distribution function: one random number each.

    `torch.multinomial` draws one for every token of the vocabulary: Gemma's has 262,144.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1, dtype=torch.float64)
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, generator=draws).to(logits.device)
    found = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return found[:, 0].clamp(max=logits.shape[1] - 1)


def _windows(model: Model, texts: Sequence[str], n_tokens: int) -> list[TokenPrompt]:
    rows: list[TokenPrompt] = []
    for text in texts:
        ids = model.encode(text)
        rows += [TokenPrompt(tuple(ids[i : i + WINDOW])) for i in range(0, len(ids), WINDOW)]
        if sum(len(row.ids) for row in rows) >= n_tokens:
            return rows
    raise PlanError(
        f"the texts hold {sum(len(row.ids) for row in rows)} tokens, {n_tokens} were asked for; "
        "give more text or a smaller n_tokens."
    )


@torch.no_grad()
def _streamed(
    model: Model,
    places: Sequence[Place],
    rows: Sequence[TokenPrompt],
    said: str,
    progress: Progress | None,
) -> Moments:
    """Sum outer products batch by batch; first tokens are left out, whose keys are outliers."""
    sums: dict[Place, Tensor] = {}
    real = torch.zeros(0, dtype=torch.bool)

    def add(place: Place) -> Any:
        def look(x: Tensor, output: Tensor) -> Tensor:
            keys = x[real.to(x.device)].float()
            product = (keys.T @ keys).double()
            sums[place] = sums[place] + product if place in sums else product
            return output

        return look

    n = 0
    with rewriting(model, [(site, layer, add((site, layer))) for site, layer in places]):
        for group in batches(rows, default_budget(model)):
            ids, mask = pad(model, [rows[i] for i in group])
            real = mask & (mask.cumsum(-1) > 1)
            n += int(real.sum())
            model.hf.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            if progress:
                progress(n, sum(len(row.ids) - 1 for row in rows))
    # rounded as in the files, so that an edit is the same whether its moments were kept or not
    mean = {place: (total / n).float().double().cpu() for place, total in sums.items()}
    return {place: Moment(matrix, n, said) for place, matrix in mean.items()}


def _file(folder: Path, place: Place, key: str) -> Path:
    return folder / f"{place[0]}.{place[1]}.{key}.safetensors"


def _read(file: Path) -> Moment | None:
    """A kept moment; `None` where there is none, or a damaged one, which is made anew."""
    try:
        with safe_open(file, "pt") as opened:
            said = opened.metadata()
            matrix = opened.get_tensor("matrix").double()
        return Moment(matrix, int(said["n_tokens"]), said["text"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write(file: Path, moment: Moment) -> None:
    said = {"n_tokens": str(moment.n_tokens), "text": moment.text}
    with replacing(file) as beside:
        save_file({"matrix": moment.matrix.float()}, beside, said)
