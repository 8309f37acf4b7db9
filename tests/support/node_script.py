"""Scripts for one real node: what it does to its disk, its peers and its clients, in order (the form: raft_script.py).

Events are lines that begin with ``> ``, and the lines under them are what node n1 does because of them:

    lead | follow n2           n1 is elected by n2 | hears n2 as the leader of the next term
    trust                      n1's disk has been quick for so many flushes that lone writes stay on the event loop
    client a set k v           client a sends a command
    n2 accepts                 n2 has flushed all that n1 has, and says so
    n2 sends set k v           n2, which leads, sends n1 an entry with this command
    quietly EVENT              the event, without its trace
"""

from __future__ import annotations

from pathlib import Path

from durable_raft.raft.types import EntryKind, NodeId, make_entry
from durable_raft.server.persister import QUICK_FLUSHES
from tests.support.batches import batch_of
from tests.support.desk import Desk, desk_at
from tests.support.desk_client import Client
from tests.support.raft_script import played


def run_script(text: str, place: Path) -> str:
    """Run a script on a node at ``place`` and return it with what really happened under each event."""
    with desk_at(place) as desk:
        desk.effects.clear()
        return played(text, Script(desk).event)


class Script:
    """The state between two lines."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._clients: dict[str, Client] = {}

    def event(self, line: str) -> list[str]:
        """Do one event and return the trace it caused."""
        match line.split():
            case ["quietly", *words]:
                self.event(" ".join(words))
                return []
            case ["lead"]:
                self._desk.lead()
            case ["follow", leader]:
                self._desk.follow(NodeId(leader))
            case ["trust"]:
                self._trust()
            case ["client", name, *command]:
                self._client(name).send(" ".join(command))
            case [peer, "accepts"]:
                self._desk.acknowledge(NodeId(peer))
            case [leader, "sends", *command]:
                self._send(NodeId(leader), command)
            case _:
                raise ValueError("no such event")
        effects, self._desk.effects[:] = self._desk.effects[:], []
        return [f"    n1 {effect}" for effect in effects]

    def _client(self, name: str) -> Client:
        if name not in self._clients:
            self._clients[name] = self._desk.client()
        return self._clients[name]

    def _trust(self) -> None:
        for _ in range(QUICK_FLUSHES):
            self._client("nobody").send("set quick 1")
            self._desk.acknowledge()

    def _send(self, leader: NodeId, command: list[str]) -> None:
        raft = self._desk.raft
        payload = batch_of([[word.encode() for word in command]])
        entry = make_entry(
            previous=raft.log.last,
            term=raft.current_term,
            kind=EntryKind.COMMANDS,
            timestamp_ms=max(self._desk.time_of_day_ms, self._desk.raft.log.last_timestamp_ms),
            payload=payload,
        )
        self._desk.follow(leader, entry, term=raft.current_term)
