"""`Shots`: demonstrations before a question, MQuAKE's own or ours, and how the reply is read."""

from dataclasses import dataclass
from pathlib import Path

from circuits.editing.evaluation.answers import reasoned_answer, short_answer
from circuits.editing.fact import SLOT
from interp.data.chat import Chat
from interp.data.records import is_file, read_json, read_text
from interp.errors import DataError, shown

LINE, LINES, THOUGHTS = "Q: {} A:", "Q: {}\nA:", "Question: {}\nThoughts:"
N_TOKENS, N_REASONED = 10, 100
"""Tokens of a reply, at most, without and with thoughts; longer thoughts have no answer."""


@dataclass(frozen=True)
class Shots:
    """A few-shot prompt: what all questions share, and the form of a question, with ``{}``.

    `reasoned` says that replies are thoughts and then an answer. In a `chat`, all of it is one
    user's turn.
    """

    prefix: str
    form: str
    reasoned: bool = False
    chat: Chat | None = None

    @property
    def stop(self) -> str:
        """Text at which a reply has ended; one with thoughts has two lines."""
        return "\n\n" if self.reasoned else "\n"

    @property
    def n_tokens(self) -> int:
        """Tokens of a reply, at most."""
        return N_REASONED if self.reasoned else N_TOKENS

    def read(self, generated: str) -> str:
        """The answer, cut out of what the model generates."""
        return reasoned_answer(generated) if self.reasoned else short_answer(generated)

    def suffix(self, question: str) -> str:
        """What follows the prefix for a question."""
        return self.form.replace(SLOT, question)

    def ask(self, question: str) -> str:
        """The whole prompt for a question."""
        return self.prefix + self.suffix(question)


def load_shots(path: str | Path) -> Shots:
    """Read MQuAKE's ``multihop-prompts.txt`` or ``multihop-cot-prompts.txt``, as it stands.

    One of the official demonstrations lacks its ``A:``; it stays so, as in all published figures.
    """
    text = read_text(path, "demonstrations")
    if text.startswith("Q: "):
        return Shots(text, _missing(text, "\n") + LINE)
    if text.startswith("Question: ") and "\nThoughts: " in text and "\nAnswer: " in text:
        return Shots(text, _missing(text, "\n\n") + THOUGHTS, reasoned=True)
    raise DataError(
        f"{path} starts with {shown(text, 30)}; demonstrations are lines 'Q: … A: …', or blocks of "
        "'Question: …', 'Thoughts: …' and 'Answer: …'."
    )


def _missing(text: str, separator: str) -> str:
    return separator[len(text) - len(text.rstrip("\n")) :]


def shots_named(name: str) -> Shots:
    """Ours, ``direct`` or ``reasoned`` (with a chain of thought), or those of a file."""
    if name in NAMED:
        return NAMED[name]
    if not is_file(name):
        raise DataError(
            f"{shown(name, 200)} is not a file of demonstrations, and not one of "
            f"{' and '.join(NAMED)}."
        )
    return load_shots(name)


# --- ours --------------------------------------------------------------------------------------

_TEXTS = read_json(Path(__file__).with_suffix(".json"), "demonstrations")
DEMONSTRATIONS: list[list[str]] = _TEXTS["questions"]
"""Question, thoughts, answer: two of them with two hops, all of entities that no case is about."""

SHOTS = Shots("".join(f"Q: {q}\nA: {a}\n\n" for q, _, a in DEMONSTRATIONS), LINES)
"""Our demonstrations, answered at once."""

REASONED = Shots(
    "".join(f"Question: {q}\nThoughts: {t}\nAnswer: {a}\n\n" for q, t, a in DEMONSTRATIONS),
    THOUGHTS,
    reasoned=True,
)
"""Our demonstrations with a chain of thought."""

IN_CONTEXT: list[list[str]] = _TEXTS["in_context"]
"""New fact, question and answer; without a question the fact itself is repeated.

IKE's three kinds (arXiv 2305.12740): 2 copy the new fact, 6 use it in other words (two of them two
hops later), 8 retain what it does not touch. No case is about these entities. IKE retrieves its
demonstrations by likeness; these are always the same.
"""

IKE = "".join(
    f"{fact}\nQ: {question}\nA: {answer}\n\n" if question else f"{fact}\n{fact}\n\n"
    for fact, question, answer in IN_CONTEXT
)
"""Demonstrations of how facts that the prompt states are used."""

NAMED = {"direct": SHOTS, "reasoned": REASONED}
