"""The poison latch: durable write transactions of one environment, none after the first that failed (contract 6).

LMDB lets a later commit succeed after a failed fdatasync, although the kernel may have dropped the pages that failed.
So the first exception out of a write transaction, whatever it is, is kept, and every later write raises it again as
``StoragePoisoned``. A flush into a file that its path does not name any more counts as failed (presence.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import lmdb

from durable_raft.errors import DirectoryLost, StoragePoisoned
from durable_raft.storage.directory import DATA_FILE
from durable_raft.storage.preflight import note_failed_transaction
from durable_raft.storage.presence import Presence

if TYPE_CHECKING:
    from lmdb import Transaction

_Buffer = TypeVar("_Buffer", bytes, memoryview)


def begin_reading(path: Path, begin: Callable[[], Transaction[_Buffer]]) -> Transaction[_Buffer]:
    """Begin a read transaction of the environment at ``path``.

    When the write of a meta page failed, LMDB refuses even these. A reader on another thread may meet that before the
    writer has told of its failure.

    Raises:
        StoragePoisoned: LMDB refuses; the disk failed.
    """
    try:
        return begin()
    except lmdb.Error as error:
        raise StoragePoisoned(f"{path} cannot be read any more: {error}") from error


class PoisonLatch:
    """Runs the write transactions of one environment."""

    def __init__(self, path: Path) -> None:
        """Watch over the environment at ``path``, which has just been opened."""
        self._path = path
        self._presence = Presence(path / DATA_FILE)
        self._poison: BaseException | None = None
        self.commits = 0
        """Transactions that are durable."""

    def require_sound(self) -> None:
        """Go on only if no transaction failed.

        Raises:
            StoragePoisoned: with the first cause.
        """
        if self._poison is not None:
            raise StoragePoisoned(f"{self._path}: an earlier write failed: {self._poison}") from self._poison

    def require_present(self) -> None:
        """Go on only if what is written can be found again.

        Raises:
            DirectoryLost: the data file was removed, replaced or covered.
        """
        self._presence.require()

    @contextmanager
    def transaction(self, begin: Callable[[], Transaction[_Buffer]]) -> Iterator[Transaction[_Buffer]]:
        """Run the write transaction that ``begin`` begins; when the block ends it is flushed.

        Raises:
            StoragePoisoned: anything failed, the commit included; the first cause is kept.
            DirectoryLost: it was flushed into a file that nobody finds again.
        """
        self.require_sound()
        transaction_id = 0
        try:
            with begin() as transaction:
                transaction_id = transaction.id()
                yield transaction
        except BaseException as error:
            self._poison = error
            note_failed_transaction(self._path, transaction_id)
            raise StoragePoisoned(f"{self._path}: {error}") from error
        try:
            self._presence.require()
        except DirectoryLost as error:
            self._poison = error
            raise
        self.commits += 1
