"""How far what is found about emotions in the built-in models could go, and how stable it is.

    python -m benchmarks.emotion_discovery vignettes stability --model NAME

`vignettes` asks what could be read there at best, `stability` resamples scenarios. Each writes a
table into ``runs/emotion/MODEL`` and leaves alone what is there. Directions and components come
from ``emotion_scenarios_discovery`` (the discovery is made where there is none); `interp emotion
directions` and `interp emotion test` measure them on ``emotion_scenarios_test``.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import interp
from circuits.emotion import (
    EMOTIONS,
    Directions,
    EmotionDiscovery,
    EmotionRecipe,
    EmotionTexts,
    discover,
    overlap_table,
)
from circuits.emotion.components import PARTS, component_scores
from circuits.emotion.selection import Budget, top_units
from circuits.emotion.states import States, groups_of, states
from circuits.emotion.texts import NEUTRAL, load_vignettes
from circuits.emotion.transfer import vignette_states
from interp.model.model import Model
from interp.statistics import bootstrap_mean


def found_in(model: Model, folder: Path) -> EmotionDiscovery:
    texts, settings = EmotionTexts.load("discovery"), EmotionRecipe.of(model.name).settings
    at = folder / "discovery"
    return discover(model, texts.events, texts.frames, settings, texts.replies, at, progress=say)


def vignettes(model: Model, found: EmotionDiscovery) -> pd.DataFrame:
    """What the vignettes' states hold at best: read by directions, and by a fitted classifier."""
    rows = [v for v in load_vignettes("emotion_vignettes") if v.emotion != NEUTRAL]
    true = np.array([EMOTIONS.index(v.emotion) for v in rows])
    x = vignette_states(model, EmotionTexts.load("test").frames, rows)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    labels = {
        "directions": found.directions.read(x, x.mean(0))[:, found.layer].numpy(),
        "logistic regression": cross_val_predict(fitted, x[:, found.layer].numpy(), true, cv=10),
    }
    out = [
        (name, len(true), *map(float, bootstrap_mean((own == true).astype(float))))
        for name, own in labels.items()
    ]
    return pd.DataFrame(out, columns=["read by", "n", "accuracy", "low", "high"])


def stability(model: Model, found: EmotionDiscovery, n: int = 10) -> pd.DataFrame:
    """How much of each circuit would be chosen again from other texts.

    Scenarios are drawn with replacement; from each draw directions, scores and top components are
    found anew. The Jaccard index is the mean over all pairs of draws, beside the range of the
    middle 95 % of pairs.
    """
    texts = EmotionTexts.load("discovery")
    styles, bos = found.settings.styles, found.settings.double_bos
    at = states(model, groups_of(model, texts.events, texts.frames, styles, double_bos=bos))
    budget = Budget.of(model, found.settings.size)
    draws: dict[tuple[str, str, str], list[set[tuple[int, int]]]] = {}
    for sample in resamples(at, n):
        for kind, table in component_scores(model, sample, Directions.of(sample)).items():
            for row, emotion in enumerate(EMOTIONS):
                for part in PARTS:
                    top = set(top_units(table.of(part)[row], budget.bounds(part)[0]))
                    draws.setdefault((kind, emotion, part), []).append(top)
    rows = []
    for key, sets in draws.items():
        pairs = [len(a & b) / max(len(a | b), 1) for a, b in combinations(sets, 2)]
        rows.append((*key, np.mean(pairs), *np.quantile(pairs, [0.025, 0.975])))
    return pd.DataFrame(rows, columns=["kind", "emotion", "part", "jaccard", "low", "high"])


def resamples(found: States, n: int) -> Iterator[States]:
    """Bootstrap samples of the groups, scenario by scenario."""
    rng = np.random.default_rng(0)
    of: dict[str, list[int]] = {}
    for group, scenario in enumerate(found.scenarios):
        of.setdefault(scenario, []).append(group)
    members = list(of.values())
    for _ in range(n):
        drawn = rng.integers(len(members), size=len(members))
        yield found.only([group for i in drawn for group in members[i]])


def say(stage: str, done: int, total: int) -> None:
    print(f"{stage} {done}/{total}", flush=True)


TABLES: dict[str, Callable[[Model, EmotionDiscovery], pd.DataFrame]] = {
    "vignettes": vignettes,
    "stability": stability,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="+", choices=tuple(TABLES))
    parser.add_argument("--model", nargs="+", default=["smollm2-135m"])
    parser.add_argument("--runs", type=Path, default=Path("runs/emotion"))
    given = parser.parse_args()
    for name in given.model:
        model = interp.load_model(name, device="cpu", dtype=EmotionRecipe.of(name).dtype)
        folder = given.runs / name
        folder.mkdir(parents=True, exist_ok=True)
        found = found_in(model, folder)
        for preset, circuits in found.circuits.items():
            overlap = overlap_table(circuits)[["neurons", "heads"]].agg(["mean", "std"])
            print(preset, overlap.round(3).to_dict())
        for key in given.tables:
            file, began = folder / f"{key}.parquet", time.monotonic()
            if not file.is_file():
                TABLES[key](model, found).to_parquet(file, index=False)
            table = pd.read_parquet(file)
            print(f"\n{key}, {time.monotonic() - began:.0f} s\n{table.round(3).to_string()}")


if __name__ == "__main__":
    main()
