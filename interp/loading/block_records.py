"""What the modules of each block read and give in one forward pass, edits of sites included.

`recorded_blocks` is how a map is measured: it holds one block's tensors at a time, so that a
large model takes no more memory than one of its blocks.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from interp.brief import brief
from interp.forward.hooks import edit_features, first_input
from interp.model.architecture import ModulePoint
from interp.model.model import Model

Batch = Float[Tensor, "row pos width"]


@brief
@dataclass
class Passed:
    """What one module reads and gives, before (`came`, `gave`) and after edits (`read`, `left`).

    ``None`` where it has no such tensor with an axis of rows and one of tokens; `flat` where the
    module lays the tokens of all rows out in one axis. `calls` is how often it is called in a
    block's run; the tensors are those of the first call.
    """

    came: Batch | None = None
    read: Batch | None = None
    gave: Batch | None = None
    left: Batch | None = None
    flat: bool = False
    calls: int = 0


Records = dict[str, Passed]
"""By path in the block (``""``: the block itself), in the order in which the modules return."""

Edits = Mapping[tuple[int, str, str], Iterable[tuple[ModulePoint, Callable[[Tensor], None]]]]
"""By layer, path in the block, and side: what is done with the tensor there, in place."""


@contextlib.contextmanager
def recorded_blocks(
    model: Model,
    done: Callable[[int, Records], None],
    edits: Edits,
    paths: Callable[[int], Iterable[str]] | None = None,
) -> Generator[None]:
    """Call `done` with each block's records, and the layer, as soon as the block has run.

    `paths` are the modules to record in a layer, besides the block itself; by default all.
    """
    with contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            listener = _Listener(block, layer, edits, done, None if paths is None else paths(layer))
            entered = block.register_forward_pre_hook(listener.enter, with_kwargs=True)
            stack.enter_context(entered)
            stack.enter_context(block.register_forward_hook(listener.leave))
            stack.callback(listener.close)
        yield


class _Listener:
    """Records one block while it runs; its modules may be those of other blocks, too."""

    def __init__(
        self,
        block: nn.Module,
        layer: int,
        edits: Edits,
        done: Callable[[int, Records], None],
        paths: Iterable[str] | None,
    ):
        self.layer, self.edits, self.done = layer, edits, done
        self.modules = {path: m for path, m in block.named_modules() if path}
        if paths is not None:
            self.modules = {path: self.modules[path] for path in paths if path}
        self.records: Records = {}
        self.shape = (0, 0)
        self.handles: list[Any] = []

    def enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = first_input(args, kwargs)
        self.records, self.shape = {}, tuple(hidden.shape[:2])
        for path, module in self.modules.items():
            self.handles += [
                module.register_forward_pre_hook(partial(self._before, path), with_kwargs=True),
                module.register_forward_hook(partial(self._after, path)),
            ]
        self._before("", block, args, kwargs)

    def leave(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._after("", block, args, output)
        self.close()
        self.done(self.layer, self.records)

    def close(self) -> None:
        """Remove the hooks of the block's modules."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _before(
        self, path: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        record = self.records.setdefault(path, Passed())
        record.calls += 1
        tensor = first_input(args, kwargs)
        if record.calls == 1 and self._fits(tensor):
            record.flat = tensor.ndim == 2
            record.came, record.read = self._edited(path, "in", tensor)

    def _after(self, path: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        record = self.records.pop(path)
        self.records[path] = record  # in the order in which they return
        tensor: Any = output[0] if isinstance(output, tuple) and output else output
        if record.calls == 1 and self._fits(tensor):
            record.flat = tensor.ndim == 2
            record.gave, record.left = self._edited(path, "out", tensor)

    def _fits(self, tensor: Any) -> bool:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return False
        rows, n_pos = self.shape
        return tensor.shape[:-1] in ((rows, n_pos), (rows * n_pos,))

    def _edited(self, path: str, side: str, tensor: Tensor) -> tuple[Batch, Batch]:
        """Copies of a tensor before and after the edits of this place."""
        before = tensor.clone().reshape(*self.shape, -1)
        given = list(self.edits.get((self.layer, path, side), ()))
        for point, edit in given:
            edit_features(tensor.view(*self.shape, -1) if tensor.ndim == 2 else tensor, point, edit)
        return before, tensor.clone().reshape(*self.shape, -1) if given else before
