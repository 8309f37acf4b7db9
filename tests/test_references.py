"""What comments, docstrings and documents refer to is there: files, modules, functions, sections, contracts."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests import documents

ROOT: Final = documents.ROOT
PLACES: Final = ("durable_raft", "tools", "tests", "benchmarks", "docs")
SINGLE_FILES: Final = ("setup.cfg", "pyproject.toml", ".ci/run", "tools/build_binary")
CODE_FOLDERS: Final = ("durable_raft", "tools", "tests", "benchmarks")

NOT_OURS: Final = frozenset({"entry.py", "entry_points.txt", "LICENSE.txt"})
"""Files that a build makes or finds in packages."""
NOT_MODULES: Final = frozenset({"durable_raft.commands"})
"""The group of entry points from which commands are mounted."""
NOT_FOLDERS: Final = frozenset({"kv/", "raft/", "dist/"})
"""What a node or a build makes; the first two are rooms as well."""

FILE: Final = re.compile(
    r"(?<![\w./*-])((?:\.?[\w-]+/)*[\w-]+\.(?:py|md|txt|toml|cfg|json|png|svg))(?![\w/-])(::?\w[\w.]*)?"
)
FOLDER: Final = re.compile(r"`((?:[\w.-]+/)+)`")
MODULE: Final = re.compile(r"(?<![\w./-])((?:durable_raft|raftlog|tests|benchmarks|server|storage|wire|cli)(?:\.\w+)+)")
MEMBER: Final = re.compile(r"`(?:\w+\.)*([A-Z]\w+)\.(\w+)(?:\(\))?`")
SECTION: Final = re.compile(r"\b(README|ARCHITECTURE|CONTRIBUTING|\w+\.md)(?:\.md)?,? \"([^\"]+)\"")
OWN_SECTION: Final = re.compile(r"\b[Ss]ee \"([^\"]+)\"")
LINK: Final = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
CONTRACT: Final = re.compile(r"\bcontracts? (\d+)(?:, (\d+))*(?: and (\d+))?")
NO_DOCUMENT: Final = re.compile(r"\bdesign(?:'s)? (?:contracts?|\"[^\"]*\"|§\d*)|\(design: [^)]*\)|\bdesign\.md\b")

Check: TypeAlias = Callable[[str, str], Iterator[str]]
"""``check(path, text)`` yields what a text refers to that is not there; the path is relative to the checkout."""


@functools.cache
def files() -> frozenset[str]:
    """Return the path of every file of the project, from the checkout on."""
    found = [path for place in PLACES for path in (ROOT / place).rglob("*") if "__pycache__" not in path.parts]
    found += [*ROOT.glob("*.md"), *(ROOT / name for name in SINGLE_FILES)]
    return frozenset(path.relative_to(ROOT).as_posix() for path in found if path.is_file())


@functools.cache
def folders() -> frozenset[str]:
    """Return the path of every folder that holds a file of the project."""
    return frozenset(parent.as_posix() + "/" for path in files() for parent in Path(path).parents)


def ending_in(name: str, names: frozenset[str]) -> list[str]:
    """Return those of ``names`` that are ``name``, or end in it behind a slash."""
    return [each for each in names if each == name or each.endswith(f"/{name}")]


@functools.cache
def defined(path: str) -> frozenset[str]:
    """Return the names that a module defines, also as ``Class.name``."""
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        names |= _names(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for inner in node.body for name in _names(inner)}
            names |= {name for inner in node.body for name in _names(inner)}
    return frozenset(names)


def _names(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.ImportFrom(names=names) | ast.Import(names=names):
            return {each.asname or each.name for each in names}
    return set()


# -- the checks -------------------------------------------------------------------------------------------------------


def missing_files(path: str, text: str) -> Iterator[str]:
    """A named file is there; a name that follows it behind one or two colons is defined in it."""
    for match in FILE.finditer(text):
        name, member = match[1], (match[2] or "").lstrip(":").rstrip(".")
        if name in NOT_OURS or (name.endswith((".json", ".toml")) and "/" not in name):
            continue
        beside = (Path(path).parent / name).as_posix()
        found = [beside] if beside in files() else ending_in(name, files())
        if not found:
            yield f"{path}: no file {name}"
        elif member and name.endswith(".py") and not any(member in defined(each) for each in found):
            yield f"{path}: {name} defines no {member}"


def missing_folders(path: str, text: str) -> Iterator[str]:
    """A folder in backquotes is there."""
    for name in FOLDER.findall(text):
        if name not in NOT_FOLDERS and not ending_in(name, folders()):
            yield f"{path}: no folder {name}"


def missing_modules(path: str, text: str) -> Iterator[str]:
    """A dotted name is that of a module, or of what a module defines."""
    for name in MODULE.findall(text):
        is_file = Path(name).suffix in (".py", ".md")
        if not is_file and name not in NOT_MODULES and not _is_defined(name.split(".")):
            yield f"{path}: no module or name {name}"


def _is_defined(parts: list[str]) -> bool:
    for cut in range(len(parts), 0, -1):
        name, rest = "/".join(parts[:cut]), ".".join(parts[cut:])
        modules = [each for each in ending_in(f"{name}.py", files()) if each.startswith(CODE_FOLDERS)]
        if modules:
            return not rest or any(rest in defined(each) for each in modules)
        if ending_in(f"{name}/", folders()):
            packages = ending_in(f"{name}/__init__.py", files())
            return not rest or any(rest in defined(each) for each in packages)
    return False


@functools.cache
def members() -> dict[str, frozenset[str]]:
    """Return what each class of the project has, by name: its own, its instances', and what their bases have."""
    known: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for path in files():
        if path.endswith(".py"):
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    known.setdefault(node.name, set()).update(_members(node))
                    bases.setdefault(node.name, set()).update(ast.unparse(each).split("[")[0] for each in node.bases)
    return {name: frozenset().union(*(known.get(each, set()) for each in (name, *bases[name]))) for name in known}


def _members(node: ast.ClassDef) -> set[str]:
    own = {name for inner in node.body for name in _names(inner)}
    return own | {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self"
    }


def missing_members(path: str, text: str) -> Iterator[str]:
    """A method or attribute in backquotes is one of its class, if the class is ours."""
    for name, member in MEMBER.findall(text):
        if name in members() and member not in members()[name]:
            yield f"{path}: {name} has no {member}"


def missing_sections(path: str, text: str) -> Iterator[str]:
    """A section of a document that is named in quotes is one of its headings; a link leads to a file and a heading."""
    for name, heading in SECTION.findall(text):
        named = ending_in(name if name.endswith(".md") else f"{name}.md", files())
        target = name if name.endswith(".md") and not named else next(iter(sorted(named, key=len)), None)
        if target is None or target not in files() or heading not in documents.headings(documents.text(ROOT / target)):
            yield f"{path}: {name} has no section {heading!r}"
    if path.endswith(".md"):
        own = documents.headings(text)
        yield from (
            f"{path}: no section {heading!r} here" for heading in OWN_SECTION.findall(text) if heading not in own
        )


def missing_links(path: str, text: str) -> Iterator[str]:
    """A link inside the project leads to a file, and to a heading when it names one."""
    if not path.endswith(".md"):
        return
    for target, anchor in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (ROOT / path).parent / target if target else ROOT / path
        if not file.exists():
            yield f"{path}: the link to {target} leads nowhere"
        elif anchor and anchor not in map(_anchor, documents.headings(documents.text(file))):
            yield f"{path}: {target or path} has no heading for #{anchor}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def missing_contracts(path: str, text: str) -> Iterator[str]:
    """A durability contract that is named by its number is in ARCHITECTURE.md's list."""
    listed = documents.section(documents.text(documents.ARCHITECTURE), "Durability contracts")
    known = re.findall(r"^(\d+)\. ", listed, re.MULTILINE)
    for match in CONTRACT.finditer(text):
        yield from (
            f"{path}: no durability contract {each}" for each in re.findall(r"\d+", match[0]) if each not in known
        )


def missing_design(path: str, text: str) -> Iterator[str]:
    """There is no design document in the repository; what was in it is in ARCHITECTURE.md."""
    yield from (f"{path}: {each}: ARCHITECTURE.md says it" for each in NO_DOCUMENT.findall(text))


CHECKS: Final[tuple[Check, ...]] = (
    missing_files,
    missing_folders,
    missing_modules,
    missing_members,
    missing_sections,
    missing_links,
    missing_contracts,
    missing_design,
)


# -- what is read -----------------------------------------------------------------------------------------------------


@functools.cache
def texts() -> tuple[tuple[str, str], ...]:
    """Return (path, what is read of it) for every file with words."""
    found = []
    for path in sorted(files()):
        if path.endswith(".py"):
            found.append((path, documents.words_of((ROOT / path).read_text(encoding="utf-8"))))
        elif path.endswith((".md", ".txt")) or path in SINGLE_FILES:
            found.append((path, (ROOT / path).read_text(encoding="utf-8")))
    return tuple(found)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_is_referred_to_is_there(check: Check) -> None:
    """No comment, docstring or document names something of the project that is gone."""
    found = [line for path, text in texts() for line in check(path, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (missing_files, "durable_raft/server/node.py", "as raft/elections.py says"),
        (missing_files, "ARCHITECTURE.md", "`raft/election.py:grant_everything`"),
        (missing_files, "ARCHITECTURE.md", "`tests/test_tidy.py::test_that_is_not_there`"),
        (missing_files, "README.md", "`tests/raft/scripts/figure_9.txt`"),
        (missing_folders, "ARCHITECTURE.md", "in `server/engine/`"),
        (missing_modules, "tests/README.md", "python -m tests.simulations"),
        (missing_modules, "tests/support/desk.py", "the real server.node.Knot"),
        (missing_members, "ARCHITECTURE.md", "`Node.process_everything` does"),
        (missing_members, "durable_raft/raft/core.py", "``Raft.no_door()``"),
        (missing_sections, "durable_raft/raft/core.py", 'ARCHITECTURE "Strings"'),
        (missing_sections, "durable_raft/raft/core.py", 'README.md "Slow start"'),
        (missing_sections, "ARCHITECTURE.md", '# A\n(see "B")'),
        (missing_links, "README.md", "[x](docs/nothing.md)"),
        (missing_links, "README.md", "[x](CONTRIBUTING.md#no-such-heading)"),
        (missing_contracts, "durable_raft/raft/core.py", "durability contracts 1 and 99"),
        (missing_design, "durable_raft/raft/core.py", "(design contract 6)"),
        (missing_design, "durable_raft/raft/core.py", "(design §5, §6)"),
        (missing_design, "durable_raft/raft/core.py", 'as in design "Time"'),
    ],
)
def test_planted_reference_is_found(check: Check, path: str, text: str) -> None:
    """Each check finds a reference to what is not there."""
    assert len(list(check(path, text))) == 1


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (
            missing_files,
            "durable_raft/server/node.py",
            "raft/election.py, election.py, core_timer.py, all.json, node.pyc",
        ),
        (missing_files, "ARCHITECTURE.md", "`tests/test_tidy.py::test_files_stay_short`, node.py:Node.wake"),
        (missing_folders, "ARCHITECTURE.md", "`raft/`, `server/state/`, `tests/raft/scripts/`, `kv.wounded/x`"),
        (missing_modules, "README.md", "python -m tests.simulation, durable_raft.server.node.Node, redis.cluster.X"),
        (missing_members, "README.md", "`Raft.ready`, `asyncio.Event.dream`, `Node.raft`, `CrashPoints.reach()`"),
        (missing_sections, "README.md", 'ARCHITECTURE.md "Dependencies", ARCHITECTURE "Threads"'),
        (missing_links, "README.md", "[a](ARCHITECTURE.md#the-way-of-a-write) [b](https://x.org/y)"),
        (missing_contracts, "README.md", "contract 6, contracts 1, 2 and 3"),
        (missing_design, "README.md", "the design of LMDB; designed"),
    ],
)
def test_references_to_what_is_there_are_not_reported(check: Check, path: str, text: str) -> None:
    """No check cries wolf."""
    assert list(check(path, text)) == []


def test_words_of_a_module_are_comments_and_docstrings() -> None:
    """A reference in a string that is no docstring is the program's own."""
    source = '"""One\n    two."""\nX = "three"  # four\n"""Five."""\ndef f():\n    """Six."""\n    return "seven"\n'
    assert documents.words_of(source).split() == ["#", "four", "One", "two.", "Five.", "Six."]
