"""Packages that import a name when it is first used, so that `import interp` loads no torch."""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def lazy(package: str) -> None:
    """Make a package import each name of its ``if TYPE_CHECKING:`` block when it is first used.

    The block is read from the package's own source, and is what it exports (``__all__``): type
    checkers and editors see plain imports (Python 3.15 has `lazy import` for it).

    Args:
        package: the package's `__name__`, from its `__init__`.
    """
    module = sys.modules[package]
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    blocks = (node.body for node in tree.body if isinstance(node, ast.If))
    imports = (line for block in blocks for line in block if isinstance(line, ast.ImportFrom))
    origins = {name.name: line.module for line in imports for name in line.names}
    module.__dict__.update(_origins=origins, __all__=sorted(origins))
    module.__class__ = _LazyPackage


class _LazyPackage(ModuleType):
    _origins: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        """An exported name, or a submodule, such as `interp.statistics`."""
        path = f"{self.__name__}.{name}"
        try:
            if name in self._origins:
                value = getattr(importlib.import_module(self._origins[name]), name)
            elif name.startswith("_"):
                raise ModuleNotFoundError(name=path)
            else:
                value = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            message = f"module {self.__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self) from None
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it, but let no imported submodule hide an exported name that equals its own."""
        if not (isinstance(value, ModuleType) and name in self._origins):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._origins})
