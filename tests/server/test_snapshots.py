"""Snapshots between two real states: how long views are kept, and who asks again."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.kv.records import make_record
from durable_raft.raft.types import Index, NodeId
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.state.backup_source import BackupSource
from durable_raft.server.state.snapshot_fetch import PATIENCE_S, REFUSED_S, Snapshot, SnapshotFetcher
from durable_raft.server.state.snapshot_source import KEPT_S, VIEWS_MAX, SnapshotSource
from durable_raft.server.state.worker import ThreadWorker
from durable_raft.storage.environment import PINNED_BYTES_MAX
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.swap import swap
from durable_raft.storage.state.verify import read_checkpoint
from durable_raft.wire.peer import FetchSnapshot, NodeMessage, SnapshotChunk
from tests.support.log_building import IDENTITY, MEMBERSHIP, configured
from tests.support.raft_solo import solo
from tests.support.state_building import State, base_at, checkpoint, items_of, make_kv, read_kv
from tests.support.waiting import WAIT_S

N2, N3 = NodeId("n2"), NodeId("n3")


class Hands:
    """The event loop and the clock, in the test's hands."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.failed: list[BaseException] = []
        self._workers: list[ThreadWorker] = []

    def monotonic(self) -> float:
        """Return the test's time."""
        return self.now

    def time_of_day_ns(self) -> int:
        """Return the same."""
        return int(self.now * 1e9)

    def sleep(self, seconds: float) -> None:
        """Do not rest."""

    def worker(self) -> ThreadWorker:
        """Return a thread that reports to this loop."""
        worker = ThreadWorker("test", self._jobs.put, self.failed.append)
        worker.start()
        self._workers.append(worker)
        return worker

    def turn(self, count: int = 1) -> None:
        """Wait for ``count`` pieces of work, and do what was to follow."""
        for _ in range(count):
            self._jobs.get(timeout=WAIT_S)()

    def is_idle(self) -> bool:
        """Return whether nothing waits for its turn, when the workers have done all."""
        for worker in self._workers:
            worker.settle()
        return self._jobs.empty()

    def close(self) -> None:
        """End the threads."""
        assert all(worker.stop(WAIT_S) for worker in self._workers)


@pytest.fixture
def hands() -> Iterator[Hands]:
    """A loop, a clock, threads."""
    made = Hands()
    yield made
    made.close()


def large(count: int, value: bytes = b"v") -> State:
    """Return records of 10 kB: seven fit into a piece of a snapshot."""
    return {b"key:%04d" % n: make_record(b"key:%04d" % n, value * 10_000, 0 if n % 3 else 2**41) for n in range(count)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbKvStore]:
    """A state of 20 large records at index 5."""
    make_kv(tmp_path / "sender", large(20))
    opened = LmdbKvStore.open(tmp_path / "sender")
    yield opened
    opened.close()


def question(index: int = 0, after: bytes | None = None, floor: int = 0) -> FetchSnapshot:
    """Ask for a piece."""
    return FetchSnapshot(Index(index), after is not None, after or b"", Index(floor))


# -- the sender -------------------------------------------------------------------------------------------------------


class Sender:
    """A source whose answers are collected."""

    def __init__(self, hands: Hands, store: LmdbKvStore | None) -> None:
        self._hands = hands
        self.source = SnapshotSource(hands.worker(), hands)
        self.source.read_from(store)
        self.chunks: list[SnapshotChunk] = []

    def ask(self, asked: FetchSnapshot) -> SnapshotChunk:
        """Return the piece that is given."""
        before = len(self.chunks)
        assert self.source.answer(asked, self.chunks.append)
        while len(self.chunks) == before:
            # The work of another thread may be done first.
            self._hands.turn()
        return self.chunks[-1]

    def all_of(self, asked: FetchSnapshot) -> tuple[int, State]:
        """Ask for one piece after the other; return where the snapshot was taken, and what it is."""
        state: State = {}
        while not (chunk := self.ask(asked)).is_last:
            for key, value, deadline_ms in zip(chunk.keys, chunk.values, chunk.deadlines_ms, strict=True):
                state[key] = make_record(key, value, deadline_ms)
            asked = question(chunk.last_included_index, chunk.keys[-1])
        return chunk.last_included_index, state


def test_a_snapshot_that_was_begun_is_given_to_its_end(hands: Hands, store: LmdbKvStore) -> None:
    """Whatever checkpoints are written meanwhile; who begins later gets the newest, or joins one that is given."""
    sender = Sender(hands, store)
    first = sender.ask(question())
    checkpoint(store, large(3, b"w"), 9)
    assert sender.all_of(question(5, first.keys[-1]))[0] == 5
    assert sender.all_of(question()) == (5, large(20)), "whoever has nothing yet joins what is being given"
    assert sender.all_of(question(floor=5)) == (9, large(3, b"w"))
    assert sender.source.held() == 5
    sender.source.close()
    assert sender.source.held() is None


def test_a_snapshot_that_is_gone_begins_anew_with_the_newest(hands: Hands, store: LmdbKvStore) -> None:
    """From its first key, whatever key was asked for; a node without a state gives none."""
    sender = Sender(hands, store)
    chunk = sender.ask(question(4, b"key:0010"))
    assert (chunk.last_included_index, chunk.has_key, chunk.keys[0]) == (5, False, b"key:0000")
    sender.source.close()
    assert not sender.source.answer(question(), sender.chunks.append)


def test_an_empty_state_at_the_beginning_is_not_given_for_ever(hands: Hands, tmp_path: Path) -> None:
    """Its index is 0, as of a question for any; whoever needs a later one gets it once there is one."""
    LmdbKvStore.create(tmp_path / "empty", IDENTITY, MEMBERSHIP)
    with closing(LmdbKvStore.open(tmp_path / "empty")) as store:
        sender = Sender(hands, store)
        assert sender.all_of(question(floor=3)) == (0, {})
        checkpoint(store, large(3, b"w"), 9)
        assert sender.all_of(question(floor=3)) == (9, large(3, b"w"))
        sender.source.close()


def test_every_piece_names_the_configuration_of_its_checkpoint(hands: Hands, store: LmdbKvStore) -> None:
    """And not that of a newer one, which may be written while the snapshot is given (openraft, issue 1808)."""
    sender = Sender(hands, store)
    assert sender.ask(question()).configuration is None
    for index, configuration in ((9, configured(6, "n1", "n2")), (12, configured(12, "n1"))):
        store.write_checkpoint(
            [], is_cleared=False, applied=base_at(index), membership=MEMBERSHIP, configuration=configuration
        )
        sender.ask(question(floor=index - 1))
    assert sender.ask(question(5, b"key:0003")).configuration is None
    assert sender.ask(question(9, b"key:0003")).configuration == configured(6, "n1", "n2")
    assert sender.ask(question(12, b"key:0019")).is_last
    assert sender.chunks[-1].configuration == configured(12, "n1")


def test_views_are_kept_while_they_are_asked_for(hands: Hands, store: LmdbKvStore) -> None:
    """The log behind them is held so long; then they go, but none that is being read."""
    sender = Sender(hands, store)
    sender.ask(question())
    hands.now += KEPT_S - 1
    sender.source.expire()
    assert sender.source.held() == 5
    sender.ask(question(5, b"key:0003"))
    hands.now += KEPT_S + 1
    sender.source.answer(question(5, b"key:0005"), sender.chunks.append)
    hands.now += KEPT_S + 1
    sender.source.expire()
    assert sender.source.held() == 5, "a piece is being read"
    hands.turn()
    sender.source.expire()
    assert sender.source.held() is None


def test_a_follower_that_is_too_slow_is_cut_off(hands: Hands, store: LmdbKvStore) -> None:
    """However often it asks: the file grows under its view, and at some size it begins again with a newer snapshot."""
    sender = Sender(hands, store)
    backups = BackupSource(hands)
    backups.read_from(store)
    sender.ask(question())
    assert backups.piece(Index(0), None) is not None
    checkpoint(store, large(20), 6)
    room = store.room()
    sender.source.expire(room)
    backups.expire(room)
    assert sender.source.held() == 5
    grown = replace(room, file_bytes=room.file_bytes + PINNED_BYTES_MAX + room.used_bytes)
    sender.source.answer(question(5), sender.chunks.append)
    sender.source.expire(grown)
    assert sender.source.held() == 5, "a piece is being read"
    hands.turn()
    sender.source.expire(grown)
    backups.expire(grown)
    assert sender.source.held() is None
    assert sender.ask(question(5, b"key:0003")).last_included_index == 6
    found = backups.piece(Index(5), b"key:0003")
    assert found is not None
    assert found[0].applied.point.index == 6
    backups.close()


def test_views_are_few(hands: Hands, store: LmdbKvStore) -> None:
    """The one that was asked for least recently makes room, and its snapshot starts over for who still wants it."""
    sender = Sender(hands, store)
    for index in range(6, 6 + VIEWS_MAX):
        sender.ask(question(floor=index - 2))
        hands.now += 1
        checkpoint(store, large(20), index)
    assert sender.source.held() == 5
    sender.ask(question(5))
    hands.now += 1
    sender.ask(question(floor=8))
    assert sender.source.held() == 5
    assert sender.ask(question(6, b"key:0001")).last_included_index != 6


def test_a_record_that_cannot_be_read_is_not_given(hands: Hands, store: LmdbKvStore) -> None:
    """The node is told: it cannot say what it holds."""
    sender = Sender(hands, store)
    sender.ask(question())
    sender.source._kept[Index(5)].view.close()
    sender.source.answer(question(5), sender.chunks.append)
    hands.turn()
    assert len(hands.failed) == 1
    assert len(sender.chunks) == 1


# -- a backup --------------------------------------------------------------------------------------------------------


def test_a_backup_reads_one_checkpoint(hands: Hands, store: LmdbKvStore) -> None:
    """While newer ones are written; when its own is gone it is told which one it is, from the first key."""
    source = BackupSource(hands)
    assert source.piece(Index(0), None) is None
    source.read_from(store)
    found = source.piece(Index(0), None)
    assert found is not None
    meta, items = found
    assert (meta.applied.point.index, items) == (5, items_of(large(20))[: len(items)])
    checkpoint(store, large(3), 6)
    found = source.piece(Index(5), items[-1][0])
    assert found is not None
    assert found[1][0] == items_of(large(20))[len(items)]
    hands.now += KEPT_S + 1
    source.expire()
    found = source.piece(Index(5), items[-1][0])
    assert found is not None
    assert (found[0].applied.point.index, found[1][0][0]) == (6, b"key:0000")
    source.close()


def test_views_of_backups_are_few(hands: Hands, store: LmdbKvStore) -> None:
    """However many checkpoints somebody has begun to read; two who read the same share one."""
    source = BackupSource(hands)
    source.read_from(store)
    for index in range(6, 15):
        for _ in range(2):
            assert source.piece(Index(0), None) is not None
        hands.now += 1
        checkpoint(store, large(1), index)
        assert len(source._kept) <= VIEWS_MAX
    source.close()
    assert source.piece(Index(0), None) is None


# -- the receiver ---------------------------------------------------------------------------------------------------


class Receiver:
    """A node of one entry that fetches, with its directory."""

    def __init__(self, hands: Hands, directory: Path) -> None:
        self.hands, self.directory = hands, directory
        directory.mkdir(exist_ok=True)
        self.asked: list[tuple[NodeId, FetchSnapshot]] = []
        self.ready: list[Snapshot] = []
        self.core = solo("1", term=1)["n1"]
        self.fetcher = SnapshotFetcher(
            self._begin, hands.worker(), hands, CrashPoints(), self._send, self.core, self.ready.append
        )

    def _begin(self, snapshot: Snapshot) -> KvInstaller:
        return KvInstaller.open(self.directory, KvMeta(1, IDENTITY, MEMBERSHIP, *snapshot))

    def _send(self, target: NodeId, message: NodeMessage) -> None:
        assert isinstance(message, FetchSnapshot)
        self.asked.append((target, message))

    def fetch_from(self, sender: Sender, pieces: int = 1000) -> None:
        """Have the sender answer what is asked, for so many pieces or until the snapshot is whole."""
        while pieces and not self.ready and self.fetcher.is_active:
            pieces -= 1
            target, asked = self.asked[-1]
            before = len(self.asked)
            self.fetcher.received(target, sender.ask(asked))
            while len(self.asked) == before and not self.ready and self.fetcher.is_active:
                self.hands.turn()


@pytest.fixture
def receiver(hands: Hands, tmp_path: Path) -> Receiver:
    """A node that needs a snapshot."""
    return Receiver(hands, tmp_path / "receiver")


def test_a_snapshot_is_fetched_piece_by_piece(hands: Hands, store: LmdbKvStore, receiver: Receiver) -> None:
    """And is whole before the node lets go of what it has."""
    receiver.fetcher.tick()
    assert not receiver.asked
    receiver.fetcher.fetch(N2)
    receiver.fetcher.fetch(N2)
    assert [target for target, _ in receiver.asked] == [N2]
    receiver.fetch_from(Sender(hands, store))
    assert [snapshot.base.point.index for snapshot in receiver.ready] == [5]
    assert (receiver.fetcher.is_active, receiver.fetcher.installed) == (False, 1)
    swap(receiver.directory, None)
    assert read_kv(receiver.directory) == (5, large(20))


def test_a_piece_that_does_not_come_is_asked_for_again(hands: Hands, store: LmdbKvStore, receiver: Receiver) -> None:
    """From whoever leads then; a late one, one that comes twice, and one of elsewhere are not taken."""
    sender = Sender(hands, store)
    receiver.fetcher.fetch(N2)
    first = sender.ask(receiver.asked[-1][1])
    receiver.fetch_from(sender, 1)
    hands.now += PATIENCE_S / 2
    receiver.fetcher.tick()
    assert len(receiver.asked) == 2
    hands.now += PATIENCE_S
    receiver.fetcher.fetch(N3)
    receiver.fetcher.tick()
    assert receiver.asked[-1] == (N3, receiver.asked[-2][1])
    later = sender.ask(question(5, b"key:0015"))
    for wrong in (first, later, later._replace(last_included_index=Index(6))):
        receiver.fetcher.received(N3, wrong)
    receiver.fetcher.received(N2, sender.ask(receiver.asked[-1][1]))
    assert hands.is_idle(), "N2 is not asked any more"
    receiver.fetch_from(sender)
    swap(receiver.directory, None)
    assert read_kv(receiver.directory) == (5, large(20))


def test_a_piece_that_comes_while_another_is_stored_is_not_taken(
    hands: Hands, store: LmdbKvStore, receiver: Receiver
) -> None:
    """Nor one when nothing is fetched: it was asked for in another life."""
    sender = Sender(hands, store)
    first = sender.ask(question())
    receiver.fetcher.received(N2, first)
    assert hands.is_idle()
    receiver.fetcher.fetch(N2)
    receiver.fetcher.received(N2, first)
    receiver.fetcher.received(N2, first)
    hands.turn(2)
    assert hands.is_idle()
    assert (receiver.fetcher.pieces, hands.failed) == (1, [])


def test_a_newer_snapshot_takes_the_place_of_one_that_is_fetched(
    hands: Hands, store: LmdbKvStore, receiver: Receiver
) -> None:
    """Its sender may have another: what was stored of the first one is of no use."""
    sender = Sender(hands, store)
    receiver.fetcher.fetch(N2)
    receiver.fetch_from(sender, 2)
    sender.source.close()
    checkpoint(store, large(9, b"w"), 9)
    sender.source.read_from(store)
    receiver.fetch_from(sender)
    swap(receiver.directory, None)
    assert read_kv(receiver.directory) == (9, large(9, b"w"))


@pytest.mark.parametrize("damage", ["record", "whole"])
def test_a_damaged_snapshot_is_never_ready(hands: Hands, store: LmdbKvStore, receiver: Receiver, damage: str) -> None:
    """A record that does not give its checksum; records that are not those announced. It is fetched again."""
    sender = Sender(hands, store)
    receiver.fetcher.fetch(N2)
    real = sender.ask

    def damaged(asked: FetchSnapshot) -> SnapshotChunk:
        chunk = real(asked)
        if damage == "record":
            return chunk._replace(values=[b"rot", *chunk.values[1:]])
        return chunk._replace(key_count=chunk.key_count + 1)

    sender.ask = damaged  # type: ignore[method-assign]
    receiver.fetch_from(sender)
    assert (receiver.fetcher.is_active, receiver.fetcher.is_finishing, receiver.ready) == (False, False, [])
    assert not (receiver.directory / "kv.new").exists()
    sender.ask = real  # type: ignore[method-assign]
    hands.is_idle()
    receiver.fetcher.fetch(N3)
    receiver.fetch_from(sender)
    assert len(receiver.ready) == 1


def test_a_snapshot_that_the_log_has_overtaken_is_let_go(hands: Hands, store: LmdbKvStore, receiver: Receiver) -> None:
    """Also while it is being stored: nothing is installed over what is newer."""
    sender = Sender(hands, store)
    receiver.fetcher.fetch(N2)
    chunk = sender.ask(question())
    receiver.fetcher.received(N2, chunk._replace(last_included_index=Index(0)))
    assert not receiver.fetcher.is_active
    receiver.fetcher.fetch(N2)
    receiver.fetch_from(sender, 1)
    receiver.fetcher.received(N2, chunk._replace(last_included_index=Index(0)))
    assert not receiver.fetcher.is_active
    hands.turn()
    assert receiver.ready == []


def test_a_snapshot_comes_with_its_configuration(hands: Hands, store: LmdbKvStore, receiver: Receiver) -> None:
    """It is in the state that waits to be swapped in, and whoever installs it is told."""
    configuration = configured(6, "n1", "n2")
    store.write_checkpoint([], is_cleared=False, applied=base_at(9), membership=MEMBERSHIP, configuration=configuration)
    receiver.fetcher.fetch(N2)
    receiver.fetch_from(Sender(hands, store))
    assert [snapshot.configuration for snapshot in receiver.ready] == [configuration]
    swap(receiver.directory, None)
    assert read_checkpoint(receiver.directory).stored_configuration == configuration


@pytest.mark.parametrize("when", ["at its first piece", "at a later piece"])
def test_a_snapshot_with_a_stale_configuration_is_refused(
    hands: Hands, store: LmdbKvStore, receiver: Receiver, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """It names the fixed one, and here another is committed; nobody is asked again at once."""
    receiver.fetcher.fetch(N2)
    sender = Sender(hands, store)
    if when == "at a later piece":
        receiver.fetch_from(sender, 1)
    _, asked = receiver.asked[-1]
    raft = receiver.core
    raft.install_snapshot(base_at(4), configured(3, "n1", "n2"))
    receiver.fetcher.received(N2, sender.ask(asked))
    assert not receiver.fetcher.is_active
    (refused,) = [record.fields for record in caplog.records if record.message == "snapshot_refused"]  # type: ignore[attr-defined]
    assert (refused["source"], refused["index"]) == (N2, 5)
    assert refused["reason"] == "it names the configuration at 0, and this log has another one there"
    receiver.fetcher.fetch(N2)
    assert not receiver.fetcher.is_active
    hands.now += REFUSED_S
    receiver.fetcher.fetch(N2)
    assert receiver.fetcher.is_active
    assert receiver.ready == []
