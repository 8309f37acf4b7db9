"""Links whose ends prove a cluster secret, over real sockets: who is linked, who is refused, and how that is said."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from durable_raft.raft.messages import AppendEntries
from durable_raft.raft.types import ORIGIN, EntryKind, Identity, Index, NodeId, Term, make_entry
from durable_raft.server import peers as peers_module
from durable_raft.server.budget import Share
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.half_sent import HalfSent
from durable_raft.server.peers import LinkEvents, Peers
from durable_raft.wire.peer import NodeMessage
from tests.support.peer_house import CLUSTER_ID, MESSAGE, House, in_a_house

A = "secret A of a cluster, which is long enough"
B = "secret B of a cluster, which is long enough"
OTHER_CLUSTER = b"x" * 16

N1, N2 = NodeId("n1"), NodeId("n2")


class Secrets:
    """Makes the secrets of nodes, each with a file of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, name: str, what: str) -> ClusterSecrets:
        """Return the secrets of a node: ``""`` none, else its lines by letter, with a ``?`` where they are optional."""
        if not what:
            return ClusterSecrets()
        self.write(name, what.rstrip("?"))
        return ClusterSecrets(self._directory / name, is_optional=what.endswith("?"))

    def write(self, name: str, lines: str) -> None:
        """Write the file of a node."""
        made = self._directory / f"{name}.new"
        made.write_text("".join(f"{ {'A': A, 'B': B}[letter] }\n" for letter in lines))
        made.chmod(0o600)
        made.replace(self._directory / name)


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """Return what makes secrets."""
    return Secrets(tmp_path)


class Neighbour:
    """The node n2, with links of its own."""

    def __init__(self, house: House, secrets: ClusterSecrets, cluster_id: bytes = CLUSTER_ID) -> None:
        self.heard: list[NodeMessage] = []
        self._port = house.port_of_n2
        events = LinkEvents(
            receive=lambda _, message: self.heard.append(message),
            changed=lambda: None,
            joined=lambda _: None,
            was_replaced=lambda _, __: False,
            was_removed=lambda _: False,
            cluster_version=lambda: 1,
            failed=house.failures.append,
            half_sent=HalfSent(Share("peers", 64 << 20), 0.3, time.monotonic),
        )
        self.peers = Peers(Identity(cluster_id, N2, b"2" * 16), house.members, random.Random(2), events, secrets)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen and dial."""
        await self.peers.start("127.0.0.1", self._port)
        try:
            yield
        finally:
            self.peers.close()
            while self.peers.accepted:
                await asyncio.sleep(0.001)


def are_linked(house: House, neighbour: Neighbour) -> bool:
    """Return whether each hears the other."""
    return (
        house.peers.links[N2].is_up
        and neighbour.peers.links[N1].is_up
        and N2 in house.peers._proven
        and N1 in neighbour.peers._proven
    )


def proven(house: House, neighbour: Neighbour) -> set[bytes | None]:
    """Return what was proven on the links in both directions."""
    return {house.peers._proven[N2].secret, neighbour.peers._proven[N1].secret}


@pytest.mark.parametrize(
    ("of_n1", "of_n2", "expected"),
    [
        ("", "", {None}),
        ("A", "A", {A}),
        ("AB", "A", {A}),
        ("AB", "AB", {A}),
        ("BA", "AB", {A, B}),
        ("BA", "B", {B}),
        ("A?", "A", {A}),
        ("A?", "A?", {A}),
        ("A?", "", {None}),
        ("AB?", "", {None}),
    ],
)
def test_nodes_are_linked(secrets: Secrets, of_n1: str, of_n2: str, expected: set[str | None]) -> None:
    """By a proof wherever both have the secret, each by its first; without where neither must have one."""

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", of_n2))
        async with neighbour.running():
            while not are_linked(house, neighbour):
                await asyncio.sleep(0.001)
            assert proven(house, neighbour) == {secret and secret.encode() for secret in expected}
            for peers, target in ((house.peers, N2), (neighbour.peers, N1)):
                for _ in range(3):
                    peers.tell(target, MESSAGE)
            while len(house.heard) < 3 or len(neighbour.heard) < 3:
                await asyncio.sleep(0.001)
            assert (house.peers.refusals, neighbour.peers.refusals) == (0, 0)

    house = in_a_house(story, listens=False, secrets=secrets.of("n1", of_n1))
    assert house.failures == []


def reasons(records: list[Any], message: str) -> str:
    """Return the reasons of log lines of one kind."""
    return "\n".join(str(record.fields["reason"]) for record in records if record.message == message)


OTHER = "{} proves another cluster secret"
WITHOUT = "{0} has no cluster secret, and {1} asks for one: set cluster_secret_file of {0} to a copy of the file of {1}"


@pytest.mark.parametrize(
    ("of_n1", "of_n2", "by_n1", "by_n2"),
    [
        ("A", "B", OTHER.format(N2), OTHER.format(N1)),
        ("AB", "", WITHOUT.format(N2, N1), WITHOUT.format(N2, N1)),
        ("", "A", WITHOUT.format(N1, N2), WITHOUT.format(N1, N2)),
        ("A?", "B", OTHER.format(N2), OTHER.format(N1)),
        ("B?", "A?", OTHER.format(N2), OTHER.format(N1)),
    ],
)
def test_nodes_are_refused(secrets: Secrets, of_n1: str, of_n2: str, by_n1: str, by_n2: str) -> None:
    """Each refuses the other as soon as it is dialled, both say why in the same words, and neither hears the other."""

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", of_n2))
        async with neighbour.running():
            for peers, reason in ((house.peers, by_n1), (neighbour.peers, by_n2)):
                while f"127.0.0.1: Unproven: {reason}" not in peers.refused._said:
                    await asyncio.sleep(0.001)
            for link, reason in ((house.peers.links[N2], by_n2), (neighbour.peers.links[N1], by_n1)):
                while not link._last_complaint.endswith(f"refuses this node: {reason}"):
                    await asyncio.sleep(0.001)
                assert not link.is_up
            assert not house.peers._proven
            assert not neighbour.peers._proven

    house = in_a_house(story, listens=False, secrets=secrets.of("n1", of_n1))
    assert house.failures == []


def test_another_cluster_with_the_same_secret_is_refused(secrets: Secrets, caplog: pytest.LogCaptureFixture) -> None:
    """As without one: its frames name another cluster."""

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", "A"), OTHER_CLUSTER)
        async with neighbour.running():
            while "ForeignCluster" not in reasons(caplog.records, "peer_refused"):
                await asyncio.sleep(0.001)
            assert not house.peers._proven

    in_a_house(story, listens=False, secrets=secrets.of("n1", "A"))


def test_a_large_message_has_tags_on_all_its_pieces(secrets: Secrets) -> None:
    """On the loop of a real node; a small one passes it, and both are heard."""
    entry = make_entry(
        previous=ORIGIN, term=Term(1), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=b"large" * (2 << 20)
    )
    large = AppendEntries(Term(1), Index(0), Term(0), 0, (entry,), Index(0), 3)

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", "A"))
        async with neighbour.running():
            while not are_linked(house, neighbour):
                await asyncio.sleep(0.001)
            house.peers.tell(N2, large)
            house.peers.tell(N2, MESSAGE)
            while len(neighbour.heard) < 2:
                await asyncio.sleep(0.001)
            assert set(neighbour.heard) == {large, MESSAGE}
            assert neighbour.peers.refusals == 0

    in_a_house(story, listens=False, secrets=secrets.of("n1", "A"), loop=uvloop.new_event_loop)


# -- while nodes run --------------------------------------------------------------------------------------------------


def test_the_secret_is_changed_while_nodes_run(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step on one node, then on the other. A link that has ended is dialled again; nobody is ever refused."""
    monkeypatch.setattr(peers_module, "REFRESH_S", 0.005)

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", "A"))
        async with neighbour.running():
            while not are_linked(house, neighbour):
                await asyncio.sleep(0.001)
            for lines in ("AB", "BA", "B"):
                for name, peers in (("n1", house.peers), ("n2", neighbour.peers)):
                    secrets.write(name, lines)
                    wanted = tuple({"A": A, "B": B}[letter].encode() for letter in lines)
                    while peers.proofs.secrets.accepted != wanted:
                        await asyncio.sleep(0.001)
                    while not are_linked(house, neighbour):
                        await asyncio.sleep(0.001)
            while not are_linked(house, neighbour) or proven(house, neighbour) != {B.encode()}:
                await asyncio.sleep(0.001)
            assert (house.peers.refusals, neighbour.peers.refusals) == (0, 0)

    in_a_house(story, listens=False, secrets=secrets.of("n1", "A"))


def test_links_of_a_secret_that_is_gone_end(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the node that lost it, both those that it dialled and those on which it hears."""
    monkeypatch.setattr(peers_module, "REFRESH_S", 0.005)

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", "A"))
        async with neighbour.running():
            while not are_linked(house, neighbour):
                await asyncio.sleep(0.001)
            secrets.write("n1", "B")
            while house.peers.links[N2].is_up or house.peers._proven:
                await asyncio.sleep(0.001)
            while "n2 proves another cluster secret" not in str(house.peers.refused._said):
                await asyncio.sleep(0.001)
            assert not house.peers._proven
            secrets.write("n1", "A")
            while not are_linked(house, neighbour):
                await asyncio.sleep(0.001)

    in_a_house(story, listens=False, secrets=secrets.of("n1", "A"))


def test_a_wrong_file_ends_no_link(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node says what is wrong with it, until it is right again."""
    monkeypatch.setattr(peers_module, "REFRESH_S", 0.005)

    async def story(house: House) -> None:
        neighbour = Neighbour(house, secrets.of("n2", "A"))
        async with neighbour.running():
            while not are_linked(house, neighbour):
                await asyncio.sleep(0.001)
            before = house.peers._proven[N2]
            secrets.write("n1", "")
            while not house.peers.secret.problem:
                await asyncio.sleep(0.001)
            assert house.peers._proven[N2] is before
            secrets.write("n1", "AB")
            while house.peers.secret.problem:
                await asyncio.sleep(0.001)
            assert house.peers._proven[N2] is before

    in_a_house(story, listens=False, secrets=secrets.of("n1", "A"))
