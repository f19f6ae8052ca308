"""What a backward pass does at each nonlinearity: the gradient, RelP, or the discrete gradient.

A rule watches torch's own functions while the untouched model runs, and changes only how
gradients flow back through them; values stay as they are. No architecture is named here.

`DiscreteGradient` is the toolkit's own. Where a gradient is the slope at one run, it takes the
slope of the chord between the clean and the corrupt run, exactly, in every function:

    elementwise f     (f(x) - f(x')) / (x - x')
    product a b       db a_mean + da b_mean                     a_mean = (a + a') / 2
    softmax p         diag(L) - L L^T / sum(L)                  L = (p - p') / (log p - log p')

Products of these chords carry differences exactly: sum(multiplier * (a - a')) over any cut of
the model is m(clean) - m(corrupt). Attributions are thus conserved layer by layer, saturated
functions (a step, a hard softmax) included, at the cost of one gradient. The rules for single
functions are DeepLIFT's rescale rule (arXiv 1704.02685) and its discrete-gradient form
(Gonzalez 1996, eq. 2.4); the softmax one follows from log p = s - logsumexp(s).
"""

# ruff: noqa: D102 (the handlers of a rule say in its docstring what they do)

import contextlib
import functools
import math
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.attribution.chords import halfway, log_mean, routing_slopes, slope, solve_slopes
from interp.forward.experts import Route, Routing, require_open, routed
from interp.forward.layer_calls import restore_forward
from interp.model.model import Model

ELEMENTWISE = frozenset(
    ["relu", "gelu", "silu", "tanh", "sigmoid", "exp", "pow", "__pow__", "square", "clamp"]
    + ["softplus"]
)
PRODUCT = frozenset(["mul", "__mul__", "__rmul__", "multiply"])
QUOTIENT = frozenset(["div", "__truediv__", "divide", "true_divide"])


class Gradient:
    """The ordinary derivative, at the run that is differentiated."""

    chords = False
    """Whether slopes are those of chords from the clean to another run."""

    @contextlib.contextmanager
    def clean(self, model: Model) -> Generator[None]:
        """Surround the run that will be differentiated."""
        yield

    @contextlib.contextmanager
    def corrupt(self, model: Model) -> Generator[None]:
        """Surround the run on the corrupt prompts, made after the clean one."""
        yield

    def other_end(self, clean: Tensor, corrupt: Tensor) -> Tensor:
        """The end of the chord from `clean` whose slope is this rule's Jacobian of a norm."""
        return clean


class _Functions(TorchFunctionMode):
    """Sends torch functions by name to a rule's handlers; `None` keeps torch's own."""

    def __init__(self, handle: Callable[[str, Callable[..., Any]], Callable[..., Any] | None]):
        super().__init__()
        self.handle = handle

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ):
        name = getattr(func, "__name__", "")
        return (self.handle(name, func) or func)(*args, **(kwargs or {}))


class _Rule(Gradient):
    """Handlers that both modified rules share: attention and norms as their elementary steps."""

    elementwise: Callable[..., Tensor]
    product: Callable[..., Tensor]
    softmax: Callable[..., Tensor]
    root: Callable[..., Tensor]
    routing: Routing
    einsum: Callable[..., Tensor]
    solve: Callable[..., Tensor] = staticmethod(torch.linalg.solve_triangular)

    def quotient(self, f: Callable[..., Tensor], a: Any, b: Any, **kw: Any) -> Tensor:
        """A product with the reciprocal."""
        if not isinstance(b, Tensor) or kw:
            return f(a, b, **kw)
        return self.product(torch.mul, a, self.elementwise(torch.reciprocal, b))

    def logsumexp(self, x: Tensor, dim: int = -1) -> Tensor:
        """Of the metric: log p and p read it; its ordinary gradient is linear in them."""
        return torch.logsumexp(x, dim)

    def _handler(self, name: str, func: Callable[..., Any]) -> Callable[..., Any] | None:
        if name in ("matmul", "__matmul__", "bmm") or name in PRODUCT:
            return functools.partial(self.product, func)
        if name in QUOTIENT:
            return functools.partial(self.quotient, func)
        if name in ("rsqrt", "sqrt"):
            return functools.partial(self.root, func)
        if name in ELEMENTWISE:
            return functools.partial(self.elementwise, func)
        whole = {
            "softmax": self.softmax,
            "logsumexp": self.logsumexp,
            "log_softmax": lambda x, dim=-1, **_: x - self.logsumexp(x, dim)[..., None],
            "scaled_dot_product_attention": self.attention,
            "einsum": self.einsum,
            "linalg_solve_triangular": self.solve,
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
        }
        return whole.get(name)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention as scores, pattern and weighted values, at least in fp32 as fused kernels."""
        if enable_gqa:
            groups = q.shape[1] // k.shape[1]
            k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = self.product(torch.matmul, q.to(wide), k.transpose(-1, -2).to(wide))
        scores = scores * (scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
        lowest = torch.finfo(scores.dtype).min
        if is_causal:
            ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
            attn_mask = ones.tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, lowest)
        elif attn_mask is not None:
            scores = (scores + attn_mask).clamp(min=lowest)
        return self.product(torch.matmul, self.softmax(scores), v.to(wide)).to(v.dtype)

    def layer_norm(
        self, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        """Centre, then scale by the inverse root of the variance."""
        centred = x - x.mean(-1, keepdim=True)
        normed = self.rms_norm(centred, shape, weight, eps)
        return normed if bias is None else normed + bias

    def rms_norm(self, x: Tensor, shape: Any, weight: Any = None, eps: float | None = None):
        """Scale by the inverse root of the mean square."""
        mean_square = self.elementwise(torch.square, x).mean(-1, keepdim=True)
        scale = self.root(torch.rsqrt, mean_square + (eps or torch.finfo(x.dtype).eps))
        normed = self.product(torch.mul, x, scale)
        return normed if weight is None else normed * weight

    @contextlib.contextmanager
    def _watching(self, model: Model) -> Generator[None]:
        """Watch torch functions, and take activation modules written in Python as one function."""
        with contextlib.ExitStack() as stack:
            for module in model.hf.modules():
                if type(module).__module__ == "transformers.activations":
                    stack.enter_context(_as_elementwise(module, self.elementwise))
            stack.enter_context(routed(model, self.routing))
            stack.enter_context(_Functions(self._handler))
            yield


@contextlib.contextmanager
def _as_elementwise(module: nn.Module, elementwise: Callable[..., Tensor]) -> Generator[None]:
    forward = module.forward

    def whole(x: Tensor) -> Tensor:
        # its own steps are not watched: the module counts as one function
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            return elementwise(forward, x)

    before = module.__dict__.get("forward")
    module.forward = whole
    try:
        yield
    finally:
        restore_forward(module, before)


def _depends(*operands: Any) -> bool:
    return torch.is_grad_enabled() and all(
        isinstance(x, Tensor) and x.requires_grad for x in operands
    )


# --- RelP --------------------------------------------------------------------------------------


class RelP(_Rule):
    """Layer-wise relevance propagation: one modified gradient at the clean run.

    Norm scales and attention patterns are constants, an activation passes x phi(x)/x, a gated
    product gives half to each factor.

    Source: Jafari et al., "RelP", arXiv 2508.21258; Ali et al., arXiv 2202.07304.
    """

    @contextlib.contextmanager
    def clean(self, model: Model) -> Generator[None]:
        with self._watching(model):
            yield

    def _handler(self, name: str, func: Callable[..., Any]) -> Callable[..., Any] | None:
        # the only exponential outside attention is the metric's own: p from log p
        # (and of a softplus, f(x) / x has no limit at 0)
        return None if name in ("exp", "softplus") else super()._handler(name, func)

    def other_end(self, clean: Tensor, corrupt: Tensor) -> Tensor:
        return -clean  # where the norm's scale is the same

    def elementwise(self, f: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any) -> Tensor:
        """Multiply x by the constant f(x) / x."""
        value = f(x, *args, **kw)
        if not _depends(x):
            return value
        near = torch.where(x.abs() < 1e-6, torch.full_like(x, 1e-6), x).detach()
        ratio = f(near, *args, **kw).detach() / near
        return given(lambda: value.detach().clone(), lambda g: (g * ratio,), x)

    def product(self, f: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
        """Half the gradient to each factor where both depend on the input."""
        value = f(a, b)
        return 0.5 * (value + value.detach()) if _depends(a, b) else value

    def einsum(self, equation: str, *operands: Tensor) -> Tensor:
        if len(operands) != 2:
            return torch.einsum(equation, *operands)
        return self.product(functools.partial(torch.einsum, equation), *operands)

    def softmax(self, x: Tensor, dim: int = -1, dtype: Any = None, **_: Any) -> Tensor:
        return torch.softmax(x.detach(), dim, dtype=dtype)

    def root(self, f: Callable[..., Tensor], x: Tensor) -> Tensor:
        return f(x).detach()

    def routing(self, route: Route, logits: Tensor) -> Tensor:  # pyright: ignore
        return route(logits.detach())


# --- the discrete gradient ---------------------------------------------------------------------


_Slot = list[Tensor]
"""The corrupt run's operands at one function, filled in after the clean run."""


class DiscreteGradient(_Rule):
    """Chords between the clean and the corrupt run; the module docstring has the formulas.

    The clean run leaves a slot at every function whose derivative is not constant; the corrupt
    run, which must make the same calls, fills them in order.
    """

    chords = True

    def __init__(self) -> None:
        self.slots: list[_Slot | None] = []
        self.next: int | None = None

    @contextlib.contextmanager
    def clean(self, model: Model) -> Generator[None]:
        require_open(model)
        self.slots, self.next = [], None
        with self._watching(model):
            yield

    @contextlib.contextmanager
    def corrupt(self, model: Model) -> Generator[None]:
        self.next = 0
        with self._watching(model), torch.no_grad():
            yield
        if self.next != len(self.slots):
            raise RuntimeError("the corrupt run made other calls than the clean one")

    def other_end(self, clean: Tensor, corrupt: Tensor) -> Tensor:
        return corrupt

    def _slot(self, operands: tuple[Tensor, ...], depends: bool) -> _Slot | None:
        """This function's slot: a new one in the clean run, the filled one in the corrupt run."""
        if self.next is None:
            self.slots.append([] if depends else None)
            return self.slots[-1]
        slot, self.next = self.slots[self.next], self.next + 1
        if slot is not None:
            slot[:] = [x.detach() for x in operands]
        return None

    def elementwise(self, f: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any) -> Tensor:
        slot = self._slot((x,), _depends(x))

        def of(x: Tensor) -> Tensor:
            return f(x, *args, **kw)

        if slot is None:
            return of(x)
        return given(lambda: of(x), lambda g: (g * slope(of, x, *slot),), x)

    def product(self, f: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return f(a, b)
        slot = self._slot((a, b), _depends(a, b))
        if slot is None:
            return f(a, b)
        matrix = f.__name__ not in PRODUCT

        def back(g: Tensor) -> tuple[Tensor, ...]:
            mean_a, mean_b = (a + slot[0]) / 2, (b + slot[1]) / 2
            if matrix:
                to_a, to_b = g @ mean_b.transpose(-1, -2), mean_a.transpose(-1, -2) @ g
            else:
                to_a, to_b = g * mean_b, g * mean_a
            return to_a.sum_to_size(a.shape), to_b.sum_to_size(b.shape)

        return given(lambda: f(a, b), back, a, b)

    def einsum(self, equation: str, *operands: Tensor) -> Tensor:
        f = functools.partial(torch.einsum, equation)
        slot = self._slot(operands, len(operands) == 2 and _depends(*operands))
        if slot is None:
            return f(*operands)
        return given(lambda: f(*operands), lambda g: halfway(f, operands, slot, g), *operands)

    def solve(self, a: Tensor, b: Tensor, **form: bool) -> Tensor:
        x = torch.linalg.solve_triangular(a, b, **form)
        slot = self._slot((a, x), _depends(a, b) and form.get("left", True))
        if slot is None:
            return x
        back = functools.partial(solve_slopes, a.detach(), x.detach(), slot, form)
        return given(x.detach().clone, back, a, b)

    def softmax(self, x: Tensor, dim: int = -1, dtype: Any = None, **_: Any) -> Tensor:
        x = x if dtype is None else x.to(dtype)
        log_p = torch.log_softmax(x.detach(), dim)
        slot = self._slot((log_p,), _depends(x))

        def back(g: Tensor) -> tuple[Tensor, ...]:
            mean = log_mean(log_p, *slot or ())
            weighted = mean * g
            share = weighted.sum(dim, keepdim=True) / mean.sum(dim, keepdim=True)
            return (weighted - mean * share,)

        return log_p.exp() if slot is None else given(log_p.exp, back, x)

    def logsumexp(self, x: Tensor, dim: int = -1) -> Tensor:
        log_p = torch.log_softmax(x.detach(), dim)
        slot = self._slot((log_p,), _depends(x))
        plain = functools.partial(torch.logsumexp, x, dim)

        def back(g: Tensor) -> tuple[Tensor, ...]:
            mean = log_mean(log_p, *slot or ())
            return (g.unsqueeze(dim) * (mean / mean.sum(dim, keepdim=True)),)

        return plain() if slot is None else given(plain, back, x)

    def root(self, f: Callable[..., Tensor], x: Tensor) -> Tensor:
        return self.elementwise(f, x)

    def routing(self, route: Route, logits: Tensor) -> Tensor:  # pyright: ignore
        weights = route(logits.detach())
        slot = self._slot((logits, weights), _depends(logits))
        if slot is None:
            return weights
        back = functools.partial(routing_slopes, route, logits, weights, slot)
        return given(weights.clone, lambda g: (back(g),), logits)


# --- functions with gradients of their own -------------------------------------------------------


def given(f: Callable[[], Tensor], back: Callable[[Tensor], Any], *operands: Tensor) -> Tensor:
    """The value of f(), a function of operands, whose gradients are those that back(g) returns."""
    return _Given.apply(f, back, *operands)  # pyright: ignore[reportReturnType]


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, f: Callable[[], Tensor], back: Callable[[Tensor], Any], *operands: Tensor
    ) -> Tensor:
        ctx.back = back
        return f()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, *ctx.back(grads[0])
