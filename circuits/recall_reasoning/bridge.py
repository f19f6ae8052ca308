"""The bridge entity of two-hop prompts: where it can be read, and whether answers follow a swap.

Read: the rank of the bridge (``France`` where the prompt says ``the Louvre``) by depth and
position, beside the ranks of the other prompts' bridges. Swapped: the residual stream at one layer
and position is taken from another prompt, and greedy answers that follow it are counted.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.bridge_result import BridgeStudy, chosen_cells, rates
from circuits.recall_reasoning.bridge_swaps import drawn_swaps, measured_swaps, without_donor
from circuits.recall_reasoning.direction_swaps import direction_swaps
from circuits.recall_reasoning.settings import BridgeSettings
from circuits.recall_reasoning.sources.countries import load_facts
from circuits.recall_reasoning.two_hop import Asked
from interp.data import datasets as shipped
from interp.data.records import read_text
from interp.lens import JacobianLens, logit_lens
from interp.model.model import Model
from interp.progress import Progress
from interp.results.run_folder import fingerprint, identity, in_one_piece
from interp.statistics import bootstrap_mean


def bridge(
    model: Model,
    settings: BridgeSettings | None = None,
    out: str | Path | None = None,
    *,
    datasets: Path | None = None,
    jacobian: JacobianLens | None = None,
    force: bool = False,
    progress: Progress | bool = True,
) -> BridgeStudy:
    """Read and swap the bridge of the two-hop prompts that a model answers.

    Countries are divided into two halves: layers are chosen on swaps between countries of one,
    and scored on swaps between those of the other.

    Args:
        model: from `interp.load_model`.
        settings: prompts, layers, positions, numbers.
        out: a run folder; read back where it is finished.
        datasets: folder with another ``recall_facts.jsonl`` and ``neutral_text.txt``.
        jacobian: a fitted lens; the bridge is then read through it, too.
        force: replace another run that `out` holds.
        progress: called with (swaps done, in all); True draws a bar.

    Raises:
        DataError: a template without ``{}``, or too few prompts that the model answers.
        PlanError: a layer or position that there is not; a lens of other weights.
        RunFolderError: `out` holds another run.
    """
    settings, files = settings or BridgeSettings(), datasets or shipped.folder()
    model.check_layers(settings.layers)
    if jacobian is not None:
        jacobian.checked(model)
    facts = load_facts(files / "recall_facts.jsonl")
    neutral = read_text(files / "neutral_text.txt", "neutral text")
    lens = None if jacobian is None else fingerprint(jacobian.jacobians.numpy())
    named = settings.model_dump(mode="json") | {"facts": fingerprint(facts), "lens": lens}
    named |= {"neutral": fingerprint(neutral)} | identity(model)

    def make() -> BridgeStudy:
        started = time.perf_counter()
        asked = Asked.of(model, facts, settings)
        drawn = drawn_swaps(model, asked, neutral, settings)
        lenses = {"logit lens": None} | ({} if jacobian is None else {"Jacobian lens": jacobian})
        ranks = [_ranks(model, asked, *one, settings.seed) for one in lenses.items()]
        along = [direction_swaps(model, asked, drawn, settings, *one) for one in lenses.items()]
        states = measured_swaps(model, asked, drawn, settings, progress)
        swaps = pd.concat([states, *along], ignore_index=True)
        return BridgeStudy(
            prompts=asked.table,
            ranks=pd.concat(ranks, ignore_index=True),
            swaps=rates(swaps, settings.seed),
            chosen=chosen_cells(swaps, settings.seed),
            left_out={**asked.left_out, **without_donor(drawn)},
            settings=settings,
            model=model.name,
            seconds=time.perf_counter() - started,
        )

    return in_one_piece(out, "recall-reasoning bridge", named, make, BridgeStudy, force)


# --- read ----------------------------------------------------------------------------------------


def _ranks(
    model: Model, asked: Asked, lens: str, jacobian: JacobianLens | None, seed: int
) -> pd.DataFrame:
    """By depth and place: ranks of the bridge, the other bridges, and the answer's first token."""
    found = asked.of_half()
    bridges = sorted({one.bridge for one in found})
    firsts = sorted({one.capital[0] for one in found})
    tokens = [*(f" {name}" for name in bridges), *firsts]
    rows = [one.prompt for one in found]
    read = logit_lens(model, rows, 1, at="read", tokens=tokens, jacobian=jacobian).of_tokens
    assert read is not None
    rank = read["rank"].values
    at = np.array([bridges.index(one.bridge) for one in found])
    last = np.array([len(bridges) + firsts.index(one.capital[0]) for one in found])
    each = np.arange(len(found))
    own, answer = rank[each, :, :, at], rank[each, :, :, last]
    others = np.stack([np.delete(rank[i, :, :, : len(bridges)], at[i], -1) for i in each])
    control = np.median(others, -1)
    beats = (others > own[..., None]).mean(-1) + (others == own[..., None]).mean(-1) / 2
    lower = np.log10(control + 1) - np.log10(own + 1)
    clusters = [one.bridge for one in found]
    depth, place = (i.ravel() for i in np.indices(own.shape[1:]))
    columns: dict[str, Any] = {
        "lens": lens,
        "depth": read["depth"].values[depth],
        "position": [asked.places[i] for i in place],
        "rank": np.median(own, 0).ravel(),
        "control_rank": np.median(control, 0).ravel(),
        "answer_rank": np.median(answer, 0).ravel(),
    }
    for name, values in (("beats", beats), ("lower", lower)):
        value, low, high = bootstrap_mean(values, seed, clusters=clusters)
        columns |= {name: value.ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
    return pd.DataFrame(columns | {"n": len(found), "countries": len(bridges)})
