"""The code of a torch module or of a function as text: what its values depend on beside its tensors."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import textwrap
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
_MADE_BY_A_CLASS_STATEMENT = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_BOOKKEEPING = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}


def code_digest(module: torch.nn.Module) -> str:
    """The start of the SHA-256 of the code of a module and of its plain attributes.

    Classes and functions of installed packages count by their name, all others by their source, with the functions and
    numbers of their files that they use. Comments do not count.
    """
    known: dict[int, object] = {}  # classes and functions that were read, which keeps their numbers theirs
    digest = sha256()
    for name, part in module.named_modules():
        for line in (name, *_state(part, known), *_of(type(part), known)):
            digest.update(line.encode() + b"\0")
    return digest.hexdigest()[:8]


def function_digest(function: object) -> str:
    """The start of the SHA-256 of the code of a function, or of a callable object and its attributes; as `code_digest`."""
    digest = sha256()
    for line in _of(function, {}):
        digest.update(line.encode() + b"\0")
    return digest.hexdigest()[:8]


def _state(part: torch.nn.Module, known: dict[int, object]) -> Iterator[str]:
    """Settings of a module that are no tensors of its own: attributes, hooks, and the code of compiled ones."""
    yield part.extra_repr()
    for name, value in vars(part).items():
        if name not in _BOOKKEEPING:  # the keys of hooks count the hooks of the process
            yield from (
                name,
                *_of(list(value.values()) if "hooks" in name and isinstance(value, dict) else value, known),
            )
    code = getattr(part, "code", "")  # of torch.jit and torch.fx
    yield code if isinstance(code, str) else ""


def _of(value: object, known: dict[int, object]) -> Iterator[str]:
    """What a value is, in lines that are the same in every process."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} {sha256(np.ascontiguousarray(value)).hexdigest()}"
    elif isinstance(value, type | FunctionType | MethodType):
        yield f"{value.__module__}.{value.__qualname__}"
        if id(value) not in known and not _is_installed(value):
            known[id(value)] = value
            yield from _of_class(value, known) if isinstance(value, type) else _of_function(value, known)
    elif id(value) not in known:
        known[id(value)] = value
        yield from _of_object(value, known)
        del known[id(value)]  # equal ones and the same one again are no different


def _of_object(value: object, known: dict[int, object]) -> Iterator[str]:
    """A container, or an object with attributes."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from (*_of(key, known), *_of(each, known))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _of(each, known)
    elif isinstance(value, set | frozenset):
        yield from sorted(line for each in value for line in _of(each, known))
    elif isinstance(value, partial):
        yield from _of([value.func, value.args, value.keywords], known)
    else:
        name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
        yield f"{type(value).__module__}.{type(value).__qualname__} {name}"
        if not _is_installed(type(value)):
            yield from (*_of(type(value), known), *_of(getattr(value, "__dict__", {}), known))
        elif not name:
            yield re.sub(r"0x[0-9a-f]+", "", repr(value))


def _of_class(cls: type, known: dict[int, object]) -> Iterator[str]:
    for base in cls.__bases__:
        yield from _of(base, known)
    for name, value in vars(cls).items():
        inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or getattr(value, "func", value)
        if not name.startswith("__") or isinstance(inner, FunctionType):
            yield from (name, *_of(inner, known))


def _of_function(value: FunctionType | MethodType, known: dict[int, object]) -> Iterator[str]:
    function = cast("FunctionType", value.__func__ if isinstance(value, MethodType) else value)
    yield _source(function)
    closure = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    yield from _of([function.__defaults__, function.__kwdefaults__, closure], known)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        used = function.__globals__[name]
        if isinstance(used, (*_PLAIN, list, tuple, dict, torch.Tensor, np.ndarray, type, FunctionType, partial)):
            yield from (name, *_of(used, known))


def _source(function: FunctionType) -> str:
    """The source without comments, else the instructions."""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # made by exec, typed into a prompt, or a part of a line
        return _instructions(function.__code__)


def _instructions(code: CodeType) -> str:
    inner = [_instructions(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {inner}"


def _names(code: CodeType) -> set[str]:
    """Global names that a function may use, its inner functions too."""
    return set(code.co_names).union(*(_names(each) for each in code.co_consts if isinstance(each, CodeType)))


def _is_installed(value: type | FunctionType | MethodType) -> bool:
    """Whether something is defined in a package that was installed, which has a version of its own."""
    try:
        file = Path(inspect.getfile(value)).resolve()
    except (OSError, TypeError):  # built in, or made without a file
        return isinstance(value, type) and not value.__flags__ & _MADE_BY_A_CLASS_STATEMENT
    return any(file.is_relative_to(folder) for folder in _INSTALLED)


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
