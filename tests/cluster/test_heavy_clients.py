"""Whatever a client asks, no node's loop is held: the harness fails a test in which a turn took 50 ms of CPU time.

So these tests say the same on a busy machine; what they see of the wall clock is only that everything is answered.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import hiredis
import pytest
import redis

from durable_raft.kv.slots import SLOTS, key_slot
from durable_raft.server.clients import OWED_MAX
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import EAGER, PATIENT, UNHURRIED, Cluster

pytestmark = pytest.mark.cluster

PATIENCE_S = 120.0
VALUE_BYTES = 10_000_000
CLIENTS = 4


@pytest.fixture
def patient(cluster_of: ClusterFactory) -> Cluster:
    """Three nodes that hold no election because the machine is busy."""
    cluster = cluster_of(3, **PATIENT)
    cluster.wait_ready()
    return cluster


def filled(cluster: Cluster, keys: int) -> redis.Redis:
    """Return a client of the leader, which holds so many keys, written in one pipeline."""
    client = cluster.client(cluster.leader(), socket_timeout=PATIENCE_S)
    pipeline = client.pipeline(transaction=False)
    for number in range(keys):
        pipeline.set(f"key:{number:06}", "v" * 32)
    assert pipeline.execute() == [True] * keys
    return client


def slow_turns(cluster: Cluster) -> dict[str, str]:
    """Return each node's longest turn, microseconds of processor time."""
    return {node: (cluster.info(node, "stats") or {})["eventloop_slowest_turn_usec"] for node in cluster.node_ids}


def test_a_pipeline_is_taken_in_slices(patient: Cluster) -> None:
    """Of 100,000 writes sent at once, as ``redis-cli --pipe`` does, all are done, and no other client waits for all."""
    term = patient.infos()["n1"]["raft_current_term"]
    leader = patient.leader()
    request = b"*3\r\n$3\r\nSET\r\n$5\r\n%05d\r\n$3\r\nabc\r\n"
    data = b"".join(request % (number % 100_000) for number in range(100_000))
    with (
        socket.create_connection(patient.addresses()[patient.node_ids.index(leader)], PATIENCE_S) as sender,
        ThreadPoolExecutor(1) as pool,
    ):
        sent = pool.submit(sender.sendall, data)
        received, answered = b"", 0
        while answered < 100_000:
            received = sender.recv(1 << 20)
            assert received
            assert b"-" not in received, received[:200]
            answered += received.count(b"+")
        sent.result()
    assert patient.client(leader).dbsize() == 100_000
    assert patient.infos()["n1"]["raft_current_term"] == term, slow_turns(patient)


def test_commands_that_waited_for_a_leader_are_taken_in_slices(cluster_of: ClusterFactory) -> None:
    """Clients fill a node that knows no leader, and one is found: the loop turns while all are moved or executed."""
    cluster = cluster_of(3, client_hold_ms=int(PATIENCE_S * 1000), settings_of={"n1": EAGER}, **UNHURRIED)
    cluster.wait_ready()
    cluster.kill9("n2", "n3")
    cluster.wait(lambda: (cluster.info("n1") or {}).get("raft_leader_id") == "", "n1 to know no leader")
    pair = b"*3\r\n$3\r\nSET\r\n$5\r\n%05d\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$5\r\n%05d\r\n"
    request = b"".join(pair % (number, number) for number in range(OWED_MAX // 2))
    with ExitStack() as stack:
        senders = [
            stack.enter_context(socket.create_connection(cluster.addresses()[0], PATIENCE_S)) for _ in range(CLIENTS)
        ]
        for sender in senders:
            sender.sendall(request)
        most = OWED_MAX * CLIENTS
        cluster.wait(lambda: int((cluster.info("n1") or {})["raft_held"]) > most // 2, "most commands to be held")
        cluster.restart("n2", "n3")
        for sender in senders:
            reader, answered = hiredis.Reader(notEnoughData=Ellipsis), 0
            while answered < OWED_MAX:
                received = sender.recv(1 << 20)
                assert received
                reader.feed(received)
                # A reply may come in two pieces.
                replies = list(iter(reader.gets, Ellipsis))
                assert all(each in (b"OK", b"v") or str(each).startswith("MOVED") for each in replies)
                answered += len(replies)


def test_commands_that_look_at_all_keys_let_the_loop_turn(patient: Cluster) -> None:
    """KEYS from ten clients at once, SCAN in large pages, a count of a slot's keys."""
    keys = 50_000
    client = filled(patient, keys)
    with ThreadPoolExecutor(10) as pool:
        clients = [patient.client(patient.leader(), socket_timeout=PATIENCE_S) for _ in range(10)]
        found = list(pool.map(lambda each: len(each.keys("*")), clients))
    assert found == [keys] * 10
    assert len(set(client.scan_iter(count=10_000))) == keys
    slot = key_slot(b"key:000001")
    expected = sum(key_slot(b"key:%06d" % number) == slot for number in range(keys))
    ask: Any = client.execute_command
    assert ask("CLUSTER COUNTKEYSINSLOT", slot) == expected
    assert ask("CLUSTER COUNTKEYSINSLOT", SLOTS - 1) >= 0
    pipeline: Any = client.pipeline(transaction=False)
    names = [f"key:{number:06}" for number in range(keys)]
    pipeline.execute_command("EXISTS", *names)
    pipeline.execute_command("MSET", *(word for name in names for word in (name, "w")))
    pipeline.execute_command("MGET", *names)
    pipeline.execute_command("UNLINK", *names)
    there, stored, values, gone = pipeline.execute()
    assert (there, stored, gone) == (keys, True, keys)
    assert values == [b"w"] * keys


def test_a_reply_is_bounded_before_it_is_made(patient: Cluster) -> None:
    """Sixty times 10 MB is refused, six times is sent, and neither costs memory for each time."""
    client = patient.client(patient.leader(), socket_timeout=PATIENCE_S)
    client.set("large", bytes(VALUE_BYTES))
    assert client.mget(["large"] * 6) == [bytes(VALUE_BYTES)] * 6
    with pytest.raises(redis.ResponseError, match="reply_bytes_max"):
        client.mget(["large"] * 60)
    assert client.ping()


def test_a_byte_behind_a_long_value_is_not_a_copy_of_it(patient: Cluster) -> None:
    """On no node, and not when it is read: what is long is kept and sent in pieces."""
    client = patient.client(patient.leader(), socket_timeout=PATIENCE_S)
    part = bytes(4_000_000)
    for number in range(1, 9):
        assert client.append("log", part) == number * len(part)
    for number in range(1, 21):
        assert client.append("log", "x") == 8 * len(part) + number
    assert client.get("log") == part * 8 + b"x" * 20
    patient.wait_converged()


def test_many_keys_that_expire_at_once_delay_nobody(patient: Cluster) -> None:
    """They are dropped a few with each entry, in steps."""
    client = patient.client(patient.leader(), socket_timeout=PATIENCE_S)
    pipeline = client.pipeline(transaction=False)
    for number in range(30_000):
        pipeline.set(f"key:{number}", "v", px=20_000)
    assert all(pipeline.execute())
    patient.wait(
        lambda: client.set("other", "v") is True and client.dbsize() == 1, "the keys to be dropped", PATIENCE_S
    )
