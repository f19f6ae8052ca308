"""Replies to situations, in each emotion, under each condition."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import pandas as pd

from circuits.emotion.emotion_metrics import Baseline, measure
from circuits.emotion.emotion_settings import CLOSING, Decoding
from circuits.emotion.prompts import KINDS, ReplyPrompts, token_prompt
from circuits.emotion.steering import Condition
from circuits.emotion.texts import EMOTIONS, EVENTLESS, Situation
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.prefix_cache import PrefixCache, common_prefix
from interp.interventions.generate import decode
from interp.interventions.plan import Plan
from interp.model.model import Model
from interp.progress import Progress, StageProgress
from interp.results.run_folder import TABLES, Steps, fingerprint

AT_ONCE = 480
"""Rows decoded together."""


@brief
@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are read but for their last tokens, and the rows that continue them.

    Of each row: its prompt, and its situation and emotion by their place in their lists.
    """

    cache: PrefixCache
    which: list[int]
    situations: list[int]
    emotions: list[int]


def read_prompts(model: Model, prompts: Sequence[TokenPrompt]) -> PrefixCache:
    """Read prompts of two tokens or more, what all of them begin with only once."""
    short = min(len(prompt.ids) for prompt in prompts)
    if short < 2:
        raise PlanError(f"a prompt has {short} tokens; replies need prompts of two or more.")
    shared = common_prefix([TokenPrompt(prompt.ids[:-1]) for prompt in prompts])
    shared = shared if len(prompts) > 1 else 0
    cache = PrefixCache.sharing(model, prompts, [shared] * len(prompts))
    cache.read(model, leave=1)
    return cache


def read_all(
    model: Model, asking: ReplyPrompts, kind: str, texts: Sequence[Situation]
) -> Iterator[PromptBatch]:
    """Read the prompts of one kind, batch by batch.

    Prompts without an emotion are read once per situation and continued in all six. Prompts with
    one are grouped by emotion, since what comes before the situation is then the same.
    """
    n = len(EMOTIONS)
    order = sorted(range(len(texts)), key=lambda i: (texts[i].theme, len(texts[i].text)))

    def read(part: Sequence[int], emotion: str) -> PrefixCache:
        asked = [asking.prompt(kind, texts[i], emotion) for i in part]
        return read_prompts(model, [token_prompt(model, one) for one in asked])

    if not KINDS[kind]:
        for part in _parts(order, AT_ONCE // n):
            which = [place for place in range(len(part)) for _ in range(n)]
            own = [part[i] for i in which]
            yield PromptBatch(read(part, EMOTIONS[0]), which, own, list(range(n)) * len(part))
        return
    groups = _parts(order, AT_ONCE)
    if kind.startswith("demonstrations"):
        themes = dict.fromkeys(texts[i].theme for i in order)
        groups = [[i for i in order if texts[i].theme == theme] for theme in themes]
    for part in groups:
        for row, emotion in enumerate(EMOTIONS):
            yield PromptBatch(read(part, emotion), list(range(len(part))), part, [row] * len(part))


def _parts(order: Sequence[int], size: int) -> list[list[int]]:
    return [list(order[i : i + size]) for i in range(0, len(order), size)]


def continued(
    model: Model, cache: PrefixCache, plan: Plan, emotions: Sequence[int], decoding: Decoding
) -> list[tuple[int, ...]]:
    """Each row's new tokens; without a plan, ``model.hf.generate`` of each alone.

    The rows of the cache are used up; `emotions` says which values of the plan each row takes.
    """
    return decode(
        model,
        cache,
        plan,
        decoding.new_tokens,
        entries=emotions,
        ends=ending_tokens(model, decoding.closing),
        min_new_tokens=decoding.min_tokens,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat,
    )


@lru_cache(maxsize=8)
def _closing(tokenizer: Any, size: int, marks: tuple[str, ...]) -> tuple[int, ...]:
    known = min(size, len(tokenizer))
    texts = tokenizer.batch_decode([[i] for i in range(known)])
    return tuple(i for i, text in enumerate(texts) if any(mark in text for mark in marks))


def ending_tokens(model: Model, closing: tuple[str, ...] = CLOSING) -> tuple[int, ...]:
    """The tokens that end a reply: the model's own, and all that hold a closing mark."""
    own = model.hf.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    marks = _closing(model.tokenizer, model.n_vocab, closing) if closing else ()
    return tuple(sorted({t for t in own if t is not None} | set(marks)))


def reply_text(model: Model, ids: Sequence[int], closing: tuple[str, ...] = CLOSING) -> str:
    """New tokens as text, cut at the mark that ended the reply."""
    text: str = model.tokenizer.decode(ids, skip_special_tokens=True)
    cut = min((at for mark in closing if (at := text.find(mark)) >= 0), default=len(text))
    return text[:cut].strip()


def replies(
    model: Model,
    condition: Condition,
    batches: Iterable[PromptBatch],
    texts: Sequence[Situation],
    decoding: Decoding,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every reply of a condition, one row per situation and emotion, in that order.

    `batches` are its prompts, which `read_all` read from `texts`.

    Returns:
        Columns ``place`` (of the situation in `texts`), ``situation``, ``scenario``, ``theme``,
        ``valence``, ``emotion``, ``text`` (what is replied to), ``reply`` and ``ids`` (new
        tokens).
    """
    rows: list[tuple[int, int, tuple[int, ...]]] = []
    for batch in batches:
        cache = batch.cache.branch(batch.which)
        new = continued(model, cache, condition.plan, batch.emotions, decoding)
        rows += zip(batch.situations, batch.emotions, new, strict=True)
        if progress:
            progress(len(rows), len(texts) * len(EMOTIONS))
    return pd.DataFrame(
        [
            {
                "place": place,
                "situation": texts[place].id,
                "scenario": texts[place].scenario_id,
                "theme": texts[place].theme,
                "valence": texts[place].valence,
                "emotion": EMOTIONS[emotion],
                "text": texts[place].text,
                "reply": reply_text(model, ids, decoding.closing),
                "ids": list(ids),
            }
            for place, emotion, ids in sorted(rows)
        ]
    )


def plain_replies(
    model: Model, asking: ReplyPrompts, texts: Sequence[Situation], decoding: Decoding
) -> list[str]:
    """What a model replies when no emotion is asked for: the style that counts as neutral."""
    prompts = [token_prompt(model, asking.prompt("neutral", one, EMOTIONS[0])) for one in texts]
    out: list[str] = []
    for part in _parts(range(len(prompts)), AT_ONCE // len(EMOTIONS)):
        cache = read_prompts(model, [prompts[i] for i in part])
        new = continued(model, cache, Plan(), [0] * len(part), decoding)
        out += [reply_text(model, ids, decoding.closing) for ids in new]
    return [text for text in out if text]


@brief
@dataclass
class ReplyWriter:
    """Writes conditions' replies to one list of situations; neutral prompts are read once for all.

    Attributes:
        asking: words, frames and demonstrations.
        steps: where finished conditions are kept.
        progress: called with (condition, replies done, in all).
    """

    model: Model
    asking: ReplyPrompts
    texts: Sequence[Situation]
    decoding: Decoding = Decoding()
    steps: Steps = field(default_factory=Steps)
    progress: StageProgress | None = None

    def write(self, condition: Condition) -> pd.DataFrame:
        """The measured replies of a condition, read back if they are kept."""
        texts = fingerprint([[one.text for one in self.texts], self.decoding])
        name = f"{condition.name}-{condition.digest}-{texts[-8:]}"
        return self.steps.step(name, lambda: {"replies": self._measured(condition)}, TABLES)[
            "replies"
        ]

    def _measured(self, condition: Condition) -> pd.DataFrame:
        say, model, asking = self.progress, self.model, self.asking
        neutral = condition.prompt == "neutral"
        table = replies(
            model,
            condition,
            self._neutral if neutral else read_all(model, asking, condition.prompt, self.texts),
            self.texts,
            self.decoding,
            say and (lambda done, total: say(condition.name, done, total)),
        )
        return measure(model, table, self.baseline).assign(condition=condition.name)

    @cached_property
    def _neutral(self) -> list[PromptBatch]:
        """The neutral prompts, which most conditions continue and all are scored after."""
        return list(read_all(self.model, self.asking, "neutral", self.texts))

    @cached_property
    def baseline(self) -> Baseline:
        """What the unmodulated model's replies are scored after."""
        prompt = token_prompt(self.model, self.asking.prompt("neutral", EVENTLESS, EMOTIONS[0]))
        places = [dict(zip(batch.situations, batch.which, strict=True)) for batch in self._neutral]
        caches = [batch.cache for batch in self._neutral]
        eventless = read_prompts(self.model, [prompt])
        return Baseline(list(zip(caches, places, strict=True)), eventless)
