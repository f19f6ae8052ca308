"""Fine-tuning a low-rank change by gradient: the baseline without a closed form."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.change import Change, Changes, under
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.methods import FineTune
from interp.forward.blocks import projection, rewriting
from interp.forward.tails import tails
from interp.model.model import Model

EDITS_AT_ONCE = 8
SITE = "mlp_post"


def fine_tune(
    model: Model,
    learn: Sequence[Sequence[EditPrompt]],
    owner: Int[Tensor, " fact"],
    stage: FineTune,
    edits: Sequence[Changes],
    preserved: Sequence[Sequence[EditPrompt]],
) -> tuple[dict[int, Change], Float[Tensor, " fact"]]:
    """Adam on the factors of one down-projection's change, each edit's own.

    `owner` numbers the edit of each fact, whose prompts are in `learn`. Returns the change of each
    edit that has facts, and each target's probability on the fact's first prompt.
    """
    changes: dict[int, Change] = {}
    p = torch.zeros(len(learn))
    with_facts = owner.unique().tolist()
    for lo in range(0, len(with_facts), EDITS_AT_ONCE):
        group = with_facts[lo : lo + EDITS_AT_ONCE]
        facts = [i for i, edit in enumerate(owner.tolist()) if edit in group]
        rows = _Rows(
            model,
            [learn[i] for i in facts],
            torch.tensor([group.index(int(owner[i])) for i in facts]),
            [preserved[edit] for edit in group],
            [edits[edit] for edit in group],
            stage,
        )
        made, p[facts] = _tuned(rows, stage)
        changes |= zip(group, made, strict=True)
    return changes, p


class _Rows:
    """Prompts of the facts of several edits, then the edits' preserved questions, as one batch."""

    def __init__(
        self,
        model: Model,
        learn: Sequence[Sequence[EditPrompt]],
        fact_edit: Int[Tensor, " fact"],
        preserved: Sequence[Sequence[EditPrompt]],
        edits: Sequence[Changes],
        stage: FineTune,
    ):
        self.model, self.edits, self.fact_edit, self.layer = model, edits, fact_edit, stage.layer
        sizes = torch.tensor([len(prompts) for prompts in learn])
        self.fact = torch.arange(len(learn)).repeat_interleave(sizes)
        self.lead = sizes.cumsum(0) - sizes
        n_preserved = torch.tensor([len(prompts) for prompts in preserved])
        self.preserved_edit = torch.arange(len(preserved)).repeat_interleave(n_preserved)
        self.owner = torch.cat([fact_edit[self.fact], self.preserved_edit])
        prompts = [p for ps in (*learn, *preserved) for p in ps]
        with under(model, edits, self.owner):
            rows = [p.read_tokens for p in prompts]
            self.run = tails(model, rows, stage.layer, max(len(row.ids) for row in rows))
        reads = [
            (row, self.run.n_tail - k, prompt.ids[-k])
            for row, prompt in enumerate(prompts[: len(self.fact)])
            for k in range(prompt.n_target, 0, -1)
        ]
        self.row, self.column, self.token = torch.tensor(reads).T

    def read(
        self, up: Float[Tensor, "edit d_model rank"], down: Float[Tensor, "edit d_in rank"]
    ) -> tuple[Float[Tensor, " learn"], Float[Tensor, "preserved vocab"]]:
        """Mean NLL of each learning row; log-probabilities at preserved ones."""

        def change(x: Tensor, out: Tensor) -> Tensor:
            return out + x @ down[self.owner].to(x) @ up[self.owner].to(x).mT

        places = [(SITE, self.layer, change)]
        with under(self.model, self.edits, self.owner), rewriting(self.model, places):
            hidden = self.run.run()
        wanted = torch.cat([hidden[self.row, self.column], hidden[len(self.fact) :, -1]])
        log_p = self.model.logits(wanted).log_softmax(-1)
        nll = -log_p[torch.arange(len(self.row)), self.token]
        return _mean(nll, self.row, len(self.fact)), log_p[len(self.row) :]


def _mean(values: Float[Tensor, " n"], group: Int[Tensor, " n"], size: int) -> Tensor:
    """Mean over each group; 0 for an empty one."""
    count = torch.bincount(group, minlength=size).clamp(min=1)
    return torch.zeros(size).to(values).index_add(0, group, values) / count


def _tuned(rows: _Rows, stage: FineTune) -> tuple[list[Change], Float[Tensor, " fact"]]:
    model, n_edits, n_facts = rows.model, len(rows.edits), len(rows.lead)
    weight = projection(model, SITE, stage.layer).get_parameter("weight")
    size = float(weight.float().square().mean().sqrt())
    d_in = model.arch.layers[stage.layer].d_mlp
    start = torch.randn(d_in, stage.rank, generator=torch.Generator().manual_seed(0))
    down = (start / d_in**0.5).expand(n_edits, -1, -1).clone().requires_grad_()
    up = torch.zeros(n_edits, model.arch.d_model, stage.rank, requires_grad=True)
    with torch.no_grad():
        plain = rows.read(up, down)[1]
    adam = torch.optim.Adam([up, down], lr=stage.lr)
    active, p = torch.ones(n_edits, dtype=torch.bool), torch.zeros(n_facts)
    for step in range(stage.steps + 1):
        nll, now = rows.read(size * up, down)
        learnt = _mean(_mean(nll, rows.fact, n_facts), rows.fact_edit, n_edits)
        kl = _mean((plain.exp() * (plain - now)).sum(-1), rows.preserved_edit, n_edits)
        p = torch.where(active[rows.fact_edit], (-nll.detach()[rows.lead]).exp(), p)
        active = active & (learnt.detach() >= stage.until)
        if step == stage.steps or not active.any():
            break
        adam.zero_grad()
        (learnt + stage.preserved_weight * kl)[active].sum().backward()
        before = up.detach().clone(), down.detach().clone()
        adam.step()
        with torch.no_grad():
            up[~active], down[~active] = before[0][~active], before[1][~active]
    factors = zip((size * up).detach().double(), down.detach().double(), strict=True)
    return [Change(SITE, stage.layer, u, d) for u, d in factors], p
