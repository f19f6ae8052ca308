"""What a model knows before any edit: the filter that every multi-hop figure is conditional on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case, Hop
from circuits.editing.evaluation.comparison_settings import Filter
from circuits.editing.evaluation.demonstrations import Shots
from circuits.editing.evaluation.edited_models import asking, generations
from interp.brief import brief
from interp.model.model import Model

AT_ONCE = 512
"""Questions between two reports of progress."""
CASES_AT_ONCE = 256
"""Cases that are asked before it is seen whether they are enough; controls are drawn from them."""
Progress = Callable[[int, int], None]


@brief
@dataclass(frozen=True)
class Knowledge:
    """Answers of the unedited model to questions, and which questions it answers rightly."""

    right: frozenset[str]
    answers: Mapping[str, str]

    def missing(self, case: Case, which: Filter = "composed") -> str:
        """Why a case cannot be scored; empty where it can.

        Every hop of the old chain, any wording of its question (unless `which` is ``hops``), and
        the unedited hops of the new chain must be right before the edit; unless it is ``none``.
        """
        if which != "none" and (reason := self._unknown(case, which)):
            return reason
        return "the edit does not change the answer" * case.answer.overlaps(case.new_answer)

    def _unknown(self, case: Case, which: Filter) -> str:
        if not all(hop.question in self.right for hop in case.hops):
            return "a hop is not known before the edit"
        composed = any(question in self.right for question in case.questions)
        if which == "composed" and not composed:
            return "the multi-hop question is not answered before the edit"
        if not all(hop.question in self.right for hop in _unedited(case)):
            return "an unedited hop of the new chain is not known"
        return ""


def usable_cases(
    cases: Sequence[Case], known: Knowledge, which: Filter = "composed"
) -> tuple[list[Case], dict[str, int]]:
    """The cases that can be scored, and how many cannot, by reason."""
    reasons = [known.missing(case, which) for case in cases]
    usable = [case for case, reason in zip(cases, reasons, strict=True) if not reason]
    return usable, dict(Counter(filter(None, reasons)))


def prior_knowledge(
    model: Model,
    cases: Sequence[Case],
    shots: Shots,
    progress: Progress | None = None,
    answers: Mapping[str, str] | None = None,
) -> Knowledge:
    """Ask an unedited model every hop, and the questions of the chains whose hops it knows.

    `progress` is called with (questions asked, questions in this round); `answers` are those of an
    earlier call with this model, which are not asked for again.
    """
    found = dict(answers or {})
    hops: dict[str, Answer] = {}
    for case in cases:
        for hop in (*case.hops, *_unedited(case)):
            hops.setdefault(hop.question, hop.answer)  # the first, whatever cases follow
    right = _ask(model, hops, shots, found, progress)
    composed: dict[str, Answer] = {}
    for case in cases:
        if all(hop.question in right for hop in case.hops):
            for question in case.questions:
                composed.setdefault(question, case.answer)
    right |= _ask(model, composed, shots, found, progress)
    return Knowledge(frozenset(right), found)


def knowledge_of_enough(
    model: Model,
    cases: Sequence[Case],
    shots: Shots,
    enough: Callable[[Sequence[Case]], bool],
    progress: Progress | None = None,
    which: Filter = "composed",
) -> tuple[Knowledge, int]:
    """As `prior_knowledge`, of the first cases only: until the usable ones of them are enough.

    `progress` is called with (cases asked, cases in all). Returns also how many were asked.
    """
    known, n = Knowledge(frozenset(), {}), 0
    report = progress or (lambda done, total: None)
    report(0, len(cases))
    while n < len(cases) and not (n and enough(usable_cases(cases[:n], known, which)[0])):
        n = min(n + CASES_AT_ONCE, len(cases))
        known = prior_knowledge(model, cases[:n], shots, answers=known.answers)
        report(n, len(cases))
    return known, n


def _unedited(case: Case) -> list[Hop]:
    """The hops of the new chain that no edit changes."""
    return [hop for i, hop in enumerate(case.new_hops) if i not in case.edited_hops]


def _ask(
    model: Model,
    questions: Mapping[str, Answer],
    shots: Shots,
    answers: dict[str, str],
    progress: Progress | None,
) -> set[str]:
    """Ask what is new, note the answers, and return the questions whose answer is right."""
    todo = [text for text in questions if text not in answers]
    report = progress or (lambda done, total: None)
    if todo:
        report(0, len(todo))
    for lo in range(0, len(todo), AT_ONCE):
        some = todo[lo : lo + AT_ONCE]
        texts = generations(model, [asking(shots, text) for text in some], [()])
        answers |= {text: shots.read(said) for text, said in zip(some, texts, strict=True)}
        report(lo + len(some), len(todo))
    return {text for text, answer in questions.items() if answer.lenient(answers[text])}
