"""How a mutant gets into code that is loaded already, and into code that is still to be imported.

A change inside a function is planted by giving the function its mutated code, wherever it is referred to from. What a
module does when it is imported (constants, tables, classes, default values) is done by then: such a mutant is planted
in the import, in a process that has not imported the module.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Final

from tests.mutation.mutations import Mutation

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = "durable_raft"

CodeName = tuple[str, str, int]
"""File, qualified name and first line of a code object."""


@cache
def source(path: str) -> bytes:
    """Return a source as it was in the checkout when it was first asked for: somebody may work on it meanwhile."""
    return (ROOT / path).read_bytes()


def loaded_functions() -> dict[CodeName, list[FunctionType]]:
    """Return every function of the package that lives in this process, by its code."""
    found: dict[CodeName, list[FunctionType]] = {}
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(str(ROOT / PACKAGE)):
            code = each.__code__
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(each)
    return found


def mutated_functions(mutation: Mutation) -> list[CodeType] | None:
    """Return the outermost functions that the mutant changes, mutated; None when it changes what the import does."""
    path = str(ROOT / mutation.path)
    unmutated = source(mutation.path)
    old = compile(unmutated, path, "exec", dont_inherit=True)
    new = compile(mutation.apply(unmutated), path, "exec", dont_inherit=True)
    return _changed(old, new)


def plant(mutated: Sequence[CodeType], functions: dict[CodeName, list[FunctionType]]) -> bool:
    """Give functions their mutated code; return whether each was there and could take it."""
    for code in mutated:
        found = functions.get((code.co_filename, code.co_qualname, code.co_firstlineno), [])
        for function in found:
            if len(function.__code__.co_freevars) != len(code.co_freevars):
                return False
            function.__code__ = code
        if not found:
            return False
    return True


def plant_in_import(mutation: Mutation) -> None:
    """Have the module mutated when it is imported, which must not have happened yet."""
    name = mutation.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if name in sys.modules:
        raise RuntimeError(f"{name} is imported already")
    sys.meta_path.insert(0, _Finder(name, mutation))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, mutated."""

    def __init__(self, name: str, mutation: Mutation) -> None:
        self._name = name
        self._mutation = mutation

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See the base class."""
        del path, target
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, ROOT / self._mutation.path, loader=_Loader(fullname, self._mutation)
        )


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads one module's source mutated, and leaves no compiled file behind."""

    def __init__(self, fullname: str, mutation: Mutation) -> None:
        super().__init__(fullname, str(ROOT / mutation.path))
        self._mutation = mutation

    def get_code(self, fullname: str) -> CodeType:
        """See the base class."""
        del fullname
        return compile(self._mutation.apply(source(self._mutation.path)), self.path, "exec", dont_inherit=True)


def _changed(old: CodeType, new: CodeType) -> list[CodeType] | None:
    """Compare what an import does; collect the functions in it that differ."""
    if _own(old) != _own(new):
        return None
    changed: list[CodeType] = []
    for before, after in zip(_inner(old), _inner(new), strict=True):
        if before.co_flags & inspect.CO_OPTIMIZED:
            if before != after:
                changed.append(after)
            continue
        below = _changed(before, after)
        if below is None:
            return None
        changed += below
    return changed


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (each for each in code.co_consts if isinstance(each, CodeType))


def _own(code: CodeType) -> tuple[object, ...]:
    """Return what a code object does, without the functions and classes in it."""
    constants = [repr(each) for each in code.co_consts if not isinstance(each, CodeType)]
    return code.co_code, constants, code.co_names, [each.co_qualname for each in _inner(code)]
