"""The linear maps that an edit may change: hooked so that input and output are both seen."""

import contextlib
from collections.abc import Callable, Generator, Iterable

from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import PlanError
from interp.model.model import Model
from interp.model.sites import SITES

WRITERS = ("mlp_post", "z")
"""Sites that a writing projection reads: the FFN's down-projection and attention's output map."""

READERS = ("gate", "up")
"""What an FFN's neurons read their input with: the map inside the activation function (of plain
FFNs the only one), and its factor in gated ones."""

Rewrite = Callable[
    [Float[Tensor, "row pos d_in"], Float[Tensor, "row pos d_out"]],
    Float[Tensor, "row pos d_out"],
]
"""(input, output) of a projection -> the output that the model shall use instead."""


def projection(model: Model, name: str, layer: int) -> nn.Module:
    """A linear module by name, one of `WRITERS` or `READERS`; `PlanError` if there is none."""
    if name in WRITERS:
        model.site(name)
        model.check_layers([layer])
        return model.point(SITES[name], layer)[0]
    if name not in READERS:
        raise PlanError(
            f"no projection writes from {name!r}; choose 'mlp_post' (the FFN's down-projection) or "
            "'z' (attention's output projection)."
        )
    if name not in model.arch.neuron_keys:
        raise PlanError(
            f"{model.name} has no projection {name!r} that computes its FFN neurons alone; methods "
            "that write into neurons' keys cannot be used on it."
        )
    model.check_layers([layer])
    return model.blocks[layer].get_submodule(model.arch.neuron_keys[name].path)


@contextlib.contextmanager
def rewriting(model: Model, rewrites: Iterable[tuple[str, int, Rewrite]]) -> Generator[None]:
    """Run (projection, layer, function) triples, in order, whenever it is computed."""
    with contextlib.ExitStack() as stack:
        for site, layer, rewrite in rewrites:
            module = projection(model, site, layer)
            stack.callback(module.register_forward_hook(_hook(rewrite)).remove)
        yield


def _hook(rewrite: Rewrite) -> Callable[..., Tensor]:
    return lambda _, args, output: rewrite(args[0], output)
