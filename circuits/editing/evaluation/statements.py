"""A fact as text in other forms than its prompt: stated, denied, turned round, and as a phrase.

All forms are made of the prompt's own words by templates, so they exist for any relation. Where a
template does not fit a prompt, the form is missing (an empty text), and callers count it.
"""

import re

from circuits.editing.fact import SLOT, Fact

COPULAS = "is|was|are|were"
NAMING = "called|named|known as"
"""What stands between copula and object and is dropped where the two change places."""
BLANK = "___"
_FUNCTION_WORDS = frozenset(
    ("a", "an", "the", "its", "this", "that", "these", "those", "there", "one", "who", "whom")
    + ("whose", "which", "what", "where", "when", "how", "in", "on", "at", "of", "for", "from")
    + ("by", "to", "with", "going", "according")
)
_IN_PLACE = re.compile(rf"(?<!\bthat )(?<!\bwhich )(?<!\bwho )(?<!\bwhere )\b({COPULAS})\b(?! not)")
KINDS_OF_THING = "city|country|state|US state|continent|month|language|sport|religion|river"
_NOUN_PHRASE = re.compile(
    rf"(The .+?) (?:{COPULAS})(?: (?:{NAMING}))?(?: (?:the|a|an)(?: (?:{KINDS_OF_THING}) of)?)?"
)
_TURNED = re.compile(
    rf"(?P<head>[^,{{}}]+) \{{\}} (?P<copula>{COPULAS})(?: (?:{NAMING}))?(?P<rest>(?: .+)?)"
)


def opening(fact: Fact) -> str:
    """The fact's prompt as the beginning of a sentence, with its slot.

    A prompt that is a question becomes ``The answer to "…" is``.
    """
    return f'The answer to "{fact.prompt}" is' if fact.prompt.endswith("?") else fact.prompt


def statement(fact: Fact, named: str) -> str:
    """The sentence that gives the subject an object, without a full stop."""
    return f"{opening(fact).replace(SLOT, fact.subject)} {named}"


def inside(sentence: str) -> str:
    """A sentence as it stands within another: an article or the like loses its capital."""
    first, space, rest = sentence.partition(" ")
    lower = first.lower()
    return lower + space + rest if lower in _FUNCTION_WORDS else sentence


def negated(fact: Fact) -> str:
    """The sentence's beginning with ``not`` behind its last copula; empty where it has none.

    A copula right behind a relative pronoun belongs to a clause, and one of the subject's own words
    is never touched.
    """
    found = list(_IN_PLACE.finditer(opening(fact)))
    if not found:
        return ""
    at = found[-1].end()
    text = opening(fact)
    return (text[:at] + " not" + text[at:]).replace(SLOT, fact.subject)


def blanked(fact: Fact, named: str) -> str:
    """The statement with a blank where the subject stands."""
    return f"{opening(fact).replace(SLOT, BLANK)} {named}"


def turned_round(fact: Fact, named: str) -> str:
    """The statement from object to subject: ``Rome is the capital of``; empty where none fits.

    It is made of prompts of the form "… {} is …", whose slot ends what the copula links.
    """
    found = _TURNED.fullmatch(fact.prompt)
    if found is None or re.search(rf"\b(?:{COPULAS})\b", found["rest"]):
        return ""
    front = f"{found['rest'].strip()} {named}".strip()
    front = front[:1].upper() + front[1:]
    return f"{front} {found['copula']} {inside(found['head'])}"


def phrase(fact: Fact) -> str:
    """What the fact's object is called by its prompt: ``the capital of France``; empty if nothing.

    It is made of prompts that are a noun phrase and a copula.
    """
    found = _NOUN_PHRASE.fullmatch(fact.prompt)
    return inside(found[1]).replace(SLOT, fact.subject) if found and SLOT in found[1] else ""
