"""How a planted bug is registered and switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

Patch = tuple[Any, str, Any]
MUTANTS: Final[dict[str, tuple[str, Callable[[], Sequence[Patch]]]]] = {}
"""Name -> what is wrong, and what to replace with what."""


def mutant(make: Callable[[], Sequence[Patch]]) -> Callable[[], Sequence[Patch]]:
    """Register a mutant under its function's name; its docstring says what is wrong."""
    MUTANTS[make.__name__] = ((make.__doc__ or "").strip(), make)
    return make


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Switch the mutant ``name`` on."""
    patches = [(target, attribute, vars(target)[attribute], value) for target, attribute, value in MUTANTS[name][1]()]
    for target, attribute, _, broken in patches:
        setattr(target, attribute, broken)
    try:
        yield
    finally:
        for target, attribute, sound, _ in patches:
            setattr(target, attribute, sound)
