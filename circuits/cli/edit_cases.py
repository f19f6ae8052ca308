"""What `interp edit evaluate` and `interp edit sequence` share: cases, a model's layers, output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import (
    N_TOKENS,
    CasesOption,
    Into,
    OnModel,
    PlacementOption,
    SplitOption,
    TokensOption,
)
from circuits.cli.output import stdout
from circuits.editing.evaluation.comparison_settings import EvaluationSettings
from interp.progress import bar

if TYPE_CHECKING:
    from circuits.editing.evaluation.comparison_settings import ComparisonSettings
    from circuits.editing.evaluation.sequence_settings import SequenceSettings


@dataclass(frozen=True)
class EditedCases:
    """The options that say what is edited, and where."""

    cases: CasesOption
    split: SplitOption = None
    placement: PlacementOption = None
    neutral: Annotated[str | None, typer.Option(help=EvaluationSettings.says("neutral"))] = None
    n_tokens: TokensOption = N_TOKENS

    def evaluated(
        self,
        on: OnModel,
        settings: "ComparisonSettings | SequenceSettings",
        evaluate: Callable[..., Any],
        into: Into,
        format: str | None = None,
    ) -> Any:
        """The result of an evaluation; what is refused is refused before a model is loaded."""
        from circuits.editing.evaluation import load_benchmark
        from circuits.editing.layer_selection import selection_for

        settings.demonstrations()
        settings.neutral_text()
        rows = load_benchmark(self.cases, self.split, format)
        model = on.load()
        layers = selection_for(model, self.placement, *settings.methods)
        with bar("editing", "") as report:
            return evaluate(
                model,
                rows,
                settings,
                layers,
                out=into.out,
                force=into.force,
                progress=lambda what, done, total: report(done, total, what),
            )


def print_left_out(reasons: Mapping[str, int]) -> None:
    """How many were left out, by reason."""
    for reason, n in reasons.items():
        stdout.print(f"[dim]{n} left out: {escape(reason)}[/dim]")
