"""``raftlog repair`` and ``recover`` on what real nodes left behind, and the argument they print."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from durable_raft.raft.types import ORIGIN, Entry, HardState, Identity, Index, NodeId, Term
from durable_raft.server.settings.config import load_config
from durable_raft.server.start.opening import open_node
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import LOG, LOG_KEY
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.time_request import is_time_reset_requested
from tests.storage.raw import flip_bit
from tests.support.log_building import IDENTITY, MEMBERSHIP, entries_after, point_of, write
from tests.tools import directories


def raftlog(*arguments: object) -> tuple[int, str]:
    """Run the command; return its exit code and all it said."""
    done = directories.raftlog(*arguments)
    return done.returncode, done.stdout + done.stderr


def directory_of(place: Path, node_id: str, entries: list[Entry], *, term: int) -> Path:
    """Make a stopped node's directory with this log and an empty state."""
    identity = Identity(IDENTITY.cluster_id, NodeId(node_id), node_id.encode().ljust(16, b"-"))
    directory = place / node_id
    LmdbLogStore.create(directory, identity, MEMBERSHIP)
    store = LmdbLogStore.open(directory)
    store.load()
    store.persist([write(1, entries, hard_state=HardState(Term(term), None))])
    store.close()
    LmdbKvStore.create(directory, identity, MEMBERSHIP)
    return directory


def rot(directory: Path, *indexes: int) -> None:
    """Rot the payloads of these entries."""
    for index in indexes:
        flip_bit(directory, LOG, LOG_KEY.pack(index, 0), 33 * 8)


def log_of(directory: Path) -> list[Entry]:
    """Return every entry of a directory."""
    store = LmdbLogStore.open(directory)
    try:
        stored = store.load()
        assert not stored.lost
        return store.entries(Index(1), Index(stored.last.index + 1), 1 << 30)
    finally:
        store.close()


def new_ones(place: Path) -> dict[str, Path]:
    """Return the directories that repair made, by node id."""
    return {path.name.partition(".")[0]: path for path in place.glob("*.repaired-*")}


@pytest.fixture
def log() -> list[Entry]:
    """Return ten entries of terms 1 and 3."""
    first = entries_after(ORIGIN, 6, term=1)
    return first + entries_after(point_of(first[-1]), 4, term=3)


def test_what_each_misses_the_other_has(tmp_path: Path, log: list[Entry]) -> None:
    """The third disk died; one of the two has the longer log: both come out with all of it."""
    one = directory_of(tmp_path, "n1", log, term=3)
    two = directory_of(tmp_path, "n2", log[:9], term=3)
    rot(one, 2, 7)
    rot(two, 4, 8)
    code, said = raftlog("repair", one, "--peers", two)
    assert code == 1, said
    assert "index 1..9: certainly committed" in said
    assert "index 10: possibly committed: held by n1, lacked by nobody, not known of n2, n3" in said
    assert not new_ones(tmp_path), "a dry run wrote"
    code, said = raftlog("repair", one, "--peers", two, "--apply")
    assert code == 0, said
    made = new_ones(tmp_path)
    assert set(made) == {"n1", "n2"}
    assert log_of(made["n1"]) == log_of(made["n2"]) == log
    assert LmdbLogStore.open(made["n2"]).identity.node_uuid == b"n2".ljust(16, b"-")


def test_an_entry_that_nobody_has_intact_is_named(tmp_path: Path, log: list[Entry]) -> None:
    """It may have been committed: refused, with index, term and chain, until its loss is asked for."""
    one = directory_of(tmp_path, "n1", log, term=3)
    two = directory_of(tmp_path, "n2", log, term=3)
    rot(one, 5)
    rot(two, 5)
    code, said = raftlog("repair", one, "--peers", two, "--apply")
    assert code == 2
    assert f"index 5 term 1 chain {log[4].chain:08x}" in said
    assert not new_ones(tmp_path)
    code, said = raftlog("repair", one, "--peers", two, "--apply", "--lose-from-index", 4)
    assert code == 2, "another index than the first that is lost"
    code, said = raftlog("repair", one, "--peers", two, "--apply", "--lose-from-index", 5)
    assert code == 0, said
    assert "given up: index 5" in said
    assert "given up: index 10" in said
    assert log_of(new_ones(tmp_path)["n1"]) == log[:4]


def test_what_was_certainly_not_committed_may_go(tmp_path: Path, log: list[Entry]) -> None:
    """A majority never held it: its rot is no loss."""
    one = directory_of(tmp_path, "n1", log, term=3)
    others = [directory_of(tmp_path, node_id, log[:8], term=3) for node_id in ("n2", "n3")]
    rot(one, 9)
    code, said = raftlog("repair", one, "--peers", others[0], "--peers", others[1], "--apply")
    assert code == 0, said
    assert "index 9..10: certainly not committed: held by n1, lacked by n2, n3" in said
    assert log_of(new_ones(tmp_path)["n1"]) == log[:8]


def test_the_log_that_would_win_an_election_wins(tmp_path: Path, log: list[Entry]) -> None:
    """A longer log of an older term gives way (Raft §5.4.1)."""
    old = log[:6] + entries_after(point_of(log[5]), 9, term=2, payload=b"never committed")
    one = directory_of(tmp_path, "n1", old, term=3)
    two = directory_of(tmp_path, "n2", log, term=3)
    rot(two, 1)
    code, said = raftlog("repair", one, "--peers", two, "--apply")
    assert code == 0, said
    assert log_of(new_ones(tmp_path)["n1"]) == log


def test_strangers_doubles_and_running_nodes_are_refused(tmp_path: Path, log: list[Entry]) -> None:
    """Each with its reason."""
    one = directory_of(tmp_path, "n1", log, term=3)
    shutil.copytree(one, tmp_path / "copy")
    code, said = raftlog("repair", one, "--peers", tmp_path / "copy")
    assert (code, "the same node twice" in said) == (2, True)
    stranger = Identity(b"another-cluster!", NodeId("n2"), bytes(16))
    LmdbLogStore.create(tmp_path / "stranger", stranger, MEMBERSHIP)
    code, said = raftlog("repair", one, "--peers", tmp_path / "stranger")
    assert (code, "different clusters" in said) == (2, True)
    store = LmdbLogStore.open(one)
    code, said = raftlog("repair", one)
    store.close()
    assert (code, "in use" in said) == (2, True)
    assert raftlog("repair", tmp_path / "nothing")[0] == 2


def test_sound_directories_need_nothing(tmp_path: Path, log: list[Entry]) -> None:
    """Nothing is written, and the exit code says so."""
    one, two = (directory_of(tmp_path, node_id, log, term=3) for node_id in ("n1", "n2"))
    code, said = raftlog("repair", one, "--peers", two, "--apply")
    assert code == 0
    assert "nothing is wounded" in said
    assert not new_ones(tmp_path)


# -- the nodes of the new cluster -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("m1=10.0.0.1:70000", "a port from 1 to 65535"),
        ("m1=10.0.0.1:7001@70000", "a port from 1 to 65535"),
        ("m1=10.0.0.1:60000", "a client port up to 55535"),
        ("m1=0.0.0.0:7001", "a wildcard belongs into --listen"),
        ("../m1=10.0.0.1:7001", "letters, digits"),
        ("m1=ho st:7001", "a host of letters, digits"),
        ("m1=10.0.0.1:7001,m1=10.0.0.2:7001", "every node id once"),
        ("m1=10.0.0.1:7001,m2=10.0.0.1:7001", "every address once"),
        ("m1", "ID=HOST:PORT"),
    ],
)
def test_nodes_that_could_not_be_started_are_refused(
    tmp_path: Path, log: list[Entry], cluster: str, expected: str
) -> None:
    """What ``serve`` refuses is wrong usage here, with what is wrong, where, and what is expected; nothing is made."""
    one = directory_of(tmp_path, "n1", log, term=3)
    code, said = raftlog("recover", one, "--cluster", cluster, "--output", tmp_path / "new", "--apply")
    assert code == 2, said
    assert "Usage: " in said
    assert "'--cluster'" in said
    assert expected in said
    assert not (tmp_path / "new").exists()


def test_recovered_directory_is_taken_under_the_list_it_was_made_for(tmp_path: Path, log: list[Entry]) -> None:
    """Hosts in upper case, spaces, default peer ports: the node, started with the same text, knows its directory."""
    cluster = "M1=DB-1.Example:7001, m2=[0:0::2]:7002@9000"
    one = directory_of(tmp_path, "n1", log, term=3)
    code, said = raftlog("recover", one, "--cluster", cluster, "--output", tmp_path / "new", "--apply")
    assert code == 0, said
    told = re.search(r"--cluster (\S+) --cluster-id (\S+)", said)
    assert told is not None, said
    for text in (cluster, told[1]):
        environment = {"DURABLE_RAFT_CLUSTER_ID": told[2]}
        config = load_config({"dir": str(tmp_path / "new" / "M1"), "id": "M1", "cluster": text}, environment)
        open_node(config).log_store.close()


def test_a_state_that_is_not_what_its_meta_says_is_not_taken(tmp_path: Path) -> None:
    """Each record of it is intact, but one is gone: the other node's state is taken."""
    one, two = tmp_path / "n1", tmp_path / "n2"
    directories.whole(one, node_id="n1")
    directories.whole(two, node_id="n2")
    directories.lose_record_of_state(one, b"key:000007")
    rot(one, 3)
    code, said = raftlog("repair", one, "--peers", two, "--apply")
    assert code == 0, said
    assert f"{one} note: the KV state is damaged" in said
    assert f"state: from {two}, at index 7, 40 keys" in said
    for directory in new_ones(tmp_path).values():
        assert raftlog("verify", directory)[0] == 0


def test_a_reset_of_the_time_is_asked_for_beside_the_log(tmp_path: Path, log: list[Entry]) -> None:
    """A dry run asks nobody; a sound directory gets the request and stays what it is, a wounded one's copy gets it."""
    sound = directory_of(tmp_path, "n1", log, term=5)
    wounded = directory_of(tmp_path, "n2", log, term=5)
    code, said = raftlog("repair", sound, "--reset-time")
    assert (code, is_time_reset_requested(sound)) == (1, False)
    assert f"would ask the node of {sound}" in said
    assert raftlog("repair", sound, "--reset-time", "--apply")[0] == 0
    assert is_time_reset_requested(sound)
    assert log_of(sound) == log
    rot(wounded, 3)
    assert raftlog("repair", sound, "--peers", wounded, "--reset-time", "--apply")[0] == 0
    assert {is_time_reset_requested(new) for new in new_ones(tmp_path).values()} == {True}
