"""Commands in steps: what may take long yields between pieces of well under a millisecond, and returns its reply.

Whoever executes one may do anything else between two steps but execute another command or begin a checkpoint: a command
sees one state, and leaves another, as if it took no time. A checkpoint that is under way may end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

from durable_raft.kv.replies import CommandSteps, Reply, Simple

T = TypeVar("T")

Args: TypeAlias = Sequence[bytes]

Replies: TypeAlias = "list[Reply] | Simple"
"""To the commands of a run, one for each; or one that is the same for all."""

Columns: TypeAlias = "Callable[..., tuple[Replies, int]]"
"""Executes several short commands of one name; takes a number of bytes, then their first arguments, their second ones,
and so on. It ends when so many bytes have been read from the disk in all. It returns how many commands it has executed,
at least one, and their replies."""


class Handlers(NamedTuple):
    """What executes commands, by their names."""

    short: dict[bytes, Callable[[Args], Reply]]
    """Those that are always short."""
    in_steps: dict[bytes, Callable[[Args], CommandSteps]]
    """Those that may take long."""
    in_columns: dict[tuple[bytes, int], Columns]
    """Several at once, by name and number of arguments; each of them is short."""


REPLY_BYTES_MAX: Final = 64 << 20
"""Bytes of all values, or keys, in one reply, unless given; a single value may be longer."""

REPLY_ITEM_BYTES: Final = 16
"""What a value takes in a reply beside its bytes, about."""

LARGE_BYTES: Final = 1 << 16
"""From here on a value that grows is kept in pieces: copying it costs more than they do."""

KEYS_A_STEP: Final = 64
"""Keys that a command names which are looked up or changed in one step."""

BYTES_A_STEP: Final = 1 << 18
"""Bytes of values after which a step ends early: some tenths of a millisecond to copy and verify."""


class Reader(Protocol):
    """What reads values from the disk."""

    bytes_read: int
    """Bytes of values that it has read so far."""


class Budget:
    """How much a step may still do of a command that names many keys: those named, and what is read for them."""

    __slots__ = ("_keys_left", "_reader", "_until")

    def __init__(self, reader: Reader) -> None:
        """Begin with the budget of a whole step."""
        self._reader = reader
        self._begin()

    def _begin(self) -> None:
        self._keys_left = KEYS_A_STEP
        self._until = self._reader.bytes_read + BYTES_A_STEP

    def spend(self, size: int) -> None:
        """Count bytes that are not read from the disk, and cost as much."""
        self._until -= size

    def is_spent(self) -> bool:
        """Return, before each key, whether the step has to end; then the next one's budget has begun."""
        is_spent = not self._keys_left or self._reader.bytes_read >= self._until
        if is_spent:
            self._begin()
        self._keys_left -= 1
        return is_spent


def one_by_one(reader: Reader, execute: Callable[[bytes], Reply]) -> Columns:
    """Return what executes commands that have one argument."""

    def in_columns(until: int, keys: Sequence[bytes]) -> tuple[Replies, int]:
        replies: list[Reply] = []
        for key in keys:
            replies.append(execute(key))
            if reader.bytes_read >= until:
                break
        return replies, len(replies)

    return in_columns


def finish(steps: Generator[None, None, T]) -> T:
    """Take all steps at once; return what comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


def at_once(in_steps: Callable[[Args], CommandSteps]) -> Callable[[Args], Reply]:
    """Return a command that takes all of its steps at once."""
    return lambda args: finish(in_steps(args))
