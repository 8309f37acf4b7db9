"""The protocols of a stored KV state: at a checkpoint, read at one moment, on its way in, and in its directory.

``LmdbKvStore``, ``LmdbStateView``, ``KvInstaller`` and ``LmdbStateDirectory`` are of these kinds; so are the simulated
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from durable_raft.kv.records import Record, StateSummary, StateView
from durable_raft.raft.types import Base, Configuration, Membership
from durable_raft.storage.environment import Room
from durable_raft.storage.state.change import ChangeSize
from durable_raft.storage.state.meta import KvMeta


class CheckpointView(StateView, Protocol):
    """The state at one checkpoint, whatever is written meanwhile; every record is verified on each read."""

    @property
    def meta(self) -> KvMeta:
        """Which state it is."""

    def piece(self, key: bytes | None, bytes_max: int) -> list[tuple[bytes, Record]]:
        """Return the next records behind ``key`` (None: from the first), about ``bytes_max`` of them; none at the end.

        Raises:
            WoundedState: one of them is damaged.
        """

    def close(self) -> None:
        """Let go of the checkpoint."""


class StateStore(Protocol):
    """The state at its newest checkpoint."""

    @property
    def checkpoint(self) -> KvMeta:
        """What the last durable transaction says."""

    def view(self) -> CheckpointView:
        """Return a view of the newest checkpoint; to be closed."""

    def room(self) -> Room:
        """Return the room in the map and on the disk."""

    def needed_bytes(self, size: ChangeSize) -> int:
        """Return what a checkpoint of so many changes may take at worst."""

    def readers(self) -> dict[int, int]:
        """Return how many checkpoints the readers of each process are behind."""

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
        """Make the next checkpoint durable; ``LmdbKvStore.write_checkpoint`` says what is given and returned.

        Raises:
            DiskFull: there may be no room; nothing was begun, and it may be tried again.
            StoragePoisoned: it failed; every later call raises it too.
            CorruptRecord: a record that is replaced is damaged.
        """

    def require_present(self) -> None:
        """Go on only if the state is still where it was opened; raises ``DirectoryLost``."""

    def close(self) -> None:
        """Release the environment; every view is closed."""


class StateInstaller(Protocol):
    """A snapshot on its way into the data directory; storage/state/install.py says what each call promises."""

    @property
    def last_key(self) -> bytes | None:
        """The last key that was stored; None before the first."""

    def store_records(self, records: list[tuple[bytes, Record]]) -> None:
        """Store the next records."""

    def complete(self) -> None:
        """Check the whole, and make it durable and ready to be swapped in."""

    def close(self) -> None:
        """Stop; what is stored stays for the next time."""


class StateDirectory(Protocol):
    """The states in one data directory: the one in use, one that is coming in, those set aside."""

    def open(self) -> StateStore:
        """Open the state in use, after whatever swap was interrupted is completed; raises as ``LmdbKvStore.open``."""

    def install(self, target: KvMeta) -> StateInstaller:
        """Begin to store the snapshot ``target``, or go on with the part of it that is there."""

    def swap(self) -> None:
        """Put the snapshot that is whole in the place of the state, durably; the state's store is closed."""

    def discard_waiting(self) -> None:
        """Drop the snapshot that is whole and not wanted any more."""

    def set_aside(self, prefix: str) -> str:
        """Rename the state to PREFIX-DATE, durably, and return that name; its store is closed. Nothing is deleted."""
