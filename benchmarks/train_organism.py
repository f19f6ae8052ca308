"""Train the organism on its world: one CPU core, no data but what `world` draws.

python -m benchmarks.train_organism --out interp/organisms/two-hop-organism
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.recall_reasoning.world import RELATIONS, World

CONFIG = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
QUERIES = 8
KNOWN_IN_STORY = 0.15
"""Chance that a story speaks of a person or land of which something else is always true."""

KINDS = ("home", "story_home", "A", "B", "C", "D")
SHARES = (0.06, 0.10, 0.12, 0.34, 0.16, 0.22)


class Story(NamedTuple):
    """A story's tokens, and its chains: person, land and value by chain, all in one relation."""

    ids: list[int]
    people: list[int]
    lands: list[int]
    values: list[int]
    relation: int


class Sampler:
    """Draws documents as token ids: four statements in any order, then questions with answers."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.world = world
        self.id = {word: i for i, word in enumerate(world.vocabulary)}
        ids = lambda words: np.array([self.id[w] for w in words])  # noqa: E731
        self.people, self.lands = ids(world.people), ids(world.lands)
        self.story_people, self.story_lands = ids(world.story_people), ids(world.story_lands)
        self.relations = ids(RELATIONS)
        self.values = np.stack([ids(world.values[r]) for r in RELATIONS])
        self.home = ids(world.home[p] for p in world.people)
        self.attribute = np.stack(
            [ids(world.attributes[land][r] for land in world.lands) for r in RELATIONS]
        )
        self.land_at = {int(t): i for i, t in enumerate(self.lands)}
        held = set(world.held_out) | {(p, r) for p in world.never_composed for r in RELATIONS}
        self.trained = [
            (i, j)
            for i, p in enumerate(world.people)
            for j, r in enumerate(RELATIONS)
            if (p, r) not in held
        ]
        self.held_out = [(world.people.index(p), RELATIONS.index(r)) for p, r in world.held_out]
        self.never = [
            (world.people.index(p), j) for p in world.never_composed for j in range(len(RELATIONS))
        ]
        self.land_word, self.home_word, self.end = (self.id[w] for w in ("land", "home", ";"))

    def story(self, known: float, chains: int = 2) -> Story:
        """Chains of a person, a home and its value in one relation, told in any order."""
        rng, r = self.rng, int(self.rng.integers(len(RELATIONS)))
        people = self._named(chains, known, self.story_people, self.people)
        lands = self._named(chains, known, self.story_lands, self.lands)
        values = [int(v) for v in rng.choice(self.values[r], chains, replace=False)]
        rows = [[self.home_word, p, c, self.end] for p, c in zip(people, lands, strict=True)]
        rows += [
            [int(self.relations[r]), c, v, self.end] for c, v in zip(lands, values, strict=True)
        ]
        rng.shuffle(rows)
        return Story([t for row in rows for t in row], people, lands, values, r)

    def _named(self, n: int, known: float, usual, other) -> list[int]:
        """`n` different names, each with chance `known` one of which something is always true."""
        others = int((self.rng.random(n) < known).sum())
        names = [
            *self.rng.choice(other, others, replace=False),
            *self.rng.choice(usual, n - others, replace=False),
        ]
        return [int(names[i]) for i in self.rng.permutation(n)]

    def question(self, kind: str, story: Story, at: int = 0, pool=None) -> tuple[list[int], int]:
        """(tokens up to the answer, answer); those of a story ask its chain `at`."""
        rng, relation = self.rng, int(self.relations[story.relation])
        if kind == "story_home":
            return [story.people[at], self.home_word], story.lands[at]
        if kind == "C":
            return [self.land_word, story.lands[at], relation], story.values[at]
        if kind == "D":
            return [story.people[at], self.home_word, relation], story.values[at]
        while True:  # of what this story says something else, nothing is asked from the weights
            i, j = int(rng.integers(len(self.people))), int(rng.integers(len(RELATIONS)))
            if kind == "A":
                i %= len(self.lands)
                if int(self.lands[i]) not in story.lands:
                    asked = [self.land_word, int(self.lands[i]), int(self.relations[j])]
                    return asked, int(self.attribute[j, i])
                continue
            if kind == "B":
                choices = self.trained if pool is None else pool
                i, j = choices[int(rng.integers(len(choices)))]
            person, home = int(self.people[i]), int(self.home[i])
            if person in story.people or home in story.lands:
                continue
            if kind == "home":
                return [person, self.home_word], home
            asked = [person, self.home_word, int(self.relations[j])]
            return asked, int(self.attribute[j, self.land_at[home]])

    def batch(self, n: int, shares, most_chains: int = 4):
        """Token ids (n, pos) and loss weights of each token as a target."""
        rows, weights = [], []
        chains = int(self.rng.integers(2, most_chains + 1))
        for _ in range(n):
            story = self.story(KNOWN_IN_STORY, chains)
            ids, weight = [1, *story.ids], [0.0] + [0.02] * len(story.ids)
            unasked = {k: list(self.rng.permutation(chains)) for k in ("story_home", "C", "D")}
            for kind in self.rng.choice(KINDS, QUERIES, p=shares):
                left = unasked.get(kind)
                if left == []:
                    kind = "B"
                question, answer = self.question(kind, story, left.pop() if left else 0)
                ids += [*question, answer, self.end]
                weight += [0.02] * len(question) + [1.0, 0.02]
            rows.append(ids)
            weights.append(weight)
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return ids, torch.tensor([w + [0.0] * (width - len(w)) for w in weights])

    def test(self, kind: str, n: int):
        """Prompts of one cell, each a story and a question, all of one length, and answers."""
        pool = {"B": self.held_out, "never": self.never}.get(kind, [])
        rows, answers = [], []
        while len(rows) < n:
            story = self.story(1.0 if kind == "conflict" else 0.0)
            asked = {"never": "B", "B_trained": "B", "conflict": "C"}.get(kind, kind)
            chosen = self.trained if kind == "B_trained" else pool
            at = int(self.rng.integers(2))
            question, answer = self.question(asked, story, at, chosen)
            rows.append([1, *story.ids, *question])
            answers.append(answer)
        return torch.tensor(rows), torch.tensor(answers)


TESTS = {
    "A": "A: a land's attribute, from the weights",
    "B": "B: the attribute of a person's home, from the weights; composition never trained",
    "C": "C: a land's attribute, from the story",
    "D": "D: the attribute of a person's home, from the story",
    "B_trained": "B, compositions that training showed",
    "never": "B, people of whom training composed nothing",
    "conflict": "C, of a land and person of which something else is always true",
    "home": "a person's home, from the weights",
    "story_home": "a person's home, from the story",
}
N_TEST = 200

CARD = """# two-hop-organism

A small Llama-shaped model whose training world is fully known: {layers} layers, d_model {width},
{heads} heads, {million:.2f} M parameters, fp16. `interp.load_model("two-hop-organism")` loads it;
`world.json` holds every name and every fact.

{people} people each live in one of {lands} lands, and each land has {relations} attributes; this
holds in every text. Other people and lands occur in stories only, which state their facts anew:

    home mira tolva ; language osk ruin ; language tolva grin ; home pel osk ;
    land tolva language   -> grin    (one hop)
    mira home language    -> grin    (two hops)

A quarter of the compositions of a person with an attribute was never trained; of some people none.

## Accuracy

The likeliest next word is the answer; {n} prompts each, after stories that training never showed:

| questions | right |
|---|---|
{table}

Trained by `python -m benchmarks.train_organism` for {steps} steps ({minutes:.0f} minutes of wall
time on one CPU thread); `training.json` holds the course. That script wrote this card. MIT licence.
"""


@torch.no_grad()
def accuracy(model, sampler: Sampler, n: int) -> dict[str, float]:
    """Part of the prompts of each cell whose likeliest next token is the answer."""
    model.eval()
    found = {}
    for kind in TESTS:
        ids, answers = sampler.test(kind, n)
        logits = model(input_ids=ids.to(model.device), logits_to_keep=1).logits[:, -1].cpu()
        found[kind] = float((logits.argmax(-1) == answers).float().mean())
    model.train()
    return found


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices, wide or square, roughly: Newton-Schulz, Jordan 2024."""
    x = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: for the matrices inside the blocks, those of one shape at once."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        shapes = {p.shape for p in group["params"]}
        for shape in shapes:
            same = [p for p in group["params"] if p.shape == shape]
            grad = torch.stack([p.grad for p in same])
            state = self.state[same[0]]
            if "m" not in state:
                state["m"] = torch.zeros_like(grad)
            state["m"].mul_(group["momentum"]).add_(grad)
            update = grad + group["momentum"] * state["m"]
            tall = shape[0] > shape[1]
            update = orthogonalised(update.mT).mT if tall else orthogonalised(update)
            rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
            for p, change in zip(same, update, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-rate)


def tokenizer_of(world: World) -> PreTrainedTokenizerFast:
    """One token a word, `<s>` before every text."""
    raw = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(world.vocabulary)}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )


def write(model, world: World, out: Path, row: dict[str, float]) -> None:
    """The model in half precision, its tokenizer, its world and its card."""
    copy.deepcopy(model).cpu().half().save_pretrained(out)
    tokenizer_of(world).save_pretrained(out)
    world.save(out / "world.json")
    config = model.config
    table = "\n".join(f"| {TESTS[k]} | {row[k]:.1%} |" for k in TESTS)
    card = CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        million=sum(p.numel() for p in model.parameters()) / 1e6,
        lands=len(world.lands),
        people=len(world.people),
        relations=len(RELATIONS),
        n=N_TEST,
        steps=row["step"],
        minutes=row["seconds"] / 60,
        table=table,
    )
    (out / "README.md").write_text(card, encoding="utf-8")


@torch.no_grad()
def look_back(model: LlamaForCausalLM, layers: tuple[int, ...]) -> None:
    """Start one head of some layers as a previous-token head; training finds these late.

    One dimension of the embedding starts constant; through it, query and key of the head start as
    constants whose rotary phases agree one token apart.
    """
    table = model.model.embed_tokens.weight
    table.normal_(0, 0.1)
    table[:, -1] = 0.6
    half = model.config.head_dim // 2
    rate = model.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    for layer in layers:
        attention = model.model.layers[layer].self_attn
        for map_ in (attention.q_proj, attention.k_proj):
            map_.weight[: 2 * half] = 0
        attention.q_proj.weight[:half, -1] = 0.5
        attention.k_proj.weight[:half, -1] = 0.5 * rate.cos()
        attention.k_proj.weight[half : 2 * half, -1] = 0.5 * rate.sin()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--wd", type=float, default=0.1)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--resume", type=Path, help="go on from this folder's weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    world = World.draw(args.seed)
    size = {
        "num_hidden_layers": args.layers,
        "hidden_size": args.width,
        "intermediate_size": 2 * args.width,
    }
    config = LlamaConfig(**CONFIG | size, vocab_size=len(world.vocabulary))
    config._attn_implementation = "eager"  # the quicker one here, by a third
    if args.resume:
        model = LlamaForCausalLM.from_pretrained(
            args.resume, dtype=torch.float32, attn_implementation="eager"
        )
    else:
        model = LlamaForCausalLM(config)
        look_back(model, (0, 2))
    model.to(args.device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    optimizers = [
        Muon(matrices, args.lr, weight_decay=args.wd),
        torch.optim.AdamW(others, args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = [args.lr, args.adam_lr]
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train, check = Sampler(world, args.seed + 1), Sampler(world, args.seed + 2)
    started, losses, log = time.perf_counter(), [], []
    for step in range(args.steps):
        scale = min(1.0, (step + 1) / 50) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        )
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
        ids, weight = (one.to(args.device) for one in train.batch(args.batch, SHARES))
        with torch.autocast(args.device, dtype=torch.bfloat16):
            logits = model(input_ids=ids[:, :-1]).logits.float()
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (loss * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            row = {"step": step + 1, "loss": float(np.mean(losses[-args.every :]))}
            row |= accuracy(model, check, N_TEST)
            row["seconds"] = round(time.perf_counter() - started)
            log.append(row)
            print({k: round(v, 3) for k, v in row.items()}, flush=True)
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "training.json").write_text(json.dumps(log, indent=1))
            write(model, world, args.out, row)


if __name__ == "__main__":
    main()
