"""From a data directory to what a node starts with: what is mended, what is set aside, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import CorruptRecord, DirectoryRefused
from durable_raft.raft.types import (
    ORIGIN,
    HardState,
    NodeId,
    Term,
)
from durable_raft.server.start.opening import open_node
from durable_raft.server.start.restore import restore_node
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from durable_raft.storage.state.records import stored_key
from durable_raft.storage.state.store import LmdbKvStore
from tests.storage.raw import flip_bit
from tests.support.log_building import (
    IDENTITY,
    MEMBERSHIP,
    entries_after,
    write,
)
from tests.support.opened_directories import (
    ALONE,
    COMMIT,
    aside,
    backup,
    close,
    config,
    installed,
    made,
    moved_to,
    opened,
    put_state,
    told_to_nobody,
)
from tests.support.state_building import (
    put_raw,
    read_kv,
    sample,
    zero_file,
)

pytestmark = pytest.mark.usefixtures("both_commits")


def test_a_new_directory_begins_empty(tmp_path: Path) -> None:
    """And is the same at the second start."""
    for _ in range(2):
        assert opened(tmp_path / "new") == (0, 0)


@pytest.mark.parametrize("state_at", [1, 7, 9])
def test_a_state_may_be_anywhere_in_the_log(tmp_path: Path, state_at: int) -> None:
    """What follows it is replayed."""
    made(tmp_path, state_at=state_at)
    assert opened(tmp_path) == (9, state_at)


def test_a_state_that_is_missing_is_made_again_from_the_whole_log(tmp_path: Path) -> None:
    """And fetched when the log begins later; in a cluster of one only a backup has it."""
    made(tmp_path / "a", state_at=0)
    assert opened(tmp_path / "a") == (9, 0)
    made(tmp_path / "b", state_at=0, compact_to=3)
    assert opened(tmp_path / "b") == (9, None)
    made(tmp_path / "c", ALONE, state_at=0, compact_to=3)
    with pytest.raises(DirectoryRefused, match="restore a backup"):
        opened(tmp_path / "c", ALONE)


def _rotten(directory: Path) -> None:
    put_raw(directory, "keys", stored_key(b"key:0001"), b"rot")


def _without_meta(directory: Path) -> None:
    for table in ("meta", "meta_copy"):
        put_raw(directory, table, b"meta", b"rot")


@pytest.mark.parametrize("damage", [_rotten, _without_meta, lambda path: zero_file(path / "kv")])
def test_a_damaged_state_is_set_aside_and_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """From the log, where it is whole; a cluster of one keeps it where it is."""
    made(tmp_path / "a")
    damage(tmp_path / "a")
    assert opened(tmp_path / "a") == (9, 0)
    assert aside(tmp_path / "a") == {"kv.wounded"}
    made(tmp_path / "b", ALONE)
    damage(tmp_path / "b")
    with pytest.raises(CorruptRecord, match="no other node"):
        opened(tmp_path / "b", ALONE)
    assert aside(tmp_path / "b") == set()


def test_a_state_of_another_history_is_set_aside(tmp_path: Path) -> None:
    """Its chain is not the log's; behind a compacted log a state that ends before it does not help either."""
    entries = entries_after(ORIGIN, 7, payload=b"another history")
    made(tmp_path / "a", state_at=0)
    put_state(tmp_path / "a", entries[-1])
    assert opened(tmp_path / "a") == (9, 0)
    made(tmp_path / "b", state_at=2, compact_to=5)
    assert opened(tmp_path / "b") == (9, None)
    for name in ("a", "b"):
        assert aside(tmp_path / name) == {"kv.wounded"}


def test_a_state_of_another_node_is_refused(tmp_path: Path) -> None:
    """It is not damage: somebody has copied it there."""
    made(tmp_path, state_at=0)
    LmdbKvStore.create(tmp_path, replace(IDENTITY, node_uuid=b"another-16-bytes"), MEMBERSHIP)
    with pytest.raises(DirectoryRefused, match="the log beside it"):
        opened(tmp_path)
    assert aside(tmp_path) == set()


@pytest.mark.parametrize(("at", "term"), [(20, 1), (5, 3)])
def test_an_installation_that_was_interrupted_is_finished(tmp_path: Path, at: int, term: int) -> None:
    """The state was swapped in and the log not yet replaced: what the state covers is committed, the log gives way."""
    made(tmp_path, state_at=2)
    installed(tmp_path, at, term)
    assert opened(tmp_path) == (at, at)
    assert opened(tmp_path) == (at, at)


def test_a_log_that_gave_way_owes_nothing_that_was_in_it(tmp_path: Path) -> None:
    """What it acknowledged before may be gone, as when a snapshot is installed in a life that goes on (lives.py)."""
    made(tmp_path, state_at=2)
    log = LmdbLogStore.open(tmp_path)
    log.load()
    log.persist([write(1, hard_state=HardState(Term(4), None))])
    log.close()
    installed(tmp_path, 5, 3)
    data = open_node(config(tmp_path))
    close(data)
    assert (data.stored.last.index, data.stored.standing.cut_in) == (5, 4)


def test_a_log_that_went_back_is_not_believed(tmp_path: Path) -> None:
    """The node's own checkpoint is beyond its log, so the file is an older one: log and state are set aside."""
    entries = entries_after(ORIGIN, 12)
    made(tmp_path / "a", state_at=0)
    put_state(tmp_path / "a", entries[-1])
    assert opened(tmp_path / "a") == (0, 0)
    assert aside(tmp_path / "a") == {"wounded"}
    made(tmp_path / "b", ALONE, state_at=0)
    put_state(tmp_path / "b", entries[-1], ALONE)
    with pytest.raises(CorruptRecord, match="no other node"):
        opened(tmp_path / "b", ALONE)


@pytest.mark.parametrize("damage", ["cut", "both tables"])
def test_a_log_that_cannot_be_believed_is_set_aside_with_its_state(tmp_path: Path, damage: str) -> None:
    """The node begins on a new disk of the same cluster, and is no voter yet."""
    made(tmp_path)
    if damage == "cut":
        data = tmp_path / "raft" / "data.mdb"
        data.write_bytes(data.read_bytes()[:9000])
    else:
        flip_bit(tmp_path, "ident", IDENT_KEY.pack(5), 200)
        flip_bit(tmp_path, "log", LOG_KEY.pack(5, 0), 200)
    node = open_node(replace(config(tmp_path), cluster_id=None))
    assert node.log_store.identity.cluster_id == IDENTITY.cluster_id
    assert node.log_store.identity.node_uuid != IDENTITY.node_uuid
    assert not node.stored.standing.is_voter
    close(node)
    assert aside(tmp_path) == {"wounded"}


def test_a_damaged_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    """It is not this node's to set aside."""
    made(tmp_path)
    data = tmp_path / "raft" / "data.mdb"
    data.write_bytes(data.read_bytes()[:9000])
    other = replace(config(tmp_path), node_id=NodeId("n2"), client_port=7002, peer_port=17002)
    with pytest.raises(DirectoryRefused, match="belongs to node 'n1', expected 'n2'"):
        open_node(other)
    assert aside(tmp_path) == set()


def test_a_rotten_payload_behind_the_state_is_lost_to_a_cluster_of_one(tmp_path: Path) -> None:
    """One that the state covers is not needed; among three it is healed later, so it is only told of."""
    for index, is_lost in ((3, False), (8, True)):
        directory = tmp_path / f"one{index}"
        made(directory, ALONE)
        flip_bit(directory, "log", LOG_KEY.pack(index, 0), 33 * 8)
        if is_lost:
            with pytest.raises(CorruptRecord, match="log index 8"):
                opened(directory, ALONE)
        else:
            assert opened(directory, ALONE) == (9, 7)
    made(tmp_path / "three")
    flip_bit(tmp_path / "three", "log", LOG_KEY.pack(8, 0), 33 * 8)
    data = open_node(config(tmp_path / "three"))
    assert [lost.index for lost in data.stored.lost] == [8]
    close(data)


def test_a_state_is_not_set_aside_by_a_cluster_of_one_whose_log_is_not_whole(tmp_path: Path) -> None:
    """A damaged one, or one that ends before the log begins: what it holds may be all that is left."""
    made(tmp_path / "a", ALONE, compact_to=3)
    (tmp_path / "a" / "kv" / "data.mdb").write_bytes(b"short")
    made(tmp_path / "b", ALONE, state_at=2, compact_to=5)
    for name in ("a", "b"):
        with pytest.raises(CorruptRecord):
            opened(tmp_path / name, ALONE)
        assert aside(tmp_path / name) == set()


def test_a_snapshot_that_waits_and_is_damaged_is_dropped(tmp_path: Path) -> None:
    """It was never a state; it is fetched again."""
    made(tmp_path, state_at=0, compact_to=3)
    installed(tmp_path, 12)
    zero_file(tmp_path / "kv.new")
    assert opened(tmp_path) == (9, None)
    assert not (tmp_path / "kv.new").exists()


# -- a new cluster from a backup ---------------------------------------------------------------------------------------


def test_nodes_that_are_restored_alike_are_one_new_cluster(tmp_path: Path) -> None:
    """With the state of the backup, its index and time; never the cluster that was backed up."""
    meta = backup(tmp_path / "file", sample())
    ids = set()
    for number in (1, 2):
        node = moved_to(tmp_path / f"r{number}", number)
        assert restore_node(tmp_path / "file", node, told_to_nobody) == meta
        assert read_kv(node.directory) == (9, sample())
        data = open_node(node)
        assert data.stored.base == meta.applied.point
        assert not data.stored.standing.is_voter
        ids.add(data.log_store.identity.cluster_id)
        close(data)
    assert len(ids) == 1
    assert IDENTITY.cluster_id not in ids
    given = replace(moved_to(tmp_path / "given", 1), cluster_id=b"by the operator!")
    restore_node(tmp_path / "file", given, told_to_nobody)
    data = open_node(given)
    assert data.log_store.identity.cluster_id == given.cluster_id
    close(data)


def test_a_restore_is_whole_or_leaves_nothing(tmp_path: Path) -> None:
    """A damaged backup; and a directory in which there is something is not touched."""
    backup(tmp_path / "file", sample())
    data = bytearray((tmp_path / "file").read_bytes())
    data[-40] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(CorruptRecord):
            restore_node(tmp_path / "damaged", moved_to(tmp_path / name, 1), told_to_nobody)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / "empty" / "file").touch()
    with pytest.raises(DirectoryRefused, match="is not empty"):
        restore_node(tmp_path / "file", moved_to(tmp_path / "empty", 1), told_to_nobody)
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["file"]


def test_a_directory_goes_over_to_the_journal_and_back(tmp_path: Path) -> None:
    """What is pending when the way is changed goes to LMDB; each way finds what the others wrote."""
    made(tmp_path)
    points = [9]
    for commit in ("journal", "lmdb", "journal", "journal", "lmdb", "lmdb"):
        COMMIT[0] = commit
        data = open_node(config(tmp_path))
        assert data.stored.last.index == points[-1]
        data.log_store.persist([write(1, entries_after(data.stored.last, 2))])
        close(data)
        points.append(points[-1] + 2)
        assert (tmp_path / "raft" / "journal").exists() == (commit == "journal")


def test_a_journal_that_nothing_names_is_removed(tmp_path: Path) -> None:
    """A crash left it when it was made, or when it was given up; without a journal nobody else would look at it."""
    made(tmp_path)
    COMMIT[0] = "lmdb"
    left = [tmp_path / "raft" / name for name in ("journal", "journal.creating")]
    for path in left:
        path.write_bytes(bytes(BLOCK_BYTES))
    opened(tmp_path)
    assert [path for path in left if path.exists()] == []


def test_a_damaged_journal_sets_the_directory_aside(tmp_path: Path) -> None:
    """A group in its middle is lost: other nodes have it. A cluster of one has no others, and refuses."""
    COMMIT[0] = "journal"
    for name, membership in (("three", MEMBERSHIP), ("one", ALONE)):
        directory = tmp_path / name
        made(directory, membership, last=3, state_at=0)
        data = open_node(config(directory, membership))
        entries = entries_after(data.stored.last, 3)
        for number, entry in enumerate(entries, 1):
            data.log_store.persist([write(number, [entry])])
        close(data)
        with (directory / "raft" / "journal").open("r+b") as file:
            file.seek(RING_AT + 2 * BLOCK_BYTES)
            file.write(bytes(2 * BLOCK_BYTES))
    assert opened(tmp_path / "three") == (0, 0)
    assert aside(tmp_path / "three") == {"wounded"}
    with pytest.raises(CorruptRecord, match="no other node"):
        opened(tmp_path / "one", ALONE)
