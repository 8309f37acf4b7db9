"""What a child process reads of a directory before anything is written to it, and what a node is told of it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.errors import DirectoryRefused
from durable_raft.storage import soundness
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.records import LOG_KEY
from durable_raft.storage.soundness import (
    QUICK_BYTES,
    Owner,
    StateCheck,
    is_quickly_read,
    is_slowly_read,
    log_trouble,
    owner_of,
    state_trouble,
)
from durable_raft.storage.state.records import stored_key
from durable_raft.storage.state.swap import set_aside
from tests.storage.raw import change, flip_bit
from tests.support.log_building import IDENTITY, MEMBERSHIP, read_all
from tests.support.state_building import lose_root, read_kv
from tests.support.waiting import wait_until
from tests.tools.directories import CLUSTER_ID, flip_bit_of_state, make_state, whole, zeroed_copies


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A sound directory with a log and a state."""
    whole(tmp_path / "node", 9)
    return tmp_path / "node"


def test_a_sound_directory_has_no_trouble(directory: Path) -> None:
    """And is told whose it is; its small state is read before a start."""
    assert (log_trouble(directory), state_trouble(directory)) == ("", "")
    assert owner_of(directory) == Owner(CLUSTER_ID, "n1", MEMBERSHIP.ids())
    assert (is_quickly_read(directory), is_slowly_read(directory)) == (True, False)


def test_a_directory_without_log_or_state_is_nobodys(tmp_path: Path) -> None:
    """There is nothing in it to be read."""
    assert owner_of(tmp_path) is None
    assert (is_quickly_read(tmp_path), is_slowly_read(tmp_path)) == (False, False)


def test_every_page_that_is_lost_is_noticed_and_kills_nobody(directory: Path, tmp_path: Path) -> None:
    """Whichever page of log or state is zeroed: behind one that is not noticed all reads as before, nobody uses it."""
    before = _read_wholly(directory)
    noticed = 0
    for name, examine in (("raft", log_trouble), ("kv", state_trouble)):
        for copy in zeroed_copies(directory, name, tmp_path):
            if examine(copy):
                noticed += 1
            else:
                assert _read_wholly(copy) == before
    assert noticed >= 12


def _read_wholly(directory: Path) -> tuple[object, object, object]:
    store = LmdbLogStore.open(directory)
    try:
        stored = store.load()
        return stored, read_all(store, 1, 10), read_kv(directory)
    finally:
        store.close()


def test_rotten_payloads_are_no_trouble_of_the_log(directory: Path) -> None:
    """They may be healed from other nodes; whoever loads the log judges records."""
    flip_bit(directory, "log", LOG_KEY.pack(5, 0), 200)
    assert log_trouble(directory) == ""


def test_a_tree_without_a_root_is_trouble(directory: Path) -> None:
    """Of log and state; the owner is then told by the other one."""
    lose_root(directory, "ident", "raft")
    lose_root(directory, "keys", "kv")
    assert str(directory / "raft") in log_trouble(directory)
    assert str(directory / "kv") in state_trouble(directory)


def test_a_killed_reader_is_trouble_with_the_name_of_the_signal(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page behind the end of the file is the usual cause; nobody knows whose such a directory is."""
    monkeypatch.setattr("durable_raft.storage.soundness.LogReader.open", lambda _: os.abort())
    assert "SIGABRT" in log_trouble(directory)
    assert owner_of(directory) is None


def test_a_newer_format_is_left_to_whoever_opens_it(directory: Path) -> None:
    """It is not damage, and must not be set aside."""
    for name in ("raft", "kv"):
        path = directory / name / "data.mdb"
        data = bytearray(path.read_bytes())
        for page in (0, 4096):
            data[page + 20 : page + 24] = (2).to_bytes(4, sys.byteorder)
        path.write_bytes(data)
    assert (log_trouble(directory), state_trouble(directory)) == ("", "")


def test_an_owner_is_known_by_log_or_state(directory: Path) -> None:
    """By the one whose meta can still be read."""
    for table in ("meta", "meta_copy"):
        change(directory, table, b"meta", None)
    assert owner_of(directory) == Owner(CLUSTER_ID, "n1", MEMBERSHIP.ids())
    (directory / "kv" / "data.mdb").write_bytes(b"")
    assert owner_of(directory) is None


def test_a_large_state_is_read_slowly_unless_another_waits(directory: Path) -> None:
    """The one that waits takes its place at once."""
    path = directory / "kv" / "data.mdb"
    os.truncate(path, QUICK_BYTES + 1)
    assert (is_quickly_read(directory), is_slowly_read(directory)) == (False, True)
    (directory / "kv.new").mkdir()
    (directory / "kv.new" / "data.mdb").write_bytes(path.read_bytes()[:100])
    assert is_slowly_read(directory) is False


def damaged(directory: Path) -> StateCheck:
    """Return a check that has read a damaged state to its end and was not asked yet."""
    flip_bit_of_state(directory, "keys", stored_key(b"key:000007"), 150)
    check = StateCheck(directory)
    os.waitid(os.P_PID, pid_of(check), os.WEXITED | os.WNOWAIT)
    return check


def pid_of(check: StateCheck) -> int:
    """Return the process that reads the state."""
    assert check._child is not None
    return check._child._pid


def test_damage_is_told_once(directory: Path) -> None:
    """And nothing after that."""
    check = damaged(directory)
    assert "keys" in (check.poll() or "")
    assert check.poll() is None
    check.close()


def test_a_check_is_ended_with_its_node(directory: Path) -> None:
    """It leaves no process behind; a second close does nothing."""
    check = StateCheck(directory)
    pid = pid_of(check)
    check.close()
    check.close()
    assert check.poll() is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_damage_of_a_state_that_was_replaced_is_not_told(directory: Path, *, is_rebuilt: bool) -> None:
    """Else the sound state that took its place would be blamed for it, and set aside."""
    check = damaged(directory)
    set_aside(directory, "kv.wounded")
    if is_rebuilt:
        make_state(directory, None)
    assert check.poll() is None
    assert check.poll() is None


# -- short of memory --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def address_space_left(size: int) -> Iterator[None]:
    """Run with so much address space beyond what this process has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_sound_log_is_not_in_trouble_for_want_of_memory(tmp_path: Path) -> None:
    """No memory for a map says nothing about the data: whoever opens the directory refuses it, and nothing is lost.

    The node set the directory aside as wounded and began on a new disk.
    """
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP, map_bytes=4 << 20)
    data = tmp_path / "raft" / "data.mdb"
    # A sparse file that is larger than what can be mapped.
    os.truncate(data, 1 << 30)
    with address_space_left(256 << 20):
        assert log_trouble(tmp_path) == ""
        with pytest.raises(DirectoryRefused, match="Cannot allocate memory"):
            LmdbLogStore.open(tmp_path, map_bytes=4 << 30)
    assert log_trouble(tmp_path) == ""


def test_a_sound_log_is_read_with_little_address_space(tmp_path: Path) -> None:
    """The map that reads a file is as large as the file, where address space is bounded."""
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP, map_bytes=4 << 20)
    with address_space_left(256 << 20), LogReader.open(tmp_path) as reader:
        assert reader.overview().meta is not None


@pytest.mark.parametrize(
    ("number", "is_damage"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGBUS, True)]
)
def test_only_signals_that_a_page_can_raise_are_damage(number: signal.Signals, *, is_damage: bool) -> None:
    """When memory is short the system kills a process: a directory must not be set aside for that."""

    def die() -> str:
        os.kill(os.getpid(), number)
        return ""

    if is_damage:
        assert "SIGBUS" in soundness._told(die)
    else:
        with pytest.raises(DirectoryRefused, match=number.name):
            soundness._told(die)


def test_a_check_that_is_killed_from_outside_says_nothing(directory: Path) -> None:
    """The node goes on with its state: it was neither found sound nor damaged."""
    check = StateCheck(directory)
    assert check._child is not None
    os.kill(check._child._pid, signal.SIGKILL)
    wait_until(lambda: check.poll() is not None or check._child is None, "the child to be gone")
    assert check.poll() is None
