"""What recording clients ask of single keys, and how what they were told is judged."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.harness import Cluster
from tests.simulation.linearizability import Outcome, Verdict
from tests.simulation.sequential import Kind, Operation

KEYS_AT_A_TIME: Final = 3
COMMANDS_PER_KEY: Final = 250
"""On average; then the clients go on to fresh keys, because the search grows faster than a key's history."""


def any_command(rng: random.Random, number: int) -> list[bytes]:
    """Return a command on one of the few keys in use; every value is written once."""
    generation = number // (COMMANDS_PER_KEY * KEYS_AT_A_TIME)
    member = rng.randrange(KEYS_AT_A_TIME)
    key, value = b"k%d-%d" % (generation, member), b"v%d" % number
    if member == 0:
        return rng.choice(([b"INCR", key], [b"GET", key]))
    return rng.choice(
        (
            [b"GET", key],
            [b"GET", key],
            [b"SET", key, value],
            [b"SET", key, value, b"NX"],
            [b"GETSET", key, value],
            [b"GETDEL", key],
            [b"DEL", key],
            [b"APPEND", key, b"+%d" % number],
        )
    )


def final_reads(cluster: Cluster, keys: Iterable[bytes]) -> list[Operation]:
    """Read keys once all is quiet: what was acknowledged and is gone contradicts these."""
    reads = []
    client = cluster.client(cluster.wait_ready())
    for key in sorted(keys):
        invoked = time.monotonic()
        value = client.get(key)
        assert value is None or isinstance(value, bytes)
        reads.append(Operation(-1, key, Kind.GET, None, value, invoked, time.monotonic()))
    return reads


def judge(verdict: Verdict, history: Sequence[Operation], directory: Path) -> None:
    """Raise AssertionError unless the verdict is a yes; the message names the file that then has the whole history."""
    if verdict.outcome is Outcome.LINEARIZABLE:
        return
    path = directory / "history.txt"
    lines = [repr(each) for each in sorted(history, key=lambda each: each.invoked)]
    path.write_text("\n".join(lines) + "\n")
    raise AssertionError(f"{verdict.explanation}\nthe whole history: {path}")
