"""The map of one model, block by block: where each site lies, and why where it does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from jaxtyping import Int
from torch import Tensor, nn

from interp.brief import brief
from interp.errors import PlanError
from interp.model.sites import SITES
from interp.model.weights import shape_of


@brief
@dataclass(frozen=True, slots=True)
class ModulePoint:
    """The first input or output of one module of a block (path ``""``: the block itself).

    Where q, k and v share one projection, `features` are the site's own, in order. Inside a mixture
    of experts, `side` is the ``"logits"`` of a router, or the routing ``"weights"``, ``"neurons"``
    or weighted ``"outputs"`` of a module of experts, all laid out over all experts.
    """

    path: str
    side: Literal["in", "out", "logits", "weights", "neurons", "outputs"]
    features: Int[Tensor, " width"] | None = None

    def width(self, block: nn.Module) -> int:
        """Features of a site that a linear module gives."""
        if self.features is not None:
            return len(self.features)
        return shape_of(block.get_submodule(self.path))[0]


@brief
@dataclass(frozen=True, slots=True)
class BlockParts:
    """The modules between a block's residual stream and its sublayers, as paths inside it.

    `ln1` and `ln2` are the norms that attention and the MLP read through, `ln1_post` and `ln2_post`
    those on their outputs. In a `parallel` block the MLP reads what attention reads. What attention
    and the MLP give is added to the stream `attn_scale` and `mlp_scale` times; in some models other
    modules' outputs are, too: those `beside` attention, and those `beside_mlp`.

    The stream that they are added to goes on as it is, unless `carry`, or behind `resid_mid`
    `carry_mlp`, is the path of a norm that it goes through, or ``""``: then each of its features,
    and of what is added, has a multiplier and an offset.
    """

    ln1: str | None = None
    ln1_post: str | None = None
    ln2: str | None = None
    ln2_post: str | None = None
    mlp: str = ""
    parallel: bool = False
    attn_scale: float = 1.0
    mlp_scale: float = 1.0
    beside: tuple[str, ...] = ()
    beside_mlp: tuple[str, ...] = ()
    carry: str | None = None
    carry_mlp: str | None = None


NO_EXPERTS = "the block has no mixture of experts"
NO_LATENTS = "the block's attention has no latent that makes it"
NO_GATE = "the block has no linear map that gives a gate on its mixer's output, and nothing else"
USUAL = (NO_EXPERTS, NO_LATENTS, NO_GATE)
"""Why most blocks lack `EXPERT_SITES` and `MIXER_SITES`."""


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The modules of a mixture of experts, as paths inside its block, and its sizes.

    Attributes:
        experts, router: the module of all experts, and what chooses among them.
        shared: the experts that every token goes through; ``None`` where there are none.
        n_experts, d_expert: routed experts, and neurons of each.
        d_out: width of what an expert writes; d_model, or less in mixtures of a latent space.
        n_logits: numbers that the router gives for each token; some can also choose no expert.
        d_shared: neurons of the shared experts together; 0 where they cannot be seen.
        scaled: whether routing weights multiply experts' inputs (Llama 4), not their outputs.
        n_identity: how many experts, the last of `n_experts`, have no neurons, and give what they
            read.
        times: what the mixture multiplies the sum of its experts' contributions by.
    """

    experts: str
    router: str
    shared: str | None
    n_experts: int
    d_expert: int
    d_out: int
    n_logits: int
    d_shared: int
    scaled: bool = False
    n_identity: int = 0
    times: float = 1.0

    def sizes(self, site: str) -> tuple[int, int]:
        """How many units a site of the mixture has, and how many features each."""
        return {
            "router_logits": (self.n_logits, 1),
            "router_weights": (self.n_experts, 1),
            "expert_post": ((self.n_experts - self.n_identity) * self.d_expert, 1),
            "expert_out": (self.n_experts, self.d_out),
            "shared_post": (self.d_shared, 1),
        }[site]


@brief
@dataclass(frozen=True)
class BlockMap:
    """The map of one block: module paths inside it, sizes, and what does not exist and why.

    `attention` is the module that attends, ``None`` in blocks without one (convolutions, state
    spaces, linear attention). `neuron_keys` are the linear maps that decide how strongly neurons
    fire: ``"gate"``, inside the activation function, and of gated MLPs ``"up"``, its factor.
    `whole` says why the block cannot be taken apart into edges; ``None`` where it can. Sizes are 0
    where there is nothing of the kind. `experts` is the block's mixture of experts, or why it
    cannot be taken apart; ``None`` where it has none.
    """

    points: Mapping[str, ModulePoint]
    missing: Mapping[str, str]
    parts: BlockParts
    attention: str | None
    neuron_keys: Mapping[str, ModulePoint] = field(default_factory=dict)
    n_heads: int = 0
    n_kv_heads: int = 0
    d_head: int = 0
    d_mlp: int = 0
    whole: str | None = None
    experts: ExpertLayout | str | None = None


@brief
@dataclass(frozen=True)
class Architecture:
    """The map of one model: its blocks', and what surrounds them.

    `adapter` is the TransformerLens adapter that guessed it (empty: none did), `blocks` the path of
    the list of blocks, `ln_final` that of the norm before the unembedding, where there is one.
    `missing` holds the sites that no block has, with the reason. Without `left_padding`
    tokens in front of a prompt are read although the attention mask leaves them out; without
    `given_positions` the model counts positions itself, and not from 0. Unless it is `cached`, a
    KV cache changes its numbers, and tokens are run again instead; without `gaps` padding behind
    what is cached counts as distance.
    """

    adapter: str
    blocks: str
    ln_final: str | None
    layers: tuple[BlockMap, ...]
    d_model: int
    logits_transform: Callable[[Tensor], Tensor]
    causal: bool = True
    bridge_reads_scores: bool = True
    left_padding: bool = True
    given_positions: bool = True
    cached: bool = True
    gaps: bool = True

    @property
    def n_layers(self) -> int:
        """How many blocks there are."""
        return len(self.layers)

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that some block has."""
        return tuple(name for name in SITES if any(name in b.points for b in self.layers))

    @cached_property
    def missing(self) -> Mapping[str, str]:
        """Why no block has a site: the reasons of the blocks, each once."""
        absent = [name for name in SITES if name not in self.sites]
        reasons = {name: dict.fromkeys(b.missing[name] for b in self.layers) for name in absent}
        return {
            name: first if not others else f"{first} (layer 0; other layers for other reasons)"
            for name, (first, *others) in reasons.items()
        }

    def layers_with(self, site: str) -> tuple[int, ...]:
        """The layers that have a site, by its short name."""
        return tuple(i for i, block in enumerate(self.layers) if site in block.points)

    @property
    def n_heads(self) -> int:
        """Query heads of a layer; 0 without attention, `PlanError` where layers differ."""
        return self._same("n_heads")

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads of a layer; 0 without attention, `PlanError` where layers differ."""
        return self._same("n_kv_heads")

    @property
    def d_head(self) -> int:
        """Width of a head; 0 without attention, `PlanError` where layers differ."""
        return self._same("d_head")

    @property
    def d_mlp(self) -> int:
        """Neurons of an MLP; 0 where they cannot be seen, `PlanError` where layers differ."""
        return self._same("d_mlp")

    def _same(self, size: str) -> int:
        """A size of all blocks that have such a thing."""
        found = dict.fromkeys(filter(None, (getattr(block, size) for block in self.layers)))
        if len(found) > 1:
            raise PlanError(
                f"{size} differs between the layers of this model ({', '.join(map(str, found))}); "
                "give layers in which it is the same."
            )
        return next(iter(found), 0)
