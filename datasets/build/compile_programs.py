"""Compile the programs in ``interp/loading/programs``: RASP programs whose true circuit is known.

    python -m venv tracr && tracr/bin/pip install tracr-pypi==1.0.0
    tracr/bin/python datasets/build/compile_programs.py

tracr-pypi is tracr (Lindner et al., arXiv 2301.05062; Apache-2.0) as a package, with JAX. Nothing
of interp is used: true circuits and scores come from the forward pass below, so they can mark it.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tracr.compiler import compiling, lib
from tracr.rasp import rasp

jax.config.update("jax_enable_x64", True)

FOLDER = Path(__file__).resolve().parents[2] / "interp" / "loading" / "programs"
LENGTH = 5  # tokens after BOS
N_PAIRS = 24
STEPS = 5  # of integrated gradients
LEAST = 1e-3  # a smaller change of the output is the compiler's approximation

Weights = Mapping[str, np.ndarray]
Edge = tuple[str, str]


def programs() -> dict[str, tuple[rasp.SOp, list[Any]]]:
    """Name -> the program and its vocabulary."""
    is_x = (rasp.tokens == "x").named("is_x")
    return {
        "hist": (lib.make_hist(), [1, 2, 3, 4]),
        "sort": (
            lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=LENGTH, min_key=1).named("sort"),
            [1, 2, 3, 4],
        ),
        "reverse": (lib.make_reverse(rasp.tokens), [0, 1, 2]),
        "xproportion": (lib.make_frac_prevs(is_x), ["w", "x", "y", "z"]),
    }


def compiled(program: rasp.SOp, vocabulary: list[Any]) -> tuple[dict[str, np.ndarray], Any]:
    """The weights by name, the unembedding among them, and tracr's model."""
    model = compiling.compile_rasp_to_model(
        program, set(vocabulary), max_seq_len=LENGTH, compiler_bos="BOS"
    )
    weights = {
        f"{module}/{leaf}": np.asarray(value, np.float32)
        for module, leaves in model.params.items()
        for leaf, value in leaves.items()
    }
    written = [i for i, label in enumerate(model.residual_labels) if of(program, label)]
    weights["unembed"] = np.eye(len(model.residual_labels), dtype=np.float32)[:, written]
    return weights, model


def of(program: rasp.SOp, label: str) -> bool:
    """Whether a dimension of the residual stream is one of the program's output."""
    return label.partition(":")[0] == program.label


# --- the forward pass ----------------------------------------------------------------------------


def forward(
    weights: Weights,
    embedded: jax.Array,
    edge: Edge | None = None,
    other: Mapping[str, jax.Array] | None = None,
    added: Mapping[str, jax.Array] | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """What every node writes (pair, pos, d_model), and the output (pair, pos, out).

    Args:
        weights: of a program with one head in each layer.
        embedded: tokens and positions, (pair, pos, d_model).
        edge: (source, destination) that reads from another run.
        other: what the nodes write in that run.
        added: by destination, what is added to what it reads.
    """
    written = {"input": embedded}

    def read(destination: str) -> jax.Array:
        total = jnp.zeros_like(embedded) if added is None else added[destination]
        for source, own in written.items():
            total = total + (other[source] if (source, destination) == edge else own)
        return total

    def linear(name: str, x: jax.Array) -> jax.Array:
        return x @ weights[f"{name}/w"].astype(float) + weights[f"{name}/b"].astype(float)

    for layer in range(n_layers(weights)):
        at = f"transformer/layer_{layer}"
        q, k, v = (
            linear(f"{at}/attn/{part}", read(f"a{layer}.h0<{part[0]}>"))
            for part in ("query", "key", "value")
        )
        pattern = jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), axis=-1)
        written[f"a{layer}.h0"] = linear(f"{at}/attn/linear", pattern @ v)
        hidden = jax.nn.relu(linear(f"{at}/mlp/linear_1", read(f"m{layer}")))
        written[f"m{layer}"] = linear(f"{at}/mlp/linear_2", hidden)
    return written, read("logits") @ weights["unembed"].astype(float)


def n_layers(weights: Weights) -> int:
    return sum(name.endswith("mlp/linear_1/w") for name in weights)


def edges(weights: Weights) -> list[Edge]:
    """Every source with every destination that is computed after it."""
    sources, found = ["input"], []
    for layer in range(n_layers(weights)):
        found += [(s, f"a{layer}.h0<{part}>") for part in "qkv" for s in sources]
        sources.append(f"a{layer}.h0")
        found += [(s, f"m{layer}") for s in sources]
        sources.append(f"m{layer}")
    return found + [(s, "logits") for s in sources]


def named(edge: Edge) -> str:
    return f"{edge[0]}->{edge[1]}"


# --- truth and scores ----------------------------------------------------------------------------


def embed(weights: Weights, ids: np.ndarray) -> jax.Array:
    tokens, positions = (weights[f"{name}/embeddings"] for name in ("token_embed", "pos_embed"))
    return jnp.asarray(tokens[ids].astype(float) + positions[: ids.shape[1]].astype(float))


def reader(clean: jax.Array, corrupt: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The metric of each pair, linear in the outputs after BOS.

    Of a categorical program output[clean answer] - output[corrupt answer], of a numeric one
    sign(clean - corrupt) x output, summed over tokens.
    """
    if clean.shape[-1] == 1:
        signs = jnp.sign(clean - corrupt)
    else:
        best = (jax.nn.one_hot(x.argmax(-1), x.shape[-1]) for x in (clean, corrupt))
        signs = next(best) - next(best)
    return lambda out: (out * signs)[:, 1:].sum((1, 2))


def circuit(
    weights: Weights, clean: np.ndarray, corrupt: np.ndarray
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The true edges, and the scores of all edges that have any.

    An edge is true if some output changes where it reads from the corrupt run.
    """
    (here, out), (there, out_there) = (
        forward(weights, embed(weights, x)) for x in (clean, corrupt)
    )
    metric = reader(out, out_there)
    slopes = gradients(weights, embed(weights, clean), embed(weights, corrupt), metric)
    truth: list[str] = []
    scores: dict[str, dict[str, float]] = {}
    for edge in edges(weights):
        cut = forward(weights, embed(weights, clean), edge, there)[1]
        if float(jnp.abs(out - cut)[:, 1:].max()) > LEAST:
            truth.append(named(edge))
        change = here[edge[0]] - there[edge[0]]
        row = {"exact": float((metric(out) - metric(cut)).mean())} | {
            name: float((change * slope[edge[1]]).sum((1, 2)).mean())
            for name, slope in slopes.items()
        }
        if any(abs(value) > 1e-6 for value in row.values()):
            scores[named(edge)] = {name: round(value, 6) for name, value in row.items()}
    return truth, scores


def gradients(
    weights: Weights, clean: jax.Array, corrupt: jax.Array, metric: Callable[..., jax.Array]
) -> dict[str, dict[str, jax.Array]]:
    """By method, the metric's gradient with respect to what each destination reads."""
    nothing = {destination: jnp.zeros_like(clean) for _, destination in edges(weights)}

    def at(embedded: jax.Array) -> dict[str, jax.Array]:
        return jax.grad(lambda d: metric(forward(weights, embedded, added=d)[1]).sum())(nothing)

    def mean(points: list[jax.Array]) -> dict[str, jax.Array]:
        return jax.tree.map(lambda *each: sum(each) / len(each), *map(at, points))

    between = [corrupt + step / STEPS * (clean - corrupt) for step in range(STEPS)]
    return {"eap": at(clean), "eap_ig5": mean(between), "cc": mean([clean, corrupt])}


# --- files ---------------------------------------------------------------------------------------


def write(name: str, program: rasp.SOp, vocabulary: list[Any], folder: Path) -> None:
    """One program: ``NAME.npz`` and ``NAME.json``.

    Raises:
        ValueError: the compiled model does not compute the program.
    """
    weights, model = compiled(program, vocabulary)
    ids = {str(token): int(i) for token, i in model.input_encoder.encoding_map.items()}
    rng = np.random.default_rng(0)
    draws = rng.integers(len(vocabulary), size=(2 * N_PAIRS, LENGTH))
    words = [[vocabulary[i] for i in row] for row in draws]
    if any(a == b for a, b in zip(words[:N_PAIRS], words[N_PAIRS:], strict=True)):
        raise ValueError(f"{name}: a pair holds one input twice; take another seed.")
    for row in words:
        got, want = model.apply(["BOS", *row]).decoded[1:], program(row)
        if not np.allclose(np.asarray(got, float), np.asarray(want, float), atol=1e-3):
            raise ValueError(f"{name}: {row} gives {got}, and the program says {want}.")
    rows = np.array([[ids[str(token)] for token in ["BOS", *row]] for row in words])
    clean, corrupt = rows[:N_PAIRS], rows[N_PAIRS:]
    truth, scores = circuit(weights, clean, corrupt)
    outputs = forward(weights, embed(weights, clean))[1]
    record = {
        "config": _config(weights, model.model_config),
        "input_ids": ids,
        "residual_labels": list(model.residual_labels),
        "output_labels": [label for label in model.residual_labels if of(program, label)],
        "gt_edges_resample_nonzero": truth,
        "edge_scores": scores,
        "pairs": [
            {
                "clean": [str(token) for token in words[i]],
                "corrupt": [str(token) for token in words[N_PAIRS + i]],
                "clean_ids": clean[i].tolist(),
                "corrupt_ids": corrupt[i].tolist(),
                "clean_out": np.asarray(outputs[i]).round(6).tolist(),
            }
            for i in range(N_PAIRS)
        ],
    }
    np.savez_compressed(folder / f"{name}.npz", **weights)
    text = json.dumps(record, separators=(",", ":")).replace('},{"clean"', '},\n{"clean"')
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {len(truth)} true edges of {len(edges(weights))}")


def _config(weights: Weights, config: Any) -> dict[str, Any]:
    return {
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "d_head": config.key_size,
        "d_mlp": config.mlp_hidden_size,
        "d_model": weights["unembed"].shape[0],
        "d_out": weights["unembed"].shape[1],
        "act": "relu",
        "causal": config.causal,
        "layer_norm": config.layer_norm,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="Folder to write.")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, (program, vocabulary) in programs().items():
        write(name, program, vocabulary, folder)


if __name__ == "__main__":
    main()
