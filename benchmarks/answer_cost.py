"""What a sweep over answers of three tokens costs beside one token: docs/results/whole_answers.md.

python benchmarks/answer_cost.py                     # smollm2-135m, three lengths of prompt
python benchmarks/answer_cost.py --rounds 1 --metric logprob

The prompts are those of a pair set; the answers are made up, the same in every pair. Both sweeps
take turns, and the median of the rounds counts.
"""

import dataclasses
import statistics
import time
from typing import Annotated

import typer

import interp
from interp.data.pairs import PromptPairs, tokenise

ANSWERS = {1: (" Paris", " Rome"), 3: (" Paris and London", " Rome or Berlin")}
SETS = (("ioi", 2), ("country_capitals", 4), ("linguistic_puzzles", 2))


def with_answers(pairs: PromptPairs, n_tokens: int) -> PromptPairs:
    """The same prompts with answers of so many tokens."""
    own = dict(zip(("answer", "wrong_answer"), ANSWERS[n_tokens], strict=True))
    own |= {"aliases": (), "wrong_aliases": ()}
    return PromptPairs(tuple(dataclasses.replace(pair, **own) for pair in pairs), pairs.source)


def seconds(model: interp.Model, pairs: PromptPairs, metric: str) -> float:
    """Of one sweep over every layer and token."""
    start = time.perf_counter()
    interp.patch(model, pairs, "resid_pre", over="layer,pos", metric=metric, progress=False)
    return time.perf_counter() - start


def main(
    model: Annotated[str, typer.Option(help="Built-in name or Hub id.")] = "smollm2-135m",
    rounds: Annotated[int, typer.Option(help="Timed sweeps of each kind.")] = 3,
    metric: Annotated[list[str] | None, typer.Option(help="Metrics; both by default.")] = None,
) -> None:
    """Print a row per pair set and metric."""
    loaded = interp.load_model(model, dtype="float32")
    for name, limit in SETS:
        pairs = interp.load_pairs(name)[:limit]
        by_length = {n: with_answers(pairs, n) for n in ANSWERS}
        for n, some in by_length.items():
            usable, _ = tokenise(loaded, some)
            assert [len(pair.answers[0][0]) for pair in usable] == [n] * limit, name
        counts = [len(p.clean) - p.first_difference for p in tokenise(loaded, by_length[1])[0]]
        for read in metric or ("logit_diff", "logprob"):
            times: dict[int, list[float]] = {n: [] for n in ANSWERS}
            for _ in range(rounds):
                for n, some in by_length.items():
                    times[n].append(seconds(loaded, some, read))
            one, three = (statistics.median(times[n]) for n in ANSWERS)
            cells = f"`{name}` ({limit}; {statistics.mean(counts):.0f}) | `{read}`"
            print(f"| {cells} | {one:.2f} s | {three:.2f} s | {three / one:.2f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
