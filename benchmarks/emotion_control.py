"""Choose doses on the tuning file, then put every arm to the test file, once.

    python -m benchmarks.emotion_control tune smollm2-135m    # runs/emotion/smollm2-135m/tuned
    python -m benchmarks.emotion_control test smollm2-135m    # the table of the guide

`tune` tries as many configurations of steering as of the circuit, and prints what each gave; the
chosen doses are written by hand into circuits/emotion/recipes/. `test` takes them from there. Both
go on where they were stopped; with `--minutes` they stop by themselves. `--published` names judged
replies of another model (rows of gen_text, emotion, match, skeleton_id) to fit the judges on, too.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

import interp
from circuits.emotion import load_frames, load_replies, load_scenarios
from circuits.emotion.control import Control
from circuits.emotion.controlling import Writer, evaluate
from circuits.emotion.decoding import Decoding
from circuits.emotion.discovery import Discovery
from circuits.emotion.doses import modulated_arms, prompted_arms
from circuits.emotion.judge import Judge, fit_judge, load_verdicts
from circuits.emotion.marking import Limits
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
from interp.model import Model

RUNS = Path("runs/emotion")
READER = {"smollm2-135m": "gemma-3-270m", "gemma-3-270m": "smollm2-135m"}
UNTUNED = Limits()
N_TUNING = 24
N_PLAIN = 120
SHORT = {
    "gemma-3-270m": (
        (
            "steer middle 0.05",
            "steer middle 0.03",
            "steer middle 0.04",
            "steer centre 0.05",
            "steer early 0.05",
        ),
        (
            "centred 3",
            "centred 2",
            "centred-influence 3",
            "centred-influence 4",
            "paper-influence 3",
        ),
    )
}
"""Parts of the grids for a model that takes too long for all of them: as many of either."""


def asking() -> Asking:
    return Asking(
        load_frames("datasets/emotion_frames.json"), load_replies("datasets/emotion_replies.jsonl")
    )


def writer(model: Model, part: str, n: int) -> Writer:
    texts = situations(load_scenarios(f"datasets/emotion_scenarios_{part}.jsonl"), n)
    return Writer(model, asking(), texts, store=RUNS / model.name / f"{part}.partial")


def tuning_arms(model: Model) -> list[Arm]:
    """Steering and circuit in turn, so that a stopped run has tried as many of either."""
    found, n = Discovery.load(RUNS / model.name / "discovery", model), model.arch.n_layers
    steering, circuit = steering_grid(n), circuit_grid(n)
    if model.name in SHORT:
        steering, circuit = ({k: g[k] for k in SHORT[model.name][i]} for i, g in
                             enumerate((steering, circuit)))  # fmt: skip
    grids = [
        arms_of_grids(found, dict([one]), dict([other]))
        for one, other in zip(steering.items(), circuit.items(), strict=True)
    ]
    asked = [arm for arm in prompted_arms(chat=False) if arm.name == "unmodulated"]
    return [*asked, *(a for pair in grids for a in pair)]


def test_arms(model: Model) -> list[Arm]:
    chat = bool(getattr(model.tokenizer, "chat_template", None))
    found = Discovery.load(RUNS / model.name / "discovery", model)
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


def judges_of(name: str, published: str | None, all_of_them: bool) -> dict[str, Judge]:
    """The judge that decides is fitted on shipped and, if given, published replies."""
    make = reading(interp.load_model(READER[name], device="cpu", dtype="float32"))
    replies = load_replies("datasets/emotion_replies.jsonl")
    verdicts = load_verdicts(published) if published else ()
    said = plain(READER[name])
    if not all_of_them:
        return {"reader": fit_judge(training_replies(replies, verdicts, said), 4, make)}
    found = default_judges(make, replies, verdicts, said)
    if published:
        shipped = default_judges(make, replies, (), said)
        found |= {f"{k}_shipped": v for k, v in shipped.items()}
    return found


def plain(name: str) -> list[str]:
    """What a model says to discovery events when no emotion is asked for; kept."""
    file = RUNS / name / "plain.json"
    if not file.is_file():
        model = interp.load_model(name, device="cpu", dtype="float32")
        texts = situations(load_scenarios("datasets/emotion_scenarios_discovery.jsonl"), N_PLAIN)
        file.write_text(json.dumps(plain_replies(model, asking(), texts, Decoding())))
    return json.loads(file.read_text())


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
    parser.add_argument("what", choices=("tune", "test"))
    parser.add_argument("model", choices=tuple(READER))
    parser.add_argument("--published", help="judged replies of another model")
    parser.add_argument("--arms", help="some of the test's, with commas; default: all")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    model = interp.load_model(options.model, device="cpu", dtype="float32")
    if options.what == "tune":
        made, arms = writer(model, "tuning", N_TUNING), tuning_arms(model)
        limits = UNTUNED
    else:
        made = writer(model, "test", recipe_of(model.name).n)
        arms = chosen_arms(test_arms(model), options.arms and options.arms.split(","))
        limits = recipe_of(model.name).limits
    if write(made, arms, until) and time.monotonic() < until:
        testing = options.what == "test"
        out = RUNS / model.name / ("control" if testing else "tuned")
        show(judged(made, arms, limits, judges_of(model.name, options.published, testing), out))


if __name__ == "__main__":
    main()
