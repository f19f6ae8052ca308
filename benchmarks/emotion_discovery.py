"""What is found about emotions in the built-in models, and whether it holds on unseen texts.

    python -m benchmarks.emotion_discovery discover   --model smollm2-135m
    python -m benchmarks.emotion_discovery transfer   --model smollm2-135m
    python -m benchmarks.emotion_discovery ablate     --model smollm2-135m --part neurons
    python -m benchmarks.emotion_discovery ablate     --model smollm2-135m --part heads
    python -m benchmarks.emotion_discovery presets    --model smollm2-135m
    python -m benchmarks.emotion_discovery stability  --model smollm2-135m
    python -m benchmarks.emotion_discovery influence  --model smollm2-135m
    python -m benchmarks.emotion_discovery report     --model smollm2-135m

Each writes into ``runs/emotion/MODEL`` and leaves alone what is there. Directions and components
come from ``emotion_scenarios_discovery``, everything measured from ``emotion_scenarios_test``.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

import interp
from circuits.emotion import EMOTIONS, load_frames, load_replies, load_scenarios, load_vignettes
from circuits.emotion.discovering import discover, neutral_prompts
from circuits.emotion.discovery import Discovery
from circuits.emotion.effects import necessity, preset_trials, sufficiency, trials
from circuits.emotion.figures import (
    plot_along,
    plot_circuits,
    plot_curves,
    plot_influence,
    plot_similarity,
    plot_transfer,
)
from circuits.emotion.influence import PAPER_ALPHAS, influence, stream_scales
from circuits.emotion.selection import overlap_table, stability_table
from circuits.emotion.situations import situations
from circuits.emotion.states import Group, groups_of, states
from circuits.emotion.tokens import token_prompt
from circuits.emotion.transfer import tables
from circuits.emotion.trying import transfer_tests
from interp.model import Model
from interp.prompts import TokenPrompt

DATA = Path("datasets")
N_TEXTS = 48
NEURONS = (1, 4, 16, 64, 128, 256, 560, 1024, 2048)
PARTS = {"neurons": (NEURONS, (64, 560)), "heads": ((1, 2, 4, 8, 16), (4, 16))}


def found_in(model: Model, folder: Path) -> Discovery:
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


def test_groups(model: Model, found: Discovery) -> tuple[list[Group], list[TokenPrompt]]:
    """One event of each of `N_TEXTS` test scenarios, in the discovery's styles and without."""
    frames = load_frames(DATA / "emotion_frames.json")
    scenarios = load_scenarios(DATA / "emotion_scenarios_test.jsonl")
    texts = situations(scenarios, N_TEXTS)
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


def ablate(model: Model, found: Discovery, part: str) -> pd.DataFrame:
    ks, random_ks = PARTS[part]
    quarter = model.arch.n_layers * model.arch.n_heads // 4
    if part == "heads":
        ks, random_ks = (*[k for k in ks if k < quarter], quarter), (4, quarter)
    tried = trials(model, found, part, ks, random_ks)
    groups, _ = test_groups(model, found)
    return necessity(model, found, groups, tried, progress=step("ablate"))


def presets(model: Model, found: Discovery) -> pd.DataFrame:
    """Necessity and sufficiency of the circuits, and of their neurons and heads alone."""
    groups, neutral = test_groups(model, found)
    tried = preset_trials(found)
    lost = necessity(model, found, groups, tried, progress=step("necessity"))
    brought = sufficiency(model, found, groups, neutral, tried, progress=step("sufficiency"))
    lost = lost.rename(columns={"remaining": "value"}).assign(test="remaining")
    return pd.concat([lost, brought.rename(columns={"brought": "value"}).assign(test="brought")])


def stability(model: Model, found: Discovery) -> pd.DataFrame:
    groups = groups_of(
        model,
        load_scenarios(DATA / "emotion_scenarios_discovery.jsonl"),
        load_frames(DATA / "emotion_frames.json"),
        found.settings.styles,
    )
    at = states(model, groups, progress=step("states"))
    return stability_table(model, at, found.settings.size.budget(model))


def sampled_influence(model: Model, found: Discovery) -> pd.DataFrame:
    """Influence by four sizes of nudge against one, on the same texts: is it linear?"""
    scenarios = load_scenarios(DATA / "emotion_scenarios_discovery.jsonl")
    frames = load_frames(DATA / "emotion_frames.json")
    prompts = neutral_prompts(model, scenarios, frames, found.settings, 8)
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
            pd.read_parquet(folder / "ablate_neurons.parquet"),
            "remaining",
            f"Gap left with neurons at their mean, {name}",
        ),
        "heads": plot_curves(
            pd.read_parquet(folder / "ablate_heads.parquet"),
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
    for key in ("ablate_neurons", "ablate_heads", "presets", "stability"):
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
    verbs = ("discover", "transfer", "ablate", "presets", "stability", "influence", "report")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--part", choices=tuple(PARTS), default="neurons")
    parser.add_argument("--runs", type=Path, default=Path("runs/emotion"))
    given = parser.parse_args()
    model = interp.load_model(given.model, device="cpu", dtype="float32")
    folder = given.runs / given.model
    folder.mkdir(parents=True, exist_ok=True)
    found = found_in(model, folder)
    match given.verb:
        case "transfer":
            kept(folder, "transfer", lambda: transfer(model, found))
        case "ablate":
            kept(folder, f"ablate_{given.part}", lambda: ablate(model, found, given.part))
        case "presets":
            kept(folder, "presets", lambda: presets(model, found))
        case "stability":
            kept(folder, "stability", lambda: stability(model, found))
        case "influence":
            kept(folder, "influence", lambda: sampled_influence(model, found))
        case "report":
            report(model, found, folder)


if __name__ == "__main__":
    main()
