"""The machine: commands in order give replies, the same on every replica.

Nothing here depends on a clock, on chance, on hashing order or on the process: the cluster time comes with the entries
(``advance_time``), and the only random numbers, SCAN's cursors, are not part of the state. Every command validates
first and changes then, so an error leaves the state as it was. A client's mistake is an ``ErrorReply``, never an
exception.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Final

from durable_raft.kv import keyspace_commands, string_commands
from durable_raft.kv.errors import TOO_MANY_KEYS
from durable_raft.kv.keyspace import DROP_MAX, Keyspace
from durable_raft.kv.keyspace_commands import KEYS_MAX
from durable_raft.kv.layer import Layer
from durable_raft.kv.records import EMPTY_STATE, StateSummary, StateView
from durable_raft.kv.replies import CommandSteps, Reply
from durable_raft.kv.runs import Run
from durable_raft.kv.scan import ScanCursors
from durable_raft.kv.slots import key_slot
from durable_raft.kv.steps import BYTES_A_STEP, REPLY_BYTES_MAX, Args, Columns, Replies, at_once

VALUE_BYTES_MAX: Final = 512 << 20

COMMANDS_A_STEP: Final = 64
"""Short commands executed in one step: about a tenth of a millisecond."""

PLAIN_A_STEP: Final = 512
"""Commands executed in one step that do nothing but set keys: less than half of a millisecond."""


class Machine:
    """The key-value state and the commands on it."""

    def __init__(
        self,
        rng: random.Random,
        value_bytes_max: int = VALUE_BYTES_MAX,
        base: StateView = EMPTY_STATE,
        time_ms: int = 0,
        reply_bytes_max: int = REPLY_BYTES_MAX,
        version: int = 1,
    ) -> None:
        """Begin with the state of a checkpoint; by default empty, at time 0.

        Args:
            rng: draws SCAN's cursors.
            value_bytes_max: longest value a command may make; replicas must agree on it, or their states part.
            base: the state to begin with.
            time_ms: its cluster time.
            reply_bytes_max: bytes that a reply of several values, or keys, may have; replicas need not agree.
            version: of the cluster, at that state.
        """
        self.version = version
        """The version of the cluster; what commands mean never depends on the program alone."""
        self._keyspace = Keyspace(base, time_ms)
        strings = string_commands.handlers(self._keyspace, value_bytes_max, reply_bytes_max)
        keys = keyspace_commands.handlers(self._keyspace, ScanCursors(rng), reply_bytes_max)
        self.in_steps: Mapping[bytes, Callable[[Args], CommandSteps]] = {**strings.in_steps, **keys.in_steps}
        """The commands that may take long, by name; kv/steps.py says what may happen between two steps."""
        self._execute: dict[bytes, Callable[[Args], Reply]] = {
            **strings.short,
            **keys.short,
            **{name: at_once(steps) for name, steps in self.in_steps.items()},
        }
        self._in_columns = {**strings.in_columns, **keys.in_columns}

    def execute(self, args: Args) -> Reply:
        """Execute a command of the table, its name in lower case and its arity right, at the present cluster time.

        Raises:
            KeyError: the name is not in the table; an entry of a newer version, which must not be skipped.
        """
        return self._execute[args[0]](args)

    def is_in_steps(self, run: Run) -> bool:
        """Return whether one command of ``run`` may take long by itself."""
        return run.name in self.in_steps and (run.name, run.width) not in self._in_columns

    def execute_run(self, run: Run) -> Generator[None, None, Replies]:
        """Execute the commands of a run in order, in steps; raises as ``execute``."""
        name, length, args = run
        if length == 1 and name not in self.in_steps:
            return [self._execute[name]((name, *args))]
        if self.is_in_steps(run):
            replies: list[Reply] = []
            for command in run.rows():
                replies.append((yield from self.in_steps[name](command)))
                yield
            return replies
        pieces, until = self.pieces(run), self._keyspace.bytes_read + BYTES_A_STEP
        found = next(pieces)
        if self._keyspace.bytes_read >= until:
            yield
        for more in pieces:
            # A handler that has one reply for all has it for all pieces.
            if isinstance(found, list) and isinstance(more, list):
                found += more
            yield
        return found

    def pieces(self, run: Run) -> Iterator[Replies]:
        """Execute the commands of a run in order, as many with each piece as make a step; raises as ``execute``."""
        name, columns = run.name, run.columns()
        is_plain = (name, len(columns)) in string_commands.PLAIN
        in_columns = self._in_columns.get((name, len(columns)))
        for piece in _cut(run, columns, PLAIN_A_STEP if is_plain else COMMANDS_A_STEP):
            if in_columns is not None:
                yield from self._executed_in_columns(in_columns, piece)
            elif piece:
                yield from self._executed(zip(repeat(name), *piece, strict=False))
            else:
                yield [self._execute[name]((name,))]

    def _executed_in_columns(self, in_columns: Columns, piece: Sequence[Sequence[bytes]]) -> Iterator[Replies]:
        """Execute commands; yield their replies, at once unless much has to be read from the disk for them."""
        while piece[0]:
            replies, done = in_columns(self._keyspace.bytes_read + BYTES_A_STEP, *piece)
            yield replies
            piece = [column[done:] for column in piece]

    def _executed(self, commands: Iterable[Args]) -> Iterator[list[Reply]]:
        """Do the same for commands that are not executed in columns."""
        execute, keyspace = self._execute, self._keyspace
        replies, until = list[Reply](), keyspace.bytes_read + BYTES_A_STEP
        for args in commands:
            replies.append(execute[args[0]](args))
            if keyspace.bytes_read >= until:
                yield replies
                replies, until = [], keyspace.bytes_read + BYTES_A_STEP
        if replies:
            yield replies

    def raise_version(self, version: int) -> None:
        """Raise the version of the cluster; it never falls."""
        self.version = max(self.version, version)

    def advance_time(self, time_ms: int, drop_max: int = DROP_MAX) -> None:
        """Move the cluster time forward (never back) and drop keys whose time is up.

        Args:
            time_ms: of the entry that is about to be executed.
            drop_max: how many at most, as ``batch.drop_max_of`` says of it; the others are hidden.
        """
        self._keyspace.advance_time(time_ms, drop_max)

    def advance_time_in_steps(self, time_ms: int, drop_max: int = DROP_MAX) -> Generator[None, None, None]:
        """Do the same, in steps; nothing else may be executed before the last of them."""
        return self._keyspace.advance_time_in_steps(time_ms, drop_max)

    @property
    def is_dropping(self) -> bool:
        """Whether keys are hidden that are still to be dropped: nobody sees them, and the next entries drop them."""
        return self._keyspace.is_dropping

    def reset_time(self, time_ms: int) -> None:
        """Set the cluster time, back or forward, and drop every key whose time is up."""
        self._keyspace.reset_time(time_ms)

    def show_time(self, time_ms: int) -> None:
        """Let TTL and PTTL, which are never in the log, count from ``time_ms`` when that is past the cluster time."""
        self._keyspace.shown_ms = time_ms

    @property
    def time_ms(self) -> int:
        """The cluster time, ms since the Unix epoch."""
        return self._keyspace.time_ms

    def next_deadline_ms(self) -> int | None:
        """Return when the next key expires, or None when none will."""
        return self._keyspace.next_deadline_ms()

    @property
    def is_settled(self) -> bool:
        """Whether ``counts`` are right."""
        return self._keyspace.is_settled

    @property
    def counts(self) -> tuple[int, int]:
        """How many keys there are, and how many of them have a deadline: at most, while not all is settled."""
        return self._keyspace.counts

    def settle(self) -> bool:
        """Look which of the keys that were set are new, as many as make a step; return whether all is known.

        Raises:
            CorruptRecord: a record on the disk is damaged.
        """
        return self._keyspace.settle()

    def summary(self) -> StateSummary:
        """Return the state in numbers; looks at every change, so it is for tools and tests."""
        return self._keyspace.summary()

    def count_keys_in_slot(self, slot: int) -> CommandSteps:
        """Return how many keys hash to ``slot``; looks at every key, so an error when there are too many for that."""
        yield from self._keyspace.settle_in_steps()
        if self._keyspace.counts[0] > KEYS_MAX:
            return TOO_MANY_KEYS
        count = 0
        for page in self._keyspace.pages(None):
            yield
            count += sum(key_slot(key) == slot for key, _ in page)
        return count

    def digest(self) -> bytes:
        """Return a SHA-256 over all that can be seen: time, keys, values, deadlines; for tests."""
        digest = hashlib.sha256(b"%d:%d:" % (self.version, self.time_ms))
        for key, record in self._keyspace.after(None):
            digest.update(b"%d:%d:%d:" % (len(key), len(record.value), record.deadline_ms))
            digest.update(key)
            digest.update(bytes(record.value))
        return digest.digest()

    # -- checkpoints ------------------------------------------------------------------------------------------------

    @property
    def overlay_bytes(self) -> int:
        """Memory that the changes since the last checkpoint take, about."""
        return self._keyspace.overlay_bytes

    @property
    def active_bytes(self) -> int:
        """Memory that the changes since the last checkpoint began take, about."""
        return self._keyspace.active_bytes

    @property
    def overlay_changes(self) -> int:
        """Number of keys changed since the last checkpoint began."""
        return self._keyspace.overlay_changes

    @property
    def new_keys_max(self) -> int:
        """How many keys more there are than when the last checkpoint began, at most; exact while all is settled."""
        return self._keyspace.new_keys_max

    @property
    def may_freeze(self) -> bool:
        """Whether a checkpoint may begin: there are not too many that wait for the disk."""
        return self._keyspace.may_freeze

    def freeze(self) -> Layer:
        """Begin a checkpoint of the present state; returns the changes since the last one, for a thread to write.

        Raises:
            RuntimeError: too many are under way.
        """
        return self._keyspace.freeze()

    def checkpointed(self, base: StateView) -> Layer:
        """End the oldest checkpoint: ``base`` is the state that was frozen; return a layer that nobody reads now.

        Raises:
            RuntimeError: none is under way.
        """
        return self._keyspace.checkpointed(base)


def _cut(run: Run, columns: list[list[bytes]], size: int) -> Iterator[list[list[bytes]]]:
    """Cut the columns of a run so that the commands of each piece, at most ``size``, can be executed in one step."""
    if sum(map(len, run.args)) <= BYTES_A_STEP:
        if run.length <= size:
            yield columns
            return
        for at in range(0, run.length, size):
            yield [column[at : at + size] for column in columns]
        return
    start = step_bytes = 0
    for at, args in enumerate(zip(*columns, strict=True)):
        if at - start == size or step_bytes > BYTES_A_STEP:
            yield [column[start:at] for column in columns]
            start, step_bytes = at, 0
        step_bytes += sum(map(len, args))
    yield [column[start:] for column in columns]
