"""The network between nodes: delay, loss, duplicates, overtaking, cuts in one or both directions, slow links.

Entries may take their time, as long as they are large; small messages pass them, as server/link_queue.py has it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from durable_raft.raft.messages import AppendEntries, stands_on
from durable_raft.raft.types import NodeId
from durable_raft.wire.messages import (
    AskTime,
    FetchSnapshot,
    NodeMessage,
    SnapshotChunk,
    StateHash,
    TellMembers,
    TellTime,
)
from tests.support.raft_trace import message_words

if TYPE_CHECKING:
    from tests.simulation.world import World


class Wire:
    """One direction between two nodes."""

    __slots__ = ("bulks", "factor", "is_cut", "last_arrival")

    def __init__(self) -> None:
        self.is_cut = False
        self.factor = 1
        """How many times slower than usual."""
        self.last_arrival = 0
        self.bulks: list[tuple[int, AppendEntries]] = []
        """(arrival, message) of the entries that others pass; ascending."""


class Network:
    """All wires of one cluster."""

    def __init__(self, world: World) -> None:
        self._world = world
        swarm = world.swarm
        self._random = random.Random(world.rng_of("network")).random
        low, high = swarm.link_delay
        self._low, self._spread = low, high - low
        self._loss, self._duplicate, self._reorder = swarm.loss, swarm.duplicate, swarm.reorder
        self._bulk_delay = swarm.bulk_delay
        """Microseconds that each byte of an entry takes; 0: entries travel as other messages do."""
        self.wires = {(a, b): Wire() for a in world.names for b in world.names if a != b}

    def connect(self, name: NodeId) -> None:
        """Lay wires between ``name``, which is new, and all others."""
        others = dict.fromkeys(name for wire in self.wires for name in wire) or dict.fromkeys(self._world.names)
        for other in others:
            if other != name:
                self.wires[name, other], self.wires[other, name] = Wire(), Wire()

    def can_meet(self, a: NodeId, b: NodeId) -> bool:
        """Return whether messages pass between two nodes, both ways."""
        return not self.wires[a, b].is_cut and not self.wires[b, a].is_cut

    def send(self, source: NodeId, target: NodeId, message: NodeMessage) -> None:
        """Carry a message, or not."""
        world = self._world
        wire = self.wires[source, target]
        world.messages += 1
        if wire.is_cut:
            world.counts["message cut off"] += 1
            return
        chance = self._random
        if self._loss and chance() < self._loss:
            world.faults["loss"] += 1
            if world.is_traced:
                world.say(f"{source} -> {target}  lost: {_words(message)}")
            return
        self._carry(wire, source, target, message)
        if self._duplicate and chance() < self._duplicate:
            world.faults["duplicate"] += 1
            self._carry(wire, source, target, message)

    def _carry(self, wire: Wire, source: NodeId, target: NodeId, message: NodeMessage) -> None:
        world = self._world
        arrival = world.now + (self._low + int(self._random() * self._spread)) * wire.factor
        if self._reorder and self._random() < self._reorder:
            world.faults["reorder"] += 1
            arrival += int(self._random() * 10 * self._spread)
        elif self._bulk_delay:
            arrival = self._in_turn(wire, message, arrival)
        else:
            arrival = max(arrival, wire.last_arrival)
            wire.last_arrival = arrival
        node_uuid = world.sites[source].disk.node_uuid
        world.at(arrival, None, self._arrive, wire, source, node_uuid, target, message)

    def _in_turn(self, wire: Wire, message: NodeMessage, arrival: int) -> int:
        """Return when ``message`` arrives on a wire on which small messages pass large ones."""
        world = self._world
        wire.bulks = [(at, bulk) for at, bulk in wire.bulks if at > world.now]
        size = sum(len(entry.payload) for entry in message.entries) if isinstance(message, AppendEntries) else 0
        if size:
            arrival += size * self._bulk_delay
        if size or any(stands_on(message, bulk) for _, bulk in wire.bulks):
            arrival = max(arrival, wire.last_arrival, *(at for at, _ in wire.bulks))
            if isinstance(message, AppendEntries):
                wire.bulks.append((arrival, message))
            return arrival
        if wire.bulks:
            world.counts["entries passed"] += 1
        wire.last_arrival = max(arrival, wire.last_arrival)
        return wire.last_arrival

    def _arrive(self, wire: Wire, source: NodeId, node_uuid: bytes, target: NodeId, message: NodeMessage) -> None:
        world = self._world
        process = world.sites[target].process
        if process is None or wire.is_cut:
            return
        if process.platform.network.was_replaced(source, node_uuid):
            world.counts["message of a replaced disk"] += 1
            return
        if not process.platform.network.hears(source):
            world.counts["message of a stranger"] += 1
            return
        if world.upgrades is not None and not world.upgrades.takes(process.site, message):
            return
        if world.is_traced:
            world.say(f"{source} -> {target}  {_words(message)}")
        process.receive(source, message)

    def heal(self) -> None:
        """Join and speed up every wire; nothing is lost, doubled or overtaken from now on.

        Entries take no longer than other messages: a wire that carries less than clients write heals nobody.
        """
        self.join()
        self._loss = self._duplicate = self._reorder = 0.0
        self._bulk_delay = 0
        for wire in self.wires.values():
            wire.factor = 1

    def join(self) -> None:
        """End every cut."""
        for wire in self.wires.values():
            wire.is_cut = False

    def split(self, group: list[NodeId]) -> None:
        """Cut ``group`` off from the others, both ways."""
        for (a, b), wire in self.wires.items():
            if (a in group) != (b in group):
                wire.is_cut = True


def _words(message: NodeMessage) -> str:
    if isinstance(message, FetchSnapshot):
        return f"FetchSnapshot {message.last_included_index} behind {message.after_key if message.has_key else None!r}"
    if isinstance(message, SnapshotChunk):
        return f"SnapshotChunk of {message.last_included_index}: {message.keys}"
    if isinstance(message, StateHash):
        return f"StateHash at {message.applied_index}"
    if isinstance(message, AskTime):
        return "What time is it?"
    if isinstance(message, TellTime):
        return f"My clock shows {message.time_of_day_ms}, the cluster time is {message.cluster_time_ms}"
    if isinstance(message, TellMembers):
        return f"The members are those of entry {message.configuration_index}"
    return message_words(message)
