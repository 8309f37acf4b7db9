"""How the process of a node begins and ends: signals, exit codes, and what it keeps."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from durable_raft.errors import ConfigError, ErrorAnswered, NodeRemoved, NodeUnreachable
from durable_raft.raft.types import Membership, NodeId
from durable_raft.server import alarms, persister, process
from durable_raft.server import node as node_module
from durable_raft.server.clients import Clients
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.dispatch_facts import DispatchCounters
from durable_raft.server.exit_codes import ExitCode
from durable_raft.server.log_writer import LogWriter
from durable_raft.server.members import Members
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.log_store import LogStore
from durable_raft.storage.log.records import IDENT_KEY
from tests.storage.raw import flip_bit
from tests.support.forked_nodes import ForkedNodes

pytestmark = pytest.mark.cluster


@pytest.fixture
def one(tmp_path: Path) -> Iterator[ForkedNodes]:
    """A cluster of one that was not started."""
    made = ForkedNodes(1, tmp_path / "nodes", disk_reserve_bytes=1)
    yield made
    made.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ForkedNodes]:
    """A cluster of three that was not started."""
    made = ForkedNodes(3, tmp_path / "nodes")
    yield made
    made.close()


def test_a_node_that_was_stopped_has_answered_what_it_took_in(one: ForkedNodes) -> None:
    """A signal ends it with 0 once the writes in flight are answered; all of them are there at the next start."""
    one.start()
    leader = one.leader()
    with one.client(leader) as client:
        for number in range(200):
            client.call("SET", f"key:{number}", "x")
        one.stop()
    one.start()
    assert one.ask(one.leader(), "DBSIZE") == 200
    one.stop()
    assert one.log("n1").count("event=stopping reason=signal") == 2
    assert one.log("n1").count("event=started") == 2


def test_a_node_without_uvloop_works_the_same(one: ForkedNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own loop serves where it is missing, and a slow checksum is told of."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(process, "implementation", lambda: "crcmod-pure")
    one.start()
    leader = one.leader()
    assert one.ask(leader, "INCR", "a") == 1
    one.stop()
    assert "event=slow_checksum" in one.log(leader)


def test_a_node_that_cannot_listen_says_so(one: ForkedNodes) -> None:
    """And ends as for any configuration that cannot work; its directory is free afterwards."""
    config = one.config("n1")
    for port in (config.client_port, config.peer_port):
        with socket.create_server((config.client_host, port)):
            one.start()
            assert one.exit_code("n1") == ExitCode.USAGE
    assert one.log("n1").count("cannot listen") == 2
    one.start()
    one.leader()


def test_a_directory_that_may_not_be_used_is_refused(one: ForkedNodes) -> None:
    """A file in its place; one that another node holds: the system's reason and the holder are named."""
    one.directory("n1").parent.mkdir()
    one.directory("n1").write_text("a file")
    one.start()
    assert one.exit_code("n1") == ExitCode.REFUSED
    one.directory("n1").unlink()
    one.start()
    one.leader()
    holder = one._pids.pop("n1")
    one.start()
    assert one.exit_code("n1") == ExitCode.REFUSED
    assert f"in use by pid {holder} node n1" in one.log("n1")
    one._pids["n1"] = holder


@pytest.mark.parametrize("point", ["after_persist", "before_reply"])
def test_a_node_that_dies_in_a_write_has_all_it_acknowledged(one: ForkedNodes, point: str) -> None:
    """As ``kill -9`` would end it: it was flushed, or it was applied, and nobody was told. One may be there more."""
    one.start(crash_at=f"{point}:25")
    acknowledged = 0
    with one.client("n1") as client:
        try:
            while True:
                client.call("INCR", "acknowledged")
                acknowledged += 1
        except NodeUnreachable:
            pass
    assert one.exit_code("n1") == -signal.SIGKILL
    one.start()
    found = one.ask(one.leader(), "GET", "acknowledged")
    assert isinstance(found, bytes)
    assert acknowledged <= int(found) <= acknowledged + 1


def test_a_crash_point_that_is_not_there_is_refused() -> None:
    """Else a test would wait for a death that never comes."""
    for wrong in ("nowhere", "before_send:0", "before_send:x"):
        with pytest.raises(ConfigError, match="CRASH_AT"):
            CrashPoints.from_environment({"DURABLE_RAFT_CRASH_AT": wrong})


def test_a_disk_that_fails_ends_the_node(one: ForkedNodes) -> None:
    """Nothing is acknowledged after it, and all that was is there at the next start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    one.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    acknowledged = 0
    with one.client(one.leader()) as client:
        try:
            while True:
                client.call("APPEND", "a", "x" * 10_000)
                acknowledged += 1
        except NodeUnreachable:
            pass
    assert one.exit_code("n1") == ExitCode.DISK_FAILED
    assert "event=stopping error=" in one.log("n1")
    one.start()
    found = one.ask(one.leader(), "STRLEN", "a")
    assert isinstance(found, int)
    assert acknowledged * 10_000 <= found <= (acknowledged + 1) * 10_000


def test_a_node_without_room_refuses_writes_and_goes_on(one: ForkedNodes) -> None:
    """Reads and deletions go on."""
    one.start(map_bytes=1 << 20, disk_reserve_bytes=900_000)
    one.logged("n1", "event=started")
    with one.client("n1") as client:

        def is_refused() -> bool:
            try:
                client.call("APPEND", "a", "x" * 10_000)
            except ErrorAnswered as error:
                return "reserve" in str(error)
            return False

        one.wait(is_refused, "a write to be refused")
        assert client.call("DEL", "b") == 0
        assert client.call("EXISTS", "a") == 1


def test_damage_that_cannot_be_healed_ends_a_cluster_of_one(one: ForkedNodes) -> None:
    """Nobody else has what was lost: it does not start again without it."""
    one.start()
    with one.client(one.leader()) as client:
        for number in range(20):
            client.call("SET", f"key:{number}", "x")
    one.stop()
    directory = one.directory("n1")
    for index in (5, 6):
        flip_bit(directory, "ident", IDENT_KEY.pack(index), 200)
        flip_bit(directory, "log", index.to_bytes(8, "big") + bytes(4), 44 * 8)
    one.start()
    assert one.exit_code("n1") == ExitCode.DAMAGED
    assert not list(directory.glob("wounded-*"))


@pytest.mark.parametrize("environment", ["raft", "kv"])
def test_a_cut_file_ends_a_cluster_of_one(one: ForkedNodes, environment: str) -> None:
    """With what to do: no other node can heal it, so nothing is set aside."""
    one.start()
    with one.client(one.leader()) as client:
        client.call("SET", "a", "1")
        client.call("RAFT", "CHECKPOINT")
    one.logged("n1", "event=checkpoint ")
    one.stop()
    data = one.directory("n1") / environment / "data.mdb"
    data.write_bytes(data.read_bytes()[:9000])
    one.start()
    assert one.exit_code("n1") == ExitCode.DAMAGED
    assert "raftlog repair, or restore a backup" in one.log("n1")


def test_a_bug_ends_the_node_and_not_the_cluster(three: ForkedNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody expects, in a thread or on the loop: after it no state can be trusted."""
    real = LogWriter._persisted

    def fails_later(self: LogWriter, group: list[object]) -> object:
        if any(b"poison" in entry.payload for write in group for entry in write.entries):  # type: ignore[attr-defined]
            raise ZeroDivisionError("planted")
        return real(self, group)  # type: ignore[arg-type]

    with monkeypatch.context() as planted:
        planted.setattr(LogWriter, "_persisted", fails_later)
        three.start("n1")
    three.start("n2", "n3", election_timeout_min_ms=200, election_timeout_max_ms=250)
    three.leader()
    with three.leaders_client() as client:
        client.call("SET", "poison", "1")
        assert three.exit_code("n1") == ExitCode.FAILED
        assert "ZeroDivisionError: planted" in three.log("n1")
        assert client.call("GET", "poison") == b"1"


def test_a_node_that_was_removed_answers_before_it_ends(
    three: ForkedNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with it: a client that it kept waiting is told, and then its connection ends."""
    flag = tmp_path / "removed"
    monkeypatch.setattr(Members, "is_removed", lambda *_: flag.exists())
    three.start("n1")
    three.wait(lambda: three.number("n1", "held") == 0, "n1 to answer")
    address = three.address("n1")
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(b"SET foo 1\r\n")
        three.wait(lambda: three.number("n1", "held") > 0, "n1 to hold a command")
        flag.touch()
        assert three.exit_code("n1") == ExitCode.REMOVED
        assert connection.recv(1000) == b"-CLUSTERDOWN no leader; the command had no effect\r\n"
        assert connection.recv(1000) == b""


@pytest.mark.parametrize(("come", "is_over", "slept"), [(0, False, 1), (3, False, 4), (99, False, 10), (99, True, 0)])
def test_a_leader_that_stops_sees_its_clients_off(
    come: int, is_over: bool, slept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends when none came while it waited, and at the end of its time; at once when something is wrong with it."""
    counters = DispatchCounters(moved=5)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        counters.moved += len(waits) <= come
        if len(waits) == 10:
            raise TimeoutError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(process._see_off(counters, lambda: is_over))
    assert waits == [process.QUIET_S] * slept


@pytest.mark.parametrize(("error", "end"), [(NodeRemoved("it went"), "close"), (ZeroDivisionError(), "abort")])
def test_who_was_removed_may_finish_what_it_says(error: BaseException, end: str) -> None:
    """A reply that is half sent is sent whole; after any other error of the node nothing more is said."""
    clients = create_autospec(Clients, instance=True)
    process._end_clients(clients, error)
    assert [name for name, _, _ in clients.method_calls] == [end]


@pytest.mark.parametrize(("log_commit", "store"), [("journal", JournaledLogStore), ("lmdb", LmdbLogStore)])
def test_a_disk_that_hangs_does_not_keep_a_node_from_ending(
    one: ForkedNodes, monkeypatch: pytest.MonkeyPatch, log_commit: str, store: type[LogStore]
) -> None:
    """It says so, and leaves the store to the end of the process."""
    monkeypatch.setattr(node_module, "WRITER_STOP_S", 0.2)
    real = store.persist

    def hangs(self: LogStore, writes: list[object], *arguments: object) -> None:
        if any(b"hang" in entry.payload for write in writes for entry in write.entries):  # type: ignore[attr-defined]
            threading.Event().wait()
        real(self, writes, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "persist", hangs)
    monkeypatch.setattr(persister, "QUICK_FLUSHES", 1 << 30)
    monkeypatch.setattr(process, "DRAIN_S", 0.2)
    one.start(log_commit=log_commit)
    with one.client(one.leader()) as client:
        client._socket.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nhang\r\n$1\r\n1\r\n")
        one.wait(lambda: one.number("n1", "last_log_index") > one.number("n1", "commit_index"), "the disk to hang")
        one.stop()
    assert "event=log_writer_stuck" in one.log("n1")


def test_few_open_files_are_told_of(one: ForkedNodes) -> None:
    """The limit is raised as far as the system allows; a node goes on with less than its clients may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        one.start(clients_max=300)
        one.leader()
        assert "few_files" not in one.log("n1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.stop()
    one.start(clients_max=1 << 30)
    one.leader()
    assert "event=few_files" in one.log("n1")


def test_a_node_that_waits_for_the_others_says_for_whom(three: ForkedNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start needs every node once; until then a command is held, and refused in the end."""
    monkeypatch.setattr(alarms, "NOT_A_VOTER_TICKS", 2)
    three.start("n1", "n2", client_hold_ms=300)
    three.logged("n1", "event=not_a_voter_yet waits_for=n3")
    with three.client("n1") as client, pytest.raises(Exception, match="CLUSTERDOWN"):
        client.call("SET", "a", "1")
    three.start("n3")
    with three.leaders_client() as client:
        assert client.call("SET", "a", "1") == b"OK"
    for node_id in three.ids:
        three.wait(_is_voter(three, node_id), f"{node_id} to be a voter")


def _is_voter(nodes: ForkedNodes, node_id: str) -> Callable[[], bool]:
    return lambda: nodes.number(node_id, "is_voter") == 1


def test_a_configuration_that_does_not_fit_the_directory_is_refused(three: ForkedNodes) -> None:
    """Other nodes, another cluster, other addresses: each is named, and addresses may be accepted."""
    three.start()
    three.leader()
    three.stop()
    three.start("n1", cluster_id=b"another cluster!")
    assert three.exit_code("n1") == ExitCode.REFUSED
    assert "belongs to cluster" in three.log("n1")
    first, second, third = three.membership.voters
    three.membership = Membership((first, second, replace(third, peer_address="127.0.0.1:1")))
    three.start("n1")
    assert three.exit_code("n1") == ExitCode.REFUSED
    assert "--accept-new-addresses" in three.log("n1")
    three.start("n1", "n2", accept_new_addresses=True)
    three.leader()
    three.stop()
    three.membership = Membership((first, second, replace(third, node_id=NodeId("n4"))))
    three.start("n1")
    assert three.exit_code("n1") == ExitCode.REFUSED
    assert "but --cluster names n1, n2, n4" in three.log("n1")
