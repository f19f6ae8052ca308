"""What attribution costs: all neurons of a real model, and all edges of a Qwen2.5-0.5B shape.

python benchmarks/attribution_cost.py neurons        # beside TransformerLens, in one run
python benchmarks/attribution_cost.py edges          # peak memory above the weights
"""

import argparse
import copy
import json
import statistics
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import interp
from interp.attribution.attribute import attribute_edges
from interp.attribution.contrast import contrasts, forward_equivalents
from interp.attribution.estimators import estimator_named, linearise
from interp.attribution.nodes import unit_scores
from interp.data.pairs import tokenise
from interp.forward.budget import peak_memory
from interp.model.adapters import bridge
from interp.model.graph import Graph

ROOT = Path(__file__).parent.parent
PAIRS = ROOT / "datasets" / "country_capitals.jsonl"


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall time after a warm-up."""
    return statistics.median(timeit.repeat(work, number=1, repeat=1 + repeats)[1:])


def neurons(args: argparse.Namespace) -> dict[str, Any]:
    """Attribution of every MLP neuron, all tokens, beside a forward pass and TransformerLens."""
    model = interp.load_model(args.model)
    kept, _ = tokenise(model, interp.load_pairs(PAIRS), "single")
    length = len(kept[0].clean)
    pairs = [p for p in kept if len(p.clean) == length][: args.pairs]
    contrast = next(contrasts(model, pairs, at_once=len(pairs)))
    ids = torch.tensor([p.clean for p in pairs])
    a = model.arch

    def forward() -> None:
        with torch.no_grad():
            model.hf(input_ids=ids, use_cache=False)

    def ours(method: str) -> Callable[[], Any]:
        def work() -> Any:
            at = linearise(model, contrast, estimator_named(method, of_nodes=True), ["mlp_post"])
            return unit_scores(model, contrast, at, ["mlp_post"])["mlp_post"].sum(2)

        return work

    one = seconds(forward, args.repeats)
    out: dict[str, Any] = {"n_neurons": a.n_layers * a.d_mlp, "n_pairs": len(pairs)}
    out |= {"n_tokens": length, "forward_seconds": one, "methods": {}}
    for method in ("eap", "relp", "eap-dg", "eap-ig"):
        took = seconds(ours(method), args.repeats)
        flops = forward_equivalents(model, contrast, ours(method))
        out["methods"][method] = {"seconds": took, "forwards": took / one, "flop_forwards": flops}
    peer = transformer_lens(model, pairs)
    out["transformer_lens"] = {"seconds": seconds(peer, args.repeats)}
    out["transformer_lens"]["forwards"] = out["transformer_lens"]["seconds"] / one
    out["largest_difference"] = float((peer() - ours("eap")()).abs().max())
    return out


def transformer_lens(model: interp.Model, pairs: Any) -> Callable[[], torch.Tensor]:
    """Attribution patching of ``mlp.hook_post`` as TransformerLens's users write it."""
    wrapped = bridge(copy.deepcopy(model.hf))
    names = [f"blocks.{i}.mlp.hook_post" for i in range(model.arch.n_layers)]
    clean, corrupt = (
        torch.tensor([getattr(p, side) for p in pairs]) for side in ("clean", "corrupt")
    )
    answers = torch.tensor([[p.answer, p.wrong_answer] for p in pairs])

    def work() -> torch.Tensor:
        kept: list[dict[str, torch.Tensor]] = [{}, {}]

        def keep(into: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
            def note(activation: torch.Tensor, hook: Any) -> None:
                if activation.requires_grad:
                    activation.retain_grad()
                into[name] = activation

            return note

        with torch.no_grad():
            wrapped.run_with_hooks(corrupt, fwd_hooks=[(n, keep(kept[1], n)) for n in names])
        embedding = wrapped.original_model.get_input_embeddings()
        handle = embedding.register_forward_hook(lambda _, __, out: out.requires_grad_(True))
        try:
            logits = wrapped.run_with_hooks(clean, fwd_hooks=[(n, keep(kept[0], n)) for n in names])
        finally:
            handle.remove()
        pair = logits[:, -1].gather(1, answers)
        (pair[:, 0] - pair[:, 1]).sum().backward()
        layers = [(kept[0][n] - kept[1][n]).detach() * kept[0][n].grad for n in names]
        return torch.stack(layers, 1).sum(2)

    return work


def edges(args: argparse.Namespace) -> dict[str, Any]:
    """EAP over all edges of a random model of Qwen2.5-0.5B's shape."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config)
    model = interp.load_model(hf, tokenizer=interp.load_model("smollm2-135m").tokenizer)
    rows = interp.load_pairs(PAIRS)[: args.pairs]
    graph = Graph.of(model.arch)
    out: dict[str, Any] = {"n_edges": graph.n_edges, "n_pairs": len(rows), "methods": {}}
    out["weights_gb"] = sum(p.numel() * p.element_size() for p in hf.parameters()) / 1e9
    tokens = sum(len(p.clean) for p in tokenise(model, rows, "single")[0])
    out["n_tokens"] = tokens
    # What holding every write and every head's input at once would take, in the same batch.
    heads = 3 * graph.n_heads * graph.n_layers
    out["dense_gb"] = (graph.n_sources + heads) * graph.d_model * 4 * tokens / 1e9
    for method in ("eap", "eap-dg", "eap-ig"):
        with peak_memory(model.device) as peak:
            scores = attribute_edges(model, rows, method, at_once=args.pairs)
            took, peak_gb = scores.seconds, peak()
        out["methods"][method] = {"peak_gb_above_weights": peak_gb, "seconds": took}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["neurons", "edges"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps({"neurons": neurons, "edges": edges}[args.what](args), indent=1))


if __name__ == "__main__":
    main()
