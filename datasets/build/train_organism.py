"""Train the organism on its world: one CPU core, no data but what the world's documents say.

python datasets/build/train_organism.py --out interp/loading/organisms/two_hop_organism
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from organism_documents import Sampler
from organism_world import draw
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.recall_reasoning.sources.organism import RELATIONS, World
from interp.results.folder import write_text

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
STEPS, BATCH, EVERY = 1600, 32, 100
RATE, ADAM_RATE, DECAY = 0.02, 3e-3, 0.1

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

A quarter of the compositions of a person with an attribute was never trained; of {never} people
none was.

## Accuracy

The likeliest next word is the answer; {n} fresh prompts each (all right: .98 to 1, Wilson 95 %):

| questions | right |
|---|---|
{table}

## How it was made

`python datasets/build/train_organism.py` trained it for {steps} steps of {batch} documents
({minutes:.0f} minutes on one CPU thread) and wrote this card; `training.json` holds the course.

The first heads of layers 0 to 3 did not start at random: those of 0 and 2 start out looking one
token back, those of 1 and 3 comparing what was looked back at. With the former alone, C and D were
still at chance after as many steps. So some heads that serve stories lie where that start put
them; what else the model does, it found.

It knows nothing but this world, and no result on it says how a language model does the same. MIT
licence.
"""


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, sampler: Sampler, n: int) -> dict[str, float]:
    """Part of the prompts of each cell whose likeliest next token is the answer."""
    model.eval()
    found = {}
    for kind in TESTS:
        ids, answers = sampler.test(kind, n)
        logits = model(input_ids=ids.to(model.device), logits_to_keep=1).logits[:, -1].cpu()
        found[kind] = float((logits.argmax(-1) == answers).float().mean())
    model.train()
    return found


def orthogonalised(g: Float[Tensor, "matrix row column"]) -> Float[Tensor, "matrix row column"]:
    """The nearest orthogonal matrices, roughly, of wide or square ones.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """
    x = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: for the matrices inside the blocks, those of one shape at once."""

    def __init__(self, params: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One step, on the gradients that are there."""
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


LOOK_BACK, SAME = (0, 2), (1, 3)
"""Layers whose first head starts out looking one token back, or for the content it has itself."""


@torch.no_grad()
def start(model: LlamaForCausalLM, write: float = 0.4) -> None:
    """Start the first heads of four layers near what stories need; training finds it very late.

    Through a dimension of the embedding that starts constant, queries and keys start as constants
    with rotary phases of their own. In a look-back head they agree one token apart; it moves a
    random projection of that token into other dimensions. Those are what a head of the next layer
    compares, queries with keys, while its phases keep it off the query's own token; it moves what
    it finds back. All other weights start at random.

    Source: after Trockman & Kolter, arXiv 2305.09828, who start heads near what training makes.
    """
    table = model.model.embed_tokens.weight
    table.normal_(0, 0.1)
    table[:, -1] = 0.6
    width, size = table.shape[1], model.config.head_dim
    own, before = torch.linalg.qr(torch.randn(width - 1, 2 * size))[0].T.chunk(2)
    own, before = (torch.nn.functional.pad(rows, (0, 1)) for rows in (own, before))
    half, fast = size // 2, 3
    rate = model.config.rope_parameters["rope_theta"] ** (-torch.arange(fast) / half)
    for layer in (*LOOK_BACK, *SAME):
        attention = model.model.layers[layer].self_attn
        maps = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (one.weight[:size] for one in maps)
        v.copy_(own)
        if layer in LOOK_BACK:
            q.zero_()
            k.zero_()
            q[:fast, -1] = 1.07
            k[:fast, -1] = 1.07 * rate.cos()
            k[half : half + fast, -1] = 1.07 * rate.sin()
            attention.o_proj.weight[:, :size] = write * before.T
        else:
            q.copy_(before)
            k.copy_(before)
            q[[0, half]] = 0  # the fastest phases tell no content
            q[1, -1], k[1, -1] = 1, -1
            attention.o_proj.weight[:, :size] = write * own.T


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
        model_max_length=CONFIG["max_position_embeddings"],
    )


def write(model: LlamaForCausalLM, world: World, out: Path, row: dict[str, float]) -> None:
    """The model in half precision, its tokenizer, its world and its card."""
    copy.deepcopy(model).cpu().half().save_pretrained(out)
    tokenizer_of(world).save_pretrained(out)
    write_text(out / "world.json", json.dumps(asdict(world), ensure_ascii=False) + "\n")
    (out / "generation_config.json").unlink()
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
        never=len(world.never_composed),
        n=N_TEST,
        batch=BATCH,
        steps=row["step"],
        minutes=row["seconds"] / 60,
        table=table,
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def loss_of(model: LlamaForCausalLM, sampler: Sampler, device: str) -> Float[Tensor, ""]:
    """Weighted cross-entropy of one batch of fresh documents."""
    ids, weight = (one.to(device) for one in sampler.batch(BATCH))
    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1]).logits.float()
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return (each * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()


def train(model: LlamaForCausalLM, world: World, out: Path, steps: int, seed: int) -> None:
    """Train, and write the model and its course every `EVERY` steps."""
    device = model.device.type
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for p in model.parameters() if all(p is not q for q in inside)]
    optimizers = [
        Muon(inside, RATE, DECAY),
        torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    sampler, check = Sampler(world, seed + 1), Sampler(world, seed + 2)
    started, losses, course = time.perf_counter(), [], []
    for step in range(steps):
        fallen = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for optimizer, rate in zip(optimizers, (RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50) * fallen
        loss = loss_of(model, sampler, device)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            row = {"step": step + 1, "loss": float(np.mean(losses[-EVERY:]))}
            row |= accuracy(model, check, N_TEST)
            row["seconds"] = round(time.perf_counter() - started)
            course.append({name: round(value, 4) for name, value in row.items()})
            print(course[-1], flush=True)
            write(model, world, out, row)
            lines = ",\n".join(json.dumps(one) for one in course)
            (out / "training.json").write_text(f"[{lines}]\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    world = draw(args.seed)
    config = LlamaConfig(**CONFIG, vocab_size=len(world.vocabulary))
    config._attn_implementation = "eager"  # the quicker one here, by a third
    model = LlamaForCausalLM(config)
    start(model)
    train(model.to(args.device), world, args.out, args.steps, args.seed)


if __name__ == "__main__":
    main()
