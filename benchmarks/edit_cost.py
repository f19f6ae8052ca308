"""What an edit costs: target search, second moments, and all of it in a batch.

    python benchmarks/edit_cost.py edits   --model gemma-3-270m --n 32
    python benchmarks/edit_cost.py search  --model smollm2-135m --n 64
    python benchmarks/edit_cost.py moments --model gemma-3-270m

`search` has ROME's targets of n facts of datasets/multihop_chains.json (design half) searched in
one batch, one at a time, and one at a time with the loop of the released editors, which runs every
prompt whole at each step: clozes bare and behind five contexts, the subject's last token, one
layer. `edits` writes n cases of the design half by one method, half of them first hops, each with a
preservation set, in one batch as an evaluation does. `moments` computes what every preset needs,
from the model's own samples, into a cache folder of its own. Seconds are of the process, all
threads together, so what else runs on the machine does not count; of the wall where they say so.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import interp
from circuits.editing import Fact, preset, writing
from circuits.editing.editor import moments_for
from circuits.editing.evaluation import load_cases
from circuits.editing.evaluation.conditions import N_CONTROLS, N_PRESERVED
from circuits.editing.evaluation.control_questions import (
    QuestionPool,
    control_questions,
    preservation_set,
    preserved_of,
)
from circuits.editing.evaluation.edited_models import continuing_tokens
from circuits.editing.fact_prompts import EditPrompt, contexts, edit_prompts, essence_prompt
from circuits.editing.keys import module_at
from circuits.editing.layer_selection import selection_for
from circuits.editing.methods import METHODS, Search, Stage
from circuits.editing.moments import N_TOKENS, own_samples, second_moments
from circuits.editing.targets import ROUNDS, FactPrompts, Targets, search_targets
from circuits.editing.trunk import Trunk
from circuits.editing.writing import Request
from interp.data.prompts import TokenPrompt, pad

CHAINS = "datasets/multihop_chains.json"


def facts(n: int) -> list[Fact]:
    """The first n different facts of the design half, in its order."""
    cases = load_cases(CHAINS).where(lambda case: case.split == "design")
    every = {(fact.prompt, fact.subject): fact for case in cases for fact in case.facts}
    return list(every.values())[:n]


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Search in one batch and one at a time, and compare."""
    model = interp.load_model(args.model, dtype=args.dtype)
    (stage,) = preset("rome", model).stages
    assert isinstance(stage, Stage)
    templates = contexts(model)
    given = [
        FactPrompts(
            tuple(edit_prompts(model, fact, "cloze", stage.anchor, templates)),
            essence_prompt(model, fact.subject, stage.anchor),
        )
        for fact in facts(args.n)
    ]

    def found(some: Sequence[FactPrompts]) -> Targets:
        owner = torch.zeros(len(some), dtype=torch.long)
        place = ("mlp_post", stage.layers[-1])
        return search_targets(model, some, [place], stage.search, [()], owner)

    found(given[:1])  # warm-up
    started = time.process_time()
    together = found(given)
    batched = time.process_time() - started
    singly = [found([one]) for one in given]
    alone = time.process_time() - started - batched
    whole = [whole_prompts(model, one, stage.layers[-1], stage.search) for one in given]
    plainly = time.process_time() - started - batched - alone
    return {
        "n_facts": len(given),
        "layer": stage.layers[-1],
        "mean_steps": float(together.steps.float().mean()),
        "least_p": float(together.p.min()),
        "seconds_batched": batched,
        "one_at_a_time": {"seconds": alone, "times_faster": alone / batched}
        | _apart(together, _joined(singly)),
        "whole_prompts": {"seconds": plainly, "times_faster": plainly / batched}
        | _apart(together, _joined(whole)),
    }


def _joined(found: Sequence[Targets]) -> Targets:
    return Targets(*(torch.cat([getattr(t, f.name) for t in found]) for f in fields(Targets)))


def _apart(one: Targets, other: Targets) -> dict[str, float]:
    """How far two searches of the same facts ended from each other."""
    apart = (one.delta - other.delta).flatten(1).norm(dim=1) / other.delta.flatten(1).norm(dim=1)
    return {
        "largest_relative_difference": float(apart.max()),
        "largest_difference_of_p": float((one.p - other.p).abs().max()),
        "facts_with_other_steps": int((one.steps != other.steps).sum()),
    }


def whole_prompts(model: interp.Model, fact: FactPrompts, layer: int, options: Search) -> Targets:
    """One fact's search as released editors run it: all of every prompt, all its logits, each step.

    The mathematics are those of `circuits.editing.targets`, so the results must agree.
    """
    prompts, goes_on = [*fact.learn, fact.essence], continuing_tokens(model)
    ids, mask = pad(model, [TokenPrompt(prompt.ids) for prompt in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    start = mask.shape[1] - mask.sum(1)
    anchor = start + torch.tensor([prompt.anchor for prompt in prompts])
    rows, added = torch.arange(len(prompts)), torch.zeros(())

    def write(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        written.append(output[rows, anchor].detach())
        at = torch.zeros_like(output)
        at[rows, anchor] = added
        return output + at

    def log_p() -> Tensor:
        out = model.hf(input_ids=ids, attention_mask=mask.long(), position_ids=positions)
        return out.logits.log_softmax(-1)

    written: list[Tensor] = []
    hook = module_at(model, ("mlp_post", layer)).register_forward_hook(write)
    with torch.no_grad():
        plain = log_p()[-1, anchor[-1]]
    initial = written[0][0]
    u = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([u], lr=options.lr)
    step = 0
    while True:
        added = u * initial.norm() / len(u) ** 0.5
        now = log_p()
        nll = torch.stack([_nll(now[i], prompt) for i, prompt in enumerate(fact.learn)])
        ends = now[0, -1].exp()[~goes_on].sum()
        said = _said(now[0], fact.learn[0]) and ends > 0.5
        essence = now[-1, anchor[-1]]
        kl = (essence.exp() * (essence - plain)).sum()
        enough = nll.mean() < options.until or step >= options.steps
        if (enough and said) or step == ROUNDS * options.steps:
            break
        adam.zero_grad()
        size = added.norm() / initial.norm()
        (nll.mean() - ends.log() + options.kl * kl + options.decay * size).backward()
        adam.step()
        with torch.no_grad():
            room = options.clamp * 2 ** (step // options.steps) * len(u) ** 0.5
            u *= (room / u.norm()).clamp(max=1)
        step += 1
    hook.remove()
    p = (-nll.detach()).exp()
    delta, before = added.detach()[None, None], initial[None, None]
    return Targets(delta, before, p[:1], torch.tensor([step]))


def _nll(log_p: Float[Tensor, "pos vocab"], prompt: EditPrompt) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of a prompt's target, whose tokens are the last."""
    target = torch.tensor(prompt.ids[-prompt.n_target :])
    predicted = log_p[-prompt.n_target - 1 : -1]
    return -predicted.gather(1, target[:, None]).mean()


def _said(log_p: Float[Tensor, "pos vocab"], prompt: EditPrompt) -> bool:
    """Whether each token of a prompt's target is more likely than all others together."""
    target = torch.tensor(prompt.ids[-prompt.n_target :])
    return bool((log_p[-prompt.n_target - 1 : -1].gather(1, target[:, None]).exp() > 0.5).all())


def edits(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per edit of a batch, and in its parts."""
    model = interp.load_model(args.model, dtype=args.dtype)
    cases = load_cases(CHAINS).where(lambda case: case.split == "design")
    every = {q for case in cases for q in (*case.questions, *(hop.question for hop in case.hops))}
    pool = QuestionPool.of(cases, every)
    requests: list[Request] = []
    for position, n in (("first", args.n // 2), ("last", args.n - args.n // 2)):
        mine = [c for c in cases if c.position == position and c.n_hops == 2 and c.n_edits == 1]
        deep = [c for c in mine if position == "first" or c.facts[0].implicit]
        for case in random.Random(0).sample(deep, n):
            scored = control_questions(case, pool, N_CONTROLS)
            kept = preservation_set(case, pool, scored, N_PRESERVED)
            facts = tuple(replace(fact, implicit=fact.implicit[:6]) for fact in case.facts)
            requests.append(Request(facts, preserved_of(kept)))
    placement = selection_for(model, args.placement, args.method)
    method = preset(args.method, model, placement)
    known = moments_for(model, [method], placement, args.n_tokens)
    parts: dict[str, float] = {}
    for owner, name in ((Trunk, "of"), (writing, "search_targets"), (writing, "keys_at")):
        setattr(owner, name, _timed(getattr(owner, name), name, parts))
    templates = contexts(model)[:3]
    clocks = time.process_time, time.perf_counter
    started = [clock() for clock in clocks]
    written = writing.write(model, requests, method, known, templates)
    seconds, wall = (clock() - at for clock, at in zip(clocks, started, strict=True))
    reached = [p for one in written for stage in one.p for p in stage if p == p]
    return {
        "method": args.method,
        "n": len(requests),
        "seconds_per_edit": seconds / len(requests),
        "wall_seconds_per_edit": wall / len(requests),
        "parts": {name: value / len(requests) for name, value in parts.items()},
        "least_p": min(reached),
    }


def _timed(run: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    """A function that adds the seconds of each of its calls to `parts`."""

    def timed(*given: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return run(*given, **options)
        finally:
            parts[name] = parts.get(name, 0) + time.process_time() - started

    return timed


def moments(args: argparse.Namespace) -> dict[str, Any]:
    """Time the samples alone, and then all, samples included where they are not shipped."""
    model = interp.load_model(args.model, dtype=args.dtype)
    placement = selection_for(model, args.placement, "ace")
    named = [name for name in METHODS if not name.endswith("-nas")]  # whose places are the same
    every = [place for name in named for place in preset(name, model, placement).places]
    places = list(dict.fromkeys(every))
    started = time.process_time()
    own_samples(model, args.n_tokens)
    samples = time.process_time() - started
    with tempfile.TemporaryDirectory() as cache:
        second_moments(model, places, n_tokens=args.n_tokens, cache=Path(cache))
    both = time.process_time() - started - samples
    return {
        "n_tokens": args.n_tokens,
        "places": len(places),
        "layers": sorted({layer for _, layer in places}),
        "seconds_samples": samples,
        "seconds": both,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("edits", "search", "moments"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=64, help="facts, or edits")
    parser.add_argument("--method", default="ace", help="of edits")
    parser.add_argument("--n-tokens", type=int, default=N_TOKENS)
    parser.add_argument("--dtype", default="float32", help="in 16 bits give --placement, too")
    parser.add_argument("--placement", type=Path, help="a layer selection for ace")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {"edits": edits, "search": search, "moments": moments}[args.what](args)
    setting = {name: getattr(args, name) for name in ("model", "threads", "dtype")}
    print(json.dumps(setting | report, indent=1))
