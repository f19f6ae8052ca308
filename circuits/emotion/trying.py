"""Transfer tests on texts that no direction has seen: synonyms, frames, and no word at all."""

from collections.abc import Sequence
from functools import partial

from circuits.emotion.data import Reply, Scenario, Vignette
from circuits.emotion.discovering import Progress
from circuits.emotion.discovery import Discovery
from circuits.emotion.frames import Frames
from circuits.emotion.situations import Asking, situations
from circuits.emotion.states import groups_of, states
from circuits.emotion.transfer import Reading, joined, read_groups
from circuits.emotion.wordless import (
    DEMONSTRATIONS,
    REPLIES,
    demonstration_groups,
    read_vignettes,
    reply_groups,
    vignette_states,
)
from interp.model import Model

SYNONYMS = (("felt:A", "felt:B"), ("felt:B", "felt:C"), ("felt:C", "felt:A"))
FRAMES = (("felt:A", "day:B"), ("felt:B", "diary:C"), ("felt:A", "made:B"))
CHAT = (("felt:A", "chat:B"),)
"""(style of the directions, style read). No word is on both sides, so none is told by itself."""


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
        Synonyms, each and joined; frames; chat, where the model has a template; demonstrations;
        vignettes, less two origins; replies.
    """
    say = progress or (lambda stage, done, total: None)
    texts = interleaved(scenarios)[:n_scenarios]

    def read(pairs: Sequence[tuple[str, str]]) -> list[Reading]:
        out: list[Reading] = []
        for source, target in pairs:
            if source in found.by_style:
                groups = groups_of(model, texts, frames, (target,))
                at = states(model, groups, progress=partial(say, target))
                name = f"{source}→{target}"
                out.append(read_groups(found.by_style[source], at, name))
        return out

    synonyms = read(SYNONYMS)
    out = [*synonyms, *([joined(synonyms, "synonyms")] if synonyms else []), *read(FRAMES)]
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
