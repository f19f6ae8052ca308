"""Target search: the vectors that, written at an anchor token, make the model give the target.

All facts of a batch are searched at once. Their losses do not share a term and Adam works
elementwise, so each fact's path is the one it would take alone.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuits.editing.change import Changes, Place, under
from circuits.editing.evaluation.edited_models import continuing_tokens
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.keys import module_at
from circuits.editing.methods import Neurons, Search, Stage
from circuits.editing.trunk import Trunk, TrunkRow, apart
from interp.brief import brief
from interp.forward.readout import LOGITS_AT_ONCE
from interp.forward.tails import Tails, tails
from interp.model.model import Model

EVEN = math.log(2)
"""Negative log-probability of what is as likely as not."""
ROUNDS = 3
"""A fact that is not answered after the steps of one round gets another with twice the room."""


@brief
@dataclass(frozen=True)
class FactPrompts:
    """What one fact's target is searched on.

    Attributes:
        learn: prompts with the target behind them. Behind the first it is also to end: "mat" is
            not given by "matatu".
        essence: the prompt on which the model's distribution is to stay.
    """

    learn: tuple[EditPrompt, ...]
    essence: EditPrompt

    @property
    def all(self) -> tuple[EditPrompt, ...]:
        """The essence last."""
        return (*self.learn, self.essence)

    def readings(self, edit: int) -> list[TrunkRow]:
        """What is read of each, under an edit: of the first its target's last token, too."""
        first, *others = self.all
        whole = TrunkRow(first, len(first.ids), edit)
        return [whole, *(TrunkRow(p, len(p.read_tokens.ids), edit) for p in others)]


@brief
@dataclass(frozen=True)
class Targets:
    """What to add at each place, and what was written there before, at the first anchor.

    `p` is the probability of the target after the first prompt, geometric mean over its tokens;
    `steps` are Adam's.
    """

    delta: Float[Tensor, "fact place d_model"]
    initial: Float[Tensor, "fact place d_model"]
    p: Float[Tensor, " fact"]
    steps: Int[Tensor, " fact"]


def search_targets(
    model: Model,
    facts: Sequence[FactPrompts],
    places: Sequence[Place],
    options: Search,
    edits: Sequence[Changes],
    owner: Int[Tensor, " fact"],
    trunk: Trunk | None = None,
) -> Targets:
    """Find the vectors that make each fact's prompts continue with its target.

    They are added jointly at `places`: outputs of projections, or ``"resid_post"`` for the layer's
    own. Each fact is searched under the changes of the edit that `owner` numbers. `trunk` has run
    the facts' `readings` up to some layer that is none above the places'.

    Source: ROME (arXiv 2202.05262, eq. 4), MEMIT (2210.07229, eq. 16), PMET (2308.08742, eq. 9).
    """
    groups = _groups(facts, max(1, LOGITS_AT_ONCE // model.n_vocab))
    if trunk is None:
        read = [
            one for fact, i in zip(facts, owner.tolist(), strict=True) for one in fact.readings(i)
        ]
        trunk = Trunk.of(model, read, edits, min(layer for _, layer in places))
    found = [
        _Batch(model, [facts[i] for i in group], places, edits, owner[group], trunk).search(options)
        for group in groups
    ]
    back = torch.tensor([i for group in groups for i in group]).argsort()
    parts = ([getattr(part, f.name) for part in found] for f in fields(Targets))
    return Targets(*(torch.cat(values)[back] for values in parts))


def search_places(model: Model, stage: Stage | Neurons) -> list[Place]:
    """Where a stage's vectors are searched."""
    if isinstance(stage, Neurons):
        return [("mlp_post", layer) for layer in stage.layers]
    if stage.spread == "joint":
        return [(site, layer) for layer in stage.layers for site in stage.writes]
    last = stage.layers[-1]
    parts = model.parts(last)
    bounded = parts.ln2_post is not None or parts.mlp_scale != 1
    if stage.target == "resid" and not bounded:
        return [("resid_post", last)]
    if stage.target == "mlp+attn":
        return [("mlp_post", last), ("z", last)]
    return [("mlp_post", last)]


def _groups(facts: Sequence[FactPrompts], width: int) -> list[list[int]]:
    """Facts of like tail length (to which all are padded), as many as the logits' memory allows."""
    reads = [sum(p.n_target for p in fact.learn) + 1 for fact in facts]
    tail = [max(p.n_tail for p in fact.all) for fact in facts]
    groups: list[list[int]] = []
    held = 0
    for i in sorted(range(len(facts)), key=lambda i: (tail[i], i)):
        if not groups or held + reads[i] > width or tail[i] > 1.25 * tail[groups[-1][0]]:
            groups.append([])
            held = 0
        groups[-1].append(i)
        held += reads[i]
    return groups


class _Rows:
    """The tails of a batch, of which each row has a fact and an anchor (its column).

    `lead` is each fact's first row, whose target's last token is read, too; `learn` and `essence`
    are the rows with a target and those without. Target tokens are predicted at `read`.
    """

    def __init__(
        self,
        run: Tails,
        fact: Int[Tensor, " row"],
        column: Int[Tensor, " row"],
        prompts: Sequence[EditPrompt],
    ):
        self.run, self.fact, self.column, self.prompts = run, fact, column, prompts
        self.lead = torch.cat([torch.tensor([True]), fact[1:] != fact[:-1]]).nonzero()[:, 0]
        targets = torch.tensor([prompt.n_target for prompt in prompts])
        self.learn, self.essence = targets.nonzero()[:, 0], (targets == 0).nonzero()[:, 0]
        self.n_target = targets[self.learn]
        self.first = torch.searchsorted(self.learn, self.lead)  # places of `lead` in `learn`
        leads = set(self.lead.tolist())
        reads = [
            (row, run.n_tail - k - (row in leads), prompts[row].ids[-k], place)
            for place, row in enumerate(self.learn.tolist())
            for k in range(prompts[row].n_target, 0, -1)
        ]
        *read, self.token, self.read_learn = torch.tensor(reads).T
        self.read = tuple(read)

    def sum(self, of_token: Float[Tensor, " read"]) -> Float[Tensor, " learn"]:
        """Over the target's tokens of each learning row."""
        return _added(of_token, self.read_learn, len(self.learn))

    def mean(self, of_learn: Float[Tensor, " learn"], n_facts: int) -> Float[Tensor, " fact"]:
        """Mean over each fact's learning rows; 0 for facts that are no longer in the batch."""
        fact = self.fact[self.learn]
        count = _added(torch.ones_like(of_learn), fact, n_facts)
        return _added(of_learn, fact, n_facts) / count.clamp(min=1)

    def only(self, rows: Int[Tensor, " row"]) -> "_Rows":
        prompts = [self.prompts[i] for i in rows.tolist()]
        return _Rows(self.run.only(rows), self.fact[rows], self.column[rows], prompts)


def _added(values: Float[Tensor, " n"], group: Int[Tensor, " n"], n: int) -> Float[Tensor, " n"]:
    """Sums over groups; 0 for those without a value."""
    return torch.zeros(n).to(values).index_add(0, group.to(values.device), values)


@dataclass(frozen=True)
class _Losses:
    nll: Float[Tensor, " learn"]
    kl: Float[Tensor, " fact"]
    end: Float[Tensor, " fact"]  # NLL that the target ends behind the first prompt
    answered: Bool[Tensor, " fact"]  # whether that prompt is answered with it


class _Batch:
    """Facts searched together."""

    def __init__(
        self,
        model: Model,
        facts: Sequence[FactPrompts],
        places: Sequence[Place],
        edits: Sequence[Changes],
        owner: Int[Tensor, " fact"],
        trunk: Trunk,
    ):
        self.model, self.places, self.edits, self.owner = model, places, edits, owner
        self.n_facts = len(facts)
        prompts = [p for fact in facts for p in fact.all]
        sizes = torch.tensor([len(fact.all) for fact in facts])
        fact = torch.repeat_interleave(torch.arange(len(facts)), sizes)
        read = [r for one, i in zip(facts, owner.tolist(), strict=True) for r in one.readings(i)]
        n_tail = torch.tensor([r.n - r.prompt.anchor for r in read])
        first = min(layer for _, layer in places)
        changed, numbers = apart(edits, owner[fact].tolist(), range(model.arch.n_layers))
        cache = trunk.cache(read, changed, numbers, model.arch.n_layers - 1)
        with under(model, edits, owner[fact]):
            run = tails(model, [r.tokens for r in read], first, int(n_tail.max()), cache)
        self.rows = _Rows(run, fact, run.n_tail - n_tail, prompts)
        self.goes_on = continuing_tokens(model)

    def search(self, options: Search) -> Targets:
        """Adam until each fact is done or the rounds are used up."""
        rows, n = self.rows, self.n_facts
        initial, plain = self._before(rows)
        norm = initial.norm(dim=-1, keepdim=True)
        scale = norm / initial.shape[-1] ** 0.5
        u = torch.zeros_like(initial, requires_grad=True)
        adam = torch.optim.Adam([u], lr=options.lr)
        active, taken = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.long)
        p = torch.zeros(n)
        last = ROUNDS * options.steps
        for step in range(last + 1):
            delta = u * scale
            now = self._losses(rows, delta, plain)
            size = (delta.norm(dim=-1) / norm[..., 0]).mean(1)
            learnt = rows.mean(now.nll, n)
            loss = learnt + now.end + options.kl * now.kl + options.decay * size
            likely = (-now.nll.detach()[rows.first]).exp()
            first = _added(likely, rows.fact[rows.lead], n)
            p = torch.where(active, first.cpu(), p)
            enough = (learnt < options.until) | (step >= options.steps)
            active = active & ~(enough & now.answered).cpu()
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
            going = active[rows.fact]
            if not going.all():
                rows = rows.only(going.nonzero()[:, 0])
        return Targets((u * scale).detach(), initial, p, taken)

    @torch.no_grad()
    def _before(
        self, rows: _Rows
    ) -> tuple[Float[Tensor, "fact place d_model"], Float[Tensor, "fact vocab"]]:
        """What each place writes at the first prompt's anchor; essence prompts' distributions."""
        which, n = torch.cat([rows.lead, rows.essence]), len(rows.lead)
        run, column, fact = rows.run.only(which), rows.column[which], rows.fact[which]
        got: list[Tensor] = [torch.empty(0)] * len(self.places)

        def look(i: int, output: Tensor) -> Tensor:
            # Adam's steps are finer than 16 bits
            wide = torch.promote_types(output.dtype, torch.float32)
            got[i] = output[torch.arange(n), column[:n]].to(wide)
            return output

        with self._hooked(fact, look):
            hidden = run.run()
        essence = hidden[torch.arange(n, len(which)), column[n:]]
        return torch.stack(got, 1), self.model.logits(essence).log_softmax(-1)

    def _losses(
        self, rows: _Rows, delta: Float[Tensor, "fact place d_model"], plain: Tensor
    ) -> _Losses:
        at = torch.arange(len(rows.fact)), rows.column

        def write(i: int, output: Tensor) -> Tensor:
            added = torch.zeros_like(output)
            added[at] = delta[rows.fact, i].to(output)
            return output + added

        with self._hooked(rows.fact, write):
            hidden = rows.run.run()
        essence, lead = rows.essence, rows.lead
        parts = hidden[rows.read], hidden[essence, rows.column[essence]], hidden[lead, -1]
        log_p = self.model.logits(torch.cat(parts)).log_softmax(-1)
        target, new, after = log_p.split([len(part) for part in parts])
        nll = -target[torch.arange(len(target)), rows.token.to(log_p.device)]
        # KL(new || old), as PMET's code: the divergence of the edited from the plain distribution
        kl = (new.exp() * (new - plain[rows.fact[essence]])).sum(-1)
        end = -after.masked_fill(self.goes_on.to(log_p.device), -torch.inf).logsumexp(-1)
        missed = rows.sum((nll > EVEN).to(nll))[rows.first]
        answered = ((missed == 0) & (end < EVEN)).to(nll)
        return _Losses(
            rows.sum(nll) / rows.n_target.to(nll.device),
            _added(kl, rows.fact[essence], self.n_facts),
            _added(end, rows.fact[lead], self.n_facts),
            _added(answered, rows.fact[lead], self.n_facts) > 0,
        )

    @contextlib.contextmanager
    def _hooked(
        self, fact: Int[Tensor, " row"], edit: Callable[[int, Tensor], Tensor]
    ) -> Generator[None]:
        """The changes so far of rows' facts, and a function of (place, output) at each place."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(under(self.model, self.edits, self.owner[fact]))
            for i, place in enumerate(self.places):
                module = module_at(self.model, place)
                stack.callback(module.register_forward_hook(_after(edit, i)).remove)
            yield


def _after(edit: Callable[[int, Tensor], Tensor], i: int) -> Callable[..., Any]:
    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(i, output[0]), *output[1:])
        return edit(i, output)

    return after
