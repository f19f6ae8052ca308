"""Choose doses on the tuning file, then put the arms to the test file, once for each event.

    python -m benchmarks.emotion_control tune smollm2-135m    # replies to the tuning file
    python -m benchmarks.emotion_control choose smollm2-135m  # from what tune wrote
    python -m benchmarks.emotion_control test smollm2-135m    # some arms, or all
    python -m benchmarks.emotion_control retest smollm2-135m  # the same for all events left
    python -m benchmarks.emotion_control arms smollm2-135m    # all arms for half of the test's

`tune` writes replies of as many configurations of steering as of the circuit, some of which are
labelled blind then (`benchmarks.emotion_labels`). `choose` judges them by readers fitted on blind
labels of the other half of the situations, and prints, of each window and preset, the best dose of
every emotion; the chosen ones are written by hand into circuits/emotion/recipes/. `test` takes them
from there. All go on where they were stopped; with `--minutes` they stop by themselves.
`--published` names judged replies of another model (rows of gen_text, emotion, match, skeleton_id)
to fit the judges on, too.
"""

import argparse
import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import torch
from circuits.emotion.control import Control
from circuits.emotion.controlling import Writer, evaluate
from circuits.emotion.decoding import Decoding
from circuits.emotion.doses import modulated_arms, prompted_arms
from circuits.emotion.judge import Judge, fit_judge, load_labelled, load_verdicts
from circuits.emotion.marking import Limits, against, judge_with, mark
from circuits.emotion.panel import (
    default_judges,
    judge_by_lexicon,
    plain_replies,
    reading,
    training_replies,
)
from circuits.emotion.recipe import recipe_of
from circuits.emotion.replying import Arm
from circuits.emotion.running import chosen_arms
from circuits.emotion.situations import Asking, situations
from circuits.emotion.tuning import arms_of_grids, circuit_grid, steering_grid

import interp
from circuits.emotion import load_frames, load_replies, load_scenarios
from circuits.emotion.discovery import Discovery
from interp.model.model import Model
from interp.results.run_folder import RunFolder
from interp.results.run_key import identity

RUNS = Path("runs/emotion")
READER = {"smollm2-135m": "gemma-3-270m", "gemma-3-270m": "smollm2-135m"}
UNTUNED = Limits()
BLIND = "datasets/emotion_blind_labels.jsonl"
SITUATIONS = {
    "tuning": slice(0, 40),
    "test": slice(80, 240),
    "retest": slice(240, 480),
    "arms": slice(80, 160),
}
"""Which events of a file: of the tuning file, else of the test file, whose first 80 were scored by
earlier versions."""
N_PLAIN = 120
TUNED = {
    "smollm2-135m": (
        ("centre 0.04", "centre 0.06", "middle 0.04", "middle 0.06", "middle 0.08", "middle 0.1",
         "late 0.05", "late 0.08", "late 0.11", "wide 0.04"),
        ("centred 1.5", "centred 2", "centred 3", "centred 4", "centred by influence 1.5",
         "centred by influence 2", "centred by influence 2.5", "centred-influence 3",
         "centred-influence 4", "centred-influence 5"),
    ),
    "gemma-3-270m": (
        ("centre 0.03", "centre 0.05", "middle 0.03", "middle 0.04", "middle 0.05", "middle 0.06",
         "late 0.03", "late 0.05", "late 0.08", "wide 0.03"),
        ("centred 2", "centred 3", "centred 4", "centred by influence 1.5",
         "centred by influence 2", "centred by influence 2.5", "centred-influence 3",
         "centred-influence 4", "centred-influence 5", "centred-influence 6"),
    ),
}  # fmt: skip
"""Parts of the grids that are tried: steering, and as many circuits."""


def asking() -> Asking:
    return Asking(
        load_frames("datasets/emotion_frames.json"), load_replies("datasets/emotion_replies.jsonl")
    )


def kept(model: Model, part: str) -> AbstractContextManager[RunFolder]:
    """Where written arms of a part stay; it is never finished, so that arms can be added."""
    return RunFolder.open(RUNS / model.name / part, f"emotion {part}", identity(model), unit="arms")


def writer(model: Model, part: str, steps: RunFolder) -> Writer:
    chosen, file = SITUATIONS[part], "tuning" if part == "tuning" else "test"
    texts = situations(load_scenarios(f"datasets/emotion_scenarios_{file}.jsonl"), chosen.stop)
    return Writer(model, asking(), texts[chosen], steps=steps)


def tuning_arms(model: Model) -> list[Arm]:
    """Steering and circuit in turn, so that a stopped run has tried as many of either."""
    found, n = Discovery.load(RUNS / model.name / "discovery").of(model), model.arch.n_layers
    windows, presets = TUNED[model.name]
    steering = {f"steer {name}": steering_grid(n)[f"steer {name}"] for name in windows}
    circuit = {name: circuit_grid(n)[name] for name in presets}
    grids = [
        arms_of_grids(found, dict([one]), dict([other]))
        for one, other in zip(steering.items(), circuit.items(), strict=True)
    ]
    asked = [arm for arm in prompted_arms(chat=False) if arm.name == "unmodulated"]
    return [*asked, *(a for pair in grids for a in pair)]


def folder(model: str, part: str) -> Path:
    """Where the judged replies of a part are."""
    return RUNS / model / f"control_{part}"


def test_arms(model: Model) -> list[Arm]:
    chat = bool(getattr(model.tokenizer, "chat_template", None))
    found = Discovery.load(RUNS / model.name / "discovery").of(model)
    return [*prompted_arms(chat), *modulated_arms(found, recipe_of(model.name).doses)]


def write(made: Writer, arms: list[Arm], until: float) -> bool:
    """Write arms until a time; whether all are written."""
    for arm in arms:
        if time.monotonic() > until:
            return False
        start = time.monotonic()
        made.write(arm)
        print(f"{made.model.name}: {arm.name}, {time.monotonic() - start:.0f} s", flush=True)
    return True


def judges_of(name: str, published: str | None) -> dict[str, Judge]:
    """The judges, and what they were without blind labels; the first decides."""
    make = reading(interp.load_model(READER[name], device="cpu", dtype="float32"))
    replies = load_replies("datasets/emotion_replies.jsonl")
    verdicts = load_verdicts(published) if published else ()
    said, labelled = plain(READER[name]), load_labelled(BLIND, "tuning")
    found = default_judges(make, replies, verdicts, said, labelled)
    unlabelled = default_judges(make, replies, verdicts, said)
    return found | {f"{k}_unlabelled": v for k, v in unlabelled.items()}


def plain(name: str) -> list[str]:
    """What a model says to discovery events when no emotion is asked for; kept."""
    file = RUNS / name / "plain.json"
    if not file.is_file():
        model = interp.load_model(name, device="cpu", dtype="float32")
        texts = situations(load_scenarios("datasets/emotion_scenarios_discovery.jsonl"), N_PLAIN)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(plain_replies(model, asking(), texts, Decoding())))
    return json.loads(file.read_text())


def choose(model: Model, published: str | None) -> None:
    """Each emotion's best dose within a window or preset, by readers that saw none of its texts."""
    with kept(model, "tuning") as steps:
        made = writer(model, "tuning", steps)
        written = pd.concat([made.write(arm) for arm in tuning_arms(model)], ignore_index=True)
    tuned = against(written, written[written["arm"] == "unmodulated"])
    make = reading(interp.load_model(READER[model.name], device="cpu", dtype="float32"))
    replies = load_replies("datasets/emotion_replies.jsonl")
    verdicts = load_verdicts(published) if published else ()
    said, labelled = plain(READER[model.name]), load_labelled(BLIND, "tuning")
    halves = sorted(set(tuned["situation"]))
    parts: list[pd.DataFrame] = []
    for half in (set(halves[::2]), set(halves[1::2])):
        others = [one for one in labelled if one.group not in half]
        judge = fit_judge(training_replies(replies, verdicts, said, others), 4, make)
        mine = tuned[tuned["situation"].isin(half)]
        parts.append(judge_with(mine, {"crossed": judge}))
    table = mark(pd.concat(parts), UNTUNED, "crossed")
    rates = table.pivot_table("joint", "arm", "emotion", aggfunc="mean")
    print(rates.assign(mean=rates.mean(axis=1)).sort_values("mean").round(2).to_string())
    family = rates.index.str.replace(r" [0-9.]+$", "", regex=True)
    for name, rows in rates.groupby(family):
        best = rows.idxmax()
        print(f"{name}: {rows.max().mean():.3f}", {e: arm.split()[-1] for e, arm in best.items()})


def judged(
    made: Writer, arms: list[Arm], limits: Limits, judges: Mapping[str, Judge], out: Path
) -> Control:
    """All judges' labels of all arms, saved."""
    found = evaluate(made, arms, judges, limits)
    plain = found.replies[found.replies["arm"] == "unmodulated"]
    table = judge_by_lexicon(found.replies, plain)
    names = (*found.judges, "lexicon")
    control = Control(table, limits, names, found.model, found.settings)
    control.save(out)
    return control


def show(control: Control) -> None:
    columns = ["arm", "n", "accuracy", "quality", "joint", "joint_low", "joint_high"]
    columns += ["coherent", "relevant", "neutral", "ratio", "faulty"]
    for judge in control.judges:
        print(f"\n{control.model}, judge {judge}")
        print(control.by(judge).table()[columns].round(3).to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("tune", "choose", "test", "retest", "arms"))
    parser.add_argument("model", choices=tuple(READER))
    parser.add_argument("--published", help="judged replies of another model")
    parser.add_argument("--arms", help="some of the test's, with commas; default: all")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    model = interp.load_model(options.model, device="cpu", dtype="float32")
    if options.what == "choose":
        choose(model, options.published)
        return
    if options.what == "tune":
        with kept(model, "tuning") as steps:
            write(writer(model, "tuning", steps), tuning_arms(model), until)
        return
    arms = chosen_arms(test_arms(model), options.arms and options.arms.split(","))
    with kept(model, options.what) as steps:
        made = writer(model, options.what, steps)
        if write(made, arms, until) and time.monotonic() < until:
            judges, out = judges_of(model.name, options.published), folder(model.name, options.what)
            show(judged(made, arms, recipe_of(model.name).limits, judges, out))


if __name__ == "__main__":
    main()
