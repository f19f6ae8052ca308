"""Target search of many facts in one batch beside one at a time: seconds, and the difference.

    python benchmarks/edit_search.py --model smollm2-135m --n 64

The facts are those of datasets/multihop_chains.json's design half, with ROME's search: clozes bare
and behind five contexts, the subject's last token, one layer.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch

import interp
from circuits.editing import Fact, preset
from circuits.editing.evaluation import load_cases
from circuits.editing.methods import Stage
from circuits.editing.prompting import contexts, edit_prompts, essence_prompt
from circuits.editing.search import FactPrompts, Targets, search_targets

CHAINS = "datasets/multihop_chains.json"


def facts(n: int) -> list[Fact]:
    """The first n different facts of the design half, in its order."""
    cases = load_cases(CHAINS).where(lambda case: case.split == "design")
    every = {(fact.prompt, fact.subject): fact for case in cases for fact in case.facts}
    return list(every.values())[:n]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Search both ways, and compare."""
    torch.set_num_threads(args.threads)
    model = interp.load_model(args.model)
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

    def search(some: Sequence[FactPrompts]) -> Targets:
        owner = torch.zeros(len(some), dtype=torch.long)
        place = ("mlp_post", stage.layers[-1])
        return search_targets(model, some, [place], stage.search, [()], owner)

    search(given[:1])  # warm-up
    started = time.perf_counter()
    together = search(given)
    batched = time.perf_counter() - started
    alone = [search([one]) for one in given]
    singly = time.perf_counter() - started - batched
    delta = torch.cat([one.delta for one in alone])
    apart = (together.delta - delta).flatten(1).norm(dim=1) / delta.flatten(1).norm(dim=1)
    p = torch.cat([one.p for one in alone])
    steps = torch.cat([one.steps for one in alone])
    return {
        "model": model.name,
        "n_facts": len(given),
        "threads": args.threads,
        "layer": stage.layers[-1],
        "seconds_batched": batched,
        "seconds_singly": singly,
        "times_faster": singly / batched,
        "largest_relative_difference": float(apart.max()),
        "largest_difference_of_p": float((together.p - p).abs().max()),
        "facts_with_other_steps": int((together.steps != steps).sum()),
        "mean_steps": float(steps.float().mean()),
        "least_p": float(together.p.min()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, default=64, help="facts")
    parser.add_argument("--threads", type=int, default=2)
    print(json.dumps(main(parser.parse_args()), indent=1))
