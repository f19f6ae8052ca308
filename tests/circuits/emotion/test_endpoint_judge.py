"""The judge behind an interface, against a server on this machine that answers by the lexicon."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from circuits.emotion import LABELS
from circuits.emotion.endpoint_judge import EndpointJudge, label_in
from circuits.emotion.judges import lexical_labels
from interp.errors import ModelError, PlanError

REPLIES = [
    "I am furious, and outraged.",
    "I was so sad that I wept.",
    "I am afraid and terrified.",
    "I am afraid and terrified.",
    "I took the bus.",
]


@contextmanager
def serving(answer: Any, status: int = 200, busy: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """A server whose chat completions are what `answer` makes of the request; and the requests.

    The first `busy` requests get status 429.
    """
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), asked))
            body = json.dumps(answer(asked["messages"][0]["content"])).encode()
            self.send_response(429 if len(seen) <= busy else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def by_lexicon(question: str) -> dict[str, Any]:
    reply = question.rpartition("Reply: ")[2]
    return said(lexical_labels([reply], ["It was so."])[0].title() + ".")


def test_labels_come_back_in_order_and_each_reply_is_sent_once_with_nothing_else():
    with serving(by_lexicon) as (url, seen):
        judge = EndpointJudge(url, "some-model", key="secret")
        found = judge.probabilities(REPLIES)
    labels = [LABELS[i] for i in found.argmax(1)]
    assert labels == ["anger", "sadness", "fear", "fear", "neutral"]
    assert found.sum(1).tolist() == [1.0] * 5 and set(np.unique(found)) == {0.0, 1.0}
    assert judge.unclear == 0 and len(seen) == 4
    assert {(path, key) for path, key, _ in seen} == {("/v1/chat/completions", "Bearer secret")}
    assert all((asked["model"], asked["temperature"]) == ("some-model", 0) for *_, asked in seen)
    sent = {asked["messages"][0]["content"].rpartition("Reply: ")[2] for *_, asked in seen}
    assert sent == set(REPLIES)
    assert "secret" not in repr(judge)


def test_unclear_answers_are_neutral_and_counted_as_often_as_they_stand():
    with serving(lambda _: said("anger or fear, perhaps")) as (url, seen):
        judge = EndpointJudge(url, "m")
        found = judge.probabilities(REPLIES)
    assert set(found.argmax(1)) == {LABELS.index("neutral")}
    assert judge.unclear == len(REPLIES) and seen[0][1] is None


@pytest.mark.parametrize(
    ("answer", "label"), [("Fear", "fear"), ("  disgust.\n", "disgust"), ("", None), ("joy", None)]
)
def test_label_in(answer: str, label: str | None):
    assert label_in(answer) == label


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (said("fear"), 401, "401"),
        (said("fear"), 500, "500"),
        ({"answer": "fear"}, 200, "not that of chat completions"),
        ([], 200, "not that of chat completions"),
        ({"choices": []}, 200, "not that of chat completions"),
    ],
)
def test_a_server_that_refuses_is_the_users_to_be_told_about(answer: Any, status: int, why: str):
    refused = pytest.raises(ModelError, match=f"did not answer: .*{why}")
    with serving(lambda _: answer, status) as (url, _), refused:
        EndpointJudge(url, "m").probabilities(REPLIES)


def test_a_busy_server_is_asked_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("circuits.emotion.endpoint_judge.PAUSES", (0.01, 0.01))
    with serving(by_lexicon, busy=2) as (url, seen):
        found = EndpointJudge(url, "m").probabilities(REPLIES[:1])
    assert LABELS[found.argmax()] == "anger" and len(seen) == 3
    with serving(by_lexicon, busy=9) as (url, seen), pytest.raises(ModelError, match="429"):
        EndpointJudge(url, "m").probabilities(REPLIES[:1])
    assert len(seen) == 3


def test_no_server_and_no_address():
    with serving(by_lexicon) as (url, _):
        pass
    with pytest.raises(ModelError, match="did not answer: .*onnect"):
        EndpointJudge(url, "m").probabilities(["a"])
    with pytest.raises(PlanError, match="must begin with http"):
        EndpointJudge("localhost:8000", "m")
    assert EndpointJudge(url, "m").probabilities([]).shape == (0, 7)
