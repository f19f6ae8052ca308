"""Edit real two-hop cases and ask two hops later: the figures of docs/results/editing.md.

    python benchmarks/edit_methods.py know    --model gemma-3-270m
    python benchmarks/edit_methods.py place   --model gemma-3-270m
    python benchmarks/edit_methods.py layers  --model gemma-3-270m --n 16
    python benchmarks/edit_methods.py strengths --model gemma-3-270m --n 8 --methods ace,rome+
    python benchmarks/edit_methods.py compare --model gemma-3-270m --n 12 --methods ace,rome+,none
    python benchmarks/edit_methods.py random-layers --model gemma-3-270m --n 12

`know` asks the unedited model; `place` chooses layers on the design half; `layers` edits each
single layer of the deep stage and correlates what became of it with scores of the layers on other
cases; `strengths` tries each method's settings; `compare` compares methods; `random-layers` is
`ace` at random layers and at `ifmet`'s. Every step keeps what it has done under --out and goes on
from there.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

import interp
from circuits.editing import LayerSelection, preset
from circuits.editing.editor import moments_for
from circuits.editing.evaluation import conditions
from circuits.editing.evaluation.cases import Case, Cases
from circuits.editing.evaluation.conditions import EditCondition, Protocol, evaluate_condition
from circuits.editing.evaluation.control_questions import (
    QuestionPool,
    control_questions,
    preservation_set,
    preserved_of,
)
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.fact_questions import FACT_METRICS
from circuits.editing.evaluation.formats import load_cases
from circuits.editing.evaluation.implicit_names import with_names
from circuits.editing.evaluation.intervals import compare as compare_scores
from circuits.editing.evaluation.intervals import summary
from circuits.editing.evaluation.method_comparison import IN_PROMPT
from circuits.editing.evaluation.multihop_metrics import score
from circuits.editing.evaluation.prior_knowledge import Knowledge, prior_knowledge
from circuits.editing.fact import PreservedQuestion
from circuits.editing.fact_prompts import contexts, preserved_prompts
from circuits.editing.layer_search import (
    propagation_of,
    question_moments,
    selected,
    subject_moments,
)
from circuits.editing.layer_selection import selection_for
from circuits.editing.match_scores import Propagation, match_scores, site_of
from circuits.editing.methods import NAMES, QUERY_NEURONS, VALUE_NEURONS, Method, Names, Neurons
from circuits.editing.moments import Moments
from circuits.editing.presets import depth, early
from circuits.editing.writing import Request, Written
from circuits.query_value import find
from interp.results.run_folder import RunFolder, fingerprint, identity
from interp.statistics.bootstrap import bootstrap_mean

CHAINS = "datasets/multihop_chains.json"
IMPLICIT = 6  # implicit phrases a fact, at most
CONTEXTS = 2  # of the five; the bare cloze comes first
PER_BRIDGE = 3
SCORED, LEARNT = 40, 140  # facts of the design half that score layers, and all that are used
STRENGTHS = tuple(f"strength={part}" for part in (0.5, 0.7, 1.0))
GRIDS = {"ace": tuple(f"thresholds={part}" for part in (1.0, 1.15, 1.3))}
"""Settings of a method's strength; `ace` has thresholds instead."""
CRITERIA = np.array([0.85, 0.80])
"""Least specificity and control two-hop accuracy."""
SHOWN = (
    "efficacy",
    "paraphrase",
    "multi_hop",
    "control_two_hop",
    "net_multi_hop",
    "specificity",
    "multi_hop_excess",
)


def knowledge(model: interp.Model, cases: Cases[Case], out: Path) -> Knowledge:
    """Asked once for these demonstrations and weights, then read."""
    mark = marked(SHOTS.prefix, identity(model))
    file = out / f"know_{model.name}_{Path(cases.source).stem}_{mark}.json"
    said = json.loads(file.read_text()) if file.exists() else {}
    found = prior_knowledge(model, cases, SHOTS, lambda i, n: print("asked", i, "of", n), said)
    if len(found.answers) > len(said):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found.answers))
    return found


def chosen(
    cases: list[Case],
    n: int,
    position: str,
    skip: int = 0,
    seed: int = 0,
    learnt: Collection[str] = (),
    names: Names = "given",
) -> list[Case]:
    """Two-hop cases of a position in a seeded order, after the first `skip`.

    The first few of each bridge come before all others. Cases that edit a subject in `learnt` are
    passed over, and of last hops those whose given `names` are lacking.
    """
    rows = [c for c in cases if c.n_hops == 2 and c.n_edits == 1 and c.position == position]
    random.Random(f"{seed} {position}").shuffle(rows)
    taken: dict[str, int] = {}
    out: list[Case] = []
    beyond: list[Case] = []
    for case in rows:
        bridge = case.bridges[0]
        named = names != "given" or position == "first" or case.facts[0].implicit
        fresh = case.facts[0].subject not in learnt
        if named and fresh:
            taken[bridge] = taken.get(bridge, 0) + 1
            facts = [replace(fact, implicit=fact.implicit[:IMPLICIT]) for fact in case.facts]
            few = out if taken[bridge] <= PER_BRIDGE else beyond
            few.append(replace(case, facts=tuple(facts)))
    return [*out, *beyond][skip : skip + n]


def load(
    args: argparse.Namespace, split: str = ""
) -> tuple[interp.Model, list[Case], QuestionPool]:
    """The model, the usable cases of a split, and the questions that controls come from."""
    torch.set_num_threads(args.threads)
    model = interp.load_model(args.model, dtype=args.dtype)
    source = CHAINS if split else args.cases
    everything = load_cases(source)
    by_bridge = tuple(replace(case, cluster=case.bridges[0]) for case in everything)
    everything = replace(everything, records=by_bridge)
    known = knowledge(model, everything, args.out)
    half = split or (args.split if source == CHAINS else "")
    mine = [case for case in everything if not half or case.split == half]
    usable = [case for case in mine if not known.missing(case)]
    print(f"{everything.source} {half}: {len(mine)} cases, {len(usable)} usable", flush=True)
    return model, usable, QuestionPool.of(mine, known.right)


def design_facts(args: argparse.Namespace, without: list[Case]) -> list[tuple[Case, Propagation]]:
    """Facts of the design half that no case edits: what layers and moments are learnt from."""
    model, usable, pool = load(args, "design")
    edited = {fact.subject for case in without for fact in case.facts}
    by_fact = {
        (case.facts[0].prompt, case.facts[0].subject): case
        for case in usable
        if case.position == "last" and case.facts[0].implicit
    }
    cases = [case for (_, subject), case in by_fact.items() if subject not in edited]
    random.Random(0).shuffle(cases)
    found = [(case, propagation_of(model, case, pool, SHOTS)) for case in cases]
    return [(case, reach) for case, reach in found if reach is not None][:LEARNT]


def moments_at(args: argparse.Namespace, cases: list[Case], method: Method) -> Moments:
    """Moments of a method: over samples, and of questions about facts that no case edits."""
    model = interp.load_model(args.model, dtype=args.dtype)
    edited = {fact.subject for case in cases for fact in case.facts}
    left_out = sorted(edited & learnt_subjects())
    placement = layers_of(args, model)
    at = {(site_of(s), i) for s in method.stages if isinstance(s, Neurons) for i in s.layers}
    if not left_out and at <= set(placement.moments):
        return moments_for(model, [method], placement)
    file = args.out / f"keys_{args.model}_{marked(left_out, identity(model))}.safetensors"
    kept = load_file(file) if file.exists() else {}
    stages = [stage for stage in method.stages if isinstance(stage, Neurons)]
    for anchor in ("last", "subject_last"):
        layers = [i for stage in stages if stage.anchor == anchor for i in stage.layers]
        missing = [i for i in layers if f"{anchor} {i}" not in kept]
        if missing:
            fresh = learnt_moments(args, model, cases, missing, anchor)
            kept |= {f"{anchor} {layer}": moment for (_, layer), moment in fresh.items()}
            save_file(kept, file)
    found = {i: kept[f"{stage.anchor} {i}"] for stage in stages for i in stage.layers}
    return moments_for(model, [method], LayerSelection((), (), "", found))


def learnt_moments(
    args: argparse.Namespace, model: interp.Model, cases: list[Case], layers: list[int], anchor: str
) -> Moments:
    """How keys vary at subjects' own tokens, or at last tokens, of design facts not edited."""
    if anchor == "subject_last":
        return subject_moments(model, free_cases(cases), layers)
    reaches = [reach for _, reach in design_facts(args, cases)]
    return question_moments(model, reaches, free_cases(cases), layers)


def free_cases(cases: list[Case]) -> Cases[Case]:
    """Design cases whose facts are about no subject that is edited."""
    edited = {fact.subject for case in cases for fact in case.facts}
    return load_cases(CHAINS).where(
        lambda case: case.split == "design" and all(f.subject not in edited for f in case.facts)
    )


def run(
    args: argparse.Namespace,
    model: interp.Model,
    pool: QuestionPool,
    condition: EditCondition,
    cases: list[Case],
    seed: int = 0,
) -> pd.DataFrame:
    """Evaluate one condition, print its line, return its scores."""
    moments = moments_at(args, cases, condition.method) if condition.method else {}
    templates = contexts(model, seed=seed)[: 1 + CONTEXTS]
    protocol = Protocol(SHOTS, pool, seed=seed, fact_questions=args.facts)
    given = cases, seed, args.facts, condition, layers_of(args, model).summary()
    with steps_of(args, f"{condition.name}.{seed}", model, *given) as steps:
        answers, edits = evaluate_condition(
            model, condition, cases, protocol, moments, templates, steps
        )
    scores = score(answers)
    for part in [[], ["position"]]:
        table = summary(scores, part)
        wide = table.pivot_table(index=part or ["condition"], columns="metric", values="value")
        print(wide.reindex(columns=list(SHOWN)).round(3).to_string(), flush=True)
    p = [x for line in edits["p"] for stage in json.loads(line) for x in stage if x == x]
    line = f"{condition.name}, seed {seed}, n = {len(cases)}: {edits['seconds'].mean():.1f} s per "
    print(f"{line}edit, target probability at least {min(p, default=1):.2f}\n", flush=True)
    facts = edits.filter(["case", "seed", *FACT_METRICS])
    return scores.merge(facts, on=["case", "seed"]).assign(p=float(np.mean(p)) if p else np.nan)


def place(args: argparse.Namespace) -> None:
    """Choose layers as `interp edit place` does, on facts of the design half."""
    model = interp.load_model(args.model, dtype=args.dtype)
    design = load_cases(CHAINS).where(lambda case: case.split == "design")
    found = selected(model, [reach for _, reach in design_facts(args, [])], design)
    print(found.by, found.query, found.value)
    found.save(placement_folder(args))


def placement_folder(args: argparse.Namespace) -> Path:
    return args.out / f"{args.model}.placement"


def layers_of(args: argparse.Namespace, model: interp.Model) -> LayerSelection:
    """What `place` chose, or where it has not run the package's own."""
    folder = placement_folder(args)
    found = selection_for(model, folder if folder.is_dir() else None, "ace")
    assert found is not None
    return found


def score_layers(args: argparse.Namespace) -> None:
    """Edit single layers, and correlate with their scores on cases that are not edited."""
    model, usable, pool = load(args)
    cases = chosen(usable, args.n, "last")
    lo, _, hi = args.layers.partition(":")
    every = range(int(lo or model.arch.n_layers // 3), int(hi or model.arch.n_layers))
    stages = [replace(VALUE_NEURONS, layers=(i,)) for i in every]
    moments_at(args, cases, Method("", tuple(stages)))  # of all layers in one go, then kept
    edited = [
        run(
            args, model, pool, EditCondition(f"value{stage.layers[0]}", Method("", (stage,))), cases
        )
        for stage in stages
    ]
    net = np.stack([frame.sort_values("case")["net_multi_hop"].to_numpy() for frame in edited])
    facts = design_facts(args, cases)
    scored, learnt = facts[:SCORED], [reach for _, reach in facts[SCORED:]]
    free = free_cases([*cases, *(case for case, _ in scored)])
    moments = question_moments(model, learnt, free, every)
    got = match_scores(model, [reach for _, reach in scored], VALUE_NEURONS, moments, every)
    print(f"{len(scored)} facts score, {len(learnt)} learn, {len(cases)} cases are edited")
    for i, layer in enumerate(every):
        print(
            f"layer {layer}: selectivity {(got.through - got.others)[:, i].mean():.3f}, separation "
            f"{got.separation[i]:.3f}, targets {edited[i]['p'].iloc[0]:.2f}, net multi-hop "
            f"{np.nanmean(net[i]):.3f}"
        )
    correlated("selectivity", got.through - got.others, net)
    correlated("the paper's score", paper_scores(model, [case for case, _ in scored], every), net)


def direct_questions(args: argparse.Namespace) -> None:
    """Match scores of value neurons learnt with implicit names, and from direct questions alone."""
    model = interp.load_model(args.model, dtype=args.dtype)
    facts = design_facts(args, [])
    scored = [reach for _, reach in facts[: args.n]]
    unnamed = [replace(one, fact=replace(one.fact, implicit=())) for one in scored]
    deep = range(model.arch.n_layers // 2, model.arch.n_layers)
    learnt, free = [reach for _, reach in facts[args.n :]], free_cases([c for c, _ in facts])
    moments = question_moments(model, learnt, free, deep)
    for name, some in (("with names", scored), ("direct questions", unnamed)):
        got = match_scores(model, some, VALUE_NEURONS, moments, deep)
        means = (x.mean(0).round(2) for x in (got.through, got.others))
        print(name, "AUROC", got.separation.round(3), "through, others", *means, flush=True)


def paper_scores(
    model: interp.Model, cases: list[Case], layers: range
) -> Float[np.ndarray, "question layer"]:
    """ACE's score: how much an FFN raises the log-probability of the answer before the edit."""
    asked = [(SHOTS.ask(text), case.answer.text) for case in cases for text in case.questions]
    short = [(text, answer) for text, answer in asked if len(model.encode(f" {answer}")) == 2]
    found = find(model, [text for text, _ in short], [f" {answer}" for _, answer in short])
    print(f"paper's score: {len(found.questions)} of {len(asked)} questions, answers of one token")
    return found.by_layer()["value"].sel(sublayer="ffn").to_numpy()[:, list(layers)]


def correlated(name: str, score_of: Float[np.ndarray, "fact layer"], net: np.ndarray) -> None:
    """Spearman's rank correlation over layers, with a bootstrap over facts and over cases."""
    rng, draws = np.random.default_rng(0), []
    n, m = len(score_of), net.shape[1]
    for _ in range(2000):
        a, b = rng.integers(n, size=n), rng.integers(m, size=m)
        draws.append(spearmanr(score_of[a].mean(0), np.nanmean(net[:, b], 1))[0])
    rho = spearmanr(score_of.mean(0), np.nanmean(net, 1))[0]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    print(f"rank correlation of {name} over {len(net)} layers: {rho:.2f} [{low:.2f}, {high:.2f}]")


def mixed(args: argparse.Namespace) -> tuple[interp.Model, list[Case], QuestionPool]:
    """As many first-hop as last-hop edits, with the names asked for, which are counted.

    In the test half of subjects that S knows nothing of.
    """
    model, usable, pool = load(args)
    learnt = learnt_subjects() if args.split == "test" else ()
    cases = [
        case
        for at in ("first", "last")
        for case in chosen(usable, args.n, at, args.skip, learnt=learnt, names=args.names)
    ]
    with steps_of(args, "names", model, cases) as steps:
        cases, tried = with_names(model, cases, args.names, steps)
    for position in ("first", "last"):
        rows = [i for i, case in enumerate(cases) if case.position == position]
        if rows:
            print(position, name_shares([cases[i] for i in rows]))
            print("  ", dict(Counter(tried.loc[tried["fact"].isin(rows), "outcome"])), flush=True)
    return model, cases, pool


def name_shares(cases: list[Case]) -> str:
    """Share of cases with at least one, two and four names, intervals over bridges."""
    n = np.array([len(case.facts[0].implicit) for case in cases], dtype=float)
    bridges = [case.cluster for case in cases]
    parts = [f"n {len(n)}, {len(set(bridges))} bridges, mean {n.mean():.1f} names"]
    for least in (1, 2, 4):
        share = bootstrap_mean((n >= least).astype(float), clusters=bridges)
        parts.append(f"{least}+: {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]")
    return "; ".join(parts)


def folder_of(args: argparse.Namespace) -> Path:
    """Where runs on cases of one source are kept."""
    source = args.split if args.cases == CHAINS else Path(args.cases).stem
    return args.out / f"{args.model}.{source}.{args.names}.{args.tag}"


def steps_of(args: argparse.Namespace, name: str, model: interp.Model, *given: Any) -> RunFolder:
    """Steps that are read again where the same is given for the same weights; never finished."""
    key = {"given": fingerprint(given)} | identity(model)
    return RunFolder.open(folder_of(args) / f"{name}.{marked(key)}", "edit step", key)


def marked(*parts: Any) -> str:
    """A few letters that stand for what decides a file's contents."""
    return fingerprint(parts).removeprefix("blake2b:")[:8]


def learnt_subjects() -> set[str]:
    """Subjects of the facts of the design half."""
    return {f.subject for c in load_cases(CHAINS) if c.split == "design" for f in c.facts}


def compare(args: argparse.Namespace) -> None:
    """Compare methods, the first with each of the others."""
    model, cases, pool = mixed(args)
    placement = layers_of(args, model)
    names, found = args.methods.split(","), list[pd.DataFrame]()
    for seed in map(int, args.seeds.split(",")):
        for name in names:
            found.append(run(args, model, pool, condition_of(name, model, placement), cases, seed))
    scores = pd.concat(found, ignore_index=True)
    for by in ([], ["position"]):
        for name, table in summary(scores, by).groupby(["condition", *by], sort=False):
            print(name, *map(interval, table.itertuples()), sep="  ")
        for other in names[1:]:
            both = compare_scores(scores, names[0], other, by)
            for at, table in both.groupby(by, sort=False) if by else [("", both)]:
                print(f"{names[0]} minus {other}", at, *map(interval, table.itertuples()), sep="  ")


def interval(line: Any) -> str:
    """A metric with its interval and number of cases."""
    return f"{line.metric} {line.value:.3f} [{line.low:.3f}, {line.high:.3f}] n {line.cases}"


def strengths(args: argparse.Namespace) -> None:
    """Per method the setting of its grid that is best on design cases.

    That is the one of largest net multi-hop of those that meet both criteria of locality; where
    none does, the one that misses them by least.
    """
    model, cases, pool = mixed(args)
    placement = layers_of(args, model)
    for name in args.methods.split(","):
        found: dict[str, tuple[float, float]] = {}
        for setting in GRIDS.get(name, STRENGTHS):
            one = condition_of(f"{name}:{setting}", model, placement)
            scores = run(args, model, pool, one, cases)
            got = scores[["specificity", "control_two_hop", "net_multi_hop"]].mean()
            short = np.minimum(got[["specificity", "control_two_hop"]] - CRITERIA, 0).sum()
            found[one.name] = float(short), float(got["net_multi_hop"])
        print("chosen:", max(found, key=lambda name: found[name]), flush=True)


def written_once(write: Callable[..., list[Written]]) -> Callable[..., list[Written]]:
    """`write`, which remembers the last method's edits whatever name the method goes by.

    So strengths of one method, which are parts of the same change, are searched once.
    """
    known: dict[Any, list[Written]] = {}

    def once(model: interp.Model, requests: list[Request], **given: Any) -> list[Written]:
        key = given["method"].stages, tuple(requests), tuple(given["templates"])
        if key not in known:
            for old in [old for old in known if old[0] != key[0]]:
                del known[old]
            known[key] = write(model, requests, **given)
        return known[key]

    return once


def condition_of(name: str, model: interp.Model, placement: LayerSelection) -> EditCondition:
    """A condition by name; numbers of a preset's stages may be given: ``rome+:rho=0.5:until=0.3``.

    ``strength`` is the part of the finished change that is applied; ``thresholds`` multiplies the
    match scores above which value neurons are active.
    """
    base, *said = name.split(":")
    if base in IN_PROMPT:
        return EditCondition(name, in_prompt=IN_PROMPT[base])
    other = {key: float(value) for key, value in (one.split("=") for one in said)}
    times, at = other.pop("thresholds", 1.0), placement
    if at.threshold and at.direct_threshold:
        changed = {
            "threshold": times * at.threshold,
            "direct_threshold": times * at.direct_threshold,
        }
        at = replace(at, **changed)
    method = preset(base, model, at)
    strength = other.pop("strength", 1.0)
    search = {key: other.pop(key) for key in ("until", "clamp", "kl") if key in other}
    stages = (
        replace(stage, **other, **({"search": replace(stage.search, **search)} if search else {}))
        for stage in method.stages
    )
    return EditCondition(name, Method(name, tuple(stages)), strength=strength)


def random_layers(args: argparse.Namespace) -> None:
    """`ace` at random layers and at those of `ifmet`; the numbers of layers stay."""
    model, cases, pool = mixed(args)
    at = layers_of(args, model)
    rng, n = np.random.default_rng(0), model.arch.n_layers
    drawn = [_random(rng, n, at) for _ in range(args.draws)]
    others = [_elsewhere(at, early(model), depth(model, 16 / 28, 20 / 28))]
    every = tuple(range(n))
    stages = (replace(stage, layers=every) for stage in (VALUE_NEURONS, QUERY_NEURONS))
    moments_at(args, cases, Method("", tuple(stages)))  # of all layers in one go, then kept
    for placement in (at, *others, *drawn):
        name = f"ace{placement.query}{placement.value}".replace(" ", "")
        run(args, model, pool, EditCondition(name, preset("ace", model, placement)), cases)


def _random(rng: np.random.Generator, n: int, like: LayerSelection) -> LayerSelection:
    """As many layers, anywhere."""
    layers = rng.choice(n, len(like.query) + len(like.value), replace=False).tolist()
    query, value = sorted(layers[: len(like.query)]), sorted(layers[len(like.query) :])
    return _elsewhere(like, tuple(query), tuple(value))


def _elsewhere(
    like: LayerSelection, query: tuple[int, ...], value: tuple[int, ...]
) -> LayerSelection:
    """A layer selection's settings at other layers, of which it has no moments."""
    return replace(like, query=query, value=value, by="a control", covariances={}, separation={})


def subject_tokens(args: argparse.Namespace) -> None:
    """How well the subject's own token shows which relation is asked, by layer (AUROC).

    Of facts with implicit names: two-hop questions that name the subject, against questions about
    other relations of it, of which the editor was given none. Known or not, as only keys are read.
    """
    model, anchor = interp.load_model(args.model, dtype=args.dtype), QUERY_NEURONS.anchor
    design = load_cases(CHAINS).where(lambda case: case.split == "design")
    texts = {q for c in design for q in (*c.questions, *(hop.question for hop in c.hops))}
    pool, found = QuestionPool.of(design, texts), dict[str, Propagation]()
    cases = [c for c in design if c.position == "first" and c.n_edits == 1 and c.facts[0].implicit]
    for case in cases:
        fact, scored = case.facts[0], control_questions(case, pool)
        asked = case.questions, [q.text for q in scored["neighbour"]]
        through, others = (
            [PreservedQuestion(t, fact.subject) for t in some if fact.subject in t]
            for some in asked
        )
        if through and others:
            prompts = (tuple(preserved_prompts(model, one, anchor)) for one in (through, others))
            given = preserved_of(preservation_set(case, pool, scored, 8))
            found.setdefault(fact.cloze, Propagation(fact, *prompts, given))
    facts, layers = list(found.values()), range(model.arch.n_layers)
    moments = subject_moments(model, free_cases(cases), layers)
    print(f"{len(facts)} facts, {sum(len(one.others) for one in facts)} questions beside them")
    for rho, weight in ((4.0, 0.3), (1.0, 3.0), (0.3, 30.0)):
        stage = replace(QUERY_NEURONS, rho=rho, preserved_weight=weight)
        got = match_scores(model, facts, stage, moments, layers)
        print(f"rho {rho:g}, weight of preserved questions {weight:g}:", got.separation.round(2))


STEPS = {"know": load, "place": place, "layers": score_layers, "strengths": strengths}
STEPS |= {"compare": compare, "random-layers": random_layers, "subject-tokens": subject_tokens}
STEPS |= {"direct-questions": direct_questions, "names": mixed}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", default=CHAINS, help="multi-hop cases of another file")
    parser.add_argument("--names", default="given", choices=NAMES, help="implicit names")
    parser.add_argument("--facts", action="store_true", help="deny, check and turn round edits")
    parser.add_argument("--split", default="design", help="of the cases; keep test for the end")
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    parser.add_argument("--tag", default="run", help="name of this set of runs under --out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n", type=int, default=16, help="cases (of compare: of either position)")
    parser.add_argument("--skip", type=int, default=0, help="cases passed over first")
    parser.add_argument("--layers", default="", help="FROM:TO")
    parser.add_argument("--draws", type=int, default=10, help="random layer selections")
    parser.add_argument("--methods", default="none,prompt-only,rome,rome+,ace")
    parser.add_argument("--seeds", default="0")
    args = parser.parse_args()
    conditions.write = written_once(conditions.write)
    STEPS[args.step](args)
