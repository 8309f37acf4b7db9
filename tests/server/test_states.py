"""States of real nodes: checkpoints, snapshots for those who were away, rot that is found and healed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.kv.records import make_record
from durable_raft.server.state import state_hashes
from durable_raft.storage import soundness
from durable_raft.storage.log.records import LOG_KEY
from durable_raft.storage.state.records import stored_key
from durable_raft.storage.state.store import LmdbKvStore
from tests.storage.raw import flip_bit
from tests.support.forked_nodes import ForkedNodes
from tests.support.state_building import put_raw

pytestmark = pytest.mark.cluster

SMALL = {
    "checkpoint_changes": 50,
    "checkpoint_entries": 50,
    "checkpoint_interval_ms": 300,
    "log_tail_entries": 20,
    "log_tail_bytes": 4000,
    "scrub_bytes_per_second": 64 << 20,
}
"""Checkpoints all the time, and a log so short that a follower that was away needs a snapshot."""


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ForkedNodes]:
    """Three nodes that run."""
    made = ForkedNodes(3, tmp_path / "nodes", **getattr(request, "param", {}))
    made.start()
    yield made
    made.close()


def write(nodes: ForkedNodes, keys: int, value: str = "v" * 200, prefix: str = "key") -> dict[str, str]:
    """Write one entry after the other through the leader; return what was acknowledged."""
    written = {f"{prefix}:{number:03}": f"{number} {value}" for number in range(keys)}
    nodes.leader()
    with nodes.leaders_client() as client:
        for key, content in written.items():
            assert client.call("SET", key, content) == b"OK"
    return written


def assert_on_all(nodes: ForkedNodes, written: dict[str, str]) -> None:
    """Check that all nodes hold the same state, and that it has what was acknowledged."""
    nodes.leader()
    nodes.hold_one_state()
    with nodes.leaders_client() as client:
        found = client.call("MGET", *written)
    assert found == [value.encode() for value in written.values()], nodes.explain("a write is missing")


def a_follower(nodes: ForkedNodes) -> str:
    """Return a node that does not lead."""
    leader = nodes.leader()
    return next(node_id for node_id in nodes.ids if node_id != leader)


@pytest.mark.parametrize("nodes", [SMALL], indirect=True)
def test_a_node_that_was_away_for_long_gets_a_snapshot(nodes: ForkedNodes) -> None:
    """It dies while it stores one, goes on where it was, and ends with the state of the others, who go on meanwhile."""
    follower = a_follower(nodes)
    nodes.kill(follower)
    with nodes.leaders_client() as client:
        client.call("SET", "goes", "x", "PX", "100000")
    written = write(nodes, 120, "v" * 20_000)
    nodes.wait(lambda: nodes.number(nodes.leader(), "first_log_index") > 60, "the log to be compacted")
    nodes.start(follower, crash_at="after_snapshot_piece:25")
    assert nodes.exit_code(follower) == -9
    nodes.start(follower)
    written |= write(nodes, 30, prefix="meanwhile")
    assert_on_all(nodes, written)
    assert nodes.number(follower, "snapshots_installed") == 1
    assert nodes.number(follower, "snapshot_pieces_received") < 40
    assert "snapshot_resumed" in nodes.log(follower)
    assert sum(nodes.number(node_id, "snapshot_pieces_sent") for node_id in nodes.ids) > 20


def test_rot_on_every_node_is_healed_from_the_others(nodes: ForkedNodes) -> None:
    """At a start: rotten payloads come from other nodes, one rotten copy of meta is written again."""
    written = write(nodes, 40)
    nodes.converged()
    nodes.stop()
    for number, node_id in enumerate(nodes.ids):
        for index in range(5 + 10 * number, 10 + 10 * number):
            flip_bit(nodes.directory(node_id), "log", LOG_KEY.pack(index, 0), 44 * 8)
        flip_bit(nodes.directory(node_id), "ident", (35).to_bytes(8, "big"), 200)
        flip_bit(nodes.directory(node_id), "meta_copy", b"meta", 100)
    nodes.start()
    assert_on_all(nodes, written)
    for node_id in nodes.ids:
        assert nodes.log(node_id).count("event=entry_healed") >= 5
        assert "records_rebuilt entries=1 meta=1" in nodes.log(node_id)


def rot_on_disk(data_file: Path, key: bytes) -> None:
    """Change a byte of the value of ``key`` under a running node, as rot would; also in pages that are old by now."""
    found = [match.start() for match in re.finditer(re.escape(key), data_file.read_bytes())]
    assert found
    with data_file.open("r+b", buffering=0) as file:
        for at in found:
            file.seek(at + 40)
            file.write(b"X")


@pytest.mark.parametrize("nodes", [{"scrub_bytes_per_second": 64 << 20}], indirect=True)
def test_rot_under_a_running_node_is_found_and_healed(nodes: ForkedNodes) -> None:
    """The scrubber reads pass after pass, the state and the log; nobody restarts."""
    written = write(nodes, 30, "r" * 300)
    victim = a_follower(nodes)
    with nodes.client(victim) as client:
        client.call("RAFT", "CHECKPOINT")
    data_file = nodes.directory(victim) / "raft" / "data.mdb"
    nodes.wait(lambda: b"key:007" in data_file.read_bytes(), "the entry to be moved out of the journal")
    rot_on_disk(data_file, b"key:007")
    nodes.logged(victim, "event=entry_healed")
    nodes.wait(lambda: nodes.number(victim, "scrub_passes") >= 2, "more passes")
    assert_on_all(nodes, written)
    assert nodes.log(victim).count("event=started") == 1


@pytest.mark.parametrize("nodes", [{"scrub_bytes_per_second": 64 << 20}], indirect=True)
def test_a_state_that_rots_under_a_running_node_is_rebuilt(nodes: ForkedNodes) -> None:
    """The node starts again in the same process: the state is set aside and made again from the log."""
    written = write(nodes, 30, "s" * 300)
    victim = a_follower(nodes)
    before = nodes.number(victim, "checkpoints")
    with nodes.client(victim) as client:
        client.call("RAFT", "CHECKPOINT")
    nodes.wait(lambda: nodes.number(victim, "checkpoints") > before, "a checkpoint")
    rot_on_disk(nodes.directory(victim) / "kv" / "data.mdb", b"key:007")
    nodes.logged(victim, "event=reopening")
    nodes.logged(victim, "event=state_set_aside")
    nodes.wait(lambda: nodes.log(victim).count("event=started") == 2, "the node to be there again")
    assert_on_all(nodes, written)
    assert list(nodes.directory(victim).glob("kv.wounded-*")), "nothing is deleted"


def tamper(directory: Path, key: bytes) -> None:
    """Change a value in a node's state as no checksum can show: as if its machine had computed something else."""
    kv = LmdbKvStore.open(directory)
    with kv.view() as view:
        old = view.get(key)
    assert old is not None
    wrong = make_record(key, b"wrong")
    before = kv.checkpoint.summary
    kv.write_checkpoint(
        [(key, wrong)],
        is_cleared=False,
        applied=kv.checkpoint.applied,
        summary=before._replace(state_hash=before.state_hash - old.crc + wrong.crc),
        membership=kv.checkpoint.membership,
    )
    kv.close()


def have_one_differ(nodes: ForkedNodes, written: dict[str, str]) -> str:
    """Stop all nodes, and change a value in the state of one; return which."""
    assert_on_all(nodes, written)
    victim = a_follower(nodes)
    nodes.stop()
    tamper(nodes.directory(victim), b"key:007")
    return victim


def assert_found_and_replaced(nodes: ForkedNodes, victim: str, written: dict[str, str]) -> None:
    """Check that the node is named, by itself and the others, and that nobody reads the wrong value from it again."""
    nodes.logged(victim, "event=state_set_aside name=kv.differs-")
    nodes.logged(victim, "event=snapshot_installed")
    assert_on_all(nodes, written)
    assert any(f"nodes={victim}" in nodes.log(node_id) for node_id in nodes.ids if node_id != victim)


def test_a_state_that_differs_is_found_at_the_next_agreed_index(
    nodes: ForkedNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no checkpoint is due otherwise. On a slow machine a new period of the cluster's time is the next place."""
    written = write(nodes, 60)
    victim = have_one_differ(nodes, written)
    monkeypatch.setattr(state_hashes, "AGREED_ENTRIES", 64)
    nodes.start()
    written |= write(nodes, 64, prefix="then")
    nodes.logged(victim, "event=state_differs ")
    (index,) = re.findall(rf"event=state_differs index=(\d+) nodes={victim}", nodes.log(victim))[:1]
    assert int(index) <= 128
    assert_found_and_replaced(nodes, victim, written)


def test_a_state_that_differs_is_found_when_its_time_comes(nodes: ForkedNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first entry of the next period, however few there are."""
    written = write(nodes, 10)
    victim = have_one_differ(nodes, written)
    monkeypatch.setattr(state_hashes, "AGREED_MS", 500)
    nodes.start()

    def is_found() -> bool:
        written.update(write(nodes, 1, prefix="then"))
        return "event=state_differs " in nodes.log(victim)

    nodes.wait(is_found, "it to be found")
    assert_found_and_replaced(nodes, victim, written)


@pytest.mark.parametrize("nodes", [SMALL], indirect=True)
def test_a_state_that_differs_is_found_while_nobody_writes(nodes: ForkedNodes) -> None:
    """All nodes take their last checkpoint at the last entry."""
    written = write(nodes, 60)
    victim = have_one_differ(nodes, written)
    nodes.start()
    written |= write(nodes, 1, prefix="then")
    nodes.logged(victim, "event=state_differs ")
    assert_found_and_replaced(nodes, victim, written)


def test_a_large_damaged_state_is_found_while_its_node_serves(
    nodes: ForkedNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of its own reads it; the node starts again without it, and a sound one is said to be so."""
    written = write(nodes, 30)
    nodes.converged()
    for node_id in nodes.ids:
        nodes.ask(node_id, "RAFT", "CHECKPOINT")
    for node_id in nodes.ids:
        nodes.logged(node_id, "event=checkpoint ")
    victim = a_follower(nodes)
    nodes.stop()
    put_raw(nodes.directory(victim), "keys", stored_key(b"key:029"), b"a rotten record")
    monkeypatch.setattr(soundness, "QUICK_BYTES", 0)
    nodes.start()
    nodes.logged(victim, "event=reopening")
    nodes.logged(victim, "event=state_set_aside")
    sound = next(node_id for node_id in nodes.ids if node_id != victim)
    nodes.logged(sound, "event=state_sound")
    assert_on_all(nodes, written)


@pytest.mark.parametrize("damage", ["state", "log", "signal"])
def test_a_directory_that_cannot_be_believed_is_filled_from_the_others(nodes: ForkedNodes, damage: str) -> None:
    """What was in it is set aside, and its node votes only when it holds what was promised under its id."""
    written = write(nodes, 30)
    nodes.converged()
    victim = a_follower(nodes)
    nodes.ask(victim, "RAFT", "CHECKPOINT")
    nodes.wait(lambda: nodes.number(victim, "snapshot_index") > 0, "a checkpoint")
    nodes.stop(victim)
    directory = nodes.directory(victim)
    if damage == "state":
        put_raw(directory, "keys", stored_key(b"key:029"), None)
    elif damage == "log":
        os.truncate(directory / "raft" / "data.mdb", 5000)
    else:
        (directory / "fatal-signal").write_text("Fatal Python error: Bus error\n")
    nodes.start(victim)
    assert_on_all(nodes, written)
    nodes.wait(lambda: nodes.number(victim, "is_voter") == 1, "it to be a voter")
    log = nodes.log(victim)
    assert ("event=state_set_aside" in log) == (damage == "state")
    assert ("event=directory_set_aside" in log) == (damage == "log")
    assert ("event=died_by_signal" in log) == (damage == "signal")
    assert (log.count("event=admitted") == 2) == (damage == "log")
