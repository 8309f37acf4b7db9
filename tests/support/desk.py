"""One node without its process: a real core, machine and dispatcher, whose disk, peers and clients the test plays."""

from __future__ import annotations

import random

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.machine import Machine
from durable_raft.raft.core import Raft
from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.types import Entry, EntryKind, Index, Member, NodeId, RaftConfig, Role, Term
from durable_raft.server.dispatch import QUICK_COMMIT_S, Dispatcher, DispatchLimits
from durable_raft.server.pending import Slot
from tests.support.raft_checks import ready_of
from tests.support.raft_disk import Disk
from tests.support.raft_solo import accepted, vote

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
MEMBERS = [Member(node, f"127.0.0.1:700{node[1]}", f"127.0.0.1:1700{node[1]}") for node in (N1, N2, N3)]
HOLD_S = 2.0


class Client:
    """A connection: sends commands, collects replies."""

    def __init__(self, desk: Desk, *, is_readonly: bool = False) -> None:
        self._desk = desk
        self.writes_outstanding = 0
        self.batched = 0
        self.is_readonly = is_readonly
        self.slots: list[Slot] = []

    def became_answered(self, reply_bytes: int) -> None:
        """Replies are read from the slots."""

    def send(self, *commands: str) -> None:
        """Send commands, all in one turn of the loop; a batch that is in flight by then has been so for a while."""
        self._desk.now += QUICK_COMMIT_S
        for command in commands:
            args = [word.encode() for word in command.split()]
            slot = Slot(self, 2)
            self.slots.append(slot)
            self._desk.dispatcher.take(slot, COMMANDS[args[0]], [args])
        self._desk.turn()

    def send_run(self, *commands: str) -> None:
        """Send commands of one name as one run."""
        run = [[word.encode() for word in command.split()] for command in commands]
        slot = Slot(self, 2, len(run))
        self.slots.append(slot)
        self._desk.dispatcher.take(slot, COMMANDS[run[0][0]], run)
        self._desk.turn()

    @property
    def replies(self) -> list[bytes | None]:
        """The replies so far, None for those still owed."""
        return [slot.reply for slot in self.slots]


class Desk:
    """Node n1 without its process: core, machine, dispatcher, and the order of one turn as server/node.py has it."""

    def __init__(self, *, pending_bytes_max: int = 1 << 20) -> None:
        self.now = 10.0
        self.time_of_day_ms = 1_000_000
        self.disk = Disk("")
        config = RaftConfig(N1, (N1, N2, N3))
        self.raft = Raft(config, self.disk.load(), self.disk, random.Random(7), self.now_ms)
        self.machine = Machine(random.Random(8))
        self.unreachable: set[NodeId] = set()
        self.proposed: list[Entry] = []
        self.dispatcher = Dispatcher(
            self.raft,
            self.machine,
            MEMBERS,
            DispatchLimits(HOLD_S, pending_bytes_max, batch_bytes_max=1 << 20),
            (lambda: self.now, lambda: self.time_of_day_ms),
            lambda: None,
            lambda node: node not in self.unreachable,
        )

    @property
    def now_ms(self) -> int:
        """Monotonic time as the core takes it."""
        return int(self.now * 1000)

    def turn(self) -> None:
        """One turn: propose, persist at once, apply with the reads in their places."""
        for _ in range(4):
            self.dispatcher.propose_due()
            ready = ready_of(self.raft, self.now_ms)
            if ready.write is not None:
                self.proposed += [e for e in ready.write.entries if e.kind is EntryKind.COMMANDS]
                self.disk.persist(ready.write)
                self.raft.persisted(self.now_ms, ready.write.number)
            self.dispatcher.give_back_reads(ready.lost_reads)
            reads = list(ready.reads)
            for entry in ready.committed:
                while reads and reads[0].read_index < entry.index:
                    self.dispatcher.answer_reads(reads.pop(0).read_id)
                self.dispatcher.apply(entry)
            for read in reads:
                self.dispatcher.answer_reads(read.read_id)
            self.dispatcher.is_caught_up = self.dispatcher.is_caught_up or bool(ready.committed)

    def lead(self) -> None:
        """Have n1 elected by n2, and its no-op committed."""
        self.now += 1.0
        self.raft.timeout(self.now_ms)
        self.raft.step(self.now_ms, N2, vote(self.raft.current_term + 1, pre_vote=True))
        self.turn()
        self.raft.step(self.now_ms, N2, vote(self.raft.current_term))
        assert self.raft.role is Role.LEADER
        self.dispatcher.leadership_changed()
        self.turn()
        self.acknowledge()

    def acknowledge(self) -> None:
        """n2 has flushed all that n1 has, and has heard its newest round."""
        last, read_round = self.raft.log.last.index, self.raft.state.read_round
        self.raft.step(self.now_ms, N2, accepted(self.raft.current_term, last, read_round))
        self.turn()

    def follow(self, leader: NodeId, *entries: Entry, term: int | None = None, after: int | None = None) -> None:
        """n1 hears ``leader``, of the next term unless given, which sends ``entries`` and has committed them."""
        log = self.raft.log
        term = self.raft.current_term + 1 if term is None else term
        previous = Index(log.last.index if after is None else after)
        message = AppendEntries(
            Term(term),
            previous,
            log.term_at(previous),
            log.chain_at(previous),
            entries,
            entries[-1].index if entries else Index(0),
            0,
        )
        self.raft.step(self.now_ms, leader, message)
        self.dispatcher.leadership_changed()
        self.turn()

    def client(self, *, is_readonly: bool = False) -> Client:
        """Return a new connection."""
        return Client(self, is_readonly=is_readonly)

    def wait(self, seconds: float) -> None:
        """Let time pass, and have the dispatcher look at its deadlines."""
        self.now += seconds
        self.time_of_day_ms += int(seconds * 1000)
        self.dispatcher.expire()
        self.turn()
