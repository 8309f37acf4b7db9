"""Reads the fenced code blocks of README.md, which tests and CI run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_BLOCK: Final = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL: Final = ("sh", "bash", "shell", "console")


def text() -> str:
    """Return README.md."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def quick_start() -> list[str]:
    """Return the ``sh`` blocks under "## Quick start", in order."""
    _, _, rest = text().partition("\n## Quick start\n")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return [body for language, body in _BLOCK.findall(section) if language == "sh"]


def invocations(program: str, markdown: str) -> list[list[str]]:
    """Return the arguments of every call of ``program`` in the shell blocks and inline code of a text.

    A call ends at ``&``, ``;``, ``|``, ``#`` or the end of its line; a line that ends in a backslash goes on.
    """
    blocks = _BLOCK.findall(markdown)
    code = [body for language, body in blocks if language in _SHELL]
    code += re.findall(r"`([^`\n]+)`", _BLOCK.sub("", markdown))
    pattern = re.compile(rf"(?<![\w/.-])(?:[\w./-]*/)?{re.escape(program)}(?= |$)([^&;|#\n]*)", re.MULTILINE)
    return [_split(match[1]) for each in code for match in pattern.finditer(each.replace("\\\n", " "))]


def _split(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        # A quote that opens before the call and closes after it.
        return arguments.replace('"', " ").replace("'", " ").split()
