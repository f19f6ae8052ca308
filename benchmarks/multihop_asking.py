"""What a model knows of the multi-hop set: few-shot questions, greedy, in batches.

Asker("gemma-3-270m", cache=Path("runs/multihop_gemma.json")).ask(questions) -> answers
"""

import copy
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from multihop_facts import Chain, Fact, Knowledge, hop, mentions, questions
from rich.progress import track
from torch import Tensor

from interp import load_model

# self-written; no entity of them is in the knowledge set; the last two have two hops
DEMONSTRATIONS = (
    ("What is the capital of Estonia?", "Tallinn"),
    ("Which country is the city of Guayaquil in?", "Ecuador"),
    ("Which instrument did Jaco Pastorius play?", "bass guitar"),
    ("Who painted 'The Swing'?", "Jean-Honoré Fragonard"),
    ("What is the capital of the country that plov comes from?", "Tashkent"),
    ("In which country was the author of 'Open Veins of Latin America' born?", "Uruguay"),
)
PREFIX = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in DEMONSTRATIONS) + "Q:"
N_NEW = 8  # tokens an answer may have
N_BATCH = 32
N_SAVE = 20  # batches between two writes of the answers


class Asker:
    """A model that is asked each question once; answers are kept in a JSON file."""

    def __init__(self, model: str, answers: Path) -> None:
        self.name, self.file = model, answers
        self.answers: dict[str, str] = {}
        if answers.exists():
            self.answers = json.loads(answers.read_text(encoding="utf-8"))
        self._model: Any = None

    def ask(self, questions: Iterable[str]) -> list[str]:
        """The model's answer to each question, up to the end of its line."""
        asked = list(questions)
        new = [q for q in dict.fromkeys(asked) if q not in self.answers]
        if new:
            self._answer(new)
        return [self.answers[q] for q in asked]

    def _answer(self, questions: list[str]) -> None:
        if self._model is None:
            self._model = load_model(self.name)
        tokenizer = self._model.tokenizer
        prefix = tokenizer(PREFIX)["input_ids"]
        by_length: dict[int, list[tuple[str, list[int]]]] = defaultdict(list)
        for question in questions:
            ids = tokenizer(f"{PREFIX} {question}\nA:")["input_ids"]
            if ids[: len(prefix)] != prefix:
                raise ValueError(f"the demonstrations are tokenized otherwise before {question!r}")
            by_length[len(ids)].append((question, ids[len(prefix) :]))
        with torch.inference_mode():
            shared = self._model.hf(
                torch.tensor([prefix]), use_cache=True, logits_to_keep=1
            ).past_key_values
            groups = [
                rows[i : i + N_BATCH]
                for rows in by_length.values()
                for i in range(0, len(rows), N_BATCH)
            ]
            for n, rows in enumerate(track(groups, self.name)):
                texts = self._continue(shared, torch.tensor([ids for _, ids in rows]))
                self.answers |= {q: t for (q, _), t in zip(rows, texts, strict=True)}
                if n % N_SAVE == N_SAVE - 1:
                    self._save()
        self._save()

    def _continue(self, shared: Any, ids: Tensor) -> list[str]:
        """Greedy continuations of equally long rows; a row leaves the batch at its line's end."""
        past = copy.deepcopy(shared)
        past.batch_repeat_interleave(len(ids))
        rows: list[list[int]] = [[] for _ in range(len(ids))]
        texts = ["" for _ in rows]
        alive = list(range(len(rows)))
        for _ in range(N_NEW):
            out = self._model.hf(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            ids = out.logits[:, -1].argmax(-1, keepdim=True)  # (alive, 1)
            on: list[int] = []
            for place, row in enumerate(alive):
                rows[row].append(int(ids[place]))
                text = self._model.tokenizer.decode(rows[row], skip_special_tokens=True)
                texts[row] = text.split("\n")[0].strip()
                if "\n" not in text and text:
                    on.append(place)
            alive = [alive[place] for place in on]
            if not alive:
                break
            if len(on) < len(ids):
                past.batch_select_indices(torch.tensor(on))
                ids = ids[on]
        return texts

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".tmp")
        beside.write_text(json.dumps(self.answers, ensure_ascii=False), encoding="utf-8")
        beside.replace(self.file)


@dataclass(frozen=True)
class Known:
    """What a model answers of one chain.

    Attributes:
        hops: for each hop, whether its question is answered.
        composed: whether any of the three composed questions is answered; None where a hop is
            not, and the questions were not asked.
    """

    hops: tuple[bool, ...]
    composed: bool | None


def judge(knowledge: Knowledge, chains: Sequence[Chain], asker: Any) -> list[Known]:
    """Ask every hop once, and composed questions of the chains whose hops are all known."""

    def right(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        said = asker.ask([question for question, _ in pairs])
        return [mentions(s, knowledge.names(a)) for s, (_, a) in zip(said, pairs, strict=True)]

    facts = list(dict.fromkeys(fact for chain in chains for fact in chain))
    knows = dict(zip(facts, right([_asked(knowledge, fact) for fact in facts]), strict=True))
    hops = [tuple(knows[fact] for fact in chain) for chain in chains]
    open_ = [i for i, known in enumerate(hops) if all(known)]
    composed: dict[int, bool] = dict.fromkeys(open_, False)
    for form in range(3):
        still = [i for i in open_ if not composed[i]]
        pairs = [(questions(knowledge, chains[i])[form], chains[i][-1].object) for i in still]
        composed |= dict(zip(still, right(pairs), strict=True))
    return [Known(known, composed.get(i)) for i, known in enumerate(hops)]


def _asked(knowledge: Knowledge, fact: Fact) -> tuple[str, str]:
    return hop(knowledge, fact)["question"], fact.object


def tables(chains: dict[Chain, str], known: Sequence[Known]) -> str:
    """Markdown: counts by hops and split, then by first and by last relation and by fact."""
    rows = list(zip(chains.items(), known, strict=True))

    def line(label: str, part: Sequence[tuple[tuple[Chain, str], Known]]) -> str:
        n_all = sum(all(k.hops) for _, k in part)
        n_composed = sum(bool(k.composed) for _, k in part)
        return f"| {label} | {len(part)} | {n_all} | {n_composed} |"

    out = ["| chains | n | every hop right | and a composed question right |", "|---|---|---|---|"]
    out.append(line("all", rows))
    for hops in (2, 3):
        for split in ("design", "test"):
            part = [row for row in rows if len(row[0][0]) == hops and row[0][1] == split]
            out.append(line(f"{hops} hops, {split}", part))
    for title, place in (("first relation", 0), ("last relation", -1)):
        out += ["", f"| {title} | n | every hop right | and a composed question right |"]
        out.append("|---|---|---|---|")
        by: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            by[row[0][0][place].relation.name].append(row)
        out += [line(f"`{name}`", by[name]) for name in sorted(by, key=lambda name: -len(by[name]))]
    return "\n".join(out)
