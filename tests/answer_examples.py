"""Pairs whose answers have several tokens and texts, and what plain forward passes say of them."""

import torch

import interp
from interp.data.pairs import TokenPair
from interp.model.model import Model

ANSWERS = [
    # 1 and 3 tokens; 2 and 6; aliases, of which one extends another; common first tokens
    ("w20", "w21 w22 w23"),
    ("w30 w31", "w32 w33 w34 w35 w36 w37"),
    (["w40 w41 w42", "w43", "w40 w44", "w43 w45"], ["w40 w46", "w47 w48 w49 w50"]),
    ("w51 w52 w53 w54", "w51 w52 w55"),
]


def long_pairs() -> interp.PromptPairs:
    """Prompts of unequal length, each with answers of another kind."""
    prompts = [
        ("w1 w2 w3 w4 w5 w6", "w9 w2 w3 w4 w5 w6", ["w1", "w9"]),
        ("w7 w8 w10 w11", "w7 w8 w12 w11", ["w8 w10", "w8 w12"]),
        ("w5 w6 w7 w8 w9 w10 w11", "w5 w6 w13 w8 w9 w14 w11", ["w7 w8 w9", "w13 w8 w9"]),
        ("w1 w2 w3 w4 w5", "w1 w9 w3 w4 w5", ["w2 w3", "w9 w3"]),
    ]
    return interp.PromptPairs.from_records(
        {"clean": a, "corrupt": b, "answer": right, "wrong_answer": wrong, "spans": {"s": span}}
        for (a, b, span), (right, wrong) in zip(prompts, ANSWERS, strict=True)
    )


def by_definition(pair: TokenPair, logits_behind) -> dict[str, float]:
    """Every metric of whole answers, term by term.

    `logits_behind` gives the logits ``[pos, vocab]`` of the prompt followed by some tokens, in a
    plain forward pass under whatever is tested.
    """
    log_p: list[list[float]] = []
    ranks: list[int] = []
    for side, aliases in enumerate(pair.answers):
        log_p.append([])
        for alias in aliases:
            logits = logits_behind(alias[:-1])[-len(alias) :].double()
            own = logits.log_softmax(-1)[range(len(alias)), list(alias)]
            log_p[side].append(float(own.sum()))
            if side == 0:
                chosen = logits[range(len(alias)), list(alias)]
                ranks.append(int((logits > chosen[:, None]).sum(-1).max()))
    both = [float(torch.tensor(own).logsumexp(0)) for own in log_p]
    lengths = [len(alias) for alias in pair.answers[0]]
    return {
        "logit_diff": both[0] - both[1],
        "logprob": both[0],
        "prob": float(torch.tensor(both[0]).exp()),
        "logprob_per_token": max(p / n for p, n in zip(log_p[0], lengths, strict=True)),
        "rank": float(min(ranks)),
    }


def ids_with(model: Model, prompt: tuple[int, ...], behind: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([[*prompt, *behind]], device=model.device)
