"""`PromptRecord`: what a graph holds of its prompt, so that the prompt can be run again."""

from typing import Self

from pydantic import model_validator

from interp.data.records import Index, Row


class PromptRecord(Row):
    """Both prompts in tokens, how they are aligned, and what is read behind them.

    Attributes:
        clean, corrupt: token ids; without a corrupt prompt the same.
        answers: aliases of both answers in tokens; none where the likeliest tokens are read.
        partner: as in `interp.data.pairs.TokenPair`.
        paired: whether there is a corrupt prompt.
        reads: ``"top N"``, ``"centred N"``, or a metric's name.
        roles: the span that each clean token belongs to, or ``""``.
        texts: of both prompts.
    """

    clean: tuple[Index, ...]
    corrupt: tuple[Index, ...]
    answers: tuple[tuple[tuple[Index, ...], ...], tuple[tuple[Index, ...], ...]]
    partner: tuple[Index | None, ...]
    paired: bool
    reads: str
    roles: tuple[str, ...]
    texts: tuple[str, str]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        partners = [at for at in self.partner if at is not None]
        if not self.clean or {len(self.partner), len(self.roles)} != {len(self.clean)}:
            raise ValueError("partner and roles have one entry per token of clean")
        if partners != sorted({*partners}) or (partners and partners[-1] >= len(self.corrupt)):
            raise ValueError("partner rises, within the tokens of corrupt")
        whole = all(aliases and all(aliases) for aliases in self.answers)
        if not whole and not self.reads.startswith("top "):
            raise ValueError("an answer has no tokens")
        return self

    @property
    def largest(self) -> int:
        """The largest token id."""
        behind = [id for aliases in self.answers for one in aliases for id in one]
        return max([*self.clean, *self.corrupt, *behind])
