"""Two-hop cases that a tiny random model knows: made of what it says by itself.

Nothing is trained. A chain's answers are words that the model's greedy answers contain, so every
hop and every composed question is right before any edit.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_hf, word_tokenizer

import interp
from circuits.editing.evaluation.demonstrations import Shots
from circuits.editing.evaluation.edited_models import Ask, asking, generations
from interp.model.model import Model

PLAIN = Shots("", "{}")
"""Questions as they stand: of ``Q: … A:`` the word tokenizer knows no word, and the last token of
all questions would be one and the same."""

N_DRAWN = 90


def sharp(family: str = "llama", times: float = 10) -> Model:
    """A tiny model of its own with logits large enough to be sure of a token."""
    hf = tiny_hf(family)
    with torch.no_grad():
        hf.get_output_embeddings().weight.mul_(times)
    return interp.load_model(hf, tokenizer=word_tokenizer())


def answers(model: Model, questions: list[str]) -> list[list[str]]:
    """The two-digit words of each answer; shorter ones are no names to `Answer.lenient`."""
    asks = [asking(PLAIN, text) for text in questions]
    said = [PLAIN.read(text).split() for text in generations(model, asks, [()])]
    return [[word for word in dict.fromkeys(words) if len(word) == 3] for words in said]


def planted(model: Model, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records in MQuAKE's schema, two a chain: one edits its first hop, one its last.

    Args:
        model: the tiny model; its tokenizer is one token a word.
        n: chains.
        seed: of the words drawn.
    """
    rng = random.Random(seed)
    firsts = [_words(rng, 4) for _ in range(N_DRAWN)]
    composed = [_words(rng, 5) for _ in range(N_DRAWN)]
    bridges: dict[str, str] = {}
    for text, said in zip(firsts, answers(model, firsts), strict=True):
        fresh = [word for word in said if word not in text.split() and word not in bridges]
        if fresh:
            bridges[fresh[0]] = text
    seconds = [f"{bridge} {_words(rng, 2)}" for bridge in bridges for _ in range(4)]
    about = list(zip(seconds, answers(model, seconds), strict=True))
    asked = dict(zip(composed, answers(model, composed), strict=True))
    chains: list[dict[str, str]] = []
    for i, (bridge, first) in enumerate(bridges.items()):
        chain = _chain(bridge, first, about[4 * i : 4 * i + 4], asked)
        if chain and len(chains) < n:
            chains.append(chain)
            del asked[chain["composed"]]
    assert len(chains) == n, f"only {len(chains)} chains are to be had of this model"
    return [record for i in range(n) for record in _records(chains, i)]


def _words(rng: random.Random, n: int) -> str:
    return " ".join(f"w{rng.randrange(10, 90)}" for _ in range(n))


def _chain(
    bridge: str, first: str, about: list[tuple[str, list[str]]], asked: dict[str, list[str]]
) -> dict[str, str] | None:
    """A second hop and a composed question with an answer in common."""
    for second, said in about:
        for composed, also in asked.items():
            common = [w for w in said if w in also and w != bridge and w not in composed.split()]
            if common and bridge not in composed.split():
                return {
                    "first": first,
                    "bridge": bridge,
                    "second": second,
                    "composed": composed,
                    "answer": common[0],
                }
    return None


def _records(chains: list[dict[str, str]], i: int) -> list[dict[str, Any]]:
    one = chains[i]
    other = next(c for c in chains[i + 1 :] + chains[:i] if c["answer"] != one["answer"])
    old = [_hop(one["first"], one["bridge"]), _hop(one["second"], one["answer"])]
    elsewhere = [_hop(one["first"], other["bridge"]), _hop(other["second"], other["answer"])]
    taken = {one["answer"], one["bridge"], *one["composed"].split()}
    target = next(f"w{k}" for k in range(40, 60) if f"w{k}" not in taken)
    changed = [old[0], _hop(one["second"], target)]
    return [
        _record(2 * i, one, old, elsewhere, 0, f"w{70 + i}", other["bridge"]),
        _record(2 * i + 1, one, old, changed, 1, one["bridge"], target),
    ]


def _hop(question: str, answer: str) -> dict[str, Any]:
    return {"question": question, "cloze": f"{question} w5", "answer": answer}


def _record(
    id: int,
    chain: dict[str, str],
    old: list[dict[str, Any]],
    new: list[dict[str, Any]],
    at: int,
    subject: str,
    target: str,
) -> dict[str, Any]:
    start = f"w{70 + id // 2}"
    cloze = "w6 {} w7" if at == 0 else new[at]["cloze"].replace(subject, "{}", 1)
    phrase = " ".join(w for w in ("w81", "w82", "w83") if w != chain["bridge"])
    return {
        "case_id": id,
        "requested_rewrite": [
            {
                "prompt": cloze,
                "relation_id": f"r{at}",
                "target_new": {"str": target},
                "target_true": {"str": old[at]["answer"]},
                "subject": subject,
                "question": new[at]["question"],
                "implicit": [phrase] if at else [],
            }
        ],
        "questions": [chain["composed"]],
        "answer": chain["answer"],
        "new_answer": new[1]["answer"],
        "single_hops": old,
        "new_single_hops": new,
        "orig": {
            "triples_labeled": [
                [start, "r0", chain["bridge"]],
                [chain["bridge"], "r1", chain["answer"]],
            ]
        },
    }


def single_edit_files(model: Model, folder: Path) -> dict[str, Path]:
    """Files of three records in the schemas of CounterFact, zsRE, RippleEdits and KnowEdit.

    Objects before the edit are what the model says by itself.
    """
    edits = [(f"w{20 + i} w{60 + i}", f"w{70 + i}") for i in range(3)]
    clozes = [f"The director of {subject} is" for subject, _ in edits]
    plain = [f"w{30 + i} w{31 + i} w{i}5" for i in range(1, 10)]
    said = generations(model, [Ask(0, text, n_tokens=1) for text in [*clozes, *plain]], [()])
    true = said[:3]
    named = [one for one in zip(plain, said[3:], strict=True) if len(one[1]) == 3]
    plain, other = zip(*named[:3], strict=True)
    names = ("counterfact", "zsre", "zsre_rome", "ripple_edits", "knowedit")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for i, (subject, target) in enumerate(edits):
        rewrite = {"prompt": "The director of {} is", "subject": subject}
        rewrite |= {"target_new": {"str": target}, "target_true": {"str": true[i]}}
        rows["counterfact"].append(
            {"case_id": i, "requested_rewrite": rewrite, "paraphrase_prompts": [f"w3 {subject}"]}
            | {"neighborhood_prompts": [clozes[i]], "generation_prompts": ["w1 w2", "w3"]}
        )
        rows["zsre"].append(
            {"subject": subject, "src": clozes[i], "answers": [true[i]], "alt": target}
            | {"rephrase": f"w3 {subject}", "loc": f"nq question: {plain[i]}", "loc_ans": other[i]}
        )
        rows["zsre_rome"].append(
            rows["counterfact"][-1]
            | {"requested_rewrite": rewrite | {"target_true": {"str": "<|endoftext|>"}}}
            | {"neighborhood_prompts": [{"prompt": f"{plain[i]}?", "target": other[i]}]}
        )
        rows["knowedit"].append(
            {"subject": subject, "prompt": clozes[i], "target_new": target}
            | {"ground_truth": true[i], "rephrase_prompt": f"w3 {subject}"}
            | {"portability": _probes("Reasoning", "Subject_Aliasing", plain, other, i)}
            | {"locality": _probes("Relation_Specificity", "Forgetfulness", plain, other, i)}
        )
        tests = {"Relation_Specificity": other[i], "Subject_Aliasing": "w99"}
        rows["ripple_edits"].append(
            {
                "edit": {"prompt": f"{clozes[i]} {target}.", "relation": "DIRECTOR"},
                **{key: [_test(plain[i], answer)] for key, answer in tests.items()},
            }
        )
    files = {name: folder / f"{name}.json" for name in rows}
    for name, file in files.items():
        file.write_text(json.dumps(rows[name]))
    return files


def _probes(
    right: str, wrong: str, plain: Sequence[str], other: Sequence[str], i: int
) -> dict[str, Any]:
    """A prompt that the model continues as written here, two that it does not."""
    odd = [{"prompt": plain[(i + n) % 3], "ground_truth": f"w99 w9{n}"} for n in (1, 2)]
    return {right: [{"prompt": plain[i], "ground_truth": [[other[i], "w98"]]}], wrong: odd}


def _test(prompt: str, answer: str) -> dict[str, Any]:
    query = {"prompt": prompt, "answers": [{"value": answer, "aliases": []}]}
    return {"test_queries": [query], "test_condition": "OR", "condition_queries": [query]}
