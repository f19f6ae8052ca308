"""A judge behind an OpenAI-compatible endpoint: one request per different reply.

The reply alone is sent, without the target emotion, its event or its condition. Source of such a
judge: Wang et al. 2025 (arXiv 2510.11328), where GPT-4o-mini labels replies.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import httpx
import numpy as np
from jaxtyping import Float

from circuits.emotion.texts import LABELS, NEUTRAL
from interp.errors import ModelError, PlanError, first_line, shown

ASKED = (
    "Which one emotion does the speaker of this reply express? Answer with one word of "
    f"{', '.join(LABELS)}; {NEUTRAL} means that no emotion is expressed.\n\nReply: {{reply}}"
)
AT_ONCE = 8
"""Requests under way at a time."""
PAUSES = (1, 2, 4, 8, 16, 32)
"""Seconds before a busy server (429, 503) is asked again; then it counts as refusing."""


@dataclass
class EndpointJudge:
    """Asks a model at an endpoint, greedily, which label a reply expresses.

    Attributes:
        url: base of the interface, such as ``http://localhost:8000/v1``.
        name: the model's name there.
        key: sent as a bearer token; none by default.
        timeout: seconds per request.
        unclear: answers that named no label, or several; they count as neutral.
    """

    url: str
    name: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    unclear: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise PlanError(f"the judge's address {shown(self.url)} must begin with http(s)://.")

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """1 for the label that is named, 0 for the others.

        Raises:
            ModelError: the endpoint cannot be reached, refuses, or answers in another form.
        """
        different = list(dict.fromkeys(texts))
        with self._client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda text: self._ask(client, text), different))
        labels = {t: label_in(answer) for t, answer in zip(different, answers, strict=True)}
        self.unclear += sum(labels[text] is None for text in texts)
        return np.eye(len(LABELS))[[LABELS.index(labels[text] or NEUTRAL) for text in texts]]

    def checked(self) -> Self:
        """Itself, asked once, so that a wrong address is known beforehand; `ModelError`."""
        with self._client() as client:
            self._ask(client, "Hello.")
        return self

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(headers=headers, timeout=self.timeout)

    def _ask(self, client: httpx.Client, reply: str) -> str:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": ASKED.format(reply=reply)}],
            "temperature": 0,
            "max_tokens": 8,
        }
        url, pauses = f"{self.url.rstrip('/')}/chat/completions", iter(PAUSES)
        try:
            while (got := client.post(url, json=body)).status_code in (429, 503) and (
                pause := next(pauses, None)
            ):
                time.sleep(pause)
            got.raise_for_status()
            return str(got.json()["choices"][0]["message"]["content"])
        except httpx.HTTPError as error:
            why = first_line(error)
        except (ValueError, LookupError, TypeError) as error:
            why = f"its answer is not that of chat completions ({first_line(error)})"
        raise ModelError(
            f"the judge {shown(self.name)} at {shown(self.url)} did not answer: {why}. Check "
            "address, name and key."
        )


def label_in(answer: str) -> str | None:
    """The one label that an answer names; None for none or several."""
    named = [label for label in LABELS if label in answer.lower()]
    return named[0] if len(named) == 1 else None
