"""Quick trials on a directory whose newest entries are in its journal: damage to that, and to LMDB beside it.

A node that is stopped leaves nothing in its journal, and one that is killed little. So entries are put there by the
store, which is closed before it moves them: what a power cut under load leaves.

Both copies of a group are damaged in one place, too, those of the last one as well: an acknowledged group is lost then,
and that must be seen.

A stale journal as a whole is not tried: of what is put back with every sum right, only what came after it tells
(ARCHITECTURE "The commit journal").
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from durable_raft.raft.changes import AddLearner, Promote, Remove, Step, next_configuration
from durable_raft.raft.configuration import encode
from durable_raft.raft.ready import Write
from durable_raft.raft.types import EntryKind, LogPoint, Member, NodeId, make_entry
from durable_raft.storage.log import journal_format
from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journal_format import (
    BLOCK_BYTES,
    HEAD_BYTES,
    JOURNAL,
    RING_AT,
    SECTOR_BYTES,
    copy_bytes,
    read_header,
)
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.corruption import start
from tests.corruption.base import VICTIM, Base
from tests.corruption.damage import KINDS, Damage
from tests.corruption.trials import Result, config_of, rng_of
from tests.support.progress import tell

RING_BYTES: Final = 64 * BLOCK_BYTES
"""Small, so that most damage strikes what is in use."""
GROUPS: Final = 24
CUT: Final = 11
"""Number of the group that cuts the entry of the one before."""
FILES: Final = {JOURNAL: f"raft/{JOURNAL}", "raft": "raft/data.mdb"}
LEFT_OUT: Final = {JOURNAL: frozenset({"stale_file", "node_bit_flip"}), "raft": frozenset({"both_copies"})}


NAMED_BYTES: Final = 40
"""Of a copy, up to the number of its group: a sector in which they rot is nobody's."""


def both_copies(data: bytearray, older: bytes, rng: random.Random) -> None:
    """Flip one bit of a group's first sector, the same one in both copies."""
    del older
    uuid = read_header(bytes(data[:RING_AT])).uuid
    heads = [head for head, _, _ in journal_format._heads(bytes(data[RING_AT:]), uuid)]
    offset, length = rng.choice([(head.offset, head.length) for head in heads])
    end = HEAD_BYTES + length
    bit = rng.randrange(8 * NAMED_BYTES, 8 * (end if end <= SECTOR_BYTES else HEAD_BYTES))
    for at in (offset, offset + copy_bytes(length)):
        data[RING_AT + at + bit // 8] ^= 1 << bit % 8


JOURNAL_KINDS: Final[dict[str, Damage]] = {**KINDS, both_copies.__name__: both_copies}


class JournalTrials:
    """Trials on one directory."""

    def __init__(self, base: Base, place: Path) -> None:
        """Put entries into the journal of a copy of the victim's directory."""
        self._place = place
        self._sound = place / "journaled"
        self._config = replace(config_of(base, place / "trial"), log_commit="journal")
        base.refill(VICTIM, self._sound)
        self._older = {"raft": base.older_file(VICTIM, "raft"), JOURNAL: _fill(self._sound)}
        self._refill(place / "truth")
        self._truth = start.truth_of(replace(self._config, directory=place / "truth"))

    def run(self, kind: str, file: str, rng: random.Random) -> tuple[str, bool]:
        """Return the outcome of one trial, and whether any byte was changed."""
        self._refill(self._config.directory)
        path = self._config.directory / FILES[file]
        before = path.read_bytes()
        data = bytearray(before)
        JOURNAL_KINDS[kind](data, self._older[file], rng)
        path.write_bytes(data)
        return start.outcome_of(self._config, self._truth), data != before

    def _refill(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self._sound, directory)


def _fill(directory: Path) -> bytes:
    """Leave groups in the journal of ``directory``; return its file as it was half of them ago.

    The members change in some of them. One of these configurations is cut again, and it was joint.
    """
    home = LmdbLogStore.open(directory)
    store = JournaledLogStore(home, DiskJournalPlace(home.path), ring_bytes=RING_BYTES)
    stored = store.load()
    last, stamp, older = stored.last, stored.last_timestamp_ms, b""
    before = last
    present = stored.newest_configuration(store.membership)
    learner = Member(NodeId("n8"), "127.0.0.1:1", "127.0.0.1:2")
    steps: dict[int, Step] = {5: AddLearner(learner), CUT - 1: Promote(learner.node_id), 20: Remove(learner.node_id)}
    for number in range(1, GROUPS + 1):
        if number == CUT:
            store.persist([Write(number, None, last.index, ())])
            last = before
            continue
        payload = bytes(number) * 10
        if number in steps:
            changed = next_configuration(present, [steps[number]])
            payload = encode(changed)
            present = present if number == CUT - 1 else changed
        entry = make_entry(
            previous=last,
            term=stored.hard_state.current_term,
            kind=EntryKind.CONFIGURATION if number in steps else EntryKind.COMMANDS,
            timestamp_ms=stamp,
            payload=payload,
        )
        store.persist([Write(number, None, None, (entry,))])
        before, last = last, LogPoint(entry.index, entry.term, entry.chain)
        if number == GROUPS // 2:
            older = (home.path / JOURNAL).read_bytes()
    store.close()
    return older


def run_journals(base: Base, place: Path, seed: int, count: int, *, tells: bool = True) -> Result:
    """Play ``count`` trials, as many of each kind and file."""
    result, trials = Result(), JournalTrials(base, place)
    pairs = [(kind, file) for kind in JOURNAL_KINDS for file in FILES if kind not in LEFT_OUT[file]]
    for number in range(count):
        kind, file = pairs[number % len(pairs)]
        outcome, is_changed = trials.run(kind, file, rng_of(seed, kind, file, number))
        result.unchanged[f"{kind} {file}"] += not is_changed
        result.note(kind, file, outcome, f"run_journals with seed {seed}: trial {number}")
        if tells:
            tell("journals", number + 1, count, len(result.failures))
    return result
