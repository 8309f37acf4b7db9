"""A file that is open and not at its place any more: nothing is promised from then on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from durable_raft.errors import DirectoryLost, StoragePoisoned
from durable_raft.storage.environment import open_environment
from durable_raft.storage.poison import PoisonLatch
from durable_raft.storage.presence import Presence


def _removed(path: Path) -> None:
    shutil.rmtree(path)


def _moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _replaced(path: Path) -> None:
    """Put a copy in its place, equal to the last byte."""
    shutil.copytree(path, path.with_name("copy"))
    _moved(path)
    path.with_name("copy").rename(path)


def _file_in_its_way(path: Path) -> None:
    _moved(path)
    path.write_text("a file")


LOSSES = [_removed, _moved, _replaced, _file_in_its_way]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_flush_into_a_lost_file_is_no_promise(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    """LMDB commits without an error; whoever asked is told that the directory is lost, and nothing is written more."""
    place = tmp_path / "place"
    place.mkdir()
    with open_environment(place, map_bytes=1 << 20, create=True) as environment:
        latch = PoisonLatch(place)
        begin: Callable[[], lmdb.Transaction[bytes]] = lambda: environment.begin(write=True)  # noqa: E731
        with latch.transaction(begin) as transaction:
            transaction.put(b"a", b"1")
        latch.require_present()
        lose(place)
        with pytest.raises(DirectoryLost), latch.transaction(begin) as transaction:
            transaction.put(b"b", b"2")
        assert latch.commits == 1
        with pytest.raises(DirectoryLost):
            latch.require_present()
        with pytest.raises(StoragePoisoned), latch.transaction(begin):
            pass


def test_what_is_not_there_at_first_is_lost(tmp_path: Path) -> None:
    """There is nothing to compare with later."""
    with pytest.raises(DirectoryLost, match="is gone"):
        Presence(tmp_path / "missing")
