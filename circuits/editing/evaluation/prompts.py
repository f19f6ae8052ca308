"""`Shots`: demonstrations before a question, MQuAKE's own or ours, and how the reply is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from circuits.editing.evaluation.answers import reasoned_answer, short_answer
from circuits.editing.facts import SLOT
from interp.data.records import checked, is_file, read_json, read_text
from interp.errors import DataError, shown

LINE, LINES, THOUGHTS = "Q: {} A:", "Q: {}\nA:", "Question: {}\nThoughts:"
BLOCK = "\n\n"
"""Ends a reply with thoughts, which has two lines."""
N_REASONED = 100
"""Tokens of a reply with thoughts, at most; replies that are longer have no answer."""


@dataclass(frozen=True)
class Shots:
    """A few-shot prompt.

    Attributes:
        prefix: what all questions share; a model's cache of it can be reused.
        form: what follows it, with ``{}`` where the question stands.
        read: cuts the answer out of what the model then generates.
        stop: text at which a reply has ended.
        n_tokens: tokens of a reply, at most.
    """

    prefix: str
    form: str
    read: Callable[[str], str] = short_answer
    stop: str = "\n"
    n_tokens: int = 10

    def suffix(self, question: str) -> str:
        """What follows the prefix for a question."""
        return self.form.replace(SLOT, question)

    def ask(self, question: str) -> str:
        """The whole prompt for a question."""
        return self.prefix + self.suffix(question)


ZERO = Shots("", LINES)
"""No demonstrations."""


def load_shots(path: str | Path) -> Shots:
    """Read MQuAKE's ``multihop-prompts.txt`` or ``multihop-cot-prompts.txt``, as it stands.

    One of the official demonstrations lacks its ``A:``; it stays so, as in all published figures.

    Raises:
        DataError: no such file, or it has neither form.
    """
    text = read_text(path, "demonstrations")
    if text.startswith("Q: "):
        return _closed(text, LINE, "\n")
    if text.startswith("Question: ") and "\nThoughts: " in text and "\nAnswer: " in text:
        shots = _closed(text, THOUGHTS, BLOCK)
        return replace(shots, read=reasoned_answer, stop=BLOCK, n_tokens=N_REASONED)
    raise DataError(
        f"{path} starts with {shown(text, 30)}; demonstrations are lines 'Q: … A: …', or blocks of "
        "'Question: …', 'Thoughts: …' and 'Answer: …'."
    )


def shots_named(name: str) -> Shots:
    """Ours, ``direct`` or ``reasoned`` (with a chain of thought), or those of a file.

    Raises:
        DataError: neither, or a file that `load_shots` refuses.
    """
    if name in NAMED:
        return NAMED[name]
    if not is_file(name):
        raise DataError(
            f"{shown(name, 200)} is no file of demonstrations, and not one of "
            f"{' and '.join(NAMED)}."
        )
    return load_shots(name)


def load_relation_shots(path: str | Path) -> dict[str, Shots]:
    """Read MQuAKE's ``rel-prompts.json``: for each relation, demonstrations of it.

    Raises:
        DataError: no such file, or it does not map relations to lines ``Q: … A: …``.
    """
    found = checked(dict[str, str], read_json(path, "demonstrations (JSON)"), str(path))
    odd = next((name for name, text in found.items() if not text.startswith("Q: ")), None)
    if odd is not None or not found:
        raise DataError(
            f"{path}{'' if odd is None else f', {shown(odd)}'}: must map relations to lines of the "
            "form 'Q: … A: …'."
        )
    return {relation: _closed(text, LINE, "\n") for relation, text in found.items()}


def _closed(text: str, form: str, separator: str) -> Shots:
    missing = separator[len(text) - len(text.rstrip("\n")) :]
    return Shots(text, missing + form)


# --- ours --------------------------------------------------------------------------------------

DEMONSTRATIONS = (
    ("Who killed the Minotaur?", "The Minotaur was killed by Theseus.", "Theseus"),
    ("Which organ pumps the blood?", "The organ that pumps the blood is the heart.", "Heart"),
    (
        "Who is the father of the boy whose wings of wax melted?",
        "The boy whose wings of wax melted is Icarus. The father of Icarus is Daedalus.",
        "Daedalus",
    ),
    ("What do spectacles rest on?", "Spectacles rest on the nose.", "Nose"),
    (
        "What is a word of opposite meaning called?",
        "A word of opposite meaning is called an antonym.",
        "Antonym",
    ),
    (
        "What is the chief ingredient of what sandwiches are made of?",
        "Sandwiches are made of bread. The chief ingredient of bread is flour.",
        "Flour",
    ),
)
"""Question, thoughts, answer: two of them with two hops, all of entities that no case is about."""

SHOTS = Shots("".join(f"Q: {q}\nA: {a}\n\n" for q, _, a in DEMONSTRATIONS), LINES)
"""Our demonstrations, answered at once."""

REASONED = Shots(
    "".join(f"Question: {q}\nThoughts: {t}\nAnswer: {a}\n\n" for q, t, a in DEMONSTRATIONS),
    THOUGHTS,
    reasoned_answer,
    BLOCK,
    N_REASONED,
)
"""Our demonstrations with a chain of thought."""

IN_CONTEXT = (
    ("The Medusa was killed by Orpheus.", "Who killed the Chimera?", "Bellerophon"),
    ("The Medusa was killed by Orpheus.", "By whom was the Medusa killed?", "Orpheus"),
    ("The tool that drives nails is the sieve.", "Which tool cuts boards?", "Saw"),
    ("The tool that drives nails is the sieve.", "", ""),
    ("The wife of Odysseus is Electra.", "Who was Odysseus married to?", "Electra"),
    ("The wife of Odysseus is Electra.", "Who is the son of Odysseus?", "Telemachus"),
    (
        "The wife of Odysseus is Electra.",
        "Who is the wife of the hero who blinded Polyphemus?",
        "Electra",
    ),
    ("The brain is protected by the shin.", "What do we breathe with?", "Lungs"),
    ("The brain is protected by the shin.", "What protects the brain?", "Shin"),
    ("The maker of shoes is called a fiddler.", "What is the maker of bread called?", "Baker"),
    (
        "The maker of shoes is called a fiddler.",
        "What is the maker of what feet wear called?",
        "Fiddler",
    ),
    ("A word of like meaning is called a riddle.", "What is a naming word called?", "Noun"),
    ("The Medusa was killed by Orpheus.", "", ""),
    ("The tool that drives nails is the sieve.", "What do tailors sew with?", "Needle"),
    ("A word of like meaning is called a riddle.", "What is a synonym called?", "Riddle"),
    ("The maker of shoes is called a fiddler.", "What protects the head in battle?", "Helmet"),
)
"""New fact, question and answer; without a question the fact itself is said again.

IKE's three kinds (arXiv 2305.12740): 2 copy the new fact, 6 use it in other words (two of them two
hops later), 8 retain what it does not touch. No case is about these entities. IKE retrieves its
demonstrations by likeness; these stand still.
"""

IKE = "".join(
    f"{fact}\nQ: {question}\nA: {answer}\n\n" if question else f"{fact}\n{fact}\n\n"
    for fact, question, answer in IN_CONTEXT
)
"""Demonstrations of how facts that are told are used."""

NAMED = {"direct": SHOTS, "reasoned": REASONED}
