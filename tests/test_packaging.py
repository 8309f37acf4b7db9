"""What users get: two importable packages, the commands, and nothing that could clash with somebody else's names."""

from __future__ import annotations

import fnmatch
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
TOP_LEVEL: Final = {"durable_raft", "raftlog"}
BUILD_S: Final = 300.0


def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages() -> list[str]:
    """Return the packages that the configured places and patterns stand for."""
    find = project()["tool"]["setuptools"]["packages"]["find"]
    found = []
    for place in find["where"]:
        base = ROOT / place
        inits = [init.parent.relative_to(base).parts for init in base.rglob("__init__.py")]
        names = [".".join(parts) for parts in inits if not any(part.startswith(".") for part in parts)]
        found += [name for name in names if any(fnmatch.fnmatchcase(name, each) for each in find["include"])]
    return found


def test_only_our_two_names_are_installed() -> None:
    """The package search finds durable_raft and raftlog, with every room, and no ``tools`` or ``tests``."""
    found = packages()
    assert {name.partition(".")[0] for name in found} == TOP_LEVEL
    assert {f"durable_raft.{room}" for room in ("raft", "kv", "storage", "wire", "server", "cli")} <= set(found)


def test_every_package_has_an_init_file() -> None:
    """A folder of modules without __init__.py would be left out of the wheel without a word."""
    folders = {file.parent for top in ("durable_raft", "tools/raftlog") for file in (ROOT / top).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_entry_points_name_what_exists() -> None:
    """Every script and plug-in of pyproject.toml can be loaded and is a command."""
    metadata = project()["project"]
    targets = [*metadata["scripts"].values(), *metadata["entry-points"]["durable_raft.commands"].values()]
    for target in targets:
        module, _, name = target.partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), click.Command), target


def test_imports_are_declared_dependencies() -> None:
    """What pyproject.toml asks for at run time is what the code imports by those names."""
    declared = {each.split(">")[0].split("<")[0].replace("-", "_") for each in project()["project"]["dependencies"]}
    assert declared == {
        "click",
        "crcmod",
        "cryptography",
        "google_crc32c",
        "hiredis",
        "lmdb",
        "msgpack",
        "sortedcontainers",
        "uvloop",
    }


@pytest.mark.timeout(BUILD_S)
def test_wheel_holds_only_our_two_names(tmp_path: Path) -> None:
    """A wheel built from the tracked files has durable_raft and raftlog at its top, the type marker, and no tests."""
    source = tmp_path / "source"
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode != 0:
        pytest.skip(f"not a git checkout: {files.stderr.strip()}")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    if find_spec("setuptools") and find_spec("wheel"):
        command.append("--no-build-isolation")
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_S, check=False, env=os.environ | {"PIP_RETRIES": "1"}
    )
    if "Could not find a version that satisfies the requirement setuptools" in built.stderr:
        pytest.skip("no package index to take setuptools from, and no setuptools and wheel installed")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == TOP_LEVEL
    assert "durable_raft/py.typed" in names
    assert "durable_raft/raft/core.py" in names
