"""Where a command goes and what it is answered, on a real core and a real machine whose peers the test plays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.kv.batch import decode_batch, decode_commands
from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.keyspace import DROP_MAX
from durable_raft.kv.runs import Run
from durable_raft.raft.types import (
    Entry,
    EntryKind,
    Index,
    LogPoint,
    Term,
    make_entry,
)
from durable_raft.server.dispatch import INFLIGHT_BATCHES_MAX, QUICK_COMMIT_S
from durable_raft.server.pending import NO_REPLY, Slot
from tests.support.batches import batch_of
from tests.support.desk import HOLD_S, LOOK_S, N2, N3, Desk, desk_at
from tests.support.desk_client import Client
from tests.support.raft_solo import accepted


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower that knows no leader."""
    with desk_at(tmp_path / "n1") as made:
        yield made


@pytest.fixture
def leading(desk: Desk) -> Desk:
    """Node n1, leading."""
    desk.lead()
    return desk


def other_leaders_entry(desk: Desk, index: int, term: int) -> Entry:
    """Return an entry that another leader has at ``index``."""
    log = desk.raft.log
    previous = Index(index - 1)
    point = LogPoint(previous, log.term_at(previous), log.chain_at(previous))
    payload = batch_of([[b"set", b"other", b"1"]])
    return make_entry(previous=point, term=Term(term), kind=EntryKind.COMMANDS, timestamp_ms=2_000_000, payload=payload)


def test_write_is_answered_when_a_majority_has_flushed_it(leading: Desk) -> None:
    """The leader's own flush is not enough; with one follower's it is."""
    client = leading.client()
    client.send("set a 1")
    assert client.replies == [None]
    leading.acknowledge()
    assert client.replies == [b"+OK\r\n"]


def test_commands_of_one_turn_share_an_entry(leading: Desk) -> None:
    """What several connections send in one turn becomes one entry."""
    clients = [leading.client() for _ in range(3)]
    for number, client in enumerate(clients):
        slot = Slot(client, 2)
        client.slots.append(slot)
        leading.dispatcher.route_run(slot, COMMANDS[b"set"], Run(b"set", 1, [b"k%d" % number, b"v"]))
    leading.turn()
    assert [len(decode_commands(entry.payload)) for entry in leading.proposed] == [3]


def test_reads_of_a_connection_stand_between_its_writes(leading: Desk) -> None:
    """Each read sees the writes pipelined before it and none after it, whatever batch they travel in."""
    client = leading.client()
    client.send("get a", "set a 1", "get a", "set a 2", "get a")
    client.send("get a", "set a 3")
    client.send("get a")
    leading.acknowledge()
    leading.acknowledge()
    values = [reply for reply in client.replies if reply != b"+OK\r\n"]
    assert values == [b"$-1\r\n", *(b"$1\r\n%d\r\n" % value for value in (1, 2, 2, 3))]


def test_read_of_an_idle_connection_waits_for_a_majority_not_for_the_disk(leading: Desk) -> None:
    """A read that no write of its connection precedes needs a confirmed round and writes nothing."""
    client = leading.client()
    client.send("get a")
    assert client.replies == [None]
    leading.acknowledge()
    assert client.replies == [b"$-1\r\n"]
    assert leading.proposed == []


def test_window_bounds_the_batches_in_flight(leading: Desk) -> None:
    """Beyond the window commands wait and grow into one batch."""
    client = leading.client()
    for number in range(10):
        client.send(f"set k{number} v")
    assert len(leading.proposed) == INFLIGHT_BATCHES_MAX
    leading.acknowledge()
    leading.acknowledge()
    assert client.replies == [b"+OK\r\n"] * 10
    assert len(leading.proposed) == INFLIGHT_BATCHES_MAX + 1


def test_run_is_executed_in_order_and_answered_as_one(leading: Desk) -> None:
    """Each command has its own reply, an error of one is no other's, and each is counted."""
    client = leading.client()
    client.send("set b x")
    client.send_run("incr a", "incr b", "incr a")
    client.send_run("get a", "get b")
    leading.acknowledge()
    leading.acknowledge()
    error = b"-ERR value is not an integer or out of range\r\n"
    assert client.replies == [b"+OK\r\n", b":1\r\n" + error + b":2\r\n", b"$1\r\n2\r\n$1\r\nx\r\n"]
    assert (client.writes_outstanding, client.batched) == (0, 0)
    assert leading.dispatcher.counters.commands == 4


def taken_in(desk: Desk, *runs: Run) -> list[Client]:
    """Have a new client for each run, all in one turn; return them."""
    clients = [desk.client() for _ in runs]
    for client, run in zip(clients, runs, strict=True):
        slot = Slot(client, 2, run.length)
        client.slots.append(slot)
        desk.dispatcher.route_run(slot, COMMANDS[run.name.lower()], run)
    desk.turn()
    return clients


def test_runs_of_several_connections_travel_as_one(leading: Desk) -> None:
    """In the order in which they came, in columns; each connection is answered its own."""
    clients = taken_in(
        leading,
        Run(b"INCR", 2, [b"a", b"b"]),
        Run(b"incr", 1, [b"a"]),
        Run(b"SET", 1, [b"b", b"7"]),
        Run(b"set", 2, [b"c", b"d", b"8", b"9"]),
        Run(b"set", 1, [b"e", b"1", b"nx"]),
        Run(b"incr", 3, [b"a", b"b", b"c"]),
    )
    (entry,) = leading.proposed
    assert decode_batch(entry.payload) == [
        Run(b"incr", 3, [b"a", b"b", b"a"]),
        Run(b"set", 3, [b"b", b"c", b"d", b"7", b"8", b"9"]),
        Run(b"set", 1, [b"e", b"1", b"nx"]),
        Run(b"incr", 3, [b"a", b"b", b"c"]),
    ]
    leading.acknowledge()
    assert [client.replies for client in clients] == [
        [b":1\r\n:1\r\n"],
        [b":2\r\n"],
        [b"+OK\r\n"],
        [b"+OK\r\n+OK\r\n"],
        [b"+OK\r\n"],
        [b":3\r\n:8\r\n:9\r\n"],
    ]
    assert leading.dispatcher.counters.commands == 10


def test_a_connection_that_wants_no_reply_gets_none_of_a_run_of_many(leading: Desk) -> None:
    """The others do."""
    quiet, other = leading.client(), leading.client()
    for client, protocol in ((quiet, NO_REPLY), (other, 3)):
        slot = Slot(client, protocol, 2)
        client.slots.append(slot)
        leading.dispatcher.route_run(slot, COMMANDS[b"set"], Run(b"set", 2, [b"a", b"b", b"1", b"2"]))
    leading.turn()
    leading.acknowledge()
    assert (quiet.replies, other.replies) == ([b""], [b"+OK\r\n+OK\r\n"])


def test_run_that_is_refused_is_refused_as_often_as_it_has_commands(desk: Desk) -> None:
    """Moved: each command to the slot of its own key; held in vain: each told so."""
    desk.follow(N2)
    client = desk.client()
    client.send_run("get foo", "get bar")
    assert client.replies == [b"-MOVED 12182 127.0.0.1:7002\r\n-MOVED 5061 127.0.0.1:7002\r\n"]
    desk.cut_off(N2)
    client.send_run("set foo 1", "set bar 1")
    desk.wait(HOLD_S + LOOK_S)
    assert client.replies[1] == b"-CLUSTERDOWN no leader; the command had no effect\r\n" * 2
    assert desk.dispatcher.counters.moved == 2


def test_next_batch_waits_for_a_quick_commit_but_not_for_long(leading: Desk) -> None:
    """It grows while the first is committed; what takes longer than usual it joins, at a heartbeat at the latest."""
    client, others = leading.client(), [leading.client() for _ in range(2)]
    client.send("set a 1")
    for other in others:
        leading.now -= QUICK_COMMIT_S
        other.send("set b 2")
    assert len(leading.proposed) == 1
    assert not leading.dispatcher.has_due()
    leading.now += QUICK_COMMIT_S
    assert leading.dispatcher.has_due()
    leading.wait(leading.raft.state.config.heartbeat_ms / 1000)
    assert [len(decode_commands(entry.payload)) for entry in leading.proposed] == [1, 2]
    leading.acknowledge()
    assert [each.replies for each in (client, *others)] == [[b"+OK\r\n"]] * 3


def test_follower_moves_commands_to_the_leader(desk: Desk) -> None:
    """-MOVED names the slot of the first key and the leader's address; a command without keys has slot 0."""
    desk.follow(N2)
    client = desk.client()
    client.send("set foo 1", "get foo", "dbsize")
    moved = b"-MOVED 12182 127.0.0.1:7002\r\n"
    assert client.replies == [moved, moved, b"-MOVED 0 127.0.0.1:7002\r\n"]


def test_readonly_connection_reads_the_replicas_own_state(desk: Desk) -> None:
    """READONLY reads are answered at once where they arrive; writes still move."""
    desk.follow(N2, commit=1)
    client = desk.client(is_readonly=True)
    client.send("get other")
    assert client.replies == [b"-MOVED 11361 127.0.0.1:7002\r\n"], "before it has caught up it has nothing to show"
    desk.follow(N2, other_leaders_entry(desk, 1, desk.raft.current_term), term=desk.raft.current_term)
    client.send("get other", "set foo 1")
    assert client.replies[1:] == [b"$1\r\n1\r\n", b"-MOVED 12182 127.0.0.1:7002\r\n"]


def test_command_is_held_until_a_leader_is_known(desk: Desk) -> None:
    """Without a leader nothing is answered; when another node leads it is moved."""
    client = desk.client()
    client.send("set foo 1")
    assert client.replies == [None]
    desk.follow(N3)
    assert client.replies == [b"-MOVED 12182 127.0.0.1:7003\r\n"]


def test_held_commands_are_executed_in_order_when_this_node_leads(desk: Desk) -> None:
    """What was held goes into the log of the node that held it, in the order it came."""
    client = desk.client()
    client.send("set a 1", "incr a", "get a")
    desk.lead()
    desk.acknowledge()
    assert client.replies == [b"+OK\r\n", b":2\r\n", b"$1\r\n2\r\n"]


def test_command_is_held_while_the_link_to_the_leader_is_down(desk: Desk) -> None:
    """A client is not sent to a leader that has just died, though no election has been held yet."""
    desk.follow(N2)
    desk.cut_off(N2)
    client = desk.client()
    client.send("get foo")
    assert client.replies == [None]
    desk.reconnect(N2)
    assert client.replies == [b"-MOVED 12182 127.0.0.1:7002\r\n"]


def test_held_command_is_given_up_after_the_hold_time_without_effect(desk: Desk) -> None:
    """-CLUSTERDOWN means: certainly not done; it is not executed later either."""
    client = desk.client()
    client.send("set a 1")
    desk.wait(HOLD_S - 0.1)
    assert client.replies == [None]
    desk.wait(0.1 + LOOK_S)
    assert client.replies == [b"-CLUSTERDOWN no leader; the command had no effect\r\n"]
    desk.lead()
    desk.acknowledge()
    assert desk.machine.summary().key_count == 0


def test_write_is_answered_if_the_next_leader_commits_it(leading: Desk) -> None:
    """Leadership is lost with the write in flight; the new leader has it and commits it: the normal reply."""
    client = leading.client()
    client.send("set a 1")
    index = leading.raft.log.last.index
    log = leading.raft.log
    later = other_leaders_entry(leading, index + 1, leading.raft.current_term + 1)
    leading.follow(N2, later)
    assert log.commit_index == index + 1
    assert client.replies == [b"+OK\r\n"]


def test_write_whose_place_another_entry_took_certainly_had_no_effect(leading: Desk) -> None:
    """-TRYAGAIN, and the write is not proposed again; a read that went along is moved."""
    client = leading.client()
    client.send("set a 1", "get a")
    index = leading.raft.log.last.index
    rival = other_leaders_entry(leading, index, leading.raft.current_term + 1)
    leading.follow(N2, rival, after=index - 1)
    reply, moved = client.replies
    assert reply is not None
    assert reply.startswith(b"-TRYAGAIN")
    assert moved is not None
    assert moved.startswith(b"-MOVED")
    leading.lead()
    leading.acknowledge()
    assert leading.machine.execute([b"get", b"a"]) is None
    assert client.writes_outstanding == 0


def test_write_of_unknown_fate_is_called_unknown_after_the_hold_time(leading: Desk) -> None:
    """-UNKNOWN once, never repeated by the server, even if the write is committed later after all."""
    client = leading.client()
    client.send("incr a")
    index = leading.raft.log.last.index
    leading.follow(N2, term=leading.raft.current_term + 1, after=0)
    leading.wait(HOLD_S - 0.1)
    assert client.replies == [None]
    leading.wait(0.1 + LOOK_S)
    (reply,) = client.replies
    assert reply is not None
    assert reply.startswith(b"-UNKNOWN")
    leading.follow(
        N2, other_leaders_entry(leading, index + 1, leading.raft.current_term), term=leading.raft.current_term
    )
    assert client.replies == [reply]
    assert leading.machine.execute([b"get", b"a"]) == b"1"


def test_unproposed_commands_are_moved_when_leadership_is_lost(leading: Desk) -> None:
    """What waited for the window was never proposed: it goes to the new leader."""
    client = leading.client()
    for number in range(INFLIGHT_BATCHES_MAX + 3):
        client.send(f"set k{number} v")
    leading.follow(N2, term=leading.raft.current_term + 1, after=0)
    replies = client.replies
    assert replies[:INFLIGHT_BATCHES_MAX] == [None] * INFLIGHT_BATCHES_MAX
    assert all(reply is not None and reply.startswith(b"-MOVED") for reply in replies[INFLIGHT_BATCHES_MAX:])


def test_unconfirmed_read_is_moved_when_leadership_is_lost(leading: Desk) -> None:
    """A read that no majority confirmed is never answered from this node's state."""
    client = leading.client()
    client.send("get a")
    leading.follow(N2, term=leading.raft.current_term + 1, after=0)
    (reply,) = client.replies
    assert reply is not None
    assert reply.startswith(b"-MOVED")


def test_commands_beyond_the_queue_are_refused_and_not_done(tmp_path: Path) -> None:
    """-OVERLOADED before memory is at risk; what was taken in is done."""
    with desk_at(tmp_path / "n1", pending_bytes_max=400) as desk:
        desk.lead()
        _refuses_what_is_too_much(desk)


def _refuses_what_is_too_much(desk: Desk) -> None:
    client = desk.client()
    client.send(*(f"set k{number} {'v' * 50}" for number in range(20)))
    for _ in range(4):
        desk.acknowledge()
    refused = [reply for reply in client.replies if reply is not None and reply.startswith(b"-OVERLOADED")]
    done = [reply for reply in client.replies if reply == b"+OK\r\n"]
    assert refused
    assert len(refused) + len(done) == 20
    assert desk.machine.summary().key_count == len(done)


def test_out_of_space_refuses_what_needs_memory_only(leading: Desk) -> None:
    """Writes that grow are refused with the reason; reads and deletes go on."""
    client = leading.client()
    client.send("set a 1")
    leading.acknowledge()
    leading.dispatcher.claims.out_of_space = "1 byte is free"
    client.send("set b 2", "get a", "del a")
    leading.acknowledge()
    assert client.replies[1:] == [b"-NOSPACE 1 byte is free\r\n", b"$1\r\n1\r\n", b":1\r\n"]


def test_writes_taken_in_since_the_disk_was_looked_at_count_against_its_room(leading: Desk) -> None:
    """Room for one write is not promised to two, nor promised again while the first is not written yet."""
    client = leading.client()
    leading.dispatcher.note_space(free_bytes=1000 + 200, reserve_bytes=1000)
    value = "x" * 60
    client.send(f"set a {value}", f"set b {value}")
    assert client.replies[0] is None
    assert (client.replies[1] or b"").startswith(b"-NOSPACE ")
    leading.dispatcher.note_space(free_bytes=1000 + 200, reserve_bytes=1000)
    client.send(f"set c {value}")
    assert (client.replies[2] or b"").startswith(b"-NOSPACE ")
    leading.acknowledge()
    leading.dispatcher.note_space(free_bytes=1000 + 200, reserve_bytes=1000)
    client.send(f"set d {value}")
    leading.acknowledge()
    assert client.replies[0] == client.replies[3] == b"+OK\r\n"
    assert leading.machine.summary().key_count == 2


def test_keys_that_are_hidden_already_are_dropped_now_and_then(leading: Desk) -> None:
    """By an entry each ten milliseconds, while nobody reads; a read wants the time to the millisecond."""
    client = leading.client()
    client.send_run(*(f"set k{number} 1 px 500" for number in range(5 * DROP_MAX)))
    leading.acknowledge()
    count = len(leading.proposed)
    leading.now += 0.5
    leading.time_of_day_ms += 500
    counts = []
    for _ in range(35):
        leading.wait(0.001)
        leading.acknowledge()
        counts.append(len(leading.proposed) - count)
    assert counts[0] == 1
    assert counts[-1] == 4
    assert leading.machine.summary().key_count == DROP_MAX
    leading.wait(0.001)
    client.send("get k0")
    assert len(leading.proposed) - count == 5
    leading.acknowledge()
    assert client.replies[-1] == b"$-1\r\n"
    assert leading.machine.summary().key_count == 0


def test_key_expires_by_an_entry_and_a_read_in_between_waits_for_it(leading: Desk) -> None:
    """When a key's time is up and nothing is written, one empty entry says so; no read sees the key after that time."""
    client = leading.client()
    client.send("set a 1 px 500")
    leading.acknowledge()
    written = len(leading.proposed)
    leading.now += 0.5
    leading.time_of_day_ms += 500
    client.send("get a")
    assert client.replies[-1] is None
    client.send("get a")
    leading.acknowledge()
    leading.acknowledge()
    assert client.replies[1:] == [b"$-1\r\n", b"$-1\r\n"]
    assert [decode_commands(entry.payload) for entry in leading.proposed[written:]] == [[]]


def test_read_that_lost_its_leadership_never_sees_the_writes_behind_it(leading: Desk) -> None:
    """A read registered before a write of its connection, lost with the leadership, is not answered after that write.

    Found by the simulator: the write was committed by the next leader and the read, routed again, saw it.
    """
    client = leading.client()
    client.send("set b 1")
    client.send("get a")
    client.send("set a 2")
    index = leading.raft.log.last.index
    leading.follow(N2, other_leaders_entry(leading, index + 1, leading.raft.current_term + 1))
    first, read, last = client.replies
    assert (first, last) == (b"+OK\r\n", b"+OK\r\n")
    assert read is not None
    assert read.startswith(b"-TRYAGAIN")


def test_reads_of_one_connection_never_go_backwards(leading: Desk) -> None:
    """A read behind a read that travels in a batch waits for it, though its connection's writes are answered."""
    client, other = leading.client(), leading.client()
    client.send("set a 1")
    other.send("set x 2")
    client.send("get x")
    first = leading.raft.log.last.index - 1
    term, read_round = leading.raft.current_term, leading.raft.state.read_round
    leading.hear(N2, accepted(term, first, read_round))
    leading.turn()
    assert client.replies == [b"+OK\r\n", None]
    client.send("get x")
    leading.hear(N2, accepted(term, first, leading.raft.state.read_round))
    leading.turn()
    leading.acknowledge()
    leading.acknowledge()
    values = client.replies[1:]
    assert values == sorted(values, key=lambda reply: reply or b"")
    assert None not in values
