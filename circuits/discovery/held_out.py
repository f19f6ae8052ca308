"""Consensus circuits, circuits of single samples and of single groups, run on test prompts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuits.discovery.circuit import Circuit
from circuits.discovery.evaluator import Evaluator
from circuits.discovery.faithfulness import faithfulness
from circuits.discovery.ranking import top_edges
from circuits.discovery.result import Faithfulness
from circuits.discovery.stability_settings import StabilitySettings
from interp.attribution.scores import EdgeScores
from interp.brief import brief
from interp.results.run_folder import ARRAYS, Steps
from interp.statistics import Estimate, bootstrap_ratio

CONSENSUS, ALL, SAMPLE, GROUP = "consensus", "all pairs", "sample ", "group "
"""Names of circuits; of the last two the number or the group follows."""


@brief
@dataclass(frozen=True)
class HeldOut:
    """What circuits do on test pairs.

    Attributes:
        pairs: a row per test pair: ``pair``, its ``group`` and ``entity`` where given, ``full`` and
            ``empty`` (the metric of the full model, and with all edges cut), and a column per
            circuit.
        n_edges: of each circuit, after pruning.
        curves: faithfulness at every size, by ranking: the consensus, all pairs, single samples.
    """

    pairs: pd.DataFrame = field(repr=False)
    n_edges: dict[str, int]
    curves: dict[str, Faithfulness]
    n_excluded: int
    warnings: tuple[str, ...] = ()
    seed: int = 0

    @property
    def samples(self) -> list[str]:
        """Names of the circuits of single samples."""
        return [name for name in self.n_edges if name.startswith(SAMPLE)]

    @property
    def groups(self) -> list[str]:
        """Groups that have a circuit."""
        named = (name for name in self.n_edges if name.startswith(GROUP))
        return [name.removeprefix(GROUP) for name in named]

    def f(self, names: Sequence[str], minus: Sequence[str] = ()) -> Estimate:
        """Mean faithfulness of some circuits, less that of others, with its 95 % interval.

        The interval resamples test pairs, or entities with all their pairs.
        """
        value, other = (
            self.pairs[list(some)].to_numpy(float).mean(1) for some in (names, minus or ["empty"])
        )
        return self._ratio(self.pairs, value - other)

    def circuits(self) -> pd.DataFrame:
        """Faithfulness of the consensus circuit and of others of as many edges, and differences."""
        rows: list[tuple[Any, ...]] = [
            (name, self.n_edges[name], *self.f([name])) for name in (CONSENSUS, ALL)
        ]
        if self.samples:
            n = round(np.mean([self.n_edges[name] for name in self.samples]))
            rows.append((f"single samples (mean of {len(self.samples)})", n, *self.f(self.samples)))
        rows.append((f"{CONSENSUS} - {ALL}", None, *self.f([CONSENSUS], [ALL])))
        if self.samples:
            rows.append((f"{CONSENSUS} - single samples", None, *self.f([CONSENSUS], self.samples)))
        found = pd.DataFrame(rows, columns=["circuit", "n_edges", "f", "low", "high"])
        return found.assign(n_edges=pd.Series([row[1] for row in rows], dtype=object))

    def areas(self) -> pd.DataFrame:
        """CPR and CMD of the rankings, and paired differences, with 95 % intervals."""
        own, every = self.curves[CONSENSUS], self.curves[ALL]
        singles = [curve for name, curve in self.curves.items() if name.startswith(SAMPLE)]
        found: dict[str, Mapping[str, Estimate]] = {
            name: curve.areas(self.seed) for name, curve in self.curves.items()
        }
        found[f"{CONSENSUS} - {ALL}"] = own.minus(every, seed=self.seed)
        if singles:
            found[f"{CONSENSUS} - single samples"] = own.minus(*singles, seed=self.seed)
            found[f"{ALL} - single samples"] = every.minus(*singles, seed=self.seed)
        rows = [(name, area, *x) for name, areas in found.items() for area, x in areas.items()]
        return pd.DataFrame(rows, columns=["ranking", "area", "value", "low", "high"])

    def transfer(self) -> pd.DataFrame:
        """Faithfulness of each group's circuit on each group's test pairs."""
        by_group: list[tuple[Any, Any]] = list(self.pairs.groupby("group", sort=False))
        rows = [
            (circuit, str(group), len(own), *self._ratio(own, _gap(own, GROUP + circuit, "empty")))
            for circuit in self.groups
            for group, own in by_group
        ]
        columns = ["circuit", "tested on", "pairs", "f", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def own_and_other(self) -> pd.DataFrame:
        """Test pairs under their own group's circuit, and under the other groups' (their mean)."""
        tested: Any = self.pairs[self.pairs["group"].isin(self.groups)]
        names = [GROUP + group for group in self.groups]
        values = tested[names].to_numpy(float)
        own = tested["group"].to_numpy()[:, None] == np.array(self.groups)
        mine = values[own]
        others = (values.sum(1) - mine) / (len(names) - 1)
        empty, every = (tested[name].to_numpy(float) for name in ("empty", f"{ALL}, full size"))
        rows = [
            ("own group", *self._ratio(tested, mine - empty)),
            ("other groups", *self._ratio(tested, others - empty)),
            ("all pairs", *self._ratio(tested, every - empty)),
            ("own - other groups", *self._ratio(tested, mine - others)),
            ("own group - all pairs", *self._ratio(tested, mine - every)),
        ]
        return pd.DataFrame(rows, columns=["circuit of", "f", "low", "high"])

    def _ratio(self, pairs: pd.DataFrame, top: Float[np.ndarray, " pair"]) -> Estimate:
        entities = pairs["entity"].tolist() if "entity" in pairs else None
        found = bootstrap_ratio(top, _gap(pairs, "full", "empty"), self.seed, clusters=entities)
        return Estimate(*(float(x) for x in found))


def _gap(pairs: pd.DataFrame, first: str, second: str) -> Float[np.ndarray, " pair"]:
    return pairs[first].to_numpy(float) - pairs[second].to_numpy(float)


def run_held_out(
    test: Evaluator,
    scores: EdgeScores,
    ranking: EdgeScores,
    consensus: Circuit,
    n: int,
    groups: tuple[Sequence[str] | None, Sequence[str] | None],
    entities: Sequence[str] | None,
    settings: StabilitySettings,
    steps: Steps,
    report: Callable[[int, int], None],
) -> HeldOut:
    """Run all circuits on test pairs, one step per circuit or ranking.

    `n` is the number of edges of the consensus circuit before pruning, which the circuits of all
    pairs and of single samples get, too; `groups` has the group of each discovery pair, and of
    each test pair; `entities` of each test pair.
    """
    samples = single_samples(scores, settings)
    absolute = not settings.signed
    circuits = {CONSENSUS: consensus, ALL: top_edges(scores, n, absolute)}
    circuits |= {name: top_edges(of, n, absolute) for name, of in samples.items()}
    of_discovery, of_test = groups
    if of_discovery is not None:
        circuits[f"{ALL}, full size"] = top_edges(scores, settings.edges, absolute)
        for group in tested_groups(of_discovery, of_test or ()):
            own = subset(scores, np.array(of_discovery) == group)
            circuits[GROUP + group] = top_edges(own, settings.edges, absolute)
    rankings = {CONSENSUS: ranking, ALL: scores, **samples}
    total, done = len(circuits) + len(rankings), 0
    pairs = pd.DataFrame({"pair": test.ids, "full": test.full, "empty": test.empty})
    pairs = pairs if of_test is None else pairs.assign(group=list(of_test))
    pairs = pairs if entities is None else pairs.assign(entity=list(entities))
    for at, (name, circuit) in enumerate(circuits.items()):
        found: Any = steps.step(
            f"circuit-{at:03d}", lambda c=circuit: {"metric": test.metric_of(c)}, ARRAYS
        )
        pairs[name] = found["metric"]
        report(done := done + 1, total)
    curves: dict[str, Faithfulness] = {}
    for at, (name, of) in enumerate(rankings.items()):

        def curve(of: EdgeScores = of) -> Faithfulness:
            return faithfulness(test, of, clusters=entities, seed=settings.seed, progress=False)

        curves[name] = steps.step(f"curve-{at:03d}", curve, Faithfulness)
        report(done := done + 1, total)
    sizes = {name: circuit.n_edges for name, circuit in circuits.items()}
    warnings = curves[ALL].warnings
    return HeldOut(pairs, sizes, curves, len(test.excluded), warnings, settings.seed)


def tested_groups(of_discovery: Sequence[str], of_test: Sequence[str]) -> list[str]:
    """Groups with two discovery pairs or more and a test pair, in order of first appearance."""
    counts, tested = Counter(of_discovery), {*of_test}
    return [group for group, n in counts.items() if n > 1 and group in tested]


def single_samples(scores: EdgeScores, settings: StabilitySettings) -> dict[str, EdgeScores]:
    """Scores of random samples of the pairs, drawn without replacement within each."""
    rng = np.random.default_rng([settings.seed, 1])
    drawn = (rng.permutation(scores.n_pairs) for _ in range(settings.samples))
    rows = [np.sort(one[: settings.sample_size]) for one in drawn]
    return {f"{SAMPLE}{at}": subset(scores, own) for at, own in enumerate(rows, 1)}


def subset(scores: EdgeScores, rows: np.ndarray) -> EdgeScores:
    """The scores of some pairs; circuits of them still refuse all prompts that were seen."""
    parts: dict[str, Any] = {
        name: getattr(scores, name)[rows] for name in ("values", "clean", "corrupt")
    }
    return replace(scores, **parts)
