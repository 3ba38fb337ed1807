"""Lazy attribute tables (PEP 562): a package lists its names, importing it imports none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def attach(
    package: str, table: Mapping[str, str | None]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Module ``__getattr__``, ``__dir__`` and ``__all__`` for a package.

    Parameters
    ----------
    package
        Name of the package, ``__name__``.
    table
        Public name to the module that defines it; `None` for a name that is a submodule itself.
    """

    def getattr_(name: str) -> Any:
        if name not in table:
            msg = f"module {package!r} has no attribute {name!r}; it has: {', '.join(sorted(table))}"
            raise AttributeError(msg)
        source = table[name]
        if source is None:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(source), name)

    return getattr_, lambda: sorted(table), sorted(table)
