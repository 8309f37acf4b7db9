"""cli/member.py without a cluster: what is said of a change whose leader is gone, or that another operator overtook."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from durable_raft.addresses import parse_member
from durable_raft.cli import member
from durable_raft.cli.member import ChangeLost, _Operator, _require_addresses
from durable_raft.cli.membership import Listing, MemberRow
from durable_raft.cli.resp_client import Value

BEGUN: dict[str, Value] = {"index": 9, "voters": [b"n1", b"n2"], "learners": [b"n4"]}


def listing(index: int, voters: str, learners: str = "", state: str = "stable") -> Listing:
    """Return what a leader says."""
    parts = [*((name, "voter") for name in voters.split()), *((name, "learner") for name in learners.split())]
    rows = tuple(MemberRow(name, part, "", "", None, True, None) for name, part in parts)
    return Listing("", index, state, True, "n1", 2, rows, ())


class Told(_Operator):
    """An operator to whom leaders say one thing after the other, and the last for ever."""

    def __init__(self, *listings: Listing) -> None:
        # Nobody is connected to: what leaders say is played.
        self._deadline, self._said = time.monotonic() + 60.0, ""
        self._listings = self._next(listings)

    @staticmethod
    def _next(listings: tuple[Listing, ...]) -> Iterator[Listing]:
        yield from listings
        while True:
            yield listings[-1]

    def leaders_listing(self) -> Listing:
        """Return the next."""
        return next(self._listings)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LOST_S", 0.2)
    monkeypatch.setattr(member, "PAUSE_S", 0.001)


def test_a_change_is_followed_through_its_stages() -> None:
    """To the configuration that it comes to."""
    last = listing(11, "n1 n2", "n4")
    assert Told(listing(9, "n1 n2", state="joint"), last).follow(BEGUN) is last


def test_a_deposed_leader_does_not_make_a_change_lost() -> None:
    """It answers until it knows that it was deposed; its configuration is older."""
    last = listing(11, "n1 n2", "n4")
    assert Told(listing(3, "n1 n2 n3"), listing(3, "n1 n2 n3"), last).follow(BEGUN) is last


def test_a_change_that_nobody_knows_is_lost() -> None:
    """Its leader was lost before anybody else held it."""
    with pytest.raises(ChangeLost, match="nothing has changed"):
        Told(listing(3, "n1 n2 n3")).follow(BEGUN)


@pytest.mark.parametrize("other", [("n1 n2 n3", ""), ("n1 n2", ""), ("n1 n2 n4", ""), ("n1 n2 n3", "n4")])
def test_another_change_in_its_place_is_not_taken_for_it(other: tuple[str, str]) -> None:
    """Its index is as high, and it is complete; it was begun by somebody else."""
    with pytest.raises(ChangeLost, match="another change"):
        Told(listing(12, *other)).follow(BEGUN)


def test_an_address_that_another_change_took_is_not_the_one_that_was_asked_for() -> None:
    """The voters are the same: a move is told from another by where the node is."""
    asked = parse_member("n1=h:1@2")
    row = MemberRow("n1", "voter", "h:1", "h:2", None, True, None)
    found = replace(listing(12, "n2"), members=(row,))
    _require_addresses(asked, found)
    for other in (replace(found, members=()), replace(found, members=(replace(row, peer="h:3"),))):
        with pytest.raises(ChangeLost, match="n1 is"):
            _require_addresses(asked, other)
