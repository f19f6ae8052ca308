"""What every metric of an edited fact means, for the edit card and the columns of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

UNEDITED, EDITED, IN_PROMPT = "unedited", "edited", "prompt-only"
CONDITIONS = (UNEDITED, EDITED, IN_PROMPT)
ABILITIES = ("country_capitals", "country_facts", "landmark_countries", "ioi")
"""Shipped pair sets of which accuracies are taken."""
Wanted = Literal["high", "low", "as before"]


@dataclass(frozen=True)
class MetricDefinition:
    """One metric.

    Attributes:
        title: as a reader sees it.
        says: what is counted, and of what.
        source: where it comes from.
        wanted: which values a good edit has.
    """

    title: str
    says: str
    source: str = ""
    wanted: Wanted = "high"


WRITTEN, USED, COHERENT, UNHARMED = (
    "Is the fact written?",
    "Is it used two hops later?",
    "Does the model agree with itself?",
    "Is everything else as it was?",
)
COUNTERFACT, MQUAKE, RIPPLE = "arXiv 2202.05262", "arXiv 2305.14795", "arXiv 2307.12976"
SAND, DEEP = "arXiv 2510.00625", "arXiv 2506.01386, 2410.15153"
BAKE = "arXiv 2310.10322, 2309.12288"

GROUPS: Mapping[str, Mapping[str, MetricDefinition]] = {
    WRITTEN: {
        "efficacy": MetricDefinition(
            "efficacy", "the edited sentence is continued by the new object", COUNTERFACT
        ),
        "paraphrase": MetricDefinition(
            "paraphrase",
            "the fact in other words gets the new object: its question, if it has one; completing "
            "the sentence, as a question; the sentence behind an unrelated one",
            COUNTERFACT,
        ),
        "affirmation": MetricDefinition(
            "affirmation",
            "the new object is likelier than the old one (mean log-probability per token) after "
            "the sentence, and after 'It is true that' and 'It is right to say that'",
            COUNTERFACT,
        ),
    },
    USED: {
        "multi_hop_first": MetricDefinition(
            "multi-hop, first hop",
            "questions about what follows from the new object get its answer",
            MQUAKE,
        ),
        "multi_hop_last": MetricDefinition(
            "multi-hop, last hop",
            "questions that describe the subject without its name get the new object",
            MQUAKE,
        ),
    },
    COHERENT: {
        "negation": MetricDefinition(
            "negation",
            "after a denial ('… is not', 'It is not true that …') the old object is likelier than "
            "the new one. A model that does not read the denial has 0 after the edit and 1 before",
            SAND,
        ),
        "negation_shift": MetricDefinition(
            "negation shift",
            "a denial makes the new object less likely beside the old one than the affirmation "
            "does; a model that does not read denials has about one half",
            f"{SAND}; as a difference",
        ),
        "fact_check": MetricDefinition(
            "fact check",
            "asked whether a statement is true, 'yes' minus 'no' is greater for the new object "
            "than for the old one; saying yes to everything gives no advantage",
            SAND,
        ),
        "affirms_new": MetricDefinition(
            "affirms the new fact", "'yes' is likelier than 'no' for the new object", SAND
        ),
        "denies_old": MetricDefinition(
            "denies the old fact", "'no' is likelier than 'yes' for the old object", SAND
        ),
        "reversal": MetricDefinition(
            "reversal",
            "asked by the new object, the model gives the subject: a blank in the sentence, and "
            "the sentence turned round",
            BAKE,
        ),
        "reversal_shift": MetricDefinition(
            "reversal shift",
            "the subject is likelier when asked for by the new object than by the old one",
            f"{BAKE}; as a difference",
        ),
        "leakage": MetricDefinition(
            "leakage",
            "asked by the old object, the model still gives the subject: the same two wordings, "
            "and known facts of other relations from which the old one follows",
            DEEP,
            "low",
        ),
        "leakage_multi_hop": MetricDefinition(
            "leakage two hops later",
            "multi-hop questions still get the answer that followed from the old object",
            DEEP,
            "low",
        ),
    },
    UNHARMED: {
        "specificity": MetricDefinition(
            "specificity",
            "single facts that must not change: the next three kinds together",
            COUNTERFACT,
            "as before",
        ),
        "same_relation": MetricDefinition(
            "same relation", "the edited relation of other subjects", COUNTERFACT, "as before"
        ),
        "same_answer": MetricDefinition(
            "same answer", "other facts with the old object", COUNTERFACT, "as before"
        ),
        "neighbour": MetricDefinition(
            "other relations", "what else is asked of the subject", RIPPLE, "as before"
        ),
        "control_two_hop": MetricDefinition(
            "control two-hop", "two-hop questions of other chains", MQUAKE, "as before"
        ),
    },
}
"""By the question that a reader asks of an edit, then by name."""
ABLE = "Can it do other things as well as before?"
ABILITY = MetricDefinition(
    "pair sets",
    "of a shipped pair set, the right answer is likelier than the wrong one",
    wanted="as before",
)
DEFINITIONS: Mapping[str, MetricDefinition] = {
    name: one for group in GROUPS.values() for name, one in group.items()
}
