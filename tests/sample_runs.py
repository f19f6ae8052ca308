"""A small run folder of every kind, of tiny random models and planted results."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer
from planted_cases import PLAIN
from planted_cases import planted as planted_chains
from planted_recall import planted, planted_data
from test_discovery_figures import interp_pairs
from test_emotion_control import control
from test_emotion_discovery import SCENARIOS, SETTINGS
from test_results import LEFT_OUT, small

import interp
from circuits.discovery import bench, faithfulness, top_edges
from circuits.discovery.evaluation import evaluate
from circuits.discovery.mib import save_circuit
from circuits.editing import Fact, Placement
from circuits.editing.changes import Change
from circuits.editing.comparing import compare_methods
from circuits.editing.edits import Edit
from circuits.editing.evaluation import parse_cases
from circuits.editing.placement import save_placement
from circuits.emotion import load_frames
from circuits.emotion.discovering import discover
from circuits.query_value import find
from circuits.recall_reasoning import Settings, study
from circuits.recall_reasoning.replicate import replicate
from interp.attribution import attribute, attribute_edges, attribute_nodes
from interp.prompts import prompt

EVIL = "<script>alert(1)</script>"
"""In whatever a user can write: names of models, prompts, replies."""
MODEL = f"a model {EVIL}"
QUICK = Settings(
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


def circuit(out: Path) -> Path:
    chosen = top_edges(attribute_edges(tiny("llama"), word_pairs()), 40)
    save_circuit(replace(chosen, model=MODEL), out / "circuit.json")
    return out


def evaluation(out: Path) -> Path:
    chosen = top_edges(attribute_edges(tiny("llama"), word_pairs()), 60)
    done = evaluate(bench(tiny("llama"), interp_pairs()), chosen, n_random=3)
    return replace(done, model=MODEL, n_excluded=2).save(out)


def faithfulness_curve(out: Path) -> Path:
    scores = attribute_edges(tiny("llama"), word_pairs())
    done = faithfulness(bench(tiny("llama"), interp_pairs()), scores, grid=(0.1, 0.5, 1.0))
    return replace(done, model=MODEL).save(out)


def query_value(out: Path) -> Path:
    model, texts = tiny("llama"), ["w1 w2 w3 w4", "w7 w8 w10 w11 w12", "w4 w6 w7"]
    said = interp.forward(model, texts).logits.argmax(-1).tolist()
    prompts = [prompt(model, text, subject=text.split()[1]) for text in texts]
    found = find(model, prompts, [model.token(token) for token in said], top=5)
    tokens = tuple((EVIL, *row[1:]) for row in found.tokens)
    return replace(found, model=MODEL, tokens=tokens, excluded=LEFT_OUT).save(out)


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


def placement(out: Path) -> Path:
    at = Placement((0,), (2,), EVIL, threshold=0.4, separation={1: 0.6, 2: 0.75})
    return save_placement(out, tiny("llama"), at)


def comparison(out: Path) -> Path:
    hf = tiny_hf("llama")
    with torch.no_grad():
        hf.get_output_embeddings().weight.mul_(10)
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    # both cases are of one cluster, so there is no interval
    cases = parse_cases(planted_chains(model, 2))
    found = compare_methods(model, cases[:2], ("rome", "none"), shots=PLAIN, n_tokens=200)
    at = Placement((0,), (2,), EVIL, separation={1: 0.6, 2: 0.75})
    return replace(found, model=MODEL, placement=at, excluded={f"not known {EVIL}": 3}).save(out)


def recall_study(out: Path) -> Path:
    return replace(study(planted(), QUICK, out, data=planted_data), model=MODEL).save(out)


def recall_replication(out: Path) -> Path:
    short, long = ["w1 w2", "w3 w4", "w5 w6"], ["w1 w2 w3 w4", "w5 w6 w7 w8", "w9 w1 w2 w3"]
    found = replicate(tiny("llama"), {"published": (short, long), "matched": (short, short[::-1])})
    return replace(found, model=MODEL).save(out)


def emotion_control(out: Path) -> Path:
    found = control()
    replies = found.replies.assign(reply=found.replies["reply"] + f" {EVIL}")
    return replace(found, replies=replies, model=MODEL).save(out)


def emotion_discovery(out: Path) -> Path:
    frames = load_frames("datasets/emotion_frames.json")
    discover(tiny("llama"), SCENARIOS, frames, SETTINGS, out=out)
    return out


def emotion_run(out: Path) -> Path:
    emotion_control(out / "control")
    emotion_discovery(out / "discovery")
    return out


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "patch": patch,
    "unit_scores": unit_scores,
    "node_scores": node_scores,
    "edge_scores": edge_scores,
    "ablation": ablation,
    "circuit": circuit,
    "evaluation": evaluation,
    "faithfulness": faithfulness_curve,
    "query_value": query_value,
    "edit": edit,
    "edit ledger": ledger,
    "edit placement": placement,
    "edit comparison": comparison,
    "recall_reasoning": recall_study,
    "recall_replication": recall_replication,
    "emotion control": emotion_control,
    "emotion discovery": emotion_discovery,
    "emotion run": emotion_run,
}
"""Kind -> what writes a folder of it."""
