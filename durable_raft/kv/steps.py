"""Commands in steps: what may take long yields between pieces of well under a millisecond, and returns its reply.

Whoever executes one may do anything else between two steps but execute another command or begin a checkpoint: a command
sees one state, and leaves another, as if it took no time. A checkpoint that is under way may end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from durable_raft.kv.replies import CommandSteps, Reply, Simple

T = TypeVar("T")

Args: TypeAlias = Sequence[bytes]

Replies: TypeAlias = "list[Reply] | Simple"
"""To the commands of a run, one for each; or one that is the same for all."""

Columns: TypeAlias = "Callable[..., Replies]"
"""Executes several short commands of one name; takes their first arguments, their second ones, and so on."""


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
