"""A small run of every verb that writes a folder, and what two runs of it must have in common."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import ROOT, tiny, word_pairs
from planted_cases import PLAIN, planted
from planted_recall import planted as planted_recall
from planted_recall import planted_data
from test_comparing import sharp
from test_emotion_control import LIMITS, SHORT, TEXTS, Small, Spelled, push

import interp
from circuits.cli.discovering import Request, discovered_into, found_from_model
from circuits.editing.comparing import compare_into
from circuits.editing.evaluation import parse_cases
from circuits.emotion.controlling import Writer, evaluate
from circuits.emotion.data import load_scenarios
from circuits.emotion.discovering import discover
from circuits.emotion.discovery import Settings as Discovering
from circuits.emotion.frames import load_frames
from circuits.emotion.replying import Arm
from circuits.emotion.selection import Size
from circuits.query_value import find
from circuits.query_value.result import QueryValue
from circuits.recall_reasoning import Settings, study
from interp.attribution.resuming import attribute_into
from interp.resuming import patch_into
from interp.run_folder import RunFolder, in_one_piece
from interp.run_key import identity
from interp.steps import Codec

NEUTRAL = " ".join(f"w{i * i % 90}" for i in range(140))
DISCOVERING = Discovering(
    styles=("felt:A", "day:B"), n_neutral=2, n_demonstrations=0, size=Size(30, 0.25)
)
STUDYING = Settings(
    design="A-C",
    sizes=(1,),
    rules=("absolute",),
    ablations=("resample",),
    n_select=10,
    n_validate=10,
    n_test=10,
    n_control=4,
    n_random=3,
    seeds=(0,),
)


def patch(out: Path) -> None:
    patch_into(out, tiny("llama"), word_pairs(), site="z", over="layer,head")


def attribute(out: Path) -> None:
    attribute_into(out, tiny("llama"), word_pairs())


def ablate(out: Path) -> None:
    options: dict[str, Any] = {"n_random": 2, "neutral": NEUTRAL, "out": out}
    interp.ablate(tiny("llama"), word_pairs(), "a0.h1,m1", **options)


def circuit_discover(out: Path) -> None:
    request = Request("top", "eap-dg", "40", None, False, "logit_diff", 0)
    model, rows = tiny("llama"), word_pairs()
    discovered_into(out, request, {}, lambda at: found_from_model(request, model, rows, at), False)


@cache
def edited() -> tuple[Any, Any]:
    model = sharp()
    return model, parse_cases(planted(model, 6))[:3]


def edit_evaluate(out: Path) -> None:
    compare_into(out, *edited(), ["none", "told"], shots=PLAIN, n_tokens=600)


def query_value(out: Path) -> None:
    model, text = tiny("llama"), "w1 w2 w3"
    logits = interp.forward(model, [text]).logits[0]
    answer = model.token(int(logits.argmax()))
    kept: Codec[QueryValue] = Codec(lambda one, at: one.save(at), QueryValue.load)
    options = {"answer": answer} | identity(model)
    in_one_piece(out, "query-value", options, lambda: find(model, [text], [answer], top=3), kept)


def recall(out: Path) -> None:
    study(planted_recall(), STUDYING, out, data=planted_data)


def emotion_circuit(out: Path) -> None:
    scenarios = load_scenarios(ROOT / "datasets" / "emotion_scenarios_discovery.jsonl")[::40]
    frames = load_frames(ROOT / "datasets" / "emotion_frames.json")
    discover(tiny("llama"), scenarios, frames, DISCOVERING, out=out)


def emotion_evaluate(out: Path) -> None:
    model = tiny("llama")
    arms = [Arm("unmodulated"), Arm("steering", modulation=push(model, 0.3))]
    with RunFolder.open(out, "emotion evaluate", identity(model), unit="arms") as run:
        if not run.finished:
            writer = Writer(model, Small(), TEXTS[:2], replace(SHORT, new_tokens=2), run)
            run.finish(evaluate(writer, arms, {"spelled": Spelled()}, LIMITS).save)


RUNS: dict[str, Callable[[Path], None]] = {
    "patch": patch,
    "attribute": attribute,
    "ablate": ablate,
    "circuit discover": circuit_discover,
    "edit evaluate": edit_evaluate,
    "query-value": query_value,
    "recall": recall,
    "emotion circuit": emotion_circuit,
    "emotion evaluate": emotion_evaluate,
}


def content(at: Path) -> dict[str, Any]:
    """All that a folder holds, but for times and what they change."""
    return dict(_parts(at))


def _parts(at: Path) -> Iterator[tuple[str, Any]]:
    for file in sorted(at.rglob("*")):
        name = file.relative_to(at).as_posix()
        if file.suffix == ".json":
            yield name, _timeless(json.loads(file.read_text("utf-8")))
        elif file.suffix == ".parquet":
            table = pd.read_parquet(file)
            timed = [c for c in table if "seconds" in str(c) or c == "peak_gb"]
            yield name, table.drop(columns=timed).to_csv()
        else:
            yield name, file.read_bytes() if file.suffix == ".safetensors" else ""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        times = ("seconds", "made", "command", "files", "seal")
        return {k: _timeless(v) for k, v in value.items() if k not in times}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
