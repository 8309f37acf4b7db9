"""The house rules that no linter knows, checked on the syntax tree; each check is shown to find a planted breach."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PLACES: Final = ("durable_raft", "tools", "tests", "benchmarks", "docs")
PURE_ROOMS: Final = ("durable_raft/raft/", "durable_raft/kv/", "durable_raft/wire/")

FUNCTION_LINES_MAX: Final = 70
FILE_LINES_MAX: Final = 500

SINGLE_WRITERS: Final = {
    "current_term": ("durable_raft/raft/state.py",),
    "voted_for": ("durable_raft/raft/state.py",),
    "role": ("durable_raft/raft/state.py",),
    "commit_index": ("durable_raft/raft/state.py", "durable_raft/raft/log.py"),
}
"""What Figure 2 calls state may change in these files only: attribute -> the files that may assign it."""

FORBIDDEN_CALLS: Final = ("open", "print", "input", "breakpoint", "exec", "eval")
ORDER_MATTERS: Final = (
    "list",
    "tuple",
    "iter",
    "enumerate",
    "zip",
    "map",
    "filter",
    "reversed",
    "next",
    "join",
    "extend",
)
"""Calls that hand on the order of what they are given; ``sorted``, ``len``, ``min``, ``any`` do not."""

CLOCKS: Final = ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "getrusage")
"""Functions that tell how much time has passed, or how much the processor has worked."""

Check: TypeAlias = Callable[[str, ast.Module], Iterator[str]]
"""``check(path, tree)`` yields one line for each breach; the path is relative to the checkout."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[Function]:
    """Yield every function, methods and inner ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def function_length(path: str, tree: ast.Module) -> Iterator[str]:
    """A function fits on a screen."""
    for function in functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield f"{path}:{function.lineno}: {function.name} has {length} lines, more than {FUNCTION_LINES_MAX}"


def pure_calls(path: str, tree: ast.Module) -> Iterator[str]:
    """The core, the machine and the codecs call nothing that reads or writes the world."""
    if not path.startswith(PURE_ROOMS):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield f"{path}:{node.lineno}: {node.func.id}() in a room without I/O"


def single_writer(path: str, tree: ast.Module) -> Iterator[str]:
    """Term, vote, role and commit index are assigned in one place each, so that their rules are too."""
    if not path.startswith("durable_raft/"):
        return
    for node in ast.walk(tree):
        name = assigned_attribute(node)
        if name in SINGLE_WRITERS and path not in SINGLE_WRITERS[name]:
            line = getattr(node, "lineno", 0)
            yield f"{path}:{line}: {name} is assigned outside {' and '.join(SINGLE_WRITERS[name])}"


def assigned_attribute(node: ast.AST) -> str:
    """Return the name of the attribute that ``node`` assigns or deletes; empty when it does neither."""
    match node:
        case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()):
            return name
        case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[_, ast.Constant(value=str(name)), *_]):
            return name
        case ast.Call(func=ast.Attribute(attr="__setattr__"), args=[_, ast.Constant(value=str(name)), *_]):
            return name
    return ""


def set_order(path: str, tree: ast.Module) -> Iterator[str]:
    """Nothing in the pure rooms depends on the order of a set: it differs from process to process."""
    if not path.startswith(PURE_ROOMS):
        return
    names = set_names(tree)
    for node in ast.walk(tree):
        for expression in ordered_uses(node):
            if is_set(expression, names):
                yield f"{path}:{expression.lineno}: the order of a set is used: {ast.unparse(expression)}"


def ordered_uses(node: ast.AST) -> list[ast.expr]:
    """Return the expressions whose order ``node`` makes use of."""
    match node:
        case ast.For() | ast.AsyncFor() | ast.comprehension() | ast.YieldFrom():
            return [node.value if isinstance(node, ast.YieldFrom) else node.iter]
        case ast.Starred():
            return [node.value]
        case ast.Call(func=ast.Name(id=name)) if name in ORDER_MATTERS:
            return list(node.args)
        case ast.Call(func=ast.Attribute(attr=name)) if name in ORDER_MATTERS:
            return list(node.args)
        case ast.Call(func=ast.Attribute(attr="pop", value=value), args=[]):
            return [value]
    return []


def is_set(expression: ast.expr, names: frozenset[str]) -> bool:
    """Return whether an expression is certainly a set: by its form, or by what its name was declared to be."""
    match expression:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Call(func=ast.Attribute(attr="union" | "intersection" | "difference" | "symmetric_difference")):
            return True
        case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return is_set(left, names) or is_set(right, names)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in names
    return False


def set_names(tree: ast.Module) -> frozenset[str]:
    """Return the names and attributes that are declared as sets, or assigned one, anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation and declares_set(node.annotation):
            found.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and declares_set(node.annotation):
            found.update(target_name(node.target))
        elif isinstance(node, ast.Assign) and is_set(node.value, frozenset()):
            for target in node.targets:
                found.update(target_name(target))
    return frozenset(found)


def declares_set(annotation: ast.expr) -> bool:
    """Return whether an annotation is a set type."""
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    return name in ("set", "frozenset", "Set", "MutableSet", "AbstractSet")


def target_name(target: ast.expr) -> list[str]:
    """Return the plain name or attribute that is assigned to."""
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return [name]
    return []


def docstring_of_tests(path: str, tree: ast.Module) -> Iterator[str]:
    """A test says in one sentence what it expects."""
    if not path.startswith("tests/"):
        return
    for function in functions(tree):
        if function.name.startswith("test_") and not ast.get_docstring(function):
            yield f"{path}:{function.lineno}: {function.name} has no docstring"


def majority_elsewhere(path: str, tree: ast.Module) -> Iterator[str]:
    """How many of the voters are a majority is computed in raft/quorum.py only."""
    if path.startswith("tests/") or path == "durable_raft/raft/quorum.py":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.Compare) and is_majority(node):
            yield f"{path}:{node.lineno}: a majority is computed here: {ast.unparse(node)}"


def is_majority(node: ast.BinOp | ast.Compare) -> bool:
    """Return whether this is half of something and one more, or a comparison with half of a length."""
    match node:
        case ast.BinOp(ast.BinOp(_, ast.FloorDiv(), ast.Constant(value=2)), ast.Add(), ast.Constant(value=1)):
            return True
        case ast.Compare():
            return any(is_half(side) and "len(" in ast.unparse(side) for side in (node.left, *node.comparators))
    return False


def is_half(node: ast.AST) -> bool:
    """Return whether this is something divided by two, or something that is multiplied by two to be compared."""
    match node:
        case ast.BinOp(_, ast.FloorDiv() | ast.Div(), ast.Constant(value=2)):
            return True
        case ast.BinOp(_, ast.Mult(), ast.Constant(value=2)) | ast.BinOp(ast.Constant(value=2), ast.Mult(), _):
            return True
    return False


def asserted_time(path: str, tree: ast.Module) -> Iterator[str]:
    """No test asserts that something took less than a time: on a busy machine it takes more. Ratios, counts do."""
    if not path.startswith("tests/"):
        return
    for function in functions(tree):
        times = clock_names(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and any(is_time_bounded(each, times) for each in ast.walk(node.test)):
                yield f"{path}:{node.lineno}: a time is asserted: {ast.unparse(node.test)}"


def is_time_bounded(node: ast.AST, times: frozenset[str]) -> bool:
    """Return whether a comparison bounds a time from above: the time on the smaller side of it."""
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    smaller = [
        sides[place] if isinstance(operator, ast.Lt | ast.LtE) else sides[place + 1]
        for place, operator in enumerate(node.ops)
        if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    ]
    return any(tells_time(side, times) for side in smaller)


def clock_names(function: Function) -> frozenset[str]:
    """Return the names that hold what a clock said, differences and lists of it, in a function."""
    names: frozenset[str] = frozenset()
    for _ in range(2):
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=targets, value=value) if tells_time(value, names):
                    names |= {name for target in targets for name in target_name(target)}
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[value]):
                    names |= {name} if tells_time(value, names) else set()
    return names


def tells_time(expression: ast.AST, times: frozenset[str]) -> bool:
    """Return whether an expression is made of a clock's time; what is divided by a time is a ratio or a rate."""
    match expression:
        case ast.BinOp(op=ast.Div(), left=left, right=right):
            return tells_time(left, times) and not tells_time(right, times)
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in CLOCKS:
            return True
        case ast.Name(id=name):
            return name in times
    return any(tells_time(child, times) for child in ast.iter_child_nodes(expression))


CHECKS: Final[tuple[Check, ...]] = (
    function_length,
    pure_calls,
    single_writer,
    set_order,
    majority_elsewhere,
    docstring_of_tests,
    asserted_time,
)


@cache
def sources() -> list[tuple[str, str, ast.Module]]:
    """Return (path relative to the checkout, text, syntax tree) of every Python file of ours."""
    files = sorted(file for place in PLACES for file in (ROOT / place).rglob("*.py"))
    texts = [(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files]
    return [(path, text, ast.parse(text)) for path, text in texts]


def breaches(check: Check, path: str, text: str) -> list[str]:
    """Return what a check finds in one file."""
    return list(check(path, ast.parse(text)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_house_rule_holds_everywhere(check: Check) -> None:
    """No file breaches the rule."""
    found = [line for path, _, tree in sources() for line in check(path, tree)]
    assert not found, "\n".join(found)


def test_files_stay_short() -> None:
    """A file that grows over 500 lines holds more than one thing."""
    long = [(path, lines) for path, text, _ in sources() if (lines := text.count("\n")) > FILE_LINES_MAX]
    assert not long, f"at most {FILE_LINES_MAX} lines: {long}"


def test_sources_are_found() -> None:
    """The checks above looked at files: the algorithm and this file are among them."""
    paths = [path for path, _, _ in sources()]
    assert "durable_raft/raft/core.py" in paths
    assert "tests/test_tidy.py" in paths


RAFT: Final = "durable_raft/raft/election.py"


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (function_length, RAFT, "def f():\n" + "    x = 1\n" * 70),
        (function_length, RAFT, "class A:\n    async def f(self):\n" + "        x = 1\n" * 70),
        (pure_calls, RAFT, "open('x')"),
        (pure_calls, "durable_raft/kv/machine.py", "def f():\n    print(1)"),
        (pure_calls, "durable_raft/wire/resp.py", "x = [input() for _ in range(3)]"),
        (single_writer, RAFT, "state.current_term = 5"),
        (single_writer, RAFT, "state.current_term += 1"),
        (single_writer, RAFT, "state.voted_for: str = 'n1'"),
        (single_writer, RAFT, "a, self.x.role = 1, 2"),
        (single_writer, RAFT, "for log.commit_index in x: pass"),
        (single_writer, RAFT, "setattr(state, 'voted_for', None)"),
        (single_writer, RAFT, "object.__setattr__(state, 'role', None)"),
        (single_writer, "durable_raft/server/node.py", "del self.raft.commit_index"),
        (set_order, RAFT, "for x in {1, 2}: pass"),
        (set_order, RAFT, "y = [x for x in set(z)]"),
        (set_order, RAFT, "y = list({x for x in z})"),
        (set_order, RAFT, "y = ','.join(set(z) | other)"),
        (set_order, RAFT, "y = [*frozenset(z)]"),
        (set_order, RAFT, "y = next(iter(set(z)))"),
        (set_order, RAFT, "def f(names: set[str]):\n    for x in names: pass"),
        (set_order, RAFT, "self.votes: set[str] = g()\ny = tuple(self.votes)"),
        (set_order, RAFT, "votes = set()\nyes = votes.pop()"),
        (set_order, RAFT, "def f(x):\n    yield from set(x)"),
        (majority_elsewhere, "tools/raftlog/x.py", "quorum = len(voters) // 2 + 1"),
        (majority_elsewhere, RAFT, "if len(granted) > len(state.config.voters) // 2: pass"),
        (majority_elsewhere, "durable_raft/server/x.py", "while 2 * len(agree) > count: pass"),
        (docstring_of_tests, "tests/test_x.py", "def test_a():\n    assert True"),
        (docstring_of_tests, "tests/a/test_x.py", "class TestA:\n    def test_a(self): pass"),
        (
            asserted_time,
            "tests/x.py",
            "def f():\n    began = time.monotonic()\n    assert time.monotonic() - began < 3",
        ),
        (asserted_time, "tests/x.py", "def f():\n    took = process_time() - began\n    assert 5 >= took, 'slow'"),
        (asserted_time, "tests/x.py", "def f():\n    x.append(perf_counter())\n    assert min(x) < LIMIT_S"),
        (
            asserted_time,
            "tests/x.py",
            "def f():\n    a = getrusage(WHO)\n    b = a.ru_utime - c\n    assert b <= 1 and d",
        ),
    ],
)
def test_planted_breach_is_found(check: Check, path: str, text: str) -> None:
    """Each check finds each form of the breach it is there for."""
    assert len(breaches(check, path, text)) == 1


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (function_length, RAFT, "def f():\n" + "    x = 1\n" * 69),
        (pure_calls, "durable_raft/server/x.py", "open('x')"),
        (pure_calls, RAFT, "self.print(1)"),
        (single_writer, "durable_raft/raft/state.py", "self.current_term = 5"),
        (single_writer, "durable_raft/raft/log.py", "self.commit_index = 5"),
        (single_writer, RAFT, "x = state.current_term\nf(role=1)\nrole = 3"),
        (single_writer, "tests/raft/test_x.py", "state.role = 1"),
        (set_order, RAFT, "for x in sorted({1, 2}): pass"),
        (set_order, RAFT, "x = len(set(y)) + sum(1 for a in b)\nz = x - y"),
        (set_order, RAFT, "for x in {1: 2}: pass"),
        (set_order, RAFT, "x.pop()\ny = tuple(x)"),
        (set_order, "durable_raft/server/x.py", "for x in {1, 2}: pass"),
        (majority_elsewhere, "durable_raft/raft/quorum.py", "x = voters // 2 + 1"),
        (majority_elsewhere, RAFT, "x = name[: len(name) // 2]\nif a < OWED_MAX // 2 or 2 * len(b) + 9 < c: pass"),
        (docstring_of_tests, "tests/test_x.py", "def test_a():\n    'It holds.'\ndef helper(): pass"),
        (asserted_time, "tests/x.py", "def f():\n    began = monotonic()\n    assert monotonic() - began >= 0.6"),
        (
            asserted_time,
            "tests/x.py",
            "def f():\n    a = process_time()\n    b = process_time()\n    assert b / a < 30",
        ),
        (asserted_time, "benchmarks/x.py", "def f():\n    assert perf_counter() < 3"),
    ],
)
def test_what_is_allowed_is_not_reported(check: Check, path: str, text: str) -> None:
    """No check cries wolf over what looks like a breach and is none."""
    assert breaches(check, path, text) == []
