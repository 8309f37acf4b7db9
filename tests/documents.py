"""Reads the documents: shell blocks, which tests and CI run as they stand, headings, sentences; and words in code."""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

README: Final = ROOT / "README.md"
ARCHITECTURE: Final = ROOT / "ARCHITECTURE.md"

_BLOCK: Final = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MADE_TABLE: Final = re.compile(r"<!-- table: \w+ -->.*?<!-- end of table -->", re.DOTALL)
_SHELL: Final = ("sh", "bash", "shell", "console")
_SENTENCE_END: Final = re.compile(r"(?<=[.?!])[)*\"”]*\s+(?=[A-Z`*\"(\[])")
_ITEM: Final = re.compile(r"(?:[-*]|\d+\.) (.*)")


def documents() -> list[Path]:
    """Return every document of the project, CHANGELOG.md included."""
    folders = ("docs", "benchmarks", "tests")
    return sorted([*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))])


def text(path: Path = README) -> str:
    """Return what a document says."""
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    """Return the path of a document from the checkout on."""
    return path.relative_to(ROOT).as_posix()


def section(markdown: str, heading: str) -> str:
    """Return what stands under a heading of the second level, up to the next; empty when there is none."""
    _, _, rest = f"\n{markdown}".partition(f"\n## {heading}\n")
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def headings(markdown: str) -> list[str]:
    """Return the headings of every level, and the bold words that open a paragraph."""
    prose = _BLOCK.sub("", markdown)
    found = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return found + [each.rstrip(".:") for each in re.findall(r"^\*\*([^*\n]+)\*\*", prose, re.MULTILINE)]


def quick_start() -> list[str]:
    """Return the ``sh`` blocks under "## Quick start" of README.md, in order."""
    return [body for language, body in _BLOCK.findall(section(text(), "Quick start")) if language == "sh"]


def shell_blocks(markdown: str) -> list[str]:
    """Return the blocks that are meant for a shell."""
    return [body for language, body in _BLOCK.findall(markdown) if language in _SHELL]


def inline_code(markdown: str) -> list[str]:
    """Return what stands in backquotes outside the blocks."""
    return re.findall(r"`([^`\n]+)`", _BLOCK.sub("", markdown))


def invocations(program: str, code: Iterable[str]) -> list[list[str]]:
    """Return the arguments of every call of ``program`` in pieces of shell code.

    A call ends at ``&``, ``;``, ``|``, ``#`` or the end of its line; a line that ends in a backslash goes on.
    """
    pattern = re.compile(rf"(?<![\w/.-])(?:[\w./-]*/)?{re.escape(program)}(?= |$)([^&;|#\n]*)", re.MULTILINE)
    return [_split(match[1]) for each in code for match in pattern.finditer(each.replace("\\\n", " "))]


def _split(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        # A quote that opens before the call and closes after it.
        return arguments.replace('"', " ").replace("'", " ").split()


def sentences(markdown: str) -> list[str]:
    """Return the sentences of the prose: no code block, table, heading or picture; an item of a list ends with itself.

    A colon and a semicolon do not end a sentence, so that a long one cannot be hidden behind them.
    """
    found: list[str] = []
    for paragraph in _paragraphs(_MADE_TABLE.sub("", _BLOCK.sub("", markdown))):
        plain = re.sub(r"\]\([^)]*\)", "]", paragraph)
        found += [each for each in _SENTENCE_END.split(plain) if each.strip()]
    return found


def _paragraphs(markdown: str) -> list[str]:
    paragraphs, lines = [], list[str]()
    for line in [*markdown.split("\n"), ""]:
        stripped = line.strip()
        item = _ITEM.match(stripped)
        if not stripped or stripped.startswith(("#", "|", "![", "<")) or item:
            paragraphs.append(" ".join(lines))
            lines = [item[1]] if item else []
        else:
            lines.append(stripped)
    return [*paragraphs, " ".join(lines)]


def words_of(source: str) -> str:
    """Return the comments and docstrings of a module, those of attributes included, each joined to one line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token.string for token in tokens if token.type == tokenize.COMMENT]
    statements = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    constants = (each.value for each in statements if isinstance(each, ast.Constant))
    found += [re.sub(r"\n\s*", " ", each) for each in constants if isinstance(each, str)]
    return "\n".join(found)
