"""Fine-tuning a low-rank change by gradient: the baseline without a closed form."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.changes import Change, Changes, under
from circuits.editing.methods import FineTune
from circuits.editing.prompting import EditPrompt
from interp.model import Model
from interp.projections import rewriting, writer
from interp.tails import tails

FACTS_AT_ONCE = 8


def fine_tune(
    model: Model,
    prompts: Sequence[tuple[int, tuple[EditPrompt, ...]]],
    stage: FineTune,
    edits: Sequence[Changes],
    kept: Any,
) -> tuple[list[Change | None], Float[Tensor, " job"]]:
    """Adam on the factors of one down-projection's change, each edit's own.

    Args:
        model: the model, whose parameters are frozen.
        prompts: (edit, prompts) of each fact.
        stage: of which layer, how long.
        edits: changes made so far, by edit.
        kept: preserved questions with their edits, or ``None``.

    Returns:
        Each edit's change, ``None`` for an edit without prompts; and the probability that each
        fact's target reached on its first prompt.
    """
    changes: list[Change | None] = [None] * len(edits)
    p = torch.zeros(len(prompts))
    ids = list(dict.fromkeys(edit for edit, _ in prompts))
    for lo in range(0, len(ids), FACTS_AT_ONCE):
        group = ids[lo : lo + FACTS_AT_ONCE]
        jobs = [j for j, (edit, _) in enumerate(prompts) if edit in group]
        made, reached = _tuned(model, [prompts[j] for j in jobs], group, stage, edits, kept)
        for edit, change in zip(group, made, strict=True):
            changes[edit] = change
        p[jobs] = reached
    return changes, p


def _tuned(
    model: Model,
    prompts: Sequence[tuple[int, tuple[EditPrompt, ...]]],
    group: Sequence[int],
    stage: FineTune,
    edits: Sequence[Changes],
    kept: Any,
) -> tuple[list[Change], Float[Tensor, " job"]]:
    learn = [(job, group.index(edit), p) for job, (edit, ps) in enumerate(prompts) for p in ps]
    keep: list[tuple[int, EditPrompt]] = []
    if kept is not None:
        owners = kept.owner.tolist()
        keep = [(group.index(e), p) for e, p in zip(owners, kept.rows, strict=True) if e in group]
    owner = torch.tensor([g for _, g, _ in learn] + [g for g, _ in keep])
    rows = [p for _, _, p in learn] + [p for _, p in keep]
    mine = [edits[edit] for edit in group]
    longest = max(len(p.ids) for p in rows)
    with under(model, mine, owner):
        run = tails(model, [p.tokens for p in rows], stage.layer, longest)
        # token positions are counted from the end, where all rows are flush
    weight: Any = writer(model, "mlp_post", stage.layer).weight
    size = float(weight.float().square().mean().sqrt())
    d_in = model.arch.d_mlp or 0
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(d_in, stage.rank, generator=generator).expand(len(group), -1, -1)
    down = (down / d_in**0.5).clone().requires_grad_()
    up = torch.zeros(len(group), model.arch.d_model, stage.rank, requires_grad=True)
    read = [
        (row, run.n_tail - 1 - k, p.ids[-k], row)
        for row, (_, _, p) in enumerate(learn)
        for k in range(p.n_target, 0, -1)
    ]
    at_row, at_column, token, of_row = torch.tensor(read).T
    job = torch.tensor([j for j, _, _ in learn])
    n_target = torch.tensor([p.n_target for _, _, p in learn])
    kept_row = torch.arange(len(learn), len(rows))
    counts = torch.bincount(job, minlength=len(prompts))
    plain: Tensor | None = None

    def forward() -> tuple[Tensor, Tensor]:
        def change(x: Tensor, out: Tensor) -> Tensor:
            return out + size * (x @ down[owner]) @ up[owner].mT

        with under(model, mine, owner), rewriting(model, [("mlp_post", stage.layer, change)]):
            hidden = run.run()
        wanted = torch.cat([hidden[at_row, at_column], hidden[kept_row, -1]])
        log_p = model.logits(wanted).log_softmax(-1)
        nll = -log_p[torch.arange(len(at_row)), token]
        by_row = torch.zeros(len(learn)).index_add(0, of_row, nll) / n_target
        return by_row, log_p[len(at_row) :]

    with torch.no_grad():
        plain = forward()[1]
    adam = torch.optim.Adam([up, down], lr=stage.lr)
    active = torch.ones(len(group), dtype=torch.bool)
    job_group = torch.tensor([group.index(edit) for edit, _ in prompts])
    reached = torch.zeros(len(prompts))
    for step in range(stage.steps + 1):
        nll, kept_now = forward()
        by_job = torch.zeros(len(prompts)).index_add(0, job, nll) / counts
        loss = torch.zeros(len(group)).index_add(0, job_group, by_job)
        n_jobs = torch.bincount(job_group, minlength=len(group))
        loss = loss / n_jobs
        if len(keep):
            kl = (plain.exp() * (plain - kept_now)).sum(-1)
            of = owner[kept_row]
            n_kept = torch.bincount(of, minlength=len(group)).clamp(min=1)
            loss = loss + stage.kept_weight * torch.zeros(len(group)).index_add(0, of, kl) / n_kept
        first = torch.cat([torch.tensor([True]), job[1:] != job[:-1]])
        reached = torch.where(active[job_group], (-nll.detach()[first]).exp(), reached)
        active = active & (loss.detach() >= stage.until)
        if step == stage.steps or not active.any():
            break
        adam.zero_grad()
        loss[active].sum().backward()
        before = up.detach().clone(), down.detach().clone()
        adam.step()
        with torch.no_grad():
            up[~active], down[~active] = before[0][~active], before[1][~active]
    ups, downs = (size * up).detach().double(), down.detach().double()
    return [Change("mlp_post", stage.layer, u, d) for u, d in zip(ups, downs, strict=True)], reached
