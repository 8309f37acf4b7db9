"""The states of a directory behind their protocol: opened, received, swapped, dropped, set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.errors import DirectoryRefused
from durable_raft.storage.state.lmdb_directory import LmdbStateDirectory
from durable_raft.storage.state.state_store import StateDirectory
from tests.support.state_building import items_of, make_kv, read_kv, sample, target_of


def receive(states: StateDirectory, index: int) -> None:
    """Have a snapshot at ``index`` wait for its turn."""
    installer = states.install(target_of(sample(index), index))
    installer.store_records(items_of(sample(index)))
    installer.complete()


def test_a_state_is_received_and_takes_the_place_of_the_one_in_use(tmp_path: Path) -> None:
    """One that is not wanted any more is dropped, and the one in use stays."""
    make_kv(tmp_path, sample(3), 3)
    states: StateDirectory = LmdbStateDirectory(tmp_path)
    receive(states, 9)
    states.discard_waiting()
    with pytest.raises(DirectoryRefused):
        states.swap()
    receive(states, 12)
    states.swap()
    store = states.open()
    assert store.checkpoint.applied.point.index == 12
    store.close()
    assert read_kv(tmp_path) == (12, sample(12))


def test_states_that_are_set_aside_have_names_of_their_own(tmp_path: Path) -> None:
    """Also two within a second; nothing is deleted."""
    states = LmdbStateDirectory(tmp_path)
    names = set()
    for index in (3, 4):
        make_kv(tmp_path, sample(index), index)
        names.add(states.set_aside("kv.differs"))
    assert {path.name for path in tmp_path.glob("kv.*")} == names
    assert len(names) == 2
