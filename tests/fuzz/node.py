"""A whole node on a directory, told anything by its peers: the core, the keepers of state and time, and the disk."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from durable_raft.errors import PeerMisbehaved
from durable_raft.raft.configuration import encode
from durable_raft.raft.messages import InstallSnapshot
from durable_raft.raft.types import ORIGIN, Entry, EntryKind, Index, LogPoint, Term, make_entry
from durable_raft.raft.versions import OURS, encode_version
from tests.fuzz.lies import NODE_KINDS, Liar
from tests.support.desk import N2, N3, Desk, desk_at
from tests.support.raft_nodes import configuration_of

LIES: Final = 50
"""Told to one node before the next one begins: it may be led anywhere."""

LONG: Final = 10
"""Entries of a log that is there for what the machine makes of it."""

MEMBERS_LIED: Final = (("n1", "n2", "n9"), ("n8", "n9"), ("n1",), ("n2", "n3"))
"""Some are strangers, and the node itself may be none of them."""

RESERVE_BYTES: Final = 1 << 20
"""The least that there may be: memory that is taken here takes time."""


@lru_cache(maxsize=1000)
def batches_of(terms: Sequence[int]) -> tuple[Entry, ...]:
    """Return a log that a machine can apply: empty batches, now and then a reset of the time, members, or a version."""
    log: list[Entry] = []
    previous = ORIGIN
    for index, term in enumerate(terms, start=1):
        kind, payload = _content(index, term, is_long=len(terms) > LONG)
        entry = make_entry(previous=previous, term=Term(term), kind=kind, timestamp_ms=1000 * index, payload=payload)
        log.append(entry)
        previous = LogPoint(entry.index, entry.term, entry.chain)
    return tuple(log)


def _content(index: int, term: int, *, is_long: bool) -> tuple[EntryKind, bytes]:
    """Return kind and payload of an entry; the first term, in which nodes begin, and long logs change no members.

    A version is one that the program can: a leader may say any, and what cannot be read ends whoever applies it.
    """
    if index % 4 == 0:
        return EntryKind.TIME_RESET, b""
    if index % 4 == 2 and term > 1:
        return EntryKind.VERSION, encode_version(term % OURS.newest + 1)
    if index % 4 == 3 and term > 1 and not is_long:
        return EntryKind.CONFIGURATION, encode(configuration_of(MEMBERS_LIED[term % len(MEMBERS_LIED)]))
    return EntryKind.COMMANDS, b"\x01\x90"


def tell_nodes(rng: random.Random, count: int) -> None:
    """Tell nodes ``count`` messages; raises what ends one."""
    memory = Path("/dev/shm")
    for first in range(0, count, LIES):
        # Of each node its own: a directory takes 16 MB of memory.
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as place,
            desk_at(Path(place) / "n1", disk_reserve_bytes=RESERVE_BYTES) as desk,
        ):
            _tell(rng, desk, min(LIES, count - first))


def _tell(rng: random.Random, desk: Desk, count: int) -> None:
    liar, client = Liar(rng, desk.raft, batches_of), desk.client()
    _begin(rng, desk, liar)
    for _ in range(count):
        with contextlib.suppress(PeerMisbehaved):
            desk.arrive(rng.choice((N2, N3)), liar.message(rng.choice(NODE_KINDS)))
        if rng.random() < 0.1:
            client.send("set k v", "get k")
        if rng.random() < 0.7:
            desk.turn()
        if rng.random() < 0.1:
            desk.wait(rng.choice((0.01, 0.3, 1.5)))
        desk.effects.clear()
    desk.turn()


def _begin(rng: random.Random, desk: Desk, liar: Liar) -> None:
    """Have the node lead, follow, compare its state with others', or fetch a snapshot; or know nobody."""
    match rng.randrange(5):
        case 0:
            desk.lead()
        case 1:
            desk.follow(N2, *batches_of((1, 1, rng.randrange(1, 6))))
        case 2:
            desk.follow(N2, *batches_of((1, 1, 1)))
            desk.node.request_checkpoint()
            desk.turn()
        case 3:
            liar.offered = point = LogPoint(Index(9), Term(1), 5)
            offer = InstallSnapshot(Term(desk.raft.current_term + 1), point.index, point.term, point.chain, 0)
            for _ in range(2):
                # It is not wanted before its term is flushed.
                desk.hear(N2, offer)
