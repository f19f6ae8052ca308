"""Transfer tests on texts that no direction has seen: synonyms, frames, and no word at all."""

from collections.abc import Sequence
from functools import partial

from circuits.emotion.data import Reply, Scenario, Vignette
from circuits.emotion.directions import Directions
from circuits.emotion.discovering import Progress
from circuits.emotion.discovery import Discovery
from circuits.emotion.frames import Frames
from circuits.emotion.situations import Asking, situations
from circuits.emotion.states import States, groups_of, states
from circuits.emotion.transfer import Reading, joined, read_groups
from circuits.emotion.wordless import (
    DEMONSTRATIONS,
    REPLIES,
    demonstration_groups,
    read_vignettes,
    reply_groups,
    vignette_states,
)
from interp.model.model import Model

Pair = tuple[tuple[str, ...], str]
"""(styles of the directions, style read). No word is on both sides, so none is told by itself."""
SYNONYMS: tuple[Pair, ...] = (
    (("felt:A",), "felt:B"),
    (("felt:B",), "felt:C"),
    (("felt:C",), "felt:A"),
)
HELD_OUT: tuple[Pair, ...] = (
    (("felt:A", "felt:C"), "felt:B"),
    (("felt:A", "felt:B"), "felt:C"),
    (("felt:B", "felt:C"), "felt:A"),
)
FRAMES: tuple[Pair, ...] = (
    (("felt:A",), "day:B"),
    (("felt:B",), "diary:C"),
    (("felt:A",), "made:B"),
)
CHAT: tuple[Pair, ...] = ((("felt:A",), "chat:B"),)


def transfer_tests(
    model: Model,
    found: Discovery,
    frames: Frames,
    scenarios: Sequence[Scenario],
    vignettes: Sequence[Vignette] = (),
    replies: Sequence[Reply] = (),
    n_scenarios: int = 24,
    progress: Progress | None = None,
) -> list[Reading]:
    """Read states of unseen texts by directions of one style, or of all styles where no word is.

    Args:
        model: the model.
        found: whose directions; pairs of styles that it lacks are left out.
        frames: words and prompts.
        scenarios: texts that the discovery did not use.
        vignettes: situations without an emotion word.
        replies: read themselves, at their last token, and shown as demonstrations.
        n_scenarios: how many of the scenarios, in all their events; demonstrations take one.
        progress: called with (test, done, in all).

    Returns:
        Synonyms, by one set of words and by two, each and joined; frames; chat, where the model
        has a template; demonstrations; replies; vignettes, less two origins.
    """
    say = progress or (lambda stage, done, total: None)
    texts = interleaved(scenarios)[:n_scenarios]

    seen: dict[str, States] = {}

    def read(pairs: Sequence[Pair]) -> list[Reading]:
        out: list[Reading] = []
        for sources, target in pairs:
            if not set(sources) <= set(found.by_style):
                continue
            if target not in seen:
                groups = groups_of(model, texts, frames, (target,))
                seen[target] = states(model, groups, progress=partial(say, target))
            own = Directions.pooled([found.by_style[source] for source in sources])
            out.append(read_groups(own, seen[target], f"{'+'.join(sources)}→{target}"))
        return out

    out: list[Reading] = []
    for pairs, name in ((SYNONYMS, "synonyms"), (HELD_OUT, "held-out words")):
        several = read(pairs)
        out += [*several, *([joined(several, name)] if several else [])]
    out += read(FRAMES)
    if getattr(model.tokenizer, "chat_template", None):
        out += read(CHAT)
    if replies:
        asking = Asking(frames, replies)
        shown = demonstration_groups(model, asking, situations(texts, len(texts)))
        at = states(model, shown, progress=partial(say, DEMONSTRATIONS))
        out.append(read_groups(found.directions, at, DEMONSTRATIONS))
        at = states(model, reply_groups(model, frames, replies), progress=partial(say, REPLIES))
        out.append(read_groups(found.directions, at, REPLIES))
    if vignettes:
        x = vignette_states(model, frames, vignettes, partial(say, "vignettes"))
        out += read_vignettes(found.directions, x, vignettes)
    return out


def interleaved(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Scenarios with themes taking turns, so that the first of them are of all themes."""
    turn: dict[str, int] = {}
    keys: list[tuple[int, int]] = []
    for place, scenario in enumerate(scenarios):
        turn[scenario.theme] = turn.get(scenario.theme, 0) + 1
        keys.append((turn[scenario.theme], place))
    return [scenarios[place] for _, place in sorted(keys)]
