"""Replies under all conditions to the test file, once for each event, and how they are judged.

    python -m benchmarks.emotion_control test smollm2-135m    # some conditions, or all
    python -m benchmarks.emotion_control retest smollm2-135m  # the same for all events left
    python -m benchmarks.emotion_control all smollm2-135m     # all conditions, half of the test's
    python -m benchmarks.emotion_control tune smollm2-135m    # doses, on the tuning texts

Doses come from circuits/emotion/recipes/ (`tune` prints the joint replies of each of a grid, per
emotion), the discovery from `interp emotion circuit --out runs/emotion/MODEL/discovery`. All go on
where they were stopped; with `--minutes` they stop by themselves. `--published` names judged
replies of another model (rows of gen_text, emotion, match, skeleton_id) to fit the judges on, too.
"""

import argparse
import json
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

import interp
from circuits.emotion import (
    Condition,
    EmotionComparison,
    EmotionDiscovery,
    EmotionRecipe,
    EmotionTexts,
    ReplyPrompts,
    ReplyWriter,
    conditions_of,
    load_scenarios,
    situations,
)
from circuits.emotion.emotion_comparison import evaluate
from circuits.emotion.judges import Judge, by_activations, by_words, fit_judge, training_replies
from circuits.emotion.replies import plain_replies
from interp.model.model import Model
from interp.results.run_folder import RunFolder, fingerprint, identity

RUNS = Path("runs/emotion")
MODELS = ("smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b")
GRID = {"steering": (0.05, 0.08, 0.12, 0.18), "circuit": (1.0, 1.4, 1.7, 2.0, 3.0, 4.0)}
"""Fractions of the state's norm, and strengths of circuits; each for all emotions alike."""
PARTS = {"test": slice(80, 240), "retest": slice(240, 480), "all": slice(80, 160)}
"""Which events of the test file, whose first 80 were scored by earlier versions."""
N_PLAIN = 120


def asking(style: str = "felt:B") -> ReplyPrompts:
    texts = EmotionTexts.load("test")
    return ReplyPrompts(texts.frames, texts.replies, style)


def kept(model: Model, asked: ReplyPrompts, part: str) -> AbstractContextManager[RunFolder]:
    """Where written conditions of a part stay; it is never finished, so others can be added."""
    at, named = RUNS / model.name / part, identity(model) | {"prompts": fingerprint(asked)}
    return RunFolder.open(at, f"emotion {part}", named, unit="conditions")


def folder(model: str, part: str) -> Path:
    """Where the judged replies of a part are."""
    return RUNS / model / f"comparison_{part}"


def write(made: ReplyWriter, conditions: list[Condition], until: float) -> bool:
    """Write conditions until a time; whether all are written."""
    for condition in conditions:
        if time.monotonic() > until:
            return False
        start = time.monotonic()
        made.write(condition)
        print(f"{made.model.name}: {condition.name}, {time.monotonic() - start:.0f} s", flush=True)
    return True


def tune(made: ReplyWriter, conditions: list[Condition], published: str | None) -> None:
    """Joint replies to the tuning texts, by the first judge, of every dose and emotion."""
    grid = [
        replace(condition.at(dose), name=f"{condition.name}@{dose:g}")
        for condition in conditions
        if condition.strength
        for dose in GRID.get(condition.name, GRID["circuit"])
    ]
    plain = [condition for condition in conditions if not condition.strength]
    judges = judges_of(made.model.name, published)
    found = evaluate(made, [*plain, *grid], judges, EmotionRecipe.of(made.model.name).criteria)
    for criterion in ("joint", "expressed"):
        print(f"\n{criterion}\n{found.by_emotion(criterion).round(2).to_string(index=False)}")
    show(found)


def judges_of(name: str, published: str | None) -> dict[str, Judge]:
    """The judges, and what they are without blind labels; the first decides."""
    model = interp.load_model(EmotionRecipe.of(name).judge_model, device="cpu", dtype="float32")
    texts = EmotionTexts.load("test", published=published)
    makes = {"activations": by_activations(model), "words": by_words}
    judges: dict[str, Judge] = {}
    for ending, labelled in (("", texts.labelled), ("_unlabelled", ())):
        rows = training_replies(texts.replies, texts.verdicts, plain(model), labelled)
        judges |= {f"{kind}{ending}": fit_judge(rows, 4, make) for kind, make in makes.items()}
    return judges


def plain(model: Model) -> list[str]:
    """What a model says to discovery events when no emotion is asked for; kept."""
    file = RUNS / model.name / "plain.json"
    if not file.is_file():
        texts = situations(load_scenarios("emotion_scenarios_discovery"), N_PLAIN)
        recipe = EmotionRecipe.of(model.name)
        said = plain_replies(model, asking(recipe.style), texts, recipe.decoding)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(said))
    return json.loads(file.read_text())


def show(found: EmotionComparison) -> None:
    columns = ["condition", "n", "accuracy", "quality", "joint", "joint_low", "joint_high"]
    columns += ["coherent", "relevant", "neutral", "perplexity_ratio", "faulty"]
    for judge in found.judges:
        print(f"\n{found.model}, judge {judge}")
        print(found.by(judge).table()[columns].round(3).to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=(*PARTS, "tune"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--published", help="judged replies of another model")
    parser.add_argument("--conditions", help="with commas; default: all")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    torch.set_num_threads(1)
    recipe = EmotionRecipe.of(given.model)
    model = interp.load_model(given.model, device="cpu", dtype=recipe.dtype)
    discovery = EmotionDiscovery.load(RUNS / model.name / "discovery").of(model)
    names = given.conditions and given.conditions.split(",")
    tuning = given.part == "tune"
    doses = recipe.doses.alike if tuning else recipe.doses
    conditions = conditions_of(model, discovery, doses, names)
    chosen = slice(0, 40) if tuning else PARTS[given.part]
    events = load_scenarios(f"emotion_scenarios_{'tuning' if tuning else 'test'}")
    texts = situations(events, chosen.stop)[chosen]
    asked = asking(recipe.style)
    with kept(model, asked, given.part) as steps:
        made = ReplyWriter(model, asked, texts, recipe.decoding, steps)
        if tuning:
            tune(made, conditions, given.published)
        elif write(made, conditions, until) and time.monotonic() < until:
            judges = judges_of(model.name, given.published)
            found = evaluate(made, conditions, judges, recipe.criteria)
            found.save(folder(model.name, given.part))
            show(found)


if __name__ == "__main__":
    main()
