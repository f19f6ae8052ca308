"""The bridge entity of two-hop prompts: where it can be read, and whether answers follow a swap.

Read: the rank of the bridge (``France`` where the prompt says ``the Louvre``) by depth and
position, beside the ranks of the other prompts' bridges. Swapped: the residual stream at one layer
and position is taken from another prompt, and greedy answers that follow it are counted.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from circuits.recall_reasoning.bridge_result import CONDITIONS, BridgeStudy, chosen_cells, rates
from circuits.recall_reasoning.settings import BridgeSettings
from circuits.recall_reasoning.sources.countries import load_facts
from circuits.recall_reasoning.two_hop import (
    CITY,
    TwoHop,
    answered,
    end_of,
    read_from,
    swapped,
    two_hop_prompts,
)
from interp.brief import brief
from interp.data import datasets as shipped
from interp.data.answers import Tokens
from interp.data.prompts import TokenPrompt, prompt
from interp.data.records import read_text
from interp.errors import DataError, PlanError
from interp.lens import JacobianLens, logit_lens
from interp.metrics import AnswerScores, Metric
from interp.model.model import Model
from interp.patching.cells import run_sweep
from interp.patching.sweep import Sweep
from interp.progress import Progress, reported
from interp.results.run_folder import fingerprint, identity, in_one_piece
from interp.statistics import bootstrap_mean

HALVES = ("choice", "test")
UNRELATED = (8, 64)
"""Of the neutral text, the tokens whose state may be the unrelated one: from, to."""


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
        swaps = measured_swaps(model, asked, neutral, settings, progress)
        lenses = {"logit lens": None} | ({} if jacobian is None else {"Jacobian lens": jacobian})
        ranks = [_ranks(model, asked, name, one) for name, one in lenses.items()]
        return BridgeStudy(
            prompts=asked.table,
            ranks=pd.concat(ranks, ignore_index=True),
            swaps=rates(swaps, settings.seed),
            chosen=chosen_cells(swaps, settings.seed),
            left_out=asked.left_out,
            settings=settings,
            model=model.name,
            seconds=time.perf_counter() - started,
        )

    verb = "recall-reasoning bridge"
    return in_one_piece(out, verb, named, make, BridgeStudy, page=_page, force=force)


def _page(path: Path) -> Path:
    return BridgeStudy.load(path).report().write(path / "index.html")


@brief
@dataclass(frozen=True)
class Asked:
    """Every prompt, whether the model answers it, and the half of its country."""

    prompts: Sequence[TwoHop]
    table: pd.DataFrame
    left_out: Mapping[str, int]
    places: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, facts: Sequence[Any], settings: BridgeSettings) -> "Asked":
        """Ask the model; `DataError` where it answers too little."""
        found, left_out = two_hop_prompts(model, facts, settings.template)
        if not found:
            raise DataError(f"no landmark can be used with {model.name}; first: {left_out[0]}.")
        capitals = [one.capital for one in found]
        right = answered(model, [one.prompt for one in found], capitals)
        shorter = [CITY.format(one.landmark[0].upper() + one.landmark[1:]) for one in found]
        short = answered(model, [prompt(model, text) for text in shorter], capitals)
        columns = {
            name: [getattr(o, name) for o in found] for name in ("landmark", "bridge", "answer")
        }
        table = pd.DataFrame(columns | {"answered": right, "by_shortcut": short})
        known = sorted(set(table.loc[right, "bridge"]))
        order = np.random.default_rng(settings.seed).permutation(len(known))
        half = {known[i]: HALVES[k % 2] for k, i in enumerate(order)}
        table["half"] = [half.get(name, "") for name in table["bridge"]]
        for name in HALVES:
            n = sum(one == name for one in half.values())
            if n < 2:
                raise DataError(
                    f"{model.name} answers {int(right.sum())} of {len(right)} two-hop prompts, "
                    f"about {len(known)} countries; a swap needs two in each half (4 in all)."
                )
        reasons = pd.Series([one.reason for one in left_out], dtype=object).value_counts()
        end = [model.token(found[0].prompt.ids[i]) for i in found[0].prompt.spans["read"]]
        places = ("landmark", *(f"+{i}{token}" for i, token in enumerate(end) if i))
        return cls(found, table, {str(k): int(n) for k, n in reasons.items()}, places)

    def of_half(self, half: str | None = None) -> list[TwoHop]:
        """The prompts that are answered, of a half or of both."""
        rows = zip(self.prompts, self.table["answered"], self.table["half"], strict=True)
        return [one for one, right, own in rows if right and half in (None, own)]


# --- read ----------------------------------------------------------------------------------------


def _ranks(model: Model, asked: Asked, lens: str, jacobian: JacobianLens | None) -> pd.DataFrame:
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
    bounds = {
        name: bootstrap_mean(values, clusters=clusters)
        for name, values in (("beats", beats), ("lower", lower))
    }
    depth, place = (i.ravel() for i in np.indices(own.shape[1:]))
    columns: dict[str, Any] = {
        "lens": lens,
        "depth": read["depth"].values[depth],
        "position": [asked.places[i] for i in place],
        "rank": np.median(own, 0).ravel(),
        "control_rank": np.median(control, 0).ravel(),
        "answer_rank": np.median(answer, 0).ravel(),
    }
    for name, (value, low, high) in bounds.items():
        columns |= {name: value.ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
    return pd.DataFrame(columns | {"n": len(found), "countries": len(bridges)})


# --- swapped -------------------------------------------------------------------------------------


def measured_swaps(
    model: Model,
    asked: Asked,
    neutral: str,
    settings: BridgeSettings,
    progress: Progress | bool,
) -> pd.DataFrame:
    """A row per swap, condition, layer and place: whether the answer follows, and if it stays."""
    layers = tuple(dict.fromkeys(settings.layers)) or tuple(range(model.arch.n_layers))
    positions = tuple(dict.fromkeys(settings.positions)) or tuple(range(len(asked.places)))
    if max(positions) >= len(asked.places):
        raise PlanError(f"position {max(positions)}: there are 0 to {len(asked.places) - 1}.")
    spans = [f"{i}_last" for i in positions]
    sweep = Sweep.of(model, "resid_pre", "layer,span", SAID, "denoise", "all", layers, 1)
    drawn = drawn_swaps(model, asked, neutral, settings)
    pairs = [swapped(target.prompt, donor, both) for _, target, donor, *both in drawn]
    with reported(progress, "swaps", len(pairs), "swaps") as report:
        said = run_sweep(model, sweep, pairs, spans, progress=report).values[..., 0]
    layer, place = (i.ravel() for i in np.indices(said.shape[1:]))
    cells = {
        "layer": np.array(layers)[layer],
        "position": [asked.places[positions[i]] for i in place],
    }
    frames = [
        pd.DataFrame(
            labels
            | {"country": target.bridge}
            | cells
            | {"follows": own.ravel() == FOLLOWS, "stays": own.ravel() == STAYS}
        )
        for (labels, target, *_), own in zip(drawn, said, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


FOLLOWS, STAYS = 1, 2


def _said(scores: AnswerScores) -> Tensor:
    assert scores.rank is not None
    follows, stays = (scores.rank.amin(-1) == 0).unbind(1)
    return (FOLLOWS * follows + STAYS * stays).float()


SAID = Metric("answer", "which", "ranks", _said)
"""Which answer greedy decoding writes: that which follows, that which stays, or another (0)."""


Drawn = tuple[dict[str, Any], TwoHop, TokenPrompt, Tokens, Tokens]
"""Half, swap and condition; the target; the donor; the tokens of a following, a staying answer."""


def drawn_swaps(model: Model, asked: Asked, neutral: str, settings: BridgeSettings) -> list[Drawn]:
    """Swaps of each half, each under every condition that has a donor."""
    rng = np.random.default_rng(settings.seed + 1)
    passage, named = tuple(model.encode(neutral))[: UNRELATED[1]], _named(model, asked, settings)
    if len(passage) < UNRELATED[0] + len(asked.places):
        raise DataError(f"the neutral text has {len(passage)} tokens; give a longer one.")
    shortcut = dict(zip(asked.table["landmark"], asked.table["by_shortcut"], strict=True))
    found: list[Drawn] = []
    for half in HALVES:
        own = asked.of_half(half)
        swaps = _paired(own, settings.n_swaps, rng)
        if not swaps:
            names = ", ".join(sorted({one.answer for one in own}))
            raise DataError(
                f"the capitals of one half ({names}) begin with one token, so no swap can change "
                "the answer; give facts of more countries."
            )
        for number, (target, donor) in enumerate(swaps):
            alike = [o for o in own if o.bridge == target.bridge and o is not target]
            n = len(target.prompt.spans["read"])
            places = rng.choice(np.arange(UNRELATED[0], len(passage)), n, replace=False)
            donors = {
                "bridge": donor.prompt,
                "named": named.get(donor.bridge),
                "same bridge": alike[rng.integers(len(alike))].prompt if alike else None,
                "unrelated": TokenPrompt(passage, {"read": tuple(sorted(map(int, places)))}),
            }
            label = {"half": half, "swap": f"{half}-{number}"}
            label |= {"by_shortcut": bool(shortcut[target.landmark] or shortcut[donor.landmark])}
            found += [
                (label | {"condition": name}, target, one, donor.capital, target.capital)
                for name, one in ((name, donors[name]) for name in CONDITIONS)
                if one is not None
            ]
    return found


def _paired(own: Sequence[TwoHop], n: int, rng: np.random.Generator) -> list[tuple[TwoHop, TwoHop]]:
    """At most `n` different (target, donor) of other answers; each target in turn."""
    taken: dict[tuple[str, str], tuple[TwoHop, TwoHop]] = {}
    left = {t.landmark: [d for d in own if d.capital[0] != t.capital[0]] for t in own}
    while len(taken) < n and any(left.values()):
        for i in rng.permutation(len(own)):
            target = own[i]
            if left[target.landmark] and len(taken) < n:
                donor = left[target.landmark].pop(int(rng.integers(len(left[target.landmark]))))
                taken[target.landmark, donor.landmark] = target, donor
    return list(taken.values())


def _named(model: Model, asked: Asked, settings: BridgeSettings) -> dict[str, TokenPrompt]:
    """Of each bridge the prompt that names it in the landmark's place, where that is answered."""
    capital = {one.bridge: one.capital for one in asked.of_half()}
    rows: dict[str, TokenPrompt] = {}
    for name in capital:
        with contextlib.suppress(DataError):  # the template holds the name, too
            row = read_from(prompt(model, settings.template.replace("{}", name), landmark=name))
            if end_of(row) == end_of(asked.prompts[0].prompt):
                rows[name] = row
    right = answered(model, list(rows.values()), [capital[name] for name in rows])
    return {name: row for (name, row), known in zip(rows.items(), right, strict=True) if known}
