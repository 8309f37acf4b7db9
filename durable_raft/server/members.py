"""Who is reached, and where: links, clients' directions and reports follow the core's configuration (Raft §6).

Addresses are part of the configuration. Links go to the members of every configuration that may count: the newest, and
those before it until it is committed. So a new member is dialled from the moment at which its configuration is
appended. Who is no member any more is reached until that is committed: then it was told (raft/membership.py), or waited
for. When a configuration is cut, the links of the one before it are still there.

A node whose log is behind must hear a leader that is in none of its configurations, and may know nobody else any more.
So the nodes tell each other their newest configuration (``TellMembers``), once there is an entry of one. Who is told of
is reached, too, until the own log is as far, or who told goes by another one: the entry may be cut, or the power have
taken it. A node that is to join begins with what the cluster told it when it asked.

A node that was removed is told so by whoever knows it, when it dials. It stops when its own log says that it goes, or
when a majority of the other voters that it knows say so: one node that lies must not stop another. Who has no members
yet asks those whom it was told of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from durable_raft.addresses import parse_address
from durable_raft.errors import ConfigError, MalformedConfiguration, PeerMisbehaved
from durable_raft.raft.configuration import decode, encode
from durable_raft.raft.core import Raft
from durable_raft.raft.quorum import is_majority
from durable_raft.raft.types import Configuration, Index, Member, NodeId
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.peers import Link, Links
from durable_raft.server.settings.config import NodeConfig
from durable_raft.wire.messages import TellMembers

FAREWELL_LOOKS: Final = 8
"""Of the node's housekeeping, some seconds."""
NOWHERE: Final = "unusable.invalid:1"
"""In place of an address that is none: no correct node proposes one, and a leader that lies must end nobody."""


class Members:
    """The members of one node's cluster, as that node knows them."""

    def __init__(self, raft: Raft, config: NodeConfig, cluster_id: bytes) -> None:
        """Begin with the core's configuration, and with what the operator says of addresses.

        Args:
            raft: the core.
            config: of the node; what it was told by a node of another cluster than ``cluster_id`` counts for nothing.
            cluster_id: of the directory.
        """
        self._raft = raft
        self._own = config.self_member
        moved = config.membership.voters if config.accept_new_addresses else ()
        self._moved = {member.node_id: member for member in moved}
        """Addresses in place of those of the present configuration; they hold until there is another one."""
        self._moved_at = raft.configuration.index
        self._told: dict[NodeId, tuple[Index, tuple[Member, ...]]] = {}
        """What others said last, by who said it: of which index, and who its members are."""
        self._has_told = False
        """Whether this node ever told others of an entry. It may be cut, and then they must hear that, too."""
        if config.seeds.members and config.seeds.cluster_id == cluster_id:
            self._told[self._own.node_id] = (
                config.seeds.configuration_index,
                tuple(map(_usable, config.seeds.members)),
            )
        self._came = self._farewell_looks = 0
        """Commands that had come for another node when it was looked last; and looks since this one was removed."""
        self._shown: tuple[Configuration, Configuration] | None = None
        """The newest configuration, and the same with the addresses at which members are reached."""
        self._followed: tuple[Configuration, bool] | None = None
        """What the links go by: the newest configuration, and whether it is committed."""

    @property
    def configuration(self) -> Configuration:
        """The newest configuration, with the addresses at which members are reached."""
        newest = self._raft.configuration
        if self._shown is None or self._shown[0] is not newest:
            self._shown = (newest, self._reached(newest))
        return self._shown[1]

    @property
    def myself(self) -> Member:
        """This node, with the addresses at which others reach it."""
        return next((each for each in self.configuration.members if each.node_id == self._own.node_id), self._own)

    def reached(self) -> tuple[Member, ...]:
        """Return every node that is dialled and heard, this one included, by id; the newest address of each."""
        found: dict[NodeId, Member] = {}
        for configuration in self._raft.possible_configurations():
            found |= {member.node_id: member for member in self._reached(configuration).members}
        for _, members in sorted(self._told.values(), key=lambda told: told[0]):
            found |= {member.node_id: member for member in members}
        return tuple(found[node_id] for node_id in sorted(found))

    def _reached(self, configuration: Configuration) -> Configuration:
        members: Iterable[Member] = configuration.members
        if self._moved and configuration.index <= self._moved_at:
            members = [self._moved.get(each.node_id, each) for each in members]
        return replace(configuration, members=tuple(map(_usable, members)))

    def follow(self, links: Links, dispatcher: Dispatcher) -> None:
        """Have links and clients' directions follow the configuration, if it is another than before."""
        configuration, is_committed = self._raft.configuration, self._raft.is_configuration_committed
        followed = self._followed
        if followed is not None and followed[0] is configuration and followed[1] == is_committed:
            return
        self._followed = (configuration, is_committed)
        if configuration.members:
            # Before there is an entry, index 0 may be that of those who were told of as well.
            self._told = {who: told for who, told in self._told.items() if told[0] > configuration.index}
        members = self.reached()
        links.follow(members)
        dispatcher.use_members(members)
        self.tell(links)

    # -- what nodes tell each other -------------------------------------------------------------------------------

    def forget(self, now: int, source: NodeId) -> None:
        """Forget at ``now`` (ms) what ``source`` said over an earlier link: it says again what it goes by, if anything.

        Not when that link breaks: what a node said that is down may be all that leads to the leader.
        """
        self._note(now, source, None)

    def tell(self, links: Links) -> None:
        """Tell everybody who the members are, once they were changed."""
        configuration = self._raft.configuration
        if configuration.index or self._has_told:
            self._has_told = True
            message = TellMembers(configuration.index, encode(configuration))
            for peer in links.links:
                links.tell(peer, message)

    def heard(self, now: int, source: NodeId, message: TellMembers) -> None:
        """Note at ``now`` (ms) what ``source`` says, if it is newer than what this node knows.

        Raises:
            PeerMisbehaved: that is no configuration.
        """
        try:
            told = decode(message.configuration_index, message.payload)
        except MalformedConfiguration as error:
            raise PeerMisbehaved(str(error)) from error
        self._note(now, source, told if told.index > self._raft.configuration.index else None)

    def _note(self, now: int, source: NodeId, told: Configuration | None) -> None:
        known = self._told.pop(source, None)
        if told is not None:
            self._told[source] = (told.index, tuple(map(_usable, told.members)))
        self._raft.hear_members(now, source, told)
        if known != self._told.get(source):
            self._followed = None

    # -- removed nodes --------------------------------------------------------------------------------------------

    def was_removed(self, node_id: NodeId) -> bool:
        """Return whether ``node_id`` is known to have been removed for good."""
        committed = self._raft.possible_configurations()[0]
        return node_id in committed.former

    def has_left(self, links: Mapping[NodeId, Link], dispatcher: Dispatcher) -> bool:
        """Return whether this node was removed and may end: all clients are told that another leads.

        Asked again and again. While clients come they are sent to the leader, ``FAREWELL_LOOKS`` times at most; when
        none came since it was last asked, what waits is answered.
        """
        came, self._came = dispatcher.counters.elsewhere - self._came, dispatcher.counters.elsewhere
        if not self.is_removed(links):
            self._farewell_looks = 0
            return False
        self._farewell_looks += 1
        if came and self._farewell_looks < FAREWELL_LOOKS:
            return False
        dispatcher.answer_finally()
        return True

    def is_removed(self, links: Mapping[NodeId, Link]) -> bool:
        """Return whether this node was removed, as far as others can be believed."""
        said = {peer for peer, link in links.items() if link.is_refused_as_removed}
        if not said:
            return False
        own, configuration = self._own.node_id, self._raft.configuration
        if own in configuration.leaving or own in configuration.former:
            return True
        # A log that does not name this node may be behind: who comes is not who went.
        known = (*configuration.voters, *configuration.outgoing)
        if not known:
            known = tuple(member.node_id for member in self.reached())
        return is_majority({voter for voter in known if voter != own}, said)


def _usable(member: Member) -> Member:
    """Return ``member`` with addresses that can be read."""
    return Member(member.node_id, _usable_address(member.client_address), _usable_address(member.peer_address))


def _usable_address(text: str) -> str:
    try:
        return str(parse_address("address", text))
    except ConfigError:
        return NOWHERE
