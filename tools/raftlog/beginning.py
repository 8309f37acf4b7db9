"""How a new cluster begins where an old one lost its quorum: behind the last configuration of the old one.

The members of the new cluster are named by an operator, and no leader can put them into the log any more. To append an
entry for them would be to write what no leader wrote. And an entry that names the old members must not count. So none
of either goes with it. The new log begins behind the last configuration, its state in the place of all before, and its
members are those of its first start. A restored backup begins in the same way (server/start/restore.py). What follows
the last configuration stays as it is.

Where the state is older than that, the entries in between are applied to it, as a node would. All that is in the merged
log is committed with the new cluster's first entry, as an elected leader does with what is in its log.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from durable_raft.errors import DurableRaftError
from durable_raft.kv.machine import Machine
from durable_raft.raft.configuration import describe_stored
from durable_raft.raft.types import (
    ORIGIN,
    Base,
    Configuration,
    Entry,
    HardState,
    Identity,
    Index,
    LogPoint,
    Membership,
    Standing,
    Term,
)
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.store import LmdbKvStore
from raftlog.merging import Merged
from raftlog.rebuild import install, make_directory, write_log
from raftlog.replaying import apply_entry
from raftlog.survivors import Survivor


class NoBeginning(DurableRaftError):
    """No new cluster can be made from what is here; the text says why."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What every node of the new cluster begins with."""

    state_of: Survivor | None
    """Whose state it is; None: the empty one."""
    base: Base
    """Where the log begins, if nothing is applied."""
    applied: list[Entry]
    """Applied to that state, in order: the log begins behind the last of them then."""
    entries: list[Entry]
    """The log."""
    last: LogPoint
    configuration: Configuration
    """The last one of the old cluster."""

    def lines(self) -> Iterator[str]:
        """Yield what becomes of the old cluster's members, a line each; nothing where they never changed."""
        if not self.configuration.index:
            return
        begins = self.applied[-1].index if self.applied else self.base.point.index
        yield (
            f"members: those of --cluster. The log of the new cluster begins behind index {begins}; the last"
            f" configuration of the old one, {describe_stored(self.configuration)}, stays behind"
        )
        if self.applied:
            yield f"applied to the state: entries {self.applied[0].index}..{self.applied[-1].index}"


def beginning_of(merged: Merged) -> Beginning:
    """Return how a new cluster begins with what was merged.

    Raises:
        NoBeginning: the log has lost its beginning, and nobody has a state for it; or nobody knows any members.
    """
    state = None if merged.state_of is None else merged.state_of.state
    configuration = merged.configuration
    if not configuration.voters:
        raise NoBeginning("none of the directories has ever been told who the members are: there is nothing to recover")
    if state is None and merged.base.point.index:
        raise NoBeginning(
            f"the log begins behind index {merged.base.point.index}, and no directory has a sound state for it: restore"
            " a backup"
        )
    if not configuration.index:
        return Beginning(merged.state_of, merged.base, [], merged.entries, merged.last, configuration)
    base = Base(ORIGIN, 0) if state is None else state.applied
    behind = [entry for entry in merged.entries if entry.index > base.point.index]
    applied = [entry for entry in behind if entry.index <= configuration.index]
    return Beginning(merged.state_of, base, applied, behind[len(applied) :], merged.last, configuration)


def begin(
    directory: Path,
    beginning: Beginning,
    identity: Identity,
    membership: Membership,
    term: Term,
    value_bytes_max: int,
) -> None:
    """Make ``directory`` that of a node of the new cluster, which is no voter before it has heard the others.

    Args:
        directory: is made.
        beginning: the same for all nodes.
        identity: the node's.
        membership: of the new cluster.
        term: above all terms of the old cluster.
        value_bytes_max: the old nodes' setting: longest value that an applied command may make.

    Raises:
        DirectoryRefused: there is something already.
        StorageError: it cannot be written, or what is read is not what was verified.
    """
    make_directory(directory)
    source, base = beginning.state_of, beginning.base
    if source is not None and source.state is not None:
        state = replace(source.state, sequence=1, identity=identity, membership=membership, stored_configuration=None)
        install(directory, source, state)
    if beginning.applied:
        if not LmdbKvStore.exists(directory):
            LmdbKvStore.create(directory, identity, membership)
        base = _apply(directory, beginning.applied, base, membership, value_bytes_max)
    LmdbLogStore.create(directory, identity, membership, base=base, standing=Standing(is_voter=False))
    write_log(directory, beginning.entries, HardState(term, None), beginning.last)


def _apply(directory: Path, entries: list[Entry], base: Base, membership: Membership, value_bytes_max: int) -> Base:
    """Apply ``entries`` to the state in ``directory``, which is at ``base``; return where it is then."""
    with closing(LmdbKvStore.open(directory)) as store, closing(store.view()) as view:
        # SCAN's cursors are no part of the state: any seed does.
        machine = Machine(random.Random(0), value_bytes_max, view, base.timestamp_ms)  # noqa: S311
        machine.raise_version(store.checkpoint.version)
        for entry in entries:
            apply_entry(machine, entry.index, entry, entry.payload)
        summary = machine.summary()
        layer = machine.freeze()
        last = entries[-1]
        applied = Base(LogPoint(Index(last.index), last.term, last.chain), machine.time_ms)
        store.write_checkpoint(
            layer.sorted_changes(),
            is_cleared=layer.is_cleared,
            applied=applied,
            membership=membership,
            version=machine.version,
            summary=summary,
        )
    return applied
