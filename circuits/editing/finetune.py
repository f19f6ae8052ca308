"""Fine-tuning a change by gradient, breadth-first: the baselines without a closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.editing.change import Change, Changes, Place, by_edit, under
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.methods import FineTune
from interp.forward.blocks import projection, rewriting
from interp.forward.tails import tails
from interp.model.model import Model
from interp.model.weights import shape_of

EDITS_AT_ONCE = 8


def fine_tune(
    model: Model,
    learn: Sequence[Sequence[EditPrompt]],
    owner: Int[Tensor, " fact"],
    stage: FineTune,
    edits: Sequence[Changes],
    preserved: Sequence[Sequence[EditPrompt]],
) -> tuple[dict[int, Change], Float[Tensor, " fact"]]:
    """Adam on changes of one down-projection.

    `owner` numbers the edit of each fact, whose prompts are in `learn`. Returns the change of each
    edit that has facts, and each target's probability on the fact's first prompt. Edits of a single
    mini-batch are tuned side by side, larger ones alone.
    """
    changes: dict[int, Change] = {}
    p = torch.zeros(len(learn))
    sizes = {edit: int((owner == edit).sum()) for edit in owner.unique().tolist()}
    small = [edit for edit, n in sizes.items() if n <= stage.batch]
    groups = [small[lo : lo + EDITS_AT_ONCE] for lo in range(0, len(small), EDITS_AT_ONCE)]
    groups += [[edit] for edit, n in sizes.items() if n > stage.batch]
    for group in groups:
        facts = [i for i, edit in enumerate(owner.tolist()) if edit in group]
        tuning = _Tuning(
            model,
            [learn[i] for i in facts],
            torch.tensor([group.index(int(owner[i])) for i in facts]),
            [preserved[edit] for edit in group],
            [edits[edit] for edit in group],
            stage,
        )
        p[facts] = tuning.run()
        changes |= zip(group, tuning.deltas.changes(), strict=True)
    return changes, p


class _Deltas:
    """The trainable change of a projection by each edit, in units of its root mean square.

    Of a whole matrix the factor `up` is the identity, which is left out of products.
    """

    def __init__(self, model: Model, stage: FineTune, n_edits: int):
        self.place: Place = ("mlp_post", stage.layer)
        module = projection(model, *self.place)
        d_out, d_in = shape_of(module)
        self.size = float(module.get_parameter("weight").float().square().mean().sqrt())
        dtype = torch.promote_types(model.dtype, torch.float32)
        new: dict[str, Any] = {"device": model.device, "dtype": dtype}
        self.up: Tensor | None = None
        if stage.rank is None:
            self.down = torch.zeros(n_edits, d_in, d_out, **new)
        else:
            start = torch.randn(d_in, stage.rank, generator=torch.Generator().manual_seed(0))
            self.down = (start / d_in**0.5).to(**new).repeat(n_edits, 1, 1)
            self.up = torch.zeros(n_edits, d_out, stage.rank, requires_grad=True, **new)
        self.down.requires_grad_()
        self.trained = [factor for factor in (self.up, self.down) if factor is not None]

    def added(
        self, x: Float[Tensor, "row pos d_in"], owner: Int[Tensor, " row"]
    ) -> Float[Tensor, "row pos d_out"]:
        """What the change of each row's edit adds to the projection's output."""

        def product(edit: int, mine: Tensor) -> Tensor:
            part = mine @ self.down[edit].to(x)
            return part if self.up is None else part @ self.up[edit].to(x).T

        return self.size * by_edit(x, owner, product)

    def changes(self) -> list[Change]:
        """The change of each edit."""
        downs = self.down.detach().double().cpu()
        one = torch.eye(downs.shape[2], dtype=downs.dtype)
        ups = [one] * len(downs) if self.up is None else self.up.detach().double().cpu()
        found = zip(ups, downs, strict=True)
        return [Change(*self.place, self.size * up, down) for up, down in found]


class _Rows:
    """Prompts of some facts, then the preserved questions of their edits, as one batch."""

    def __init__(self, tuning: "_Tuning", facts: list[int]):
        self.tuning, self.facts = tuning, facts
        sizes = torch.tensor([len(tuning.learn[i]) for i in facts])
        self.number = torch.arange(len(facts)).repeat_interleave(sizes)  # in `facts`, by row
        self.lead = sizes.cumsum(0) - sizes
        of_fact = tuning.fact_edit[facts]
        edits = dict.fromkeys(of_fact.tolist())
        kept = [(edit, prompt) for edit in edits for prompt in tuning.preserved[edit]]
        self.preserved_edit = torch.tensor([edit for edit, _ in kept], dtype=torch.long)
        self.owner = torch.cat([of_fact[self.number], self.preserved_edit])
        prompts = [p for i in facts for p in tuning.learn[i]] + [prompt for _, prompt in kept]
        rows = [p.read_tokens for p in prompts]
        with under(tuning.model, tuning.edits, self.owner):
            longest = max(len(row.ids) for row in rows)
            self.run = tails(tuning.model, rows, tuning.stage.layer, longest)
        reads = [
            (row, self.run.n_tail - k, prompt.ids[-k])
            for row, prompt in enumerate(prompts[: len(self.number)])
            for k in range(prompt.n_target, 0, -1)
        ]
        self.row, self.column, self.token = torch.tensor(reads).T

    def read(
        self, tuned: bool = True
    ) -> tuple[Float[Tensor, " learn"], Float[Tensor, "preserved vocab"]]:
        """Mean NLL of each learning row; log-probabilities at preserved ones."""
        tuning = self.tuning

        def add(x: Tensor, out: Tensor) -> Tensor:
            return out + tuning.deltas.added(x, self.owner)

        places = [(*tuning.deltas.place, add)] if tuned else []
        with under(tuning.model, tuning.edits, self.owner), rewriting(tuning.model, places):
            hidden = self.run.run()
        wanted = torch.cat([hidden[self.row, self.column], hidden[len(self.number) :, -1]])
        log_p = tuning.model.logits(wanted).log_softmax(-1)
        nll = -log_p[torch.arange(len(self.row)), self.token.to(log_p.device)]
        return _mean(nll, self.row, len(self.number)), log_p[len(self.row) :]

    @cached_property
    def plain(self) -> Float[Tensor, "preserved vocab"]:
        """Log-probabilities at preserved rows without the change."""
        with torch.no_grad():
            return self.read(tuned=False)[1]


def _mean(values: Float[Tensor, " n"], group: Int[Tensor, " n"], size: int) -> Tensor:
    """Mean over each group; 0 for an empty one."""
    group = group.to(values.device)
    count = torch.bincount(group, minlength=size).clamp(min=1)
    return torch.zeros(size).to(values).index_add(0, group, values) / count


@dataclass
class _Tuning:
    """Some edits, tuned side by side; the facts of a large one in mini-batches."""

    model: Model
    learn: Sequence[Sequence[EditPrompt]]
    fact_edit: Int[Tensor, " fact"]
    preserved: Sequence[Sequence[EditPrompt]]
    edits: Sequence[Changes]
    stage: FineTune

    def __post_init__(self) -> None:
        self.deltas = _Deltas(self.model, self.stage, len(self.edits))
        self.adam = torch.optim.Adam(self.deltas.trained, lr=self.stage.lr)
        self.draws = torch.Generator().manual_seed(0)

    def run(self) -> Float[Tensor, " fact"]:
        """Tune; the probability of each target on its fact's first prompt at the end."""
        n_edits, rows = len(self.edits), None
        todo = torch.ones(n_edits, dtype=torch.bool)
        for _ in range(self.stage.steps):
            losses = torch.zeros(len(self.learn))
            for facts in self._batches(todo):
                if rows is None or rows.facts != facts:
                    rows = _Rows(self, facts)
                losses[facts] = self._step(rows)
            todo &= _mean(losses, self.fact_edit, n_edits) >= self.stage.until
            if not todo.any():
                break
        p = torch.zeros(len(self.learn))
        for facts in self._batches(torch.ones(n_edits, dtype=torch.bool)):
            last = rows if rows is not None and rows.facts == facts else _Rows(self, facts)
            with torch.no_grad():
                p[facts] = (-last.read()[0][last.lead]).exp().float().cpu()
        return p

    def _batches(self, todo: Bool[Tensor, " edit"]) -> list[list[int]]:
        """The facts of edits that are not done, drawn anew where they are more than a batch."""
        facts = todo[self.fact_edit].nonzero()[:, 0]
        if len(self.edits) == 1 and len(facts) > self.stage.batch:
            facts = facts[torch.randperm(len(facts), generator=self.draws)]
            return [part.tolist() for part in facts.split(self.stage.batch)]
        return [facts.tolist()]

    def _step(self, rows: "_Rows") -> Float[Tensor, " fact"]:
        """One step of Adam for each edit that is not done; each fact's loss before it."""
        n_edits = len(self.edits)
        nll, now = rows.read()
        learnt = _mean(nll, rows.number, len(rows.facts))
        of_edit = _mean(learnt, self.fact_edit[rows.facts], n_edits)
        kl = _mean((rows.plain.exp() * (rows.plain - now)).sum(-1), rows.preserved_edit, n_edits)
        going = of_edit.detach() >= self.stage.until
        if going.any():
            self.adam.zero_grad()
            (of_edit + self.stage.preserved_weight * kl)[going].sum().backward()
            before = [factor[~going].detach().clone() for factor in self.deltas.trained]
            self.adam.step()
            with torch.no_grad():
                for factor, kept in zip(self.deltas.trained, before, strict=True):
                    factor[~going] = kept
        return learnt.detach().float().cpu()
