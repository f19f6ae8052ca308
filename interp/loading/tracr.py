"""Compiled (tracr) programs as models whose circuit is known.

A program runs in a transformer small enough to read, with the same sites, blocks and attention
interface as a Hugging Face model, so that everything else in the toolkit works on it:

    x = embed(ids) + position
    x = x + sum_h softmax(q_h k_h^T / sqrt(d_head)) v_h W_O_h        every layer
    x = x + relu(x W_in) W_out
    logits = x W_U                                                   no norms, no causal mask
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.data.records import Count, Finite, Index, Row, checked, is_file, read_json
from interp.errors import DataError, ModelError, did_you_mean, first_line, shown
from interp.loading.programs import PROGRAMS, file_of
from interp.model.architecture import NO_EXPERTS, Architecture, BlockMap, BlockParts, ModulePoint
from interp.model.model import Model
from interp.model.sites import EXPERT_SITES, MIXER_SITES


class ProgramConfig(Row):
    """Shapes of a compiled program."""

    n_layers: Count
    n_heads: Count
    d_head: Count
    d_mlp: Count
    d_model: Count
    d_out: Count
    act: str
    causal: bool = False
    layer_norm: bool = False


class ProgramPair(Row):
    """One example: tokens, BOS first, and the words that they are."""

    clean: list[str]
    corrupt: list[str]
    clean_ids: list[Index]
    corrupt_ids: list[Index]


class Program(Row):
    """What a compiled program's ``.json`` holds: words, examples, and where known its circuit.

    `gt_edges_resample_nonzero` lists the edges of the true circuit; `edge_scores` maps an edge to
    its score by each method.
    """

    config: ProgramConfig
    input_ids: dict[str, Index]
    pairs: Annotated[list[ProgramPair], Field(min_length=1)]
    gt_edges_resample_nonzero: list[str] | None = None
    edge_scores: dict[str, dict[str, Finite]] | None = None


# --- the transformer ---------------------------------------------------------------------------


class _Attention(nn.Module):
    """Attention of every token to every token, through transformers' attention interface."""

    def __init__(self, shape: ProgramConfig, config: PreTrainedConfig):
        super().__init__()
        d, width = shape.d_model, shape.n_heads * shape.d_head
        self.config, self.d_head, self.is_causal = config, shape.d_head, False
        self.query, self.key, self.value = (nn.Linear(d, width) for _ in range(3))
        self.linear = nn.Linear(width, d)

    def forward(self, hidden_states: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d"]:
        q, k, v = (
            project(hidden_states).unflatten(-1, (-1, self.d_head)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )  # (row, head, pos, d_head)
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        z, _ = attend(self, q, k, v, None, scaling=1 / math.sqrt(self.d_head), is_causal=False)
        return self.linear(z.flatten(-2))


class _MLP(nn.Module):
    def __init__(self, shape: ProgramConfig):
        super().__init__()
        self.linear_1 = nn.Linear(shape.d_model, shape.d_mlp)
        self.linear_2 = nn.Linear(shape.d_mlp, shape.d_model)

    def forward(self, hidden_states: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d"]:
        return self.linear_2(torch.relu(self.linear_1(hidden_states)))


class _Block(nn.Module):
    def __init__(self, shape: ProgramConfig, config: PreTrainedConfig):
        super().__init__()
        self.attn, self.mid, self.mlp = _Attention(shape, config), nn.Identity(), _MLP(shape)

    def forward(self, hidden_states: Float[Tensor, "row pos d"], **_: Any) -> Tensor:
        hidden_states = hidden_states + self.attn(hidden_states)
        return hidden_states + self.mlp(self.mid(hidden_states))


class PlainTransformer(nn.Module):
    """The whole model, with the few methods of a Hugging Face model that interp calls."""

    def __init__(self, shape: ProgramConfig, n_tokens: int, n_positions: int):
        super().__init__()
        self.config = PreTrainedConfig()
        self.config._attn_implementation = "sdpa"  # pyright: ignore[reportPrivateUsage]
        self.embed = nn.Embedding(n_tokens, shape.d_model)
        self.position = nn.Embedding(n_positions, shape.d_model)
        self.layers = nn.ModuleList(_Block(shape, self.config) for _ in range(shape.n_layers))
        self.norm = nn.Identity()
        self.unembed = nn.Linear(shape.d_model, shape.d_out, bias=False)

    @property
    def base_model(self) -> "PlainTransformer":
        """What runs use that need no logits; here the whole model, whose logits are few."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.embed.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding."""
        return self.embed

    def get_output_embeddings(self) -> nn.Linear:
        """The unembedding."""
        return self.unembed

    def forward(self, input_ids: Int[Tensor, "row pos"], **_: Any) -> SimpleNamespace:
        """Logits of every position, as ``.logits``; `ModelError` for inputs that are too long."""
        n_pos = input_ids.shape[1]
        if n_pos > self.position.num_embeddings:
            raise ModelError(
                f"{n_pos} tokens are too many: the program was compiled for "
                f"{self.position.num_embeddings}, BOS included."
            )
        hidden = self.embed(input_ids) + self.position.weight[:n_pos]
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(logits=self.unembed(self.norm(hidden)))


# --- compiled programs -------------------------------------------------------------------------


def read_program(path: str | Path) -> Program:
    """The description beside a compiled program's ``.npz`` file, or that of a shipped program.

    `DataError` where the description is missing, lacks a field, or contradicts itself.
    """
    path = file_of(path)
    described = path.with_suffix(".json")
    for file in (path, described):
        if not is_file(file):
            raise DataError(
                f"{file} is missing: a compiled program is NAME.npz with NAME.json beside it, or "
                f"a shipped one. {did_you_mean(str(path), PROGRAMS)}"
            )
    program = checked(Program, read_json(described), str(described))
    tokens = set(program.input_ids.values())
    missing = {"BOS", "compiler_pad"} - program.input_ids.keys()
    if missing or tokens != set(range(len(program.input_ids))):
        raise DataError(
            f"{described}: 'input_ids' must number BOS, compiler_pad and all other words from 0, "
            "each once."
        )
    rows = [ids for pair in program.pairs for ids in (pair.clean_ids, pair.corrupt_ids)]
    used = {token for ids in rows for token in ids}
    if len({len(ids) for ids in rows}) > 1 or len(rows[0]) < 2 or not used <= tokens:
        raise DataError(
            f"{described}: the ids of 'pairs' must all be of one length, BOS and a word at least, "
            "and of the vocabulary."
        )
    return program


def load_program(path: str | Path) -> Model:
    """Load a compiled program, as `read_program` finds it.

    `ModelError` where the weights are damaged, not finite, or not of the shape described.

    Source: Lindner et al., "Tracr", arXiv 2301.05062.
    """
    program = read_program(path)
    config = program.config
    if config.layer_norm or config.causal or config.act != "relu":
        raise ModelError(f"{path}: only ReLU programs without norms and causal mask load.")
    try:
        with file_of(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            state = _state({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        hf = _built(program, state)
    except Exception as error:  # zip, zlib, numpy and torch have each their own
        raise ModelError(
            f"{path} does not hold the compiled program that its .json describes "
            f"({first_line(error)})."
        ) from error
    if not all(bool(w.isfinite().all()) for w in state.values()):
        raise ModelError(f"{path} holds weights that are not finite; compile it again.")
    return Model(hf, _tokenizer(program.input_ids), str(path), _architecture(config))


def _built(program: Program, state: Mapping[str, Tensor]) -> PlainTransformer:
    """The model with its weights; their names and shapes are compared before any is used."""
    n_layers = min(program.config.n_layers, len(state))  # a damaged description may claim billions
    config = program.config.model_copy(update={"n_layers": n_layers})
    n_positions = max(len(state["position.weight"]), len(program.pairs[0].clean_ids))
    with torch.device("meta"):
        hf = PlainTransformer(config, len(program.input_ids), n_positions)
    wanted = hf.state_dict()
    for name in [*wanted, *state]:
        if name not in state:
            raise ValueError(f"{name} is missing")
        if name not in wanted:
            raise ValueError(f"{shown(name)} is left over")
        if state[name].shape != wanted[name].shape:
            shapes = tuple(state[name].shape), tuple(wanted[name].shape)
            raise ValueError(f"{name} has shape {shapes[0]}, not {shapes[1]}")
    hf.load_state_dict(state, assign=True)
    return hf.eval().requires_grad_(False)


def _state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Haiku's names and (in, out) matrices as this module's names and (out, in) matrices."""
    if not all(w.is_floating_point() for w in weights.values()):
        raise ValueError("weights that are not floating-point numbers")
    state = {
        "embed.weight": weights["token_embed/embeddings"],
        "position.weight": weights["pos_embed/embeddings"],
        "unembed.weight": weights["unembed"].t(),
    }
    for name, value in weights.items():
        if name.startswith("transformer/layer_"):
            _, layer, sublayer, module, leaf = name.split("/")
            path = f"layers.{layer.removeprefix('layer_')}.{sublayer}.{module}"
            state[f"{path}.{'weight' if leaf == 'w' else 'bias'}"] = value.t()
    return {name: value.float().contiguous() for name, value in state.items()}


def _tokenizer(vocabulary: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """One word, one token, BOS first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    raw: Any = Tokenizer(models.WordLevel(dict(vocabulary), unk_token="compiler_pad"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bos = [("BOS", vocabulary["BOS"])]
    raw.post_processor = processors.TemplateProcessing(single="BOS $A", special_tokens=bos)
    special = {"bos_token": "BOS", "pad_token": "compiler_pad", "unk_token": "compiler_pad"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def _architecture(shape: ProgramConfig) -> Architecture:
    points = {
        "resid_pre": ModulePoint("", "in"),
        "resid_mid": ModulePoint("mid", "in"),
        "resid_post": ModulePoint("", "out"),
        "attn_out": ModulePoint("attn", "out"),
        "mlp_out": ModulePoint("mlp", "out"),
        "q": ModulePoint("attn.query", "out"),
        "k": ModulePoint("attn.key", "out"),
        "v": ModulePoint("attn.value", "out"),
        "z": ModulePoint("attn.linear", "in"),
        "mlp_post": ModulePoint("mlp.linear_2", "in"),
    }
    block = BlockMap(
        points=points,
        missing=dict.fromkeys((*EXPERT_SITES, *MIXER_SITES), NO_EXPERTS),
        parts=BlockParts(mlp="mlp"),
        attention="attn",
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_heads,
        d_head=shape.d_head,
        d_mlp=shape.d_mlp,
    )
    return Architecture(
        adapter="plain",
        blocks="layers",
        ln_final="norm",
        layers=(block,) * shape.n_layers,
        d_model=shape.d_model,
        logits_transform=lambda logits: logits,
        causal=False,
    )
