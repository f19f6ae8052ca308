"""What is found about emotions in the built-in models, and whether it holds on unseen texts.

    python -m benchmarks.emotion_discovery discover transfer words neurons heads --model NAME
    python -m benchmarks.emotion_discovery presets vignettes stability influence report --model NAME

`neurons` and `heads` take top and random ones out, `presets` takes circuits out and puts them in;
`vignettes` asks what could be read there at best; `influence` compares four sizes of nudge with
one. Several names of models may follow --model.

Each writes into ``runs/emotion/MODEL`` and leaves alone what is there. Directions and components
come from ``emotion_scenarios_discovery``, everything measured from ``emotion_scenarios_test``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from circuits.emotion.activations import last_activations
from circuits.emotion.circuit import Part
from circuits.emotion.discovering import discover, neutral_prompts
from circuits.emotion.effects import necessity, sufficiency
from circuits.emotion.influence import PAPER_ALPHAS, influence, stream_scales
from circuits.emotion.situations import situations
from circuits.emotion.tokens import token_prompt
from circuits.emotion.trials import preset_trials, trials
from circuits.emotion.trying import transfer_tests
from circuits.emotion.wordless import vignette_states
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import interp
from circuits.emotion import (
    EMOTIONS,
    NEUTRAL,
    Frames,
    Prompt,
    load_frames,
    load_replies,
    load_scenarios,
    load_vignettes,
)
from circuits.emotion.discovery import Discovery
from circuits.emotion.figures import (
    plot_along,
    plot_circuits,
    plot_curves,
    plot_influence,
    plot_similarity,
    plot_transfer,
)
from circuits.emotion.selection import overlap_table, stability_table
from circuits.emotion.states import Group, groups_of, states
from circuits.emotion.transfer import joined, left_out, tables
from interp.data.prompts import TokenPrompt
from interp.model.model import Model
from interp.statistics import bootstrap_mean

DATA = Path("datasets")
N_TEXTS = 48  # of the ablations; --texts
NEURONS = (1, 4, 16, 64, 128, 256, 560, 1024, 2048)
HEADS = (1, 2, 4, 8, 16)
VERBS = ("discover", "transfer", "words", "neurons", "heads", "presets", "vignettes")


def found_in(model: Model, folder: Path) -> Discovery:
    """The discovery that is there; a new one where there is none."""
    if (folder / "discovery").is_dir():
        return Discovery.load(folder / "discovery").of(model)
    return discover(
        model,
        load_scenarios(DATA / "emotion_scenarios_discovery.jsonl"),
        load_frames(DATA / "emotion_frames.json"),
        replies=load_replies(DATA / "emotion_replies.jsonl"),
        out=folder / "discovery",
        progress=say,
    )


def transfer(model: Model, found: Discovery) -> pd.DataFrame:
    readings = transfer_tests(
        model,
        found,
        load_frames(DATA / "emotion_frames.json"),
        load_scenarios(DATA / "emotion_scenarios_test.jsonl"),
        load_vignettes(DATA / "emotion_vignettes.jsonl"),
        load_replies(DATA / "emotion_replies.jsonl"),
        progress=say,
    )
    return tables(readings)


def test_groups(model: Model, found: Discovery, n: int) -> tuple[list[Group], list[TokenPrompt]]:
    """One event of each of `n` test scenarios, in the discovery's styles and without."""
    frames = load_frames(DATA / "emotion_frames.json")
    scenarios = load_scenarios(DATA / "emotion_scenarios_test.jsonl")
    texts = situations(scenarios, n)
    named = {s.id: s for s in scenarios}
    groups = groups_of(model, [named[t.scenario_id] for t in texts], frames, found.settings.styles)
    own = {t.id for t in texts}
    groups = [group for group in groups if group.text in own]
    by_id = {t.id: t for t in texts}
    neutral = [
        frames.frames[group.style.partition(":")[0]].fill(
            by_id[group.text].scenario, by_id[group.text].event
        )
        for group in groups
    ]
    return groups, [token_prompt(model, one) for one in neutral]


def ablate(model: Model, found: Discovery, part: Part, n: int) -> pd.DataFrame:
    quarter = model.arch.n_layers * model.arch.n_heads // 4
    heads = tuple(k for k in HEADS if k < quarter)
    ks, random_ks = (NEURONS, (64, 560)) if part == "neurons" else ((*heads, quarter), (4, quarter))
    tried = trials(model, found, part, ks, random_ks)
    groups, _ = test_groups(model, found, n)
    return necessity(model, found, groups, tried, progress=step(part))


def presets(model: Model, found: Discovery, n: int) -> pd.DataFrame:
    """Necessity and sufficiency of the circuits, and of their neurons and heads alone."""
    groups, neutral = test_groups(model, found, n)
    tried = preset_trials(found)
    lost = necessity(model, found, groups, tried, progress=step("necessity"))
    brought = sufficiency(model, found, groups, neutral, tried, progress=step("sufficiency"))
    lost = lost.rename(columns={"remaining": "value"}).assign(test="remaining")
    return pd.concat([lost, brought.rename(columns={"brought": "value"}).assign(test="brought")])


def vignettes(model: Model, found: Discovery) -> pd.DataFrame:
    """What the vignettes' states hold at best: read by their own means, by a fitted classifier,
    and by the model's own choice among the 18 emotion words after "I felt"."""
    frames = load_frames(DATA / "emotion_frames.json")
    rows = [v for v in load_vignettes(DATA / "emotion_vignettes.jsonl") if v.emotion != NEUTRAL]
    true = np.array([EMOTIONS.index(v.emotion) for v in rows])
    x = vignette_states(model, frames, rows, step("vignettes"))
    at = x[:, found.layer]
    said = {"directions": found.directions.read(x, x.mean(0))[:, found.layer].numpy()}
    said["own means, one left out"] = np.array(
        [nearest_mean(at, true, left_out=i) for i in range(len(true))]
    )
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    said["logistic regression, ten folds"] = cross_val_predict(fitted, at.numpy(), true, cv=10)
    asked = [token_prompt(model, Prompt(f"{v.text} I felt")) for v in rows]
    last = last_activations(model, asked, progress=step("words")).resid_post[:, -1]
    with torch.no_grad():
        scores = word_scores(model, frames, model.logits(last).log_softmax(-1))
    said["own words"] = scores.argmax(-1).numpy()
    said["own words, less their mean"] = (scores - scores.mean(0)).argmax(-1).numpy()
    rows = []
    for name, labels in said.items():
        found_right = bootstrap_mean((labels == true).astype(float))
        rows.append((name, len(true), *map(float, found_right)))
    return pd.DataFrame(rows, columns=["reader", "n", "accuracy", "low", "high"])


def nearest_mean(x: torch.Tensor, true: np.ndarray, left_out: int) -> int:
    kept = np.arange(len(true)) != left_out
    means = torch.stack([x[kept & (true == e)].mean(0) for e in range(len(EMOTIONS))])
    origin = means.mean(0)
    near = torch.nn.functional.cosine_similarity(x[left_out] - origin, means - origin)
    return int(near.argmax())


def word_scores(model: Model, frames: Frames, logprob: torch.Tensor) -> torch.Tensor:
    """Log-probability of each emotion's words, by their first tokens: [prompt, emotion]."""

    def first(word: str) -> int:
        return model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]

    ids = [[first(words[e]) for words in frames.words.values()] for e in EMOTIONS]
    return torch.stack([logprob[:, one].logsumexp(-1) for one in ids], 1)


def words(model: Model, found: Discovery) -> pd.DataFrame:
    """Each set of words read by the other two, on discovery texts of other themes."""
    styles = [f"felt:{name}" for name in "ABC"]
    at = states(model, [g for g in discovery_groups(model, found) if g.style in styles])
    readings = []
    for target in styles:
        others = at.only([i for i, style in enumerate(at.styles) if style != target])
        readings.append(left_out(others, at.of_style(target), f"other words→{target}"))
    return tables([*readings, joined(readings, "held-out words")])


def discovery_groups(model: Model, found: Discovery) -> list[Group]:
    return groups_of(
        model,
        load_scenarios(DATA / "emotion_scenarios_discovery.jsonl"),
        load_frames(DATA / "emotion_frames.json"),
        found.settings.styles,
    )


def stability(model: Model, found: Discovery) -> pd.DataFrame:
    at = states(model, discovery_groups(model, found), progress=step("states"))
    return stability_table(model, at, found.settings.size.budget(model))


def sampled_influence(model: Model, found: Discovery) -> pd.DataFrame:
    """Influence by four sizes of nudge against one, on the same texts: is it linear?"""
    scenarios = load_scenarios(DATA / "emotion_scenarios_discovery.jsonl")
    frames = load_frames(DATA / "emotion_frames.json")
    prompts = neutral_prompts(model, scenarios, frames, replace(found.settings, n_neutral=8))
    groups = groups_of(model, scenarios[::20], frames, found.settings.styles)
    scales = stream_scales(states(model, groups))
    rows = []
    for alphas in (PAPER_ALPHAS, found.settings.alphas):
        began = time.monotonic()
        got = influence(model, prompts, found.directions, scales, alphas=alphas)
        values = got.values.mean(0).flatten(1)
        rows.append((str(alphas), time.monotonic() - began, values))
    first, second = rows[0][2], rows[1][2]
    r = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(first, second, strict=True)]
    )
    error = ((first - second).abs().max() / first.abs().max()).item()
    return pd.DataFrame(
        {
            "emotion": EMOTIONS,
            "correlation": r.numpy(),
            "largest difference": error,
            "seconds, four sizes": rows[0][1],
            "seconds, one size": rows[1][1],
        }
    )


def report(model: Model, found: Discovery, folder: Path) -> None:
    out = folder / "figures"
    out.mkdir(exist_ok=True)
    name, layer = model.name, found.layer
    table = pd.read_parquet(folder / "transfer.parquet")
    tests = ["synonyms", "felt:B→diary:C", "demonstrations", "replies", "vignettes"]
    chosen = table[table["test"].isin(tests)]
    trap = found.readings[found.readings["test"].str.startswith("within")]
    middle = model.arch.n_layers // 2
    figures = {
        "transfer": plot_transfer(pd.concat([chosen, trap]), f"Reading emotions, {name}", layer),
        "similarity": plot_similarity(
            found.directions, (middle, layer), f"Cosines of directions, {name}"
        ),
        "along": plot_along(found.directions, "anger", f"Anger from place to place, {name}"),
        "influence": plot_influence(found.influence, f"Influence of sublayers, {name}"),
        "circuits": plot_circuits(found.circuits["centred"], f"Circuits by centred score, {name}"),
        "neurons": plot_curves(
            pd.read_parquet(folder / "neurons.parquet"),
            "remaining",
            f"Gap left with neurons at their mean, {name}",
        ),
        "heads": plot_curves(
            pd.read_parquet(folder / "heads.parquet"),
            "remaining",
            f"Gap left with heads at their mean, {name}",
        ),
    }
    for key, figure in figures.items():
        figure.write_html(out / f"{key}.html", include_plotlyjs="directory")
    for preset, circuits in found.circuits.items():
        overlap = overlap_table(circuits)
        print(preset, overlap[["neurons", "heads"]].agg(["mean", "std"]).round(3).to_dict())
    pd.set_option("display.width", 160)
    at = table[table["layer"] == layer].drop(columns="layer")
    print(f"\nreading layer {layer} of {model.arch.n_layers}\n{at.to_string(index=False)}")
    for key in ("neurons", "heads", "presets", "vignettes", "stability"):
        if (folder / f"{key}.parquet").is_file():
            own = pd.read_parquet(folder / f"{key}.parquet")
            own = own[own["emotion"] == "all"] if "draw" in own else own
            print(f"\n{key}\n{own.round(3).to_string(index=False)}")
    print(f"\ncost {dict(found.cost)}")


def kept(folder: Path, name: str, make: Callable[[], pd.DataFrame]) -> None:
    file = folder / f"{name}.parquet"
    if file.is_file():
        print(f"{file} is there")
        return
    began = time.monotonic()
    make().to_parquet(file, index=False)
    print(f"{file}: {time.monotonic() - began:.0f} s")


def say(stage: str, done: int, total: int) -> None:
    print(f"{stage} {done}/{total}", flush=True)


def step(stage: str) -> Callable[[int, int], None]:
    return lambda done, total: say(stage, done, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verbs", nargs="+", choices=(*VERBS, "stability", "influence", "report"))
    parser.add_argument("--model", nargs="+", default=["smollm2-135m"])
    parser.add_argument("--texts", type=int, default=N_TEXTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/emotion"))
    given = parser.parse_args()
    for name in given.model:
        model = interp.load_model(name, device="cpu", dtype="float32")
        folder = given.runs / name
        folder.mkdir(parents=True, exist_ok=True)
        found = found_in(model, folder)
        for verb in given.verbs:
            do(verb, model, found, folder, given.texts)


def do(verb: str, model: Model, found: Discovery, folder: Path, n: int) -> None:
    match verb:
        case "transfer":
            kept(folder, verb, lambda: transfer(model, found))
        case "neurons" | "heads":
            kept(folder, verb, lambda: ablate(model, found, verb, n))
        case "presets":
            kept(folder, verb, lambda: presets(model, found, n))
        case "vignettes":
            kept(folder, verb, lambda: vignettes(model, found))
        case "words":
            kept(folder, verb, lambda: words(model, found))
        case "stability":
            kept(folder, verb, lambda: stability(model, found))
        case "influence":
            kept(folder, verb, lambda: sampled_influence(model, found))
        case "report":
            report(model, found, folder)


if __name__ == "__main__":
    main()
