"""Which file a log is in (storage/place.py): the same for good, and another for every copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from durable_raft.storage import place
from durable_raft.storage.directory import DATA_FILE
from durable_raft.storage.place import place_of


def environment(path: Path) -> Path:
    """Make something that has a data file."""
    path.mkdir()
    (path / DATA_FILE).write_bytes(b"records")
    return path


def test_a_place_is_kept_when_the_file_is_written_and_renamed(tmp_path: Path) -> None:
    """As by a node, by a directory that is moved within its file system, and by a new owner or time."""
    here = environment(tmp_path / "raft")
    before = place_of(here)
    assert len(before) == 20
    with (here / DATA_FILE).open("r+b") as file:
        file.write(b"other")
        file.truncate()
    (here / DATA_FILE).chmod(0o600)
    there = here.rename(tmp_path / "moved")
    assert place_of(there) == before


def test_a_copy_is_in_another_place(tmp_path: Path) -> None:
    """Also one that takes the name of the file that it was made from, and with it perhaps the number of its inode."""
    here = environment(tmp_path / "raft")
    before = place_of(here)
    copy = Path(shutil.copytree(here, tmp_path / "copy"))
    assert place_of(copy) != before
    shutil.rmtree(here)
    shutil.copytree(copy, here)
    assert place_of(here) != before


def test_without_the_time_a_file_was_made_its_number_is_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that does not tell is no reason to refuse a directory."""
    here = environment(tmp_path / "raft")
    assert place._birth(tmp_path / "missing") == (0, 0)
    monkeypatch.setattr(place, "_birth", lambda _path: (0, 0))
    assert int.from_bytes(place_of(here)[:8], "big") == (here / DATA_FILE).stat().st_ino


def test_no_data_file_has_no_place(tmp_path: Path) -> None:
    """The caller knows what that means."""
    with pytest.raises(FileNotFoundError):
        place_of(tmp_path)
