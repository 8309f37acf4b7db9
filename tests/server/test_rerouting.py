"""Commands that wait are routed anew, or given up, a slice in each turn of the loop; none overtakes another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.raft.messages import TimeoutNow
from durable_raft.raft.types import LEADER
from durable_raft.server.pending import Slot
from tests.support.batches import run_of
from tests.support.desk import HOLD_S, LOOK_S, N2, Desk, desk_at
from tests.support.desk_client import Client
from tests.support.raft_solo import vote

STEPS = 2
"""Runs that are routed in one turn of the loop."""

MANY = 11


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower that knows no leader and routes two runs in a turn."""
    with desk_at(tmp_path / "n1", slice_steps=STEPS) as made:
        yield made


def arrive(desk: Desk, client: Client, command: str) -> None:
    """Have a command of a client's come in, and the loop not turn yet."""
    args = [word.encode() for word in command.split()]
    slot = Slot(client, 2)
    client.slots.append(slot)
    desk.dispatcher.route_run(slot, COMMANDS[args[0]], run_of([args]))


def answered(client: Client) -> int:
    """Return how many of a client's commands have a reply."""
    return sum(reply is not None for reply in client.replies)


def is_busy(desk: Desk) -> bool:
    """Return whether the loop has anything to do now."""
    return bool(desk.loop.soon)


def become_leader(desk: Desk) -> None:
    """Have n1 elected by n2, and the loop not turn yet behind the last vote."""
    desk.wait_until(lambda: desk.raft.role.name == "PRE_CANDIDATE")
    desk.hear(N2, vote(desk.raft.current_term + 1, pre_vote=True))
    desk.arrive(N2, vote(desk.raft.current_term))
    assert desk.raft.role is LEADER


def test_what_comes_while_held_commands_are_routed_goes_behind_them(desk: Desk) -> None:
    """One connection's commands are executed in the order in which it sent them."""
    client = desk.client()
    for number in range(MANY):
        arrive(desk, client, f"append a {number},")
    become_leader(desk)
    desk.half_turn()
    arrive(desk, client, "append a last")
    arrive(desk, client, "get a")
    desk.turn()
    desk.acknowledge()
    desk.acknowledge()
    desk.acknowledge()
    value = "".join(f"{number}," for number in range(MANY)) + "last"
    assert client.replies[-1] == b"$%d\r\n%s\r\n" % (len(value), value.encode())


def test_held_commands_are_moved_a_few_in_each_turn(desk: Desk) -> None:
    """A leader elsewhere is found: no turn answers all."""
    client = desk.client()
    for number in range(MANY):
        arrive(desk, client, f"set k{number} v")
    desk.turn()
    assert answered(client) == 0
    before, most = 0, 0
    desk.begin_to_follow(N2)
    while is_busy(desk):
        desk.half_turn()
        before, most = answered(client), max(most, answered(client) - before)
    assert 0 < most <= STEPS
    assert all(reply is not None and reply.startswith(b"-MOVED") for reply in client.replies)


def test_held_commands_are_given_up_a_few_in_each_turn(desk: Desk) -> None:
    """Nobody leads until their time is up: no turn answers all, and none of them is executed later."""
    client = desk.client()
    for number in range(MANY):
        arrive(desk, client, f"set k{number} v")
    desk.turn()
    desk.wait(HOLD_S - 0.1)
    assert answered(client) == 0
    desk.ring_until(0.1 + LOOK_S, lambda: answered(client) > 0)
    assert answered(client) == STEPS
    desk.half_turn()
    assert answered(client) == 2 * STEPS
    desk.turn()
    assert client.replies == [b"-CLUSTERDOWN no leader; the command had no effect\r\n"] * MANY
    desk.lead()
    desk.acknowledge()
    assert desk.machine.summary().key_count == 0


def test_what_was_never_proposed_is_moved_a_few_in_each_turn(desk: Desk) -> None:
    """Leadership is lost with commands that waited, some of them held since before it was won: none is executed."""
    client = desk.client()
    for number in range(MANY):
        arrive(desk, client, f"append a {number},")
    become_leader(desk)
    desk.half_turn()
    desk.begin_to_follow(N2, after=0)
    arrive(desk, client, "append a last")
    before, most = answered(client), 0
    while is_busy(desk):
        desk.half_turn()
        before, most = answered(client), max(most, answered(client) - before)
    assert 0 < most <= STEPS
    moved = [reply for reply in client.replies if reply is not None]
    assert all(reply.startswith(b"-MOVED") for reply in moved)
    assert client.replies == [None] * (MANY + 1 - len(moved)) + moved, "what was proposed came first"


def test_read_that_was_lost_is_refused_though_the_writes_behind_it_are_answered_first(desk: Desk) -> None:
    """Whether it may be executed later is decided when it is lost, not when its turn comes."""
    desk.lead()
    others = [desk.client() for _ in range(MANY)]
    for other in others:
        arrive(desk, other, "get a")
    client = desk.client()
    arrive(desk, client, "get a")
    desk.half_turn()
    arrive(desk, client, "set a 1")
    desk.turn()
    desk.begin_to_follow(N2, after=0)
    desk.half_turn()
    assert client.replies == [None, None]
    client.slots[1].fill(None)
    assert client.writes_outstanding == 0
    desk.turn()
    reply = client.replies[0]
    assert reply == b"-TRYAGAIN leadership changed; the read was not executed\r\n"
    assert all(reply is not None and reply.startswith(b"-MOVED") for other in others for reply in other.replies)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_order_holds_while_leadership_is_lost_and_won_in_the_middle(desk: Desk, turns: int) -> None:
    """What is held, what is to be routed and what waits for its proposal stay in the order in which they came."""
    client = desk.client()
    for number in range(MANY):
        arrive(desk, client, f"append a {number},")
    desk.cut_off(N2)
    become_leader(desk)
    for _ in range(turns):
        desk.half_turn()
    desk.begin_to_follow(N2, after=0)
    for _ in range(turns):
        desk.half_turn()
    arrive(desk, client, "append a last")
    desk.lead()
    arrive(desk, client, "get a")
    desk.turn()
    for _ in range(MANY):
        desk.acknowledge()
    value = "".join(f"{number}," for number in range(MANY)) + "last"
    assert client.replies[-1] == b"$%d\r\n%s\r\n" % (len(value), value.encode())


def test_what_is_held_comes_before_what_was_on_its_way_to_be_held(desk: Desk) -> None:
    """Leadership is lost to nobody, and won again by a hand over while some commands are held and others not yet."""
    client = desk.client()
    for number in range(3 * MANY):
        arrive(desk, client, f"append a {number},")
    desk.cut_off(N2)
    become_leader(desk)
    desk.half_turn()
    desk.begin_to_follow(N2, after=0)
    desk.half_turn()
    desk.write()
    desk.half_turn()
    desk.arrive(N2, TimeoutNow(desk.raft.current_term))
    for _ in range(3):
        desk.half_turn()
        desk.write()
        desk.arrive(N2, vote(desk.raft.current_term))
    assert desk.raft.role is LEADER
    assert answered(client) == 0, "some are held, and others on their way"
    arrive(desk, client, "get a")
    desk.turn()
    for _ in range(MANY):
        desk.acknowledge()
    value = "".join(f"{number}," for number in range(3 * MANY))
    assert client.replies[-1] == b"$%d\r\n%s\r\n" % (len(value), value.encode())
