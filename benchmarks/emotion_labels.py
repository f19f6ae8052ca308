"""Have replies labelled blind: draw bare lines for an annotator, and take the labels back in.

    python -m benchmarks.emotion_labels draw MODEL --part tuning --n 640
    python -m benchmarks.emotion_labels draw MODEL --part test --conditions steering,circuit
    python -m benchmarks.emotion_labels join MODEL --part test
    python -m benchmarks.emotion_labels judge MODEL

`draw` writes runs/emotion/blind/PART_MODEL/NN.tsv, lines of a number and a reply, shuffled, without
condition, target or event. One line in ten comes back in the next file, to measure how far the
annotator agrees with itself. The annotator writes NN.labels beside it, lines of number and label; a
second one NN.second, for the agreement alone.
`join` checks them, prints the agreement, and puts them into datasets/emotion_blind_labels.jsonl.
`judge` takes the annotator for a judge of the conditions of `test` and `retest`, each and both,
beside those that `benchmarks.emotion_control` has asked.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from benchmarks.emotion_control import MODELS, RUNS
from benchmarks.emotion_control import folder as judged
from benchmarks.emotion_judges import BLIND
from circuits.emotion import LABELS, EmotionComparison
from circuits.emotion.emotion_metrics import presentable
from circuits.emotion.texts import NEUTRAL
from interp.data.records import read_jsonl

TESTS = ("test", "retest")
AT_ONCE = 320
"""Lines of a file."""
AGAIN = 10
"""One line in so many is shown twice."""


def folder(part: str, model: str) -> Path:
    return RUNS / "blind" / f"{part}_{model}"


def drawn(
    model: str, part: str, conditions: list[str] | None, n: int | None, seed: int
) -> pd.DataFrame:
    """Different replies that were written; of every condition as many as `n` allows."""
    files = sorted((RUNS / model / f"{part}.partial").glob("*/replies.parquet"))
    table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    table = table[table["reply"].str.strip() != ""]
    if conditions:
        table = table[table["condition"].isin(conditions)]
    table = table.sample(frac=1, random_state=seed)
    table = table.drop_duplicates("reply")
    if n is not None:
        table = table.groupby("condition").head(-(-n // table["condition"].nunique())).head(n)
    return table[["condition", "situation", "emotion", "reply"]].reset_index(drop=True)


def draw(model: str, part: str, conditions: list[str] | None, n: int | None, seed: int) -> None:
    table, out = drawn(model, part, conditions, n, seed), folder(part, model)
    out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(out / "drawn.parquet")
    pieces = np.array_split(np.arange(len(table)), -(-len(table) // AT_ONCE))
    for i, piece in enumerate(pieces):
        again = pieces[i - 1][::AGAIN] if len(pieces) > 1 else piece[:0]
        rows = np.random.default_rng(seed + i).permutation(np.concatenate([piece, again]))
        lines = [f"{row}\t{' '.join(table['reply'][row].split())}" for row in rows]
        (out / f"{i:02d}.tsv").write_text("\n".join(lines) + "\n")
    print(f"{model}, {part}: {len(table)} replies in {len(pieces)} files of {out}")


def labels_of(file: Path, suffix: str = ".labels") -> dict[int, str]:
    """Number -> label, for just the lines that were shown."""
    shown = [int(line.split("\t")[0]) for line in file.read_text().splitlines()]
    file = file.with_suffix(suffix)
    said = [line.split("\t") for line in file.read_text().splitlines()]
    found = {int(number): label.strip() for number, label in said}
    if set(found) != set(shown) or not set(found.values()) <= set(LABELS):
        wrong = sorted(set(found) ^ set(shown)), sorted(set(found.values()) - set(LABELS))
        raise SystemExit(f"{file}: numbers {wrong[0]}, labels {wrong[1]}")
    return found


def join(model: str, part: str) -> None:
    table = pd.read_parquet(folder(part, model) / "drawn.parquet")
    found: dict[int, str] = {}
    twice: list[tuple[str, str]] = []
    for file in sorted(folder(part, model).glob("*.tsv")):
        second = [".second"] if file.with_suffix(".second").is_file() else []
        for said in [labels_of(file, suffix) for suffix in (".labels", *second)]:
            twice += [(found[k], label) for k, label in said.items() if k in found]
            found = said | found
    print(f"labelled {len(found)}; {len(twice)} of them twice")
    if twice:
        same = np.mean([a == b for a, b in twice])
        print(f"the same in {same:.3f}, kappa {cohen_kappa_score(*zip(*twice, strict=True)):.3f}")
    table["label"] = [found[i] for i in range(len(table))]
    table.to_parquet(folder(part, model) / "labelled.parquet")
    table = table[[presentable(reply) == reply for reply in table["reply"]]]
    table = table.rename(columns={"condition": "arm"})
    print(f"coarse, left out: {len(found) - len(table)}; {dict(table['label'].value_counts())}")
    kept = [row for _, row in read_jsonl(BLIND) if not row["id"].startswith(f"{part}_{model}_")]
    rows = [
        {"id": f"{part}_{model}_{i}", "part": part, "model": model, **row}
        for i, row in zip(table.index, table.to_dict("records"), strict=True)
    ]
    BLIND.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*kept, *rows)))


def judge(model: str) -> None:
    """The conditions whose replies were labelled, by the annotator and by each judge, by part."""
    parts = [p for p in TESTS if (folder(p, model) / "labelled.parquet").is_file()]
    runs = {part: annotated(model, part) for part in parts}
    first = runs[parts[0]]
    pooled = pd.concat([run.replies for run in runs.values()], ignore_index=True)
    for part, run in {**runs, " and ".join(parts): replace(first, replies=pooled)}.items():
        for name in run.judges:
            found = run.by(name)
            columns = ["condition", "n", "accuracy", "quality", "joint", "joint_low", "joint_high"]
            table = found.table()[columns].round(3).to_string(index=False)
            print(f"\n{model}, {part}, judge {name}\n{table}")
            for mark in ("joint", "expressed"):
                difference = [round(float(x), 3) for x in found.paired("circuit", "steering", mark)]
                print(f"circuit - steering, {mark}: {difference}")
            print(found.by_emotion("expressed").round(2).to_string(index=False))


def annotated(model: str, part: str) -> EmotionComparison:
    """The conditions of a part whose replies were labelled; the annotator is the first judge."""
    run = EmotionComparison.load(judged(model, part))
    labelled = pd.read_parquet(folder(part, model) / "labelled.parquet")
    label = dict(zip(labelled["reply"], labelled["label"], strict=True))
    said = [
        label.get(reply, NEUTRAL if not reply.strip() else "") for reply in run.replies["reply"]
    ]
    table = run.replies.assign(label_annotator=said)
    unread = set(table.loc[table["label_annotator"] == "", "condition"])
    table = table[~table["condition"].isin(unread)]
    return replace(run, replies=table, judges=("annotator", *run.judges))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("draw", "join", "judge"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--part", choices=("tuning", *TESTS), default="tuning")
    parser.add_argument("--conditions", help="with commas; default: all")
    parser.add_argument("--n", type=int, help="replies; default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "draw":
        chosen = given.conditions and given.conditions.split(",")
        draw(given.model, given.part, chosen, given.n, given.seed)
    elif given.what == "join":
        join(given.model, given.part)
    else:
        judge(given.model)


if __name__ == "__main__":
    main()
