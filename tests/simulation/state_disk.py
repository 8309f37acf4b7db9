"""The KV state on a simulated disk: checkpoints, views and installations, with the meaning of the real ones.

A checkpoint or an installation is there wholly or not at all, because the real ones are one LMDB transaction or one
rename. What matters here is when it is there: before or after the log's writes, at any crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from durable_raft.errors import CorruptRecord, DiskFull, InvariantViolation, StoragePoisoned
from durable_raft.kv.records import Record, StateSummary
from durable_raft.raft.types import Base, Configuration, Identity, Membership
from durable_raft.server.state.checkpoints import PAGE_BYTES
from durable_raft.storage.environment import Room
from durable_raft.storage.state.change import ChangeSize, Settlement
from durable_raft.storage.state.meta import KvMeta, first_meta
from tests.kv.state_views import PlainView

if TYPE_CHECKING:
    from tests.simulation.disk import Disk

State = dict[bytes, Record]

CHECKPOINT_BYTES: Final = 2000
"""What the state's file keeps for a checkpoint when others have taken the rest of the disk."""

PIECE_RECORDS: Final = 3
"""Records in one piece of a snapshot: few, so that a transfer has many places to break."""


@dataclass(slots=True)
class StateDisk:
    """What is in ``kv`` and beside it."""

    meta: KvMeta | None
    state: State = field(default_factory=dict)
    waiting: tuple[KvMeta, State] | None = None
    """``kv.new``."""
    partial: tuple[KvMeta, State] | None = None

    @classmethod
    def empty(cls, identity: Identity, membership: Membership) -> StateDisk:
        """Return the state before the first entry."""
        return cls(first_meta(identity, membership))

    def covers(self, index: int) -> bool:
        """Return whether the effect of the entry at ``index`` is in the state."""
        return self.meta is not None and self.meta.applied.point.index >= index

    def restart(self) -> None:
        """Finish an interrupted swap, as opening the real one does."""
        if self.waiting is not None:
            meta, state = self.waiting
            if self.meta is None or meta.applied.point.index > self.meta.applied.point.index:
                self.meta, self.state = meta, state
            self.waiting = None


class SimView(PlainView):
    """A view of one checkpoint."""

    def __init__(self, meta: KvMeta, state: State) -> None:
        super().__init__(state)
        self.meta = meta

    def piece(self, key: bytes | None, bytes_max: int) -> list[tuple[bytes, Record]]:
        """Return the next few records."""
        return list(self.after(key, PIECE_RECORDS, bytes_max))

    def close(self) -> None:
        """Nothing to release."""


class SimKv:
    """Stands in for ``LmdbKvStore``."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._poison: StoragePoisoned | None = None

    @property
    def checkpoint(self) -> KvMeta:
        """What the last transaction says."""
        meta = self._disk.kv.meta
        if meta is None:
            raise InvariantViolation("a state that is not there was used")
        return meta

    def require_present(self) -> None:
        """The directory is always there."""

    def view(self) -> SimView:
        """Return a view of the last checkpoint."""
        return SimView(self.checkpoint, self._disk.kv.state)

    def readers(self) -> dict[int, int]:
        """Nobody reads from another process."""
        return {}

    def needed_bytes(self, size: ChangeSize) -> int:
        """Return what is needed at worst."""
        return size.value_bytes

    def write_checkpoint(
        self,
        changes: Iterable[tuple[bytes, Record | None]],
        *,
        is_cleared: bool,
        applied: Base,
        membership: Membership,
        configuration: Configuration | None,
        version: int,
        pause: Callable[[], None],
        size: ChangeSize,
    ) -> StateSummary:
        """Move the changes into the state, settled as the real one settles them."""
        del pause
        if self._disk.free_bytes < size.value_bytes > CHECKPOINT_BYTES:
            raise DiskFull("simulated: no room for the checkpoint")
        if self._poison is not None:
            raise self._poison
        if self._disk.fails is not None:
            reason, self._disk.fails = self._disk.fails, None
            self._poison = StoragePoisoned(f"simulated {reason}")
            raise self._poison
        old = self.checkpoint
        state: State = {} if is_cleared else dict(self._disk.kv.state)
        settlement = Settlement(StateSummary() if is_cleared else old.summary)
        for key, record in changes:
            before = state.get(key)
            settlement.settle([None if before is None else (before.crc, before.deadline_ms)], [record])
            if record is None:
                state.pop(key, None)
            else:
                state[key] = record
        summary = settlement.summary
        # The real one can compare the counts only: LMDB has them.
        if (found := PlainView(state).summary) != summary:
            raise InvariantViolation(f"checkpoint at {applied}: {found}, expected {summary}")
        self._disk.kv.meta = replace(
            old,
            sequence=old.sequence + 1,
            applied=applied,
            summary=summary,
            membership=membership,
            stored_configuration=configuration,
            version=version,
        )
        self._disk.kv.state = state
        return summary

    def room(self) -> Room:
        """Return the room of the disk: it bounds what can be written, not the map."""
        used_bytes = PAGE_BYTES * len(self._disk.kv.state)
        return Room(used_bytes, used_bytes, 1 << 60, self._disk.free_bytes)

    def close(self) -> None:
        """Nothing to release."""


class SimInstaller:
    """Stands in for ``KvInstaller``."""

    def __init__(self, disk: Disk, target: KvMeta) -> None:
        self._disk = disk
        self._target = target
        if disk.kv.partial is None or disk.kv.partial[0] != target:
            disk.kv.partial = target, {}
        self._state = disk.kv.partial[1]
        self.last_key = list(self._state)[-1] if self._state else None

    def store_records(self, records: Sequence[tuple[bytes, Record]]) -> None:
        """Store the next records."""
        for key, record in records:
            self._state[key] = record
            self.last_key = key

    def complete(self) -> None:
        """Check the whole and let it wait."""
        self._disk.kv.partial = None
        found = PlainView(self._state).summary
        if found != self._target.summary:
            raise CorruptRecord(f"snapshot: received {found}, expected {self._target.summary}")
        self._disk.kv.waiting = self._target, self._state

    def close(self) -> None:
        """What is stored stays."""


class SimStateDirectory:
    """A ``StateDirectory`` on a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def open(self) -> SimKv:
        """Open the state."""
        return SimKv(self._disk)

    def install(self, target: KvMeta) -> SimInstaller:
        """Begin a snapshot, or go on with it."""
        return SimInstaller(self._disk, target)

    def swap(self) -> None:
        """Put the waiting state in the place of the present one."""
        kv = self._disk.kv
        if kv.waiting is None:
            raise InvariantViolation("no state waits")
        kv.meta, kv.state = kv.waiting
        kv.waiting = None

    def discard_waiting(self) -> None:
        """Drop the waiting state."""
        self._disk.kv.waiting = None

    def set_aside(self, prefix: str) -> str:
        """Put the state aside."""
        self._disk.kv.meta = None
        return prefix
