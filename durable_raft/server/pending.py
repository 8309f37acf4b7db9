"""What clients wait for: replies owed in order, commands that wait to be proposed, batches whose fate is open.

The order a connection sees follows from one rule: a read of a connection that has anything in a batch travels in the
batch behind it and is executed at its place when the batch is applied; any other read goes by ReadIndex, and is
registered before any write that its connection sends later is proposed (raft/reads.py says why that suffices).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from durable_raft.kv.batch import encode_batch
from durable_raft.kv.commands import CommandSpec
from durable_raft.kv.large_batch import LARGE_BYTES, BatchEncoder
from durable_raft.kv.replies import Reply, Simple
from durable_raft.kv.runs import Run, joined, may_join
from durable_raft.raft.types import Term
from durable_raft.wire.resp import RESP2, encode_in_pieces, encode_replies, encode_reply

BATCH_COMMANDS_MAX = 2000
"""Writes in one entry, about: every node decodes them in one go, a millisecond."""

NO_REPLY = 0
"""In place of a RESP version: the client asked for no reply (CLIENT REPLY OFF)."""


class Owner(Protocol):
    """A connection, as far as the commands it waits for know it. Its two counts are changed by its slots only."""

    writes_outstanding: int
    """Runs of writes of this connection that were taken in and have no reply yet."""
    batched: int
    """Runs of this connection, of reads too, that stand in a batch and have no reply yet."""

    @property
    def is_readonly(self) -> bool:
        """Whether READONLY was given: reads may be answered from this replica's own, possibly stale, state."""

    def expect_reply(self, reply_bytes: int) -> bool:
        """Note that a reply which is being made has so many bytes already; return whether it still waits for it."""

    def became_answered(self, reply_bytes: int) -> None:
        """Note that a slot is filled, and how many bytes it took."""


class Queued:
    """How much of the node's memory the commands take that were taken in and have no reply yet."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        self.size_bytes = 0


class Slot:
    """The reply to one command, or the replies to a run, that a connection is owed; they leave in the slots' order."""

    __slots__ = (
        "_added",
        "_added_bytes",
        "_is_batched",
        "_is_write",
        "_queued",
        "owed",
        "owner",
        "protocol",
        "queued_bytes",
        "reply",
    )

    def __init__(self, owner: Owner, protocol: int, owed: int = 1) -> None:
        self.owner = owner
        self.protocol = protocol
        """RESP version that was spoken when the commands came, or ``NO_REPLY``."""
        self.owed = owed
        """How many replies."""
        self.reply: bytes | list[bytes] | None = None
        """All of them encoded, one after the other, in pieces when they are large; None while they are owed."""
        self._is_write = self._is_batched = False
        self._queued: Queued | None = None
        self.queued_bytes = 0
        self._added: list[bytes] = []
        """Encoded replies of the run that come before others of it."""
        self._added_bytes = 0

    @property
    def is_filled(self) -> bool:
        """Whether no reply is owed any more."""
        return self.reply is not None

    def enter_queue(self, queued: Queued, size_bytes: int) -> None:
        """Count the run's memory until it is answered."""
        self._queued, self.queued_bytes = queued, size_bytes
        queued.size_bytes += size_bytes

    def expect_write(self) -> None:
        """Count the run as a write of its owner's until it is answered."""
        self._is_write = True
        self.owner.writes_outstanding += 1

    def enter_batch(self) -> None:
        """Count the run as one that stands in a batch, until it leaves it or is answered."""
        self._is_batched = True
        self.owner.batched += 1

    def leave_batch(self) -> None:
        """Count the run out of its batch, if it stands in one."""
        if self._is_batched:
            self._is_batched = False
            self.owner.batched -= 1

    def fill(self, reply: Reply) -> None:
        """Give the reply that is owed; the same to every command of a run."""
        encoded = encode_reply(reply, self.protocol) if self.protocol != NO_REPLY else b""
        self._fill(encoded if self.owed == 1 else encoded * self.owed)

    def fill_lines(self, line: bytes) -> None:
        """Give each command of a run the same reply, which is encoded."""
        self._fill(line * self.owed if self.protocol != NO_REPLY else b"")

    def fill_all(self, replies: Sequence[Reply]) -> None:
        """Give each command of a run its own reply."""
        self._fill(encode_replies(replies, self.protocol) if self.protocol != NO_REPLY else b"")

    def add_in_steps(self, reply: Reply) -> Generator[None, None, bool]:
        """Encode one reply of a run, yielding between pieces of it: for replies that may be long.

        Returns whether anybody waits for more: the owner may be closed for what it has been given. ``fill_added``
        follows, also then.
        """
        if self.protocol == NO_REPLY:
            return True
        for piece in encode_in_pieces(reply, self.protocol):
            self._added.append(piece)
            self._added_bytes += len(piece)
            yield
        is_wanted = self.owner.expect_reply(self._added_bytes)
        if not is_wanted:
            self._added.clear()
        return is_wanted

    def fill_added(self) -> None:
        """Give the replies that were added."""
        self._fill(self._added)

    def _fill(self, encoded: bytes | list[bytes]) -> None:
        self.reply, self._added = encoded, []
        if self._is_write:
            self._is_write = False
            self.owner.writes_outstanding -= 1
        self.leave_batch()
        if self._queued is not None:
            self._queued.size_bytes -= self.queued_bytes
            self._queued = None
        self.owner.became_answered(len(encoded) if isinstance(encoded, bytes) else sum(map(len, encoded)))


class Waiting:
    """A *run* that a client waits for: one command of the machine's, or several of one name that came together.

    What happens to the commands of a run happens to all: they go into one batch, are held, moved or refused together.
    """

    __slots__ = ("deadline", "refusal", "run", "size_bytes", "slot", "spec")

    def __init__(self, slot: Slot, spec: CommandSpec, run: Run, size_bytes: int) -> None:
        self.slot = slot
        self.spec = spec
        """Of every command of the run, whose name there is as the client spelled it."""
        self.run = run
        self.size_bytes = size_bytes
        self.deadline = 0.0
        """While held for want of a leader: when to give up (monotonic, seconds)."""
        self.refusal: Reply | None = None
        """What it is answered when it is routed anew; it must not be executed any more."""


class Part:
    """Runs of one command that follow each other in a batch, whoever waits for them: they are executed as one run."""

    __slots__ = ("_first", "_joined", "items", "spec")

    def __init__(self, waiting: Waiting) -> None:
        self.spec = waiting.spec
        self.items = [waiting]
        self._first = waiting.run
        self._joined: Run | None = None

    def takes(self, waiting: Waiting) -> bool:
        """Return whether a run may follow those that are here."""
        return waiting.spec is self.spec and may_join(self._first, waiting.run)

    def run(self) -> Run:
        """Return all commands, when no more follow."""
        if self._joined is None:
            runs = [waiting.run for waiting in self.items]
            self._joined = joined(self.spec.name, runs)
        return self._joined

    def fill(self, replies: Sequence[Reply] | Simple) -> None:
        """Give each command its reply; one for all when they are the same."""
        if isinstance(replies, Simple):
            self._fill_alike(replies)
            return
        at = 0
        for waiting in self.items:
            end = at + waiting.run.length
            waiting.slot.fill_all(replies[at:end])
            at = end

    def _fill_alike(self, reply: Simple) -> None:
        line = encode_reply(reply, RESP2)  # A status line is the same in every protocol.
        for waiting in self.items:
            waiting.slot.fill_lines(line)


def parts_of(items: Iterable[Waiting]) -> list[Part]:
    """Return runs in their order, those of one command that follow each other together."""
    parts: list[Part] = []
    for waiting in items:
        _append(parts, waiting)
    return parts


def _append(parts: list[Part], waiting: Waiting) -> None:
    if parts and parts[-1].takes(waiting):
        parts[-1].items.append(waiting)
    else:
        parts.append(Part(waiting))


@dataclass(slots=True, eq=False)
class Batch:
    """Runs that travel in one entry, in order, with the reads that go along."""

    parts: list[Part] = field(default_factory=list)
    writes: int = 0
    """How many of the commands are writes."""
    size_bytes: int = 0
    term: Term | None = None
    """Term in which it was proposed; None before."""
    proposed_at: float = 0.0
    """Monotonic, seconds."""
    give_up_at: float | None = None
    """After leadership was lost: when to answer "unknown" (monotonic, seconds)."""
    _encoder: BatchEncoder | None = None

    def encode_slice(self) -> bool:
        """Bring the payload of a large batch nearer; return whether ``payload`` takes no long time now."""
        if self.size_bytes < LARGE_BYTES:
            return True
        if self._encoder is None:
            self._encoder = BatchEncoder(self._written())
        return self._encoder.step()

    def payload(self) -> bytes:
        """Return the payload of its entry."""
        encoder, self._encoder = self._encoder, None
        return encode_batch(self._written()) if encoder is None else encoder.payload()

    def _written(self) -> list[Run]:
        return [part.run() for part in self.parts if part.spec.is_write]

    def append_run(self, waiting: Waiting) -> None:
        """Take one more run along."""
        _append(self.parts, waiting)
        self.size_bytes += waiting.size_bytes
        if waiting.spec.is_write:
            self.writes += waiting.run.length

    def items(self) -> list[Waiting]:
        """Return every run, in order."""
        return [waiting for part in self.parts for waiting in part.items]


class Forming:
    """Runs that wait to be proposed, in order, cut into batches of bounded size."""

    def __init__(self, batch_bytes_max: int) -> None:
        self._batch_bytes_max = batch_bytes_max
        self._batches: deque[Batch] = deque()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def append_run(self, waiting: Waiting) -> None:
        """Append a run to the newest batch, or to a new one when that is full."""
        if not self._batches or self._is_full(self._batches[-1]):
            self._batches.append(Batch())
        self._batches[-1].append_run(waiting)
        self.size_bytes += waiting.size_bytes

    def encode_slice(self) -> bool:
        """Bring the oldest batch nearer to being proposed; return whether it may be."""
        # Nothing is appended to a batch of this size any more.
        return self._batches[0].encode_slice()

    def _is_full(self, batch: Batch) -> bool:
        return batch.size_bytes >= self._batch_bytes_max or batch.writes >= BATCH_COMMANDS_MAX

    def take_oldest(self) -> Batch:
        """Return the oldest batch."""
        batch = self._batches.popleft()
        self.size_bytes -= batch.size_bytes
        return batch

    def take_all_runs(self) -> list[Waiting]:
        """Return every run that waits, in order."""
        items = [waiting for batch in self._batches for waiting in batch.items()]
        self._batches.clear()
        self.size_bytes = 0
        return items
