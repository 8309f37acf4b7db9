"""A connection's commands are executed in its order, also when leadership is lost and won again between them."""

from __future__ import annotations

from durable_raft.raft.types import Role
from tests.support.desk import Desk


def test_read_given_back_does_not_see_writes_sent_after_it() -> None:
    """A read whose leadership was lost is not executed behind a write that its connection sent after it."""
    desk = Desk()
    desk.lead()
    client = desk.client()
    client.send("get a", "set a 1")
    desk.now += 1.0
    desk.raft.timeout(desk.now_ms)
    assert desk.raft.role is Role.FOLLOWER, "no majority answered"
    desk.dispatcher.leadership_changed()
    desk.turn()
    desk.lead()
    for _ in range(3):
        desk.acknowledge()

    assert client.replies == [b"-TRYAGAIN leadership changed; the read was not executed\r\n", b"+OK\r\n"]


def test_read_given_back_to_an_idle_connection_is_executed() -> None:
    """A read that no write of its connection follows is held, and executed once there is a leader."""
    desk = Desk()
    desk.lead()
    client = desk.client()
    client.send("get a")
    desk.now += 1.0
    desk.raft.timeout(desk.now_ms)
    desk.dispatcher.leadership_changed()
    desk.turn()
    assert client.replies == [None]
    desk.lead()
    for _ in range(3):
        desk.acknowledge()

    assert client.replies == [b"$-1\r\n"]
