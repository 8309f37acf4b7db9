"""The store on a real directory: identity, locks, creation, failing disks, kills, room."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_raft.errors import CorruptRecord, DirectoryRefused, StoragePoisoned
from durable_raft.raft.types import ORIGIN, Identity, Index, NodeId, StoredLog
from durable_raft.storage import directory as directory_module
from durable_raft.storage.directory import create_environment, refuse_network_file_system
from durable_raft.storage.environment import open_environment
from durable_raft.storage.headroom import Headroom
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.log_store import LogStore
from durable_raft.storage.log.records import records_bytes
from durable_raft.storage.log.tables import open_tables
from tests.storage.raw import raw_tables
from tests.support.log_building import (
    IDENTITY,
    MEMBERSHIP,
    JournalShelf,
    LmdbShelf,
    MemoryShelf,
    configuration_entry,
    entries_after,
    point_of,
    read_all,
    vote,
    write,
)

ROOT = Path(__file__).parents[2]


def run_child(directory: Path, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run tests/storage/child.py to its end."""
    command = [*prefix, sys.executable, "-m", "tests.storage.child", str(directory), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def last_acked(output: str) -> int:
    """Return the highest index the child acknowledged."""
    return max((int(index) for index in re.findall(r"^acked (\d+)$", output, re.MULTILINE)), default=0)


def load_again(directory: Path) -> StoredLog:
    """Open the directory, verify it, close it."""
    store = LmdbLogStore.open(directory)
    try:
        return store.load()
    finally:
        store.close()


# -- whose directory --------------------------------------------------------------------------------------------------


def test_another_node_or_cluster_is_refused(lmdb_shelf: LmdbShelf) -> None:
    """A directory answers only to the identity stamped in it."""
    store = lmdb_shelf.open()
    store.expect(None, NodeId("n1"))
    store.expect(IDENTITY.cluster_id, NodeId("n1"))
    with pytest.raises(DirectoryRefused, match="belongs to node 'n1', expected 'n2'"):
        store.expect(None, NodeId("n2"))
    with pytest.raises(DirectoryRefused, match="belongs to cluster"):
        store.expect(b"another cluster!", NodeId("n1"))


def test_a_second_process_is_refused(lmdb_shelf: LmdbShelf) -> None:
    """The message names the process and node that hold the directory; afterwards it is free again."""
    lmdb_shelf.open()
    child = run_child(lmdb_shelf.directory, 1)
    assert child.returncode != 0
    assert f"is in use by pid {os.getpid()} node n1" in child.stderr
    assert "acked" not in child.stdout
    lmdb_shelf.close()
    assert run_child(lmdb_shelf.directory, 1).stdout.endswith("acked 1\n")


def test_a_second_store_in_one_process_is_refused(lmdb_shelf: LmdbShelf) -> None:
    """The lock is per store, not per process."""
    lmdb_shelf.open()
    with pytest.raises(DirectoryRefused, match="in use"):
        LmdbLogStore.open(lmdb_shelf.directory)


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    """Nothing is created by looking."""
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DirectoryRefused, match="not a data directory"):
            LmdbLogStore.open(directory)
    assert list(tmp_path.iterdir()) == []


MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /srv rw shared:3 - nfs4 server:/export rw
31 30 0:41 / /srv/local rw - xfs /dev/vdb rw
32 27 0:42 / /mnt/with\040space rw - fuse.sshfs host: rw
33 27 0:43 / /mnt/twice rw - ext4 /dev/vdc rw
34 27 0:44 / /mnt/twice rw - cifs //host/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib", None),
        ("/srv", "nfs4"),
        ("/srv/n1", "nfs4"),
        ("/srv/local/n1", None),
        ("/srvx", None),
        ("/mnt/with space/n1", "fuse.sshfs"),
        ("/mnt/twice", "cifs"),
    ],
)
def test_a_network_file_system_is_refused(path: str, kind: str | None) -> None:
    """The innermost mount decides, and the message says its type."""
    if kind is None:
        refuse_network_file_system(Path(path), MOUNTINFO)
    else:
        with pytest.raises(DirectoryRefused, match=f"lies on {kind} "):
            refuse_network_file_system(Path(path), MOUNTINFO)


def test_open_asks_for_the_file_system(lmdb_shelf: LmdbShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is part of opening, and the flag skips it."""
    point = lmdb_shelf.directory.resolve().parent
    monkeypatch.setattr(directory_module, "_mount_of", lambda *_: (point, "nfs"))
    with pytest.raises(DirectoryRefused, match="lies on nfs"):
        lmdb_shelf.open()
    LmdbLogStore.open(lmdb_shelf.directory, allow_network_file_system=True).close()


# -- creation ---------------------------------------------------------------------------------------------------------


def test_creating_twice_is_refused(lmdb_shelf: LmdbShelf) -> None:
    """An existing log is never replaced."""
    with pytest.raises(DirectoryRefused, match="exists already"):
        LmdbLogStore.create(lmdb_shelf.directory, Identity(b"x" * 16, NodeId("n9"), b"y" * 16), MEMBERSHIP)
    assert lmdb_shelf.open().identity == IDENTITY


def test_interrupted_creation_leaves_nothing_that_opens(tmp_path: Path) -> None:
    """Whatever an interrupted creation left, the directory does not count as one, and the next creation succeeds."""
    directory = tmp_path / "deep" / "node"

    def interrupted(path: Path) -> None:
        with open_environment(path, map_bytes=1 << 30, create=True) as environment:
            open_tables(environment, create=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_environment(directory, "raft", interrupted)
    assert (directory / "raft.creating" / "data.mdb").exists()
    assert not LmdbLogStore.exists(directory)
    with pytest.raises(DirectoryRefused, match="not a data directory"):
        LmdbLogStore.open(directory)
    LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)
    assert LmdbLogStore.exists(directory)
    assert load_again(directory).last == ORIGIN
    assert sorted(path.name for path in directory.iterdir()) == ["LOCK", "raft"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_creation_killed_at_each_sync_and_rename(tmp_path: Path) -> None:
    """A creation killed before any of its system calls that reach the disk is either whole or not there."""
    program = (
        "import sys; from pathlib import Path; from durable_raft.storage.log.lmdb_store import LmdbLogStore;"
        "from tests.support.log_building import IDENTITY, MEMBERSHIP;"
        "LmdbLogStore.create(Path(sys.argv[1]), IDENTITY, MEMBERSHIP)"
    )
    outcomes = []
    for call, times in (("fdatasync", (1, 5)), ("fsync", (1, 3, 5)), ("rename", (1,))):
        for when in times:
            directory = tmp_path / f"{call}{when}" / "node"
            inject = f"inject={call}:signal=KILL:when={when}"
            command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
            subprocess.run([*command, sys.executable, "-c", program, str(directory)], cwd=ROOT, check=False, timeout=60)
            if not LmdbLogStore.exists(directory):
                outcomes.append("absent")
                LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)
            else:
                outcomes.append("whole")
            assert load_again(directory).last == ORIGIN
    assert set(outcomes) == {"absent", "whole"}


def test_a_missing_table_is_damage(lmdb_shelf: LmdbShelf) -> None:
    """An environment without one of the tables is not repaired by creating it."""
    with raw_tables(lmdb_shelf.directory) as (transaction, handles):
        transaction.drop(handles["ident"])
    with pytest.raises(CorruptRecord, match="table ident"):
        lmdb_shelf.open()


# -- a failing disk ---------------------------------------------------------------------------------------------------


def test_a_full_map_poisons(tmp_path: Path) -> None:
    """The first failed transaction is final: its cause is kept, reads go on, what was flushed is there."""
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP, map_bytes=1 << 20)
    store = LmdbLogStore.open(tmp_path, map_bytes=1 << 20)
    store.load()
    small = entries_after(ORIGIN, 3)
    store.persist([write(1, small)])
    large = entries_after(point_of(small[-1]), 1, payload=b"x" * (2 << 20))
    with pytest.raises(StoragePoisoned) as first:
        store.persist([write(2, large)])
    assert isinstance(first.value.__cause__, lmdb.MapFullError)
    with pytest.raises(StoragePoisoned) as second:
        store.persist([write(3, hard_state=vote(9))])
    assert second.value.__cause__ is first.value.__cause__
    with pytest.raises(StoragePoisoned):
        store.compact(Index(1), 1)
    assert read_all(store, 1, 9) == small
    store.close()
    assert load_again(tmp_path).last == point_of(small[-1])


def test_a_file_that_cannot_grow_poisons(lmdb_shelf: LmdbShelf) -> None:
    """A write that the system refuses is final, and everything acknowledged before it is there."""
    child = run_child(lmdb_shelf.directory, 1000, 200_000)
    assert child.returncode == 3, child.stderr
    assert "poisoned 4" in child.stdout
    acked = last_acked(child.stdout)
    assert acked > 5
    assert load_again(lmdb_shelf.directory).last.index >= acked


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_one_failed_sync_poisons(lmdb_shelf: LmdbShelf, call: str) -> None:
    """LMDB would let the next commit succeed after an EIO; the store does not, though the disk works again."""
    inject = f"inject={call}:error=EIO:when=25"
    prefix = ("strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    child = run_child(lmdb_shelf.directory, 100, prefix=prefix)
    assert child.returncode == 3, child.stderr
    assert "Input/output error" in child.stdout
    assert "poisoned 4" in child.stdout
    acked = last_acked(child.stdout)
    assert 5 < acked < 100
    # What failed may be on the disk all the same ("false failure"), what was acknowledged must be.
    assert acked <= load_again(lmdb_shelf.directory).last.index <= acked + 1


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_failed_meta_page_is_told_from_a_flipped_bit(tmp_path: Path) -> None:
    """LMDB puts the old id back into a meta page it could not write; only the store's note tells that from damage."""
    for when in range(25, 35):
        directory = tmp_path / str(when)
        LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)
        trace = tmp_path / "trace"
        inject = f"inject=pwrite64:error=EIO:when={when}"
        child = run_child(
            directory, 100, prefix=("strace", "-f", "-o", str(trace), "-e", "trace=pwrite64", "-e", inject)
        )
        # The part of a meta page that a commit writes has 120 bytes.
        if re.search(r", 120, \d+\) = -1 EIO", trace.read_text()):
            break
    else:
        pytest.fail("no failing write hit a meta page")
    assert load_again(directory).last.index >= last_acked(child.stdout)
    (directory / "raft" / "failed-transaction").unlink()
    with pytest.raises(CorruptRecord, match="is the state after transaction"):
        load_again(directory)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_every_acknowledged_write_has_its_own_flush(lmdb_shelf: LmdbShelf, tmp_path: Path) -> None:
    """Between two acknowledgements the data pages are synced, and then the meta page is written with O_DSYNC."""
    trace = tmp_path / "trace"
    calls = "trace=openat,fdatasync,write,pwrite64"
    child = run_child(lmdb_shelf.directory, 20, prefix=("strace", "-f", "-o", str(trace), "-e", calls))
    assert last_acked(child.stdout) == 20
    lines = trace.read_text().splitlines()
    opened = [re.search(r'data\.mdb", \S*O_DSYNC\S* = (\d+)', line) for line in lines]
    through = [f"pwrite64({found[1]}, " for found in opened if found]
    assert through
    is_synced = is_complete = False
    for line in lines:
        if '"acked ' in line:
            assert is_complete, line
            is_synced = is_complete = False
        elif "fdatasync(" in line:
            is_synced = True
        elif is_synced and through[-1] in line:
            is_complete = True


def test_killed_in_mid_write_nothing_acknowledged_is_lost(lmdb_shelf: LmdbShelf) -> None:
    """Ten lives, each ended by kill -9 at a random moment of a write loop, on one directory."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    acked = 0
    for life in range(10):
        command = [sys.executable, "-m", "tests.storage.child", str(lmdb_shelf.directory), "100000"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            output = child.stdout.readline()
            for _ in range(rng.randint(1, 60)):
                output += child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            output += child.stdout.read()
        assert f"loaded {acked}\n" in output or int(output.split()[1]) > acked, f"seed {seed} life {life}"
        acked = max(acked, last_acked(output))
        stored = load_again(lmdb_shelf.directory)
        assert acked <= stored.last.index <= acked + 1, f"seed {seed} life {life}"
        acked = stored.last.index
    assert acked >= 10


# -- room and shape ---------------------------------------------------------------------------------------------------


def test_no_value_needs_an_overflow_page(lmdb_shelf: LmdbShelf) -> None:
    """Large payloads never make a commit hunt for a run of free pages: two pieces share a leaf page."""
    store = lmdb_shelf.open()
    store.load()
    store.persist([write(1, entries_after(ORIGIN, 20, payload=b"x" * 1_000_000))])
    lmdb_shelf.close()
    with raw_tables(lmdb_shelf.directory) as (transaction, handles):
        stats = {name: transaction.stat(handle) for name, handle in handles.items()}
    assert [stat["overflow_pages"] for stat in stats.values()] == [0, 0, 0, 0]
    assert stats["log"]["leaf_pages"] <= stats["log"]["entries"] * 0.52


def test_space_counts_what_is_written_and_what_is_reusable(lmdb_shelf: LmdbShelf) -> None:
    """Compaction gives room back although the file never shrinks."""
    store = lmdb_shelf.open()
    store.load()
    empty = store.space()
    store.persist([write(1, entries_after(ORIGIN, 100, payload=b"x" * 10_000))])
    store.persist([write(2, hard_state=vote(1))])
    full = store.space()
    assert (full.commits, full.entries) == (2, 100)
    assert 1_000_000 <= full.entry_bytes < 1_020_000
    assert full.used_bytes - empty.used_bytes > 1_000_000
    assert full.used_bytes <= full.file_bytes <= full.map_bytes
    while store.compact(Index(100), 1000) < 100:
        pass
    for number in range(3, 6):
        store.persist([write(number, hard_state=vote(number))])
    compacted = store.space()
    assert compacted.used_bytes < 100_000
    assert compacted.file_bytes >= full.file_bytes
    assert compacted.disk_free_bytes > 0
    assert compacted.writable_bytes <= compacted.map_bytes - compacted.used_bytes
    tight = replace(compacted, disk_free_bytes=0)
    in_file = compacted.file_bytes - compacted.used_bytes
    assert tight.writable_bytes == in_file + tight.owned_bytes > 900_000


def test_a_file_that_is_short_by_right_opens(tmp_path: Path) -> None:
    """LMDB may leave free pages at the end unwritten; whatever the writes were, the directory opens again."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    points = [ORIGIN]
    for _ in range(30):
        store = LmdbLogStore.open(tmp_path)
        stored = store.load()
        assert stored.last == points[-1], f"seed {seed}"
        for number in range(1, 6):
            last = len(points) - 1
            cut = rng.randint(max(last - 30, stored.base.index) + 1, last) if last > stored.base.index else None
            if cut is not None:
                del points[cut:]
            entries = entries_after(points[-1], rng.randint(0, 12), payload=b"x" * rng.choice([0, 900, 5000]))
            points += map(point_of, entries)
            store.persist([write(number, entries, cut=cut)])
        if rng.random() < 0.3:
            store.compact(Index(rng.randint(stored.base.index, len(points) - 1)), 100)
        store.close()


# -- against the model ------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "cut", "vote", "group", "compact", "move", "reopen"]),
        st.integers(0, 12),
        st.sampled_from([0, 10, 1986, 1987, 5000]),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(steps=STEPS)
def test_all_stores_hold_the_same(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]) -> None:
    """Any sequence of writes, compactions and reopenings leaves all stores with the same log and hard state."""
    directory = tmp_path_factory.mktemp("model")
    journaled = JournalShelf(directory / "journaled", ring_bytes=1 << 16)
    shelves = (LmdbShelf(directory / "node"), MemoryShelf(), journaled)
    stores: list[LogStore] = [shelf.open() for shelf in shelves]
    for store in stores:
        store.load()
    number, term, points = 0, 1, {0: ORIGIN}
    for action, amount, size in [*steps, ("reopen", 0, 0)]:
        number += 1
        base, last = min(points), max(points)
        if action == "reopen":
            stores = [shelf.open() for shelf in shelves]
            stored, *others = (store.load() for store in stores)
            assert [stored, stored] == others
            assert stored.last == points[last]
            number = 0
            continue
        if action == "move":
            assert isinstance(stores[-1], JournaledLogStore)
            stores[-1].move()
            continue
        if action == "compact":
            upto = min(base + amount, last)
            assert {store.compact(Index(upto), 5) for store in stores} == {Index(min(upto, base + 5))}
            points = {index: point for index, point in points.items() if index >= min(upto, base + 5)}
            continue
        term += action != "append"
        group = [write(number)]
        if action == "vote":
            group = [write(number, hard_state=vote(term, "n2"))]
        else:
            for _ in range(2 if action == "group" else 1):
                cut = None if action == "append" else max(last - amount, base) + 1
                points = {index: point for index, point in points.items() if cut is None or index < cut}
                entries = entries_after(points[max(points)], amount, term=term, payload=b"p" * size)
                points.update((entry.index, point_of(entry)) for entry in entries)
                group.append(write(number := number + 1, entries, cut=cut))
                last = max(points)
        for store in stores:
            store.persist(group)
        _assert_same(stores, min(points), max(points))
    shelves[0].close()
    journaled.close()


def _assert_same(stores: Sequence[LogStore], base: int, last: int) -> None:
    for index in range(base, last + 1):
        assert len({store.chain_at(Index(index)) for store in stores}) == 1
    if last > base:
        first, *others = (read_all(store, base + 1, last + 1) for store in stores)
        assert [first, first] == others
        assert len(first) == last - base


def test_room_is_made_for_the_configurations_of_meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both copies of meta are written whole with each write; more than the slack of a transaction may be needed."""
    needed: list[int] = []

    def require(self: Headroom, needed_bytes: int, *, may_free_all: bool = False) -> None:
        del self, may_free_all
        needed.append(needed_bytes)

    monkeypatch.setattr(Headroom, "require", require)
    shelf = LmdbShelf(tmp_path / "node")
    store = shelf.open()
    store.load()
    store.persist([write(1, hard_state=vote(1))])
    first = configuration_entry(ORIGIN, *(f"n{number:0250}" for number in range(64)))
    store.persist([write(2, [first])])
    store.persist([write(3, hard_state=vote(2))])
    store.compact(Index(1), 1)
    shelf.close()
    assert needed[0] == needed[1] - 2 * 12 - 2 * len(first.payload) - records_bytes([first])
    assert needed[2:] == [needed[0] + 2 * 12 + 2 * len(first.payload)] * 2
