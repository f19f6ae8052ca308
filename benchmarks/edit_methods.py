"""Edit real two-hop cases by every method and ask two hops later: the tables of docs/editing.md.

    python benchmarks/edit_methods.py know  --model gemma-3-270m
    python benchmarks/edit_methods.py layers --model gemma-3-270m --split design --n 24
    python benchmarks/edit_methods.py arms  --model gemma-3-270m --split test --n 60 --arms ace,rome

Every step keeps what it has done under --out and goes on from there.
"""

import argparse
import json
import random
from pathlib import Path

import pandas as pd
import torch

import interp
from circuits.editing import Placement, preset, second_moments
from circuits.editing.evaluating import Arm, Protocol, evaluate_arm
from circuits.editing.evaluation import SHOTS, Case, Pool, load_cases, score, summary
from circuits.editing.knowing import Knowledge, know
from circuits.editing.methods import Method, Stage
from circuits.editing.prompting import contexts
from circuits.editing.writing import places_of

CHAINS = "datasets/multihop_chains.json"
CONTEXTS = 2  # of the five; the bare cloze comes first


def knowledge(model: interp.Model, cases: list[Case], out: Path) -> Knowledge:
    """Asked once, then read."""
    file = out / f"know_{model.name}.json"
    said = json.loads(file.read_text()) if file.exists() else {}
    n = len(said)
    found = know(
        model, cases, SHOTS, lambda done, n: print(f"asked {done} of {n}", flush=True), said
    )
    if len(found.asked) > n:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found.asked))
    return found


def chosen(
    cases: list[Case], n: int, position: str, seed: int = 0, per_bridge: int = 3
) -> list[Case]:
    """Up to n two-hop cases of a position, few of one bridge, in a seeded order."""
    rows = [c for c in cases if c.n_hops == 2 and c.n_edits == 1 and c.position == position]
    random.Random(f"{seed} {position}").shuffle(rows)
    taken: dict[str, int] = {}
    out: list[Case] = []
    for case in rows:
        if position == "last" and not case.facts[0].implicit:
            continue
        if taken.get(case.bridges[0], 0) < per_bridge and len(out) < n:
            taken[case.bridges[0]] = taken.get(case.bridges[0], 0) + 1
            out.append(case)
    return out


def load(args: argparse.Namespace) -> tuple[interp.Model, list[Case], Pool]:
    torch.set_num_threads(args.threads)
    model = interp.load_model(args.model)
    everything = list(load_cases(CHAINS).clustered(lambda case: case.bridges[0]))
    known = knowledge(model, everything, args.out)
    mine = [c for c in everything if c.split == args.split]
    usable = [c for c in mine if not known.usable(c)]
    print(f"{args.split}: {len(mine)} cases, {len(usable)} usable", flush=True)
    return model, usable, Pool.of(mine, known.right)


def run(args, model, pool, arm: Arm, cases: list[Case], tag: str, seed: int = 0) -> pd.DataFrame:
    places = places_of(arm.method) if arm.method else []
    moments = second_moments(model, places) if places else {}
    templates = contexts(model, seed=seed)[: 1 + CONTEXTS]
    protocol = Protocol(SHOTS, pool, seed=seed)
    folder = args.out / f"{args.model}.{args.split}.{tag}" / f"{arm.name}.{seed}"
    answers, edits = evaluate_arm(model, arm, cases, protocol, moments, templates, folder)
    scores = score(answers)
    wanted = [
        "efficacy",
        "paraphrase",
        "multi_hop",
        "control_two_hop",
        "net_multi_hop",
        "specificity",
        "multi_hop_excess",
    ]
    table = summary(scores).set_index("metric").reindex(wanted)
    p = [x for line in edits["p"] for stage in json.loads(line) for x in stage if x == x]
    print(
        f"{tag} {arm.name} n={len(cases)} seed={seed} "
        + " ".join(f"{m}={table.loc[m, 'value']:.3f}" for m in wanted)
        + f" s/edit={edits['seconds'].mean():.2f} p_min={min(p, default=1):.2f} p<.5={sum(x < 0.5 for x in p)}/{len(p)}",
        flush=True,
    )
    by = (
        score(answers)
        .groupby("position")[["multi_hop", "control_two_hop", "specificity", "net_multi_hop"]]
        .mean()
        .round(3)
    )
    print("   ", by.to_dict("index"), flush=True)
    return scores


def layers(args) -> None:
    """Edit each single layer: what attribution should predict."""
    model, usable, pool = load(args)
    position, forms, anchor = (
        ("last", ("two_hop",), "last")
        if args.stage == "value"
        else ("first", ("cloze",), "subject_last")
    )
    cases = chosen(usable, args.n, position)
    every = (
        range(*(int(x) for x in args.layers.split(":")))
        if args.layers
        else range(model.arch.n_layers)
    )
    for layer in every:
        stage = Stage((layer,), forms=forms, anchor=anchor, rho=args.rho, kept_weight=args.kept)
        run(
            args,
            model,
            pool,
            Arm(f"{args.stage}{layer}", Method("x", (stage,))),
            cases,
            f"layers-{args.stage}-{args.rho}-{args.kept}",
        )


def arms(args) -> None:
    """Edit by methods."""
    model, usable, pool = load(args)
    cases = chosen(usable, args.n, "first") + chosen(usable, args.n, "last")
    placement = (
        Placement(tuple(map(int, args.query.split(","))), tuple(map(int, args.value.split(","))))
        if args.query
        else None
    )
    for seed in map(int, args.seeds.split(",")):
        for name in args.arms.split(","):
            arm = (
                Arm(name, told=name == "told")
                if name in ("none", "told")
                else Arm(name, preset(name, model, placement))
            )
            run(args, model, pool, arm, cases, args.tag, seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("step")
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", default="design")
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--stage", default="value")
    parser.add_argument("--layers", default="")
    parser.add_argument("--rho", type=float, default=0.4)
    parser.add_argument("--kept", type=float, default=1.0)
    parser.add_argument("--query", default="")
    parser.add_argument("--value", default="")
    parser.add_argument("--arms", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tag", default="arms")
    args = parser.parse_args()
    {"know": load, "layers": layers, "arms": arms}[args.step](args)
