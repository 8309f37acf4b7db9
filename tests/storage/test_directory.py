"""The data directory: who holds it, what is moved aside in it, and how its environments are opened."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import lmdb
import pytest

from durable_raft.errors import CorruptRecord, DirectoryRefused, StoragePoisoned
from durable_raft.raft.types import Identity, Member, Membership, NodeId
from durable_raft.storage.directory import (
    DirectoryLock,
    create_environment,
    refuse_network_file_system,
    running_node,
    set_directory_aside,
    unused_name,
)
from durable_raft.storage.environment import MAP_BYTES, open_environment, open_handles
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.reader import structure_problems
from tests.support.state_building import lose_root
from tests.tools.directories import whole


def test_everything_that_cannot_be_believed_is_moved_aside_together(tmp_path: Path) -> None:
    """Log, state and what was on its way; the lock, the flight record and what was set aside before stay."""
    moved = {"raft", "kv", "kv.partial", "kv.new", "raft.creating"}
    kept = {"LOCK", "flight", "wounded-before", "kvetch"}
    for name in moved | kept:
        (tmp_path / name).mkdir()
    target = set_directory_aside(tmp_path, "wounded")
    assert {path.name for path in target.iterdir()} == moved
    assert {path.name for path in tmp_path.iterdir()} == kept | {target.name}
    assert target.name.startswith("wounded-2")


def test_a_name_is_not_used_twice(tmp_path: Path) -> None:
    """Two in one second have numbers."""
    made = set()
    for _ in range(5):
        path = unused_name(tmp_path, "wounded")
        path.mkdir()
        made.add(path)
    assert len(made) == 5


def test_a_lock_is_given_back_once(tmp_path: Path) -> None:
    """A second release does not close a file that somebody else has opened since."""
    lock = DirectoryLock(tmp_path)
    lock.describe("n1")
    assert running_node(tmp_path) == f"pid {os.getpid()} node n1"
    lock.release()
    assert running_node(tmp_path) is None
    with (tmp_path / "other").open("w") as other:
        lock.close()
        os.fstat(other.fileno())


def test_a_node_that_was_killed_does_not_run(tmp_path: Path) -> None:
    """It left who it was in the lock file, and no lock; where there is no file there is no node."""
    assert running_node(tmp_path) is None
    (tmp_path / "LOCK").write_text("pid 1 node n1\n")
    assert running_node(tmp_path) is None
    DirectoryLock(tmp_path).release()


def test_a_lock_whose_file_was_removed_holds(tmp_path: Path) -> None:
    """It is on the directory itself: another file that is locked in the place of the first one opens nothing."""
    with contextlib.closing(DirectoryLock(tmp_path)) as lock:
        lock.describe("n1")
        (tmp_path / "LOCK").unlink()
        assert running_node(tmp_path) == "an unknown process"
        with pytest.raises(DirectoryRefused, match="in use by an unknown process"):
            DirectoryLock(tmp_path)
    DirectoryLock(tmp_path).release()


def test_a_lock_holds_in_a_directory_made_of_the_same_files(tmp_path: Path) -> None:
    """The data file is locked as well as the directory: links to it in another one open nothing."""
    identity = Identity(b"a" * 16, NodeId("n1"), b"b" * 16)
    membership = Membership((Member(NodeId("n1"), "127.0.0.1:1", "127.0.0.1:2"),))
    first, second = tmp_path / "first", tmp_path / "second"
    LmdbLogStore.create(first, identity, membership)
    with contextlib.closing(LmdbLogStore.open(first)):
        (second / "raft").mkdir(parents=True)
        (second / "raft" / "data.mdb").hardlink_to(first / "raft" / "data.mdb")
        with pytest.raises(DirectoryRefused, match="is locked"):
            LmdbLogStore.open(second)


def test_a_lock_file_without_room_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes no name of a holder; that holds up no start."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with contextlib.closing(DirectoryLock(tmp_path)), pytest.raises(DirectoryRefused):
        DirectoryLock(tmp_path)


def test_a_disk_that_takes_no_environment_leaves_nothing_that_opens(tmp_path: Path) -> None:
    """It is the disk's failure, and the next attempt begins from nothing."""

    def build(path: Path) -> None:
        (path / "left").write_bytes(b"over")
        raise lmdb.DiskError("no room")

    for _ in range(2):
        with pytest.raises(StoragePoisoned, match="cannot be made"):
            create_environment(tmp_path, "raft", build)
    assert not (tmp_path / "raft").exists()
    assert running_node(tmp_path) is None


@pytest.mark.parametrize("mountinfo", ["", "no separator\n", "1 2 3:4 / /elsewhere rw - nfs4 host:/ rw\n"])
def test_a_directory_on_no_known_mount_is_not_refused(tmp_path: Path, mountinfo: str) -> None:
    """Where the system does not tell, nothing is assumed."""
    refuse_network_file_system(tmp_path, mountinfo)


def test_what_lmdb_refuses_is_damage_and_what_the_system_refuses_is_not(tmp_path: Path) -> None:
    """A file that is no environment; and a directory that is not there."""
    (tmp_path / "data.mdb").write_bytes(b"not an environment" * 1000)
    with pytest.raises(CorruptRecord):
        open_environment(tmp_path, map_bytes=MAP_BYTES)
    with pytest.raises(DirectoryRefused):
        open_environment(tmp_path / "missing", map_bytes=MAP_BYTES, readonly=True)


def test_a_table_that_cannot_be_made_is_the_disks_failure(tmp_path: Path) -> None:
    """And one that is not there is damage: a full disk must not have a sound directory set aside."""
    with open_environment(tmp_path, map_bytes=4 * 4096, create=True) as environment:
        with pytest.raises(CorruptRecord, match="table one"):
            open_handles(environment, ["one"])
        with pytest.raises(StoragePoisoned, match="MAP_FULL"):
            open_handles(environment, [f"table {number}" for number in range(8)], create=True)


def test_an_environment_of_another_lmdb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formats of 0.9 and 1.0 do not read each other."""
    real = lmdb.open

    def opened_by_another(path: str, **options: Any) -> lmdb.Environment:
        return real(path, **{**options, "lib_version": 1})

    monkeypatch.setattr(lmdb, "open", opened_by_another)
    # It is closed again: an environment is opened once in a process.
    for _ in range(2):
        with pytest.raises(CorruptRecord, match=r"expected 0\.9"):
            open_environment(tmp_path, map_bytes=1 << 20, create=True)


def test_the_structure_of_either_environment_is_looked_at(tmp_path: Path) -> None:
    """Without opening it; a page that is lost has its number."""
    whole(tmp_path)
    assert (structure_problems(tmp_path), structure_problems(tmp_path, "kv")) == ([], [])
    lose_root(tmp_path, "keys")
    assert structure_problems(tmp_path, "kv")
    with pytest.raises(DirectoryRefused):
        structure_problems(tmp_path, "kv.new")
