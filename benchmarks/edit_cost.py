"""What an edit costs before anything is written: target search and second moments.

    python benchmarks/edit_cost.py search  --model smollm2-135m --n 64
    python benchmarks/edit_cost.py moments --model gemma-3-270m

`search` has ROME's targets of n facts of datasets/multihop_chains.json (design half) searched in
one batch and one at a time: clozes bare and behind five contexts, the subject's last token, one
layer. `moments` computes what every preset needs, from the model's own samples, into a cache
folder of its own. Seconds are of the process, all threads together: what else runs on the machine
does not count.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import interp
from circuits.editing import Fact, preset
from circuits.editing.evaluation import load_cases
from circuits.editing.files import placement_for
from circuits.editing.methods import METHODS, Stage
from circuits.editing.moments import N_TOKENS, own_samples, second_moments
from circuits.editing.prompting import contexts, edit_prompts, essence_prompt
from circuits.editing.search import FactPrompts, Targets, search_targets
from circuits.editing.writing import places_of

CHAINS = "datasets/multihop_chains.json"


def facts(n: int) -> list[Fact]:
    """The first n different facts of the design half, in its order."""
    cases = load_cases(CHAINS).where(lambda case: case.split == "design")
    every = {(fact.prompt, fact.subject): fact for case in cases for fact in case.facts}
    return list(every.values())[:n]


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Search in one batch and one at a time, and compare."""
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

    def found(some: Sequence[FactPrompts]) -> Targets:
        owner = torch.zeros(len(some), dtype=torch.long)
        place = ("mlp_post", stage.layers[-1])
        return search_targets(model, some, [place], stage.search, [()], owner)

    found(given[:1])  # warm-up
    started = time.process_time()
    together = found(given)
    batched = time.process_time() - started
    alone = [found([one]) for one in given]
    singly = time.process_time() - started - batched
    delta = torch.cat([one.delta for one in alone])
    apart = (together.delta - delta).flatten(1).norm(dim=1) / delta.flatten(1).norm(dim=1)
    p = torch.cat([one.p for one in alone])
    steps = torch.cat([one.steps for one in alone])
    return {
        "n_facts": len(given),
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


def moments(args: argparse.Namespace) -> dict[str, Any]:
    """Time the samples alone, and then all, samples again included."""
    model = interp.load_model(args.model)
    placement = placement_for(model, None, "ace")
    named = [name for name in METHODS if name != "ft"]
    every = [place for name in named for place in places_of(preset(name, model, placement))]
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
    parser.add_argument("what", choices=("search", "moments"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=64, help="facts")
    parser.add_argument("--n-tokens", type=int, default=N_TOKENS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {"search": search, "moments": moments}[args.what](args)
    print(json.dumps({"model": args.model, "threads": args.threads} | report, indent=1))
