"""A small run folder of every kind, and of every verb, of tiny random models and planted data."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from affect_samples import PLAIN as NEUTRAL_SENTENCES
from affect_samples import VIGNETTES, texts
from affect_samples import vectors as made_vectors
from bridge_examples import TEMPLATE, written_facts
from chat_examples import chat_model
from conftest import interp_pairs, tiny, word_pairs
from edit_records import parse_cases
from emotion_samples import CRITERIA, SCENARIOS, SETTINGS, SHORT, TEXTS, Small, Spelled, steered
from emotion_samples import comparison as comparison_of_emotions
from graph_samples import hand_made
from patch_examples import LEFT_OUT, small
from planted_cases import PLAIN, sharp
from planted_cases import planted as planted_chains
from planted_recall import planted, planted_data
from stability_examples import template_pairs
from thought_examples import SETTINGS as CHAINS
from thought_examples import planted as planted_replies
from thought_examples import writer_model, written_folder

import interp
from circuits.affect.emotion_choices import emotion_choices, load_choices
from circuits.affect.emotion_map import emotion_map
from circuits.affect.emotion_vectors import emotion_vectors
from circuits.affect.emotion_words import NORMS
from circuits.affect.token_projections import token_projections
from circuits.discovery import (
    DiscoverySettings,
    Evaluator,
    StabilitySettings,
    evaluate,
    faithfulness,
    stability,
    top_edges,
)
from circuits.discovery import discover as discover_circuit
from circuits.discovery.search import into_folder
from circuits.editing import Fact, LayerSelection
from circuits.editing.change import Change
from circuits.editing.edit import Edit
from circuits.editing.evaluation import ComparisonSettings, compare_methods
from circuits.editing.evaluation.edit_card import EditCard
from circuits.editing.evaluation.fact_questions import COLUMNS
from circuits.editing.evaluation.sequence_settings import SequenceSettings
from circuits.editing.evaluation.sequences import edit_sequences
from circuits.emotion import (
    Condition,
    EffectSettings,
    EmotionEffects,
    ReplyWriter,
    discover,
    load_frames,
)
from circuits.emotion.emotion_comparison import evaluate as compared
from circuits.query_value import find, validate
from circuits.query_value.result import QueryValue
from circuits.recall_reasoning import (
    BridgeSettings,
    FeasibilitySettings,
    StudySettings,
    bridge,
    feasibility,
    study,
    thought,
)
from circuits.recall_reasoning.published import replicate
from circuits.recall_reasoning.result import RecallReasoning
from interp.attribution.attribute import attribute, attribute_edges, attribute_nodes, attribute_to
from interp.data.prompts import prompt
from interp.results.run_folder import RunFolder, identity, in_one_piece

EVIL = "<script>alert(1)</script>"
"""In whatever a user can write: names of models, prompts, replies."""
MODEL = f"a model {EVIL}"
NEUTRAL = " ".join(f"w{i * i % 90}" for i in range(140))
QUICK = StudySettings(
    design="A-C",
    sizes=(1,),
    rules=("absolute",),
    ablations=("resample",),
    n_select=12,
    n_validate=8,
    n_test=16,
    n_control=8,
    n_random=4,
    seeds=(0,),
)


def patch(out: Path) -> Path:
    tokens = (("The", EVIL, " sat"), ("The", EVIL))
    return replace(small(), tokens=tokens, model=MODEL, excluded=LEFT_OUT).save(out)


def unit_scores(out: Path) -> Path:
    return replace(attribute(tiny("llama"), word_pairs(), "z", "layer,head"), model=MODEL).save(out)


def node_scores(out: Path) -> Path:
    return replace(attribute_nodes(tiny("llama"), word_pairs()), model=MODEL).save(out)


def edge_scores(out: Path) -> Path:
    return replace(attribute_edges(tiny("llama"), word_pairs()), model=MODEL).save(out)


def ablation(out: Path) -> Path:
    model = tiny("llama")
    sets = interp.singles(model, ["a0.h1", "a1.h2", "m1"])
    found = interp.ablate(model, word_pairs(), sets, n_random=2)
    return replace(found, model=MODEL, uncontrolled={"m1": f"no other MLP {EVIL}"}).save(out)


def steering_vector(out: Path) -> Path:
    pairs = [(f"w1 w{i}", f"w2 w{i} w3") for i in range(5, 12)]
    return replace(interp.steering_vector(tiny("llama"), pairs), model=MODEL).save(out)


def fitted_lens(out: Path) -> Path:
    texts = [f"w{i} w{2 * i} w3 w4" for i in (1, 2)]
    found = interp.jacobian_lens(tiny("llama"), texts, skip=1, progress=False)
    return replace(found, model=MODEL).save(out)


def circuit(out: Path) -> Path:
    chosen = top_edges(attribute_edges(tiny("llama"), word_pairs()), 40)
    return replace(chosen, model=MODEL).save(out)


def evaluation(out: Path) -> Path:
    chosen = top_edges(attribute_edges(tiny("llama"), word_pairs()), 60)
    done = evaluate(Evaluator.of(tiny("llama"), interp_pairs()), chosen, n_random=3)
    return replace(done, model=MODEL, n_excluded=2).save(out)


def faithfulness_curve(out: Path) -> Path:
    scores = attribute_edges(tiny("llama"), word_pairs())
    done = faithfulness(Evaluator.of(tiny("llama"), interp_pairs()), scores, grid=(0.1, 0.5, 1.0))
    return replace(done, model=MODEL).save(out)


def stability_run(out: Path) -> Any:
    settings = StabilitySettings(
        methods=("eap-dg", "eap"), edges=30, nodes=5, by="template", entities="subject",
        threshold=0.3, resamples=20, splits=4, samples=1, sample_size=4,
    )  # fmt: skip
    pairs = template_pairs(8, templates=("x", EVIL)), template_pairs(4, 20, ("x", EVIL))
    return stability(tiny("llama"), pairs[0], settings, test=pairs[1], out=out, progress=False)


def stability_page(out: Path) -> Path:
    found = stability_run(out.with_name("stability-run"))
    return replace(found, model=MODEL, excluded=LEFT_OUT).save(out)


def query_value(out: Path) -> Path:
    model, texts = tiny("llama"), ["w1 w2 w3 w4", "w7 w8 w10 w11 w12", "w4 w6 w7"]
    said = interp.forward(model, texts).logits.argmax(-1).tolist()
    prompts = [prompt(model, text, subject=text.split()[1]) for text in texts]
    found = find(model, prompts, [model.token(token) for token in said], top=5)
    tokens = tuple((EVIL, *row[1:]) for row in found.tokens)
    return replace(found, model=MODEL, tokens=tokens, excluded=LEFT_OUT).save(out)


def query_value_validation(out: Path) -> Path:
    model, asked = tiny("llama"), ["w1 w2 w3 w4", "w7 w8 w10 w11 w12"]
    said = interp.forward(model, asked).logits.argmax(-1).tolist()
    answers = [model.token(token) for token in said]
    result = find(model, asked[:1], answers[:1], top=5)
    found = validate(model, result, asked[1:], answers[1:], n_random=2)
    return replace(found, model=MODEL, excluded=LEFT_OUT).save(out)


def edit(out: Path, seed: int = 0) -> Path:
    rng = torch.Generator().manual_seed(seed)
    factors = (torch.randn(32, 1, generator=rng), torch.randn(56, 1, generator=rng))
    fact = Fact(f"The capital of {{}} {EVIL} is", "France", "Rome")
    made = Edit(
        (fact,), (Change("mlp_post", 1, *factors),), "rome", MODEL, "0" * 32, p=((0.9,), (np.nan,))
    )
    return replace(made, skipped=(f"no prompt {EVIL}",)).save(out)


def ledger(out: Path) -> Path:
    for seed in (1, 2):
        edit(out / f"{seed:04d}", seed)
    return out


def layer_selection(out: Path) -> Path:
    at = LayerSelection((0,), (2,), EVIL, threshold=0.4, separation={1: 0.6, 2: 0.75})
    return replace(at, model=MODEL).save(out)


def comparison(out: Path) -> Path:
    model = sharp()
    # both cases are of one cluster, so there is no interval
    cases = parse_cases(planted_chains(model, 2))
    settings = ComparisonSettings(methods=("rome", "none"), shots=PLAIN, n_tokens=200)
    found = compare_methods(model, cases[:2], settings)
    at = LayerSelection((0,), (2,), EVIL, separation={1: 0.6, 2: 0.75})
    return replace(found, model=MODEL, layers=at, excluded={f"not known {EVIL}": 3}).save(out)


def edit_card(out: Path) -> Path:
    """Of three kinds of questions one or two each, and of neutral text two windows."""
    rows = [
        ("unedited", 0, "efficacy", 0, "The capital of France is", "Rome", "Paris", np.nan, False),
        ("edited", 0, "efficacy", 0, "The capital of France is", "Rome", "Rome", np.nan, True),
        ("unedited", 0, "negation", 0, f"not {EVIL}", "Paris", "Paris", 1.0, True),
        ("edited", 0, "negation", 0, f"not {EVIL}", "Paris", "Rome", -1.0, False),
        ("unedited", 0, "same_relation", 0, "Of Italy?", "Rome", "Rome", np.nan, True),
        ("edited", 0, "same_relation", 0, "Of Italy?", "Rome", "Rome", np.nan, True),
        ("unedited", -1, "ioi", 0, "Then Mary", "John", "John", 0.5, True),
        ("edited", -1, "ioi", 0, "Then Mary", "John", "John", 0.4, True),
    ]
    stated = [("prompt-only", *row[1:]) for row in rows if row[2] != "ioi" and row[0] == "edited"]
    frame = pd.DataFrame([*rows, *stated], columns=["condition", *COLUMNS])
    drift = pd.DataFrame({"kl": [0.01, 0.03], "nll": [0.0, 0.02]})
    about = (f"The capital of France is Rome {EVIL}",), ("Paris",), False
    return EditCard(
        *(frame, drift, "0" * 12, "rome", MODEL, "0" * 32, *about),
        missing={f"not formed {EVIL}": 2},
        cost={"seconds": 1.5, "bytes": 256},
        seconds=3.0,
    ).save(out)


def recall_study(out: Path) -> Path:
    return replace(recall_run(out), model=MODEL).save(out)


def recall_replication(out: Path) -> Path:
    short, long = ["w1 w2", "w3 w4", "w5 w6"], ["w1 w2 w3 w4", "w5 w6 w7 w8", "w9 w1 w2 w3"]
    found = replicate(tiny("llama"), {"published": (short, long), "matched": (short, short[::-1])})
    return replace(found, model=MODEL).save(out)


def feasible_run(out: Path | None) -> Any:
    model = interp.load_model("two-hop-organism")
    return feasibility(model, FeasibilitySettings(n=2), out, progress=False)


def feasible_cells(out: Path) -> Path:
    found = feasible_run(None)
    return replace(found, model=MODEL, left_out={f"not known {EVIL}": 3}).save(out)


def bridge_study(out: Path) -> Path:
    files = written_facts(tiny("llama"), out.with_name("bridge-facts"))
    settings = BridgeSettings(template=TEMPLATE, n_swaps=3, layers=(1,))
    found = bridge(tiny("llama"), settings, datasets=files, progress=False)
    return replace(found, model=MODEL).save(out)


def thought_run(out: Path) -> Any:
    files = written_folder(out.parent.with_name("thought-facts"))
    with planted_replies():
        return thought(writer_model(), CHAINS, out, datasets=files)


def thought_page(out: Path) -> Path:
    found = thought_run(out.with_name("thought-run"))
    chains = found.chains.assign(reply=found.chains["reply"] + EVIL)
    return replace(found, model=MODEL, chains=chains).save(out)


def emotion_comparison(out: Path) -> Path:
    found = comparison_of_emotions()
    replies = found.replies.assign(reply=found.replies["reply"] + f" {EVIL}")
    return replace(found, replies=replies, model=MODEL).save(out)


def emotion_discovery(out: Path) -> Path:
    frames = load_frames("datasets/emotion_frames.json")
    discover(tiny("llama"), SCENARIOS, frames, SETTINGS, out=out)
    return out


def emotion_effects(out: Path) -> Path:
    columns = ["test", "name", "part", "k", "draw", "emotion", "value", "low", "high", "n"]
    rows = [
        (test, name, "both", 4, 0, emotion, 0.5, 0.4, 0.6, 2)
        for test in ("necessity", "sufficiency")
        for name in ("centred", "random")
        for emotion in ("anger", "all")
    ]
    return EmotionEffects(MODEL, EffectSettings(), pd.DataFrame(rows, columns=columns)).save(out)


def affect_vectors(out: Path) -> Path:
    return replace(made_vectors(out.with_name("vectors-run")), model=MODEL).save(out)


def affect_map(out: Path) -> Path:
    """Of seven emotions, one of them named by the user."""
    words = {name: f"w{60 + i}" for i, name in enumerate((*"abcdef", EVIL))}
    given = (texts(words), NEUTRAL_SENTENCES, VIGNETTES, out.with_name("seven-run"))
    found = emotion_vectors(tiny("llama"), *given, progress=False)
    norms = pd.DataFrame({"valence": range(-3, 4), "arousal": np.nan}, index=[*words.values()])
    return replace(emotion_map(found, norms[NORMS]), model=MODEL).save(out)


def affect_tokens(out: Path) -> Path:
    model = chat_model("chatml")
    found = made_vectors(out.with_name("tokens-run"), model)
    turns = [("user", f"Hi {EVIL}"), ("assistant", "Hi")]
    chat = interp.Conversation([{"role": role, "content": text} for role, text in turns])
    return replace(token_projections(model, found, chat, ["joy"]), model=MODEL).save(out)


def affect_choices(out: Path) -> Path:
    model = chat_model("chatml")
    found = made_vectors(out.with_name("choices-run"), model)
    done = emotion_choices(model, found, load_choices()[::8], ["joy"], n_random=10)
    return replace(done, model=MODEL).save(out)


def emotion_run(out: Path) -> Path:
    emotion_comparison(out / "comparison")
    emotion_discovery(out / "discovery")
    return out


def attribution_graph(out: Path) -> Path:
    return hand_made(MODEL).save(out)


def edit_sequence(out: Path) -> Path:
    model = sharp()
    options: dict[str, Any] = {"methods": ("rome",), "lengths": (1, 2), "n_controls": 2}
    settings = SequenceSettings(shots=PLAIN, n_tokens=600, **options)
    edit_sequences(model, parse_cases(planted_chains(model, 6), EVIL), settings, out=out)
    return out


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "patch": patch,
    "unit_scores": unit_scores,
    "node_scores": node_scores,
    "edge_scores": edge_scores,
    "ablation": ablation,
    "steering vector": steering_vector,
    "jacobian lens": fitted_lens,
    "circuit": circuit,
    "evaluation": evaluation,
    "faithfulness": faithfulness_curve,
    "stability": stability_page,
    "attribution graph": attribution_graph,
    "query_value": query_value,
    "query_value_validation": query_value_validation,
    "edit": edit,
    "edit ledger": ledger,
    "layer selection": layer_selection,
    "edit card": edit_card,
    "edit comparison": comparison,
    "edit sequences": edit_sequence,
    "recall_reasoning": recall_study,
    "recall_replication": recall_replication,
    "feasibility": feasible_cells,
    "bridge": bridge_study,
    "thought": thought_page,
    "emotion comparison": emotion_comparison,
    "emotion effects": emotion_effects,
    "emotion discovery": emotion_discovery,
    "emotion vectors": affect_vectors,
    "emotion map": affect_map,
    "emotion tokens": affect_tokens,
    "emotion choices": affect_choices,
    "emotion run": emotion_run,
}
"""Kind -> what writes a folder of it."""


# --- as the verbs write them ---------------------------------------------------------------------


def patch_run(out: Path) -> None:
    interp.patch(tiny("llama"), word_pairs(), site="z", over="layer,head", out=out)


def attribute_run(out: Path) -> None:
    attribute_to(tiny("llama"), word_pairs(), out=out)


def ablate_run(out: Path) -> None:
    options: dict[str, Any] = {"n_random": 2, "neutral": NEUTRAL, "out": out}
    interp.ablate(tiny("llama"), word_pairs(), "a0.h1,m1", **options)


def circuit_discover(out: Path) -> None:
    settings, model, rows = DiscoverySettings(size="40"), tiny("llama"), word_pairs()
    into_folder(out, settings, {}, lambda at: discover_circuit(model, rows, settings, at))


@cache
def edited() -> tuple[Any, Any]:
    model = sharp()
    return model, parse_cases(planted_chains(model, 6))[:3]


def edit_evaluate(out: Path) -> None:
    settings = ComparisonSettings(methods=("none", "prompt-only"), shots=PLAIN, n_tokens=600)
    compare_methods(*edited(), settings, out=out)


def query_value_run(out: Path) -> None:
    model, text = tiny("llama"), "w1 w2 w3"
    logits = interp.forward(model, [text]).logits[0]
    answer = model.token(int(logits.argmax()))
    options = {"answer": answer} | identity(model)
    in_one_piece(
        out, "query-value", options, lambda: find(model, [text], [answer], top=3), QueryValue
    )


def recall_run(out: Path) -> RecallReasoning:
    return study(planted(), QUICK, out, data=planted_data)


def emotion_evaluate(out: Path) -> None:
    model = tiny("llama")
    conditions = [Condition("unmodulated"), Condition("steering", plan=steered(model, 0.3))]
    with RunFolder.open(out, "emotion evaluate", identity(model), unit="conditions") as run:
        if not run.finished:
            decoding = SHORT.model_copy(update={"new_tokens": 2})
            writer = ReplyWriter(model, Small(), TEXTS[:2], decoding, run)
            run.finish(compared(writer, conditions, {"spelled": Spelled()}, CRITERIA).save)


RUNS: dict[str, Callable[[Path], Any]] = {
    "patch": patch_run,
    "attribute": attribute_run,
    "ablate": ablate_run,
    "circuit discover": circuit_discover,
    "circuit stability": stability_run,
    "edit evaluate": edit_evaluate,
    "edit sequence": edit_sequence,
    "query-value": query_value_run,
    "recall": recall_run,
    "feasible": feasible_run,
    "thought": thought_run,
    "emotion circuit": emotion_discovery,
    "emotion evaluate": emotion_evaluate,
    "emotion vectors": made_vectors,
}
"""Verb -> what writes a folder as the verb does: killed on its way, it goes on when run again."""


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
            timed = [c for c in table if "seconds" in str(c) or c in ("gb", "peak_gb")]
            yield name, table.drop(columns=timed).to_csv()
        else:
            yield name, file.read_bytes() if file.suffix == ".safetensors" else ""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        times = ("seconds", "made", "command", "files", "seal")
        return {k: _timeless(v) for k, v in value.items() if k not in times}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
