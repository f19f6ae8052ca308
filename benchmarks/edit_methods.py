"""Edit real two-hop cases and ask two hops later: the figures of docs/editing.md.

    python benchmarks/edit_methods.py know   --model gemma-3-270m
    python benchmarks/edit_methods.py layers --model gemma-3-270m --n 16
    python benchmarks/edit_methods.py gains  --model gemma-3-270m --n 16
    python benchmarks/edit_methods.py arms   --model gemma-3-270m --n 12 --arms ace,rome+,none

`know` asks the unedited model; `layers` edits each single layer of the deep stage; `gains` scores
the same layers on other cases, without editing, and correlates; `arms` compares methods. Every
step keeps what it has done under --out and goes on from there.
"""

import argparse
import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

import interp
from circuits.editing import Placement, preset, second_moments
from circuits.editing.evaluating import Arm, Protocol, evaluate_arm
from circuits.editing.evaluation import SHOTS, Case, Cases, Pool, load_cases, score, summary
from circuits.editing.knowing import Knowledge, know
from circuits.editing.methods import VALUE, Method
from circuits.editing.placing import gains, reach_of
from circuits.editing.prompting import contexts
from circuits.editing.writing import places_of

CHAINS = "datasets/multihop_chains.json"
IMPLICIT = 4  # implicit phrases a fact, of up to six
CONTEXTS = 2  # of the five; the bare cloze comes first
PER_BRIDGE = 3
SHOWN = (
    "efficacy",
    "paraphrase",
    "multi_hop",
    "control_two_hop",
    "net_multi_hop",
    "specificity",
    "multi_hop_excess",
)


def knowledge(model: interp.Model, cases: Cases, out: Path) -> Knowledge:
    """Asked once for these demonstrations, then read."""
    mark = hashlib.blake2b(SHOTS.prefix.encode(), digest_size=4).hexdigest()
    file = out / f"know_{model.name}_{mark}.json"
    said = json.loads(file.read_text()) if file.exists() else {}
    found = know(model, cases, SHOTS, lambda done, n: print(f"asked {done} of {n}"), said)
    if len(found.asked) > len(said):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found.asked))
    return found


def chosen(cases: list[Case], n: int, position: str, skip: int = 0, seed: int = 0) -> list[Case]:
    """Two-hop cases of a position in a seeded order, few of one bridge, after the first `skip`."""
    rows = [c for c in cases if c.n_hops == 2 and c.n_edits == 1 and c.position == position]
    random.Random(f"{seed} {position}").shuffle(rows)
    taken: dict[str, int] = {}
    out: list[Case] = []
    for case in rows:
        bridge = case.bridges[0]
        if (position == "first" or case.facts[0].implicit) and taken.get(bridge, 0) < PER_BRIDGE:
            taken[bridge] = taken.get(bridge, 0) + 1
            facts = [replace(fact, implicit=fact.implicit[:IMPLICIT]) for fact in case.facts]
            out.append(replace(case, facts=tuple(facts)))
    return out[skip : skip + n]


def load(args: argparse.Namespace) -> tuple[interp.Model, list[Case], Pool]:
    """The model, the usable cases of the split, and the questions that controls come from."""
    torch.set_num_threads(args.threads)
    model = interp.load_model(args.model)
    everything = load_cases(CHAINS).clustered(lambda case: case.bridges[0])
    known = knowledge(model, everything, args.out)
    mine = [case for case in everything if case.split == args.split]
    usable = [case for case in mine if not known.usable(case)]
    print(f"{args.split}: {len(mine)} cases, {len(usable)} usable", flush=True)
    return model, usable, Pool.of(mine, known.right)


def run(
    args: argparse.Namespace,
    model: interp.Model,
    pool: Pool,
    arm: Arm,
    cases: list[Case],
    seed: int = 0,
) -> pd.DataFrame:
    """Evaluate one arm, print its line, return its scores."""
    places = places_of(arm.method) if arm.method else []
    moments = second_moments(model, places) if places else {}
    templates = contexts(model, seed=seed)[: 1 + CONTEXTS]
    folder = args.out / f"{args.model}.{args.split}.{args.tag}" / f"{arm.name}.{seed}"
    protocol = Protocol(SHOTS, pool, seed=seed)
    answers, edits = evaluate_arm(model, arm, cases, protocol, moments, templates, folder)
    scores = score(answers)
    for part in [[], ["position"]]:
        table = summary(scores, part)
        wide = table.pivot_table(index=part or ["arm"], columns="metric", values="value")
        print(wide.reindex(columns=list(SHOWN)).round(3).to_string(), flush=True)
    p = [x for line in edits["p"] for stage in json.loads(line) for x in stage if x == x]
    print(
        f"{arm.name}, seed {seed}, n = {len(cases)}: {edits['seconds'].mean():.1f} s an edit, "
        f"targets reached at least {min(p, default=1):.2f}\n",
        flush=True,
    )
    return scores.assign(p=float(np.mean(p)) if p else np.nan)


def value_layers(args: argparse.Namespace, model: interp.Model) -> range:
    """The layers of ``--layers FROM:TO``, by default the deeper two thirds."""
    lo, _, hi = args.layers.partition(":")
    return range(int(lo or model.arch.n_layers // 3), int(hi or model.arch.n_layers))


def layers(args: argparse.Namespace) -> list[pd.DataFrame]:
    """Edit each single layer: what attribution should predict."""
    model, usable, pool = load(args)
    cases = chosen(usable, args.n, "last")
    return [
        run(args, model, pool, Arm(f"value{i}", Method("", (replace(VALUE, layers=(i,)),))), cases)
        for i in value_layers(args, model)
    ]


def score_layers(args: argparse.Namespace) -> None:
    """Gains by layer on cases that `layers` does not edit, and their rank correlation with it."""
    model, usable, pool = load(args)
    cases = chosen(usable, 20, "last", skip=args.n)
    found = [reach_of(model, case, pool, SHOTS) for case in cases]
    reaches = [reach for reach in found if reach is not None]
    every = value_layers(args, model)
    moments = second_moments(model, [("mlp_post", layer) for layer in every])
    got = gains(model, reaches, VALUE, moments, every)
    edited = layers(args)
    net = np.stack([frame.sort_values("case")["net_multi_hop"].to_numpy() for frame in edited])
    for i, layer in enumerate(every):
        print(
            f"layer {layer}: selectivity {got.selectivity[:, i].mean():.3f}, separation "
            f"{got.separation[i]:.3f}, targets {edited[i]['p'].iloc[0]:.2f}, net multi-hop "
            f"{np.nanmean(net[i]):.3f}"
        )
    rng, draws = np.random.default_rng(0), []
    for _ in range(2000):
        a, b = (
            rng.integers(len(reaches), size=len(reaches)),
            rng.integers(net.shape[1], size=net.shape[1]),
        )
        draws.append(spearmanr(got.selectivity[a].mean(0), np.nanmean(net[:, b], 1))[0])
    rho = spearmanr(got.selectivity.mean(0), np.nanmean(net, 1))[0]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    print(f"rank correlation over {len(every)} layers: {rho:.2f} [{low:.2f}, {high:.2f}]")


def arms(args: argparse.Namespace) -> None:
    """Compare methods on as many first-hop as last-hop edits."""
    model, usable, pool = load(args)
    cases = [case for at in ("first", "last") for case in chosen(usable, args.n, at, args.skip)]
    query, value = (tuple(map(int, text.split(","))) for text in (args.query, args.value))
    placement = Placement(query, value, "given by hand")
    for seed in map(int, args.seeds.split(",")):
        for name in args.arms.split(","):
            plain = name in ("none", "told")
            method = None if plain else preset(name, model, placement)
            run(args, model, pool, Arm(name, method, name == "told"), cases, seed)


STEPS = {"know": load, "layers": layers, "gains": score_layers, "arms": arms}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", default="design", help="of the cases; keep test for the end")
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    parser.add_argument("--tag", default="run", help="name of this set of runs under --out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n", type=int, default=16, help="cases (of arms: of either position)")
    parser.add_argument("--skip", type=int, default=0, help="cases passed over first")
    parser.add_argument("--layers", default="", help="FROM:TO")
    parser.add_argument("--query", default="3,4,5,6", help="layers of ace's first stage")
    parser.add_argument("--value", default="15", help="layers of ace's second stage")
    parser.add_argument("--arms", default="none,told,rome,rome+,ace")
    parser.add_argument("--seeds", default="0")
    args = parser.parse_args()
    STEPS[args.step](args)
