"""What a node starts with where the members were changed: which configuration counts, and who else may help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import CorruptRecord, DirectoryRefused
from durable_raft.raft.types import Configuration, Membership, Standing
from durable_raft.server.start.opening import open_node
from durable_raft.server.start.restore import restore_node
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from durable_raft.storage.state.records import stored_key
from tests.storage.raw import flip_bit
from tests.support.log_building import MEMBERSHIP, configured, point_of, write
from tests.support.opened_directories import (
    ALONE,
    aside,
    backup,
    close,
    config,
    installed,
    made,
    moved_to,
    opened,
    put_state,
    told_to_nobody,
)
from tests.support.state_building import put_raw, sample, target_of

pytestmark = pytest.mark.usefixtures("both_commits")

TWO = (4, ("n1", "n2"))
"""A configuration at 4 of the log."""


def counting(directory: Path) -> tuple[tuple[Configuration, ...], Configuration | None]:
    """Open the directory as a node does; return the configurations of its log, and the one that its state names."""
    data = open_node(config(directory))
    try:
        return data.stored.configurations, None if data.kv is None else data.kv.checkpoint.stored_configuration
    finally:
        close(data)


def know_committed(directory: Path, index: int) -> None:
    """Have the node remember what was committed in its last life."""
    log = LmdbLogStore.open(directory)
    log.load()
    (entry,) = log.entries(index, index + 1, 1 << 20)  # type: ignore[arg-type]
    log.persist([replace(write(1), standing=Standing(committed=point_of(entry)))])
    log.close()


@pytest.mark.parametrize("compact_to", [0, 3, 4, 6])
@pytest.mark.parametrize("state_at", [6, 9])
def test_a_configuration_counts_wherever_the_log_begins(tmp_path: Path, compact_to: int, state_at: int) -> None:
    """Also where its entry is gone; and one rotten copy of either meta takes nothing of it."""
    made(tmp_path, state_at=state_at, compact_to=compact_to, members=TWO)
    expected = configured(4, "n1", "n2")
    assert counting(tmp_path) == ((expected,), expected)
    flip_bit(tmp_path, "meta", b"meta", 100)
    put_raw(tmp_path, "meta_copy", b"meta", b"rot")
    for _ in range(2):
        assert counting(tmp_path) == ((expected,), expected)
    assert aside(tmp_path) == set()


def test_a_state_from_before_a_configuration_names_none(tmp_path: Path) -> None:
    """It is applied later; and so it is with a state that is made again from the log."""
    made(tmp_path / "a", state_at=3, members=TWO)
    made(tmp_path / "b", state_at=0, members=TWO)
    for name in ("a", "b"):
        assert counting(tmp_path / name) == ((configured(4, "n1", "n2"),), None)


@pytest.mark.parametrize("named", [configured(18, "n1", "n3"), configured(4, "n1", "n2"), None])
def test_an_interrupted_installation_brings_the_configuration_of_its_snapshot(
    tmp_path: Path, named: Configuration | None
) -> None:
    """What the log had is dropped with it, for nothing of it is known to be committed."""
    made(tmp_path, state_at=2, members=TWO)
    installed(tmp_path, 20, configuration=named)
    for _ in range(2):
        assert counting(tmp_path) == (() if named is None else (named,), named)


def test_an_installation_with_a_stale_configuration_is_not_finished(tmp_path: Path) -> None:
    """The log knows that another is committed: it stays, and the state is set aside."""
    made(tmp_path, state_at=2, members=TWO)
    know_committed(tmp_path, 9)
    installed(tmp_path, 20)
    assert counting(tmp_path) == ((configured(4, "n1", "n2"),), None)
    assert opened(tmp_path) == (9, 0)
    assert aside(tmp_path) == {"kv.wounded"}


@pytest.mark.parametrize("named", [None, configured(4, "n1", "n3"), configured(3, "n1", "n2")])
def test_a_state_that_names_another_configuration_than_the_log_is_set_aside(
    tmp_path: Path, named: Configuration | None
) -> None:
    """One of the two is wrong, and the log has the entry."""
    entries = made(tmp_path, state_at=0, members=TWO)
    put_state(tmp_path, entries[6], configuration=named)
    assert counting(tmp_path) == ((configured(4, "n1", "n2"),), None)
    assert aside(tmp_path) == {"kv.wounded"}


def rotten_state(directory: Path) -> None:
    """Damage a record of the state."""
    put_raw(directory, "keys", stored_key(b"key:0001"), b"rot")


def rotten_log(directory: Path) -> None:
    """Damage both records of an entry."""
    flip_bit(directory, "ident", IDENT_KEY.pack(8), 200)
    flip_bit(directory, "log", LOG_KEY.pack(8, 0), 200)


def test_a_node_that_is_alone_by_a_change_keeps_what_it_has(tmp_path: Path) -> None:
    """Nobody else has to hold it, whoever was there at the first start."""
    for name in ("state", "log", "none"):
        made(tmp_path / name, state_at=7 * (name != "none"), compact_to=6, members=(4, ("n1",)))
    rotten_state(tmp_path / "state")
    rotten_log(tmp_path / "log")
    for name in ("state", "log"):
        with pytest.raises(CorruptRecord, match="no other node"):
            opened(tmp_path / name)
        assert aside(tmp_path / name) == set()
    with pytest.raises(DirectoryRefused, match="restore a backup"):
        opened(tmp_path / "none")


def test_a_node_that_is_no_longer_alone_is_helped_by_the_others(tmp_path: Path) -> None:
    """Though it was at its first start."""
    for name in ("state", "none"):
        made(tmp_path / name, ALONE, state_at=7 * (name != "none"), compact_to=6, members=(4, ("n1", "n2", "n3")))
    rotten_state(tmp_path / "state")
    assert opened(tmp_path / "state", ALONE) == (9, None)
    assert opened(tmp_path / "none", ALONE) == (9, None)
    assert aside(tmp_path / "state") == {"kv.wounded"}


@pytest.mark.parametrize(
    ("first", "voters"), [(ALONE, ("n1", "n2", "n3")), (MEMBERSHIP, ("n1", "n2", "n4")), (MEMBERSHIP, ("n1", "n2"))]
)
def test_a_node_whose_members_changed_does_not_begin_anew(
    tmp_path: Path, first: Membership, voters: tuple[str, ...]
) -> None:
    """Its first configuration would be that of --cluster: alone, it would elect itself with nothing."""
    made(tmp_path, first, members=(4, voters))
    rotten_log(tmp_path)
    with pytest.raises(CorruptRecord, match="members were changed since the first start"):
        opened(tmp_path, first)
    assert aside(tmp_path) == set()


def test_a_node_begins_anew_where_it_is_told_who_the_members_are_now(tmp_path: Path) -> None:
    """Then it waits for all of them, or for a leader to admit it."""
    made(tmp_path, ALONE, members=(4, ("n1", "n2", "n3")))
    rotten_log(tmp_path)
    assert opened(tmp_path) == (0, 0)
    assert aside(tmp_path) == {"wounded"}


def test_a_rotten_payload_is_lost_to_whoever_is_alone_now(tmp_path: Path) -> None:
    """And healed from others where there are some by now."""
    for name, membership, voters in (("left", MEMBERSHIP, ("n1",)), ("joined", ALONE, ("n1", "n2"))):
        made(tmp_path / name, membership, members=(4, voters))
        flip_bit(tmp_path / name, "log", LOG_KEY.pack(8, 0), 33 * 8)
    with pytest.raises(CorruptRecord, match="log index 8"):
        opened(tmp_path / "left")
    assert opened(tmp_path / "joined", ALONE) == (9, 7)


def test_a_restored_cluster_has_the_members_that_are_named_at_its_restore(tmp_path: Path) -> None:
    """Never those that the old one had by then: some of them may still be there."""
    meta = replace(target_of(sample()), stored_configuration=configured(8, "n1", "n4"))
    backup(tmp_path / "file", sample(), meta)
    node = moved_to(tmp_path / "r1", 1)
    assert restore_node(tmp_path / "file", node, told_to_nobody) == meta
    data = open_node(node)
    assert data.stored.configurations == ()
    assert data.kv is not None
    assert data.kv.checkpoint.stored_configuration is None
    assert data.kv.checkpoint.configuration == Configuration.initial(Membership(node.membership.voters))
    close(data)
