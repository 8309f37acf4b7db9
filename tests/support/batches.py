"""Commands as the log has them: in runs, and in the payload of an entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from durable_raft.kv.batch import encode_batch
from durable_raft.kv.runs import WIDTH_MAX, Run, joined


def runs_of(commands: Iterable[Sequence[bytes]]) -> Iterator[Run]:
    """Yield commands, each with its name first, as runs that are as long as they may be."""
    for (name, width), same in groupby(commands, key=lambda command: (command[0], len(command) - 1)):
        singles = [Run(name, 1, list(command[1:])) for command in same]
        if 1 <= width <= WIDTH_MAX:
            yield joined(name, singles)
        else:
            yield from singles


def run_of(commands: Iterable[Sequence[bytes]]) -> Run:
    """Return commands of one name and one number of arguments as a run."""
    (run,) = runs_of(commands)
    return run


def batch_of(commands: Iterable[Sequence[bytes]]) -> bytes:
    """Return the payload of an entry with ``commands``, each with its name first."""
    return encode_batch(list(runs_of(commands)))
