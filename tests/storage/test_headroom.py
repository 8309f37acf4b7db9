"""Room that a data file owns behind its end: what is allocated stays, and nothing is begun without it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lmdb import Environment

from durable_raft.errors import DiskFull
from durable_raft.storage import headroom
from durable_raft.storage.environment import open_environment
from durable_raft.storage.headroom import Headroom
from durable_raft.storage.preflight import check_data_file
from tests.support.waiting import WAIT_S

MIB = 1 << 20


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    """An environment with something in it."""
    with open_environment(tmp_path, map_bytes=64 * MIB, create=True) as made:
        with made.begin(write=True) as transaction:
            transaction.put(b"a", b"1")
        yield made


def _full(_fd: int, _offset: int, _length: int) -> int:
    return errno.ENOSPC


def use(environment: Environment) -> None:
    """Write 2 MB into it."""
    with environment.begin(write=True) as transaction:
        for number in range(500):
            transaction.put(b"%d" % number, b"x" * 4000)


def wait_for(room: Headroom) -> None:
    """Wait for what is being allocated."""
    assert room._taking is not None
    room._taking.join(WAIT_S)


def test_what_is_kept_is_allocated_and_nothing_else_changes(tmp_path: Path, environment: Environment) -> None:
    """Blocks behind the end; the same size, bytes that LMDB and its check of the file know nothing of."""
    data = tmp_path / "data.mdb"
    before = data.read_bytes()
    room = Headroom(environment, tmp_path, 8 * MIB)
    assert room.is_kept
    assert room.owned_bytes == 8 * MIB
    assert data.stat().st_blocks * 512 >= 8 * MIB
    assert data.read_bytes() == before
    room.require(9 * MIB)
    assert room.owned_bytes >= 9 * MIB
    environment.close()
    room.close()
    room.close()
    check_data_file(tmp_path)


def test_a_full_disk_begins_nothing(tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owned can be used up; beyond that it is refused, until there is room."""
    room = Headroom(environment, tmp_path, MIB)
    with monkeypatch.context() as patch:
        patch.setattr(headroom, "_fallocate", _full)
        room.require(MIB)
        with pytest.raises(DiskFull, match="the disk is full"):
            room.require(MIB + 1)
        room.top_up(1 << 40)
        assert room.owned_bytes == MIB
    room.require(MIB + 1)
    environment.close()
    room.close()


def test_room_that_was_used_is_taken_back_when_there_is_plenty(tmp_path: Path, environment: Environment) -> None:
    """A piece at a time, and never the last of a disk."""
    room = Headroom(environment, tmp_path, 4 * MIB)
    use(environment)
    used = 4 * MIB - room.owned_bytes
    assert used > MIB
    room.top_up(4 * MIB)
    assert room._taking is None
    assert room.owned_bytes == 4 * MIB - used
    for _ in range(8):
        room.top_up(1 << 40)
        wait_for(room)
    assert room.owned_bytes == 4 * MIB
    environment.close()
    room.close()


def test_whoever_looks_at_the_room_does_not_wait_for_the_file_system(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy one allocates when its journal is written: looks go on meanwhile, and what is closed waits for it."""
    room = Headroom(environment, tmp_path, 4 * MIB)
    use(environment)
    before, allocate = room._allocated, headroom._fallocate
    began, may_end = threading.Event(), threading.Event()

    def slow(fd: int, offset: int, length: int) -> int:
        began.set()
        assert may_end.wait(WAIT_S)
        return allocate(fd, offset, length)

    monkeypatch.setattr(headroom, "_fallocate", slow)
    for _ in range(3):
        room.top_up(1 << 40)
    assert began.wait(WAIT_S)
    assert room._allocated == before
    may_end.set()
    environment.close()
    room.close()
    assert room._allocated > before


def test_an_error_of_the_disk_is_told_at_the_next_look(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It met the thread that allocates, which nobody asks."""
    room = Headroom(environment, tmp_path, 4 * MIB)
    use(environment)
    monkeypatch.setattr(headroom, "_fallocate", lambda *_: errno.EIO)
    room.top_up(1 << 40)
    wait_for(room)
    with pytest.raises(OSError, match="Input/output error"):
        room.top_up(1 << 40)
    environment.close()
    room.close()


def test_the_map_bounds_what_is_asked_for(tmp_path: Path, environment: Environment) -> None:
    """LMDB says itself when the map is full."""
    room = Headroom(environment, tmp_path, 1 << 30)
    room.require(1 << 40)
    assert room.owned_bytes < 64 * MIB
    environment.close()
    room.close()


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_promises_no_room_is_told_of(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Nothing is refused there, and nothing counts as owned."""
    monkeypatch.setattr(headroom, "_fallocate", lambda *_: error)
    room = Headroom(environment, tmp_path, MIB)
    room.require(1 << 40)
    assert (room.is_kept, room.owned_bytes) == (False, 0)
    environment.close()
    room.close()


def test_a_file_system_that_copies_on_write_keeps_nothing(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it allocates it uses for the first write only."""
    monkeypatch.setattr(headroom, "copies_on_write", lambda _: True)
    room = Headroom(environment, tmp_path, MIB)
    assert (room.is_kept, room.owned_bytes) == (False, 0)
    environment.close()
    room.close()


def test_an_error_of_another_kind_is_the_systems(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk is no full one."""
    monkeypatch.setattr(headroom, "_fallocate", lambda *_: errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        Headroom(environment, tmp_path, MIB)


def test_readers_stay_alive_for_other_processes(tmp_path: Path, environment: Environment) -> None:
    """Closing any descriptor of LMDB's lock file would give up the locks by which others see this process's readers."""
    program = (
        "import lmdb, sys; e = lmdb.open(sys.argv[1], max_dbs=8, max_readers=512); print(e.reader_check(), e.readers())"
    )
    with environment.begin() as transaction:
        assert transaction.get(b"a") == b"1"
        room = Headroom(environment, tmp_path, MIB)
        command = [sys.executable, "-c", program, str(tmp_path)]
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ.copy())
        assert found.stdout.startswith("0")
        assert f" {os.getpid()} " in found.stdout
    environment.close()
    room.close()


def test_the_list_of_free_pages_is_counted_where_all_may_be_free(tmp_path: Path, environment: Environment) -> None:
    """It grows with the file; the end of the file is asked for once, as this is done for each write."""
    room = Headroom(environment, tmp_path)
    end = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    asked = 0

    def counted() -> int:
        nonlocal asked
        asked += 1
        return 50 * MIB + end

    room._end = counted  # type: ignore[method-assign]
    room.require(MIB)
    assert (room._allocated, asked) == (51 * MIB + end, 1)
    room.require(MIB, may_free_all=True)
    assert (room._allocated, asked) == (51 * MIB + end + headroom.free_list_bytes(50 * MIB + end), 2)
    room.close()
