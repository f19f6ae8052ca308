"""Query and value neurons of two-hop questions, found on some countries and tested on others.

    python benchmarks/query_value.py count --model gemma-3-270m --out runs/qv-gemma
    python benchmarks/query_value.py find --model gemma-3-270m --out runs/qv-gemma
    python benchmarks/query_value.py validate --model gemma-3-270m --out runs/qv-gemma

A question asks for the capital, language or continent of the country where a landmark is. Countries
are dealt to two halves. ``count`` writes which questions the model answers; ``find`` attributes
those of the first half in one wording; ``validate`` ablates what was found on (a) the other half's
questions, all sharing one set of neurons, and (b) the first half's questions in another wording,
each with the neurons of its own fact.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from circuits.query_value import QueryValue, find, validate
from circuits.query_value.questions import questions
from interp.data.prompts import prompt

ROOT = Path(__file__).parent.parent
WORDINGS = {
    "capital": (
        "The capital of the country where {} is located is",
        "{} is located in a country whose capital is the city of",
    ),
    "language": (
        "The language spoken in the country where {} is located is",
        "{} is located in a country where people speak",
    ),
    "continent": (
        "The country where {} is located lies on the continent of",
        "{} is located in a country that is part of the continent of",
    ),
}
LANGUAGES = {
    "Arabic": "Egypt Iraq Jordan Morocco Syria Yemen",
    "Chinese": "China Taiwan",
    "Czech": "Czechia",
    "Danish": "Denmark",
    "Dutch": "Netherlands",
    "English": "England Scotland Wales Australia Jamaica",
    "French": "France",
    "German": "Germany Austria",
    "Greek": "Greece",
    "Hebrew": "Israel",
    "Hungarian": "Hungary",
    "Italian": "Italy",
    "Japanese": "Japan",
    "Korean": "Korea",
    "Persian": "Iran",
    "Polish": "Poland",
    "Portuguese": "Portugal Brazil",
    "Russian": "Russia",
    "Spanish": "Spain Mexico Peru Argentina Chile Colombia Cuba Ecuador Venezuela",
    "Swedish": "Sweden",
    "Thai": "Thailand",
    "Turkish": "Turkey",
    "Vietnamese": "Vietnam",
}
CONTINENTS = {
    "Africa": "Egypt Ethiopia Ghana Kenya Morocco Nigeria Tanzania Uganda Zambia Zimbabwe",
    "Asia": "Afghanistan Cambodia China India Iran Iraq Israel Japan Jordan Korea Nepal Pakistan "
    "Syria Taiwan Thailand Vietnam Yemen Indonesia Malaysia",
    "Europe": "Austria Belgium Bulgaria Czechia Denmark England Finland France Germany Greece "
    "Hungary Iceland Ireland Italy Netherlands Norway Poland Portugal Romania Scotland Serbia "
    "Spain Sweden Switzerland Ukraine Wales",
}


@dataclass(frozen=True)
class Row:
    """A two-hop question in one wording."""

    landmark: str
    country: str
    relation: str
    wording: int
    answer: str

    @property
    def text(self) -> str:
        return WORDINGS[self.relation][self.wording].format(self.landmark)

    @property
    def fact(self) -> str:
        return f"{self.relation} of {self.landmark}"


def rows(n_landmarks: int) -> list[Row]:
    """Every question about the first landmarks of the data set, shuffled once."""
    places = _facts("landmark_countries")
    answers = {"capital": _facts("country_capitals")}
    for relation, table in (("language", LANGUAGES), ("continent", CONTINENTS)):
        answers[relation] = {c: name for name, listed in table.items() for c in listed.split()}
    names = sorted(places)
    order = np.random.default_rng(0).permutation(len(names))[:n_landmarks]
    return [
        Row(names[i], places[names[i]], relation, wording, answers[relation][places[names[i]]])
        for i in order
        for relation in WORDINGS
        for wording in (0, 1)
        if places[names[i]] in answers[relation]
    ]


def _facts(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in interp.load_pairs(ROOT / "datasets" / f"{name}.jsonl"):
        start, end = pair.spans["subject"][0]
        found[pair.clean[start:end]] = pair.answer
    return found


def count(args: argparse.Namespace) -> dict[str, Any]:
    """Which questions the model answers rightly."""
    model = interp.load_model(args.model)
    asked = _single(model, rows(args.landmarks))
    kept, _ = questions(model, [r.text for r in asked], [r.answer for r in asked])
    right = [vars(asked[int(one.id)]) for one in kept]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "known.json").write_text(json.dumps(right, indent=1), encoding="utf-8")
    return {"asked": len(asked), "right": len(right), **_tally(Row(**r) for r in right)}


def _single(model: interp.Model, asked: list[Row]) -> list[Row]:
    """Without the questions whose answer is several tokens."""
    known = {row.answer for row in asked}
    ids = {a: model.tokenizer(f" {a}", add_special_tokens=False)["input_ids"] for a in known}
    return [row for row in asked if len(ids[row.answer]) == 1]


def _tally(known: Iterable[Row]) -> dict[str, int]:
    out: dict[str, int] = {}
    for row in known:
        name = f"{row.relation}, wording {row.wording}"
        out[name] = out.get(name, 0) + 1
    return out


def halves(args: argparse.Namespace) -> dict[str, list[Row]]:
    """Discovery, other countries (a), and other wording (b), at most `args.n` of each."""
    known = [Row(**r) for r in json.loads((args.out / "known.json").read_text("utf-8"))]
    countries = sorted({row.country for row in known})
    dealt = np.random.default_rng(1).permutation(countries)
    first = set(dealt[: len(dealt) // 2].tolist())
    plain = [row for row in known if row.wording == args.wording]
    again = {row.fact for row in known if row.wording != args.wording}
    ours = [row for row in plain if row.country in first]
    # facts that are also answered in the other wording come first
    ours = sorted(ours, key=lambda row: row.fact not in again)[: args.n]
    facts = {row.fact for row in ours}
    return {
        "discovery": ours,
        "countries": [row for row in plain if row.country not in first][: args.n],
        "wording": [r for r in known if r.wording != args.wording and r.fact in facts],
    }


def given(model: interp.Model, some: list[Row]) -> tuple[list[Any], list[str]]:
    """Prompts with the landmark as a span, and answers."""
    return [prompt(model, r.text, landmark=r.landmark) for r in some], [r.answer for r in some]


def found(args: argparse.Namespace) -> dict[str, Any]:
    """Attribute the discovery questions."""
    model, some = interp.load_model(args.model), halves(args)["discovery"]
    prompts, answers = given(model, some)
    result = find(
        model,
        prompts,
        answers,
        labels=[r.relation for r in some],
        clusters=[r.fact for r in some],
        every=args.every,
        progress=lambda done, total: print(f"{done}/{total}", flush=True),
    )
    result.save(args.out / "run")
    return result.summary()


def validated(args: argparse.Namespace) -> dict[str, Any]:
    """Ablate what was found, on questions that were not used to find it."""
    model, parts = interp.load_model(args.model), halves(args)
    result = QueryValue.load(args.out / "run")
    out: dict[str, Any] = {}
    for name, neurons, cluster in (
        ("countries", "shared", lambda r: r.country),
        ("wording", "own", lambda r: r.fact),
    ):
        prompts, answers = given(model, parts[name])
        clusters = [cluster(r) for r in parts[name]]
        for positions in args.positions.split(","):
            done = validate(
                model,
                result,
                prompts,
                answers,
                clusters=clusters,
                neurons=neurons,
                n_query=args.neurons,
                positions=positions,
            )
            out[f"{name}, {positions}"] = done.summary()
            print(name, positions, done.table().round(3).to_string(), sep="\n", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    work = {"count": count, "find": found, "validate": validated}
    parser.add_argument("stage", choices=work)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--landmarks", type=int, default=192, help="How many to ask about.")
    parser.add_argument("--wording", type=int, choices=(0, 1), default=0, help="The main one.")
    parser.add_argument("--n", type=int, default=60, help="Most questions of each part.")
    parser.add_argument("--every", action="store_true", help="Score every neuron in find.")
    parser.add_argument("--neurons", type=int, default=30, help="Query neurons ablated.")
    parser.add_argument("--positions", default="all", help="Where: all, landmark, last, ….")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = work[args.stage](args)
    (args.out / f"{args.stage}.json").write_text(json.dumps(report, indent=1, default=float))
    print(json.dumps(report, default=float))


if __name__ == "__main__":
    main()
