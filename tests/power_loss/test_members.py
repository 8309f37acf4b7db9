"""What the campaign asks of the configurations of a recovered log, on cases small enough to be seen through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.raft.ready import Write
from durable_raft.raft.types import ORIGIN, Base, Configuration, Entry, StoredLog
from durable_raft.server.start import recovery as start
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.state.store import LmdbKvStore
from tests.power_loss import recovery
from tests.power_loss.members import found_in, grown, told_of
from tests.support.log_building import (
    IDENTITY,
    MEMBERSHIP,
    configuration_entry,
    configured,
    entries_after,
    point_of,
    read_all,
)

ONE, TWO, FIVE = [1, "one", 1], [2, "two", 2], [5, "five", 5]


@pytest.fixture
def log(tmp_path: Path) -> tuple[StoredLog, list[Entry]]:
    """Return what a store has of five entries whose second and fourth are configurations."""
    entries = entries_after(ORIGIN, 1)
    for voters in (("n1", "n2"), ("n1", "n3")):
        entries.append(configuration_entry(point_of(entries[-1]), *voters))
        entries += entries_after(point_of(entries[-1]), 1)
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    store = LmdbLogStore.open(tmp_path)
    store.load()
    store.persist([Write(1, None, None, tuple(entries))])
    stored = store.load()
    found = read_all(store, 1, 6)
    store.close()
    return stored, found


def test_a_node_goes_by_the_newest_configuration(log: tuple[StoredLog, list[Entry]]) -> None:
    """All of them are told, and the newest is named; without any it is that of the first start."""
    stored, entries = log
    expected = told_of([configured(2, "n1", "n2"), configured(4, "n1", "n3")], MEMBERSHIP)
    assert found_in(stored, MEMBERSHIP, entries) == expected
    assert expected["goes_by"] == expected["configurations"][1]
    assert told_of([], MEMBERSHIP)["goes_by"][:2] == [0, "voters n1 n2 n3"]


@pytest.mark.parametrize(
    "known",
    [
        (),
        (configured(2, "n1", "n2"),),
        (configured(4, "n1", "n3"),),
        (configured(2, "n1", "n2"), configured(4, "n1", "n4")),
        (configured(2, "n1", "n2"), configured(3, "n1", "n3")),
        (configured(0, "n1"), configured(2, "n1", "n2"), configured(4, "n1", "n3"), configured(4, "n1", "n3")),
    ],
)
def test_what_is_known_beside_the_entries_is_what_they_say(
    log: tuple[StoredLog, list[Entry]], known: tuple[Configuration, ...]
) -> None:
    """One forgotten, another one, one at another place, one too many."""
    stored, entries = log
    with pytest.raises(AssertionError, match="are known"):
        found_in(replace(stored, configurations=known), MEMBERSHIP, entries)


@pytest.mark.parametrize(
    ("old", "new", "last", "base", "is_lawful"),
    [
        ([], [], 1, 0, True),
        ([ONE], [ONE, FIVE], 4, 0, True),
        ([ONE], [ONE, TWO], 4, 0, False),
        ([ONE, TWO], [TWO], 4, 0, False),
        ([ONE, TWO], [TWO], 4, 3, True),
        ([ONE, TWO], [TWO, FIVE], 4, 3, True),
        ([ONE, TWO], [FIVE], 4, 6, True),
        ([ONE, TWO], [], 4, 3, False),
        ([ONE], [], 4, 0, False),
    ],
)
def test_no_configuration_is_forgotten(
    old: list[list[object]], new: list[list[object]], last: int, base: int, is_lawful: bool
) -> None:
    """What a killed node has later is what it had, what came behind, and what compaction leaves of both."""
    assert grown(old, new, last, base) == is_lawful


def test_a_state_that_names_another_configuration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set aside at the start; and if the start forgets to look, the judgement does not."""
    entries = [configuration_entry(ORIGIN, "n1")]
    entries += entries_after(point_of(entries[-1]), 2)
    LmdbLogStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    store = LmdbLogStore.open(tmp_path)
    store.load()
    store.persist([Write(1, None, None, tuple(entries))])
    store.close()
    LmdbKvStore.create(tmp_path, IDENTITY, MEMBERSHIP)
    states = LmdbKvStore.open(tmp_path)
    applied = Base(point_of(entries[1]), entries[1].timestamp_ms)
    states.write_checkpoint([], is_cleared=False, applied=applied, membership=MEMBERSHIP, configuration=None)
    states.close()
    with monkeypatch.context() as careless:
        careless.setattr(start, "stored_at", lambda *_: None)
        with pytest.raises(AssertionError, match="names None"):
            recovery._open_state(tmp_path)
    with pytest.raises(AssertionError, match="was set aside"):
        recovery._open_state(tmp_path)
