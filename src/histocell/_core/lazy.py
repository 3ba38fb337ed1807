"""Lazy attributes of packages (PEP 562), read from the type stub beside them: importing a package imports none of its names."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def attach(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Module ``__getattr__``, ``__dir__`` and ``__all__`` for a package.

    Parameters
    ----------
    package
        Name of the package, ``__name__``.
    file
        Its file, ``__file__``. The stub beside it, ``__init__.pyi``, imports the public names from the modules that define
        them, which type checkers and editors read, too.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    modules = {name.name: str(node.module) for node in imports for name in node.names}

    def getattr_(name: str) -> object:
        if name not in modules:
            msg = f"module {package!r} has no attribute {name!r}; it has: {', '.join(sorted(modules))}"
            raise AttributeError(msg)
        if modules[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(modules[name]), name)

    return getattr_, lambda: sorted(modules), sorted(modules)
