"""Asking a model short questions: few-shot, greedy, in batches that share the demonstrations' cache.

    Asker("gemma-3-270m", cache=Path("runs/multihop_gemma.json")).ask(questions) -> answers
"""

import copy
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

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

    def __init__(self, model: str, cache: Path) -> None:
        self.name, self.cache = model, cache
        self.answers: dict[str, str] = {}
        if cache.exists():
            self.answers = json.loads(cache.read_text(encoding="utf-8"))
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
                rows[i : i + N_BATCH] for rows in by_length.values() for i in range(0, len(rows), N_BATCH)
            ]
            for n, rows in enumerate(tqdm(groups, desc=self.name, mininterval=20)):
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
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        beside = self.cache.with_suffix(".tmp")
        beside.write_text(json.dumps(self.answers, ensure_ascii=False), encoding="utf-8")
        beside.replace(self.cache)
