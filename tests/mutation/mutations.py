"""The mutants of a source file: each is one small change of its text, such as a careless engineer makes.

Left alone are words for people (strings, docstrings, what an exception or an event says), annotations, decorators,
``__slots__``, ``TYPE_CHECKING`` imports and protocols: none of them decides anything.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
"""Operator -> how it is written, and what takes its place: the bound moved by one, and the side turned round."""

ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "+"),
    ast.FloorDiv: ("//", "*"),
    ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
    ast.BitXor: (r"\^", "&"),
}

OPPOSITES: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
"""Calls that are easily taken for each other."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one file. ``start`` and ``end`` are byte offsets; no change moves a later line."""

    path: str
    """Relative to the checkout."""
    function: str
    """Qualified name of the innermost function or class around it; empty at the level of the module."""
    lines: tuple[int, int]
    """First and last line of the innermost statement around it, counted from 1; without the body of a compound one."""
    kind: str
    start: int
    end: int
    text: str
    before: str
    """The changed line as it was, its white space joined."""
    after: str
    number: int = 1
    """Counts those of one function that change equal lines in the same way."""

    def apply(self, source: bytes) -> bytes:
        """Return the mutated source."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    @property
    def name(self) -> str:
        """What it is known by, whatever lines are added before it."""
        return f"{self.path} {self._words()}"

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]} {self._words()}"

    def _words(self) -> str:
        number = f" ({self.number})" if self.number > 1 else ""
        return f"{self.function}: {self.before} => {self.after}{number}"


def mutations(path: str, source: bytes) -> list[Mutation]:
    """Return every mutant of a file, in the order of its text; see ``is_another`` for those that are none."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    found = {(each.start, each.end, each.text): each for each in finder.found}
    seen: Counter[str] = Counter()
    numbered = []
    for _, each in sorted(found.items()):
        seen[each.name] += 1
        numbered.append(replace(each, number=seen[each.name]))
    return numbered


def is_another(mutation: Mutation, source: bytes) -> bool:
    """Return whether a mutant is a program, and another one than ``source``."""
    unmutated = compile(source, mutation.path, "exec", dont_inherit=True)
    try:
        return compile(mutation.apply(source), mutation.path, "exec", dont_inherit=True) != unmutated
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Walks a syntax tree and notes the changes."""

    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutation] = []
        self._path = path
        self._source = source
        self._offsets = [0]
        for line in source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))
        self._names: list[str] = []
        self._functions: list[bool] = []
        self._lines = (1, 1)

    # -- places -------------------------------------------------------------------------------------------------------

    def _span(self, node: ast.AST) -> tuple[int, int]:
        first, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        last, end_column = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return self._offsets[first - 1] + column, self._offsets[last - 1] + end_column

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _change(self, kind: str, start: int, end: int, text: str) -> None:
        old = self._source[start:end].decode()
        text += "\n" * (old.count("\n") - text.count("\n"))
        lines = self._source.rfind(b"\n", 0, start) + 1, self._source.find(b"\n", end)
        head, tail = self._source[lines[0] : start].decode(), self._source[end : lines[1]].decode()
        before, after = (" ".join(f"{head}{middle}{tail}".split()) for middle in (old, text))
        function = ".".join(self._names)
        self.found.append(Mutation(self._path, function, self._lines, kind, start, end, text, before, after))

    def _replace(self, kind: str, node: ast.AST, text: str) -> None:
        self._change(kind, *self._span(node), text)

    def _between(self, kind: str, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replace the operator between two operands, wherever comments and brackets lie there."""
        start, end = self._span(left)[1], self._span(right)[0]
        match = re.search(rf"(?<![\w<>=!*/]){old}(?![<>=*/])", self._source[start:end].decode())
        if match is not None:
            self._change(kind, start + match.start(), start + match.end(), new)

    # -- what is left alone -------------------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        """Visit a node, keeping track of the statement it belongs to."""
        lines = self._lines
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            self._lines = (node.lineno, max(node.lineno, last))
        super().visit(node)
        self._lines = lines

    def generic_visit(self, node: ast.AST) -> None:
        """Visit what a node consists of, annotations and decorators excepted."""
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns", "decorator_list", "type_params", "ctx"):
                for each in value if isinstance(value, list) else [value]:
                    if isinstance(each, ast.AST):
                        self.visit(each)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Enter a class, unless it only describes."""
        if not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            self._enter(node, is_function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Enter a function."""
        self._enter(node, is_function=True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Enter a function."""
        self._enter(node, is_function=True)

    def _enter(self, node: ast.ClassDef | Function, *, is_function: bool) -> None:
        self._names.append(node.name)
        self._functions.append(is_function)
        self.generic_visit(node)
        self._functions.pop()
        self._names.pop()

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave words for people alone."""

    def visit_If(self, node: ast.If) -> None:
        """Turn a condition round; leave imports for type checking alone."""
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self._condition(node.test)
            self.generic_visit(node)

    # -- conditions ---------------------------------------------------------------------------------------------------

    def _condition(self, node: ast.expr) -> None:
        if isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.NamedExpr)):
            self._replace("condition", node, f"not {self._text(node)}")

    def visit_While(self, node: ast.While) -> None:
        """Turn a condition round."""
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Turn a condition round."""
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Turn each condition round."""
        for each in node.ifs:
            self._condition(each)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Put ``and`` for ``or`` and back, between every two operands; turn each operand round."""
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between("and/or", left, right, rf"\b{old}\b", new)
        for each in node.values:
            self._condition(each)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop ``not``."""
        if isinstance(node.op, ast.Not):
            self._replace("condition", node, f"bool({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Move and turn each bound."""
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            old, others = COMPARISONS[type(operator)]
            for new in others:
                self._between("comparison", left, right, old, new)
        self.generic_visit(node)

    # -- values -------------------------------------------------------------------------------------------------------

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Put another operator; not where words are joined or formatted, nor between types."""
        is_of_types = isinstance(node.op, ast.BitOr) and not any(self._functions)
        if type(node.op) in ARITHMETIC and not is_of_types and not (_is_text(node.left) or _is_text(node.right)):
            self._between("arithmetic", node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Add or take one; turn a truth round; spoil bytes."""
        value = node.value
        if isinstance(value, bool):
            self._replace("constant", node, str(not value))
        elif isinstance(value, int):
            self._replace("constant", node, str(value + 1))
            if value:
                self._replace("constant", node, str(value - 1))
        elif isinstance(value, bytes):
            self._replace("constant", node, repr(value + b"?"))

    def visit_Call(self, node: ast.Call) -> None:
        """Put ``min`` for ``max``, ``any`` for ``all``, and back."""
        if isinstance(node.func, ast.Name) and node.func.id in OPPOSITES:
            self._replace("call", node.func, OPPOSITES[node.func.id])
        self.generic_visit(node)

    # -- statements ---------------------------------------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call; leave docstrings alone."""
        if isinstance(node.value, ast.Constant):
            return
        self._drop(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Drop what changes something that outlives the function; elsewhere a name would only be missing."""
        if any(isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets):
            return
        if any(isinstance(part, (ast.Attribute, ast.Subscript)) for target in node.targets for part in _parts(target)):
            self._drop(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Drop it, and put another operator."""
        self._drop(node)
        if type(node.op) in ARITHMETIC and not _is_text(node.value):
            old, new = ARITHMETIC[type(node.op)]
            start, end = self._span(node.target)[1], self._span(node.value)[0]
            match = re.search(rf"{old}=", self._source[start:end].decode())
            if match is not None:
                self._change("arithmetic", start + match.start(), start + match.end(), f"{new}=")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Drop a refusal; leave what it says alone."""
        self._drop(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        """Drop it; not of a mere name, which tells the linter that a parameter is not used."""
        if not all(isinstance(target, ast.Name) for target in node.targets):
            self._drop(node)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        """Drop a return without a value: what follows is done after all."""
        if node.value is None:
            self._drop(node)
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        """Go on instead."""
        self._replace("statement", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        """Stop instead."""
        self._replace("statement", node, "break")

    def _drop(self, node: ast.stmt) -> None:
        self._replace("statement", node, "pass")


def _parts(target: ast.expr) -> Iterator[ast.expr]:
    """Yield what an assignment assigns to."""
    if isinstance(target, (ast.Tuple, ast.List)):
        for each in target.elts:
            yield from _parts(each)
    else:
        yield target


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))
