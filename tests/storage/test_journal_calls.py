"""Each call to the system that a journal makes fails once, or from there on: nothing acknowledged is lost by it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from durable_raft.errors import StorageError
from durable_raft.raft.types import ORIGIN, Entry
from durable_raft.storage.log.journal_format import BLOCK_BYTES
from durable_raft.storage.log.journaled_store import GROUP_BYTES_MAX
from tests.support.log_building import JournalShelf, entries_after, point_of, read_all, write

FILE_CALLS: Final = ("open", "pwrite", "pread", "lseek", "fstat", "fsync", "fdatasync", "close")
CALLS: Final = (*FILE_CALLS, "rename", "unlink", "statvfs")
LIVES: Final = ((True, ("small", "small", "move", "small")), (True, ("small", "large", "small")), (False, ("small",)))
"""Of one directory: whether the journal is used, and what is done. It is made, used again, left, and made again."""


class FailingSystem:
    """Counts the calls that Python makes, and lets some of them fail; LMDB's own are not among them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_counting = False
        self.count = 0
        self.first: int | None = None
        """Number of the first call that fails; None: none does."""
        self.for_good = False
        self.error = errno.EIO
        self.failed: list[str] = []
        for name in CALLS:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += self.is_counting
            fails = self.first is not None and self.is_counting
            if fails and (self.count == self.first or (self.for_good and self.count > (self.first or 0))):
                self.failed.append(name)
                if name == "close":
                    real(*arguments)
                raise OSError(self.error, f"injected into {name}")
            return real(*arguments, **options)

        return call


def _live(shelf: JournalShelf, system: FailingSystem, acked: list[Entry]) -> list[Entry]:
    """Play all lives, the first again at the end; return the entries of the write that failed."""
    last = ORIGIN
    for is_used, steps in (*LIVES, LIVES[0]):
        store = shelf.open(is_used=is_used)
        tried: list[Entry] = []
        system.is_counting = True
        try:
            store.load()
            for number, step in enumerate(steps, 1):
                if step == "move":
                    store.move()
                    continue
                payload = bytes(GROUP_BYTES_MAX + 1 if step == "large" else 50)
                tried = entries_after(last, 2, term=last.term + 1, payload=payload)
                store.persist([write(number, tried)])
                acked += tried
                last, tried = point_of(tried[-1]), []
        except (StorageError, OSError):
            return tried
        finally:
            system.is_counting = False
    return []


def _check(shelf: JournalShelf, acked: list[Entry], tried: list[Entry], said: str) -> None:
    """Start again on a disk that works: what was acknowledged is there, and the write that failed wholly or not."""
    found: list[Entry] = []
    last = ORIGIN
    for is_used in (True, False, True):
        store = shelf.open(is_used=is_used)
        last = store.load().last
        found = read_all(store, 1, last.index + 1) if last.index else []
        assert found in (acked, acked + tried), said
    store.persist([write(1, entries_after(last, 1, term=last.term + 1))])
    assert store.load().last.index == len(found) + 1, said


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_no_failing_call_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Nor keeps a start from it once the disk works again."""
    system = FailingSystem(monkeypatch)

    def play(name: str) -> None:
        shelf = JournalShelf(tmp_path / name, ring_bytes=8 * BLOCK_BYTES)
        acked: list[Entry] = []
        tried = _live(shelf, system, acked)
        _check(shelf, acked, tried, f"call {system.first} of {error}, for good: {system.for_good}: {system.failed}")
        shelf.close()

    play("whole")
    calls, seen = system.count, set()
    system.error = error
    for first in range(1, calls + 1):
        system.first, system.for_good, system.count, system.failed = first, first % 3 == 0, 0, []
        play(str(first))
        assert system.failed
        seen.add(system.failed[0])
    assert seen == set(CALLS)
