"""What bfloat16 costs and saves on this CPU, and how far a sweep's values move: docs/models.md.

python benchmarks/number_formats.py                  # both tables
python benchmarks/number_formats.py --limit 8 --repeats 1

Forward passes are of random tokens, up to the last residual stream. Sweeps are `interp.patch` on
country_capitals; their agreement is over cells, each a mean over pairs.
"""

import statistics
import time
import timeit
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.stats import spearmanr

import interp

MODELS = ("smollm2-135m", "gemma-3-270m")
BATCHES = ((1, 8), (8, 8), (8, 64), (16, 128))
SWEEPS = {"stream by layer and span": ("resid_pre", "span"), "heads": ("z", "head")}


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds, after one run that does not count."""
    return statistics.median(timeit.repeat(work, number=1, repeat=1 + repeats)[1:])


def forward_times(model: Any, repeats: int) -> list[str]:
    """Milliseconds per forward pass of each batch, as text."""
    found = []
    for rows, tokens in BATCHES:
        ids = torch.randint(5, 1000, (rows, tokens))

        def run(ids: torch.Tensor = ids) -> None:
            with torch.no_grad():
                model.body(input_ids=ids, use_cache=False)

        found.append(f"{1000 * seconds(run, repeats):.0f} ms")
    return found


def compared(name: str, what: str, found: list[tuple[float, interp.PatchResult]]) -> str:
    """A row: seconds in both formats, and how bf16's values agree with those of fp32."""
    (slow, one), (fast, other) = found
    a, b = (np.asarray(r.values.mean("pair")).ravel() for r in (one, other))
    gap = float((one.clean - one.corrupt).mean())
    shared = len(set(np.argsort(-abs(a))[:10]) & set(np.argsort(-abs(b))[:10]))
    cells = [name, f"{what}, {one.n_pairs} pairs, {len(a)} cells", f"{slow:.1f} s", f"{fast:.1f} s"]
    cells += [f"{spearmanr(a, b).statistic:.4f}", f"{abs(a - b).max() / gap:.3f}", f"{shared}"]
    return "| " + " | ".join(cells) + " |"


def main(
    limit: Annotated[int, typer.Option(help="Pairs of a sweep, which is timed once.")] = 24,
    repeats: Annotated[int, typer.Option(help="Timed forward passes; the median counts.")] = 5,
) -> None:
    """Print forward passes and sweeps, as rows of two tables."""
    pairs = interp.load_pairs("country_capitals")[:limit]
    print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}")
    rows = []
    for name in MODELS:
        found: dict[str, list[tuple[float, interp.PatchResult]]] = {what: [] for what in SWEEPS}
        for number in ("float32", "bfloat16"):
            model = interp.load_model(name, dtype=number)
            print(
                f"| {name} | {number} | {' | '.join(forward_times(model, repeats))} |", flush=True
            )
            for what, (site, axis) in SWEEPS.items():
                start = time.perf_counter()
                result = interp.patch(model, pairs, site, ("layer", axis), progress=False)
                found[what].append((time.perf_counter() - start, result))
        rows += [compared(name, what, pair) for what, pair in found.items()]
    print("\n".join(rows))


if __name__ == "__main__":
    typer.run(main)
