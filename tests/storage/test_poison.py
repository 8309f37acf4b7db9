"""When the write of a meta page failed LMDB refuses even reads: whoever reads then is told of the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_raft.errors import StoragePoisoned
from durable_raft.kv.records import StateSummary
from durable_raft.raft.types import ORIGIN, Base, Identity, Index, Member, Membership, NodeId
from durable_raft.storage.directory import DATA_FILE
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.store import LmdbKvStore
from tests.support.log_building import LmdbShelf, entries_after, write

IDENTITY = Identity(bytes(16), NodeId("n1"), bytes(16))
MEMBERSHIP = Membership((Member(NodeId("n1"), "127.0.0.1:7001", "127.0.0.1:17001"),))


def break_meta_writes(environment: Path) -> None:
    """Have the descriptor that LMDB writes meta pages with take no write any more: the one that is opened O_DSYNC."""
    data_file = environment / DATA_FILE
    found = [
        int(fd.name)
        for fd in Path("/proc/self/fd").iterdir()
        if fd.exists() and fd.samefile(data_file) and _flags(fd) & os.O_DSYNC
    ]
    assert len(found) == 1, found
    readonly = os.open(data_file, os.O_RDONLY)
    os.dup2(readonly, found[0])
    os.close(readonly)


def _flags(fd: Path) -> int:
    lines = Path(f"/proc/self/fdinfo/{fd.name}").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))


LOG_READS: list[Callable[[LmdbLogStore], object]] = [
    lambda store: store.space(),
    lambda store: store.entries(Index(1), Index(2), 0),
    lambda store: store.chain_at(Index(1)),
    lambda store: store.base_at(Index(1)),
    lambda store: store.is_meta_wounded(),
]


def test_a_log_whose_meta_page_could_not_be_written_is_poisoned_for_readers_too(tmp_path: Path) -> None:
    """A reader may come before the writer has told anybody: it gets the disk's failure, not LMDB's."""
    shelf = LmdbShelf(tmp_path / "node")
    store = shelf.open()
    store.load()
    store.persist([write(1, entries_after(ORIGIN, 1))])
    break_meta_writes(tmp_path / "node" / "raft")
    with pytest.raises(StoragePoisoned):
        store.persist([write(2, entries_after(ORIGIN, 2)[1:])])
    for read in LOG_READS:
        with pytest.raises(StoragePoisoned, match="cannot be read any more"):
            read(store)
    shelf.close()


def test_a_state_whose_meta_page_could_not_be_written_is_poisoned_for_readers_too(tmp_path: Path) -> None:
    """The same of views, of the room, and of a walk."""
    LmdbKvStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    store = LmdbKvStore.open(tmp_path)
    break_meta_writes(tmp_path / "kv")
    with pytest.raises(StoragePoisoned):
        store.write_checkpoint(
            [], is_cleared=False, applied=Base(ORIGIN, 1), summary=StateSummary(), membership=MEMBERSHIP
        )
    for read in (store.view, store.room, store.verify):
        with pytest.raises(StoragePoisoned, match="cannot be read any more"):
            read()
    store.close()
