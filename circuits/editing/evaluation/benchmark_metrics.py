"""What `interp edit evaluate` measures, by format: whose metric it is, how answers are read for it.

The same word means different things in different papers: CounterFact's efficacy compares two
likelihoods, zsRE's counts tokens under teacher forcing, ours reads what is generated. So our
metrics and the published ones have names of their own, and every figure has its protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

ReadAs = Literal[
    "generated, matched as words",
    "generated, exact match",
    "likelihoods compared",
    "teacher-forced tokens",
]
"""How an answer is read: from greedy text that contains a name of it as whole words, or is one
letter by letter; from which of two objects is likelier; from the share of the answer's tokens that
are the likeliest, each behind the answer's own tokens before it."""


@dataclass(frozen=True)
class BenchmarkMetric:
    """A metric: whose it is, how answers are read for it, what it counts, and where it is defined.

    Attributes:
        source: paper and place of a published metric; empty for ours.
    """

    name: str
    reading: ReadAs
    text: str
    source: str = ""

    @property
    def whose(self) -> str:
        """``ours`` or ``published``."""
        return "published" if self.source else "ours"

    @property
    def protocol(self) -> str:
        """The label that stands beside every figure of it."""
        return f"{self.whose}: {self.reading}"


Definitions = tuple[BenchmarkMetric, ...]
WORDS, EXACT, LIKELIER, FORCED = get_args(ReadAs)
MEND, ROME, MEMIT = "arXiv 2110.11309", "arXiv 2202.05262, section 3.4", "arXiv 2210.07229"
MQUAKE = "arXiv 2305.14795, evaluation metrics; exact match as in its released run_mello.ipynb"
REMASTERED = (
    "MQuAKE-Remastered (ICLR 2025, OpenReview m9wG6ai2Xk), get_edits_without_contamination and "
    "check_answer of its released evaluation"
)
POKEMQA = "Hop-Acc of PokeMQA, arXiv 2312.15194"
RIPPLE = "arXiv 2307.12976, sections 3 and 5.1"
KNOWEDIT = "arXiv 2401.01286; EasyEdit's test_prediction_acc and examples/KnowEdit.md"

# --- ours --------------------------------------------------------------------------------------

EFFICACY = BenchmarkMetric("efficacy", WORDS, "The edited sentence is continued by the target.")
PARAPHRASE = BenchmarkMetric(
    "paraphrase", WORDS, "Share of its rewordings that are continued by the target."
)
OURS_MULTI_HOP: Definitions = (
    BenchmarkMetric("multi_hop", WORDS, "Any wording of the question gets the new answer."),
    BenchmarkMetric(
        "control_two_hop", WORDS, "Two-hop questions of other chains that must not change."
    ),
    BenchmarkMetric(
        "net_multi_hop", WORDS, "multi_hop minus the share of control two-hop questions broken."
    ),
    EFFICACY,
    BenchmarkMetric("paraphrase", WORDS, "The edited fact's question gets the new answer."),
    BenchmarkMetric("hop_recall", WORDS, "Share of the new chain's hops that are answered."),
    BenchmarkMetric(
        "specificity",
        WORDS,
        "Single-hop questions, known before, that must not change: same relation, same old answer, "
        "other relations of the subject.",
    ),
)
OURS_SINGLE: Definitions = (
    EFFICACY,
    PARAPHRASE,
    BenchmarkMetric(
        "specificity",
        WORDS,
        "Neighbourhood prompts that the unedited model continues rightly, and the edited one, too.",
    ),
)

# --- published ---------------------------------------------------------------------------------


def _mquake(multi_hop: BenchmarkMetric) -> Definitions:
    return (
        BenchmarkMetric(
            "edit_wise",
            EXACT,
            "Edit-wise success rate: share of edited facts whose sentence, without demonstrations, "
            "is continued by the target; what follows it is not read.",
            MQUAKE,
        ),
        BenchmarkMetric(
            "instance_wise",
            EXACT,
            "Instance-wise accuracy: every hop of the new chain is recalled, edited ones from "
            "their sentence, the others from their question behind demonstrations.",
            MQUAKE,
        ),
        multi_hop,
        BenchmarkMetric(
            "hop_wise",
            WORDS,
            "Any wording is answered rightly behind thoughts that name the answer of every hop, in "
            "order; only with thoughts (--shots reasoned).",
            POKEMQA,
        ),
    )


def _criterion(name: str, text: str) -> BenchmarkMetric:
    about = (
        ": share of tests passed, of those whose condition queries the unedited model answers, "
        "of edits that succeeded."
    )
    return BenchmarkMetric(name, WORDS, text + about, RIPPLE)


COUNTERFACT: Definitions = (
    BenchmarkMetric(
        "efficacy_score", LIKELIER, "ES: P(new object) > P(true object) after the prompt.", ROME
    ),
    BenchmarkMetric(
        "paraphrase_score", LIKELIER, "PS: the same, share of the paraphrased prompts.", ROME
    ),
    BenchmarkMetric(
        "neighbourhood_score",
        LIKELIER,
        "NS: P(true object) > P(new object), share of prompts about neighbouring subjects.",
        ROME,
    ),
    BenchmarkMetric(
        "counterfact_score", LIKELIER, "S: the harmonic mean of the means of ES, PS and NS.", ROME
    ),
    BenchmarkMetric(
        "efficacy_magnitude",
        LIKELIER,
        "EM: P(new) - P(true), each the exponential of the mean log-probability per token, as in "
        "ROME's released evaluation.",
        ROME,
    ),
    BenchmarkMetric("paraphrase_magnitude", LIKELIER, "PM: the same of PS.", ROME),
    BenchmarkMetric("neighbourhood_magnitude", LIKELIER, "NM: P(true) - P(new), of NS.", ROME),
)


def _zsre(target: str, source: str) -> Definitions:
    return (
        BenchmarkMetric(
            "efficacy_accuracy",
            FORCED,
            f"Share of the target's tokens, after the question. The target is {target}.",
            source,
        ),
        BenchmarkMetric("paraphrase_accuracy", FORCED, "After the rephrased question.", source),
        BenchmarkMetric(
            "unrelated_accuracy",
            FORCED,
            "Specificity: of the right answer's tokens, after the question about something else.",
            source,
        ),
        BenchmarkMetric(
            "zsre_score", FORCED, "The harmonic mean of the means of the three.", MEMIT
        ),
    )


RIPPLE_EDITS: Definitions = (
    _criterion("logical_generalization", "LG, what follows by a rule"),
    _criterion("compositionality_1", "CI, a hop after the edit"),
    _criterion("compositionality_2", "CII, a hop before the edit"),
    _criterion("subject_aliasing", "SA, another name of the subject"),
    _criterion("preservation", "PV, other objects of the relation (Forgetfulness in the files)"),
    _criterion("relation_specificity", "RS, other relations of the subject"),
)
KNOW_EDIT: Definitions = (
    BenchmarkMetric("edit_success", FORCED, "Share of the target's tokens.", KNOWEDIT),
    BenchmarkMetric("rephrase_accuracy", FORCED, "After the rephrased prompt.", KNOWEDIT),
    BenchmarkMetric(
        "portability",
        FORCED,
        "Mean over the types of portability prompts of the share of the answer's tokens.",
        KNOWEDIT,
    ),
    BenchmarkMetric(
        "locality",
        FORCED,
        "Mean over the types of locality prompts of the share of tokens, predicted along the "
        "answer, that are the unedited model's.",
        KNOWEDIT,
    ),
)
ANY_WORDING = "Any of the question's wordings (three) gets the new answer or an alias"
MULTI_HOP_ACCURACY = BenchmarkMetric("multi_hop_accuracy", EXACT, f"{ANY_WORDING}.", MQUAKE)
MASKED_ACCURACY = BenchmarkMetric(
    "masked_accuracy",
    EXACT,
    f"{ANY_WORDING}, in any case of letters, of cases that no other edit in force contaminates: "
    "cases edited on their own, or else those left when contaminated ones are taken out (counted).",
    REMASTERED,
)
BENCHMARK_METRICS: Mapping[str, Definitions] = {
    "mquake": OURS_MULTI_HOP + _mquake(MULTI_HOP_ACCURACY),
    "mquake_remastered": OURS_MULTI_HOP + _mquake(MASKED_ACCURACY),
    "counterfact": OURS_SINGLE + COUNTERFACT,
    "zsre": OURS_SINGLE + _zsre("alt, which is false", f"{MEND}; {MEMIT}'s released evaluation"),
    "zsre_rome": OURS_SINGLE
    + _zsre("answers[0], which is true", f"{MEMIT} and its released evaluation"),
    "ripple_edits": (
        EFFICACY,
        BenchmarkMetric(
            "multi_hop",
            WORDS,
            "Share of Compositionality I and II tests passed, of those whose condition queries the "
            "unedited model answers, of all edits.",
        ),
        BenchmarkMetric(
            "specificity",
            WORDS,
            "Preservation and Relation Specificity tests that the unedited model passes, and the "
            "edited one, too.",
        ),
        *RIPPLE_EDITS,
    ),
    "knowedit": (
        EFFICACY,
        PARAPHRASE,
        BenchmarkMetric("multi_hop", WORDS, "Portability prompts of the type Reasoning."),
        BenchmarkMetric(
            "specificity",
            WORDS,
            "Locality prompts that the unedited model continues rightly, and the edited one, too.",
        ),
        *KNOW_EDIT,
    ),
}
"""By format, in the order shown."""

SCORES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "counterfact": (
        "counterfact_score",
        ("efficacy_score", "paraphrase_score", "neighbourhood_score"),
    ),
    **dict.fromkeys(
        ("zsre", "zsre_rome"),
        ("zsre_score", ("efficacy_accuracy", "paraphrase_accuracy", "unrelated_accuracy")),
    ),
}
"""By format: the name of its harmonic mean, and of what it is taken; means first, then theirs."""
