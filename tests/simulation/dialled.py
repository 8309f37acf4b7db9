"""Links that are dialled, accepted or refused, for worlds in which members come and go.

What server/peers.py, dialling.py and hearing.py do with sockets: a node dials those whom its members name, and is heard
by those whose members name it. Who was removed is told so where it dials. A link that is down is dialled again.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import Identity, Member, NodeId
from durable_raft.server.dialling import REDIAL_MAX_S, REDIAL_MIN_S
from durable_raft.server.peers import LinkEvents
from durable_raft.wire.peer import NodeMessage
from tests.simulation.parts import SimLink, SimLinks

if TYPE_CHECKING:
    from tests.simulation.process import Process

SECOND_US: Final = 1_000_000


class Answer(enum.Enum):
    """What becomes of a dial."""

    NOBODY = enum.auto()
    STRANGER = enum.auto()
    REMOVED = enum.auto()
    REFUSED_AS_REPLACED = enum.auto()
    REPLACED = enum.auto()
    TOO_OLD = enum.auto()
    ACCEPTED = enum.auto()


class DialledLink(SimLink):
    """One node's link to another; down until it was accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.is_up = False
        self.pause_s = REDIAL_MIN_S
        self.dials = 0
        """Number of the newest dial: what came of earlier ones counts no more."""


class DialledLinks(SimLinks):
    """``server.peers.Links`` to the simulated network, of a node whose members may change."""

    def __init__(self, process: Process, identity: Identity, members: Sequence[Member], events: LinkEvents) -> None:
        super().__init__(process, identity, (), events)
        self.was_removed, self.joined = events.was_removed, events.joined
        self._ways: dict[NodeId, DialledLink] = {}
        self._is_started = False
        self._rng = random.Random(process.world.rng_of(f"dials of {self._name} {process.site.lives}"))
        self.follow(members)

    async def start(self, host: str, port: int) -> None:
        """Dial everybody."""
        del host, port
        self._is_started = True
        for peer in list(self._ways):
            self._dial(peer)

    def hears(self, source: NodeId) -> bool:
        """Return whether this node hears ``source``."""
        return source in self._ways

    def follow(self, members: Sequence[Member]) -> None:
        """Dial and hear ``members`` from now on, and nobody else."""
        others = [member.node_id for member in members if member.node_id != self._name]
        for peer in [peer for peer in self._ways if peer not in others]:
            del self._ways[peer], self.links[peer]
            self._end_hearing(peer)
        for peer in others:
            if peer not in self._ways:
                self.links[peer] = self._ways[peer] = DialledLink()
                if self._is_started:
                    self._dial(peer)

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Judge and send."""
        for target, message in envelopes:
            self._process.world.rules.message_leaves(self._name, target, message)
            self.tell(target, message)

    def tell(self, target: NodeId, message: NodeMessage) -> None:
        """Send; what is for nobody, or for somebody whose link is down, is dropped."""
        link = self._ways.get(target)
        if link is not None and link.is_up:
            self._process.world.network.send(self._name, target, message)

    def link_changed(self, peer: NodeId, *, is_up: bool) -> None:
        """Note that ``peer`` came or went: who comes dials as well, and is dialled at once."""
        link = self._ways.get(peer)
        if not is_up:
            self.versions.pop(peer, None)
        if link is None:
            return
        if link.is_up:
            link.is_up = False
            self._changed()
        if is_up or not link.dials:
            link.pause_s = REDIAL_MIN_S
            self._dial(peer)
        else:
            self._dial_again(peer, link)

    # -- the other end --------------------------------------------------------------------------------------------

    def _delay(self) -> int:
        low, high = self._process.world.swarm.link_delay
        return low + int(self._rng.random() * (high - low))

    def _dial(self, peer: NodeId) -> None:
        link, world = self._ways.get(peer), self._process.world
        if link is not None and not link.is_up:
            link.dials += 1
            world.at(world.now + self._delay(), None, self._knock, peer, link, link.dials)

    def _knock(self, peer: NodeId, link: DialledLink, dial: int) -> None:
        """Arrive at the other end."""
        world, process = self._process.world, self._process
        if process.is_alive and self._ways.get(peer) is link and link.dials == dial:
            world.at(world.now + self._delay(), process, self._answered, peer, link, dial, self._ask(peer))

    def _ask(self, peer: NodeId) -> Answer:
        world = self._process.world
        other = world.sites[peer].process
        if other is None or other.is_paused or not world.network.can_meet(self._name, peer):
            return Answer.NOBODY
        ends = other.platform.network
        assert isinstance(ends, DialledLinks)
        if not ends.hears(self._name):
            return Answer.REMOVED if ends.was_removed(self._name) else Answer.STRANGER
        if ends.was_replaced(self._name, self._process.site.disk.node_uuid):
            return Answer.REFUSED_AS_REPLACED
        versions = self._process.platform.versions
        if not ends.can_be_heard(versions):
            self.refuse(self._process.site)
            return Answer.TOO_OLD
        is_replaced = self.was_replaced(peer, other.site.disk.node_uuid)
        if not is_replaced:
            ends.versions[self._name] = versions
            ends.joined(self._name)
        return Answer.REPLACED if is_replaced else Answer.ACCEPTED

    def _answered(self, peer: NodeId, link: DialledLink, dial: int, answer: Answer) -> None:
        if self._ways.get(peer) is not link or link.dials != dial or link.is_up:
            return
        link.is_refused_as_removed = answer is Answer.REMOVED
        link.is_refused_as_replaced = answer is Answer.REFUSED_AS_REPLACED
        link.is_replaced = answer is Answer.REPLACED
        if answer is Answer.REMOVED:
            self._process.world.counts["told that it was removed"] += 1
        if answer is Answer.ACCEPTED and self._process.world.sites[peer].process is not None:
            link.is_up, link.pause_s = True, REDIAL_MIN_S
            link.priority = self._process.world.sites[peer].config.election_priority
            self._changed()
        else:
            if answer is Answer.REMOVED:
                self._changed()
            self._dial_again(peer, link)

    def _dial_again(self, peer: NodeId, link: DialledLink) -> None:
        world = self._process.world
        pause = link.pause_s * self._rng.uniform(0.5, 1.0)
        link.pause_s = min(link.pause_s * 2, REDIAL_MAX_S)
        link.dials += 1
        world.at(world.now + int(pause * SECOND_US), self._process, self._redial, peer, link, link.dials)

    def _redial(self, peer: NodeId, link: DialledLink, dial: int) -> None:
        if self._ways.get(peer) is link and link.dials == dial:
            self._dial(peer)

    def _end_hearing(self, peer: NodeId) -> None:
        """End the link of ``peer``, which hears of it a little later."""
        world = self._process.world
        other = world.sites[peer].process if peer in world.sites else None
        if other is not None and isinstance(other.platform.network, DialledLinks):
            world.at(world.now + self._delay(), other, other.platform.network.ended, self._name)

    def ended(self, peer: NodeId) -> None:
        """Note that ``peer`` hears this node no more."""
        link = self._ways.get(peer)
        if link is not None and link.is_up:
            link.is_up = False
            self._changed()
            self._dial_again(peer, link)
