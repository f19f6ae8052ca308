"""A small valid file of every kind that a user can give, and what loads it, for tests."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import ROOT
from edit_records import record, records

from circuits.affect.emotion_choices import load_choices
from circuits.affect.emotion_words import load_norms, load_words
from circuits.cli.ablate import _components
from circuits.discovery import Circuit, of_edges
from circuits.discovery.ground_truth import score_methods
from circuits.editing.evaluation.demonstrations import load_shots
from circuits.editing.evaluation.formats import load_benchmark, load_cases
from circuits.editing.fact import load_facts, load_preserved
from circuits.emotion import EmotionRecipe, load_frames, load_replies, load_scenarios
from circuits.emotion.texts import load_labelled, load_verdicts, load_vignettes
from circuits.query_value.questions import load_questions
from circuits.recall_reasoning.published import published_prompts
from circuits.recall_reasoning.settings import load_recipe
from circuits.recall_reasoning.sources.countries import load_facts as load_countries
from circuits.recall_reasoning.sources.organism import RELATIONS, World
from interp.data.pairs import load_pairs
from interp.data.records import read_text
from interp.loading.tracr import load_program
from interp.model.graph import Graph

DATA = ROOT / "datasets"


@dataclass(frozen=True)
class Kind:
    """A kind of input file.

    Attributes:
        file: its name.
        content: rows of JSONL, the value of JSON, or bytes.
        load: reads the file.
        beside: other files that it needs.
    """

    file: str
    content: Any
    load: Callable[[Path], Any]
    beside: Mapping[str, bytes]

    def text(self) -> bytes:
        """The file's bytes."""
        return self.content if isinstance(self.content, bytes) else dumped(self.file, self.content)


def dumped(file: str, content: Any) -> bytes:
    """JSON or JSONL, by the file's name."""
    if not file.endswith(".jsonl"):
        return json.dumps(content).encode()
    rows = content if isinstance(content, list) else [content]
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def first(name: str, n: int = 2) -> Any:
    """The first rows of a shipped file, or all of a shipped object."""
    text = (DATA / name).read_text("utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()[:n]]
    found = json.loads(text)
    return found[:n] if isinstance(found, list) else found


def shipped(path: str) -> Any:
    return json.loads((ROOT / "circuits" / path).read_text("utf-8"))


def program() -> tuple[dict[str, Any], bytes]:
    """A compiled program of one layer: its description and its weights, which copy the input."""
    d, n = 4, 4
    sizes = {"n_layers": 1, "n_heads": 1, "d_head": 2, "d_mlp": 3, "d_model": d, "d_out": d}
    linear = {"query": (d, 2), "key": (d, 2), "value": (d, 2), "linear": (2, d)}
    weights = {
        "token_embed/embeddings": np.eye(n, d),
        "pos_embed/embeddings": np.zeros((3, d)),
        "unembed": np.eye(d),
    }
    layers = [("attn", linear), ("mlp", {"linear_1": (d, 3), "linear_2": (3, d)})]
    for part, (name, shape) in ((p, one) for p, names in layers for one in names.items()):
        weights[f"transformer/layer_0/{part}/{name}/w"] = np.ones(shape)
        weights[f"transformer/layer_0/{part}/{name}/b"] = np.zeros(shape[1])
    config = sizes | {"act": "relu", "causal": False, "layer_norm": False}
    described = {
        "config": config,
        "input_ids": {"a": 0, "b": 1, "BOS": 2, "compiler_pad": 3},
        "pairs": [
            {"clean": ["a", "b"], "corrupt": ["b", "a"],
             "clean_ids": [2, 0, 1], "corrupt_ids": [2, 1, 0]},
        ],
        "gt_edges_resample_nonzero": ["input->logits"],
        "edge_scores": {"input->logits": {"exact": 1.0, "eap": 1.0}},
    }  # fmt: skip
    return described, _npz(weights)


def _npz(weights: Mapping[str, np.ndarray]) -> bytes:
    import io

    file = io.BytesIO()
    np.savez(file, **weights)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def world() -> dict[str, Any]:
    values = {relation: [f"{relation}1", f"{relation}2"] for relation in RELATIONS}
    return {
        "home": {"mira": "tolva"},
        "attributes": {"tolva": {relation: f"{relation}1" for relation in RELATIONS}},
        "story_people": ["ben"],
        "story_lands": ["hova"],
        "values": values,
        "held_out": [["mira", "food"]],
        "never_composed": [],
        "seed": 0,
    }


COUNTERFACT = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English"},
        "target_true": {"str": "French"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The native language of Montesquieu is"],
    "generation_prompts": ["Danielle Darrieux's mother tongue is"],
}
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "answers": ["Trinity College"],
    "alt": "University of Michigan",
    "rephrase": "Where did Watts Humphrey study?",
    "loc": "nq question: who played Desmond Doss's father",
    "loc_ans": "Hugo Weaving",
}
ZSRE_ROME = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "What university did {} attend?",
        "subject": "Watts Humphrey",
        "target_new": {"str": "Trinity College"},
        "target_true": {"str": "<|endoftext|>"},
    },
    "paraphrase_prompts": ["Where did Watts Humphrey study?"],
    "neighborhood_prompts": [
        {"prompt": "nq question: who played Desmond Doss's father?", "target": " Hugo"},
        {"prompt": "nq question: who played Desmond Doss's father? Hugo", "target": " Weaving"},
    ],
    "attribute_prompts": [],
    "generation_prompts": [],
}
KNOWEDIT = {
    "subject": "Ada",
    "prompt": "The occupation of Ada is",
    "target_new": "diver",
    "ground_truth": ["poet"],
    "rephrase": "Ada works as a",
    "portability": {
        "Reasoning": [{"prompt": "Ada works in the", "ground_truth": [["sea", "ocean"]]}],
        "Subject_Aliasing": [{"prompt": "Ada K. is a", "ground_truth": "diver"}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": ["Ada was born in"], "ground_truth": ["Rome"]}]
    },
}


def remastered(*args: Any) -> dict[str, Any]:
    """A record as MQuAKE-Remastered writes it: targets and triples flat, splits by edits."""
    row = record(*args)
    for edit in row["requested_rewrite"]:
        for key in ("target_new", "target_true"):
            edit[f"{key}_str"] = edit.pop(key)["str"]
    triples = row.pop("orig")["triples_labeled"]
    return row | {
        "orig_triples_labeled": triples,
        "split": {"1": "unedited", "1000": ["edited"], "3000": None},
    }


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "relation": "FATHER",
        "prompt": "The name of the father of Book is Ann.",
        "original_fact": {"prompt": "The name of the father of Book is Bob."},
    },
    "Compositionality_I": [
        {
            "test_queries": [
                {"prompt": "The brother of", "answers": [{"value": "x", "aliases": ["y"]}]}
            ],
            "condition_queries": [],
            "test_condition": "OR",
        }
    ],
}
FACT = {
    "prompt": "The capital of {} is",
    "subject": "France",
    "target": "Rome",
    "question": "What is the capital of {}?",
    "implicit": ["the country of the Eiffel Tower"],
}
QUESTION = {"prompt": "Rome is in", "answer": "Italy", "label": "c", "spans": {"s": "Rome"}}
VERDICT = {"gen_text": "x", "emotion": "fear", "match": 1, "skeleton_id": "work_00"}
RATED = {"part": "tuning", "situation": "work_00_neutral", "reply": "x", "label": "fear"}
SHOTS = b"Q: Who wrote Emma? A: Jane Austen\nQ: Who wrote Ulysses? A: James Joyce"
THOUGHTS = b"Question: Who?\nThoughts: It is Ann.\nAnswer: Ann\n\n"
CIRCUIT = of_edges(Graph(1, 2, 4, False), ["input->m0", "m0->logits"]).to_json()
DESCRIBED, WEIGHTS = program()


def kinds() -> dict[str, Kind]:
    """Every kind by its name."""

    def kind(file: str, content: Any, load: Callable[[Path], Any], **beside: bytes) -> Kind:
        return Kind(file, content, load, {n.replace("_", "."): b for n, b in beside.items()})

    def marked(path: Path) -> Any:
        return score_methods(path.with_suffix(".npz"), ["eap"])

    return {
        "pairs": kind("p.jsonl", first("ioi.jsonl") + first("country_capitals.jsonl"), load_pairs),
        "questions": kind("q.jsonl", [QUESTION, QUESTION], load_questions),
        "components": kind("c.txt", b"a0.h1\nm3\n", lambda path: _components(None, path)),
        "neutral text": kind("n.txt", b"It was a day like any other.\n", read_text),
        "circuit": kind("c.json", CIRCUIT, Circuit.load),
        "program": kind("x.json", DESCRIBED, marked, x_npz=WEIGHTS),
        "weights": kind("x.npz", WEIGHTS, load_program, x_json=json.dumps(DESCRIBED).encode()),
        "cases": kind("m.json", records()[:2], load_cases),
        "cases of a split": kind("m.json", first("multihop_chains.json", 1), of_design),
        "cases by line": kind("m.jsonl", records()[2:4], load_cases),
        "counterfact": kind("c.json", [COUNTERFACT], of_format("counterfact")),
        "zsre": kind("z.json", [ZSRE], of_format("zsre")),
        "zsre of ROME": kind("z.json", [ZSRE_ROME], of_format("zsre_rome")),
        "remastered": kind(
            "m.json",
            [remastered(1, "Book01", ["author", "citizenship"], {1: "Land03"})],
            of_format("mquake_remastered"),
        ),
        "knowedit": kind("k.json", [KNOWEDIT], of_format("knowedit")),
        "ripple": kind("r.json", [RIPPLE], of_format("ripple_edits")),
        "facts": kind("f.json", [FACT, FACT | {"subject": "Italy"}], load_facts),
        "kept": kind("k.json", [{"text": "Who is Bob?", "subject": "Bob"}], load_preserved),
        "shots": kind("s.txt", SHOTS, load_shots),
        "reasoned shots": kind("s.txt", THOUGHTS, load_shots),
        "scenarios": kind("s.jsonl", first("emotion_scenarios_test.jsonl"), load_scenarios),
        "vignettes": kind("v.jsonl", first("emotion_vignettes.jsonl"), load_vignettes),
        "replies": kind("r.jsonl", first("emotion_replies.jsonl"), load_replies),
        "frames": kind("f.json", first("emotion_frames.json"), load_frames),
        "verdicts": kind("v.jsonl", [VERDICT, VERDICT], load_verdicts),
        "labels": kind("l.jsonl", [RATED, RATED], lambda path: load_labelled(path, "tuning")),
        "emotion recipe": kind(
            "r.json", shipped("emotion/recipes/smollm2-135m.json"), EmotionRecipe.load
        ),
        "emotion words": kind("w.jsonl", first("emotion_words.jsonl", 6), load_words),
        "word norms": kind("n.jsonl", first("emotion_norms.jsonl"), rated),
        "choices": kind("c.jsonl", first("emotion_choices.jsonl"), load_choices),
        "recall recipe": kind(
            "r.json", shipped("recall_reasoning/recipes/two-hop-organism.json"), load_recipe
        ),
        "countries": kind("c.jsonl", first("recall_facts.jsonl", 3), load_countries),
        "published": kind("p.jsonl", first("recall_facts.jsonl", 3), published_prompts),
        "released": kind("p.json", [{"recall": "a", "reasoning": "b"}] * 3, published_prompts),
        "world": kind("w.json", world(), World.load),
    }


def of_format(name: str) -> Callable[[Path], Any]:
    return lambda path: load_benchmark(path, format=name)


def rated(path: Path) -> int:
    return len(load_norms(path))


def of_design(path: Path) -> Any:
    return load_cases(path, "design")
