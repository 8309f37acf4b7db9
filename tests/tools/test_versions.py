"""What ``raftlog`` tells of the version of a cluster: the entry that raises it, and the state that has it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from durable_raft.raft.types import ORIGIN, Base, Entry, EntryKind, LogPoint, Term, make_entry
from durable_raft.raft.versions import encode_version
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.store import LmdbKvStore
from tests.support.batches import batch_of
from tests.support.log_building import IDENTITY, MEMBERSHIP, point_of, write
from tests.tools.directories import raftlog

PAYLOADS = {EntryKind.NOOP: b"", EntryKind.COMMANDS: batch_of([[b"set", b"k", b"v"]])}


def made(directory: Path, version: int) -> list[Entry]:
    """Make a directory whose log raises the version in its second entry of three; return the entries."""
    entries: list[Entry] = []
    previous: LogPoint = ORIGIN
    for kind in (EntryKind.NOOP, EntryKind.VERSION, EntryKind.COMMANDS):
        payload = PAYLOADS.get(kind, encode_version(version))
        entries.append(make_entry(previous=previous, term=Term(1), kind=kind, timestamp_ms=1_000, payload=payload))
        previous = point_of(entries[-1])
    LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)
    with closing(LmdbLogStore.open(directory)) as store:
        store.load()
        store.persist([write(1, entries)])
    return entries


def test_the_entry_is_shown(tmp_path: Path) -> None:
    """By dump, in both forms, by its kind, and on the timeline."""
    made(tmp_path / "n1", 2)
    assert "kind=VERSION" in raftlog("dump", tmp_path / "n1", "--kind", "version").stdout
    assert " cluster_version=2" in raftlog("dump", tmp_path / "n1").stdout
    shown = [json.loads(line) for line in raftlog("dump", tmp_path / "n1", "--json").stdout.splitlines()]
    assert [each.get("cluster_version") for each in shown] == [None, 2, None]
    assert "cluster_version_raised_to:2\n" in raftlog("stat", tmp_path / "n1").stdout
    assert "version_in_log term=1 index=2 version=2" in raftlog("timeline", tmp_path / "n1").stdout


def test_the_state_that_has_it_is_shown(tmp_path: Path) -> None:
    """By verify; where it is 1 nothing is said of it, as ever."""
    entries = made(tmp_path / "n1", 2)
    LmdbKvStore.create(tmp_path / "n1", IDENTITY, MEMBERSHIP)
    assert "cluster version" not in raftlog("verify", tmp_path / "n1").stdout
    applied = Base(point_of(entries[1]), 1_000)
    with closing(LmdbKvStore.open(tmp_path / "n1")) as store:
        store.write_checkpoint([], is_cleared=False, applied=applied, membership=MEMBERSHIP, version=2)
    found = raftlog("verify", tmp_path / "n1")
    assert (found.returncode, "cluster version 2" in found.stdout) == (0, True), found.stdout


@pytest.mark.parametrize(("until", "code"), [(1, 0), (2, 2), (3, 2)])
def test_what_a_newer_program_wrote_is_not_replayed(tmp_path: Path, until: int, code: int) -> None:
    """What its commands mean nobody knows here; up to there it is."""
    made(tmp_path / "n1", 3)
    found = raftlog("replay", tmp_path / "n1", "--until", until)
    assert found.returncode == code, found
    assert code == 0 or "entry 2: the cluster has version 3, and this program can versions 1 to 2" in found.stderr


def test_a_replay_goes_past_the_entry(tmp_path: Path) -> None:
    """Of a version that this program can."""
    made(tmp_path / "n1", 2)
    assert '"keys": 1' in raftlog("replay", tmp_path / "n1", "--until", 3, "--json").stdout
