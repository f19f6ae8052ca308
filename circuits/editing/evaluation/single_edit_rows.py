"""Rows of CounterFact, zsRE and KnowEdit to cases: one fact to edit, and prompts around it."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import NamedPrompt, SingleEdit
from circuits.editing.evaluation.mquake_rows import Id, Names, RewriteRow, Texts
from circuits.editing.fact import SLOT, Fact
from interp.data.records import Row, Text
from interp.errors import UnusableRow, shown

UNRELATED = "nq question: "
"""How zsRE's files mark the question about something else, which is drawn from NQ."""


def slotted(prompt: str, subject: str, where: str) -> str:
    """A prompt with a slot for its subject; `UnusableRow` where that does not stand there once."""
    times = prompt.count(subject) if subject else 0
    if times != 1:
        raise UnusableRow(f"{where}: {shown(subject)} stands {times} times in {shown(prompt)}.")
    return prompt.replace(subject, SLOT).strip()


# --- CounterFact, arXiv 2202.05262 -------------------------------------------------------------


class _PromptRow(Row):
    prompt: Text
    target: str = ""


class CounterFactRow(Row):
    """A record of CounterFact, as in ROME's repository."""

    case_id: Id = ""
    requested_rewrite: RewriteRow
    paraphrase_prompts: Texts
    neighborhood_prompts: Annotated[tuple[Text | _PromptRow, ...], Field(min_length=1)]
    generation_prompts: Names = None


def counterfact_case(row: CounterFactRow, id: str, where: str) -> SingleEdit:
    """The case of a row."""
    edit = row.requested_rewrite
    relation = edit.relation_id or ""
    fact = Fact(edit.prompt, edit.subject, edit.target_new, relation=relation, where=where)
    near = (p if isinstance(p, str) else p.prompt for p in row.neighborhood_prompts)
    generations = tuple(filter(str.strip, row.generation_prompts or ()))
    true, prompts = edit.target_true, (row.paraphrase_prompts, tuple(near))
    return SingleEdit(id, fact, true, *prompts, neighbour_answer=true, generations=generations)


# --- zsRE as released with MEND, arXiv 2110.11309, and as ROME and MEMIT use it ----------------


class ZsreRow(Row):
    """A record of ``zsre_mend_eval.json``."""

    subject: Text
    src: Text
    answers: Texts
    alt: str
    rephrase: Text
    loc: Text
    loc_ans: Text


class ZsreRewriteRow(Row):
    """The same record as ROME's loader hands it on: one neighbourhood prompt per token."""

    case_id: Id = ""
    requested_rewrite: RewriteRow
    paraphrase_prompts: Texts
    neighborhood_prompts: Annotated[tuple[_PromptRow, ...], Field(min_length=1)]


def zsre_case(row: ZsreRow, id: str, where: str) -> SingleEdit:
    """The case of a row, edited to ``alt``, which is false: as in MEND and EasyEdit."""
    return _zsre(row, row.alt, row.answers[0], id, where)


def zsre_rome_case(row: ZsreRow, id: str, where: str) -> SingleEdit:
    """The case of a row, edited to ``answers[0]``, which is true: as in ROME and MEMIT."""
    return _zsre(row, row.answers[0], None, id, where)


def zsre_rewrite_case(row: ZsreRewriteRow, id: str, where: str) -> SingleEdit:
    """The case of a row; its unrelated question and the tokens of the answer are put together."""
    edit, near = row.requested_rewrite, row.neighborhood_prompts
    target = edit.target_new.strip()
    fact = Fact(edit.prompt.strip(), edit.subject, target, where=where)
    question = _unrelated(near[0].prompt)
    answer = "".join(one.target for one in near).strip()
    if not answer:
        raise UnusableRow(f"{where}: the neighbourhood prompts have no target.")
    return SingleEdit(id, fact, None, row.paraphrase_prompts, (question,), answer)


def _zsre(row: ZsreRow, target: str, true: str | None, id: str, where: str) -> SingleEdit:
    if not target.strip():
        raise UnusableRow(f"{where}: the target of the edit is empty.")
    prompt = slotted(row.src, row.subject, where)
    fact = Fact(prompt, row.subject, target.strip(), where=where)
    return SingleEdit(id, fact, true, (row.rephrase,), (_unrelated(row.loc),), row.loc_ans.strip())


def _unrelated(question: str) -> str:
    return question.strip().removeprefix(UNRELATED).removesuffix("?").strip()


# --- KnowEdit, arXiv 2401.01286, and EasyEdit's flat form --------------------------------------

GroundTruth = str | tuple[str | tuple[str, ...], ...]


class _ProbeRow(Row):
    prompt: Text | Texts
    ground_truth: GroundTruth

    @property
    def text(self) -> str:
        """The prompt; of several, the first, which is the one that EasyEdit reads."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


Probes = Mapping[str, tuple[_ProbeRow, ...] | None] | None


class KnowEditRow(Row):
    """A record of KnowEdit's factual parts (``wiki_recent``, ``wiki_counterfact``, ``ZsRE``)."""

    case_id: Id | None = None
    subject: Text
    prompt: Text
    target_new: Text
    ground_truth: GroundTruth | None = None
    rephrase_prompt: str | None = None
    rephrase: str | None = None
    portability: Probes = None
    locality: Probes = None
    locality_prompt: str | None = None
    locality_ground_truth: str | None = None


def knowedit_case(row: KnowEditRow, id: str, where: str) -> SingleEdit:
    """The case of a row; of EasyEdit's flat form, too, whose one locality prompt has no type."""
    prompt = slotted(row.prompt, row.subject, where)
    fact = Fact(prompt, row.subject, row.target_new.strip(), where=where)
    true = next(iter(_names(row.ground_truth)), None) if row.ground_truth else None
    reworded = [text.strip() for text in (row.rephrase_prompt, row.rephrase) if text]
    asked = [
        (f"{group}/{kind.lower()}", one.text, _names(one.ground_truth))
        for group, kinds in (("portability", row.portability), ("locality", row.locality))
        for kind, ones in (kinds or {}).items()
        for one in ones or ()
    ]
    if row.locality_prompt:
        names = _names(row.locality_ground_truth)
        asked.append(("locality/neighbourhood", row.locality_prompt, names))
    probes = tuple(NamedPrompt(kind, text, Answer(n[0], n[1:])) for kind, text, n in asked if n)
    n_unanswered, reworded = len(asked) - len(probes), tuple(filter(None, reworded))
    return SingleEdit(id, fact, true, reworded, probes=probes, n_unanswered=n_unanswered)


def _names(truth: GroundTruth | None) -> tuple[str, ...]:
    """All names of an answer; the first is the one that EasyEdit reads."""
    groups = (truth,) if isinstance(truth, str) else truth or ()
    names = (n for group in groups for n in ((group,) if isinstance(group, str) else group))
    return tuple(dict.fromkeys(name for name in names if name.strip()))
