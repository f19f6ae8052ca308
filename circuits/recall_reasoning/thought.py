"""Chains of thought intervened upon: does the final answer follow what the chain says?

A chain that names the bridge and ends in the right answer is edited, resampled sentence by
sentence, removed, or replaced by another question's; what comes behind is then written again.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.chains import (
    Chain,
    ask,
    continued,
    decoded,
    demonstrations,
    final_answer,
    named,
)
from circuits.recall_reasoning.settings import ThoughtSettings
from circuits.recall_reasoning.sources.countries import Country, load_facts
from circuits.recall_reasoning.thought_result import Thought
from interp.data import datasets as shipped
from interp.data.answers import Tokens, spaced
from interp.data.chat import Chat, has_template
from interp.data.records import read_text
from interp.errors import DataError
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.run_folder import Steps, fingerprint, identity, in_steps

CHUNK = 16
"""Replies that are written and stored at once; sampling depends on it."""
WORD = re.compile(r"\w[\w'’-]*")


def thought(
    model: Model,
    settings: ThoughtSettings | None = None,
    out: str | Path | None = None,
    *,
    datasets: Path | None = None,
    force: bool = False,
    progress: Progress | bool = True,
) -> Thought:
    """Ask two-hop questions for chains and intervene upon these; a stopped run resumes.

    Args:
        model: from `interp.load_model`; asked in its chat template where it has one.
        settings: question, numbers, sampling, and the options of the chat.
        out: the run folder.
        datasets: folder with another ``recall_facts.jsonl`` and ``neutral_text.txt``.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (replies written, in all) for the chains, the sentences drawn again,
            and what comes behind every change; True draws a bar for each.

    Raises:
        DataError: a template without ``{}``, or no chain that can be intervened upon.
        RunFolderError: `out` holds another run.
    """
    settings, files = settings or ThoughtSettings(), datasets or shipped.folder()
    facts = load_facts(files / "recall_facts.jsonl")
    words: list[str] = WORD.findall(read_text(files / "neutral_text.txt", "neutral text"))
    if settings.template.count("{}") != 1:
        raise DataError(f"the template {settings.template!r} needs one {{}} for the landmark.")
    if len({one.capital for one in facts if one.unnamed_landmarks}) < 2 or not words:
        raise DataError(f"{files}: give landmarks in countries of two capitals, and neutral words.")
    named = {"data": fingerprint([facts, words])} | identity(model)
    named |= settings.model_dump(mode="json")
    chat = settings.chat or (Chat() if has_template(model) else None)

    def make(steps: Steps) -> Thought:
        started = time.perf_counter()
        work = _Work(model, settings, facts, words, steps, progress)
        trials = work.trials(work.asked(chat))
        return Thought(
            chains=work.table,
            trials=trials,
            missing=pd.DataFrame(work.missing, columns=["question", "condition", "reason"]),
            settings=settings,
            form="plain" if chat is None else "chat",
            model=model.name,
            seconds=time.perf_counter() - started,
        )

    verb = "recall-reasoning thought"
    return in_steps(out, verb, named, make, Thought, unit="replies", force=force)


class _Work:
    """The steps of one run; `table` has a row per question once it is asked.

    `missing` are the interventions that a chain offers no place for.
    """

    def __init__(
        self,
        model: Model,
        settings: ThoughtSettings,
        facts: Sequence[Country],
        words: list[str],
        steps: Steps,
        progress: Progress | bool,
    ) -> None:
        self.model, self.settings, self.words, self.steps = model, settings, words, steps
        self.progress = progress
        self.capital = {fact.country: fact.capital for fact in facts}
        self.names = tuple(dict.fromkeys(self.capital.values()))
        self.missing: list[tuple[int, str, str]] = []
        rows = [(mark, f.country, f.capital) for f in facts for mark in f.unnamed_landmarks]
        order = np.random.default_rng(settings.seed).permutation(len(rows))[: settings.n]
        columns = ["landmark", "bridge", "answer"]
        self.table = pd.DataFrame([rows[i] for i in order], columns=columns)

    def asked(self, chat: Chat | None) -> list[tuple[dict[str, Any], Chain]]:
        """Every question's chain; those that can be intervened upon, with what they are about."""
        texts = [self.settings.template.replace("{}", mark) for mark in self.table["landmark"]]
        prompts = [ask(self.model, text, chat, self.settings.demonstrations) for text in texts]
        self.answer = spaced(prompts[0].text, "Answer:")
        chains = self.written("chains", [one.ids for one in prompts])
        said = [final_answer(chain.text, self.names) for chain in chains]
        rows: Any = self.table.assign(reply=[chain.text for chain in chains], said=said)
        rows["left_out"] = [
            self.left_out(row, chain)
            for row, chain in zip(rows.to_dict("records"), chains, strict=True)
        ]
        self.table = rows
        records = rows.reset_index(names="question").to_dict("records")
        usable = [both for both in zip(records, chains, strict=True) if not both[0]["left_out"]]
        if not usable:
            why = rows["left_out"].value_counts().to_dict()
            raise DataError(f"no chain of {self.model.name} can be intervened upon: {why}.")
        return usable

    def left_out(self, row: dict[str, Any], chain: Chain) -> str:
        """Why a chain is not intervened upon; empty where it is."""
        if row["bridge"] in {one["bridge"] for one in demonstrations(self.settings.demonstrations)}:
            return "a demonstration is about the bridge"
        if row["said"] is None:
            return "no final answer was found"
        if row["said"] != row["answer"]:
            return "the final answer is wrong"
        named_in = any(bridge_pattern(row).search(chain.text[a:b]) for a, b in chain.sentences)
        return "" if named_in else "no sentence names the bridge"

    def written(
        self, name: str, prefixes: Sequence[Tokens], temperature: float = 0.0
    ) -> list[Chain]:
        """What the model writes behind each prefix, stored in chunks."""
        found: list[Chain] = []
        with reported(self.progress, name, len(prefixes), "replies") as report:
            for start in range(0, len(prefixes), CHUNK):
                part, seed = prefixes[start : start + CHUNK], self.settings.seed + start

                def make(part: Sequence[Tokens] = part, seed: int = seed) -> list[Chain]:
                    return continued(self.model, part, self.settings.new_tokens, temperature, seed)

                found += self.steps.step(f"{name}-{start}", make, list[Chain])
                self.steps.count(len(found), len(prefixes))
                report(len(found), len(prefixes))
        return found

    def trials(self, usable: Sequence[tuple[dict[str, Any], Chain]]) -> pd.DataFrame:
        """A row per intervention: what was given, what came behind, and the final answer."""
        begun: list[tuple[dict[str, Any], Tokens]] = []
        for row, chain in usable:
            rng = np.random.default_rng([self.settings.seed, row["question"]])
            begun += self.edits(row, chain, rng)
            at_once = self.model.tokenizer.encode(self.answer, add_special_tokens=False)
            begun.append((_trial(row, "chain removed"), (*chain.prompt, *at_once)))
            others = [both for both in usable if both[0]["answer"] != row["answer"]]
            if not others:
                why = "no other chain that is used has another answer"
                self.missing.append((row["question"], "other chain", why))
            else:
                other, pasted = others[int(rng.integers(len(others)))]
                ids = pasted.cut(self.model, pasted.sentences[-1][1])[len(pasted.prompt) :]
                label = _trial(row, "other chain") | {"new": other["answer"]}
                begun.append((label, (*chain.prompt, *ids)))
        begun += self.resampled(usable)
        rests = self.written("rests", [prefix for _, prefix in begun])
        length = {row["question"]: len(chain.prompt) for row, chain in usable}
        rows: list[dict[str, Any]] = []
        for (label, prefix), rest in zip(begun, rests, strict=True):
            given = decoded(self.model, prefix[length[label["question"]] :])
            said = final_answer(given + rest.text, self.names)
            rows.append(label | {"given": given, "rest": rest.text, "said": said})
        return pd.DataFrame(rows)

    def edits(
        self, row: dict[str, Any], chain: Chain, rng: np.random.Generator
    ) -> list[tuple[dict[str, Any], Tokens]]:
        """The bridge replaced by another country, and as many words elsewhere by other words."""
        bridge, free = row["bridge"], [c for c, a in self.capital.items() if a != row["answer"]]
        other, pattern = free[int(rng.integers(len(free)))], bridge_pattern(row)
        texts = [chain.text[a:b] for a, b in chain.sentences]
        at, start = next(
            (i, m.start()) for i, one in enumerate(texts) if (m := pattern.search(one))
        )
        changes = {"edited bridge": (at, start, pattern.sub(lambda _: other, texts[at]))}
        n = len(bridge.split())
        for i, text in enumerate(texts):
            spans = [m.span() for m in WORD.finditer(text)]
            if not pattern.search(text) and named(text, self.names) is None and len(spans) >= n:
                first = int(rng.integers(len(spans) - n + 1))
                start, end = spans[first][0], spans[first + n - 1][1]
                drawn = " ".join(self.words[k] for k in rng.integers(len(self.words), size=n))
                changes["irrelevant edit"] = i, start, text[:start] + drawn + text[end:]
                break
        else:
            why = "no sentence of as many words names neither the bridge nor a capital"
            self.missing.append((row["question"], "irrelevant edit", why))
        before = chain.text[: chain.sentences[at][1]]
        label: dict[str, Any] = {"new": self.capital[other], "bridge_given": other}
        label["answer_named"] = bool(word(row["answer"]).search(before))
        found: list[tuple[dict[str, Any], Tokens]] = []
        for name, (i, start, new) in changes.items():
            # up to the end of the sentence, which is new from its character `start` on
            prefix = chain.cut(self.model, chain.sentences[i][0] + start, new[start:])
            found.append((_trial(row, name, i, new) | label, prefix))
        return found

    def resampled(
        self, usable: Sequence[tuple[dict[str, Any], Chain]]
    ) -> list[tuple[dict[str, Any], Tokens]]:
        """Each sentence drawn again behind those before it."""
        places = [
            (row, chain, at)
            for row, chain in usable
            for at in range(len(chain.sentences))
            for _ in range(self.settings.resamples)
        ]
        before = [chain.cut(self.model, chain.sentences[at][0]) for _, chain, at in places]
        drawn = self.written("drawn", before, self.settings.temperature)
        found: list[tuple[dict[str, Any], Tokens]] = []
        for number, ((row, chain, at), one) in enumerate(zip(places, drawn, strict=True)):
            end = one.sentences[0][1] if one.sentences else len(one.text)
            a, b = chain.sentences[at]
            label = _trial(row, "resampled", at, one.text[:end])
            label["same"] = one.text[:end].strip() == chain.text[a:b].strip()
            label["seed"] = self.settings.seed + number // CHUNK * CHUNK
            found.append((label, one.cut(self.model, end)))
        return found


def word(name: str, unless: str = "") -> re.Pattern[str]:
    """A name as a whole word, and not where `unless` follows."""
    behind = f"(?!{re.escape(unless)})" if unless else ""
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w){behind}")


def bridge_pattern(row: dict[str, Any]) -> re.Pattern[str]:
    """The bridge by its name, not as the beginning of its capital's (Mexico City)."""
    bridge, answer = row["bridge"], row["answer"]
    return word(bridge, answer.removeprefix(bridge) if answer.startswith(bridge) else "")


def _trial(
    row: dict[str, Any], condition: str, sentence: int = -1, changed: str = ""
) -> dict[str, Any]:
    label = {"question": row["question"], "bridge": row["bridge"], "old": row["answer"], "new": ""}
    label |= {"condition": condition, "sentence": sentence + 1, "changed": changed}
    return label | {"bridge_given": "", "answer_named": False, "same": False, "seed": -1}
