"""The program that was released before this one, as git has it: for clusters of two programs, and what it wrote.

It is not kept beside the tests: its tag says what it was. The tree is used as it is; a wheel of it has the same files.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]

VERSION: Final = "0.1.0"
"""Of the release before this one."""

PARTS: Final = ("durable_raft", "tools")


def previous_program(directory: Path) -> Path:
    """Unpack the program into ``directory`` and return that; skip the test where git does not have it.

    It is what the tag of its version names. That of 0.1.0 was never made: then it is the last commit of that version.
    """
    if shutil.which("git") is None:
        pytest.skip("git is not installed: the previous program cannot be had")
    archive = _git("archive", "--format=tar", _reference(), *PARTS)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(directory, filter="data")
    said = (directory / "durable_raft" / "__init__.py").read_text()
    assert f'"{VERSION}"' in said, f"expected the program {VERSION}, found {said!r}"
    return directory


def _reference() -> str:
    tag = f"v{VERSION}"
    if _git("tag", "--list", tag).strip():
        return tag
    changes = _git("log", "--format=%H", f'-S__version__ = "{VERSION}"', "--", "durable_raft/__init__.py").split()
    if len(changes) < 2:
        pytest.skip(f"git has neither the tag {tag} nor the last commit of {VERSION} here: the history is cut short")
    return f"{changes[0].decode()}^"


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout
    except subprocess.CalledProcessError as error:
        pytest.skip(f"git {words[0]} does not work here: {error.stderr.decode(errors='replace').strip()[-200:]}")
