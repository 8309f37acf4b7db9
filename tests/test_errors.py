"""The tree of errors: every exception of the packages is in it, where the drawing in errors.py says."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Final

import raftlog

import durable_raft
from durable_raft import errors
from durable_raft.errors import DurableRaftError

ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = ("durable_raft", "tools")

_NODE: Final = re.compile(r"^    ([│ ├└─]*)(\w+)(?: +\((\S+\.py)\))?")


def drawn() -> dict[str, tuple[str, str]]:
    """Return (name of the base, file) of each error as the docstring draws it."""
    found: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        node = _NODE.match(line)
        if node is None:
            continue
        branch, name, file = node.groups()
        del path[len(branch) // 4 :]
        found[name] = (path[-1] if path else "Exception", file or "errors.py")
        path.append(name)
    return found


def defined() -> dict[str, type[BaseException]]:
    """Return every exception that a module of the packages defines, by name."""
    found: dict[str, type[BaseException]] = {}
    for package in (durable_raft, raftlog):
        for module_info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module_info.name.endswith("__main__"):
                continue
            module = importlib.import_module(module_info.name)
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == module.__name__:
                    assert value.__name__ not in found, f"two errors are called {value.__name__}"
                    found[value.__name__] = value
    return found


def file_of(error: type[BaseException]) -> str:
    """Return where an error is defined, as the drawing names it: below ``durable_raft``, else below the checkout."""
    path = error.__module__.replace(".", "/") + ".py"
    return path.removeprefix("durable_raft/") if path.startswith("durable_raft/") else f"tools/{path}"


def test_tree_is_drawn_as_it_is() -> None:
    """Each error has the base and the file that the drawing gives it, and none is missing on either side."""
    assert drawn() == {name: (error.__bases__[0].__name__, file_of(error)) for name, error in defined().items()}


def test_every_error_has_the_one_root() -> None:
    """Whoever catches the root catches everything that is raised on purpose."""
    assert [name for name, error in defined().items() if not issubclass(error, DurableRaftError)] == []
    assert "NotReplayable" in defined(), "the walk over the packages found the tools"


def test_every_error_is_used() -> None:
    """An error is raised, or is the base of one that is."""
    sources = [path.read_text(encoding="utf-8") for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    bases = {base for base, _ in drawn().values()}
    raised = {
        name
        for name in defined()
        if any(re.search(rf"^(?!class ).*\b{name}\(", text, re.MULTILINE) for text in sources)
    }
    assert {name for name in defined() if name not in raised | bases} == set()
