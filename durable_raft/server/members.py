"""Who is reached, and where: links, clients' directions and reports follow the core's configuration (Raft §6).

Addresses are part of the configuration. Links go to the members of every configuration that may count: the newest, and
those before it until it is committed. So a new member is dialled from the moment at which its configuration is
appended. Who is no member any more is reached until that is committed: then it was told (raft/membership.py), or waited
for. When a configuration is cut, the links of the one before it are still there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from durable_raft.addresses import parse_address
from durable_raft.errors import ConfigError
from durable_raft.raft.core import Raft
from durable_raft.raft.types import Configuration, Member, NodeId
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.peers import Links
from durable_raft.server.settings.config import NodeConfig

NOWHERE: Final = "unusable.invalid:1"
"""In place of an address that is none: no correct node proposes one, and a leader that lies must end nobody."""


class Members:
    """The members of one node's cluster, as that node knows them."""

    def __init__(self, raft: Raft, config: NodeConfig) -> None:
        """Begin with the core's configuration, and with what the operator says of addresses."""
        self._raft = raft
        self._own = config.self_member
        moved = config.membership.voters if config.accept_new_addresses else ()
        self._moved = {member.node_id: member for member in moved}
        """Addresses in place of those of the present configuration; they hold until there is another one."""
        self._moved_at = raft.configuration.index
        self._followed: tuple[Configuration, bool] | None = None
        """What the links go by: the newest configuration, and whether it is committed."""

    @property
    def configuration(self) -> Configuration:
        """The newest configuration, with the addresses at which members are reached."""
        return self._reached(self._raft.configuration)

    @property
    def myself(self) -> Member:
        """This node, with the addresses at which others reach it."""
        return next((each for each in self.configuration.members if each.node_id == self._own.node_id), self._own)

    def reached(self) -> tuple[Member, ...]:
        """Return every node that is dialled and heard, this one included, by id; the newest address of each."""
        found: dict[NodeId, Member] = {}
        for configuration in self._raft.possible_configurations():
            found |= {member.node_id: member for member in self._reached(configuration).members}
        return tuple(found[node_id] for node_id in sorted(found))

    def follow(self, links: Links, dispatcher: Dispatcher) -> None:
        """Have links and clients' directions follow the configuration, if it is another than before."""
        configuration, is_committed = self._raft.configuration, self._raft.is_configuration_committed
        followed = self._followed
        if followed is not None and followed[0] is configuration and followed[1] == is_committed:
            return
        self._followed = (configuration, is_committed)
        members = self.reached()
        links.follow(members)
        dispatcher.use_members(members)

    def _reached(self, configuration: Configuration) -> Configuration:
        members: Iterable[Member] = configuration.members
        if self._moved and configuration.index <= self._moved_at:
            members = [self._moved.get(each.node_id, each) for each in members]
        return replace(configuration, members=tuple(map(_usable, members)))


def _usable(member: Member) -> Member:
    """Return ``member`` with addresses that can be read."""
    return Member(member.node_id, _usable_address(member.client_address), _usable_address(member.peer_address))


def _usable_address(text: str) -> str:
    try:
        return str(parse_address("address", text))
    except ConfigError:
        return NOWHERE
