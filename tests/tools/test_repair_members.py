"""``raftlog repair`` and ``recover`` where the members were changed: who is counted, what is kept, what is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.kv.machine import Machine
from durable_raft.kv.records import StateSummary
from durable_raft.raft.changes import Promote, Remove, next_configuration
from durable_raft.raft.configuration import encode, next_stage
from durable_raft.raft.types import (
    CONFIGURATION,
    ORIGIN,
    Base,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Identity,
    Index,
    LogPoint,
    Membership,
    NodeId,
    StoredLog,
    Term,
    make_entry,
)
from durable_raft.server.settings.config import load_config
from durable_raft.server.start.opening import open_node
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY
from durable_raft.storage.state.install import KvInstaller
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.swap import complete_swap
from durable_raft.storage.state.verify import read_checkpoint
from tests.storage.raw import raw_tables
from tests.support.batches import batch_of
from tests.support.log_building import IDENTITY, MEMBERSHIP, configured, point_of, write
from tests.support.raft_nodes import configuration_of
from tests.tools.directories import raftlog as run_raftlog
from tests.tools.test_repair import log_of, new_ones, raftlog, rot

NOBODY = Membership(())
"""What a directory knows of the first start that was made by --join."""
NEW = "m1=10.0.0.1:7001,m2=10.0.0.2:7001"
FIRST = configuration_of(("n1", "n2", "n3"))
JOINT = next_configuration(
    replace(configuration_of(("n1", "n2", "n3", "n4")), voters=FIRST.voters, learners=(NodeId("n4"),)),
    [Promote(NodeId("n4")), Remove(NodeId("n2")), Remove(NodeId("n3"))],
)
"""From n1, n2, n3 to n1, n4."""


def log_with(*steps: int | Configuration) -> list[Entry]:
    """Return a log of term 1: so many commands, a configuration, and so on."""
    entries: list[Entry] = []
    for step in steps:
        for _ in range(step if isinstance(step, int) else 1):
            last = point_of(entries[-1]) if entries else ORIGIN
            kind, payload = EntryKind.COMMANDS, batch_of([[b"set", b"key:%d" % (last.index + 1), b"value"]])
            if isinstance(step, Configuration):
                kind, payload = CONFIGURATION, encode(step)
            stamp = 1_700_000_000_000 + last.index
            entries.append(make_entry(previous=last, term=Term(1), kind=kind, timestamp_ms=stamp, payload=payload))
    return entries


def directory_of(
    place: Path, node_id: str, entries: Sequence[Entry], *, term: int = 1, membership: Membership = MEMBERSHIP
) -> Path:
    """Make a stopped node's directory with this log and an empty state."""
    identity = Identity(IDENTITY.cluster_id, NodeId(node_id), node_id.encode().ljust(16, b"-"))
    directory = place / node_id
    LmdbLogStore.create(directory, identity, membership)
    store = LmdbLogStore.open(directory)
    store.load()
    store.persist([write(1, list(entries), hard_state=HardState(Term(term), None))])
    store.close()
    LmdbKvStore.create(directory, identity, membership)
    return directory


def with_state(directory: Path, at: Entry | LogPoint, named: Configuration | None) -> None:
    """Move the state of a directory to an entry, as its node does: with the keys that are set up to there."""
    membership = loaded(directory)[1]
    store = LmdbKvStore.open(directory)
    point = at if isinstance(at, LogPoint) else point_of(at)
    applied = Base(point, 1_700_000_000_000)
    store.write_checkpoint([], is_cleared=False, applied=applied, membership=membership, configuration=named)
    store.close()


def loaded(directory: Path) -> tuple[StoredLog, Membership]:
    """Return what a directory's log holds, and the members of its first start."""
    store = LmdbLogStore.open(directory)
    try:
        return store.load(), store.membership
    finally:
        store.close()


def repair(directories: Sequence[Path], *options: object) -> tuple[int, str]:
    """Run the tool on all of them."""
    peers = [word for directory in directories[1:] for word in ("--peers", directory)]
    return raftlog("repair", directories[0], *peers, *options)


def keys_at(directory: Path, key: bytes) -> object:
    """Return what a key holds in the state of a directory."""
    store = LmdbKvStore.open(directory)
    try:
        view = store.view()
        found = Machine(random.Random(0), 1 << 20, view, 0).execute([b"get", key])
        view.close()
        return found
    finally:
        store.close()


# -- who is counted ----------------------------------------------------------------------------------------------------


def test_the_voters_of_the_log_are_counted_and_not_those_of_the_first_start(tmp_path: Path) -> None:
    """n2 and n3 went: that they lack what came afterwards says nothing. A majority of the first start lacks it."""
    alone = configuration_of(("n1",))
    log = log_with(3, alone, 4)
    one = directory_of(tmp_path, "n1", log, term=2)
    others = [directory_of(tmp_path, node_id, log[:4]) for node_id in ("n2", "n3")]
    rot(one, 7)
    code, said = repair([one, *others], "--apply")
    assert code == 2, said
    assert "configuration: the one at 4 (voters n1)" in said
    assert "index 5..8: possibly committed: held by n1, lacked by n2, n3" in said
    assert "index 7 term 1" in said
    assert not new_ones(tmp_path)


def test_each_entry_is_judged_by_the_configuration_at_its_place(tmp_path: Path) -> None:
    """Three voters where five were: what two of the three lack nobody committed, though three of five may have it."""
    five, three = configuration_of(("n1", "n2", "n3", "n4", "n5")), configuration_of(("n1", "n4", "n5"))
    log = log_with(five, 3, three, 3)
    one = directory_of(tmp_path, "n1", log, term=2)
    others = [directory_of(tmp_path, name, log[:6], term=2, membership=NOBODY) for name in ("n4", "n5")]
    rot(one, 7)
    code, said = repair([one, *others], "--apply")
    assert code == 0, said
    assert "index 7..8: certainly not committed: held by n1, lacked by n4, n5" in said
    assert log_of(new_ones(tmp_path)["n4"]) == log[:6]


def test_behind_a_joint_configuration_the_outgoing_voters_are_not_needed(tmp_path: Path) -> None:
    """Once it was left, n1 and n4 committed alone. n4 is gone, and n2 and n3 lack the end."""
    log = log_with(2, JOINT, 2)
    one = directory_of(tmp_path, "n1", log)
    others = [directory_of(tmp_path, node_id, log[:3]) for node_id in ("n2", "n3")]
    rot(one, 5)
    code, said = repair([one, *others])
    assert code == 2, said
    assert "voters: n1, n4; a majority is 2\nvoters: n1, n2, n3; a majority is 2\n" in said
    assert "not here: n4" in said
    assert "index 4..5: possibly committed: held by n1, lacked by n2, n3, not known of n4" in said


def test_a_joint_configuration_that_was_not_committed_takes_all_behind_it_along(tmp_path: Path) -> None:
    """n2 and n3, a majority of those who go, never held it: nobody can have left it."""
    log = log_with(2, JOINT, 2)
    one = directory_of(tmp_path, "n1", log)
    others = [directory_of(tmp_path, node_id, log[:2]) for node_id in ("n2", "n3")]
    rot(one, 5)
    code, said = repair([one, *others], "--apply")
    assert code == 0, said
    assert "index 3: certainly not committed: held by n1, lacked by n2, n3, not known of n4" in said
    assert "index 4..5: certainly not committed: the joint configuration at 3 was certainly not committed" in said
    assert "what counts then is the one of the first start" not in said, "the whole entries are kept"
    made = new_ones(tmp_path)
    assert set(made) == {"n1", "n2", "n3"}
    assert log_of(made["n3"]) == log[:4]
    assert loaded(made["n3"])[0].configurations == (replace(JOINT, index=Index(3)),)


def test_both_majorities_of_a_joint_configuration_have_to_be_here(tmp_path: Path) -> None:
    """The arithmetic of each is told."""
    log = log_with(2, JOINT, 2)
    directories = [directory_of(tmp_path, node_id, log) for node_id in ("n1", "n2", "n3")]
    for directory in directories:
        rot(directory, 5)
    code, said = repair(directories)
    assert code == 2, said
    assert "1 of 2 and 3 of 3 voters are here, no majority, and 1 entries from index 5 on have no intact copy" in said


# -- what is written ---------------------------------------------------------------------------------------------------


def test_members_get_directories_and_those_who_went_do_not(tmp_path: Path) -> None:
    """n3 was replaced by n4, which joined and knows nobody of the first start. What n3 has intact is of use."""
    log = log_with(3, configuration_of(("n1", "n2", "n4")), 3)
    one, two = (directory_of(tmp_path, node_id, log) for node_id in ("n1", "n2"))
    three = directory_of(tmp_path, "n3", log[:4])
    four = directory_of(tmp_path, "n4", log, membership=NOBODY)
    for directory in (one, two, four):
        rot(directory, 2)
    rot(four, 6)
    code, said = repair([four, one, two, three], "--apply")
    assert code == 0, said
    assert f"{three}: n3 is no member by that log: nothing is written for it" in said
    made = new_ones(tmp_path)
    assert set(made) == {"n1", "n2", "n4"}
    for directory in made.values():
        assert log_of(directory) == log
        assert loaded(directory)[0].configurations == (configured(4, "n1", "n2", "n4"),)
        assert run_raftlog("verify", directory).returncode == 0
    assert (loaded(made["n1"])[1], loaded(made["n4"])[1]) == (MEMBERSHIP, NOBODY)


def test_a_rotten_configuration_is_written_again_from_what_lies_beside_the_log(tmp_path: Path) -> None:
    """Nobody has its entry intact, and everybody knows what it said."""
    log = log_with(3, configuration_of(("n1", "n2")), 3)
    directories = [directory_of(tmp_path, node_id, log) for node_id in ("n1", "n2")]
    for directory in directories:
        rot(directory, 4)
    code, said = repair(directories, "--apply")
    assert code == 0, said
    for directory in new_ones(tmp_path).values():
        assert log_of(directory) == log


def test_a_configuration_that_stood_behind_the_end_is_told(tmp_path: Path) -> None:
    """Pages are lost with the end of the log; what is known beside it says that there was more."""
    log = log_with(3, configuration_of(("n1", "n2")), 1)
    one = directory_of(tmp_path, "n1", log)
    with raw_tables(one) as (transaction, handles):
        for index in (4, 5):
            assert transaction.delete(IDENT_KEY.pack(index), db=handles["ident"])
            assert transaction.delete(LOG_KEY.pack(index, 0), db=handles["log"])
    code, said = repair([one], "--apply")
    assert code == 2, said
    assert f"{one} note: the log ends at 3, and had the one at 4 (voters n1 n2)" in said
    assert "1 entries from index 4 on have no intact copy" in said


def test_a_snapshot_that_came_in_counts_as_a_start_would_have_it(tmp_path: Path) -> None:
    """Its log was not yet replaced. It names members that the log does not know, and they count."""
    directory = directory_of(tmp_path, "n1", log_with(9))
    point = LogPoint(Index(20), Term(3), 7)
    identity = Identity(IDENTITY.cluster_id, NodeId("n1"), b"n1".ljust(16, b"-"))
    for path in (directory / "kv").iterdir():
        path.unlink()
    (directory / "kv").rmdir()
    snapshot_of(directory, identity, point, configured(15, "n1", "n4"))
    code, said = repair([directory])
    assert code == 0, said
    assert "the state came as a snapshot at index 20: the log counts as replaced by it" in said
    assert "configuration: the one at 15 (voters n1 n4)" in said
    assert "not here: n4" in said
    code, said = raftlog("recover", directory, "--cluster", NEW, "--output", tmp_path / "new", "--apply")
    assert code == 0, said
    stored, members = loaded(tmp_path / "new" / "m1")
    assert (stored.base, stored.last, stored.configurations) == (point, point, ())
    assert members.ids() == ("m1", "m2")


def snapshot_of(directory: Path, identity: Identity, point: LogPoint, named: Configuration) -> None:
    """Put an empty state into a directory that came as a snapshot."""
    target = KvMeta(1, identity, MEMBERSHIP, Base(point, 9), StateSummary(), named)
    KvInstaller.open(directory, target).complete()
    complete_swap(directory)


def test_a_state_of_another_configuration_is_not_taken(tmp_path: Path) -> None:
    """A start would set it aside."""
    log = log_with(3, configuration_of(("n1", "n2")), 4)
    one, two = (directory_of(tmp_path, node_id, log) for node_id in ("n1", "n2"))
    with_state(one, log[6], None)
    with_state(two, log[5], configured(4, "n1", "n2"))
    rot(one, 2)
    code, said = repair([one, two], "--apply")
    assert code == 0, said
    assert f"state: from {two}, at index 6" in said
    for directory in new_ones(tmp_path).values():
        assert read_checkpoint(directory).stored_configuration == configured(4, "n1", "n2")
        assert run_raftlog("verify", directory).returncode == 0


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_no_configuration_is_given_up_while_somebody_may_go_by_it(tmp_path: Path) -> None:
    """n4 may lead with it. With its directory, and nobody away, it may be given up."""
    new = configuration_of(("n1", "n2", "n3", "n4"))
    log = log_with(3, new, 3)
    directories = [directory_of(tmp_path, node_id, log) for node_id in ("n1", "n2", "n3")]
    for directory in directories:
        rot(directory, 2)
    code, said = repair(directories, "--lose-from-index", 2, "--apply")
    assert code == 2, said
    assert "a configuration would be given up that may have been committed: the one at 4 (voters n1 n2 n3 n4)" in said
    assert "n4 may go by it" in said
    assert "raftlog recover with the same --lose-from-index" in said
    assert not new_ones(tmp_path)
    code, made = raftlog("recover", directories[0], "--cluster", NEW, "--output", tmp_path / "new", "--apply")
    assert code == 2, made
    options = ("--cluster", NEW, "--output", tmp_path / "new", "--lose-from-index", 2, "--apply")
    code, made = raftlog("recover", *directories, *options)
    assert code == 0, made
    assert log_of(tmp_path / "new" / "m2") == log[:1]
    directories.append(directory_of(tmp_path, "n4", log[:4], membership=NOBODY))
    rot(directories[-1], 2)
    code, said = repair(directories, "--lose-from-index", 2, "--apply")
    assert code == 0, said
    assert "given up: the one at 4 (voters n1 n2 n3 n4); what counts then is the one of the first start" in said
    assert "n4 is no member by that log" in said
    assert set(new_ones(tmp_path)) == {"n1", "n2", "n3"}


def test_terms_are_forgotten_only_with_every_member(tmp_path: Path) -> None:
    """A learner, too: it may have been told of a term, and of entries. And who went, while the log still has it."""
    changed = replace(
        configuration_of(("n1", "n2", "n5")), voters=(NodeId("n1"), NodeId("n2")), learners=(NodeId("n5"),)
    )
    log = log_with(2, changed, 2)
    directories = [directory_of(tmp_path, node_id, log, term=2**63 - 1) for node_id in ("n1", "n2")]
    code, said = repair(directories, "--reset-term", "--apply")
    assert code == 2, said
    assert "every member's directory is needed to forget a term or a disk, readable: missing n3, n5" in said
    directories.append(directory_of(tmp_path, "n5", log, term=2**63 - 1, membership=NOBODY))
    directories.append(directory_of(tmp_path, "n3", log[:2], term=2**63 - 1))
    code, said = repair(directories, "--reset-term", "--apply")
    assert code == 0, said
    assert "all begin again in term 2" in said
    assert set(new_ones(tmp_path)) == {"n1", "n2", "n5"}


def test_directories_that_nobody_told_of_any_members_cannot_be_recovered(tmp_path: Path) -> None:
    """They were made by --join, and nothing came."""
    one = directory_of(tmp_path, "n4", [], membership=NOBODY)
    code, said = raftlog("recover", one, "--cluster", NEW, "--output", tmp_path / "new", "--apply")
    assert code == 2, said
    assert "none of the directories has ever been told who the members are" in said


def test_a_log_without_beginning_needs_a_state(tmp_path: Path) -> None:
    """A new cluster has nobody to fetch it from; also where no member was changed."""
    log = log_with(6)
    one = directory_of(tmp_path, "n1", log)
    store = LmdbLogStore.open(one)
    store.load()
    store.compact(Index(3), 10)
    store.close()
    code, said = raftlog("recover", one, "--cluster", NEW, "--output", tmp_path / "new", "--apply")
    assert code == 2, said
    assert "the log begins behind index 3, and no directory has a sound state for it: restore a backup" in said


# -- a new cluster -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state_at", [0, 2, 4, 6])
def test_a_new_cluster_takes_no_configuration_along(tmp_path: Path, state_at: int) -> None:
    """Wherever the state is: the log begins behind the last configuration, and nothing is added to it."""
    joint = next_stage(JOINT)
    assert joint is not None
    log = log_with(2, JOINT, 1, joint, 3)
    one = directory_of(tmp_path, "n1", log)
    if state_at:
        named = {2: None, 4: replace(JOINT, index=Index(3)), 6: replace(joint, index=Index(5))}[state_at]
        with_state(one, log[state_at - 1], named)
    code, said = raftlog("recover", one, "--cluster", NEW, "--output", tmp_path / "new", "--apply")
    assert code == 0, said
    assert "may be lost: what only n4 held behind index 8" in said
    begins = max(state_at, 5)
    assert f"begins behind index {begins}; the last configuration of the old one, the one at 5 (voters n1 n4" in said
    assert (f"applied to the state: entries {state_at + 1}..5" in said) == (state_at < 5)
    cluster_id = re.search(r"--cluster-id (\S+)", said)
    assert cluster_id is not None
    for node_id in ("m1", "m2"):
        directory = tmp_path / "new" / node_id
        stored, members = loaded(directory)
        assert (stored.base, stored.last, stored.configurations) == (point_of(log[begins - 1]), point_of(log[-1]), ())
        assert (members.ids(), stored.standing.is_voter) == (("m1", "m2"), False)
        assert stored.hard_state == HardState(Term(2), None)
        assert read_checkpoint(directory).stored_configuration is None
        assert run_raftlog("verify", directory).returncode == 0
        # What is behind the old state was applied; what a test put under it was not.
        assert keys_at(directory, b"key:4") == (b"value" if state_at < 4 else None)
        config = load_config(
            {"dir": str(directory), "id": node_id, "cluster": NEW}, {"DURABLE_RAFT_CLUSTER_ID": cluster_id[1]}
        )
        data = open_node(config)
        assert data.stored.newest_configuration(data.log_store.membership).ids() == ("m1", "m2")
        assert data.kv is not None
        data.kv.close()
        data.log_store.close()
