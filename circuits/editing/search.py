"""Target search: the vectors that, written at an anchor token, make the model say the target.

All facts of a batch are searched at once. Their losses do not share a term and Adam works
elementwise, so each fact's path is the one it would take alone.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuits.editing.changes import Changes, under
from circuits.editing.endings import continuing_tokens
from circuits.editing.keys import Place, module_at
from circuits.editing.prompting import EditPrompt
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.forward.readout import LOGITS_AT_ONCE
from interp.forward.tails import Tails, tails
from interp.model.model import Model

EVEN = math.log(2)
"""Negative log-probability of what is as likely as not."""
ROUNDS = 3
"""A fact that is not said after the steps of one round gets another with twice the room."""


@dataclass(frozen=True)
class Search:
    """How targets are searched for.

    Attributes:
        steps: most Adam steps of a round; there are more only where the target is not said
            (`ROUNDS`).
        lr: of Adam, in units of the root mean square of what the projection itself writes at
            the anchor, so that a step means the same on every model.
        clamp: largest norm of a vector, in units of that output's norm; doubled each round.
        kl: weight of the divergence on the essence prompt.
        decay: weight of ||delta|| / ||output||, mean over places. ROME's code divides by
            ||output||^2, which weighs a hundred times more on a model that writes small vectors.
        until: a fact is done once the mean negative log-likelihood of its target, over its
            prompts, is below this, and the first of them is answered with it: each of its tokens
            is more likely than all others together, and so is its end.
    """

    steps: int = 30
    lr: float = 0.2
    clamp: float = 1.0
    kl: float = 0.0625
    decay: float = 0.01
    until: float = 0.03


@brief
@dataclass(frozen=True)
class FactPrompts:
    """What one fact's target is searched on.

    Attributes:
        learn: prompts with the target behind them. Behind the first it is also to end: "mat" is
            not said by "matatu".
        essence: the prompt on which the model's distribution is to stay.
    """

    learn: tuple[EditPrompt, ...]
    essence: EditPrompt


@brief
@dataclass(frozen=True)
class Targets:
    """What the search found.

    Attributes:
        delta: what to add at each place.
        initial: what was written there before, at the first prompt's anchor.
        p: probability of the target after the first prompt, geometric mean over its tokens.
        p_all: the same, mean over all prompts of the fact.
        steps: Adam steps taken.
    """

    delta: Float[Tensor, "fact place d_model"]
    initial: Float[Tensor, "fact place d_model"]
    p: Float[Tensor, " fact"]
    p_all: Float[Tensor, " fact"]
    steps: Int[Tensor, " fact"]


def search_targets(
    model: Model,
    facts: Sequence[FactPrompts],
    places: Sequence[Place],
    options: Search,
    edits: Sequence[Changes],
    owner: Int[Tensor, " fact"],
) -> Targets:
    """Find the vectors that make each fact's prompts continue with its target.

    Args:
        model: the model, whose parameters are frozen.
        facts: their prompts.
        places: where vectors are added: outputs of writing projections by the site they read,
            or ``"resid_post"`` for the layer's output; all are searched jointly.
        options: of the search.
        edits: changes made so far, by edit.
        owner: each fact's edit.

    Source: ROME (arXiv 2202.05262, eq. 4), MEMIT (2210.07229, eq. 16), PMET (2308.08742, eq. 9).
    """
    width = max(1, LOGITS_AT_ONCE // model.unembed.weight.shape[0])
    reads = [sum(p.n_target for p in fact.learn) + 1 for fact in facts]
    found: list[Targets] = []
    order: list[int] = []
    for group in _groups(facts, reads, width):
        part = _Batch(model, [facts[i] for i in group], places, edits, owner[group])
        found.append(part.search(options))
        order += group
    back = torch.tensor(order).argsort()
    fields = [torch.cat([getattr(t, name) for t in found])[back] for name in _FIELDS]
    return Targets(*fields)


_FIELDS = ("delta", "initial", "p", "p_all", "steps")


def _groups(facts: Sequence[FactPrompts], reads: Sequence[int], width: int) -> list[list[int]]:
    """Facts of like tail length together, as many as the logits' memory allows.

    All tails of a group are padded to its longest, so one that is a quarter longer starts the
    next group.
    """
    tail = [max(p.n_tail for p in (*f.learn, f.essence)) for f in facts]
    groups: list[list[int]] = []
    held = 0
    for i in sorted(range(len(facts)), key=lambda i: (tail[i], i)):
        if not groups or held + reads[i] > width or tail[i] > 1.25 * tail[groups[-1][0]]:
            groups.append([])
            held = 0
        groups[-1].append(i)
        held += reads[i]
    return groups


class _Batch:
    """Facts searched together: their rows, and which facts are still at it."""

    def __init__(
        self,
        model: Model,
        facts: Sequence[FactPrompts],
        places: Sequence[Place],
        edits: Sequence[Changes],
        owner: Int[Tensor, " fact"],
    ):
        self.model, self.places, self.edits, self.owner = model, places, edits, owner
        self.n_facts = len(facts)
        prompts = [p for fact in facts for p in (*fact.learn, fact.essence)]
        sizes = torch.tensor([len(fact.learn) + 1 for fact in facts])
        fact = torch.repeat_interleave(torch.arange(len(facts)), sizes)
        leads = set(_first_of_each(fact).tolist())
        read = [p.ids if i in leads else p.read_tokens.ids for i, p in enumerate(prompts)]
        n_tail = torch.tensor([len(ids) - p.anchor for ids, p in zip(read, prompts, strict=True)])
        first = min(layer for _, layer in places)
        with under(model, edits, owner[fact]):
            run = tails(model, [TokenPrompt(ids) for ids in read], first, int(n_tail.max()))
        self.rows = _Rows(run, fact, run.n_tail - n_tail, prompts)
        self.goes_on = continuing_tokens(model)

    def search(self, options: Search) -> Targets:
        """Adam until each fact is done or the rounds are used up."""
        rows = self.rows
        initial = self._initial(rows)
        norm = initial.norm(dim=-1, keepdim=True)
        scale = norm / initial.shape[-1] ** 0.5
        u = torch.zeros_like(initial, requires_grad=True)
        adam = torch.optim.Adam([u], lr=options.lr)
        active = torch.ones(self.n_facts, dtype=torch.bool)
        taken = torch.zeros(self.n_facts, dtype=torch.long)
        p, p_all = torch.zeros(self.n_facts), torch.zeros(self.n_facts)
        plain = self._kl_reference(rows)
        last = ROUNDS * options.steps
        for step in range(last + 1):
            delta = u * scale
            now = self._losses(rows, delta, plain)
            size = (delta.norm(dim=-1) / norm[..., 0]).mean(1)
            learnt = rows.mean(now.nll, self.n_facts)
            loss = learnt + now.end + options.kl * now.kl + options.decay * size
            first = self._by_fact((-now.nll[rows.first]).exp(), rows.fact[rows.lead])
            p, p_all = (
                _kept(active, first, p),
                _kept(active, rows.mean((-now.nll).exp(), self.n_facts), p_all),
            )
            enough = (learnt < options.until) | (step >= options.steps)
            active = active & ~(enough & now.said).cpu()
            if step == last or not active.any():
                break
            adam.zero_grad()
            loss[active.to(loss.device)].sum().backward()
            before = u.detach().clone()
            adam.step()
            room = options.clamp * 2 ** (step // options.steps) * initial.shape[-1] ** 0.5
            with torch.no_grad():
                u *= (room / u.norm(dim=-1, keepdim=True)).clamp(max=1)
                u[~active] = before[~active]
            taken[active] = step + 1
            rows, plain = self._fewer(rows, plain, active)
        return Targets((u * scale).detach(), initial, p, p_all, taken)

    def _fewer(
        self, rows: "_Rows", plain: Tensor, active: Bool[Tensor, " fact"]
    ) -> tuple["_Rows", Tensor]:
        """Drop the rows of facts that are done, once they are a fair part."""
        keep = active[rows.fact]
        if keep.sum() > 0.7 * len(keep):
            return rows, plain
        return rows.only(keep.nonzero()[:, 0]), plain

    def _initial(self, rows: "_Rows") -> Float[Tensor, "fact place d_model"]:
        """What each place writes at the first prompt's anchor."""
        got: list[Tensor] = [torch.empty(0)] * len(self.places)

        def keep(i: int) -> Callable[[Tensor], Tensor]:
            def look(output: Tensor) -> Tensor:
                got[i] = output[rows.lead, rows.column[rows.lead]]
                return output

            return look

        with torch.no_grad(), self._hooked(rows, [keep(i) for i in range(len(self.places))]):
            rows.run.run()
        return torch.stack(got, 1)

    def _kl_reference(self, rows: "_Rows") -> Float[Tensor, "fact vocab"]:
        with torch.no_grad(), under(self.model, self.edits, self.owner[rows.fact]):
            hidden = rows.run.run()
            essence = rows.essence
            return self.model.logits(hidden[essence, rows.column[essence]]).log_softmax(-1)

    def _losses(
        self, rows: "_Rows", delta: Float[Tensor, "fact place d_model"], plain: Tensor
    ) -> "_Losses":
        """Where all facts stand."""

        def add(i: int) -> Callable[[Tensor], Tensor]:
            at = torch.arange(len(rows.fact)), rows.column

            def write(output: Tensor) -> Tensor:
                added = torch.zeros_like(output)
                added[at] = delta[rows.fact, i]
                return output + added

            return write

        with self._hooked(rows, [add(i) for i in range(len(self.places))]):
            hidden = rows.run.run()
        essence = rows.essence
        wanted = hidden[rows.read_row, rows.read_column]
        kept, behind = hidden[essence, rows.column[essence]], hidden[rows.lead, -1]
        sizes = [len(wanted), len(kept), len(behind)]
        log_p = self.model.logits(torch.cat([wanted, kept, behind])).log_softmax(-1)
        target, new, after = log_p.split(sizes)
        token, old = rows.token.to(log_p.device), plain[rows.fact[essence]]
        nll = -target[torch.arange(len(wanted)), token]
        # KL(new || old), as PMET's code: the divergence of the edited from the plain distribution
        kl = (new.exp() * (new - old)).sum(-1)
        end = -after.masked_fill(self.goes_on.to(log_p.device), -torch.inf).logsumexp(-1)
        missed = rows.sum((nll > EVEN).to(nll))[rows.first]
        said = (missed == 0) & (end < EVEN)
        of = rows.fact[essence], rows.fact[rows.lead]
        return _Losses(
            nll=rows.sum(nll) / rows.n_target.to(nll.device),
            kl=self._by_fact(kl, of[0]),
            end=self._by_fact(end, of[1]),
            said=self._by_fact(said.to(nll), of[1]) > 0,
        )

    def _by_fact(
        self, values: Float[Tensor, " some"], fact: Int[Tensor, " some"]
    ) -> Float[Tensor, " fact"]:
        """One value a fact; 0 for those that are no longer in the batch."""
        return torch.zeros(self.n_facts).to(values).index_add(0, fact.to(values.device), values)

    @contextlib.contextmanager
    def _hooked(self, rows: "_Rows", edits: list[Callable[[Tensor], Tensor]]) -> Generator[None]:
        """The changes so far, and a function of the output at each place."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(under(self.model, self.edits, self.owner[rows.fact]))
            for place, edit in zip(self.places, edits, strict=True):
                module = module_at(self.model, place)
                stack.callback(module.register_forward_hook(_after(edit)).remove)
            yield


@dataclass(frozen=True)
class _Losses:
    """Where a search stands.

    Attributes:
        nll: of each learning row, the mean negative log-likelihood of the target's tokens.
        kl: of each fact, on its essence.
        end: the negative log-probability that the target ends behind the first prompt.
        said: whether that prompt is answered with it.
    """

    nll: Float[Tensor, " learn"]
    kl: Float[Tensor, " fact"]
    end: Float[Tensor, " fact"]
    said: Bool[Tensor, " fact"]


def _kept(active: Bool[Tensor, " fact"], new: Tensor, old: Tensor) -> Tensor:
    return torch.where(active, new.detach().cpu(), old)


def _after(edit: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    return after


class _Rows:
    """The rows of a batch and what is read from them.

    Attributes:
        run: their tails.
        fact: each row's fact.
        column: each row's anchor, in the tail.
        lead: each fact's first row, whose target's last token is read, too.
        learn, essence: the rows with a target, and those without.
        first: the places of the first rows among those with a target.
        read_row, read_column, token: where each target token is predicted, and which it is.
        read_learn: its row's place among the learning rows.
        n_target: target tokens of each learning row.
    """

    def __init__(
        self,
        run: Tails,
        fact: Int[Tensor, " row"],
        column: Int[Tensor, " row"],
        prompts: Sequence[EditPrompt],
    ):
        self.run, self.fact, self.column, self.prompts = run, fact, column, prompts
        self.lead = _first_of_each(fact)
        targets = torch.tensor([prompt.n_target for prompt in prompts])
        self.learn, self.essence = targets.nonzero()[:, 0], (targets == 0).nonzero()[:, 0]
        self.n_target = targets[self.learn]
        self.first = torch.searchsorted(self.learn, self.lead)
        leads = set(self.lead.tolist())
        reads = [
            (row, run.n_tail - k - (row in leads), prompt.ids[-k], place)
            for place, row in enumerate(self.learn.tolist())
            for prompt in (prompts[row],)
            for k in range(prompt.n_target, 0, -1)
        ]
        self.read_row, self.read_column, self.token, self.read_learn = torch.tensor(reads).T

    def sum(self, of_token: Float[Tensor, " read"]) -> Float[Tensor, " learn"]:
        """Over the target's tokens of each learning row."""
        row = self.read_learn.to(of_token.device)
        return torch.zeros(len(self.learn)).to(of_token).index_add(0, row, of_token)

    def mean(self, of_learn: Float[Tensor, " learn"], n_facts: int) -> Float[Tensor, " fact"]:
        """Mean over each fact's learning rows; 0 for facts that are no longer in the batch."""
        fact = self.fact[self.learn].to(of_learn.device)
        count = torch.zeros(n_facts).to(of_learn).index_add(0, fact, torch.ones_like(of_learn))
        return torch.zeros(n_facts).to(of_learn).index_add(0, fact, of_learn) / count.clamp(min=1)

    def only(self, rows: Int[Tensor, " row"]) -> "_Rows":
        """Some of the rows."""
        prompts = [self.prompts[i] for i in rows.tolist()]
        return _Rows(self.run.only(rows), self.fact[rows], self.column[rows], prompts)


def _first_of_each(fact: Int[Tensor, " row"]) -> Int[Tensor, " fact"]:
    """The first row of each fact."""
    return torch.cat([torch.tensor([True]), fact[1:] != fact[:-1]]).nonzero()[:, 0]
