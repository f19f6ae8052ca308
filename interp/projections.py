"""The linear maps through which sublayers write: hooked so that input and output are both seen."""

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SiteError
from interp.model import Model
from interp.sites import SITES

WRITERS = ("mlp_post", "z")
"""Sites that a writing projection reads: the FFN's down-projection and attention's output map."""

Rewrite = Callable[
    [Float[Tensor, "row pos d_in"], Float[Tensor, "row pos d_model"]],
    Float[Tensor, "row pos d_model"],
]
"""(input, output) of a writing projection -> the output that the model shall use instead."""


def writer(model: Model, site: str, layer: int) -> nn.Module:
    """The linear module that reads `site` and writes towards the residual stream.

    Raises:
        SiteError: `site` is not one that a writing projection reads, this model has no such
            site, or the layer is out of range.
    """
    if site not in WRITERS:
        raise SiteError(
            f"no projection writes from {site!r}; choose 'mlp_post' (the FFN's down-projection) or "
            "'z' (attention's output projection)."
        )
    model.site(site)
    model.check_layers([layer])
    return model.point(SITES[site], layer)[0]


@contextlib.contextmanager
def rewriting(model: Model, rewrites: Iterable[tuple[str, int, Rewrite]]) -> Generator[None]:
    """Run `rewrites` whenever their projection is computed; every hook is gone on exit.

    Args:
        model: the model that will be run inside the ``with`` block.
        rewrites: (site read, layer, function) triples, applied in the order given.

    Raises:
        SiteError: as `writer`.
    """
    with contextlib.ExitStack() as stack:
        for site, layer, rewrite in rewrites:
            module = writer(model, site, layer)
            stack.callback(module.register_forward_hook(_hook(rewrite)).remove)
        yield


def _hook(rewrite: Rewrite) -> Callable[..., Tensor]:
    def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return rewrite(args[0], output)

    return after
