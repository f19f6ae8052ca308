"""How often implicit subjects are found: docs/results/implicit_subjects.md.

    python benchmarks/implicit_names.py --model gemma-3-270m --cases multihop_chains \
        --split design --asked 256
    python benchmarks/implicit_names.py --model gemma-3-270m \
        --cases ../shared/data/mquake/two_hop_counterfactual_600.json

Usable two-hop cases with one edit, names withheld; phrases that show anything of the tested chain
are excluded and counted. Edits with and without them: ``edit_methods.py compare --names``.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import interp
from circuits.editing.evaluation.cases import Case, Cases
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.formats import load_cases
from circuits.editing.evaluation.implicit_names import with_names
from circuits.editing.evaluation.prior_knowledge import Knowledge, prior_knowledge, usable_cases
from interp.statistics.bootstrap import bootstrap_mean


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model = interp.load_model(args.model)
    cases = load_cases(args.cases, args.split)
    mine = cases.where(lambda case: case.n_hops == 2 and case.n_edits == 1)[: args.asked]
    known = knowledge(model, mine, args.out / f"asked_{args.model}_{Path(args.cases).stem}.json")
    found, excluded = usable_cases(mine, known)
    found = [replace(case, cluster=case.bridges[0]) for case in found]
    print(
        f"{args.model}: {len(found)} of {len(mine)} usable, {cases.source}; {excluded}", flush=True
    )
    named, tried = with_names(model, found, "found")
    tried.to_parquet(args.out / f"implicit_{args.model}_{cases.source.replace('/', '_')}.parquet")
    for position in ("first", "last"):
        rows = [i for i, case in enumerate(found) if case.position == position]
        if rows:
            print(position, shares([found[i] for i in rows], [named[i] for i in rows]))
            print("  ", dict(Counter(tried.loc[tried["fact"].isin(rows), "outcome"])), flush=True)


def knowledge(model: interp.Model, cases: Cases[Case], file: Path) -> Knowledge:
    """What the model knows; its answers are kept."""
    said = json.loads(file.read_text()) if file.exists() else {}
    found = prior_knowledge(model, cases, SHOTS, answers=said)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found.answers))
    return found


def shares(before: list[Case], after: list[Case]) -> str:
    """Share of cases with at least one, two and four names, intervals over bridges."""
    n = np.array([len(case.facts[0].implicit) for case in after], dtype=float)
    given = np.array([len(case.facts[0].implicit) for case in before])
    bridges = [case.cluster for case in before]
    parts = [f"n {len(n)}, {len(set(bridges))} bridges, mean {n.mean():.1f} names"]
    for least in (1, 2, 4):
        share = bootstrap_mean((n >= least).astype(float), clusters=bridges)
        parts.append(f"{least}+: {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]")
    return "; ".join([*parts, f"given names: {(given > 0).mean():.2f}"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--split")
    parser.add_argument("--asked", type=int, help="use the first N cases of the file")
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    main(parser.parse_args())
