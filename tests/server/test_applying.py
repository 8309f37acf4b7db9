"""An entry that takes long is applied in slices, and nothing takes it for applied, or looks at it, before it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from durable_raft.kv.batch import decode_commands
from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.keyspace import DROP_MAX
from durable_raft.kv.machine import PLAIN_A_STEP, Machine
from durable_raft.kv.runs import Run
from durable_raft.kv.string_commands import PAIRS_A_STEP
from durable_raft.raft.types import Entry, EntryKind, Index, LogPoint, Role, Term, make_entry
from durable_raft.server.pending import BATCH_COMMANDS_MAX, Slot
from durable_raft.wire.resp_requests import RUN_MAX
from tests.support.batches import batch_of
from tests.support.desk import N2, Desk, desk_at
from tests.support.raft_solo import accepted

KEYS = 6 * PAIRS_A_STEP
"""More than one step sets."""

MSET = ["mset", *(word for number in range(KEYS) for word in (f"k{number}", "v"))]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower that knows no leader, whose slices have a single step."""
    with desk_at(tmp_path / "n1", slice_steps=1) as made:
        yield made


@pytest.fixture
def leading(desk: Desk) -> Desk:
    """The same, leading."""
    desk.lead()
    return desk


@contextmanager
def single_turns(desk: Desk) -> Iterator[None]:
    """Whoever has the loop turn until it is at rest has it turn once."""
    turn, desk.turn = desk.turn, desk.half_turn  # type: ignore[method-assign]
    yield
    desk.turn = turn  # type: ignore[method-assign]


def acknowledged(desk: Desk) -> None:
    """n2 has flushed all that n1 has; the loop has turned once since."""
    desk.arrive(N2, accepted(desk.raft.current_term, desk.raft.log.last.index, desk.raft.state.read_round))
    desk.half_turn()


def is_in_the_middle(desk: Desk) -> bool:
    """Whether some of the keys are there, but not all."""
    return 0 < desk.machine.summary().key_count < KEYS


def turned_into_the_middle(desk: Desk) -> None:
    """Let the loop turn until an entry is applied by half."""
    turned_until(desk, lambda: is_in_the_middle(desk))


def turned_until(desk: Desk, holds: Callable[[], bool]) -> None:
    """Let the loop turn, and the log writer work, until ``holds``."""
    for _ in range(40):
        if holds():
            return
        desk.half_turn()
        desk._writer.work()
    raise AssertionError("it does not come about")


def test_the_loop_turns_in_the_middle_of_a_command(leading: Desk) -> None:
    """Meanwhile it is answered nobody, and INFO tells of the state before it."""
    before = leading.node.keeper.applied_index, leading.node.keeper.counts()
    client = leading.client()
    client.send(" ".join(MSET))
    acknowledged(leading)
    turned_into_the_middle(leading)
    assert client.replies == [None]
    assert leading.raft.log.last_applied > before[0]
    assert (leading.node.keeper.applied_index, leading.node.keeper.counts()) == before
    assert not leading.node.may_apply
    assert not leading.dispatcher.is_idle()
    leading.turn()
    assert client.replies == [b"+OK\r\n"]
    assert leading.node.keeper.applied_index == leading.raft.log.last_applied
    assert leading.node.keeper.counts() == (KEYS, 0)
    assert leading.dispatcher.is_idle()


def test_a_read_waits_for_the_command_that_is_under_way(leading: Desk) -> None:
    """And sees the whole of it, though it was confirmed before."""
    writer, reader = leading.client(), leading.client()
    writer.send(" ".join(MSET))
    acknowledged(leading)
    turned_into_the_middle(leading)
    with single_turns(leading):
        reader.send(f"mget k0 k{KEYS - 1}")
    acknowledged(leading)
    assert is_in_the_middle(leading)
    leading.turn()
    assert reader.replies == [b"*2\r\n$1\r\nv\r\n$1\r\nv\r\n"]


def test_no_checkpoint_begins_in_the_middle_of_an_entry(leading: Desk) -> None:
    """It would claim the whole of it; the one that was asked for is written when the entry is applied."""
    leading.client().send(" ".join(MSET))
    acknowledged(leading)
    turned_into_the_middle(leading)
    leading.node.request_checkpoint()
    leading.node.keeper.consider()
    leading.half_turn()
    assert is_in_the_middle(leading)
    assert leading.node.keeper.checkpointer.count == 0
    assert leading.machine.overlay_changes > 0, "nothing is frozen"
    leading.turn()
    assert leading.node.keeper.checkpointer.count == 1
    assert leading.raft.snapshot.index == leading.raft.log.last_applied


def test_a_leader_that_is_replaced_in_the_middle_answers_what_it_has_committed(leading: Desk) -> None:
    """The entry is committed; who leads does not matter any more."""
    client = leading.client()
    client.send(" ".join(MSET))
    acknowledged(leading)
    turned_into_the_middle(leading)
    leading.follow(N2, term=leading.raft.current_term + 1, after=0)
    assert leading.raft.role is Role.FOLLOWER
    assert client.replies == [b"+OK\r\n"]
    assert leading.machine.summary().key_count == KEYS


def entry_of(desk: Desk, *commands: list[str]) -> Entry:
    """Return the entry that another leader has behind the last one."""
    last, log = desk.raft.log.last.index, desk.raft.log
    payload = batch_of([[word.encode() for word in command] for command in commands])
    point = LogPoint(last, log.term_at(last), log.chain_at(last))
    term = Term(desk.raft.current_term + 1)
    return make_entry(previous=point, term=term, kind=EntryKind.COMMANDS, timestamp_ms=2_000_000, payload=payload)


def followed_into_the_middle(desk: Desk) -> None:
    """A follower, caught up before, applies half of a long entry."""
    with single_turns(desk):
        desk.follow(N2, entry_of(desk, MSET))
    desk._writer.work()
    turned_into_the_middle(desk)


def test_a_stale_read_sees_the_whole_of_a_command_or_nothing_of_it(desk: Desk) -> None:
    """Also a stale read waits for the machine to be at rest."""
    desk.follow(N2, entry_of(desk, ["set", "other", "1"]))
    reader = desk.client(is_readonly=True)
    reader.send("get other")
    assert reader.replies == [b"$1\r\n1\r\n"]
    followed_into_the_middle(desk)
    with single_turns(desk):
        reader.send(f"mget k0 k{KEYS - 1}", "exists k0", "get k0")
    assert reader.replies[1:] == [None, None, None]
    desk.turn()
    assert reader.replies[1:] == [b"*2\r\n$1\r\nv\r\n$1\r\nv\r\n", b":1\r\n", b"$1\r\nv\r\n"]


def test_a_node_is_not_caught_up_before_the_last_entry_is_applied(desk: Desk) -> None:
    """It was handed out, and a stale read would see half of it."""
    followed_into_the_middle(desk)
    assert not desk.dispatcher.is_caught_up
    desk.turn()
    assert desk.dispatcher.is_caught_up


def test_what_another_state_covers_is_applied_no_further(leading: Desk) -> None:
    """Nobody can say what became of it here; reads, begun or waiting, are routed again, and see the new state."""
    first, writer, reader = leading.client(), leading.client(), leading.client()
    first.send(" ".join(MSET))
    acknowledged(leading)
    turned_into_the_middle(leading)
    with single_turns(leading):
        writer.send(" ".join(MSET).replace("k", "j"), "get k1")
        leading._writer.work()
        acknowledged(leading)
        reader.send("exists k1 k2")
        acknowledged(leading)
    assert is_in_the_middle(leading)
    turned_until(leading, lambda: leading.machine.summary().key_count > KEYS)
    other = Machine(random.Random(1))
    other.execute([b"set", b"k1", b"other"])
    leading.node.keeper.machine = other
    leading.node._machine_replaced(other)
    unknown, read = writer.replies
    assert (unknown or b"").startswith(b"-UNKNOWN")
    assert (read, reader.replies) == (None, [None])
    leading.turn()
    leading.acknowledge()
    assert (writer.replies[1], reader.replies) == (b"$5\r\nother\r\n", [b":1\r\n"])
    assert other.summary().key_count == 1, "nothing of the old entry went into the new state"
    assert writer.writes_outstanding == writer.batched == reader.batched == 0


def test_of_runs_that_are_executed_together_those_that_are_answered_stay_so(leading: Desk) -> None:
    """The state is replaced between two of them: nobody is answered twice, and the other is of unknown fate."""
    clients = [leading.client(), leading.client()]
    for client in clients:
        slot = Slot(client, 2)
        client.slots.append(slot)
        leading.dispatcher.route_run(slot, COMMANDS[b"del"], Run(b"del", 1, [b"a", b"b", b"c"]))
    with single_turns(leading):
        leading.turn()
    leading._writer.work()
    acknowledged(leading)
    turned_until(leading, lambda: clients[0].replies != [None])
    assert [client.replies for client in clients] == [[b":0\r\n"], [None]]
    leading.node._machine_replaced(Machine(random.Random(1)))
    assert clients[0].replies == [b":0\r\n"]
    assert (clients[1].replies[0] or b"").startswith(b"-UNKNOWN")
    assert [client.writes_outstanding for client in clients] == [0, 0]
    assert leading.dispatcher.counters.unknown == 1


def test_a_long_run_is_executed_in_turns(desk: Desk) -> None:
    """Of however many connections it is put together."""
    count = 5 * PLAIN_A_STEP
    with single_turns(desk):
        desk.follow(N2, entry_of(desk, *(["set", f"k{number}", "v"] for number in range(count))))
    desk._writer.work()
    turned_until(desk, lambda: 0 < desk.machine.summary().key_count < count)
    desk.turn()
    assert desk.machine.summary().key_count == count


def test_the_loop_turns_while_expired_keys_are_dropped(leading: Desk) -> None:
    """All of an entry's, before its first command is executed; what is left of them is hidden already."""
    client = leading.client()
    for first in range(0, 10 * DROP_MAX, RUN_MAX):
        client.send_run(*(f"set k{number} v px 500" for number in range(first, first + RUN_MAX)))
    leading.acknowledge()
    leading.acknowledge()
    count = leading.machine.summary().key_count
    leading.now += 0.5
    leading.time_of_day_ms += 500
    client.send("dbsize")
    acknowledged(leading)
    turned_until(leading, lambda: count - DROP_MAX < leading.machine.summary().key_count < count)
    assert client.replies[-1] is None
    assert leading.machine.execute([b"get", b"k5"]) is None
    while client.replies[-1] is None:
        leading.acknowledge()
    assert count - DROP_MAX >= int((client.replies[-1] or b"")[1:])


def test_an_entry_has_no_more_commands_than_can_be_decoded_at_once(tmp_path: Path) -> None:
    """About: a run is not cut."""
    with desk_at(tmp_path / "n1") as desk:
        desk.lead()
        client = desk.client()
        before = len(desk.proposed)
        for _ in range(3 * BATCH_COMMANDS_MAX // RUN_MAX):
            client.send_run(*["incr a"] * RUN_MAX)
        for _ in range(5):
            desk.acknowledge()
        counts = [len(decode_commands(entry.payload)) for entry in desk.proposed[before:]]
        assert max(counts) < BATCH_COMMANDS_MAX + RUN_MAX
        assert sum(counts) == 3 * BATCH_COMMANDS_MAX // RUN_MAX * RUN_MAX
        assert None not in client.replies


def test_keys_of_a_slot_are_counted_between_entries(leading: Desk) -> None:
    """A command of the connection's waits for the machine as others do, and tells when its state was replaced."""
    client = leading.client()
    client.send(" ".join(MSET))
    acknowledged(leading)
    turned_into_the_middle(leading)
    counted, dropped = leading.client(), leading.client()
    for each in (counted, dropped):
        each.send_later(leading.node.count_keys_in_slot(0))
    assert counted.replies == [None]
    leading.turn()
    assert counted.replies == dropped.replies
    assert (counted.replies[0] or b"").startswith(b":")
    dropped.send_later(leading.node.count_keys_in_slot(0))
    leading.dispatcher.use_machine(leading.machine, Index(0))
    leading.node._jobs.drop()
    assert (dropped.replies[1] or b"").startswith(b"-TRYAGAIN")
