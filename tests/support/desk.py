"""One real node without its process: the real ``server.node.Node`` on a real directory, in the hands of a test.

The test plays what the node takes from the world (server/platform.py): its clocks, its loop, its links, its threads and
its clients. Nothing happens by itself. ``turn`` runs what the loop has to do now, ``wait`` lets time pass. ``effects``
says what the node did to the world, in order.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from durable_raft.kv.machine import Machine
from durable_raft.raft.core import Raft
from durable_raft.raft.messages import AppendEntries, IntroduceResponse, Message
from durable_raft.raft.ready import Write
from durable_raft.raft.types import Entry, EntryKind, Identity, Index, Member, Membership, NodeId, Role, Term
from durable_raft.raft.versions import OURS
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.large_entries import LARGE_BYTES
from durable_raft.server.log_writer import Flushed, LogWriter
from durable_raft.server.node import Node
from durable_raft.server.peers import LinkEvents
from durable_raft.server.settings.config import NodeConfig, Seeds
from durable_raft.server.slices import STEPS_MAX, Steps
from durable_raft.server.start.opening import open_node
from durable_raft.server.start.recovery import NodeData
from durable_raft.storage.log.log_store import LogStore
from durable_raft.wire.messages import AskTime, NodeMessage, TellMembers
from tests.support.desk_client import Client
from tests.support.desk_links import DeskLink, DeskLinks
from tests.support.played_clocks import PlayedClocks
from tests.support.raft_solo import accepted, vote
from tests.support.raft_trace import write_words

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
MEMBERS = tuple(Member(node, f"127.0.0.1:700{node[1]}", f"127.0.0.1:1700{node[1]}") for node in (N1, N2, N3))
HOLD_S = 2.0
LOOK_S = 0.3
"""Longer than from one of the node's looks at its deadlines to the next."""

Callback = Callable[..., object]
T = TypeVar("T")


class _Timer:
    """What ``call_at`` returns."""

    def __init__(self, callback: Callback, args: tuple[Any, ...]) -> None:
        self.callback: Callback | None = callback
        self.args = args

    def cancel(self) -> None:
        """Never call."""
        self.callback = None


class _Loop:
    """The event loop, whose time is the desk's."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.soon: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._number = 0

    def call_soon(self, callback: Callback, /, *args: Any) -> None:
        self.soon.append((callback, args))

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callback, /, *args: Any) -> _Timer:
        timer = _Timer(callback, args)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, timer))
        return timer

    def call_later(self, delay: float, callback: Callback, /, *args: Any) -> _Timer:
        return self.call_at(self._desk.now + delay, callback, *args)

    def next_due(self) -> float | None:
        """Return when the next timer rings."""
        return self._timers[0][0] if self._timers else None

    def ring(self) -> None:
        """Call what the next timer was set for."""
        _, _, timer = heapq.heappop(self._timers)
        if timer.callback is not None:
            timer.callback(*timer.args)


class _LogWriter(LogWriter):
    """The real log writer, whose thread is the desk's turn."""

    def __init__(
        self,
        desk: Desk,
        store: LogStore,
        on_flushed: Callable[[Flushed], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(store, desk, desk.crash_points, on_flushed, on_failed)
        self._desk = desk

    def start(self) -> None:
        """There is no thread."""

    def submit(self, write: Write) -> None:
        self._desk.note(f"hands to the log writer: {write_words(write)}")
        super().submit(write)

    def _persisted(self, group: list[Write]) -> Flushed:
        flushed = super()._persisted(group)
        self._desk.note(f"has on its disk: {'; '.join(write_words(write) for write in group)}")
        return flushed

    def work(self) -> bool:
        """Flush what waits; return whether anything did."""
        if self._queue.empty():
            return False
        self._flush_next_group()
        return True

    def stop(self, timeout_s: float) -> bool:
        """There is no thread."""
        del timeout_s
        return True


class _Worker:
    """Does its work at once."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    def start(self) -> None:
        """There is no thread."""

    def submit(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        self._loop.call_soon(done, work())

    def settle(self) -> None:
        """Nothing is under way."""

    def stop(self, timeout_s: float) -> bool:
        """There is no thread."""
        del timeout_s
        return True


class _Recorder:
    """Records nothing."""

    def note(self, name: str, /, **fields: object) -> None:
        """Nothing is kept."""

    def recovered(self, raft: Raft) -> None:
        """Nothing is kept."""

    def progress(self, raft: Raft) -> None:
        """Nothing is kept."""


class Desk:
    """Node n1 among played peers; a ``server.platform.Platform`` and the clock of it."""

    def __init__(
        self,
        data: NodeData,
        config: NodeConfig,
        slice_steps: int = STEPS_MAX,
        timeless: frozenset[NodeId] = frozenset(),
    ) -> None:
        self.now = 10.0
        self.time_of_day_ms = 1_000_000
        self.clock = self
        self.loop = _Loop(self)
        self.rng = random.Random(7)
        self.life = b""
        self.versions = OURS
        self.slice_steps = slice_steps
        self.large_bytes = LARGE_BYTES
        self.crash_points = CrashPoints()
        self.recorder = _Recorder()
        self.unreachable: set[NodeId] = set()
        self.clocks = PlayedClocks(set(timeless))
        self.told: list[tuple[NodeId, TellMembers]] = []
        """Whom the node told who the members are."""
        self.effects: list[str] = []
        """What the node did to the world, in words."""
        self._clients: list[Client] = []
        self._writer: _LogWriter
        self._events: LinkEvents
        self.node = Node(config, data, self, self._reply, self._fatal)
        self._note_applied()
        self._store = data.log_store
        start = self.node.start()
        try:
            start.send(None)
        except StopIteration:
            self.turn()
            return
        raise AssertionError("the start of a node waits for something")

    # -- the platform ---------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Return the desk's time."""
        return self.now

    def time_of_day_ns(self) -> int:
        """Return the desk's time of day."""
        return self.time_of_day_ms * 1_000_000

    def sleep(self, seconds: float) -> None:
        """Time passes only by the test's hand."""

    def links(self, identity: Identity, members: Sequence[Member], rng: random.Random, events: LinkEvents) -> DeskLinks:
        """Return links to peers that the test plays."""
        del rng
        self._events = events
        return DeskLinks(self, identity.node_id, members)

    def log_writer(
        self, store: LogStore, on_flushed: Callable[[Flushed], None], on_failed: Callable[[BaseException], None]
    ) -> _LogWriter:
        """Return a log writer that works in ``turn``."""
        self._writer = _LogWriter(self, store, on_flushed, on_failed)
        return self._writer

    def worker(self, name: str, on_failed: Callable[[BaseException], None]) -> _Worker:
        """Return a worker that does everything at once."""
        del name, on_failed
        return _Worker(self.loop)

    def note(self, effect: str) -> None:
        """Keep what the node did."""
        self.effects.append(effect)

    def _note_applied(self) -> None:
        """Keep what is applied, too; the dispatcher's own ``apply`` does the rest."""
        apply = self.dispatcher.apply

        def noted(entry: Entry) -> Steps:
            self.note(f"applies {entry.index}/t{entry.term}")
            return apply(entry)

        self.dispatcher.apply = noted  # type: ignore[method-assign]

    def _reply(self) -> None:
        for client in self._clients:
            for reply in client.flush():
                self.note(f"replies {reply.decode().strip()!r}")

    def _fatal(self, error: BaseException) -> None:
        raise error

    # -- what the node is made of ---------------------------------------------------------------------------------

    @property
    def raft(self) -> Raft:
        """The node's core."""
        return self.node.raft

    @property
    def dispatcher(self) -> Dispatcher:
        """The node's dispatcher."""
        return self.node.dispatcher

    @property
    def machine(self) -> Machine:
        """The node's machine."""
        return self.node.keeper.machine

    @property
    def proposed(self) -> list[Entry]:
        """The batches of commands in the log."""
        log = self.raft.log
        if log.last.index < log.first_index:
            return []
        entries = log.entries(log.first_index, Index(log.last.index + 1), 1 << 30)
        return [entry for entry in entries if entry.kind is EntryKind.COMMANDS]

    @property
    def now_ms(self) -> int:
        """Monotonic time as the core takes it."""
        return int(self.now * 1000)

    # -- events ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Run the loop and the log writer until neither has anything to do now."""
        while True:
            while self.loop.soon:
                callback, args = self.loop.soon.popleft()
                callback(*args)
            if not self._writer.work():
                return

    def arrive(self, source: NodeId, message: NodeMessage) -> None:
        """Have n1 hear a peer, and the loop not turn yet."""
        self._events.receive(source, message)

    def half_turn(self) -> None:
        """Run what the loop has to do now, and nothing that this asks for."""
        for _ in range(len(self.loop.soon)):
            callback, args = self.loop.soon.popleft()
            callback(*args)

    def hear(self, source: NodeId, message: Message) -> None:
        """Have n1 hear a peer."""
        self._events.receive(source, message)
        self.turn()

    def asked_time(self, peer: NodeId, question: AskTime) -> None:
        """A peer that can be reached tells n1 the time, in the next turn."""
        answer = self.clocks.answer(peer, question, self.time_of_day_ms)
        if answer is not None and peer not in self.unreachable:
            self.loop.call_soon(self._events.receive, peer, answer)

    def wait(self, seconds: float) -> None:
        """Let time pass; timers ring when they are due."""
        end = self.now + seconds
        while (due := self.loop.next_due()) is not None and due <= end:
            self.be_paused(max(0.0, due - self.now))
            self.loop.ring()
            self.turn()
        self.be_paused(max(0.0, end - self.now))

    def write(self) -> None:
        """Have the log writer write what it was given, and the loop not turn."""
        self._writer.work()

    def ring_until(self, seconds: float, holds: Callable[[], bool]) -> None:
        """Let time pass until ``holds``, which it does behind a timer; the loop has not turned since that one rang."""
        end = self.now + seconds
        while not holds():
            due = self.loop.next_due()
            assert due is not None, "no timer is set"
            assert due <= end, "it does not come about"
            self.turn()
            self.be_paused(max(0.0, due - self.now))
            self.loop.ring()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Let time pass until ``holds``, at most ten seconds."""
        end = self.now + 10.0
        while not holds():
            assert self.now < end, "it does not come about"
            self.wait(0.005)

    def be_paused(self, seconds: float) -> None:
        """Let time pass, and no timer ring."""
        self.now += seconds
        self.time_of_day_ms += round(seconds * 1000)

    def refuse_as_removed(self, peer: NodeId) -> None:
        """``peer`` refuses the link, and says why."""
        link = self.node.peers.links[peer]
        assert isinstance(link, DeskLink)
        link.is_refused_as_removed = True
        self._events.changed()
        self.turn()

    def cut_off(self, peer: NodeId) -> None:
        """The link to ``peer`` goes down."""
        self.unreachable.add(peer)
        self._events.changed()
        self.turn()

    def reconnect(self, peer: NodeId) -> None:
        """The link to ``peer`` comes up again."""
        self.unreachable.discard(peer)
        self._events.joined(peer)
        self._events.changed()
        self.turn()

    def become_voter(self) -> None:
        """Both peers answer to the introduction of n1's new disk that they never knew another."""
        for peer in (N2, N3):
            uuid = self._store.identity.node_uuid
            self.hear(peer, IntroduceResponse(uuid, False, peer.encode().ljust(16)))
        assert self.raft.is_voter

    def lead(self) -> None:
        """Have n1 elected by n2, and its no-op committed."""
        self.wait_until(lambda: self.raft.role is Role.PRE_CANDIDATE)
        self.hear(N2, vote(self.raft.current_term + 1, pre_vote=True))
        self.hear(N2, vote(self.raft.current_term))
        assert self.raft.role is Role.LEADER
        self.acknowledge()

    def lose_quorum(self) -> None:
        """Nobody answers n1, which leads, until it steps down."""
        assert self.raft.role is Role.LEADER
        self.wait_until(lambda: self.raft.role is not Role.LEADER)

    def acknowledge(self, peer: NodeId = N2) -> None:
        """``peer`` has flushed all that n1 has, and has heard its newest round."""
        last, read_round = self.raft.log.last.index, self.raft.state.read_round
        self.hear(peer, accepted(self.raft.current_term, last, read_round))

    def follow(
        self,
        leader: NodeId,
        *entries: Entry,
        term: int | None = None,
        after: int | None = None,
        commit: int | None = None,
    ) -> None:
        """n1 hears ``leader``, of the next term unless given, which sends ``entries``.

        It has committed up to ``commit``; when that is not given, all that it sends.
        """
        self.hear(leader, self._append(*entries, term=term, after=after, commit=commit))

    def begin_to_follow(self, leader: NodeId, *, after: int | None = None) -> None:
        """n1 hears ``leader``, of the next term, and the loop does not turn yet."""
        self.arrive(leader, self._append(after=after))

    def _append(
        self, *entries: Entry, term: int | None = None, after: int | None = None, commit: int | None = None
    ) -> AppendEntries:
        log = self.raft.log
        term = self.raft.current_term + 1 if term is None else term
        previous = Index(log.last.index if after is None else after)
        return AppendEntries(
            Term(term),
            previous,
            log.term_at(previous),
            log.chain_at(previous),
            entries,
            Index(commit if commit is not None else entries[-1].index if entries else 0),
            0,
        )

    def client(self, *, is_readonly: bool = False) -> Client:
        """Return a new connection."""
        client = Client(self, is_readonly=is_readonly)
        self._clients.append(client)
        return client


def _config(place: Path, membership: Membership, pending_bytes_max: int = 1 << 20, **settings: Any) -> NodeConfig:
    return NodeConfig(
        node_id=N1,
        directory=place,
        client_host="127.0.0.1",
        client_port=7001,
        peer_host="127.0.0.1",
        peer_port=17001,
        membership=membership,
        client_hold_ms=int(HOLD_S * 1000),
        request_bytes_max=pending_bytes_max,
        pending_bytes_max=pending_bytes_max,
        **settings,
    )


@contextmanager
def desk_at(
    place: Path,
    *,
    pending_bytes_max: int = 1 << 20,
    slice_steps: int = STEPS_MAX,
    timeless: frozenset[NodeId] = frozenset(),
    membership: Membership | None = None,
    **settings: Any,
) -> Iterator[Desk]:
    """Give node n1 on a directory at ``place``, a voter that knows no leader; it is stopped afterwards."""
    config = _config(place, membership or Membership(MEMBERS), pending_bytes_max, **settings)
    data = open_node(config)
    try:
        desk = Desk(data, config, slice_steps, timeless)
        desk.become_voter()
        yield desk
        assert desk.node.stop()
    finally:
        data.log_store.close()


@contextmanager
def joiner_at(place: Path, seeds: Seeds) -> Iterator[Desk]:
    """Give node n1 on a new directory at ``place``, which waits to be added to a cluster with ``seeds``."""
    config = _config(place, Membership(MEMBERS[:1]), join="127.0.0.1:7002", seeds=seeds)
    data = open_node(config)
    try:
        desk = Desk(data, config)
        yield desk
        assert desk.node.stop()
    finally:
        data.log_store.close()
