"""Kinds of run folders: what reads each, and what makes its page."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from interp.errors import RunFolderError
from interp.results import folder

if TYPE_CHECKING:
    from interp.results.report import Report

CIRCUIT, LEDGER, EMOTION_RUN = "circuit", "edit ledger", "emotion run"
QUERY_VALUE = "query_value"


@dataclass(frozen=True)
class ShownRun:
    """A run folder that was read.

    Attributes:
        kind: a name in `KINDS`.
        result: what its loader gave, with a ``summary()``.
        report: its page.
    """

    kind: str
    result: Any
    report: "Report"


KINDS: dict[str, str] = {
    "patch": "interp.patching.result:PatchResult",
    "ablation": "interp.ablation.result:AblationResult",
    "edge_scores": "interp.attribution.scores:EdgeScores",
    "node_scores": "interp.attribution.scores:NodeScores",
    "unit_scores": "interp.attribution.scores:UnitScores",
    "steering vector": "interp.interventions.steering_vector:SteeringVector",
    "jacobian lens": "interp.lens.jacobian:JacobianLens",
    CIRCUIT: "circuits.discovery.circuit:Circuit",
    "evaluation": "circuits.discovery.result:Evaluation",
    "faithfulness": "circuits.discovery.result:Faithfulness",
    "stability": "circuits.discovery.stability_result:Stability",
    "attribution graph": "circuits.explanation.graph:AttributionGraph",
    QUERY_VALUE: "circuits.query_value.result:QueryValue",
    "query_value_validation": "circuits.query_value.validate:Validation",
    "edit": "circuits.editing.edit:Edit",
    LEDGER: "circuits.editing.ledger_folder:LedgerFolder",
    "layer selection": "circuits.editing.layer_selection:LayerSelection",
    "edit sequences": "circuits.editing.evaluation.sequence_result:EditSequences",
    "edit card": "circuits.editing.evaluation.edit_card:EditCard",
    "edit comparison": "circuits.editing.evaluation.method_comparison:Comparison",
    "recall_reasoning": "circuits.recall_reasoning.result:RecallReasoning",
    "recall_replication": "circuits.recall_reasoning.published:Replication",
    "feasibility": "circuits.recall_reasoning.feasibility_result:Feasibility",
    "bridge": "circuits.recall_reasoning.bridge_result:BridgeStudy",
    "thought": "circuits.recall_reasoning.thought_result:Thought",
    "emotion discovery": "circuits.emotion.result:EmotionDiscovery",
    "emotion effects": "circuits.emotion.result:EmotionEffects",
    "emotion comparison": "circuits.emotion.emotion_comparison:EmotionComparison",
    "emotion vectors": "circuits.affect.emotion_vectors:EmotionVectors",
    "emotion map": "circuits.affect.emotion_map:EmotionMap",
    "emotion tokens": "circuits.affect.token_projections:TokenProjections",
    "emotion choices": "circuits.affect.emotion_choices:EmotionChoices",
    EMOTION_RUN: "circuits.emotion.emotion_comparison:EmotionRun",
}
"""Kind -> its `Result` class as ``module:name``: imported only when one is shown."""


def kind_of(path: Path) -> str:
    """The kind of a folder: what its manifest says, or what lies in it.

    Raises:
        RunFolderError: there is no such folder, or it is of no kind that can be shown.
    """
    if all((path / stage / "manifest.json").is_file() for stage in ("discovery", "comparison")):
        return EMOTION_RUN
    if path.is_dir() and not (path / "manifest.json").is_file() and _numbered(path):
        return LEDGER
    kind = str(folder.read_manifest(path).get("kind"))
    if kind not in KINDS:
        raise RunFolderError(
            f"{path} is of kind {kind!r}, which has no page; pages are made of {', '.join(KINDS)}."
        )
    return kind


def _numbered(path: Path) -> bool:
    return any(at.name.isdigit() and (at / "manifest.json").is_file() for at in path.iterdir())


def read(path: Path, prompt: str | None = None) -> ShownRun:
    """Read a run folder of any kind.

    Args:
        path: the folder.
        prompt: id of the prompt that the page of a query-value run draws; by default the first.

    Raises:
        RunFolderError: it is missing, damaged, or of no kind that can be shown; or there is a
            `prompt`, which pages of this kind do not choose.
    """
    kind = kind_of(path)
    if prompt is not None and kind != QUERY_VALUE:
        raise RunFolderError(
            f"{path} is of kind {kind!r}: only pages of `interp query-value find` draw one prompt; "
            "leave --prompt out."
        )
    result = resolve_name(KINDS[kind]).load(path)
    return ShownRun(kind, result, result.report(*([] if prompt is None else [prompt])))
