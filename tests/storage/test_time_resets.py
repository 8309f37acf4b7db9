"""A timestamp may fall in one kind of entry only: on the way to the disk, at every start, and for the tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.errors import InvariantViolation, StoragePoisoned
from durable_raft.kv.machine import Machine
from durable_raft.raft.types import ORIGIN, Entry, EntryKind, Term, make_entry
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.time_request import forget_time_request, is_time_reset_requested, request_time_reset
from tests.support.batches import batch_of
from tests.support.log_building import IDENTITY, MEMBERSHIP, point_of, read_all, write
from tests.tools.directories import raftlog

FUTURE_MS, NOW_MS = 7_258_118_400_000, 1_700_000_000_000
SET = batch_of([[b"set", b"k", b"v", b"px", b"5000"]])


def back(kind: EntryKind) -> list[Entry]:
    """Return three entries, of which the second, of a kind, goes back from the future."""
    entries: list[Entry] = []
    for each, time_ms in ((EntryKind.COMMANDS, FUTURE_MS), (kind, NOW_MS), (EntryKind.COMMANDS, NOW_MS + 7)):
        previous = point_of(entries[-1]) if entries else ORIGIN
        payload = b"" if each is EntryKind.TIME_RESET else SET
        entries.append(make_entry(previous=previous, term=Term(1), kind=each, timestamp_ms=time_ms, payload=payload))
    return entries


def test_a_reset_is_stored_and_found_sound(tmp_path: Path) -> None:
    """By the store that takes it, by the next start and by ``raftlog``, which says where it is and what it did."""
    directory, entries = tmp_path / "n1", back(EntryKind.TIME_RESET)
    LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)
    store = LmdbLogStore.open(directory)
    store.load()
    store.persist([write(1, entries)])
    store.close()
    store = LmdbLogStore.open(directory)
    assert store.load().last_timestamp_ms == NOW_MS + 7
    assert read_all(store, 1, 4) == entries
    store.close()
    assert raftlog("verify", directory).returncode == 0
    assert "kind=TIME_RESET time=2023-11-14T22:13:20.000" in raftlog("dump", directory).stdout
    assert "time_reset_in_log" in raftlog("timeline", directory).stdout
    assert f'"cluster_time_ms": {NOW_MS + 7}' in raftlog("replay", directory, "--until", 3, "--json").stdout


@pytest.mark.parametrize("kind", [EntryKind.COMMANDS, EntryKind.NOOP])
def test_nothing_else_goes_back(tmp_path: Path, kind: EntryKind) -> None:
    """Any other entry with a lower timestamp is not stored."""
    LmdbLogStore.create(tmp_path / "n1", IDENTITY, MEMBERSHIP)
    store = LmdbLogStore.open(tmp_path / "n1")
    store.load()
    with pytest.raises((InvariantViolation, StoragePoisoned), match="does not follow"):
        store.persist([write(1, back(kind))])
    store.close()


def test_a_reset_brings_back_what_is_hidden_and_not_what_is_dropped(machine: Machine) -> None:
    """A key whose time was up is gone once it is dropped; one given later lives by the new time."""
    machine.advance_time(NOW_MS)
    machine.execute([b"set", b"gone", b"v", b"px", b"5000"])
    machine.advance_time(FUTURE_MS)
    machine.execute([b"set", b"long", b"v", b"px", b"5000"])
    machine.reset_time(NOW_MS)
    assert machine.time_ms == NOW_MS
    assert machine.execute([b"get", b"gone"]) is None
    assert machine.execute([b"pttl", b"long"]) == FUTURE_MS + 5000 - NOW_MS
    machine.execute([b"set", b"short", b"v", b"px", b"5000"])
    machine.advance_time(NOW_MS + 5000)
    assert machine.execute([b"get", b"short"]) is None
    machine.reset_time(FUTURE_MS + 5000)
    assert machine.execute([b"get", b"long"]) is None


@pytest.fixture
def machine() -> Machine:
    """An empty machine."""
    import random

    return Machine(random.Random(1))


def test_a_request_is_there_until_it_is_forgotten(tmp_path: Path) -> None:
    """It may be asked for twice, and forgotten twice."""
    for _ in range(2):
        assert not is_time_reset_requested(tmp_path)
        request_time_reset(tmp_path)
        request_time_reset(tmp_path)
        assert is_time_reset_requested(tmp_path)
        forget_time_request(tmp_path)
        forget_time_request(tmp_path)
