"""`interp show`: a run folder as a self-contained page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.output import JsonOption, print_json, stdout

EXAMPLES = "Example: `interp show runs/first`  (writes runs/first/index.html)"


def show(
    run: Annotated[Path, typer.Argument(help="A run folder of any verb.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default RUN/index.html.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's figure, baselines and strongest cells as one HTML file."""
    from interp.files import write_text

    summary, page = _read(run)
    target = out or run / "index.html"
    write_text(target, page)
    if as_json:
        print_json({"run": str(run), "page": str(target), **summary})
    else:
        stdout.print(f"wrote {target}", highlight=False, soft_wrap=True)


def _read(run: Path) -> tuple[dict[str, Any], str]:
    """A run's summary and its page."""
    from interp import folder

    if (run / "circuit.json").is_file():
        return _circuit(run)
    kind = str(folder.read_manifest(run).get("kind"))
    readers = {
        "ablation": _ablation,
        "faithfulness": _faithfulness,
        "evaluation": _evaluation,
        "recall_reasoning": _recall_reasoning,
        "recall_replication": _recall_replication,
        "emotion control": _emotion_control,
        "emotion discovery": _emotion_discovery,
    }
    return (_scores if kind.endswith("_scores") else readers.get(kind, _patched))(run)


def _patched(run: Path) -> tuple[dict[str, Any], str]:
    from interp.figures import page
    from interp.results import PatchResult

    result = PatchResult.load(run)
    return result.summary(), page(result, f"{result.site} on {result.model}, {result.source}")


def _scores(run: Path) -> tuple[dict[str, Any], str]:
    from interp.attribution.figures import scores_page
    from interp.attribution.scores import Scores

    scores = Scores.load(run)
    title = f"{scores.method} on {scores.model}, {scores.source}"
    return scores.summary(), scores_page(scores, title)


def _ablation(run: Path) -> tuple[dict[str, Any], str]:
    from interp.ablation import AblationResult
    from interp.ablation.figures import ablation_page

    result = AblationResult.load(run)
    return result.summary(), ablation_page(result)


def _circuit(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.discovery.mib import load_circuit
    from circuits.discovery.pages import circuit_page

    found = load_circuit(run)
    said = {"model": found.model, "method": found.method, "n_edges": found.n_edges}
    return said, circuit_page(found)


def _faithfulness(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.discovery.drawing import faithfulness_page
    from circuits.discovery.faithfulness import Faithfulness

    result = Faithfulness.load(run)
    return result.summary(), faithfulness_page(result)


def _evaluation(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.discovery.pages import evaluation_page
    from interp import folder

    manifest, tables, _ = folder.read(run, "evaluation", ("pairs", "random"))
    with folder.reading(run):
        random = {kind: tables["random"][kind].to_numpy() for kind in manifest["random"]}
        return manifest, evaluation_page(manifest, random)


def _recall_reasoning(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.recall_reasoning.figures import study_page
    from circuits.recall_reasoning.result import RecallReasoning

    result = RecallReasoning.load(run)
    return result.summary(), study_page(result, f"Recall versus reasoning on {result.model}")


def _recall_replication(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.recall_reasoning.figures import replication_page
    from circuits.recall_reasoning.replicate import Replication

    result = Replication.load(run)
    return result.summary(), replication_page(result, f"Published statistics on {result.model}")


def _emotion_control(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.emotion.control import Control
    from circuits.emotion.pages import control_page

    result = Control.load(run)
    return result.summary(), control_page(result)


def _emotion_discovery(run: Path) -> tuple[dict[str, Any], str]:
    from circuits.emotion.discovery import Discovery
    from circuits.emotion.pages import discovery_page

    found = Discovery.load(run)
    return found.summary(), discovery_page(found, found.model)
