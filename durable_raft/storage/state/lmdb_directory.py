"""The states of one data directory on LMDB, behind the protocol ``StateDirectory``."""

from __future__ import annotations

from pathlib import Path

from durable_raft.storage.directory import unused_name
from durable_raft.storage.environment import MAP_BYTES
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.swap import NEW, discard, set_aside, swap


class LmdbStateDirectory:
    """A ``StateDirectory``; the caller holds the directory's lock."""

    def __init__(self, directory: Path, *, map_bytes: int = MAP_BYTES, reserve_bytes: int = 0) -> None:
        """Use the states in ``directory``; ``map_bytes`` bounds each file, ``reserve_bytes`` is kept behind its end."""
        self._reserve_bytes = reserve_bytes
        self._directory = directory
        self._map_bytes = map_bytes

    def open(self) -> LmdbKvStore:
        """Open the state in use; raises as ``LmdbKvStore.open``."""
        return LmdbKvStore.open(self._directory, map_bytes=self._map_bytes, reserve_bytes=self._reserve_bytes)

    def install(self, target: KvMeta) -> KvInstaller:
        """Begin or resume the snapshot ``target``; raises as ``KvInstaller.open``."""
        return KvInstaller.open(self._directory, target, map_bytes=self._map_bytes)

    def swap(self) -> None:
        """Put the waiting snapshot in the place of the state; raises as ``swap.swap``."""
        swap(self._directory, over=None)

    def discard_waiting(self) -> None:
        """Delete the waiting snapshot."""
        discard(self._directory, NEW)

    def set_aside(self, prefix: str) -> str:
        """Rename the state; raises as ``swap.set_aside``."""
        name = unused_name(self._directory, prefix).name
        set_aside(self._directory, name)
        return name
