"""How often implicit subjects are found: the figures of docs/results/editing.md.

    python benchmarks/implicit_names.py --model gemma-3-270m --cases datasets/multihop_chains.json \
        --split design --limit 120
    python benchmarks/implicit_names.py --model gemma-3-270m \
        --cases ../shared/data/mquake/two_hop_counterfactual_600.json

Usable two-hop cases with one edit, names withheld; phrases that show anything of the tested chain
are excluded and counted. ``--limit`` takes the first usable cases of the file.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import interp
from circuits.editing.evaluation.cases import Case, Cases
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.formats import load_cases
from circuits.editing.evaluation.implicit_names import with_names
from circuits.editing.evaluation.prior_knowledge import knowledge_of_enough, usable_cases
from interp.statistics.bootstrap import bootstrap_mean


def usable(
    model: interp.Model, cases: Cases[Case], limit: int | None, out: Path
) -> tuple[list[Case], dict[str, int]]:
    """The first usable two-hop cases with one edit; the model's answers are kept in a file."""
    mine = cases.where(lambda case: case.n_hops == 2 and case.n_edits == 1)
    known, asked = knowledge_of_enough(
        model,
        mine,
        SHOTS,
        lambda found: limit is not None and len(found) >= limit,
        lambda done, n: print(f"{done} of {n} cases asked", flush=True),
    )
    found, excluded = usable_cases(mine[:asked], known)
    return found[:limit], excluded


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model = interp.load_model(args.model, dtype=args.dtype)
    cases = load_cases(args.cases, args.split)
    found, excluded = usable(model, cases, args.limit, args.out)
    print(f"{len(found)} usable cases of {cases.source}; {excluded}")
    named, tried = with_names(model, found, "found")
    tried.to_parquet(args.out / f"{args.model}.{Path(args.cases).stem}.parquet")
    for position in ("first", "last"):
        rows = [i for i, case in enumerate(found) if case.position == position]
        if rows:
            print(position, figures([found[i] for i in rows], [named[i] for i in rows]))
            print(Counter(tried.loc[tried["fact"].isin(rows), "outcome"]))


def figures(before: list[Case], after: list[Case]) -> str:
    """Share of cases with at least one and two names, and what was written for them."""
    n = np.array([len(case.facts[0].implicit) for case in after], dtype=float)
    written = np.array([len(case.facts[0].implicit) for case in before])
    bridges = [case.bridges[0] for case in before]
    parts = [f"n {len(n)}, {len(set(bridges))} bridges, mean {n.mean():.1f} names"]
    for least in (1, 2, 4):
        share = bootstrap_mean((n >= least).astype(float), clusters=bridges)
        parts.append(f"{least}+: {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]")
    parts.append(f"written names: {(written > 0).mean():.2f}")
    return "; ".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--split")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    main(parser.parse_args())
