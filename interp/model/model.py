"""`Model`: a Hugging Face causal language model that knows its sites, shapes and tokens."""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import DataError, PlanError, shown
from interp.model.architecture import Architecture, BlockParts, ExpertLayout, ModulePoint
from interp.model.rendered import Rendered
from interp.model.sites import EXPERT_SITES, PATTERN, Site, parse_site
from interp.model.weights import (
    FLOATS,
    device_of,
    is_plain,
    matrix_of,
    shape_of,
    state_parts,
    stored,
    why_fixed,
)

PASSING = {"_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"}
"""Entries of a config that change no logits, or that stand elsewhere."""


@dataclass(frozen=True)
class Model:
    """An untouched Hugging Face model with its map; it gets hooks only for the length of a call."""

    hf: Any
    tokenizer: Any
    name: str
    arch: Architecture = field(repr=False)

    def __repr__(self) -> str:
        a, fixed = self.arch, why_fixed(self.hf)

        def sizes(name: str) -> str:
            found = dict.fromkeys(getattr(block, name) for block in a.layers)
            return " or ".join(map(str, filter(None, found))) or "no"

        return (
            f"Model({self.name}: {type(self.hf).__name__}, {a.n_layers} layers, d_model "
            f"{a.d_model}, {sizes('n_heads')} heads / {sizes('n_kv_heads')} kv, d_mlp "
            f"{sizes('d_mlp')}, {str(self.dtype).removeprefix('torch.')} on {self.device}"
            f"{', ' if fixed else ''}{fixed or ''})"
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

    @property
    def like(self) -> Float[Tensor, " 0"]:
        """An empty activation, for its device and dtype."""
        return torch.empty(0, dtype=self.dtype, device=self.device)

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order."""
        return list(self.hf.get_submodule(self.arch.blocks))

    @property
    def body(self) -> nn.Module:
        """What every forward pass enters with its arguments: the model without its head.

        That is what holds the blocks where that takes tokens itself (OPT's head calls it directly).
        """
        base: nn.Module = self.hf.base_model
        inner = self.hf.get_submodule(self.arch.blocks.rpartition(".")[0])
        takes_tokens = "input_ids" in inspect.signature(inner.forward).parameters
        return inner if base is self.hf or takes_tokens else base

    @property
    def ln_final(self) -> nn.Module:
        """The norm before the unembedding; where there is none, the identity."""
        if self.arch.ln_final is None:
            return nn.Identity()
        return self.hf.get_submodule(self.arch.ln_final)

    @property
    def unembed(self) -> nn.Linear:
        """The linear map from residual stream to logits."""
        return self.hf.get_output_embeddings()

    @property
    def n_vocab(self) -> int:
        """How many logits there are; the tokenizer may know fewer tokens."""
        return shape_of(self.unembed)[0]

    @property
    def n_embedded(self) -> int:
        """How many tokens the embedding has rows for; the tokenizer may know fewer, or more."""
        embedding = self.hf.get_input_embeddings()
        return getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0]

    @property
    def blank(self) -> int:
        """What fills columns without a token: the padding token, where the embedding has it."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < self.n_embedded else 0

    def embedded(self, ids: Sequence[int]) -> None:
        """Raise `DataError` unless the embedding has a row for every token."""
        n = self.n_embedded
        if (odd := next((i for i in ids if not 0 <= i < n), None)) is not None:
            text = shown(self.token(odd)) if odd >= 0 else "there is none"
            raise DataError(
                f"the token {text} (id {odd}) cannot be read: the embedding of {self.name} has {n} "
                "rows; leave it out, or load the tokenizer that belongs to these weights."
            )

    def matrix(self, module: nn.Module, name: str) -> Float[Tensor, "out in"]:
        """The matrix that a linear module applies, if quantised formed anew; see `matrix_of`."""
        return matrix_of(module, self.like, f"{name} of {self.name}")

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
        """Token ids with the special tokens the tokenizer itself adds (BOS for Gemma).

        To a rendered chat it adds none, as they are in the text.
        """
        return self._encoded(text)["input_ids"]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where in a text each token of :meth:`encode` begins and ends, in characters."""
        return self._encoded(text, return_offsets_mapping=True)["offset_mapping"]

    def _encoded(self, text: str, **options: Any) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"{ascii(text)[:60]} is not a text: give one in UTF-8.") from None
        special = not isinstance(text, Rendered)
        encoded = self.tokenizer(text, add_special_tokens=special, **options)
        self.embedded(encoded["input_ids"])
        return encoded

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
        if layer is not None:
            self.check_layers([layer], site)
        self.layers_with(site)
        return site, layer

    def layers_with(self, site: Site) -> tuple[int, ...]:
        """The layers that have a site; `PlanError` where none has."""
        layers = self.arch.layers_with(site.name)
        if not layers:
            raise PlanError(
                f"{self.name} has no site {site.name!r}: {self.arch.missing[site.name]}. It has: "
                f"{', '.join(self.arch.sites)}."
            )
        return layers

    def check_layers(self, layers: Iterable[int], site: Site | None = None) -> None:
        """Raise `PlanError` unless every layer exists (negative ones do not) and has the site."""
        for layer in layers:
            if not 0 <= layer < self.arch.n_layers:
                raise PlanError(
                    f"layer {layer} is out of range: {self.name} has layers 0 to "
                    f"{self.arch.n_layers - 1}."
                )
            if site is not None:
                self._check_exists(site, layer)

    def point(self, site: Site, layer: int) -> tuple[nn.Module, ModulePoint]:
        """The module that carries `site` in `layer`, and which side of it; errors as in `site`."""
        self._check_exists(site, layer)
        point = self.arch.layers[layer].points[site.name]
        return self.blocks[layer].get_submodule(point.path), point

    def _check_exists(self, site: Site, layer: int) -> None:
        block = self.arch.layers[layer]
        if site.name not in block.points:
            own = self.layers_with(site)
            raise PlanError(
                f"layer {layer} of {self.name} has no site {site.name!r}: "
                f"{block.missing[site.name]}. Layers with it: {', '.join(map(str, own))}."
            )

    def parts(self, layer: int) -> BlockParts:
        """The modules between a layer's residual stream and its sublayers.

        `PlanError` where the stream does not hold what sublayers add to it as they add it.
        """
        parts = self.arch.layers[layer].parts
        if parts.carry is not None or parts.carry_mlp is not None:
            raise PlanError(
                f"layer {layer} of {self.name} scales or norms the residual stream itself, so what "
                "its parts write is not in the stream as they write it; interventions and "
                "gradients at its sites are exact."
            )
        return parts

    def attention(self, layer: int) -> nn.Module | None:
        """The module that attends in a layer; ``None`` where it has none."""
        path = self.arch.layers[layer].attention
        return None if path is None else self.blocks[layer].get_submodule(path)

    def n_units(self, site: Site, layers: int | Iterable[int] | None = None) -> int:
        """How many heads, key-value heads or neurons a site has per layer (whole vectors: 1).

        In a layer, in several, or by default in all that have the site; `PlanError` where these
        differ.
        """
        return self._sizes(site, layers)[0]

    def width(self, site: Site, layers: int | Iterable[int] | None = None) -> int:
        """Length of the site's last axis; layers and errors as in `n_units`."""
        units, each = self._sizes(site, layers)
        return units * each

    def n_along(self, axis: str, site: Site, layers: int | Iterable[int] | None = None) -> int:
        """Units of a site along one of its `AXES_OF`; layers and errors as in `n_units`."""
        if axis == "expert" and site.units == "expert_neuron":  # those that have neurons
            layers = self.arch.layers_with(site.name) if layers is None else layers
            layers = (layers,) if isinstance(layers, int) else tuple(layers)
            return self.n_units(site, layers) // self.mixtures[layers[0]].d_expert
        return self.n_units(site, layers)

    @cached_property
    def mixtures(self) -> dict[int, ExpertLayout]:
        """The mixtures of experts that can be taken apart, by layer."""
        found = {layer: block.experts for layer, block in enumerate(self.arch.layers)}
        return {i: mixture for i, mixture in found.items() if isinstance(mixture, ExpertLayout)}

    def _sizes(self, site: Site, layers: int | Iterable[int] | None) -> tuple[int, int]:
        """How many units a site has, and how many features each."""
        if isinstance(layers, int):
            a = self.arch.layers[layers]
            if site.name in EXPERT_SITES and site.units != "d_model":
                mixture = a.experts
                return mixture.sizes(site.name) if isinstance(mixture, ExpertLayout) else (0, 0)
            if site.units == "vector":
                module, point = self.point(site, layers)
                return 1, shape_of(module)[point.side == "in"]
            return {
                "head": (a.n_heads, a.d_head),
                "kv_head": (a.n_kv_heads, a.d_head),
                "neuron": (a.d_mlp, 1),
                "d_model": (1, self.arch.d_model),
            }[site.units]
        chosen = self.arch.layers_with(site.name) if layers is None else tuple(layers)
        found = dict[tuple[int, int], int]()
        for layer in chosen:
            found.setdefault(self._sizes(site, layer), layer)
        if len(found) > 1:
            sizes = ", ".join(f"{n} x {d} in layer {i}" for (n, d), i in found.items())
            raise PlanError(
                f"site {site.name!r} of {self.name} has other sizes in other layers ({sizes}); "
                "give layers in which it is the same."
            )
        return next(iter(found), (0, 0))

    def logits(self, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Final norm, unembedding and the architecture's own transform (soft-cap, scale)."""
        logits = self.unembed(self.ln_final(resid.to(self.unembed_device)))
        return self.arch.logits_transform(logits.float())

    @property
    def unembed_device(self) -> torch.device:
        """Where the final norm and the unembedding live."""
        return device_of(self.unembed)

    @property
    def weights_hash(self) -> str:
        """Hash of all weights' names and bytes as they are; a write to ``.data`` is not seen."""
        tensors = [x for _, x in state_parts(self.hf.state_dict().items()) if isinstance(x, Tensor)]
        version = tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in tensors)
        known: Any = self.__dict__.get("_hashed")
        if known is None or known[0] != version:
            known = self.__dict__["_hashed"] = (version, _hash(stored(self.hf)))
        return known[1]

    def config_hash(self) -> str:
        """Hash of what the config says beside the weights: rotary base, windows, soft-caps, …."""
        said = json.dumps(self.hf.config.to_dict(), default=str)
        parts = json.loads(said, object_hook=lambda d: {k: d[k] for k in d.keys() - PASSING})
        return _hash([("config", json.dumps(parts, sort_keys=True))])

    def tokenizer_hash(self) -> str:
        """Hash of all that turns texts and chats into tokens, as it is now."""
        known, state = self.tokenizer, json.loads(self.tokenizer.backend_tokenizer.to_str())
        kept = {name: part for name, part in state.items() if name not in ("truncation", "padding")}
        parts = [kept, known.special_tokens_map, getattr(known, "chat_template", None)]
        return _hash([("tokenizer", json.dumps(parts, sort_keys=True, default=str))])

    def hash_in(self, dtype: torch.dtype) -> str:
        """`weights_hash` as it is where the same weights are loaded in another number format."""
        if dtype == self.dtype:
            return self.weights_hash
        return _hash((name, _cast(value, self.dtype, dtype)) for name, value in stored(self.hf))

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
        for layer in range(self.arch.n_layers):
            config: Any = getattr(self.attention(layer), "config", None)
            if config is not None:  # a convolution or linear attention has none
                found[id(config)] = config
        if not found:
            raise PlanError(
                f"{self.name} has no attention modules whose function interp could choose."
            )
        return list(found.values())


def _cast(value: Any, own: torch.dtype, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.dtype == own else value


def _hash(state: Iterable[tuple[str, Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in state_parts(state):
        if not isinstance(value, Tensor):
            digest.update(f"{name}{value!r}".encode())
            continue
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        flat = value.detach().contiguous().flatten()
        digest.update(flat.view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
