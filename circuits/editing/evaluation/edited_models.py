"""Many edited models at once: greedy answers, how likely a continuation is, and side effects.

Each row of a batch is under its own edit's changes. What questions of an edit share is read once
per edit; rows that have answered leave the batch.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import entropy
from torch import Tensor

from circuits.editing.change import Changes, under
from circuits.editing.evaluation.answers import in_word
from circuits.editing.evaluation.demonstrations import Shots
from interp.data.answers import continuation
from interp.data.chat import Chat, render
from interp.data.prompts import TokenPrompt
from interp.data.token_batch import padded
from interp.errors import DataError
from interp.forward.prefix_cache import PrefixCache
from interp.forward.readout import LOGITS_AT_ONCE
from interp.model.model import Model

ROWS_AT_ONCE = 96
SIDE_EFFECTS = ("fluency", "kl", "perplexity_ratio")
"""`ngram_entropy` of what an edited model writes, in bits; and on neutral text (`drift`) the
divergence from the plain model, in nats per token, and the perplexity over the plain one's."""


@dataclass(frozen=True)
class Ask:
    """A text to be continued under the edit of a number, until `stop` or for `n_tokens`.

    `prefix` is what the text begins with and other questions of the edit share. In a `chat`, the
    text is a user's turn, and the reply to it is written.
    """

    edit: int
    text: str
    prefix: str = ""
    stop: str | None = "\n"
    n_tokens: int = 10
    chat: Chat | None = None

    def written(self, model: Model, text: str) -> str:
        """A text as the model reads it."""
        return text if self.chat is None else render(model, self.chat.wrap(text))[0]


def asking(shots: Shots, question: str, edit: int = 0, before: str = "") -> Ask:
    """A question behind demonstrations, and behind text that stands between the two."""
    prefix = shots.prefix + before
    text = prefix + shots.suffix(question)
    return Ask(edit, text, prefix, shots.stop, shots.n_tokens, shots.chat)


def generations(model: Model, asks: Sequence[Ask], edits: Sequence[Changes]) -> list[str]:
    """Continue texts greedily, each under the changes of its edit, up to where its reply ends.

    Edits without changes are one: what is asked under several of them is asked once.
    """
    plain = next((i for i, changes in enumerate(edits) if not changes), 0)
    under_edit = [ask.edit if edits[ask.edit] else plain for ask in asks]
    keys = [
        (edit, ask.prefix, ask.text, ask.stop, ask.n_tokens, ask.chat)
        for edit, ask in zip(under_edit, asks, strict=True)
    ]
    unique = {key: replace(ask, edit=key[0]) for key, ask in zip(keys, asks, strict=True)}
    order = sorted(unique, key=lambda key: key[:2])
    found: dict[tuple[Any, ...], str] = {}
    for lo in range(0, len(order), ROWS_AT_ONCE):
        group = order[lo : lo + ROWS_AT_ONCE]
        found |= zip(group, _answered(model, [unique[key] for key in group], edits), strict=True)
    return [found[key] for key in keys]


@torch.no_grad()
def _answered(model: Model, asks: Sequence[Ask], edits: Sequence[Changes]) -> list[str]:
    longest = max(ask.n_tokens for ask in asks)
    owner = torch.tensor([ask.edit for ask in asks])
    prompts, shared = zip(*(_tokens(model, ask) for ask in asks), strict=True)
    cache = PrefixCache.sharing(
        model,
        prompts,
        shared,
        owner=owner.tolist(),
        during=lambda owners: under(model, edits, owners),
        room=longest,
    )
    replies: list[list[int]] = [[] for _ in asks]
    rows = torch.arange(len(asks))
    for _ in range(longest):
        with under(model, edits, owner[rows]):
            states = cache.read(model)[:, -1]
        token = model.arch.logits_transform(model.unembed(states).float()).argmax(-1)
        for row, one in zip(rows.tolist(), token.tolist(), strict=True):
            replies[row].append(one)
        going = torch.tensor([not _ended(model, asks[r], replies[r]) for r in rows.tolist()])
        if not going.any():
            break
        cache.append(token)
        if not going.all():
            cache.select(going.nonzero()[:, 0])
            rows = rows[going]
    texts = (model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in replies)
    return [t.split(ask.stop, 1)[0] if ask.stop else t for ask, t in zip(asks, texts, strict=True)]


def _tokens(model: Model, ask: Ask) -> tuple[TokenPrompt, int]:
    """A text's tokens, and how many of them are its prefix; none where a token straddles it."""
    ids = tuple(model.encode(ask.written(model, ask.text)))
    if not ids:
        raise DataError(f"{ask.text!r} has no tokens for {model.name}; give at least one.")
    prefix = tuple(model.encode(ask.written(model, ask.prefix))) if ask.prefix else ()
    if ask.chat:  # behind its prefix, too, a turn is closed
        same = itertools.takewhile(lambda both: both[0] == both[1], zip(ids, prefix, strict=False))
        prefix = ids[: len(list(same))]
    apart = len(prefix) < len(ids) and ids[: len(prefix)] == prefix
    return TokenPrompt(ids), len(prefix) if apart else 0


def _ended(model: Model, ask: Ask, ids: list[int]) -> bool:
    stop = model.hf.generation_config.eos_token_id
    ends = stop if isinstance(stop, list) else [stop]
    if ids[-1] in ends or len(ids) == ask.n_tokens:
        return True
    return ask.stop is not None and ask.stop in model.tokenizer.decode(ids).lstrip()


class TargetReading(NamedTuple):
    """A target behind its prompt, each token read behind those before it (teacher forcing).

    `nll` is the mean per token, in nats; `correct` the share of its tokens that are the likeliest
    one; `likeliest` are the likeliest tokens.
    """

    nll: float
    correct: float
    likeliest: tuple[int, ...]


def likelihoods(
    model: Model, asked: Sequence[tuple[int, str, str]], edits: Sequence[Changes]
) -> list[TargetReading]:
    """Read targets, given as (edit, prompt, target), behind their prompts."""
    rows: list[tuple[int, Sequence[int], int]] = []
    for edit, prompt, target in asked:
        ids = model.encode(f"{prompt} {target}")
        same = (a == b for a, b in zip(model.encode(prompt), ids[:-1], strict=False))
        rows.append((edit, ids, max(1, sum(itertools.takewhile(bool, same)))))
    return token_likelihoods(model, rows, edits)


@torch.no_grad()
def token_likelihoods(
    model: Model, rows: Sequence[tuple[int, Sequence[int], int]], edits: Sequence[Changes]
) -> list[TargetReading]:
    """As `likelihoods`, per (edit, tokens, position where the target's tokens begin)."""
    out: list[TargetReading] = []
    for lo in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[lo : lo + ROWS_AT_ONCE]
        batch, _ = padded(model, [ids for _, ids, _ in some], on_left=False)
        owner = torch.tensor([edit for edit, _, _ in some])
        with under(model, edits, owner):  # causal: what is padded on the right changes nothing
            normed = model.body(input_ids=batch, use_cache=False).last_hidden_state
        for i, (_, ids, start) in enumerate(some):
            states = normed[i, start - 1 : len(ids) - 1]
            log_p = model.arch.logits_transform(model.unembed(states).float()).log_softmax(-1)
            own = batch[i, start : len(ids), None]
            likeliest = log_p.argmax(-1)
            right = float((likeliest == own[:, 0]).float().mean())
            nll = -float(log_p.gather(1, own).mean())
            out.append(TargetReading(nll, right, tuple(likeliest.tolist())))
    return out


def can_compare(model: Model, ask: Ask, options: Sequence[str]) -> bool:
    """Whether every option has tokens of its own behind the text."""
    text = ask.written(model, ask.text)
    ids = model.encode(text)
    try:
        return all(continuation(model, text, ids, option, "the option") for option in options)
    except DataError:
        return False


@torch.no_grad()
def option_log_p(
    model: Model, asks: Sequence[Ask], options: Sequence[Sequence[str]], edits: Sequence[Changes]
) -> list[list[float]]:
    """Per ask, the mean log-probability per token, in nats, of each of its options as the reply.

    What asks of an edit share (`Ask.prefix`) is read once per edit, and a text once for all of its
    options of one token. `DataError` where an option has no tokens of its own behind the text.
    """
    rows: dict[tuple[int, tuple[int, ...]], int] = {}  # what is read under an edit: its number
    shared: list[int] = []
    found: list[list[tuple[int, tuple[int, ...]]]] = []
    for ask, own in zip(asks, options, strict=True):
        text = ask.written(model, ask.text)
        prompt, n_shared = _tokens(model, ask)
        found.append([])
        for option in own:
            target = continuation(model, text, prompt.ids, option, "the option")
            key = (ask.edit, (*prompt.ids, *target[:-1]))
            if key not in rows:
                rows[key] = len(rows)
                shared.append(n_shared)
            found[-1].append((rows[key], target))
    longest = max((len(target) for own in found for _, target in own), default=1)
    states = _last_states(model, list(rows), shared, longest, edits)
    read = [(states[row][-len(target) :], target) for own in found for row, target in own]
    means = iter(_mean_log_p(model, read))
    return [[next(means) for _ in own] for own in found]


def _mean_log_p(
    model: Model, read: Sequence[tuple[Float[Tensor, "token d_model"], tuple[int, ...]]]
) -> list[float]:
    """The mean log-probability of each target's tokens, predicted from as many states."""
    if not read:
        return []
    states = torch.cat([own for own, _ in read])
    tokens = torch.tensor([token for _, target in read for token in target], device=states.device)
    found: list[Tensor] = []
    at_once = max(1, LOGITS_AT_ONCE // model.n_vocab)
    for some, own in zip(states.split(at_once), tokens.split(at_once), strict=True):
        log_p = model.arch.logits_transform(model.unembed(some).float()).log_softmax(-1)
        found.append(log_p.gather(1, own[:, None])[:, 0])
    parts = torch.cat(found).split([len(target) for _, target in read])
    return [float(part.mean()) for part in parts]


def _last_states(
    model: Model,
    rows: Sequence[tuple[int, tuple[int, ...]]],
    shared: Sequence[int],
    n_last: int,
    edits: Sequence[Changes],
) -> list[Float[Tensor, "last d_model"]]:
    """The final normed states of the last tokens of (edit, tokens), in the order given."""
    out: list[Any] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0], rows[i][1][: shared[i]]))
    for lo in range(0, len(order), ROWS_AT_ONCE):
        group = order[lo : lo + ROWS_AT_ONCE]
        # what is shared ends before the states that are asked for
        heads = [max(0, min(shared[i], len(rows[i][1]) - n_last)) for i in group]
        owner = torch.tensor([rows[i][0] for i in group])
        cache = PrefixCache.sharing(
            model,
            [TokenPrompt(rows[i][1]) for i in group],
            heads,
            owner=owner.tolist(),
            during=lambda owners: under(model, edits, owners),
            room=0,
        )
        with under(model, edits, owner):
            states = cache.read(model)
        for i, own in zip(group, states, strict=True):
            out[i] = own[-n_last:].clone()
    return out


def continuing_tokens(model: Model) -> Bool[Tensor, " vocab"]:
    """The tokens with which a word goes on: "atu" behind "mat", not " at" or "."."""
    return _continuing(model.tokenizer, model.n_vocab)


@functools.lru_cache(maxsize=8)
def _continuing(tokenizer: Any, size: int) -> Bool[Tensor, " vocab"]:
    # behind a letter, for some tokenizers drop the space that a text begins with
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    known = min(size, len(tokenizer))
    # not `batch_decode`, which takes twice as long over so many
    pieces = [[*letter, i] for i in range(known)]
    texts = tokenizer.backend_tokenizer.decode_batch(pieces, skip_special_tokens=False)
    start = len(tokenizer.decode(letter))
    goes_on = [len(text) > start and in_word(text[start]) for text in texts]
    return torch.tensor(goes_on + [False] * (size - known))


@torch.no_grad()
def drift(
    model: Model, passages: Sequence[TokenPrompt], edits: Sequence[Changes]
) -> tuple[Float[Tensor, " edit"], Float[Tensor, " edit"]]:
    """Read passages of two or more tokens with and without each edit.

    Returns per edit the mean KL(plain || edited) of the next token over all tokens, in nats, and
    the perplexity of the edited model over that of the plain one.
    """
    kl, nll = torch.zeros(len(edits)), torch.zeros(len(edits))
    n_predicted = sum(len(passage.ids) - 1 for passage in passages)
    for passage in passages:
        ids = torch.tensor(passage.ids)
        plain = text_log_p(model, ids)
        at_once = max(1, LOGITS_AT_ONCE // plain.numel())
        for some in torch.arange(len(edits)).split(at_once):
            edited = _log_p(model, ids, edits, some)
            divergence, rise = moved(plain, edited, ids)
            kl[some] += divergence.cpu()
            nll[some] += rise.cpu()
    return kl / n_predicted, (nll / n_predicted).exp()


def text_log_p(model: Model, ids: Int[Tensor, " pos"]) -> Float[Tensor, "1 pos vocab"]:
    """Log-probabilities of each next token of a text, by the model as it is."""
    return _log_p(model, ids, [()], torch.zeros(1, dtype=torch.long))


def moved(
    plain: Float[Tensor, "1 pos vocab"], edited: Float[Tensor, "row pos vocab"], ids: Tensor
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """KL(plain || edited) of the next token, and the rise of a text's NLL, summed over tokens."""
    apart, own = plain - edited, ids[1:].to(edited.device).expand(len(edited), -1)[..., None]
    return (plain.exp() * apart).sum((1, 2)), apart.gather(2, own).sum((1, 2))


def _log_p(
    model: Model, ids: Int[Tensor, " pos"], edits: Sequence[Changes], owner: Int[Tensor, " row"]
) -> Float[Tensor, "row pos vocab"]:
    """Log-probabilities of each next token, one row per edit."""
    rows = ids.to(model.device).expand(len(owner), -1)
    with under(model, edits, owner):
        normed = model.body(input_ids=rows, use_cache=False).last_hidden_state
    flat = normed[:, :-1].flatten(0, 1)  # as a slice, bf16 takes eight times as long on a CPU
    logits = model.arch.logits_transform(model.unembed(flat).float())
    return logits.log_softmax(-1).unflatten(0, (len(owner), -1))


def ngram_entropy(text: str) -> float:
    """GE: fluency of a generation, in bits; papers print a hundred times its mean.

    The mean of 2/3 of the entropy of its bigrams and 4/3 of that of its trigrams; repetition
    lowers it. Words and punctuation marks are the tokens; the papers use NLTK's, which also part
    contractions, so compare figures of one tokenisation only.

    Source: arXiv 2202.05262, section 3.4, after Zhang et al. 2018.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    weighted = [w * _entropy(tokens, n) for n, w in ((2, 2 / 3), (3, 4 / 3))]
    return float(np.mean(weighted))


def _entropy(tokens: Sequence[str], n: int) -> float:
    grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    return float(entropy(list(grams.values()), base=2)) if grams else 0.0
