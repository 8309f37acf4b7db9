"""Several cores, their disks, the messages between them and the time, all in the hands of a test.

Nothing happens by itself: a test lets a timer run out, delivers or loses a message, flushes a write. After every event
the node's own invariants (``raft/invariants.py``) and the cluster's (``raft_checks.py``) are checked, so every test of
the algorithm is also a test of its safety. One seed makes one history.

A node listed in ``voters`` but not in ``real`` is played by the test: ``tell`` speaks for it, ``sent`` hears for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar, Unpack

from durable_raft.raft import invariants
from durable_raft.raft.changes import Step
from durable_raft.raft.configuration import NO_MEMBERS
from durable_raft.raft.core import Raft
from durable_raft.raft.messages import Envelope, Message
from durable_raft.raft.ready import Ready, Write
from durable_raft.raft.types import (
    Base,
    Entry,
    Index,
    LogPoint,
    NodeId,
    RaftConfig,
    Role,
)
from tests.support.raft_checks import Figure3, highest_commit, ready_of, require
from tests.support.raft_disk import Disk
from tests.support.raft_nodes import Limits, Node, OpenRead, Packet, Pending, configuration_of, disk_uuid
from tests.support.raft_trace import event_words, message_words, write_words

T = TypeVar("T")


class Cluster:
    """See the module docstring."""

    def __init__(
        self,
        voters: str = "n1 n2 n3",
        *,
        joiners: str = "",
        real: str | None = None,
        disks: Mapping[str, Disk] | None = None,
        seed: int = 0,
        keeps_trace: bool = True,
        **limits: Unpack[Limits],
    ) -> None:
        """Start every real node from its disk (an empty one unless given); ``limits`` are ``RaftConfig`` fields.

        ``joiners`` run, too, and were told of no members: they wait to be added.
        """
        names = tuple(NodeId(name) for name in sorted(voters.split()))
        self.now = 1_000
        self.rng = random.Random(f"cluster {seed}")
        self.seed = seed
        self.trace: list[str] = []
        self.keeps_trace = keeps_trace
        self.defers_work = False
        """While True events only gather in the cores: several steps before one Ready, as on a busy event loop."""
        self.counts: dict[str, int] = {}
        """How often each event was seen: shows that a random walk reached what it should."""
        self.packets: list[Packet] = []
        self.offers: list[tuple[NodeId, Index]] = []
        """Snapshots that were offered to any node: by whom, taken at which index."""
        self._cuts: set[tuple[NodeId, NodeId]] = set()
        self._read_id = 0
        self.nodes: dict[NodeId, Node] = {}
        first = configuration_of(names)
        waiting = [NodeId(name) for name in joiners.split()]
        for name in [*(names if real is None else [NodeId(name) for name in real.split()]), *waiting]:
            initial = NO_MEMBERS if name in waiting else first
            disk = (disks or {}).get(name) or Disk(is_voter=name not in waiting, node_uuid=disk_uuid(name, 1))
            config = RaftConfig(node_id=name, initial=initial, node_uuid=disk.node_uuid, **limits)
            self.nodes[name] = Node(name, config, disk)
        self.rules = Figure3(self.nodes.values(), sees_all_disks=len(self.nodes) == len(names) + len(waiting))
        for node in self.nodes.values():
            self.rules.entries_accepted(name, node.disk.all_entries())
            self._start(node)

    # -- looking --------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Raft:
        return self.node(name).core

    def node(self, name: str) -> Node:
        """Return the node ``name``, up or down."""
        return self.nodes[NodeId(name)]

    def role(self, name: str) -> Role:
        """Return the role of ``name``."""
        return self[name].role

    def disk(self, name: str) -> Disk:
        """Return what ``name`` has flushed."""
        return self.node(name).disk

    def up(self) -> list[Node]:
        """Return the nodes that run."""
        return [node for node in self.nodes.values() if node.raft is not None]

    def leader(self) -> str | None:
        """Return the leader of the highest term that has one now."""
        leaders = [node for node in self.up() if node.core.role is Role.LEADER]
        return max(leaders, key=lambda node: node.core.current_term).name if leaders else None

    def in_flight(self, name: str) -> list[Write]:
        """Return the writes of ``name`` that are not flushed."""
        return [waiting.write for waiting in self.node(name).pending if waiting.write is not None]

    def say(self, line: str) -> None:
        """Add a line to the trace."""
        if self.keeps_trace:
            self.trace.append(line)

    # -- events at one node ---------------------------------------------------------------------------------------

    def timeout(self, name: str) -> None:
        """Let time pass up to ``name``'s deadline, and let its timer (and nobody else's) run out.

        A campaign runs out without asking again before; ``run`` does ask.
        """
        node = self.node(name)
        state = node.core.state
        deadline = state.election_deadline if state.is_campaigning else node.core.deadline()
        self.now = max(self.now, deadline if deadline is not None else self.now)
        self.fire(node.name)

    def fire(self, name: str) -> None:
        """Call ``timeout`` of ``name`` now, due or not."""
        self._event(self.node(name), lambda raft: raft.timeout(self.now))

    def propose(self, name: str, payload: str) -> Entry | None:
        """Propose one batch; return its entry, None when ``name`` does not lead."""
        return self._event(self.node(name), lambda raft: raft.propose(payload.encode(), self.now))

    def change(self, name: str, *steps: Step, against: int | None = None) -> Entry:
        """Ask ``name`` for a change of the configuration that it goes by, or of the one at ``against``.

        Raises:
            ChangeRefused: as ``Raft.change``.
        """
        node = self.node(name)
        index = node.core.configuration.index if against is None else Index(against)
        return self._event(node, lambda raft: raft.change(self.now, index, steps))

    def transfer(self, name: str, target: str) -> None:
        """Have ``name`` hand its leadership to ``target``; raises as ``Raft.transfer``."""
        self._event(self.node(name), lambda raft: raft.transfer(self.now, NodeId(target)))

    def prefer(self, **priorities: int) -> None:
        """Start nodes anew with these election priorities, and have everybody know them who has a link."""
        for name, priority in priorities.items():
            node = self.node(name)
            node.config = replace(node.config, election_priority=priority)
            if node.raft is not None:
                self.crash(name)
                self.restart(name)
        self.link()

    def link(self) -> None:
        """Have every node that runs know which others run, and their election priorities."""
        for node in self.up():
            known = {other.name: other.config.election_priority for other in self.up() if other is not node}
            self._event(node, partial(Raft.peers_changed, now=self.now, priorities=known))

    def read(self, name: str, after: int = 0) -> int:
        """Ask for a linearizable read and return its id."""
        self._read_id += 1
        read_id = self._read_id
        node = self.node(name)
        floor = highest_commit(other.core for other in self.up())
        node.open_reads[read_id] = OpenRead(max(floor, after), max(node.core.log.last.index, after))
        self._event(node, lambda raft: raft.read(read_id, Index(after)))
        return read_id

    def tell(self, target: str, source: str, message: Message) -> None:
        """Hand ``message`` to ``target`` as if ``source`` had sent it."""
        self.say(f"{source} -> {target}  {message_words(message)}")
        self._event(self.nodes[NodeId(target)], lambda raft: raft.step(self.now, NodeId(source), message))

    def slow(self, name: str) -> None:
        """From now on ``name``'s writes stay in flight until flushed by hand."""
        self.node(name).is_slow = True

    def fast(self, name: str) -> None:
        """Flush all that is in flight at ``name``, and from now on each write at once."""
        node = self.node(name)
        node.is_slow = False
        self._work(node)

    def flush(self, name: str) -> None:
        """Flush the oldest write in flight at ``name``."""
        node = self.node(name)
        self._flush_oldest(node)
        self._work(node)

    def crash(self, name: str, *, reached_disk: int = 0) -> None:
        """Kill ``name``. ``reached_disk`` of its writes in flight are on the disk though nobody was told so."""
        node = self.node(name)
        for waiting in list(node.pending)[:reached_disk]:
            if waiting.write is not None:
                node.disk.persist(waiting.write)
        self.say(f"{name} crashes")
        node.raft = None
        node.dies_before_send = False
        node.offer = None
        node.pending.clear()
        node.applied.clear()
        node.open_reads.clear()

    def restart(self, name: str) -> None:
        """Start ``name`` from its disk."""
        self.say(f"{name} starts from its disk")
        self._start(self.node(name))

    def wipe(self, name: str, disk: Disk) -> None:
        """Put ``disk`` in the place of the one of ``name``, which is down."""
        node = self.node(name)
        require(node.raft is None, f"{name} runs: its disk cannot be replaced")
        node.disk = disk
        node.config = replace(node.config, node_uuid=disk.node_uuid)

    def scrub(self, name: str) -> None:
        """Have ``name`` find what is rotten on its disk."""
        node = self.node(name)
        lost = [node.disk.lost(index) for index in sorted(node.disk.rotten)]
        self._event(node, lambda raft: raft.lose(self.now, lost))

    def entries_read(self, name: str) -> None:
        """Have all entries at hand that another thread was reading for ``name``."""
        node = self.node(name)
        node.disk.unread.clear()
        self._event(node, lambda raft: raft.entries_read())

    def checkpoint(self, name: str, upto: int) -> None:
        """Have ``name``'s state durable at ``upto``, which it has applied, and its log begin behind it."""
        node = self.node(name)
        index = Index(upto)

        def compact(raft: Raft) -> None:
            raft.checkpointed(LogPoint(index, raft.log.term_at(index), raft.log.chain_at(index)))
            raft.compact(index)

        self._event(node, compact)
        node.disk.compact(upto)

    def install(self, name: str) -> None:
        """Have ``name`` go on from the snapshot that it was offered and has fetched by now."""
        node = self.node(name)
        offer, node.offer = node.offer, None
        if offer is None:
            raise LookupError(f"{name} was offered no snapshot")
        giver = self[offer.source].log
        base = Base(offer.point, giver._timestamp_at(offer.point.index))
        configuration = giver.configurations.stored_at(offer.point.index)
        self._event(node, lambda raft: raft.install_snapshot(base, configuration))

    # -- the network ----------------------------------------------------------------------------------------------

    def sent(self, source: str, target: str) -> list[Message]:
        """Take the messages on the way from ``source`` to ``target`` out of the network, oldest first."""
        link = (source, target)
        taken = [packet.message for packet in self.packets if (packet.source, packet.target) == link]
        self.packets = [packet for packet in self.packets if (packet.source, packet.target) != link]
        return taken

    def deliver(self, source: str, target: str) -> int:
        """Deliver what is on the way from ``source`` to ``target`` now; return how many messages that were."""
        messages = self.sent(source, target)
        for message in messages:
            self.arrive(Packet(NodeId(source), NodeId(target), message))
        return len(messages)

    def drop(self, source: str, target: str) -> int:
        """Lose what is on the way from ``source`` to ``target`` now; return how many messages that were."""
        messages = self.sent(source, target)
        for message in messages:
            self.say(f"{source} -> {target}  lost: {message_words(message)}")
        return len(messages)

    def settle(self) -> None:
        """Deliver everything, and what that causes, in the order it was sent, until nothing is on the way."""
        while self.packets:
            self.arrive(self.packets.pop(0))

    def arrive(self, packet: Packet) -> None:
        """Deliver one message that was taken out of ``packets``; lost when the link is cut or the target is down."""
        node = self.nodes.get(packet.target)
        if node is None or node.raft is None or (packet.source, packet.target) in self._cuts:
            if self.keeps_trace:
                self.say(f"{packet.source} -> {packet.target}  lost: {message_words(packet.message)}")
            return
        if self.keeps_trace:
            self.say(f"{packet.source} -> {packet.target}  {message_words(packet.message)}")
        self._event(node, lambda raft: raft.step(self.now, packet.source, packet.message))

    def partition(self, *groups: Iterable[str]) -> None:
        """Let only nodes of the same group hear each other; a node in no group is alone."""
        group_of = {NodeId(name): number for number, group in enumerate(groups) for name in group}
        self._cuts = {
            (a, b) for a in self.nodes for b in self.nodes if a != b and group_of.get(a, a) != group_of.get(b, b)
        }

    def cut(self, source: str, target: str) -> None:
        """Lose what ``source`` sends to ``target``, in this direction only."""
        self._cuts.add((NodeId(source), NodeId(target)))

    def heal(self) -> None:
        """Let everybody hear everybody."""
        self._cuts = set()

    # -- several events -------------------------------------------------------------------------------------------

    def elect(self, name: str) -> None:
        """Let ``name`` campaign and win with everything delivered."""
        for _ in range(3):
            self.timeout(name)
            self.settle()
            if self[name].role is Role.LEADER:
                return
        raise AssertionError(f"{name} was not elected: {self[name].role}, term {self[name].current_term}")

    def run(self, ms: int) -> None:
        """Let time pass on a network and disks without delay, jumping from deadline to deadline."""
        end = self.now + ms
        self.settle()
        while True:
            due = [(deadline, node.name) for node in self.up() if (deadline := node.core.deadline()) is not None]
            if not due or min(due)[0] > end:
                break
            deadline, name = min(due)
            self.now = max(self.now, deadline)
            self.fire(name)
            self.settle()
        self.now = end

    def run_until(self, holds: Callable[[], bool], ms: int) -> None:
        """Run until ``holds``; fail after ``ms`` of virtual time."""
        end = self.now + ms
        self.settle()
        while not holds():
            require(self.now < end, f"not within {ms} ms (seed {self.seed})")
            self.run(10)

    # -- working --------------------------------------------------------------------------------------------------

    def _start(self, node: Node) -> None:
        def observe(event: str, /, **fields: object) -> None:
            self.counts[event] = self.counts.get(event, 0) + 1
            if self.keeps_trace:
                self.say(f"    {node.name} {event_words(event, fields)}")

        if node.disk.place:
            node.disk.starts += 1
            life = f"{node.disk.place[:4].decode():4}{node.disk.starts:4}".encode()
            node.config = replace(node.config, life=life, place=node.disk.place)
        stored = node.disk.load()
        rng = random.Random(f"{self.seed} {node.name} {self.now}")
        node.raft = Raft(node.config, stored, node.disk, rng, self.now, observe)
        invariants.check_state(node.raft.state)

    def _event(self, node: Node, act: Callable[[Raft], T]) -> T:
        raft = node.core
        before = invariants.observe(raft.state)
        result = act(raft)
        self._check(node, raft, before)
        if not self.defers_work:
            self._work(node)
        return result

    def _check(self, node: Node, raft: Raft, before: invariants.Observed) -> None:
        invariants.check_state(raft.state)
        invariants.check_transition(before, invariants.observe(raft.state))
        if raft.role is Role.LEADER and (before.role is not Role.LEADER or before.current_term != raft.current_term):
            self.rules.leader_elected(node.name, raft)
        if raft.log.commit_index > before.commit_index:
            self.say(f"    {node.name} commits {before.commit_index + 1}..{raft.log.commit_index}")
            self.rules.committed_upto(node.name, raft, before.commit_index)

    def _work(self, node: Node) -> None:
        """Do what the core asks for, in the order that raft/ready.py gives."""
        raft = node.core
        while True:
            before = invariants.observe(raft.state)
            self._do(node, ready_of(raft, self.now))
            if node.raft is None:
                return
            self._check(node, raft, before)
            if node.pending and (not node.is_slow or node.pending[0].write is None):
                self._flush_oldest(node)
            elif not raft.has_more():
                return

    def _do(self, node: Node, ready: Ready) -> None:
        if ready.write is not None:
            self.rules.entries_accepted(node.name, ready.write.entries)
            if node.is_slow:
                self.say(f"    {node.name} hands to its disk: {write_words(ready.write)}")
        if ready.write is not None or ready.messages_after_write:
            node.pending.append(Pending(ready.write, ready.messages_after_write))
        if node.dies_before_send and ready.write is not None:
            self.say(f"    {node.name} has on its disk: {write_words(ready.write)}")
            self.crash(node.name, reached_disk=len(node.pending))
            return
        self._post(node, ready.messages)
        if ready.offer is not None:
            self.say(
                f"    {node.name} begins to fetch the snapshot at {ready.offer.point.index} from {ready.offer.source}"
            )
            self.offers.append((ready.offer.source, ready.offer.point.index))
            node.offer = ready.offer
        for entry in ready.committed:
            self.rules.entry_applied(node.name, entry)
            node.applied.append(entry)
        self._answer(node, ready)

    def _answer(self, node: Node, ready: Ready) -> None:
        for read in ready.reads:
            asked = node.open_reads.pop(read.read_id)
            self.say(f"    {node.name} answers read {read.read_id} at {read.read_index}")
            require(read.read_index >= asked.floor, f"read {read.read_id} at {read.read_index} misses {asked.floor}")
            require(read.read_index <= asked.ceiling, f"read {read.read_id} at {read.read_index} sees a later write")
            node.answered.append(read)
        for read_id in ready.lost_reads:
            del node.open_reads[read_id]
            self.say(f"    {node.name} gives read {read_id} back: it does not lead")
            node.lost_reads.append(read_id)
        applied = node.core.log.last_applied
        for read_id, asked in node.open_reads.items():
            require(applied <= asked.ceiling, f"read {read_id} still waits, and {applied} was applied after it")

    def _flush_oldest(self, node: Node) -> None:
        waiting = node.pending.popleft()
        raft = node.core
        if waiting.write is not None:
            node.disk.persist(waiting.write)
            if node.is_slow:
                self.say(f"    {node.name} has on its disk: {write_words(waiting.write)}")
        self._post(node, waiting.messages)
        if waiting.write is not None:
            number = waiting.write.number
            before = invariants.observe(raft.state)
            raft.persisted(self.now, number)
            self._check(node, raft, before)

    def _post(self, node: Node, envelopes: list[Envelope]) -> None:
        for envelope in envelopes:
            self.rules.message_leaves(node, envelope.target, envelope.message)
            self.packets.append(Packet(node.name, envelope.target, envelope.message))
