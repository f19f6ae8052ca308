"""What a model knows before any edit: the filter that every figure is conditional on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from circuits.editing.asking import asking, generations
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case, Hop
from circuits.editing.evaluation.prompts import Shots
from interp.brief import brief
from interp.model.model import Model

AT_ONCE = 512
"""Questions in a batch."""

CASES_AT_ONCE = 256
"""Cases that are asked before it is seen whether they are enough; controls are drawn from them."""


@brief
@dataclass(frozen=True)
class Knowledge:
    """Answers of the unedited model.

    Attributes:
        right: the questions that it answers rightly.
        asked: all questions put to it, and what it said.
    """

    right: frozenset[str]
    asked: dict[str, str]

    def usable(self, case: Case) -> str:
        """Why a case cannot be scored; empty where it can.

        Every hop of the old chain, any wording of its question, and the unedited hops of the
        new chain must be right before the edit.
        """
        if not all(hop.question in self.right for hop in case.hops):
            return "a hop is not known before the edit"
        if not any(question in self.right for question in case.questions):
            return "the multi-hop question is not answered before the edit"
        kept = (hop for i, hop in enumerate(case.new_hops) if i not in case.edited_hops)
        if not all(hop.question in self.right for hop in kept):
            return "an unedited hop of the new chain is not known"
        if case.answer.overlaps(case.new_answer):
            return "the edit does not change the answer"
        return ""


def usable_cases(cases: Sequence[Case], known: Knowledge) -> tuple[list[Case], dict[str, int]]:
    """The cases that can be scored, and how many cannot, by reason."""
    reasons = [known.usable(case) for case in cases]
    kept = [case for case, reason in zip(cases, reasons, strict=True) if not reason]
    return kept, dict(Counter(filter(None, reasons)))


def know(
    model: Model,
    cases: Sequence[Case],
    shots: Shots,
    progress: Callable[[int, int], None] | None = None,
    said: Mapping[str, str] | None = None,
) -> Knowledge:
    """Ask an unedited model every hop, and the questions of the chains whose hops it knows.

    Args:
        model: the model.
        cases: whose questions.
        shots: the demonstrations.
        progress: called with (questions asked, questions in this round).
        said: answers that an earlier call got from this model, which are not asked for again.
    """
    answers = dict(said or {})
    hops: dict[str, Answer] = {}
    for case in cases:
        for hop in _true_hops(case):
            hops.setdefault(hop.question, hop.answer)  # the first, whatever cases follow
    right = _ask(model, hops, shots, answers, progress)
    composed: dict[str, Answer] = {}
    for case in cases:
        if all(hop.question in right for hop in case.hops):
            for question in case.questions:
                composed.setdefault(question, case.answer)
    right |= _ask(model, composed, shots, answers, progress)
    return Knowledge(frozenset(right), answers)


def know_enough(
    model: Model,
    cases: Sequence[Case],
    shots: Shots,
    enough: Callable[[Sequence[Case]], bool],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Knowledge, int]:
    """As `know`, of the first cases only: until what is usable of them is enough.

    A case is usable or not whatever other cases are asked, so the usable cases are the first ones
    of all usable cases.

    Args:
        model: the model.
        cases: whose questions.
        shots: the demonstrations.
        enough: whether these usable cases will do.
        progress: called with (cases asked, cases in all).

    Returns:
        What the model knows of the cases asked, and how many these are.
    """
    known, n = Knowledge(frozenset(), {}), 0
    say = progress or (lambda done, total: None)
    say(0, len(cases))
    while n < len(cases) and not (n and enough(usable_cases(cases[:n], known)[0])):
        n = min(n + CASES_AT_ONCE, len(cases))
        known = know(model, cases[:n], shots, said=known.asked)
        say(n, len(cases))
    return known, n


def _true_hops(case: Case) -> list[Hop]:
    """The hops of the old chain, and those of the new one that no edit changes."""
    kept = [hop for i, hop in enumerate(case.new_hops) if i not in case.edited_hops]
    return [*case.hops, *kept]


def _ask(
    model: Model,
    questions: Mapping[str, Answer],
    shots: Shots,
    said: dict[str, str],
    progress: Callable[[int, int], None] | None,
) -> set[str]:
    """Put what is new to the model, note what it says, and return what is right."""
    todo = [text for text in questions if text not in said]
    say = progress or (lambda done, total: None)
    if todo:
        say(0, len(todo))
    for lo in range(0, len(todo), AT_ONCE):
        some = todo[lo : lo + AT_ONCE]
        asks = [asking(shots, text) for text in some]
        for text, answer in zip(some, generations(model, asks, [()]), strict=True):
            said[text] = shots.read(answer)
        say(lo + len(some), len(todo))
    return {text for text, answer in questions.items() if answer.lenient(said[text])}
