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


def _metrics(reading: ReadAs, source: str = "", **texts: str) -> Definitions:
    return tuple(BenchmarkMetric(name, reading, text, source) for name, text in texts.items())


# --- ours --------------------------------------------------------------------------------------

EFFICACY = _metrics(WORDS, efficacy="The edited sentence is continued by the target.")
PARAPHRASE = _metrics(WORDS, paraphrase="Share of its rewordings that are continued by the target.")
OURS_MULTI_HOP = _metrics(
    WORDS,
    multi_hop="Any wording of the question gets the new answer.",
    control_two_hop="Two-hop questions of other chains that must not change.",
    net_multi_hop="multi_hop minus the share of control two-hop questions broken.",
    efficacy=EFFICACY[0].text,
    paraphrase="The edited fact's question gets the new answer.",
    hop_recall="Share of the new chain's hops that are answered.",
    specificity="Single-hop questions, known before, that must not change: same relation, same old "
    "answer, other relations of the subject.",
)
OURS_SINGLE = (
    EFFICACY
    + PARAPHRASE
    + _metrics(
        WORDS,
        specificity="Neighbourhood prompts that the unedited model continues rightly, and the "
        "edited one, too.",
    )
)
OURS_RIPPLE = EFFICACY + _metrics(
    WORDS,
    multi_hop="Share of Compositionality I and II tests passed, of those whose condition queries "
    "the unedited model answers, of all edits.",
    specificity="Preservation and Relation Specificity tests that the unedited model passes, and "
    "the edited one, too.",
)
OURS_KNOW_EDIT = (
    EFFICACY
    + PARAPHRASE
    + _metrics(
        WORDS,
        multi_hop="Portability prompts of the type Reasoning.",
        specificity="Locality prompts that the unedited model continues rightly, and the edited "
        "one, too.",
    )
)

# --- published ---------------------------------------------------------------------------------


def _mquake(multi_hop: Definitions) -> Definitions:
    single = _metrics(
        EXACT,
        MQUAKE,
        edit_wise="Edit-wise success rate: share of edited facts whose sentence, without "
        "demonstrations, is continued by the target; what follows it is not read.",
        instance_wise="Instance-wise accuracy: every hop of the new chain is recalled, edited ones "
        "from their sentence, the others from their question behind demonstrations.",
    )
    hop_wise = _metrics(
        WORDS,
        POKEMQA,
        hop_wise="Any wording is answered rightly behind thoughts that name the answer of every "
        "hop, in order; only with thoughts (--shots reasoned).",
    )
    return single + multi_hop + hop_wise


def _zsre(target: str, source: str) -> Definitions:
    accuracies = _metrics(
        FORCED,
        source,
        efficacy_accuracy=f"Share of the target's tokens, after the question. The target is "
        f"{target}.",
        paraphrase_accuracy="After the rephrased question.",
        unrelated_accuracy="Specificity: of the right answer's tokens, after the question about "
        "something else.",
    )
    mean = "The harmonic mean of the means of the three."
    return accuracies + _metrics(FORCED, MEMIT, zsre_score=mean)


ANY_WORDING = "Any of the question's wordings (three) gets the new answer or an alias"
MULTI_HOP_ACCURACY = _metrics(EXACT, MQUAKE, multi_hop_accuracy=f"{ANY_WORDING}.")
MASKED_ACCURACY = _metrics(
    EXACT,
    REMASTERED,
    masked_accuracy=f"{ANY_WORDING}, in any case of letters, of cases that no other edit in force "
    "contaminates: cases edited on their own, or else those left when contaminated ones are taken "
    "out (counted).",
)
COUNTERFACT = _metrics(
    LIKELIER,
    ROME,
    efficacy_score="ES: P(new object) > P(true object) after the prompt.",
    paraphrase_score="PS: the same, share of the paraphrased prompts.",
    neighbourhood_score="NS: P(true object) > P(new object), share of prompts about neighbouring "
    "subjects.",
    counterfact_score="S: the harmonic mean of the means of ES, PS and NS.",
    efficacy_magnitude="EM: P(new) - P(true), each the exponential of the mean log-probability per "
    "token, as in ROME's released evaluation.",
    paraphrase_magnitude="PM: the same of PS.",
    neighbourhood_magnitude="NM: P(true) - P(new), of NS.",
)
CRITERION = (
    ": share of tests passed, of those whose condition queries the unedited model answers, of "
    "edits that succeeded."
)
RIPPLE_EDITS = _metrics(
    WORDS,
    RIPPLE,
    logical_generalization=f"LG, what follows by a rule{CRITERION}",
    compositionality_1=f"CI, a hop after the edit{CRITERION}",
    compositionality_2=f"CII, a hop before the edit{CRITERION}",
    subject_aliasing=f"SA, another name of the subject{CRITERION}",
    preservation="PV, other objects of the relation (Forgetfulness in the files)" + CRITERION,
    relation_specificity=f"RS, other relations of the subject{CRITERION}",
)
KNOW_EDIT = _metrics(
    FORCED,
    KNOWEDIT,
    edit_success="Share of the target's tokens.",
    rephrase_accuracy="After the rephrased prompt.",
    portability="Mean over the types of portability prompts of the share of the answer's tokens.",
    locality="Mean over the types of locality prompts of the share of tokens, predicted along the "
    "answer, that are the unedited model's.",
)
BENCHMARK_METRICS: Mapping[str, Definitions] = {
    "mquake": OURS_MULTI_HOP + _mquake(MULTI_HOP_ACCURACY),
    "mquake_remastered": OURS_MULTI_HOP + _mquake(MASKED_ACCURACY),
    "counterfact": OURS_SINGLE + COUNTERFACT,
    "zsre": OURS_SINGLE + _zsre("alt, which is false", f"{MEND}; {MEMIT}'s released evaluation"),
    "zsre_rome": OURS_SINGLE
    + _zsre("answers[0], which is true", f"{MEMIT} and its released evaluation"),
    "ripple_edits": OURS_RIPPLE + RIPPLE_EDITS,
    "knowedit": OURS_KNOW_EDIT + KNOW_EDIT,
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
