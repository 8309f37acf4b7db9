"""What becomes of commands while leadership is handed over: they are held, and none fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.desk import N2, N3, Desk, desk_at


@pytest.fixture
def leading(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, leading."""
    with desk_at(tmp_path / "n1") as desk:
        desk.lead()
        yield desk


def test_writes_wait_while_leadership_is_handed_over(leading: Desk) -> None:
    """Reads are answered, and nothing fails: the transfer was given up, so this node goes on."""
    client, reader = leading.client(), leading.client()
    leading.acknowledge(N3)
    leading.node.transfer(N3)
    client.send("set a 1")
    reader.send("get a")
    leading.turn()
    leading.acknowledge()
    assert (client.replies, reader.replies) == ([None], [b"$-1\r\n"])
    assert leading.proposed == []
    while leading.raft.is_transferring:
        leading.wait(0.01)
        leading.acknowledge()
    leading.wait(0.1)
    leading.acknowledge()
    assert client.replies == [b"+OK\r\n"]


def test_writes_that_waited_for_a_transfer_go_to_the_new_leader(leading: Desk) -> None:
    """They were not proposed here, so it takes them as if they had just come."""
    client = leading.client()
    leading.acknowledge(N3)
    leading.node.transfer(N3)
    client.send("set a 1")
    leading.turn()
    assert client.replies == [None]
    leading.follow(N3)
    assert client.replies == [b"-MOVED 15495 127.0.0.1:7003\r\n"]
    assert leading.proposed == []


def test_no_key_expires_while_leadership_is_handed_over(leading: Desk) -> None:
    """An entry for it would keep the other node's log behind; and the loop does not spin for it."""
    client = leading.client()
    client.send("set a 1 px 20")
    leading.acknowledge()
    leading.acknowledge(N3)
    count = len(leading.proposed)
    leading.node.transfer(N3)
    leading.wait(0.05)
    assert leading.raft.is_transferring
    assert len(leading.proposed) == count
    while leading.raft.is_transferring:
        leading.wait(0.01)
        leading.acknowledge()
    leading.wait(0.1)
    assert len(leading.proposed) == count + 1


def give_up(leading: Desk) -> None:
    """Let time pass until the other node has not taken over."""
    while leading.raft.is_transferring:
        leading.wait(0.01)
        leading.acknowledge()
        leading.acknowledge(N3)


def test_a_leader_that_stops_asks_another_when_the_first_does_not_take_over(leading: Desk) -> None:
    """The first may be stopping as well; and nobody is asked twice, or the stop would have no end."""
    leading.acknowledge()
    leading.acknowledge(N3)
    first = leading.node.hand_over(())
    assert first in (N2, N3)
    assert leading.node.hand_over(()) == first, "it is under way"
    give_up(leading)
    second = N2 if first == N3 else N3
    assert leading.node.hand_over([first]) == second
    give_up(leading)
    assert leading.node.hand_over([first, second]) is None
    assert not leading.raft.is_transferring


def test_who_does_not_lead_has_nothing_to_hand_over(leading: Desk) -> None:
    """Nobody is asked to lead by it."""
    leading.follow(N3)
    assert leading.node.hand_over(()) is None
