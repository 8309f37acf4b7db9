"""The contracts that tools check: who imports whom, lint, form, types; run with the tests, so that none is put off.

One test plants an import that a contract forbids, so that a contract that checks nothing would be noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
RUN_S: Final = 600.0
"""mypy without its cache takes half a minute on a slow machine."""


def run(*command: str, where: Path = ROOT) -> tuple[int, str]:
    """Run a tool from the environment that runs the tests; return its exit code and all it said."""
    scripts = Path(sysconfig.get_path("scripts"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(where), str(where / "tools"))), "COLUMNS": "200"}
    program = [sys.executable, *command[1:]] if command[0] == "python" else [str(scripts / command[0]), *command[1:]]
    done = subprocess.run(
        program, cwd=where, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_imports_keep_the_contracts() -> None:
    """Every import-linter contract of setup.cfg is kept."""
    code, said = run("lint-imports", "--no-cache")
    assert code == 0, said
    assert "0 broken" in said, said


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("durable_raft/raft/quorum.py", "import time", "do no I/O, read no clock"),
        ("durable_raft/kv/__init__.py", "import durable_raft.server", "Rooms depend downward only"),
        ("durable_raft/server/__init__.py", "import lmdb", "Only storage opens LMDB"),
    ],
)
def test_forbidden_import_breaks_a_contract(tmp_path: Path, file: str, line: str, contract: str) -> None:
    """An import planted against a contract in a copy of the packages is found, by that contract."""
    for package in ("durable_raft", "tools"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    code, said = run("lint-imports", "--no-cache", where=tmp_path)
    assert code == 1, said
    assert any(contract in each and "BROKEN" in each for each in said.splitlines()), said


def test_ruff_finds_nothing() -> None:
    """Ruff's rules hold in the whole checkout."""
    code, said = run("python", "-m", "ruff", "check", "--no-cache", ".")
    assert code == 0, said


def test_ruff_would_reformat_nothing() -> None:
    """Every file has the form that ``ruff format`` gives it."""
    code, said = run("python", "-m", "ruff", "format", "--no-cache", "--check", ".")
    assert code == 0, said


@pytest.mark.timeout(RUN_S)
def test_mypy_strict_finds_nothing() -> None:
    """Everything is typed, tests included, and the types hold."""
    code, said = run("python", "-m", "mypy")
    assert code == 0, said
