"""A connection's commands are executed in its order, also when leadership is lost and won again between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.desk import Desk, desk_at


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower that knows no leader."""
    with desk_at(tmp_path / "n1") as made:
        yield made


def test_read_given_back_does_not_see_writes_sent_after_it(desk: Desk) -> None:
    """A read whose leadership was lost is not executed behind a write that its connection sent after it."""
    desk.lead()
    client = desk.client()
    client.send("get a", "set a 1")
    desk.lose_quorum()
    desk.lead()
    for _ in range(3):
        desk.acknowledge()

    assert client.replies == [b"-TRYAGAIN leadership changed; the read was not executed\r\n", b"+OK\r\n"]


def test_read_given_back_to_an_idle_connection_is_executed(desk: Desk) -> None:
    """A read that no write of its connection follows is held, and executed once there is a leader."""
    desk.lead()
    client = desk.client()
    client.send("get a")
    desk.lose_quorum()
    assert client.replies == [None]
    desk.lead()
    for _ in range(3):
        desk.acknowledge()

    assert client.replies == [b"$-1\r\n"]
