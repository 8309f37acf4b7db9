"""The file that keeps the cluster's name is there wholly, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.errors import DirectoryRefused
from durable_raft.server.start import cluster_name
from durable_raft.server.start.cluster_name import CLUSTER_NAME, expect_name


def test_a_name_is_kept(tmp_path: Path) -> None:
    """The first start gives it, later ones must give the same."""
    expect_name(tmp_path, "one")
    expect_name(tmp_path, "one")
    with pytest.raises(DirectoryRefused, match="belongs to the cluster 'one', but --cluster-name is 'two'"):
        expect_name(tmp_path, "two")
    assert [path.name for path in tmp_path.iterdir()] == [CLUSTER_NAME]


@pytest.mark.parametrize("flushes", [0, 1])
def test_a_start_that_is_cut_leaves_no_part_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    """Cut before the file is flushed, the name is not there; cut before the directory is, it is whole."""
    left = flushes

    def cut(_: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "the power is cut")

    with monkeypatch.context() as patched:
        patched.setattr(cluster_name, "sync_path", cut)
        with pytest.raises(OSError, match="the power is cut"):
            expect_name(tmp_path, "one")
    path = tmp_path / CLUSTER_NAME
    assert (path.read_text() == "one\n") if flushes else not path.exists()
    expect_name(tmp_path, "one")


def test_an_empty_file_is_no_name(tmp_path: Path) -> None:
    """An older version left one behind when its start was cut; it refuses nobody."""
    (tmp_path / CLUSTER_NAME).touch()
    expect_name(tmp_path, "one")
    assert (tmp_path / CLUSTER_NAME).read_text() == "one\n"


def test_a_rotten_name_is_told_as_it_is(tmp_path: Path) -> None:
    """It is no reason to end with a traceback; the error says which file it is in."""
    (tmp_path / CLUSTER_NAME).write_bytes(b"on\xe5\n")
    with pytest.raises(DirectoryRefused, match=rf"is 'one'; the name is kept in {tmp_path / CLUSTER_NAME}"):
        expect_name(tmp_path, "one")
