"""The scripted workload on the real log store, run under strace (record.py).

``python -m tests.power_loss.workload DIRECTORY MARKS SEED ROUNDS COMMIT [BUG]`` creates a log in DIRECTORY and goes
through everything that a store is asked to do. COMMIT is ``lmdb`` or ``journal``; with the latter what is pending is
moved into LMDB now and then, which changes no state.

Around each transaction it writes a line to MARKS, which is how the trace tells where a promise was made: ``submit``
with the state that comes after the transaction, then ``promise`` when the call returned.
What the state should be is computed here, not asked of the store.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from durable_raft.raft.changes import AddLearner, Promote, Readdress, Remove, Step, next_configuration
from durable_raft.raft.configuration import encode, next_stage
from durable_raft.raft.ready import Write
from durable_raft.raft.types import (
    ORIGIN,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogPoint,
    Member,
    NodeId,
    Term,
    make_entry,
)
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.power_loss.judge import (
    APPEND,
    COMPACTION,
    CONFIGURATION,
    CONFIGURATION_CUT,
    CONFIGURATION_PASSED,
    CREATION,
    HARD_STATE,
    JOINT,
    MOVE,
    TRUNCATION,
)
from tests.power_loss.members import told_of
from tests.power_loss.planted import ACKNOWLEDGES_EARLY, TWO_TRANSACTIONS, plant
from tests.power_loss.stores import AnyStore, open_store
from tests.support.log_building import IDENTITY, MEMBERSHIP, entries_after, point_of, write

ROUNDS: Final = 3
SMALL: Final = (0, 10, 60, 300, 1500)
LARGE: Final = (2100, 5000, 9000, 20_000)
"""Payload bytes: of one piece, and of several pages."""
MOVE_SHARE: Final = 0.3
"""How often what is pending in the journal is moved after a transaction."""


class Script:
    """A store, what should be in it, and the descriptor for the marks."""

    def __init__(self, directory: Path, marks: Path, seed: int, commit: str, bug: str | None) -> None:
        self._directory = directory
        self._commit = commit
        self._bug = bug
        self._rng = random.Random(seed)
        self._marks = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._store: AnyStore | None = None
        self._number = 0
        self.hard_state = HardState()
        self.base = ORIGIN
        self.entries: list[Entry] = []
        self.configurations: list[Configuration] = []
        """The one at the base, unless it is that of the first start, and those of the entries behind it."""

    # -- what is told -----------------------------------------------------------------------------------------------

    def _mark(self, kind: str, **fields: Any) -> None:
        os.write(self._marks, json.dumps({"kind": kind, "state": self._state(), **fields}).encode() + b"\n")

    def _state(self) -> dict[str, Any]:
        return {
            "identity": f"{IDENTITY.cluster_id.hex()}/{IDENTITY.node_id}",
            "term": self.hard_state.current_term,
            "vote": self.hard_state.voted_for,
            "base": [self.base.index, self.base.term, self.base.chain],
            "entries": [[entry.term, entry.chain] for entry in self.entries],
            **told_of(self.configurations, MEMBERSHIP),
        }

    @property
    def last(self) -> LogPoint:
        """The last entry's point."""
        return point_of(self.entries[-1]) if self.entries else self.base

    @property
    def newest(self) -> Configuration:
        """The configuration that counts."""
        return self.configurations[-1] if self.configurations else Configuration.initial(MEMBERSHIP)

    # -- transactions -----------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Create the directory and open it."""
        self._mark("submit", activities=[CREATION])
        LmdbLogStore.create(self._directory, IDENTITY, MEMBERSHIP)
        self._mark("promise")
        self.open()

    def open(self) -> None:
        """Open, or close and open again."""
        if self._store is not None:
            self._store.close()
        self._store = open_store(self._directory, self._commit)
        stored = self._store.load()
        self._number = 0
        if (stored.hard_state, stored.base, stored.last) != (self.hard_state, self.base, self.last):
            raise AssertionError(f"found {stored}; expected {self.hard_state}, {self.base}, {self.last}")

    def persist(
        self,
        *changes: tuple[HardState | None, int | None, Sequence[Entry]],
        configuration: Configuration | None = None,
    ) -> None:
        """Persist a group of writes, each (hard state, cut from, entries), as one transaction.

        ``configuration`` is the one that the last entry has, if it has one.
        """
        activities = set()
        writes: list[Write] = []
        for hard_state, cut, entries in changes:
            self._number += 1
            writes.append(write(self._number, entries, cut=cut, hard_state=hard_state))
            if hard_state is not None:
                self.hard_state = hard_state
                activities.add(HARD_STATE)
            if cut is not None:
                del self.entries[cut - self.base.index - 1 :]
                activities.add(TRUNCATION)
                if self.newest.index >= cut:
                    activities.add(CONFIGURATION_CUT)
                self.configurations = [each for each in self.configurations if each.index < cut]
            if entries:
                self.entries += entries
                activities.add(APPEND)
        if configuration is not None:
            self.configurations.append(replace(configuration, index=self.last.index))
            activities |= {CONFIGURATION, JOINT} if configuration.outgoing else {CONFIGURATION}
        self._mark("submit", activities=sorted(activities))
        if self._bug == ACKNOWLEDGES_EARLY:
            self._mark("promise")
        assert self._store is not None
        for group in self._groups(writes):
            self._store.persist(group)
        self._mark("promise")
        if self._rng.random() < MOVE_SHARE:
            self._move()

    def _move(self) -> None:
        """Have LMDB hold what is in the journal."""
        if isinstance(self._store, JournaledLogStore) and self._store.has_pending:
            self._mark("submit", activities=[MOVE])
            self._store.move()
            self._mark("promise")

    def _groups(self, writes: list[Write]) -> list[list[Write]]:
        hard_state = writes[0].hard_state
        if self._bug != TWO_TRANSACTIONS or hard_state is None:
            return [writes]
        self._number += 1
        term_alone = write(writes[0].number, hard_state=HardState(hard_state.current_term))
        later = [Write(each.number + 1, each.hard_state, each.truncate_from, each.entries) for each in writes]
        return [[term_alone], later]

    def compact(self, upto: int, entries_max: int) -> None:
        """Drop a prefix, in as many transactions as it takes."""
        assert self._store is not None
        while self.base.index < upto:
            new_base = min(upto, self.base.index + entries_max)
            dropped = new_base - self.base.index
            self.base = point_of(self.entries[dropped - 1])
            del self.entries[:dropped]
            passed = [each for each in self.configurations if each.index <= new_base]
            is_passed = bool(passed) and passed[-1].index > new_base - dropped
            self.configurations = [*passed[-1:], *self.configurations[len(passed) :]]
            self._mark("submit", activities=[COMPACTION, *([CONFIGURATION_PASSED] if is_passed else [])])
            found = self._store.compact(Index(upto), entries_max)
            if found != new_base:
                raise AssertionError(f"compacted up to {found}, expected {new_base}")
            self._mark("promise")

    # -- the play ---------------------------------------------------------------------------------------------------

    def _next(self, count: int, sizes: Sequence[int], after: LogPoint | None = None) -> list[Entry]:
        """Make entries of the current term that follow ``after``, the last one unless given."""
        entries: list[Entry] = []
        for _ in range(count):
            previous = point_of(entries[-1]) if entries else self.last if after is None else after
            payload = self._rng.randbytes(self._rng.choice(sizes))
            entries += entries_after(previous, 1, term=max(1, self.hard_state.current_term), payload=payload)
        return entries

    def _elected(self, candidate: str | None) -> HardState:
        return HardState(Term(self.hard_state.current_term + 1), None if candidate is None else NodeId(candidate))

    def _append_group(self) -> None:
        """Several writes in one group commit, each following the one before."""
        first = self._next(2, SMALL)
        second = self._next(1, LARGE, point_of(first[-1]))
        third = self._next(3, SMALL, point_of(second[-1]))
        self.persist((None, None, first), (None, None, second), (None, None, third))

    def _overwrite(self, back: int) -> None:
        """A new leader replaces the last entries by its own, the new term in the same transaction."""
        cut = self.last.index - back + 1
        before = point_of(self.entries[-back - 1])
        self.hard_state, old = self._elected(None), self.hard_state
        entries = self._next(self._rng.randint(1, 3), SMALL + LARGE, before)
        new, self.hard_state = self.hard_state, old
        self.persist((new, cut, entries))

    def _configure(self, configuration: Configuration, before: int = 0) -> None:
        """Append a configuration, in a group of its own or behind as many entries as ``before``."""
        entries = self._next(before, SMALL)
        previous = point_of(entries[-1]) if entries else self.last
        entry = make_entry(
            previous=previous,
            term=max(Term(1), self.hard_state.current_term),
            kind=EntryKind.CONFIGURATION,
            timestamp_ms=1000 + previous.index + 1,
            payload=encode(configuration),
        )
        self.persist((None, None, entries), (None, None, [entry]), configuration=configuration)

    def _change_members(self, number: int) -> None:
        """A voter is replaced. The joint configuration is cut by the next leader, entered again, and left."""
        new = NodeId(f"n{4 + number}")
        self._configure(next_configuration(self.newest, [AddLearner(Member(new, "new:7001", "new:17001"))]), before=2)
        steps: list[Step] = [Promote(new), Remove(self.newest.voters[1])]
        self._configure(next_configuration(self.newest, steps))
        self._overwrite(1)
        self._configure(next_configuration(self.newest, steps))
        while (following := next_stage(self.newest)) is not None:
            self._configure(following, before=self._rng.randint(0, 1))

    def _change_in_vain(self) -> None:
        """An address changes, and that is cut again: what counts then may stand at the base alone."""
        moved = replace(self.newest.members[0], client_address=f"moved:{1000 + self.last.index}")
        self._configure(next_configuration(self.newest, [Readdress(moved)]))
        self.persist((None, self.last.index, ()))

    def round(self, number: int) -> None:
        """Everything once, in sizes of chance."""
        rng = self._rng
        self.persist((self._elected("n1"), None, ()))
        for sizes in (SMALL, SMALL, LARGE):
            self.persist((None, None, self._next(rng.randint(1, 3), sizes)))
        self._change_members(number)
        self._append_group()
        self.persist((self._elected(None), None, ()))
        self.persist((HardState(self.hard_state.current_term, NodeId("n2")), None, self._next(1, SMALL)))
        self._overwrite(rng.randint(1, 4))
        self.persist((None, self.last.index - rng.randint(0, 2), ()))
        if number % 2:
            self.open()
        self.persist((self._elected("n3"), None, self._next(2, SMALL)))
        # The file grows by a run of new pages.
        self.persist((None, None, self._next(rng.randint(2, 4), LARGE)))
        self.compact(self.last.index - rng.randint(2, 6), rng.randint(3, 9))
        # What compaction freed is used again.
        self.persist((None, None, self._next(rng.randint(2, 5), SMALL + LARGE)))
        self._change_in_vain()
        self.persist((self._elected("n1"), None, ()), (None, None, self._next(1, SMALL)))
        if not number % 2:
            self.open()

    def play(self, rounds: int) -> None:
        """Run all of it."""
        self.create()
        for number in range(rounds):
            self.round(number)
        assert self._store is not None
        self._store.close()


def main(arguments: Sequence[str]) -> int:
    """Run the workload."""
    directory, marks, seed, rounds, commit, *bug = arguments
    plant(bug[0] if bug else None)
    Script(Path(directory), Path(marks), int(seed), commit, bug[0] if bug else None).play(int(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
