"""Judging edits, without a model: cases, answers, control questions, prompts and metrics.

The way of the data: `load_cases` reads a benchmark; `Pool.of` keeps the questions that a model
knows, of which `draw_probes` and `preservation` draw; `asked` lists what to ask and `Shots` how;
`row` matches each answer; `score`, `summary` and `compare` make figures with intervals of them.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.evaluation.answers import Answer, reasoned_answer, short_answer
    from circuits.editing.evaluation.asking import Asked, asked
    from circuits.editing.evaluation.cases import Case, Cases, Hop, Question
    from circuits.editing.evaluation.counterfact import CounterFact, load_counterfact
    from circuits.editing.evaluation.metrics import METRICS, Match, edit_wise, row, score
    from circuits.editing.evaluation.mquake import load_cases, parse_cases
    from circuits.editing.evaluation.probes import Known, Pool, draw_probes, preservation
    from circuits.editing.evaluation.prompts import (
        IKE,
        REASONED,
        SHOTS,
        ZERO,
        Shots,
        load_relation_shots,
        load_shots,
        shots_named,
    )
    from circuits.editing.evaluation.published import (
        counterfact_scores,
        harmonic_mean,
        ngram_entropy,
        ripple_scores,
        token_accuracy,
    )
    from circuits.editing.evaluation.ripple import Ripple, load_ripple
    from circuits.editing.evaluation.sequences import pools_apart, side_by_side
    from circuits.editing.evaluation.summaries import compare, summary
    from circuits.editing.evaluation.zsre import ZsRE, load_zsre

__all__ = [
    "METRICS",
    "IKE",
    "REASONED",
    "SHOTS",
    "ZERO",
    "Answer",
    "Asked",
    "Case",
    "Cases",
    "CounterFact",
    "Hop",
    "Known",
    "Match",
    "Pool",
    "Question",
    "Ripple",
    "Shots",
    "ZsRE",
    "asked",
    "compare",
    "counterfact_scores",
    "draw_probes",
    "edit_wise",
    "harmonic_mean",
    "load_cases",
    "load_counterfact",
    "load_relation_shots",
    "load_ripple",
    "load_shots",
    "load_zsre",
    "ngram_entropy",
    "parse_cases",
    "pools_apart",
    "preservation",
    "reasoned_answer",
    "ripple_scores",
    "row",
    "score",
    "short_answer",
    "shots_named",
    "side_by_side",
    "summary",
    "token_accuracy",
]

lazy(__name__)
