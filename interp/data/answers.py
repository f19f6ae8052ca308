"""Answers in a model's tokens: how a text continues a prompt, and the tree of several answers.

An answer is a set of aliases, accepted texts, each of one or more tokens. All but the last token
of each alias are read behind the prompt, so that the next one is predicted; what aliases share at
their beginning is read once::

    prompt … is ─┬─ New ─── York            (last tokens are predicted, not read)
                 └─ Los ─── Angeles

Node 0 is the prompt's last token, from which every first token is predicted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.brief import brief
from interp.errors import DataError, shown
from interp.model.model import Model
from interp.model.rendered import Rendered

Tokens = tuple[int, ...]
Aliases = tuple[Tokens, ...]
"""One answer: its accepted token sequences, none of which begins with another."""


# --- spelling ----------------------------------------------------------------------------------


def continuation(model: Model, prompt: str, ids: Sequence[int], answer: str, key: str) -> Tokens:
    """The tokens by which `answer` continues `prompt` (of tokens `ids`), spaced as in text.

    `DataError` where it has none, or merges with the end of the prompt; `key` is what the message
    calls it.
    """
    text = spaced(prompt, answer)
    full = model.encode(prompt + text)
    if full[: len(ids)] != list(ids):
        raise DataError(
            f"{key} {shown(answer)} merges with the end of the prompt {prompt[-12:]!r} into one "
            "token; end the prompt before the space."
        )
    if len(full) == len(ids):
        raise DataError(f"{key} {shown(answer)} adds no token to the prompt; leave it out.")
    return tuple(full[len(ids) :])


def spaced(prompt: str, answer: str) -> str:
    """An answer with the leading space that the prompt's end calls for.

    None where a chat's template has just opened the assistant's turn.
    """
    opened = isinstance(prompt, Rendered) and not prompt.continued
    joined = opened or answer[0].isspace() or prompt[-1].isspace() or prompt[-1] in "([{\"'“‘"
    return answer if joined else f" {answer}"


def single_token(model: Model, prompt: str, ids: Sequence[int], answer: str, key: str) -> int:
    """As `continuation`, of an answer that must be one token; `DataError` where it is several."""
    tokens = continuation(model, prompt, ids, answer, key)
    if len(tokens) != 1:
        pieces, text = shown([model.token(t) for t in tokens]), spaced(prompt, answer)
        raise DataError(f"{key} {shown(text)} is {len(tokens)} tokens {pieces}, and must be one.")
    return tokens[0]


def without_extensions(aliases: Sequence[Tokens]) -> Aliases:
    """Aliases in order, each once, without those that begin with another.

    Whoever writes "New York City" has written "New York": the longer one's probability is a part
    of the shorter one's, and would be counted twice.
    """
    unique = tuple(dict.fromkeys(aliases))
    return tuple(a for a in unique if not any(b != a and b == a[: len(b)] for b in unique))


def both_answers(
    model: Model,
    prompts: tuple[tuple[str, list[int]], tuple[str, list[int]]],
    texts: tuple[Sequence[str], Sequence[str]],
    mode: str,
) -> tuple[Aliases, Aliases]:
    """The aliases of answer and wrong answer in tokens, behind a clean and a corrupt prompt.

    `prompts` are their texts and tokens, `mode` is as in `interp.data.pairs.tokenise`. `DataError`
    where the answers cannot be told apart, or are other tokens behind one prompt than behind the
    other.
    """
    right = _aliases(model, prompts, texts[0], "answer", mode)
    wrong = _aliases(model, prompts, texts[1], "wrong_answer", mode)
    for a, b in product(right, wrong):
        if a == b and len(a) == 1:
            raise DataError(f"answer and wrong_answer are the same token {model.token(a[0])!r}.")
        n = min(len(a), len(b))
        if a[:n] == b[:n]:
            both = " and ".join(shown("".join(map(model.token, one))) for one in (a, b))
            raise DataError(
                f"answer and wrong_answer do not exclude each other: {both} begin with the same "
                f"{n} tokens, which is all of one of them."
            )
    return right, wrong


def _aliases(
    model: Model,
    prompts: Sequence[tuple[str, list[int]]],
    texts: Sequence[str],
    key: str,
    mode: str,
) -> Aliases:
    (clean, ids), (corrupt, other) = prompts
    found = [continuation(model, clean, ids, text, key) for text in texts]
    # prompts that end differently may spell what follows differently
    for text, tokens in zip(texts, found, strict=True) if ids[-1] != other[-1] else ():
        if continuation(model, corrupt, other, text, key) != tokens:
            raise DataError(
                f"{key} {shown(text)} is other tokens behind corrupt than behind clean; end both "
                "prompts alike."
            )
    kept = without_extensions([tokens[:1] for tokens in found] if mode == "first" else found)
    if mode == "single":
        single_token(model, clean, ids, texts[0], key)
        if len(kept) > 1:
            raise DataError(f"{key} has {len(kept)} accepted texts; this method reads only one.")
    return kept


def described(answers: Iterable[Sequence[Aliases]], mode: str) -> str:
    """How much of the answers was read, for results: ``"whole (1 to 4 tokens)"``."""
    if mode == "first":
        return "first token of each"
    lengths = {len(alias) for row in answers for aliases in row for alias in aliases}
    low, high = min(lengths), max(lengths)
    return f"whole ({f'{low} to ' * (low < high)}{high} token{'s' * (high > 1)})"


# --- trees -------------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class AnswerTree:
    """The tokens read behind one prompt.

    Attributes:
        tokens: token of each node but node 0, parents before children.
        parents: node that each of them follows.
        paths: of each alias of each answer, the nodes from which its tokens are predicted.
    """

    tokens: Tokens
    parents: tuple[int, ...]
    paths: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Aliases]) -> "AnswerTree":
        """The tree of some answers; nodes are numbered answer by answer, alias by alias."""
        number: dict[Tokens, int] = {(): 0}
        for alias in (alias for aliases in answers for alias in aliases):
            for n in range(1, len(alias)):
                number.setdefault(alias[:n], len(number))
        read = list(number)[1:]
        paths = tuple(
            tuple(tuple(number[alias[:n]] for n in range(len(alias))) for alias in aliases)
            for aliases in answers
        )
        tokens = tuple(prefix[-1] for prefix in read)
        return cls(tokens, tuple(number[prefix[:-1]] for prefix in read), paths)

    @property
    def branches(self) -> bool:
        """Whether some tokens do not see all that stand before them."""
        return self.parents != tuple(range(len(self.parents)))

    @property
    def depths(self) -> tuple[int, ...]:
        """How far behind the prompt's last token each node's token stands, from 1."""
        depth = [0]
        for parent in self.parents:
            depth.append(depth[parent] + 1)
        return tuple(depth[1:])

    @property
    def visible(self) -> Bool[Tensor, "node node"]:
        """Which of the tokens each token sees: itself, and what it follows."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for i, parent in enumerate(self.parents):
            if parent:
                seen[i] |= seen[parent - 1]
        return seen


@brief
@dataclass(frozen=True)
class AnswerTable:
    """Which token is predicted where, of every answer of every row; rows can be indexed.

    Attributes:
        node: node that predicts each token of each alias.
        token: the token's id.
        real: whether the answer has such an alias, and the alias such a token.
        first: first token of the first alias of answer and wrong answer.
    """

    node: Int[Tensor, "row answer alias token"]
    token: Int[Tensor, "row answer alias token"]
    real: Bool[Tensor, "row answer alias token"]
    first: Int[Tensor, "row 2"]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: Tensor) -> "AnswerTable":
        return AnswerTable(self.node[rows], self.token[rows], self.real[rows], self.first[rows])

    def only(self, n: int) -> "AnswerTable":
        """The first `n` answers of each row."""
        return AnswerTable(self.node[:, :n], self.token[:, :n], self.real[:, :n], self.first)

    @classmethod
    def of(
        cls,
        trees: Sequence[AnswerTree],
        answers: Sequence[Sequence[Aliases]],
        first: Sequence[tuple[int, int]],
    ) -> "AnswerTable":
        """The table of some rows' trees and answers."""
        every = [alias for row in answers for aliases in row for alias in aliases]
        shape = (
            len(trees),
            max(map(len, answers), default=0),
            max((len(aliases) for row in answers for aliases in row), default=0),
            max(map(len, every), default=0),
        )
        node, token = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        real = torch.zeros(shape, dtype=torch.bool)
        for i, (tree, row) in enumerate(zip(trees, answers, strict=True)):
            for j, (paths, aliases) in enumerate(zip(tree.paths, row, strict=True)):
                for k, (path, alias) in enumerate(zip(paths, aliases, strict=True)):
                    node[i, j, k, : len(path)] = torch.tensor(path)
                    token[i, j, k, : len(alias)] = torch.tensor(alias)
                    real[i, j, k, : len(alias)] = True
        return cls(node, token, real, torch.tensor(first))
