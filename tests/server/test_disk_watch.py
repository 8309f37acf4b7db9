"""Readers of other processes in a node's directory: the dead are forgotten, and those that stand still are named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from durable_raft.server import disk_watch
from durable_raft.storage.environment import Room
from durable_raft.storage.log import journal
from tests.support.forked_nodes import ForkedNodes

pytestmark = pytest.mark.cluster

FS_NOCOW_FL: Final = 0x00800000
FS_NODUMP_FL: Final = 0x00000040
"""Of linux/fs.h."""
READER: Final = """
import sys, time
import lmdb
environment = lmdb.open(sys.argv[1], readonly=True, max_dbs=8, max_readers=512, map_size=1 << 30)
transaction = environment.begin()
print("reads", flush=True)
time.sleep(1000)
"""


@pytest.fixture(params=["lmdb", "journal"])
def one(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkedNodes]:
    """A cluster of one that looks at its readers at every look at its disk."""
    monkeypatch.setattr(disk_watch, "READERS_S", 0.0)
    monkeypatch.setattr(disk_watch, "STANDING_WRITES", 20)
    monkeypatch.setattr(disk_watch, "STANDING_MOVES", 3)
    made = ForkedNodes(1, tmp_path / "nodes", log_commit=request.param)
    made.start()
    made.leader()
    yield made
    made.close()


@contextmanager
def _reading(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Have a process that begins to read the log, and gets no further."""
    command = [sys.executable, "-c", READER, str(directory / "raft")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reads\n"
        try:
            yield process
        finally:
            process.kill()


def _write(one: ForkedNodes, count: int) -> None:
    with one.client(one.leader()) as client:
        for number in range(count):
            client.call("SET", f"key:{number % 10}", "x")


def test_a_reader_that_stands_still_is_named(one: ForkedNodes) -> None:
    """A tool that was stopped in the middle of a read keeps pages from being used again; the log says whose fault."""
    with _reading(one.directory("n1")) as process:
        os.kill(process.pid, signal.SIGSTOP)

        def is_named() -> bool:
            # With a journal a transaction comes when a write is followed by a pause.
            _write(one, 1)
            return f"event=reader_stands_still pid={process.pid}" in one.log("n1")

        one.wait(is_named, "the reader to be named")
    one.stop()


def test_a_reader_that_was_killed_is_forgotten(one: ForkedNodes) -> None:
    """Its place in LMDB's table would keep pages for as long as the node runs."""
    with _reading(one.directory("n1")) as process:
        process.kill()
        process.wait()
        _write(one, 40)
    one.wait(lambda: str(process.pid) not in _readers(one.directory("n1")), "the dead reader to be forgotten")
    assert f"pid={process.pid}" not in one.log("n1")
    one.stop()


def _readers(directory: Path) -> str:
    """Return LMDB's list of readers, as another process sees it without looking for dead ones."""
    program = "import lmdb, sys; print(lmdb.open(sys.argv[1], readonly=True, max_readers=512).readers())"
    command = [sys.executable, "-c", program, str(directory / "raft")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("copies", "flags", "is_said"), [(True, 0, True), (True, FS_NOCOW_FL, False), (False, 0, False)]
)
def test_a_journal_that_is_copied_on_write_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, copies: bool, flags: int, is_said: bool
) -> None:
    """At each start, where the file system copies on write and did not leave that off for this file."""
    monkeypatch.setattr(journal, "copies_on_write", lambda _: copies)
    monkeypatch.setattr(journal, "_flags_of", lambda _: flags)
    one = ForkedNodes(1, tmp_path / "nodes", log_commit="journal")
    for number in (1, 2):
        one.start()
        one.leader()
        one.stop()
        assert one.log("n1").count("event=journal_copied_on_write") == is_said * number
    one.start(log_commit="lmdb")
    one.leader()
    one.stop()
    assert one.log("n1").count("event=journal_copied_on_write") == is_said * 2
    one.close()


def test_flags_of_a_file_are_asked_of_the_system(tmp_path: Path) -> None:
    """None where the file system has none; else those that ``chattr`` sets."""
    path = tmp_path / "file"
    with path.open("w") as file:
        before = journal._flags_of(file.fileno())
        if subprocess.run(["chattr", "+d", str(path)], capture_output=True, check=False).returncode:
            pytest.skip("the file system keeps no flags")
        assert journal._flags_of(file.fileno()) == before | FS_NODUMP_FL
    with Path("/proc/self/mountinfo").open() as pipe:
        assert journal._flags_of(pipe.fileno()) == 0


@pytest.mark.parametrize(
    ("used_mib", "grown_mib", "is_too_much"),
    [(10, 256, False), (10, 257, True), (1000, 1000, False), (1000, 1001, True)],
)
def test_a_file_may_grow_by_as_much_as_is_in_use(used_mib: int, grown_mib: int, is_too_much: bool) -> None:
    """Under one reader; a quarter of a gigabyte in any case."""
    mib = 1 << 20
    room = Room(used_mib * mib, (2000 + grown_mib) * mib, 1 << 40, 1 << 40)
    assert room.has_grown(2000 * mib) is is_too_much
