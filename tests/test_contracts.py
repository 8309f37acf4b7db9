"""The contracts that tools check: who imports whom, lint, form, types; run with the tests, so that none is put off.

Imports that the contracts forbid are planted, so that a contract that checks nothing is noticed.
"""

from __future__ import annotations

import configparser
import os
import re
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


BREACHES: Final = {
    "Rooms depend downward only": ("durable_raft/kv/glob.py", "durable_raft.server.clients"),
    "The Raft core, the machine and the codecs": ("durable_raft/raft/quorum.py", "time"),
    "Inside the raft room": ("durable_raft/raft/progress.py", "durable_raft.raft.core"),
    "Inside the storage room": ("durable_raft/storage/directory.py", "durable_raft.storage.log.meta"),
    "Inside the server room": ("durable_raft/server/pending.py", "durable_raft.server.dispatch"),
    "Commands of the connection": ("durable_raft/server/commands/info.py", "threading"),
    "No circles of imports": ("durable_raft/kv/numbers.py", "durable_raft.kv.machine"),
    "Only storage opens LMDB": ("durable_raft/server/report.py", "lmdb"),
    "Only checksum.py imports": ("durable_raft/wire/resp_replies.py", "crcmod"),
    "The raft room is entered": ("durable_raft/server/latency.py", "durable_raft.raft.state"),
    "Tools read storage": ("tools/raftlog/lanes.py", "durable_raft.wire.peer"),
}
"""For each contract an import that breaks it: the file and what it imports, for type checking only."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what lint-imports says of a copy of the packages in which every contract is broken."""
    where = tmp_path_factory.mktemp("planted")
    for package in ("durable_raft", "tools"):
        shutil.copytree(ROOT / package, where / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", where)
    for file, imported in BREACHES.values():
        with (where / file).open("a", encoding="utf-8") as source:
            source.write(f"\nif TYPE_CHECKING:\n    import {imported}\n")
    code, said = run("lint-imports", "--no-cache", where=where)
    assert code == 1, said
    return said


@pytest.mark.parametrize("contract", BREACHES)
def test_forbidden_import_breaks_its_contract(planted: str, contract: str) -> None:
    """An import planted against a contract is told of under that contract, also where it is for type checking only."""
    file, imported = BREACHES[contract]
    importer = file.removesuffix(".py").removeprefix("tools/").replace("/", ".")
    sections = re.split(r"\n(?=[^\n]+\n-{5,}\n)", planted.partition("Broken contracts")[2])
    section = next((each for each in sections if each.lstrip().startswith(contract)), "")
    assert importer.rpartition(".")[2] in section, section or planted
    assert imported.rpartition(".")[2] in section, section or planted


def test_every_contract_has_a_planted_breach() -> None:
    """No contract of setup.cfg is without an import that is known to break it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    names = [setup[each]["name"] for each in setup.sections() if each.startswith("importlinter:contract:")]
    assert [name for name in names if not any(name.startswith(each) for each in BREACHES)] == []
    assert len(names) == len(BREACHES)


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
