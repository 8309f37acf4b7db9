"""Addresses and the ``--cluster`` list: text from an operator becomes values here, or is refused with the reason.

::

    HOST:PORT                 10.0.0.1:7001   db1.example.org:7001   [::1]:7001
    ID=HOST:PORT[@PEER_PORT]  one node; entries are separated by commas

Redis writes an IPv6 address without brackets in MOVED and CLUSTER NODES (``::1:7001``); that form is here too.

Clients come to HOST:PORT, other nodes to HOST:PEER_PORT; without ``@`` the peer port is the client port + 10000, as in
Redis Cluster. Nothing is looked up in DNS: two names of one host count as two hosts.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from durable_raft.errors import ConfigError
from durable_raft.raft.types import Member, Membership, NodeId

PEER_PORT_OFFSET: Final = 10_000
"""Distance of the peer port from the client port when none is given (the Redis Cluster convention)."""

PORT_MAX: Final = 65_535

NAME_LENGTH_MAX: Final = 64
"""Node ids and cluster names are stamped into every peer frame and printed in tables; longer ones serve nobody."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
"""Labels that a resolver takes: one that is empty or longer raises ``UnicodeError`` where it is looked up."""


def refuse(setting: str, value: object, expected: str) -> NoReturn:
    """Raise the ConfigError for ``setting``: its value and what was expected of it."""
    raise ConfigError(f"{setting}={value!s}: expected {expected}")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port. Invariants: the host is lower case, an IPv6 address has no brackets, 1 <= port <= 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def in_redis_form(self) -> str:
        """Return ``HOST:PORT`` as Redis writes it in MOVED and CLUSTER NODES: an IPv6 address has no brackets."""
        return f"{self.host}:{self.port}"

    def is_wildcard(self) -> bool:
        """Return whether this listens on every interface, and so names no place anyone could connect to."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - recognised, not listened on


def parse_name(setting: str, text: str) -> str:
    """Return ``text`` as a node id or cluster name: 1 to 64 of letters, digits, ``-``, ``_`` and ``.``.

    Raises:
        ConfigError: it is anything else.
    """
    if not _NAME.fullmatch(text) or len(text) > NAME_LENGTH_MAX:
        refuse(setting, repr(text), f"1 to {NAME_LENGTH_MAX} letters, digits, '-', '_' or '.'")
    return text


def parse_address(setting: str, text: str) -> Address:
    """Parse ``HOST:PORT``; ``setting`` is named in errors.

    Raises:
        ConfigError: the host or port is missing, malformed or out of range.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host:
        refuse(setting, text, "HOST:PORT, for example 127.0.0.1:7001")
    return Address(_parse_host(setting, text, host), _parse_port(setting, text, port))


def parse_redis_address(source: str, text: str) -> Address:
    """Parse ``HOST:PORT`` in which an IPv6 address may stand without brackets; ``source`` is named in errors.

    Raises:
        ConfigError: as ``parse_address``.
    """
    host, _, port = text.strip().rpartition(":")
    return parse_address(source, f"[{host}]:{port}" if ":" in host and not host.startswith("[") else text)


def _parse_host(setting: str, text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return ipaddress.IPv6Address(host[1:-1]).compressed
        except ipaddress.AddressValueError:
            refuse(setting, text, "an IPv6 address between the brackets")
    if ":" in host:
        refuse(setting, text, "HOST:PORT with an IPv6 address in brackets, for example [::1]:7001")
    if not _HOST.fullmatch(host):
        refuse(setting, text, "a host of letters, digits, '-', '_' and '.', with 1 to 63 of them between two dots")
    return host.lower()


def _parse_port(setting: str, text: str, port: str) -> int:
    # Python reads no number of thousands of digits.
    is_number = port.isascii() and port.isdigit() and len(port) <= len(str(PORT_MAX))
    if not is_number or not 1 <= int(port) <= PORT_MAX:
        refuse(setting, text, f"a port from 1 to {PORT_MAX}, not {port!r}")
    return int(port)


def peer_address_of(setting: str, client: Address) -> Address:
    """Return the peer address that belongs to a client address when none is given: the same host, port + 10000.

    Raises:
        ConfigError: that port would be above 65535.
    """
    port = client.port + PEER_PORT_OFFSET
    if port > PORT_MAX:
        refuse(
            setting,
            client,
            f"a client port up to {PORT_MAX - PEER_PORT_OFFSET}, because the peer port is the client port + "
            f"{PEER_PORT_OFFSET} and {port} is none; give the peer port yourself "
            f"({client}@PEER_PORT, or --peer-listen)",
        )
    return Address(client.host, port)


def parse_member(text: str) -> Member:
    """Parse one ``ID=HOST:PORT[@PEER_PORT]``.

    Raises:
        ConfigError: any part is malformed, or the address is a wildcard.
    """
    node_id, equals, place = text.strip().partition("=")
    if not equals:
        refuse("cluster", text, "ID=HOST:PORT or ID=HOST:PORT@PEER_PORT, separated by commas")
    parse_name("cluster", node_id)
    client_text, at, peer_port = place.partition("@")
    client = parse_address("cluster", client_text)
    if client.is_wildcard():
        refuse("cluster", text, "an address that other machines can reach; a wildcard belongs into --listen")
    peer = Address(client.host, _parse_port("cluster", text, peer_port)) if at else peer_address_of("cluster", client)
    return Member(NodeId(node_id), str(client), str(peer))


def parse_cluster(text: str) -> Membership:
    """Parse the whole ``--cluster`` list into a membership sorted by node id.

    Raises:
        ConfigError: an entry is malformed, an id occurs twice, or an address does.
    """
    membership = Membership(
        tuple(sorted((parse_member(part) for part in text.split(",")), key=lambda member: member.node_id))
    )
    check_membership(membership)
    return membership


def format_cluster(membership: Membership) -> str:
    """Return the ``--cluster`` list that ``parse_cluster`` reads as ``membership``, every peer port written out."""
    return ",".join(
        f"{member.node_id}={member.client_address}@{parse_address('cluster', member.peer_address).port}"
        for member in membership.voters
    )


def check_membership(membership: Membership) -> None:
    """Check that no id and no address, client or peer, occurs twice.

    Raises:
        ConfigError: the first one that does.
    """
    if not membership.voters:
        refuse("cluster", "", "at least one node")
    ids: set[NodeId] = set()
    owners: dict[str, str] = {}
    for member in membership.voters:
        if member.node_id in ids:
            refuse("cluster", member.node_id, "every node id once, this one is there twice")
        ids.add(member.node_id)
        for what, address in (("client", member.client_address), ("peer", member.peer_address)):
            owner = f"the {what} address of {member.node_id}"
            if address in owners:
                refuse("cluster", address, f"every address once, but it is {owners[address]} and {owner}")
            owners[address] = owner
