"""Reports of circuits: what one looks like, how faithful it is, and circuits of every size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuits.discovery.circuit import Circuit
from circuits.discovery.drawing import draw, note_of, plot_evaluation
from circuits.discovery.faithfulness import Faithfulness
from interp.results import folder
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts

REFUSED = "refused by the loader; the run printed why"
READING = (
    "Width: size of an edge's score; blue supports the answer, red opposes it; dashes: into a "
    "query; dots: into a key."
)
F = "f = (circuit - all edges cut) / (whole model - all edges cut), a ratio of means over pairs"


class SavedEvaluation(NamedTuple):
    """What the run folder of an `Evaluation` holds.

    Attributes:
        manifest: with the figures of `Evaluation.summary`.
        random: faithfulness of the random circuits, by kind of control.
    """

    manifest: Mapping[str, Any]
    random: Mapping[str, Float[np.ndarray, " draw"]]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return dict(self.manifest)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "SavedEvaluation":
        """Read a run folder of kind ``evaluation``.

        Raises:
            RunFolderError: missing, incomplete or damaged folder, or one of another kind.
        """
        manifest, tables, _ = folder.read(path, "evaluation", ("pairs", "random"))
        random = {kind: tables["random"][kind].to_numpy() for kind in manifest["random"]}
        return cls(manifest, random)


def circuit_report(circuit: Circuit) -> Report:
    """The drawing, the strongest edges and the nodes.

    Raises:
        PlanError: a circuit without edges.
    """
    share = circuit.n_edges / circuit.graph.n_edges
    says = f"{note_of(circuit)}. {READING if circuit.scores is not None else ''}"
    parts = [Figure("The circuit, layers from bottom to top", says.strip(), draw(circuit))]
    strongest = pd.DataFrame(circuit.strongest(15), columns=["edge", "score"])
    tables = [Table("Strongest edges", strongest)] if len(strongest) else []
    if circuit.neurons:
        rows = [(name, len(kept)) for name, kept in circuit.neurons.items()]
        tables.append(Table("Neurons kept", pd.DataFrame(rows, columns=["MLP", "neurons"])))
    return Report(
        title=f"Circuit of {circuit.model or 'an unnamed model'}: {circuit.method or 'given'}",
        lead=f"{circuit.n_edges} of {circuit.graph.n_edges} edges ({share:.2%}) and "
        f"{len(circuit.nodes)} nodes.",
        sections=[Section("Drawing", parts), *([Section("Edges", tables)] if tables else [])],
        method=(
            f"Found by: {circuit.method or 'not recorded'}, on {len(circuit.prompts)} prompts, "
            "which evaluation refuses.",
        ),
        provenance=dict(circuit.provenance) | {"weights": circuit.weights_hash},
    )


def evaluation_report(found: SavedEvaluation) -> Report:
    """Faithfulness of one circuit, beside random ones."""
    said = found.manifest
    f = said["faithfulness"]
    rows = [{"circuit": "the circuit", "mean": f["value"], "low": f["low"], "high": f["high"]}]
    table = pd.DataFrame(rows).assign(largest=f["value"], p=np.nan)
    others = [
        {"circuit": f"{of['n']} random {kind}", "mean": of["mean"], "largest": of["max"]}
        | {"p": of["p"], "low": np.nan, "high": np.nan}
        for kind, of in said["random"].items()
    ]
    table = pd.concat([table, pd.DataFrame(others)]) if others else table
    table = table.assign(mean=_with_interval(table)).drop(columns=["low", "high"])
    result = (
        f"Faithfulness {f['value']:.3f}, 95 % interval {f['low']:.3f} to {f['high']:.3f}, on "
        f"{said['n_pairs']} test pairs."
    )
    beside = "".join(
        f" Random {kind}: {of['mean']:.3f} on average (p = {of['p']:.3f})."
        for kind, of in said["random"].items()
    )
    drawn = Figure("The circuit beside random circuits", result + beside, plot_evaluation(*found))
    return Report(
        title=f"{said['circuit']} on {said['model']}: faithfulness",
        lead=f"{result}{beside}",
        sections=[Section("Faithfulness", [drawn, Table("Faithfulness", table)])],
        method=(
            f"{F}. {said['metric']}: {said['full']:.3f} of the whole model, {said['empty']:.3f} "
            f"with all edges cut ({said['ablation']} ablation), {said['circuit_metric']:.3f} of "
            f"the circuit, which has {said['n_edges']} of {said['of_edges']} edges. Test pairs: "
            f"{said['source']}.",
        ),
        excluded=excluded_counts({REFUSED: said["n_excluded"]}),
        provenance=said["provenance"],
    )


def _with_interval(table: pd.DataFrame) -> list[str]:
    """Means as texts, with their interval where they have one."""
    return [
        cell_text(mean)
        if np.isnan(low)
        else f"{cell_text(mean)} [{cell_text(low)}, {cell_text(high)}]"
        for mean, low, high in zip(table["mean"], table["low"], table["high"], strict=True)
    ]


def faithfulness_report(result: Faithfulness) -> Report:
    """Areas with intervals, the curves, and faithfulness at every size."""
    areas = pd.DataFrame(
        [
            {"area": name.replace("_", " "), "value": value, "low": low, "high": high}
            for name, (value, low, high) in result.areas(result.provenance.get("seed", 0)).items()
        ]
    )
    table = result.to_frame()
    half: Any = table[(table["ranking"] == "absolute") & (table["f"] >= 0.5)]
    reached = (
        f"By size of score, {int(half['n_edges'].min())} edges are the fewest with f of .5 or more."
        if len(half)
        else "By size of score, no circuit reaches f of .5."
    )
    return Report(
        title=f"{result.method} on {result.model}: faithfulness of its circuits",
        lead=f"{len(result.full)} test pairs of {result.source}; {result.metric} "
        f"{result.full.mean():.3f} of the whole model, {result.empty.mean():.3f} with all edges "
        f"cut ({result.ablation} ablation). {reached}",
        sections=[
            Section(
                "Faithfulness by size",
                [
                    Figure("Faithfulness by part of edges kept", reached, result.plot()),
                    Table("Areas under the curves", areas),
                    Table("Faithfulness at every size", table),
                ],
            )
        ],
        method=(
            f"{F}. CPR: area under f of circuits by signed score; CMD: area between f and 1 of "
            "circuits by size of score (smaller is better); log: over the logarithm of size.",
        ),
        excluded=excluded_counts({REFUSED: result.n_excluded}),
        provenance=result.provenance,
    )
