"""How often implicit subjects are found, and edits with them: docs/results/implicit_subjects.md.

    python benchmarks/implicit_names.py --model gemma-3-270m --cases multihop_chains \
        --split design --asked 256 --edit 20
    python benchmarks/implicit_names.py --model gemma-3-270m \
        --cases ../shared/data/mquake/two_hop_counterfactual_600.json

Usable two-hop cases with one edit, names withheld; phrases that show anything of the tested chain
are excluded and counted. With ``--edit`` so many last-hop cases for which the cases have names, and
half as many first-hop cases, are edited by `ace`: without names, with found, with given ones.
"""

import argparse
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import interp
from circuits.editing.editor import moments_for
from circuits.editing.evaluation.cases import Case, Cases
from circuits.editing.evaluation.conditions import EditCondition, Protocol, evaluate_condition
from circuits.editing.evaluation.control_questions import QuestionPool
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.formats import load_cases
from circuits.editing.evaluation.implicit_names import with_names
from circuits.editing.evaluation.intervals import compare, summary
from circuits.editing.evaluation.multihop_metrics import score
from circuits.editing.evaluation.prior_knowledge import Knowledge, prior_knowledge, usable_cases
from circuits.editing.fact_prompts import contexts
from circuits.editing.layer_selection import selection_for
from circuits.editing.presets import preset
from interp.statistics.bootstrap import bootstrap_mean

SHOWN = ("multi_hop", "control_two_hop", "net_multi_hop", "specificity", "neighbour", "efficacy")
PER_BRIDGE = 2
"""Edited cases of a bridge and position, at most."""


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
    if args.edit:
        edited(model, found, named, QuestionPool.of(mine, known.right), args.edit)


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


def chosen(given: list[Case], found: list[Case], position: str, n: int) -> list[int]:
    """Numbers of the first cases of a position that could gain or lose, few of each bridge.

    Last hops for which the cases have names, found or not; first hops for which some were found.
    """
    taken: Counter[str] = Counter()
    out: list[int] = []
    for i, case in enumerate(given):
        named = (given if position == "last" else found)[i].facts[0].implicit
        if (
            case.position == position
            and named
            and taken[case.cluster] < PER_BRIDGE
            and len(out) < n
        ):
            taken[case.cluster] += 1
            out.append(i)
    return out


def edited(
    model: interp.Model, given: list[Case], found: list[Case], pool: QuestionPool, n: int
) -> None:
    """`ace` on the same cases without names, with found and with given ones."""
    layers = selection_for(model, None, "ace")
    method = preset("ace", model, layers)
    moments, templates = moments_for(model, [method], layers), contexts(model)[:3]
    none = [replace(c, facts=tuple(replace(f, implicit=()) for f in c.facts)) for c in given]
    arms = {"none": none, "found": found, "given": given}
    scores: dict[str, pd.DataFrame] = {}
    for position, name in itertools.product(("last", "first"), arms):
        rows = chosen(given, found, position, n if position == "last" else n // 2)
        if not rows or (position, name) == ("first", "given"):  # which have none
            continue
        cases = [arms[name][i] for i in rows]
        answers, edits = evaluate_condition(
            model, EditCondition(name, method), cases, Protocol(SHOTS, pool), moments, templates
        )
        scores[name] = score(answers)
        table = summary(scores[name]).set_index("metric").reindex(list(SHOWN))
        named = sum(bool(case.facts[0].implicit) for case in cases)
        seconds = edits["seconds"].mean()
        print(f"{position}, {name}: n {len(rows)}, {named} with names, {seconds:.1f} s per edit")
        print(table[["value", "low", "high"]].round(2).T.to_string(), flush=True)
        if name != "none":
            both = pd.concat([scores["none"], scores[name]])
            differences = compare(both, name, "none").set_index("metric").reindex(list(SHOWN))
            print(differences.round(3).to_string(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--split")
    parser.add_argument("--asked", type=int, help="use the first N cases of the file")
    parser.add_argument(
        "--edit", type=int, default=0, help="edit N last-hop and N/2 first-hop cases"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    main(parser.parse_args())
