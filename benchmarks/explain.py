"""Whether attribution graphs of single prompts are true: faithfulness, and predicted effects.

    python benchmarks/explain.py run --model smollm2-135m --task capitals --out runs/explain
    python benchmarks/explain.py summary --out runs/explain

``run`` explains and checks `--pairs` prompt pairs that the model answers (target likelier on the
clean prompt, its rival on the corrupt one), one line of a file per pair; a stopped run goes on.
``summary`` writes ``summary.json``: faithfulness f as a ratio of means over prompts with 95 %
bootstrap intervals, at each size, of graphs, of as many nodes by activation x gradient, and of
random nodes of the same layers and positions; and rank correlation and slope of predicted and
actual effects. ``--alone`` explains the clean prompt alone (RelP), its answer the target; nodes are
then replaced by their means over the other prompts of the task.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import interp
from circuits.explanation import check, explain
from circuits.explanation.truth import SIZES
from interp.data.pairs import tokenise
from interp.errors import DegenerateGap
from interp.statistics import bootstrap_ratio

WORDS = (
    "apple river stone chair cloud tiger paper music garden window bottle mountain castle finger "
    "summer doctor engine forest hammer island jacket kitchen lemon market needle ocean pencil "
    "queen rabbit silver table uncle village winter yellow bridge candle dragon"
)


def copying(n: int = 200) -> list[dict[str, Any]]:
    """Lists that begin again: what followed the last word the first time."""
    rng, rows = random.Random(0), []
    for i in range(n):
        *words, right, wrong = rng.sample(WORDS.split(), 6)
        clean, corrupt = (f"{' '.join([*words, w])}, {' '.join(words)}" for w in (right, wrong))
        row = {"clean": clean, "corrupt": corrupt, "answer": right, "wrong_answer": wrong}
        rows.append({"id": f"copy-{i}", **row})
    return rows


def two_hop() -> list[dict[str, Any]]:
    """Capitals of the countries of landmarks."""
    facts = {row["name"]: row["path"] for row in interp.datasets().to_dict("records")}
    countries = Path(facts["recall_facts"]).read_text("utf-8").splitlines()
    of = {row["country"]: row["capital"] for row in map(json.loads, countries)}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for line in Path(facts["landmark_countries"]).read_text("utf-8").splitlines():
        row = json.loads(line)
        capitals = of.get(row["answer"]), of.get(row["wrong_answer"])
        if None in capitals or capitals[0] == capitals[1]:
            continue
        own, other = row["spans"]["subject"]
        text = "The capital of the country where {} is located is the city of"
        answers = {"answer": capitals[0], "wrong_answer": capitals[1]}
        made = {"clean": text.format(own), "corrupt": text.format(other), **answers}
        rows.setdefault((own, other), {"id": row["id"], **made})
    return list(rows.values())


FEW = 8
"""Least number of nodes whose effects are correlated."""
UNSHOWN = ("nothing", "faithfulness", "conservation error")
TASKS = {
    "capitals": lambda: "country_capitals",
    "ioi": lambda: "ioi",
    "two-hop": lambda: interp.PromptPairs.from_records(two_hop(), "two-hop"),
    "copying": lambda: interp.PromptPairs.from_records(copying(), "copying"),
}


def run(args: argparse.Namespace) -> None:
    model = interp.load_model(args.model, device="cpu", dtype="float32")
    pairs, _ = tokenise(model, interp.load_pairs(TASKS[args.task]()))
    random.Random(0).shuffle(pairs)
    sizes = f"{args.pairs}-pairs.{args.nodes}-nodes.{args.random}-random"
    file = args.out / f"{args.model}.{args.task}.{sizes}{'.alone' * args.alone}.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    done = {row["id"]: row for row in map(json.loads, lines)}
    used = sum("checks" in row for row in done.values())
    for i, pair in enumerate(pairs):
        if used >= args.pairs:
            break
        if pair.pair.id in done:
            continue
        row: dict[str, Any] = {"id": pair.pair.id}
        try:
            graph = explain(model, pair, nodes=args.nodes)
        except DegenerateGap:
            graph = None
        if graph is not None and graph.value > 0 > graph.corrupt_value:
            means = None
            if args.alone:
                graph = explain(model, pair.pair.clean, pair.pair.answer, nodes=args.nodes)
                means = [other.pair.clean for other in [*pairs[:i], *pairs[i + 1 :]][:32]]
            started = time.perf_counter()
            found = check(model, graph, n_random=args.random, means_over=means)
            row |= {"checks": found.checks.to_dict("records"), "scores": found.scores}
            row |= {"value": found.value, "tokens": len(found.tokens)}
            row |= {"edges": len(found.edges), "explain s": graph.settings["seconds"]}
            row |= {"check s": round(time.perf_counter() - started, 2)}
            used += 1
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps({"id": row["id"], "used": used, **row.get("scores", {})}), flush=True)


def summary(args: argparse.Namespace) -> None:
    found: dict[str, Any] = {}
    for file in sorted(args.out.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        kept = [row for row in rows if "checks" in row]
        found[file.stem] = own = {"pairs": len(kept), "not answered": len(rows) - len(kept)}
        gap = np.array([row["value"] - row["scores"]["nothing"] for row in kept])
        for what in ("graph", "gradient", "random"):
            for n in SIZES:
                of = [[c["actual"] for c in row["checks"] if key(c) == (what, n)] for row in kept]
                f = np.array([np.mean(actual or [np.nan]) for actual in of])
                there = ~np.isnan(f)
                if there.any():
                    ratio = bootstrap_ratio((f * gap)[there], gap[there])
                    own[f"faithfulness {what} {n}"] = [round(float(x), 3) for x in ratio]
        scores = {name: [row["scores"][name] for row in kept] for name in kept[0]["scores"]}
        for name, values in (scores | by_place(kept)).items():
            if name not in UNSHOWN:
                quartiles = np.nanquantile(np.array(values), [0.5, 0.25, 0.75])
                own[f"{name}, median and quartiles"] = [round(float(x), 3) for x in quartiles]
        seconds = np.array([[row["explain s"], row["check s"]] for row in kept])
        own["seconds, explain and check"] = np.median(seconds, axis=0).round(2).tolist()
    (args.out / "summary.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found, indent=1))


def by_place(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Rank correlations at the last token and before, and of the two kinds of effects."""
    found: dict[str, list[float]] = {}
    for row in rows:
        table = pd.DataFrame(row["checks"])
        cut, back = (table[table["check"] == name] for name in ("ablation", "denoising"))
        last = cut["what"].str.endswith(f"@{row['tokens'] - 1}")
        for name, some in (("last token", cut[last]), ("earlier tokens", cut[~last])):
            if len(some) >= FEW:
                rho = spearmanr(some["predicted"], some["actual"]).statistic
                found.setdefault(f"rank correlation, {name}", []).append(float(rho))
        if len(back):
            rho = spearmanr(cut["actual"], back["actual"]).statistic
            found.setdefault("ablation against denoising", []).append(float(rho))
    return found


def key(row: dict[str, Any]) -> tuple[str, int]:
    return (row["what"], row["n"]) if row["check"] == "faithfulness" else ("", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "summary"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", choices=list(TASKS), default="capitals")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--random", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()
    {"run": run, "summary": summary}[args.what](args)


if __name__ == "__main__":
    main()
