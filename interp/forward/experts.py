"""Inside a mixture of experts: routing, neurons and contributions of the experts, per token.

Every site is laid out densely, over all experts, and is zero where an expert was not chosen. The
experts chosen for a token are computed with the module's own weights, biases and gate, in the
place of its forward, and only while a site is read or edited; otherwise the model runs as always.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.errors import PlanError
from interp.forward.layer_calls import restore_forward
from interp.model.architecture import ExpertLayout
from interp.model.expert_forms import form_of
from interp.model.model import Model

Step = Callable[[Tensor], Tensor]
"""Gets an activation, and gives what the model shall go on with."""

Route = Callable[[Float[Tensor, "token logit"]], Float[Tensor, "token expert"]]
"""The dense routing weights as a function of the router's logits."""

Routing = Callable[[Route, Tensor], Float[Tensor, "token expert"]]
"""How a backward rule differentiates a route at some logits."""


def edit_experts(
    module: nn.Module, layout: ExpertLayout, side: str, step: Step
) -> Callable[[], None]:
    """Run `step` at a place inside a module of experts, or their router; returns what undoes it."""
    of_router = side == "logits" or (layout.scaled and side == "weights")
    served = _router(module, layout) if of_router else _experts(module, layout)
    entry = (side, step)
    served.steps.append(entry)

    def remove() -> None:
        served.steps.remove(entry)
        served.leave()

    return remove


def require_open(model: Model) -> None:
    """Refuse (`PlanError`) a model with a mixture of experts that cannot be taken apart."""
    for layer, block in enumerate(model.arch.layers):
        if isinstance(block.experts, str):
            raise PlanError(
                f"in layer {layer} of {model.name}, {block.experts}, so two runs that choose other "
                "experts cannot be compared step by step; use the method 'eap', 'eap-ig' or 'relp'."
            )


@contextlib.contextmanager
def routed(model: Model, routing: Routing) -> Generator[None]:
    """Compute every expert for every token, and differentiate the routing as `routing` says.

    So two runs make the same calls, in the same order, whatever experts they choose.
    """
    with contextlib.ExitStack() as stack:
        for layer, layout in model.mixtures.items():
            block = model.blocks[layer]
            router, module = (block.get_submodule(p) for p in (layout.router, layout.experts))
            router = _router(router, layout)
            experts = None if layout.scaled else _experts(module, layout)
            stack.callback(_restore, router, router.routing, router.experts)
            router.routing, router.experts = routing, experts
            if experts is not None:
                stack.callback(_stop_whole, experts, experts.whole)
                experts.whole = True
        yield


def _restore(router: "_Router", routing: Routing | None, experts: "_Experts | None") -> None:
    router.routing, router.experts = routing, experts
    router.leave()


def _stop_whole(experts: "_Experts", before: bool) -> None:
    experts.whole = before
    experts.routed.clear()
    experts.leave()


def dense_weights(
    index: Int[Tensor, "token chosen"], weights: Float[Tensor, "token chosen"], n_experts: int
) -> Float[Tensor, "token expert"]:
    """Routing weights over all experts, zero for those that were not chosen."""
    return weights.new_zeros(len(weights), n_experts).scatter_add(1, index, weights)


class _Served:
    """Stands in for a module's forward while something inside it is read or edited."""

    def __init__(self, module: Any):
        self.module, self.before = module, module.__dict__.get("forward")
        self.own: Any = self.before or functools.partial(type(module).forward, module)
        self.steps: list[tuple[str, Step]] = []
        module.forward = self

    @property
    def busy(self) -> bool:
        """Whether anyone still needs this."""
        return bool(self.steps)

    def leave(self) -> None:
        """Give the module its forward back where nobody needs this any more."""
        if not self.busy:
            restore_forward(self.module, self.before)

    def stepped(self, side: str, activation: Tensor) -> Tensor:
        """An activation after all steps at a side, in order."""
        for at, step in list(self.steps):
            activation = step(activation) if at == side else activation
        return activation

    def wants(self, side: str) -> bool:
        """Whether a side is read or edited."""
        return any(at == side for at, _ in self.steps)


# --- experts -----------------------------------------------------------------------------------


class _Experts(_Served):
    """`whole` computes every expert for every token; `routed` are weights that a rule made."""

    def __init__(self, module: nn.Module, layout: ExpertLayout):
        super().__init__(module)
        form = form_of(module)
        assert form is not None
        self.layout, self.form = layout, form
        self.whole = False
        self.routed: list[Tensor] = []

    @property
    def busy(self) -> bool:
        return self.whole or super().busy

    def __call__(
        self,
        given: Float[Tensor, "*token d"],
        index: Int[Tensor, "token chosen"] | None = None,
        weights: Float[Tensor, "token chosen"] | None = None,
    ) -> Float[Tensor, "*token d_out"]:
        """The experts' summed contributions, each step run on its dense activation."""
        m: Any = self.module
        if getattr(m, "_is_expert_parallel", False):
            raise PlanError("experts that are spread over several processes cannot be read.")
        hidden = given.reshape(-1, given.shape[-1])
        if index is None or weights is None:
            index, weights = self._routed(hidden)
        total = self._total(hidden, *self._weights(index, weights, self.layout.n_experts))
        total = total + m.bias if self.form.routes else total
        return total.view(*given.shape[:-1], -1)

    def _routed(
        self, hidden: Float[Tensor, "token d"]
    ) -> tuple[Int[Tensor, "token chosen"], Float[Tensor, "token chosen"]]:
        """The routing of a mixture whose router sorts tokens by expert."""
        _, token, weights, counts, _ = self.module.router(hidden)
        expert = torch.arange(len(counts), device=token.device)
        expert = expert.repeat_interleave(torch.tensor(counts, device=token.device))
        dense = weights.new_zeros(len(hidden), len(counts)).index_put((token, expert), weights)
        weights, index = dense.topk(self.module.router.top_k)
        return index, weights

    def _total(
        self,
        hidden: Float[Tensor, "token d"],
        dense: Float[Tensor, "token expert"],
        chosen: Bool[Tensor, "token expert"],
    ) -> Float[Tensor, "token d_out"]:
        """The chosen experts' contributions at these weights."""
        expert, token = chosen.T.nonzero(as_tuple=True)
        counts, shape = chosen.sum(0).tolist(), tuple(chosen.shape)
        own = len(counts) - self.layout.n_identity  # experts behind these give what they read
        first = hidden[token].split(counts)
        post = self._each(self.form.neurons, first[:own])
        if self.wants("neurons"):
            at = (token[: len(post)], expert[: len(post)])
            laid = post.new_zeros(shape[0], own, post.shape[-1]).index_put(at, post)
            laid = self.stepped("neurons", laid.flatten(1))
            post = laid.unflatten(1, (own, -1))[at]
        out = self._each(self.form.write, post.split(counts[:own]))
        out = torch.cat([out, *first[own:]]) * dense[token, expert][:, None]
        if self.wants("outputs"):
            laid = out.new_zeros(*shape, out.shape[-1]).index_put((token, expert), out)
            laid = self.stepped("outputs", laid.to(hidden.dtype).flatten(1))
            return laid.unflatten(1, (shape[1], -1)).sum(1)
        zero = out.new_zeros(len(hidden), out.shape[-1])
        return zero.index_add(0, token, out).to(hidden.dtype)

    def _weights(
        self, index: Tensor, weights: Tensor, n: int
    ) -> tuple[Float[Tensor, "token expert"], Bool[Tensor, "token expert"]]:
        """Dense routing weights, and which experts are computed for which tokens.

        Where gradients at the weights are wanted, those of experts that were not chosen are too.
        """
        dense = dense_weights(index, weights, n)
        if self.routed:
            own = self.routed.pop()
            if not torch.allclose(own.to(dense), dense, rtol=1e-3, atol=1e-5):
                raise PlanError(
                    "the mixture changes what its router gives, so no chord can be followed "
                    "through it; use the method 'eap' or 'eap-ig'."
                )
            dense = own.to(dense.dtype)
        chosen = torch.zeros_like(dense, dtype=torch.bool).scatter(1, index, True)
        of_all = self.wants("weights") and dense.requires_grad and torch.is_grad_enabled()
        dense = self.stepped("weights", dense)
        if self.whole or of_all:
            return dense, torch.ones_like(chosen)
        return dense, chosen | (dense != 0)

    def _each(
        self, compute: Callable[[Any, int, Tensor], Tensor], parts: Sequence[Tensor]
    ) -> Float[Tensor, "row width"]:
        """What experts make of their rows, in order; one without any stands for none at all."""
        used = [i for i, rows in enumerate(parts) if len(rows)] or [0]
        return torch.cat([compute(self.module, i, parts[i]) for i in used])


class _ScaledExperts(_Served):
    """Experts that get a copy of all tokens each, scaled by its score (Llama 4)."""

    def __call__(self, hidden: Float[Tensor, "expert_token d"]) -> Float[Tensor, "expert_token d"]:
        """What each expert makes of each token, each step run on its activation by token."""
        m: Any = self.module
        x = hidden.view(len(m.gate_up_proj), -1, hidden.shape[-1])
        gate, up = torch.bmm(x, m.gate_up_proj).chunk(2, dim=-1)
        post = self._by_token("neurons", up * m.act_fn(gate))
        out = self._by_token("outputs", torch.bmm(post, m.down_proj))
        return out.reshape(-1, out.shape[-1])

    def _by_token(self, side: str, x: Float[Tensor, "expert token d"]) -> Tensor:
        if not self.wants(side):
            return x
        laid = self.stepped(side, x.transpose(0, 1).flatten(1))
        return laid.unflatten(1, (len(x), -1)).transpose(0, 1)


# --- routers -----------------------------------------------------------------------------------


class _Router(_Served):
    """`routing` differentiates the route into the `experts`' weights."""

    def __init__(self, module: nn.Module, layout: ExpertLayout):
        super().__init__(module)
        self.layout = layout
        self.routing: Routing | None = None
        self.experts: _Experts | None = None

    @property
    def busy(self) -> bool:
        return self.routing is not None or super().busy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The router's own forward, its logits stepped where its linear map gives them."""
        quiet = self.routing is not None
        with _AtLogits(self.layout, lambda x: self.stepped("logits", x), quiet) as at:
            out = self.own(*args, **kwargs)
        if at.logits is None:
            raise PlanError(f"{type(self.module).__name__} computes no logits by a linear map.")
        if self.layout.scaled:
            weights, *rest = out
            if self.routing is not None:
                weights = self.routing(functools.partial(self._route, args, kwargs), at.logits)
            return self.stepped("weights", weights), *rest
        if self.routing is not None and self.experts is not None:
            if not isinstance(out, tuple) or len(out) != 3:
                raise PlanError(
                    f"{type(self.module).__name__} does not give just logits, routing weights and "
                    "experts, so no chord can be followed through it; use the method 'eap' or "
                    "'eap-ig'."
                )
            route = functools.partial(self._route, args, kwargs)
            self.experts.routed[:] = [self.routing(route, at.logits)]
        return out

    def _route(self, args: Any, kwargs: Any, logits: Tensor) -> Float[Tensor, "token expert"]:
        """The dense routing weights of given logits."""
        with _AtLogits(self.layout, lambda _: logits, self.routing is not None):
            out = self.own(*args, **kwargs)
        if self.layout.scaled:
            return out[0]
        return dense_weights(out[2], out[1], self.layout.n_experts)


class _AtLogits(TorchFunctionMode):
    """Runs a step on what a router's linear map gives; `quiet` hides what follows from rules."""

    def __init__(self, layout: ExpertLayout, step: Step, quiet: bool):
        super().__init__()
        self.layout, self.step, self.quiet = layout, step, quiet
        self.logits: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ):
        if self.logits is not None and self.quiet:
            with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
                return func(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        linear = getattr(func, "__name__", "") in ("linear", "mm")
        if self.logits is None and linear and out.shape[-1] == self.layout.n_logits:
            out = self.logits = self.step(out)
        return out


def _experts(module: nn.Module, layout: ExpertLayout) -> Any:
    served = module.__dict__.get("forward")
    if isinstance(served, _Served):
        return served
    return _ScaledExperts(module) if layout.scaled else _Experts(module, layout)


def _router(module: nn.Module, layout: ExpertLayout) -> _Router:
    served = module.__dict__.get("forward")
    return served if isinstance(served, _Router) else _Router(module, layout)
