"""`Model`: a Hugging Face causal language model that knows its sites, shapes and tokens."""

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import PlanError
from interp.model.architecture import Architecture, ModulePoint
from interp.model.sites import PATTERN, Site, parse_site
from interp.model.weights import (
    FLOATS,
    device_of,
    is_plain,
    matrix_of,
    plain_parts,
    shape_of,
    stored,
)


@dataclass(frozen=True)
class Model:
    """An untouched Hugging Face model with its map; it gets hooks only for the length of a call."""

    hf: Any
    tokenizer: Any
    name: str
    arch: Architecture = field(repr=False)

    def __repr__(self) -> str:
        a = self.arch
        return (
            f"Model({self.name}: {type(self.hf).__name__}, {a.n_layers} layers, d_model "
            f"{a.d_model}, {a.n_heads} heads / {a.n_kv_heads} kv, d_mlp {a.d_mlp}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Where token ids go in: the embedding's device."""
        return device_of(self.hf.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the residual stream."""
        dtype = self.hf.get_input_embeddings().weight.dtype
        return dtype if dtype in FLOATS else self.hf.dtype  # a quantised embedding

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order."""
        return list(self.hf.get_submodule(self.arch.blocks))

    @property
    def body(self) -> nn.Module:
        """The module that holds the blocks: every forward pass enters here, with its arguments."""
        return self.hf.get_submodule(self.arch.blocks.rpartition(".")[0])

    @property
    def ln_final(self) -> nn.Module:
        """The norm before the unembedding."""
        return self.hf.get_submodule(self.arch.ln_final)

    @property
    def unembed(self) -> nn.Linear:
        """The linear map from residual stream to logits."""
        return self.hf.get_output_embeddings()

    @property
    def n_vocab(self) -> int:
        """How many logits there are; the tokenizer may know fewer tokens."""
        return shape_of(self.unembed)[0]

    def matrix(self, module: nn.Module, name: str) -> Float[Tensor, "out in"]:
        """The matrix that a linear module applies, if quantised formed anew; see `matrix_of`."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        return matrix_of(module, like, f"{name} of {self.name}")

    @property
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """The unembedding's matrix; of a quantised one it is formed once, then kept."""
        if is_plain(self.unembed):
            return self.matrix(self.unembed, "the unembedding")
        return self._formed_unembedding

    @cached_property
    def _formed_unembedding(self) -> Float[Tensor, "vocab d_model"]:
        return self.matrix(self.unembed, "the unembedding")

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens the tokenizer itself adds (BOS for Gemma)."""
        return self.tokenizer(text)["input_ids"]

    def token(self, token_id: int) -> str:
        """The text of one token, leading space included."""
        return self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)

    def site(self, text: str) -> tuple[Site, int | None]:
        """Parse a site that can be written to; `PlanError` where this model has no such place."""
        site, layer = parse_site(text)
        if site is PATTERN:
            raise PlanError(
                f"{text!r} can be read (interp.activations) and cut (interp.KnockOut), but nothing "
                "can be written there."
            )
        self._check_exists(site)
        if layer is not None:
            self.check_layers([layer])
        return site, layer

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise `PlanError` unless every layer exists (negative numbers do not)."""
        wrong = [i for i in layers if not 0 <= i < self.arch.n_layers]
        if wrong:
            raise PlanError(
                f"layer {wrong[0]} is out of range: {self.name} has layers 0 to "
                f"{self.arch.n_layers - 1}."
            )

    def point(self, site: Site, layer: int) -> tuple[nn.Module, ModulePoint]:
        """The module that carries `site` in `layer`, and which side of it; errors as in `site`."""
        self._check_exists(site)
        point = self.arch.points[site.name]
        return self.blocks[layer].get_submodule(point.path), point

    def _check_exists(self, site: Site) -> None:
        if site.name not in self.arch.points:
            raise PlanError(
                f"{self.name} has no site {site.name!r}: {self.arch.missing[site.name]}. It has: "
                f"{', '.join(self.arch.points)}."
            )

    def n_units(self, site: Site) -> int:
        """How many heads, key-value heads or neurons a site has (1 for whole vectors)."""
        a = self.arch
        n = {"head": a.n_heads, "kv_head": a.n_kv_heads, "neuron": a.d_mlp or 0, "d_model": 1}
        return n[site.units]

    def width(self, site: Site) -> int:
        """Length of the site's last axis."""
        a = self.arch
        per_unit = {"head": a.d_head, "kv_head": a.d_head, "neuron": 1, "d_model": a.d_model}
        return self.n_units(site) * per_unit[site.units]

    def logits(self, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Final norm, unembedding and the architecture's own transform (soft-cap, scale)."""
        logits = self.unembed(self.ln_final(resid.to(self.unembed_device)))
        return self.arch.logits_transform(logits.float())

    @property
    def unembed_device(self) -> torch.device:
        """Where the final norm and the unembedding live."""
        return device_of(self.unembed)

    @cached_property
    def weights_hash(self) -> str:
        """Hash of every weight's name, shape and bytes: the identity that results record."""
        return self.hash_now()

    def hash_now(self) -> str:
        """`weights_hash` of the weights as they are now, with all that changed them since."""
        state = self.hf.state_dict()
        parts = [part for value in state.values() for part in plain_parts(value)]
        version = tuple((part.data_ptr(), part._version) for part in parts)
        known: Any = self.__dict__.get("_hashed")
        if known is None or known[0] != version:
            known = self.__dict__["_hashed"] = (version, _hash(stored(self.hf, state)))
        return known[1]

    @property
    def attention_implementation(self) -> str:
        """Name of the attention function in use, such as ``"sdpa"``."""
        return self._attention_configs[0]._attn_implementation

    @contextlib.contextmanager
    def attention_named(self, implementation: str) -> Generator[None]:
        """Run every block's attention through a registered function; masks are the caller's."""
        before = [(config, config._attn_implementation) for config in self._attention_configs]
        try:
            for config, _ in before:
                config._attn_implementation_internal = implementation
            yield
        finally:
            for config, name in before:
                config._attn_implementation_internal = name

    @cached_property
    def _attention_configs(self) -> list[Any]:
        """The configs that attention modules read, each once; a block may have none."""
        found: dict[int, Any] = {}
        for block in self.blocks:
            with contextlib.suppress(AttributeError):  # a convolution or linear attention
                config: Any = block.get_submodule(self.arch.attention).config
                found[id(config)] = config
        if not found:
            raise PlanError(
                f"{self.name} has no attention modules whose function interp could choose."
            )
        return list(found.values())


def _hash(state: Iterable[tuple[str, Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in state:
        parts = plain_parts(value)
        digest.update(b"" if parts else f"{name}{value!r}".encode())
        for tensor in parts:
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            flat = tensor.detach().contiguous().flatten()
            digest.update(flat.view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
